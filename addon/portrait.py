# SPDX-License-Identifier: GPL-3.0-or-later
"""An actor's photo as the panel shows it: whom the server found, and which part of the picture is cut out. No bpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import drawing
from .shared.skeleton import JOINTS, LIMBS, Skeleton

SIDE = 256
"""Width and height of a portrait in pixels."""

_DIMMED = 0.25
_OTHERS = (150.0, 150.0, 150.0)


@dataclass(frozen=True, eq=False)
class Look:
    """What was found in an actor photo.

    Args:
        people (`list[Skeleton]`): in pixels of the photo, largest first.
        person (`int`): the one that was cut out.
        warnings (`list[str]`): what the artist should know.
        portrait (`(SIDE, SIDE, 4)` float32, 0..1, bottom row first): see `draw`.
    """

    people: list[Skeleton]
    person: int
    warnings: list[str]
    portrait: NDArray[np.float32]


def draw(
    photo: NDArray[np.uint8], matte: NDArray[np.uint8], people: Sequence[Skeleton], person: int
) -> NDArray[np.float32]:
    """The photo fitted into a square: what is not cut out is dark, the chosen person in colours, others grey.

    Args:
        photo (`(H, W, 3 or 4)` uint8), matte (`(h, w)` uint8 of the same form): of the chosen person.
        people (`list[Skeleton]`): in pixels of the photo.
        person (`int`): the chosen one.

    Returns:
        `(SIDE, SIDE, 4)` float32, 0..1, bottom row first, as Blender wants it.
    """
    height, width = photo.shape[:2]
    scale = SIDE / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small = drawing.sampled(photo[..., :3], rows, columns)
    cut = drawing.sampled(matte[..., None], rows, columns) / np.float32(255)
    picture = np.asarray(small * (_DIMMED + (1 - _DIMMED) * cut), np.float32)
    for index, found in enumerate(people):
        if index != person:
            drawing.skeleton(picture, found.transformed(scale, (0.0, 0.0)), LIMBS, JOINTS, _OTHERS)
    drawing.skeleton(picture, people[person].transformed(scale, (0.0, 0.0)), LIMBS, JOINTS, None)
    square = np.zeros((SIDE, SIDE, 4), np.float32)
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    square[top : top + rows, left : left + columns, :3] = picture / 255
    square[top : top + rows, left : left + columns, 3] = 1
    return square[::-1]
