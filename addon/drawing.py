# SPDX-License-Identifier: GPL-3.0-or-later
"""Skeletons drawn into pixels with numpy: Blender's Python has no drawing library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
TEAL, LEFT, MIDDLE, RIGHT = (50, 230, 190), (60, 140, 255), (255, 255, 255), (255, 100, 40)


def line(picture: NDArray[np.float32], a: Any, b: Any, width: float, colour: Colour) -> None:
    """A line with round ends from `a` to `b` (x, y in pixels), drawn into `(H, W, 3)`; parts outside are cut."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    low = np.maximum(np.floor(np.minimum(a, b) - width), 0).astype(int)
    high = np.minimum(np.ceil(np.maximum(a, b) + width), picture.shape[1::-1]).astype(int)
    if (high <= low).any():
        return
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    along = b - a
    t = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(along @ along, 1e-9)
    t = np.clip(t, 0, 1)
    distance = np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
    cover = np.clip(width / 2 + 0.5 - distance, 0, 1)[..., None]
    part = picture[low[1] : high[1], low[0] : high[0]]
    part += cover * (np.asarray(colour, np.float32) - part)


def skeleton(
    picture: NDArray[np.float32],
    person: Any,
    limbs: Sequence[tuple[int, int]],
    names: Sequence[str],
    colour: Colour | None,
) -> None:
    """Draw a `Skeleton`; without a colour its left side is blue and its right side orange."""
    width = max(2.0, picture.shape[1] / 320)
    for start, end in limbs:
        if person.visible[start] and person.visible[end]:
            side = names[end].partition("_")[0]
            own = {"left": LEFT, "right": RIGHT}.get(side, MIDDLE)
            line(picture, person.xy[start], person.xy[end], width + 2, (0, 0, 0))
            line(picture, person.xy[start], person.xy[end], width, colour or own)
    for joint in np.flatnonzero(person.visible):
        line(picture, person.xy[joint], person.xy[joint], width * 1.6, colour or MIDDLE)


def sheet(pictures: Sequence[NDArray[np.float32]], columns: int, gap: int = 6) -> NDArray[np.float32]:
    """Pictures of one size, `(H, W, 3)`, in a grid, row by row."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    whole = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 24, np.float32)
    for index, picture in enumerate(pictures):
        y, x = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        whole[y : y + height, x : x + width] = picture
    return whole


def shrunk(picture: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """A picture made smaller by a whole factor, each pixel the mean of those it stands for."""
    height, width = (side // factor * factor for side in picture.shape[:2])
    cut = picture[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return cut.mean((1, 3)).astype(np.float32)


def sampled(array: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """Another size, `(rows, columns, channels)`: each pixel the mean of four samples of its area."""
    total = np.zeros((rows, columns, array.shape[2]), np.float32)
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        row = ((np.arange(rows) + y) * array.shape[0] / rows).astype(int)
        column = ((np.arange(columns) + x) * array.shape[1] / columns).astype(int)
        total += array[row[:, None], column]
    return total / np.float32(4)
