# SPDX-License-Identifier: Apache-2.0
"""What colours tell of who a pixel belongs to, where two things meet in one picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_BIN, _BINS = 6.0, 20
"""Size of a bin of colours in CIELAB, and how many to a side."""
_SMOOTH = np.array([0.25, 0.5, 0.25])
_RARE = np.float32(1e-4)
"""How frequent a colour is at least, so that none is proof."""
_SURE = 6.0
_ROUNDS = 3


def bins_of(rgb: NDArray[np.float32]) -> NDArray[np.int64]:
    """Each pixel's bin of colours, `(h, w)`, of a picture `(h, w, 3)`, 0..1."""
    lab = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2LAB)
    bins = np.clip(lab / _BIN + (0, _BINS / 2, _BINS / 2), 0, _BINS - 1).astype(np.int64)
    return np.asarray((bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2])


def likelier(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits, -6 to 6, by which each bin of colours is rather one thing's than another's.

    Args:
        one, other (`(N,)`): bins of pixels of both. Some of the first may be the second's: what is rather that counts
            less, in a few rounds of expectation and maximisation.
    """
    against = np.log(_density(other, np.ones(len(other))))
    weight = np.ones(len(one))
    for _ in range(_ROUNDS):
        logits = np.clip(1.5 * (np.log(_density(one, weight)) - against), -_SURE, _SURE)
        weight = 1 / (1 + np.exp(-1.2 - logits[one]))
    return np.asarray(logits, np.float32)


def _density(bins: NDArray[np.int64], weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """How frequent each bin of colours is `(_BINS ** 3,)`, smoothed."""
    count = np.bincount(bins, weight, _BINS**3).astype(np.float32)
    # For OpenCV first a picture of as many channels, then one of more rows.
    count = np.asarray(cv2.sepFilter2D(count.reshape(_BINS, _BINS, _BINS), -1, _SMOOTH, _SMOOTH), np.float32)
    count = np.asarray(cv2.sepFilter2D(count.reshape(-1, _BINS), -1, _SMOOTH, np.ones(1)), np.float32)
    return count.reshape(-1) / np.float32(weight.sum()) + _RARE
