# SPDX-License-Identifier: Apache-2.0
"""Procedural cloth: world-like colours and ten kinds of fabric."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Light of 0 to 1 and 8 bits with a gamma of 2.2, by tables: millions of texels take it for every look.
_LINEAR: Floats = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
_ENCODED = ((np.arange(65536) / 65535) ** (1 / 2.2) * 255).astype(np.uint8)


def linear(encoded: Bytes) -> Floats:
    """Linear light 0 to 1 of 8-bit values."""
    return _LINEAR[encoded]


def encoded(light: Floats) -> Bytes:
    """8-bit values of linear light; what is outside 0 to 1 is cut off."""
    return _ENCODED[(light.clip(0, 1) * np.float32(65535)).astype(np.uint16)]


def hsv(hue: float, saturation: float, value: float) -> Floats:
    sectors = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return np.asarray(
        value * (1 - saturation * np.clip(np.minimum(sectors, 4 - sectors), 0, 1)), dtype=np.float32
    )


def _fabric_colour(rng: np.random.Generator) -> Floats:
    """Clothes are mostly dark, grey, white or muted, now and then vivid; linear light."""
    kind = rng.choice(
        ["dark", "grey", "white", "muted", "vivid", "denim", "earth"],
        p=[0.2, 0.12, 0.12, 0.2, 0.16, 0.1, 0.1],
    )
    hue = rng.random()
    colour = {
        "dark": lambda: hsv(hue, rng.uniform(0, 0.7), rng.uniform(0.03, 0.25)),
        "grey": lambda: hsv(hue, rng.uniform(0, 0.12), rng.uniform(0.2, 0.7)),
        "white": lambda: hsv(hue, rng.uniform(0, 0.1), rng.uniform(0.75, 0.97)),
        "muted": lambda: hsv(hue, rng.uniform(0.2, 0.55), rng.uniform(0.3, 0.8)),
        "vivid": lambda: hsv(hue, rng.uniform(0.5, 0.88), rng.uniform(0.45, 0.9)),
        "denim": lambda: hsv(rng.uniform(0.57, 0.64), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.6)),
        "earth": lambda: hsv(rng.uniform(0.05, 0.14), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.7)),
    }[kind]()
    return np.asarray(colour**2.2, dtype=np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Floats:
    """Smooth noise in 0..1 with about `cells` cells a side."""
    grid = rng.random((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32).clip(
        0, 1
    )


def fabric(rng: np.random.Generator, place: Floats) -> Floats:
    """Linear colour `(H, W, 3)` of a procedural fabric over points `(H, W, 3)` of a garment (decimetres)."""
    x, y, z = place[..., 0], place[..., 1], place[..., 2]
    first, second, third = (_fabric_colour(rng) for _ in range(3))
    period = rng.uniform(0.25, 1.6)
    kind = rng.choice(
        [
            "plain",
            "stripes",
            "pinstripes",
            "checks",
            "plaid",
            "dots",
            "camouflage",
            "blocks",
            "print",
            "gradient",
        ],
        p=[0.34, 0.11, 0.07, 0.07, 0.09, 0.06, 0.07, 0.07, 0.08, 0.04],
    )
    around = np.arctan2(x, z) * 1.6  # decimetres along the cloth, roughly, whichever way it faces
    mix: Floats
    if kind == "stripes":
        along = y if rng.random() < 0.6 else around
        mix = (np.sin(along * (2 * np.pi / period)) > rng.uniform(-0.7, 0.7)).astype(np.float32)
    elif kind == "pinstripes":
        mix = (np.sin(around * (2 * np.pi / (period * 0.4))) > 0.8).astype(np.float32)
    elif kind == "checks":
        mix = (np.sin(y * (2 * np.pi / period)) * np.sin(around * (2 * np.pi / period)) > 0).astype(
            np.float32
        )
    elif kind == "plaid":
        bands = (np.sin(y * (2 * np.pi / period)) > 0.2) * 0.5 + (
            np.sin(around * (2 * np.pi / period)) > 0.2
        ) * 0.5
        thin = (np.sin(y * (2 * np.pi / period) + 1) > 0.97) | (
            np.sin(around * (2 * np.pi / period) + 1) > 0.97
        )
        mix = bands.astype(np.float32)
        cloth = first + (second - first) * mix[..., None]
        return np.asarray(np.where(thin[..., None], third, cloth), dtype=np.float32)
    elif kind == "dots":
        u, v = (around / period) % 1 - 0.5, (y / period) % 1 - 0.5
        mix = (u**2 + v**2 < rng.uniform(0.02, 0.12)).astype(np.float32)
    elif kind == "camouflage":
        clouds = noise(rng, place.shape[:2], int(rng.integers(10, 40)))
        layers = np.where((clouds > 0.6)[..., None], second, first)
        return np.asarray(np.where((clouds < 0.35)[..., None], third, layers), dtype=np.float32)
    elif kind == "blocks":
        edge = rng.uniform(-1, 5)
        mix = ((y if rng.random() < 0.6 else x + rng.uniform(-0.5, 0.5)) > edge).astype(np.float32)
    elif kind == "print":
        # A motif on the chest or the back, asymmetric so that a mirrored transfer shows.
        centre = np.array([rng.uniform(-0.5, 0.5), rng.uniform(2.5, 4.2)])
        angle = rng.uniform(0, np.pi)
        u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        inside = (np.abs(u) < rng.uniform(0.3, 1.0)) & (np.abs(v) < rng.uniform(0.15, 0.8))
        inside &= (z > 0.2) if rng.random() < 0.75 else (z < -0.2)
        letters = (np.sin(u * rng.uniform(8, 30)) + np.sin(v * rng.uniform(8, 30) + u * 3) > -0.2) & inside
        cloth = np.where(inside[..., None], second, first)
        return np.asarray(np.where(letters[..., None], third, cloth), dtype=np.float32)
    elif kind == "gradient":
        mix = np.asarray(1 / (1 + np.exp(-(y - rng.uniform(-2, 4)) * rng.uniform(0.3, 2))), dtype=np.float32)
    else:
        mix = np.zeros_like(x)
    return np.asarray(first + (second - first) * mix[..., None], dtype=np.float32)
