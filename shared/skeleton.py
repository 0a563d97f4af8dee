# SPDX-License-Identifier: Apache-2.0
"""The one type that carries a person's keypoints, and the OpenPose JSON that it is exchanged in.

Coordinates are continuous pixels of the picture as seen: the origin is the top-left corner of the top-left
pixel, so that pixel's centre is (0.5, 0.5). The keypoint order is OpenPose's COCO-18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BadInput

JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
NUM_JOINTS = len(JOINTS)
(
    NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST,
    R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR,
) = range(NUM_JOINTS)  # fmt: skip

FACE = (NOSE, R_EYE, L_EYE, R_EAR, L_EAR)
"""The five facial keypoints that the paper's RefineNet works on, in its order (notes: 0, 14, 15, 16, 17)."""

BODY_JOINTS = tuple(range(NECK, L_ANKLE + 1))
"""All others: neck, arms and legs."""

MIRROR = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
"""`xy[MIRROR]` exchanges left and right."""

LIMBS = (
    (NECK, R_SHOULDER), (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST),
    (NECK, L_SHOULDER), (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST),
    (NECK, R_HIP), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE),
    (NECK, L_HIP), (L_HIP, L_KNEE), (L_KNEE, L_ANKLE),
    (NECK, NOSE), (NOSE, R_EYE), (R_EYE, R_EAR), (NOSE, L_EYE), (L_EYE, L_EAR),
)  # fmt: skip
"""Pairs of joints drawn as bones, OpenPose's COCO-18 tree."""

