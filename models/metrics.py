# SPDX-License-Identifier: Apache-2.0
"""Numbers that more than one stage is judged by, as the field defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.skeleton import FACE, NECK, Skeleton


def pckh(truth: Skeleton, found: Skeleton | None) -> tuple[int, int]:
    """PCKh of one person, as counts: joints found again, joints looked for.

    The head box surrounds the visible ones among nose, neck, eyes and ears; a joint counts as found where it
    lies within half the box's width in x and half its height in y (not a Euclidean distance). From the authors'
    metrics/pckh.py and PATN's tool/calPCKH_fashion.py, which agree. Sum both counts over people and divide.

    Args:
        truth (`Skeleton`): the pose wanted; its visible joints are looked for.
        found (`Skeleton`, *optional*): what the pose estimator sees; None where it sees nobody: all joints miss.

    Returns:
        `(correct, total)`; `(0, 0)` where truth has fewer than two joints of the head box.
    """
    head = [j for j in (NECK, *FACE) if truth.visible[j]]
    if len(head) < 2:
        return 0, 0
    half = np.ptp(truth.xy[head], axis=0) / 2
    total = int(truth.visible.sum())
    if found is None:
        return 0, total
    near: NDArray[np.bool_] = (np.abs(truth.xy - found.xy) < half).all(axis=1)
    return int((near & truth.visible & found.visible).sum()), total
