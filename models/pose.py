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
    [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
     0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
)  # fmt: skip
"""How far annotators disagree on each COCO-17 keypoint, relative to the person's size (cocoeval.py)."""

JOINT_THRESHOLD = 0.2
"""A joint counts as visible at or above this score."""
PERSON_THRESHOLD = 0.25
"""A person counts as found where the mean of the best 8 joint scores reaches this."""
_PROPOSAL_THRESHOLD = 0.15
"""The multipose network's own score of a person; lower ones are hardly ever people."""
_SCALES = (192, 320, 512)
"""Longest sides, in pixels, at which the whole picture is looked at: the small ones see large people better."""
_TILE_SHARE = 0.6
"""A tile's side over the longest side of what it is cut from: two of them overlap by a third."""
_TILE_SCALE = 512
_TILE_DEPTH = 2
"""How often a picture, and then a tile, may be split."""
_SMALLEST_TILED = 768
"""In pictures with a smaller longest side than this, tiles would show nothing that the whole does not."""
_SMALL_PERSON = 0.15
"""People smaller than this share of the longest side are looked for in tiles."""
_MULTIPOSE_LIMIT = 6
"""The number of people that the multipose network returns at most."""
_CROP = 256
_CROP_MARGIN = 1.35
_BOX_THRESHOLD = 0.1
"""Joints at or above this score span the box that thunder looks at: a doubtful joint in it does no harm."""
_LEGS_PER_TORSO = 1.9
"""From the hips to below the ankles of somebody who stands, over neck to hips."""
_FEWEST_JOINTS = 4
"""Fewer visible joints make no person that anything can be done with."""
_SAME_PERSON_OKS = 0.35
_SAME_BOX_OKS, _SAME_BOX_IOU = 0.15, 0.7
"""Two finds are one person where the joints agree, or agree less and the boxes cover each other."""


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
        # Never fewer than the best 6, which two or three joints alone would make too small a box.
        least = np.sort(self.keypoints[:, 2])[-6]
        points = self.keypoints[self.keypoints[:, 2] >= min(_BOX_THRESHOLD, least), :2]
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
        proposals = _without_doubles(self._propose(rgb))
        people = [self._look_for_legs(rgb, self._thunder(rgb, proposal.box)) for proposal in proposals]
        people = _without_doubles([person for person in people if person.score >= PERSON_THRESHOLD])
        skeletons = [_to_skeleton(person) for person in people]
        return sorted((s for s in skeletons if s.visible.sum() >= _FEWEST_JOINTS), key=_size, reverse=True)

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

    def _propose(self, rgb: NDArray[np.uint8]) -> list[_Detection]:
        """Everything that might be a person, doubles included."""
        passes = [self._multipose(rgb, size) for size in _SCALES]
        proposals = [person for found in passes for person in found]
        longest = max(rgb.shape[:2])
        full = any(len(found) >= _MULTIPOSE_LIMIT for found in passes)
        sizes = [max(person.box[2:] - person.box[:2]) for person in proposals]
        small = longest >= _SMALLEST_TILED and (
            not sizes or float(np.median(sizes)) < _SMALL_PERSON * longest
        )
        if full or small:
            proposals += self._propose_in_tiles(rgb, _TILE_DEPTH)
        return proposals

    def _propose_in_tiles(self, rgb: NDArray[np.uint8], depth: int) -> list[_Detection]:
        """Proposals from overlapping squares of the picture, split again where one is full."""
        height, width = rgb.shape[:2]
        side = round(max(height, width) * _TILE_SHARE)
        proposals = []
        for top in sorted({0, max(0, height - side)}):
            for left in sorted({0, max(0, width - side)}):
                tile = rgb[top : top + side, left : left + side]
                found = self._multipose(tile, _TILE_SCALE)
                if depth > 1 and len(found) >= _MULTIPOSE_LIMIT:
                    found += self._propose_in_tiles(tile, depth - 1)
                proposals += [_Detection(person.keypoints + (left, top, 0.0)) for person in found]
        return proposals

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
            xy = np.stack(
                [x * padded.shape[1] * width / small_width, y * padded.shape[0] * height / small_height], 1
            )
            found.append(_Detection(np.column_stack([xy, score])))
        return found

    def _look_for_legs(self, rgb: NDArray[np.uint8], person: _Detection) -> _Detection:
        """Looks again where the legs should be, if the picture goes on below a person without ankles.

        Where multipose sees only the upper body, its box ends at the hips, and so does what thunder is shown.
        """
        seen = person.keypoints[:, 2] >= JOINT_THRESHOLD
        shoulders, hips, ankles = [5, 6], [11, 12], [15, 16]
        if seen[ankles].any() or not seen[shoulders].any() or not seen[hips].any():
            return person
        middle = [person.keypoints[pair, :2][seen[pair]].mean(0) for pair in (shoulders, hips)]
        torso = middle[1] - middle[0]
        feet = middle[1] + _LEGS_PER_TORSO * torso
        left, top, right, bottom = person.box
        # Room for as much as a shin, else there is nothing to be found.
        if min(feet[1], rgb.shape[0]) < bottom + 0.8 * np.linalg.norm(torso) or torso[1] <= 0:
            return person
        box = [min(left, feet[0]), top, max(right, feet[0]), min(feet[1], rgb.shape[0])]
        again = self._thunder(rgb, np.array(box))
        found = again.keypoints[:, 2] >= JOINT_THRESHOLD
        same = oks(
            again.keypoints, person.keypoints, 0.6 * (right - left) * (bottom - top), seen.astype(np.float64)
        )
        better = found.sum() > seen.sum() and found[ankles].any()
        return again if better and same >= _SAME_PERSON_OKS else person

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
    return onnx_session(str(path_of(stage, name) / "model.onnx"), threads)


def onnx_session(model: str | bytes, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU of an ONNX file's path or content."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # As in models/__init__.py: a thread that spins keeps others from the processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def oks(
    first: NDArray[np.float64], second: NDArray[np.float64], area: float, weights: NDArray[np.float64]
) -> float:
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
    similarity = oks(other.keypoints, candidate.keypoints, 0.6 * (x1 - x0) * (y1 - y0), np.ones(17))
    if similarity >= _SAME_PERSON_OKS:
        return True
    return similarity >= _SAME_BOX_OKS and _iou(candidate.box, other.box) >= _SAME_BOX_IOU


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Common area of two boxes x0, y0, x1, y1 over the area of both."""
    common = np.prod(np.maximum(0, np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])))
    areas = np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])
    return float(common / max(areas - common, 1e-9))


def _to_skeleton(person: _Detection) -> Skeleton:
    xy, score = person.keypoints[:, :2], np.clip(person.keypoints[:, 2], 0.0, 1.0)
    return Skeleton.from_coco(xy, score >= JOINT_THRESHOLD, score)


def _size(skeleton: Skeleton) -> float:
    x0, y0, x1, y1 = skeleton.box
    return float((x1 - x0) * (y1 - y0))


def _resize(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    shrinks = width < rgb.shape[1]
    resized = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _cut(rgb: NDArray[np.uint8], left: int, top: int, side: int) -> NDArray[np.uint8]:
    """A square of the picture, black where it reaches over the border."""
    height, width = rgb.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = rgb[y0:y1, x0:x1]
    return square
