# SPDX-License-Identifier: Apache-2.0
"""Who would be hidden behind the people of the scene.

Placement judges who covers whom by skeletons. How far clothes and hair reach, and what the body of somebody is like of
whom the frame shows only a part, the picture's mattes tell.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.coco import BODY
from models.finish import ground
from models.judgement import Figures
from models.matte import MatteEstimator
from shared.skeleton import Skeleton

_COVERED = 0.25
"""Of a coarse mask, whose outlines are vague where people are cut off."""
_HIDDEN = 0.3
"""Share of hidden joints, without the face's, at which a place counts 0.6 of what it would."""
_REACH = 0.3
"""How far from its joints a body is looked for, in sides of the box around them."""


class Sight:
    """What of a scene its people hide.

    Args:
        rgb (`(H, W, 3)` uint8): the scene.
        context (sequence of `Skeleton`): its people, in its pixels.
        matting (`MatteEstimator`): cuts those out behind whom somebody might stand.
    """

    def __init__(self, rgb: NDArray[np.uint8], context: Sequence[Skeleton], matting: MatteEstimator) -> None:
        self._people = [(ground(person, rgb.shape[0]), person.box) for person in context]
        self._mask = functools.cache(lambda index: matting.mask(rgb, context[index]))

    def belief(self, pool: Figures) -> NDArray[np.float64]:
        """`(N,)`, 1 for who is in sight, falling with the share of joints that somebody nearer hides."""
        # Without the face: one that looks over a shoulder is five joints, but little of a person.
        drawn = pool.drawn[:, list(BODY)]
        xy = pool.people[:, list(BODY), :2]
        hidden = np.zeros_like(drawn)
        for index, (feet, box) in enumerate(self._people):
            reach = _REACH * (box[2:] - box[:2]).max()
            near = ((xy >= box[:2] - reach) & (xy <= box[2:] + reach)).all(-1) & drawn
            near &= (pool.ground[:, 1] < feet)[:, None]
            if not near.any():
                continue
            mask, to_mask = self._mask(index)
            at = np.floor(xy @ to_mask[:, :2].T + to_mask[:, 2]).astype(int)
            near &= ((at >= 0) & (at < len(mask))).all(-1)
            column, row = np.where(near[..., None], at, 0).transpose(2, 0, 1)
            hidden |= (mask[row, column] > _COVERED) & near
        share = hidden.sum(1) / drawn.sum(1).clip(1)
        return np.exp(-((share / _HIDDEN) ** 2) / 2)
