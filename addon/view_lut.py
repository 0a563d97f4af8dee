# SPDX-License-Identifier: GPL-3.0-or-later
"""A view transform as a table, so that a thread can do what would hold Blender's main thread for a tenth of a second.

Blender itself fills the table, from the colours of `nodes`; `applied` reads it for a whole picture. No bpy here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 33
"""Nodes along each side of the table: half a stop apart, of which one is white."""

_LOW, _HIGH = -10.0, 6.0  # stops about white
_BLACK = 2.0**_LOW  # keeps what is darker than the lowest stop apart from black
_CHUNK = 1 << 15  # pixels at a time: what the processor's cache holds


def nodes(exposure: float) -> NDArray[np.float32]:
    """The scene-linear colours that the table is filled from, as a picture `(SIZE, SIZE * SIZE, 4)` with alpha 1.

    Args:
        exposure (stops): that the table will contain: where white is, view transforms may have a bend.
    """
    steps = (np.exp2(np.linspace(_LOW, _HIGH, SIZE)) - _BLACK) * 2.0**-exposure
    red, green, blue = np.meshgrid(steps, steps, steps, indexing="ij")
    return np.stack([red, green, blue, np.ones_like(red)], -1).astype(np.float32).reshape(SIZE, -1, 4)


def applied(linear: NDArray[np.float16], table: NDArray[np.uint8], exposure: float) -> NDArray[np.uint8]:
    """What is seen of a scene-linear picture.

    Args:
        linear (`(H, W, 3)` float16).
        table (`(SIZE, SIZE * SIZE, 3)` uint8): what is seen of `nodes(exposure)`.

    Returns:
        `(H, W, 3)` uint8, interpolated in tetrahedra: within 1 of 255 but for a few saturated colours, within 10.
    """
    # Where on the table each of the 65,536 numbers of 16 bits lies.
    every = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = np.clip(
        np.nan_to_num(every, nan=0.0, posinf=65504.0, neginf=0.0) * 2.0**exposure, 0.0, 2.0**_HIGH
    )
    place = (np.log2(every + _BLACK) - _LOW) / (_HIGH - _LOW) * (SIZE - 1)
    place = np.clip(place, 0.0, SIZE - 1 - 1e-3).astype(np.float32)

    colours = np.zeros((SIZE**3, 4), np.float32)  # four are read quicker than three
    colours[:, :3] = table.reshape(-1, 3)
    across, along, all_three = SIZE * SIZE, SIZE, SIZE * SIZE + SIZE + 1
    pixels = np.ascontiguousarray(linear).view(np.uint16).reshape(-1, 3)
    seen = np.empty((len(pixels), 3), np.uint8)
    for first in range(0, len(pixels), _CHUNK):
        at = place[pixels[first : first + _CHUNK]]
        cell = at.astype(np.int32)
        red, green, blue = (at - cell).T
        corner = cell @ np.array([across, along, 1], np.int32)
        most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        middle = red + green + blue - most - least
        # From the corner along the channel that is farthest, then the next, then the last.
        farthest = np.where(red == most, across, np.where(green == most, along, 1))
        nearest = np.where(blue == least, 1, np.where(green == least, along, across))
        mixed = colours[corner] * (1 - most)[:, None]
        mixed += colours[corner + farthest] * (most - middle)[:, None]
        mixed += colours[corner + all_three - nearest] * (middle - least)[:, None]
        mixed += colours[corner + all_three] * least[:, None]
        seen[first : first + _CHUNK] = mixed[:, :3] + 0.5
    return seen.reshape(linear.shape)
