# SPDX-License-Identifier: Apache-2.0
"""Reading planes and pictures at places of a frame, whose coordinates run from 0 to 1 (models/parts.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
