# SPDX-License-Identifier: GPL-3.0-or-later
"""A suggestion as the panel shows it: its skeleton over the part of the picture around it. No bpy here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import drawing
from .shared.skeleton import JOINTS, LIMBS, Skeleton

SIDE = 160
"""Width and height of a thumbnail in pixels."""

_AROUND = 1.35  # side of the part that is shown, in extents of the skeleton
_LEAST = 0.25  # and at least so much of the picture's shorter side, or nobody could tell where it is
_DIMMED = 0.7  # the picture, so that thin lines are seen on it
_BEYOND = 30.0  # grey, 0..255, of what lies outside the picture


def draw(picture: NDArray[np.uint8], skeleton: Skeleton) -> NDArray[np.float32]:
    """The skeleton, its left side blue and its right side orange, over what of the picture is around it.

    Args:
        picture (`(H, W, 3)` uint8).
        skeleton (`Skeleton`): in pixels of the picture; may reach beyond it.

    Returns:
        `(SIDE, SIDE, 4)` float32, 0..1, bottom row first, as Blender wants it.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = skeleton.box if skeleton.visible.any() else (0.0, 0.0, float(width), float(height))
    side = max(_AROUND * max(x1 - x0, y1 - y0), _LEAST * min(height, width), 8.0)
    left, top = _start(x0, x1, side, width), _start(y0, y1, side, height)
    scale = SIDE / side
    shown = np.full((SIDE, SIDE, 3), _BEYOND, np.float32)
    # Of the square that part that lies in the picture.
    first_x, first_y = max(left, 0.0), max(top, 0.0)
    last_x, last_y = min(left + side, float(width)), min(top + side, float(height))
    part = picture[int(first_y) : int(np.ceil(last_y)), int(first_x) : int(np.ceil(last_x))]
    into = [round((value - start) * scale) for value, start in ((first_y, top), (last_y, top))]
    across = [round((value - start) * scale) for value, start in ((first_x, left), (last_x, left))]
    if part.size and into[1] > into[0] and across[1] > across[0]:
        size = into[1] - into[0], across[1] - across[0]
        shown[into[0] : into[1], across[0] : across[1]] = drawing.sampled(part, *size) * _DIMMED
    drawing.skeleton(shown, skeleton.transformed(scale, (-left * scale, -top * scale)), LIMBS, JOINTS, None)
    icon = np.ones((SIDE, SIDE, 4), np.float32)
    icon[..., :3] = shown[::-1] / 255
    return icon


def _start(low: float, high: float, side: float, end: float) -> float:
    """Where a side around `low`..`high` starts: inside 0..`end` as far as what is shown allows."""
    start = (low + high - side) / 2
    if side < end:
        start = min(max(start, 0.0), end - side)
    spare = 0.05 * side
    return min(max(start, high + spare - side), low - spare)
