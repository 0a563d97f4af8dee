# SPDX-License-Identifier: Apache-2.0
"""Who would be hidden behind people of whom the frame shows only the upper body.

Placement judges who covers whom by skeletons. Those of people who fill the foreground have few joints, which do not
tell how far the body reaches: there the matte does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.coco import BODY
from models.finish import ground
from models.judgement import Figures
from models.matte import MatteEstimator
from shared.skeleton import L_HIP, L_SHOULDER, R_HIP, R_SHOULDER, Skeleton

_COVERED = 0.25
"""Of a coarse mask, where such people's own outlines are vague."""
_HIDDEN = 0.3
"""Share of hidden joints, without the face's, at which a place counts 0.6 of what it would."""


class Sight:
    """What of a scene its cut-off people hide.

    Args:
        rgb (`(H, W, 3)` uint8): the scene.
        context (sequence of `Skeleton`): its people, in its pixels.
        matting (`MatteEstimator`): cuts those out of whom both shoulders or both hips are not seen.
    """

    def __init__(self, rgb: NDArray[np.uint8], context: Sequence[Skeleton], matting: MatteEstimator) -> None:
        self._before = [
            (ground(person, rgb.shape[0]), *matting.mask(rgb, person))
            for person in context
            if not (person.visible[[R_SHOULDER, L_SHOULDER]].any() and person.visible[[R_HIP, L_HIP]].any())
        ]

    def belief(self, pool: Figures) -> NDArray[np.float64]:
        """`(N,)`, 1 for who is in sight, falling with the share of joints that somebody nearer hides."""
        hidden = np.zeros(len(pool.stature))
        drawn = pool.drawn[
            :, list(BODY)
        ]  # a face that looks over a shoulder is five joints, but little of a person
        for feet, mask, to_mask in self._before:
            at = np.floor(pool.people[:, list(BODY), :2] @ to_mask[:, :2].T + to_mask[:, 2]).astype(int)
            inside = ((at >= 0) & (at < len(mask))).all(-1) & drawn
            column, row = np.where(inside[..., None], at, 0).transpose(2, 0, 1)
            share = ((mask[row, column] > _COVERED) & inside).sum(1) / drawn.sum(1).clip(1)
            hidden = np.maximum(hidden, share * (pool.ground[:, 1] < feet))
        return np.exp(-((hidden / _HIDDEN) ** 2) / 2)
