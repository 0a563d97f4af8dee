# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things lie: the picture's pixels in the camera's space, the joints as a tree, a layer on its picture.

No bpy here. Pixels are those of shared.skeleton: continuous, origin at the top-left corner, y down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .shared.skeleton import (
    JOINTS,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    NECK,
    NOSE,
    NUM_JOINTS,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Skeleton,
)

PARENT = {
    R_SHOULDER: NECK, R_ELBOW: R_SHOULDER, R_WRIST: R_ELBOW,
    L_SHOULDER: NECK, L_ELBOW: L_SHOULDER, L_WRIST: L_ELBOW,
    R_HIP: NECK, R_KNEE: R_HIP, R_ANKLE: R_KNEE,
    L_HIP: NECK, L_KNEE: L_HIP, L_ANKLE: L_KNEE,
    NOSE: NECK, R_EYE: NOSE, R_EAR: R_EYE, L_EYE: NOSE, L_EAR: L_EYE,
}  # fmt: skip
"""OpenPose's tree with the neck as its root: turning a joint carries the joints behind it along."""

PARENT_FIRST = (NECK, *PARENT)
"""All joints, each after its parent."""

# A standing person seen from the front, in units of the torso (neck to mid-hip), the neck at 0, 0. Only used to
# offer a place for joints that are missing, so that the artist can unhide them near where they belong.
_STANDING = np.array([
    (0.00, -0.38), (0.00, 0.00),
    (-0.33, 0.02), (-0.42, 0.55), (-0.45, 1.02),
    (0.33, 0.02), (0.42, 0.55), (0.45, 1.02),
    (-0.20, 1.00), (-0.22, 1.78), (-0.22, 2.55),
    (0.20, 1.00), (0.22, 1.78), (0.22, 2.55),
    (-0.07, -0.46), (0.07, -0.46), (-0.15, -0.42), (0.15, -0.42),
])  # fmt: skip


def bone_name(joint: int) -> str:
    """Blender's name of a joint, so that its own mirror tools work: `right_knee` -> `knee.R`."""
    side, _, part = JOINTS[joint].rpartition("_")
    return f"{part}.{side[0].upper()}" if side else part


BONE_NAMES = tuple(bone_name(joint) for joint in range(NUM_JOINTS))
SIDES = tuple(name.partition(".")[2] for name in BONE_NAMES)
"""Of each joint: `R` or `L`, empty for nose and neck."""


def person_size(skeleton: Skeleton) -> float:
    """About the length of the torso in pixels, from whatever is visible; at least 1."""
    standing = _STANDING[skeleton.visible]
    if len(standing) < 2:
        return 1.0
    spread = np.linalg.norm(skeleton.xy[skeleton.visible] - skeleton.xy[skeleton.visible].mean(0), axis=1)
    expected = np.linalg.norm(standing - standing.mean(0), axis=1)
    return max(1.0, float(spread.sum() / expected.sum()))


def complete(skeleton: Skeleton) -> NDArray[np.float64]:
    """`(18, 2)` coordinates in which missing joints have a likely place: at a standing person's distance from
    the nearest joint that is known. A skeleton without any joint gives a standing person of size 1.
    """
    size, xy = person_size(skeleton), skeleton.xy.copy()
    known = np.flatnonzero(skeleton.visible)
    if len(known) == 0:
        return _STANDING.copy()
    for joint in np.flatnonzero(~skeleton.visible):
        nearest = known[np.argmin(np.linalg.norm(_STANDING[known] - _STANDING[joint], axis=1))]
        xy[joint] = skeleton.xy[nearest] + (_STANDING[joint] - _STANDING[nearest]) * size
    return xy


def pixel_space(
    frame: Sequence[Sequence[float]], size: tuple[int, int], depth: float, perspective: bool
) -> NDArray[np.float64]:
    """The matrix from a picture's pixels (x, -y, 0) to the space of the camera that took it.

    Args:
        frame (four corners x, y, z): `Camera.view_frame(scene=scene)`: top right, bottom right, bottom left,
            top left in camera space; it honours shift, sensor fit and pixel aspect.
        size (`(int, int)`): the picture's width and height in pixels.
        depth (`float`): distance from the camera at which the plane shall lie.
        perspective (`bool`): whether the frame grows with its distance.

    Returns:
        `(4, 4)`: a diagonal scale and the place of the top-left corner.
    """
    corners = np.asarray(frame, dtype=np.float64)
    bottom_left, top_right = corners[2].copy(), corners[0].copy()
    if perspective:
        grow = depth / -corners[0, 2]
        bottom_left, top_right = bottom_left * grow, top_right * grow
    scale = (top_right[:2] - bottom_left[:2]) / size
    matrix = np.diag([scale[0], scale[1], scale[0], 1.0])
    matrix[:3, 3] = bottom_left[0], top_right[1], -depth
    return matrix


def feet(skeleton: Skeleton) -> tuple[float, float]:
    """The point a person is moved and scaled by: between the ankles, or the middle of the lowest that is seen."""
    ankles = [joint for joint in (R_ANKLE, L_ANKLE) if skeleton.visible[joint]]
    if ankles:
        # The lower ankle carries the weight; the middle of both keeps a walking person steady.
        return float(skeleton.xy[ankles, 0].mean()), float(skeleton.xy[ankles, 1].max())
    x0, _, x1, y1 = skeleton.box
    return float(x0 + x1) / 2, float(y1)
