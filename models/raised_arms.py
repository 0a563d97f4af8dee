# SPDX-License-Identifier: Apache-2.0
"""Painted arms before heads, to train `Head` with: rendered people seldom hold a hand to their face, real ones do."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import pixel_grid, smoothstep

_ARM, _PALM, _FINGER = (0.05, 0.1), 0.065, 0.02
"""Half-widths, in head frames, of which a head is a third wide."""
_FINGERS = 5


class Raised(NamedTuple):
    """An arm before each head."""

    picture: Tensor  # (B, 4, n, n), premultiplied, of the arm alone
    known: Tensor  # (B, 1, n, n), what elbow and wrist alone tell of where it is, 0..1


def raised_arms(skin: Tensor, sleeve: Tensor, size: int) -> Raised:
    """Forearms that come from below or from the side, with a hand on the face.

    Args:
        skin, sleeve (`(B, 3)`): colours; where both are alike the arm is bare.
        size (`int`): side of the head frames in pixels.
    """
    count = len(skin)
    face = torch.tensor([0.5, 0.56]) + 0.05 * torch.randn(count, 2)
    wrist = face + _between(count, 0.05, 0.28) * _towards(_between(count, 0.0, math.pi))
    down = _between(count, 0.0, math.pi)
    elbow = wrist + 0.6 * _towards(down)
    along = down + math.pi + 0.5 * torch.randn(count, 1)
    arm = _between(count, *_ARM)
    palm = wrist + 0.12 * _towards(along)
    bones = [(elbow, wrist, arm), (wrist, palm, torch.full_like(arm, _PALM))]
    spread, bent = _between(count, 0.1, 1.2), _between(count, 0.3, 1.0)
    for finger in range(_FINGERS):
        aside = (finger - 2) / 2
        start = palm + 0.75 * _PALM * aside * _towards(along + math.pi / 2)
        length = 0.13 * bent * (1.0 - 0.2 * abs(aside)) * _between(count, 0.7, 1.0)
        end = start + length * _towards(along + 0.5 * spread * aside)
        bones.append((start, end, torch.full_like(arm, _FINGER)))
    points = pixel_grid(size)
    start, end, half = (torch.stack(of, 1) for of in zip(*bones, strict=True))
    # The nearest of the bones, one behind the other where several are: fingers lie before the palm.
    off = _from_bone(points[:, None], start, end) / half[..., None]  # (B, 7, M, 2), in half-widths
    far = off.norm(dim=-1)
    order = torch.tensor([0.0, 0.3] + [0.6] * _FINGERS)[:, None]
    nearest = torch.where(far < 1, far * 0.2 - order, far).argmin(1, keepdim=True)
    off = off.gather(1, nearest[..., None].expand(-1, -1, -1, 2))[:, 0]
    wide = half.expand(-1, -1, far.shape[2]).gather(1, nearest)[:, 0]
    far = off.norm(dim=-1)
    alpha = (0.5 - (far - 1) * wide * size / 1.5).clamp(0, 1)
    light = (off * _towards(_between(count, 0.0, 2 * math.pi))[:, None]).sum(-1)
    shade = 0.72 + 0.28 * (1 - far.clamp(max=1) ** 2).sqrt() + _between(count, 0.0, 0.25) * light
    shade = shade + 0.04 * torch.randn_like(shade)
    bare = (nearest[:, 0] > 0).float()[..., None]
    colour = (sleeve[:, None] + bare * (skin - sleeve)[:, None]) * shade[..., None]
    planes = torch.cat([colour.clamp(0, 1) * alpha[..., None], alpha[..., None]], 2)
    # A hand goes straight on from the forearm, as far as anybody knows who has no joints of it.
    beyond = wrist + 0.24 * _towards(down + math.pi) + 0.02 * torch.randn(count, 2)
    taken = _from_bone(points[:, None], elbow[:, None], beyond[:, None])[:, 0].norm(dim=-1)
    known = 1 - smoothstep(taken / _between(count, 0.06, 0.12), 0.6, 0.95)
    known = known * (torch.rand(count, 1) < 0.75)
    return Raised(planes.transpose(1, 2).reshape(count, 4, size, size), known.reshape(count, 1, size, size))


def _between(count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, 1)


def _towards(angle: Tensor) -> Tensor:
    """`(B, 1)` -> unit vectors `(B, 2)`; pi / 2 is down."""
    return torch.cat([angle.cos(), angle.sin()], 1)


def _from_bone(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Offsets of points `(1, 1, M, 2)` from the nearest of each bone `(B, N, 2)`, `(B, N, M, 2)`."""
    bone = (end - start)[:, :, None]
    offset = points - start[:, :, None]
    along = (offset * bone).sum(-1, keepdim=True) / bone.square().sum(-1, keepdim=True).clamp_min(1e-9)
    return offset - along.clamp(0, 1) * bone
