# SPDX-License-Identifier: Apache-2.0
"""How well people are cut out: rendered people, whose coverage is known, put into real photos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.images import load_picture
from models.matte import MatteEstimator, enlarge, refine
from models.pose import PoseEstimator

_ENLARGED = 3
"""Renders of 256 pixels are put into photos enlarged so much, which leaves work for the refinement."""
_HEIGHT = 853
_FAILURE = 0.5
_EDGE = 12
"""The edge band reaches so many pixels (of the composite) to either side of the true edge."""


@dataclass(frozen=True)
class MatteScores:
    """Before is the enlarged coarse mask, after the refined matte.

    Args:
        iou_before, iou_after (`float`): mean of the intersection over union at 0.5.
        edge_before, edge_after (`float`): mean absolute difference of coverage in a band along the true edge.
        failures (`float`): the share of people with an IoU under 0.5 after refinement; they count in the means.
        people (`int`): how many were cut out.
    """

    iou_before: float
    iou_after: float
    edge_before: float
    edge_after: float
    failures: float
    people: int


def composites(
    pairs: Path, photos: Path, count: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Photos with one rendered person each and that person's true coverage.

    Args:
        pairs (`Path`): an .npz of rendered pairs; its `src` is `(N, 256, 256, 4)` uint8, straight alpha.
        photos (`Path`): a folder of .jpg files.
        count (`int`): how many, spread over the file.
    """
    renders = np.load(pairs)["src"]
    files = sorted(photos.glob("*.jpg"))
    rng = np.random.default_rng(0)
    for index, chosen in enumerate(np.linspace(0, len(renders) - 1, count).astype(int)):
        scene = load_picture(files[index % len(files)]).rgb
        scale = _HEIGHT / scene.shape[0]
        scene = np.asarray(
            cv2.resize(scene, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8
        )
        render = renders[chosen].astype(np.float32) / 255
        render[..., :3] *= render[..., 3:]
        side = 256 * _ENLARGED
        person = np.clip(cv2.resize(render, (side, side), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
        left = int(rng.integers(0, max(1, scene.shape[1] - side)))
        top = _HEIGHT - side
        width = min(side, scene.shape[1] - left)
        alpha = np.zeros(scene.shape[:2], np.float32)
        alpha[top:, left : left + width] = person[:, :width, 3]
        mixed = scene.astype(np.float32) / 255 * (1 - alpha[..., None])
        mixed[top:, left : left + width] += person[:, :width, :3]
        yield np.rint(np.clip(mixed, 0.0, 1.0) * 255).astype(np.uint8), alpha


def evaluate(pairs: Path, photos: Path, count: int = 60) -> MatteScores:
    """Scores of the matte on composites, with keypoints from the pose estimator and the true person's box.

    Args:
        pairs, photos (`Path`), count (`int`): see `composites`.
    """
    pose, matte = PoseEstimator(), MatteEstimator()
    rows = []
    for rgb, truth in composites(pairs, photos, count):
        y, x = np.nonzero(truth > 0.5)
        skeleton = pose.estimate(rgb, (x.min(), y.min(), x.max() + 1, y.max() + 1))
        mask, to_mask = matte.mask(rgb, skeleton)
        before = enlarge(mask, to_mask, rgb.shape[1], rgb.shape[0])
        after = refine(rgb, mask, to_mask)
        kernel = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
        sure = (truth > 0.5).astype(np.uint8)
        band = cv2.dilate(sure, kernel) != cv2.erode(sure, kernel)
        rows.append(
            [_iou(before, truth), _iou(after, truth)]
            + [float(np.abs(matte_ - truth)[band].mean()) for matte_ in (before, after)]
        )
    table = np.array(rows)
    iou_before, iou_after, edge_before, edge_after = (float(v) for v in table.mean(0))
    failures = float((table[:, 1] < _FAILURE).mean())
    return MatteScores(iou_before, iou_after, edge_before, edge_after, failures, len(table))


def _iou(matte: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    first, second = matte > 0.5, truth > 0.5
    return float((first & second).sum() / max(1, (first | second).sum()))