_FROM_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""For each COCO-18 joint its index in COCO-17; -1 is the neck, which COCO-17 lacks."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """18 keypoints of one person.

    Args:
        xy (`(18, 2)` float array): pixel coordinates; rows of joints that are not visible are zero.
        visible (`(18,)` bool array): whether the joint is known. The only code for "missing" anywhere.
        score (`(18,)` float array, 0..1, *optional*): confidence; defaults to 1 where visible, 0 elsewhere.

    The arrays are copied and made read-only.

    Raises:
        BadInput: wrong shape, or a visible joint that is not finite.
    """

    xy: NDArray[np.float64]
    visible: NDArray[np.bool_]
    score: NDArray[np.float64]

    def __init__(self, xy: ArrayLike, visible: ArrayLike, score: ArrayLike | None = None) -> None:
        xy_ = np.array(xy, dtype=np.float64)
        visible_ = np.array(visible, dtype=np.bool_)
        score_ = visible_.astype(np.float64) if score is None else np.array(score, dtype=np.float64)
        if xy_.shape != (NUM_JOINTS, 2) or visible_.shape != (NUM_JOINTS,) or score_.shape != (NUM_JOINTS,):
            raise BadInput(
                f"skeleton: expected {NUM_JOINTS} joints, got xy {xy_.shape}, visible {visible_.shape}",
                "Give 18 keypoints in OpenPose COCO-18 order",
                "skeleton",
            )
        if not np.isfinite(xy_[visible_]).all() or not np.isfinite(score_).all():
            names = [JOINTS[i] for i in range(NUM_JOINTS) if visible_[i] and not np.isfinite(xy_[i]).all()]
            raise BadInput(
                f"skeleton: {', '.join(names) or 'a score'} is not a finite number",
                "Give numbers, or mark the joint as missing",
                "skeleton",
            )
        xy_[~visible_] = 0.0
        score_[~visible_] = 0.0
        for array in (xy_, visible_, score_):
            array.setflags(write=False)
        object.__setattr__(self, "xy", xy_)
        object.__setattr__(self, "visible", visible_)
        object.__setattr__(self, "score", score_)

    def __repr__(self) -> str:
        if not self.visible.any():
            return "Skeleton(no joints)"
        x0, y0, x1, y1 = self.box
        return f"Skeleton({int(self.visible.sum())} joints, box {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Skeleton):
            return NotImplemented
        return (
            np.array_equal(self.xy, other.xy)
            and np.array_equal(self.visible, other.visible)
            and np.array_equal(self.score, other.score)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_coco(cls, xy: ArrayLike, visible: ArrayLike, score: ArrayLike | None = None) -> Skeleton:
        """From COCO-17 keypoints; the neck is the middle of the shoulders, known where both are.

        Args:
            xy (`(17, 2)` float array): pixel coordinates.
            visible (`(17,)` bool array): whether the joint is known.
            score (`(17,)` float array, *optional*): confidence; the neck takes the lower of the shoulders'.
        """
        xy17 = np.asarray(xy, dtype=np.float64)
        visible17 = np.asarray(visible, dtype=np.bool_)
        score17 = visible17.astype(np.float64) if score is None else np.asarray(score, dtype=np.float64)
        order = list(_FROM_COCO)
        xy18, visible18, score18 = xy17[order], visible17[order], score17[order]
        xy18[NECK] = (xy17[5] + xy17[6]) / 2
        visible18[NECK] = visible17[5] and visible17[6]
        score18[NECK] = min(score17[5], score17[6])
        return cls(xy18, visible18, score18)

    def to_coco(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        """To COCO-17: `(17, 2)` xy, `(17,)` visible, `(17,)` score. The neck is dropped."""
        index = [_FROM_COCO.index(i) for i in range(17)]
        return self.xy[index], self.visible[index], self.score[index]

    @property
    def box(self) -> NDArray[np.float64]:
        """`(4,)` x0, y0, x1, y1 around the visible joints.

        Raises:
            BadInput: no joint is visible.
        """
        if not self.visible.any():
            raise BadInput("skeleton: no joint is visible", "Give at least one joint", "skeleton")
        points = self.xy[self.visible]
        return np.concatenate([points.min(0), points.max(0)])

    @property
    def height(self) -> float:
        """Extent of the visible joints along y, in pixels."""
        box = self.box
        return float(box[3] - box[1])

    def transformed(self, scale: float = 1.0, offset: ArrayLike = (0.0, 0.0)) -> Skeleton:
        """`xy * scale + offset`; `scale` may not mirror (use `mirrored`)."""
        return Skeleton(self.xy * scale + np.asarray(offset, dtype=np.float64), self.visible, self.score)

    def mirrored(self, width: float) -> Skeleton:
        """The skeleton in a picture of that width (pixels) flipped left to right, joints renamed accordingly."""
        order = list(MIRROR)
        xy = self.xy[order] * (-1.0, 1.0) + (width, 0.0)
        return Skeleton(xy, self.visible[order], self.score[order])

    def with_joints(self, indices: Sequence[int], xy: ArrayLike) -> Skeleton:
        """A copy in which the named joints have new coordinates `(len(indices), 2)` and are visible."""
        new_xy, visible, score = self.xy.copy(), self.visible.copy(), self.score.copy()
        index = list(indices)
        new_xy[index] = np.asarray(xy, dtype=np.float64)
        score[index] = np.where(visible[index], score[index], 1.0)
        visible[index] = True
        return Skeleton(new_xy, visible, score)

    def to_openpose(self) -> list[float]:
        """54 numbers x, y, score, ...; a missing joint is 0, 0, 0 (OpenPose's own file format)."""
        flat = np.concatenate([self.xy, self.score[:, None]], axis=1)
        # A visible joint whose score is 0 would read as missing.
        flat[self.visible, 2] = np.maximum(flat[self.visible, 2], 1e-3)
        return [round(float(v), 4) for v in flat.ravel()]

    @classmethod
    def from_openpose(cls, values: Sequence[float], subject: str = "pose_keypoints_2d") -> Skeleton:
        """From 54 numbers; a joint is missing where its score is 0.

        Raises:
            BadInput: not 54 finite numbers.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (NUM_JOINTS * 3,):
            raise BadInput(
                f"{subject}: has {array.size} numbers, not {NUM_JOINTS * 3}",
                "Give x, y, score for each of the 18 COCO joints (a BODY_25 or COCO-17 file must be converted)",
                subject,
            )
        if not np.isfinite(array).all():
            raise BadInput(f"{subject}: holds a value that is not finite", "Give numbers only", subject)
        joints = array.reshape(NUM_JOINTS, 3)
        return cls(joints[:, :2], joints[:, 2] > 0, np.clip(joints[:, 2], 0.0, 1.0))


class _OpenPosePerson(msgspec.Struct):
    pose_keypoints_2d: list[float]


class _OpenPoseFile(msgspec.Struct):
    people: list[_OpenPosePerson]


def people_to_dict(people: Sequence[Skeleton]) -> dict[str, Any]:
    """`{"people": [{"pose_keypoints_2d": [...54 numbers]}]}`."""
    return {"people": [{"pose_keypoints_2d": person.to_openpose()} for person in people]}


def people_to_json(people: Sequence[Skeleton]) -> bytes:
    """OpenPose JSON of the people."""
    return msgspec.json.encode(people_to_dict(people))


def people_from_json(data: bytes, subject: str = "pose file") -> list[Skeleton]:
    """The people of an OpenPose JSON file; fields other than the body keypoints are ignored.

    Args:
        data (`bytes`): the file's content.
        subject (`str`): the file's name, for the error's text.

    Raises:
        BadInput: not JSON of that form.
    """
    try:
        parsed = msgspec.json.decode(data, type=_OpenPoseFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(
            f"{subject}: is not OpenPose JSON ({error})",
            'Give {"people": [{"pose_keypoints_2d": [x, y, score, ...18 times]}]}',
            subject,
        ) from error
    return [
        Skeleton.from_openpose(person.pose_keypoints_2d, f"{subject}: person {index}")
        for index, person in enumerate(parsed.people)
    ]
