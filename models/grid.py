# SPDX-License-Identifier: Apache-2.0
"""Reading planes and pictures at places of a frame, whose coordinates run from 0 to 1 (models/parts.py)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_CHUNK = 1 << 17


def pixel_grid(size: int) -> Tensor:
    """Centres of a frame's pixels `(1, M, 2)`, row by row, in frame coordinates."""
    centres = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(1, -1, 2)


def sample(picture: Tensor, points: Tensor) -> Tensor:
    """Bilinear values `(B, C, ...)` of `(B, C, h, w)` at frame points `(B, ..., 2)`; 0 outside."""
    grid = points.reshape(len(points), -1, 1, 2) * 2 - 1
    values = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.reshape(len(points), picture.shape[1], *points.shape[1:-1])


def smooth(planes: Tensor, points: Tensor) -> Tensor:
    """Bicubic values `(C, M)` of `(1, C, n, n)` at frame points `(M, 2)`; the border's beyond it."""
    grid = points[None, :, None] * 2 - 1
    return F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)[0, :, :, 0]


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def pixels_near(places: Tensor, size: int) -> NDArray[np.int64]:
    """Flat indices, in order, of the pixels of a frame of that size at or beside `places` `(1, 1, n, n)` bool."""
    near = F.max_pool2d(places.float(), 3, 1, 1)
    return np.flatnonzero(F.interpolate(near, size=(size, size), mode="nearest").numpy())


def chunks(pixels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """A bounded number of pixels at a time, which bounds the memory of what is computed for each."""
    for start in range(0, len(pixels), _CHUNK):
        yield pixels[start : start + _CHUNK]


def centres(pixels: NDArray[np.int64], size: int) -> Tensor:
    """Where flat indices of a layer's pixels lie, `(1, M, 2)` in frame coordinates."""
    return (
        torch.from_numpy(np.stack([pixels % size, pixels // size], -1).astype(np.float32) + 0.5)[None] / size
    )
