# SPDX-License-Identifier: Apache-2.0
"""Finding people: MoveNet multipose proposes, MoveNet thunder looks at each person once more.

MoveNet (Google, Apache-2.0) runs in onnxruntime from models/weights/pose/. The multipose network returns at most
six people of a picture, so crowds and far-away people are looked for again in overlapping tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.weights import path_of
from shared.skeleton import Skeleton

if TYPE_CHECKING:
    import onnxruntime

COCO_SIGMAS = np.array(
    [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
)  # fmt: skip
"""How far annotators disagree on each COCO-17 keypoint, relative to the person's size (cocoeval.py)."""

JOINT_THRESHOLD = 0.2
"""A joint counts as visible at or above this score."""
PERSON_THRESHOLD = 0.3
"""A person counts as found where the mean of the best 8 joint scores reaches this."""
_PROPOSAL_THRESHOLD = 0.15
_SCALES = (256, 512)
"""Longest side, in pixels, at which the whole picture is looked at: the small one sees large people better."""
_MULTIPOSE_LIMIT = 6
"""The number of people that the multipose network returns at most."""
_CROP = 256
_CROP_MARGIN = 1.35
_SAME_PERSON_OKS = 0.5


@dataclass(frozen=True, eq=False)
class _Detection:
    """Keypoints `(17, 3)` x, y, score in pixels of the picture, COCO-17 order."""

    keypoints: NDArray[np.float64]

    @property
    def score(self) -> float:
        # The best 8, so that people whose legs are out of the picture count as much as whole ones.
        return float(np.sort(self.keypoints[:, 2])[-8:].mean())

    @property
    def box(self) -> NDArray[np.float64]:
        seen = self.keypoints[:, 2] >= JOINT_THRESHOLD
        if seen.sum() < 4:
            seen = np.argsort(-self.keypoints[:, 2], kind="stable")[:6]
        points = self.keypoints[seen, :2]
        return np.concatenate([points.min(0), points.max(0)])


class PoseEstimator:
    """Finds the people of a picture.

    Args:
        threads (`int`, *optional*, defaults to 2): threads of onnxruntime.
    """

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    def detect(self, rgb: NDArray[np.uint8]) -> list[Skeleton]:
        """The people of a picture, largest first.

        Args:
            rgb (`(H, W, 3)` uint8): sRGB.
        """
        proposals = [found for size in _SCALES for found in self._multipose(rgb, size)]
        proposals = _without_doubles(proposals)
        people = [self._thunder(rgb, proposal.box) for proposal in proposals]
        people = _without_doubles([person for person in people if person.score >= PERSON_THRESHOLD])
        skeletons = [_to_skeleton(person) for person in people]
        skeletons = [s for s in skeletons if s.visible.sum() >= 4]
        return sorted(skeletons, key=_size, reverse=True)

    def estimate(self, rgb: NDArray[np.uint8], box: ArrayLike) -> Skeleton:
        """The one person in a box.

        Args:
            rgb (`(H, W, 3)` uint8): sRGB.
            box (`(4,)`): x0, y0, x1, y1 around the person in pixels; it may reach over the border.
        """
        return _to_skeleton(self._thunder(rgb, np.asarray(box, dtype=np.float64)))

    @functools.cached_property
    def _multipose_session(self) -> onnxruntime.InferenceSession:
        return open_onnx("pose", "movenet-multipose", self.threads)

    @functools.cached_property
    def _thunder_session(self) -> onnxruntime.InferenceSession:
        return open_onnx("pose", "movenet-thunder", self.threads)

    def _multipose(self, rgb: NDArray[np.uint8], size: int) -> list[_Detection]:
        height, width = rgb.shape[:2]
        scale = size / max(height, width)
        small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
        # The network wants multiples of 32; the rest is black.
        padded = np.zeros((-(-small_height // 32) * 32, -(-small_width // 32) * 32, 3), np.int32)
        padded[:small_height, :small_width] = _resize(rgb, small_width, small_height)
        (output,) = self._multipose_session.run(None, {"input:0": padded[None]})
        found = []
        for person in np.asarray(output)[0].astype(np.float64):
            if person[55] < _PROPOSAL_THRESHOLD:
                continue
            y, x, score = person[:51].reshape(17, 3).T
            xy = np.stack([x * padded.shape[1] * width / small_width, y * padded.shape[0] * height / small_height], 1)
            found.append(_Detection(np.column_stack([xy, score])))
        return found

    def _thunder(self, rgb: NDArray[np.uint8], box: NDArray[np.float64]) -> _Detection:
        side = max(8, round(max(box[2] - box[0], box[3] - box[1]) * _CROP_MARGIN))
        left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
        crop = _resize(_cut(rgb, left, top, side), _CROP, _CROP)
        (output,) = self._thunder_session.run(None, {"input:0": crop[None].astype(np.int32)})
        y, x, score = np.asarray(output)[0, 0].astype(np.float64).T
        return _Detection(np.stack([x * side + left, y * side + top, score], 1))


def open_onnx(stage: str, name: str, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU of installed weights.

    Raises:
        MissingWeights: not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path_of(stage, name) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def oks(first: NDArray[np.float64], second: NDArray[np.float64], area: float, weights: NDArray[np.float64]) -> float:
    """Object keypoint similarity of COCO-17 keypoints, 0..1 (COCO's definition, joints weighted).

    Args:
        first, second (`(17, 2+)`): pixel coordinates.
        area (`float`): the person's area in square pixels.
        weights (`(17,)`): how much each joint counts; not all 0.
    """
    distance = ((first[:, :2] - second[:, :2]) ** 2).sum(1)
    similarity = np.exp(-distance / (2 * (2 * COCO_SIGMAS) ** 2 * (area + 1e-9)))
    return float((similarity * weights).sum() / weights.sum())


def _without_doubles(detections: Sequence[_Detection]) -> list[_Detection]:
    kept: list[_Detection] = []
    for candidate in sorted(detections, key=lambda d: -d.score):
        if not any(_same_person(candidate, other) for other in kept):
            kept.append(candidate)
    return kept


def _same_person(candidate: _Detection, other: _Detection) -> bool:
    x0, y0, x1, y1 = candidate.box
    area = 0.6 * (x1 - x0) * (y1 - y0)
    return oks(other.keypoints, candidate.keypoints, area, np.ones(17)) >= _SAME_PERSON_OKS


def _to_skeleton(person: _Detection) -> Skeleton:
    xy, score = person.keypoints[:, :2], np.clip(person.keypoints[:, 2], 0.0, 1.0)
    return Skeleton.from_coco(xy, score >= JOINT_THRESHOLD, score)


def _size(skeleton: Skeleton) -> float:
    x0, y0, x1, y1 = skeleton.box
    return float((x1 - x0) * (y1 - y0))


def _resize(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    shrinks = width < rgb.shape[1]
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def _cut(rgb: NDArray[np.uint8], left: int, top: int, side: int) -> NDArray[np.uint8]:
    """A square of the picture, black where it reaches over the border."""
    height, width = rgb.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = rgb[y0:y1, x0:x1]
    return square
