# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be done to a pose: dragging with lengths kept, turning, mirroring; and which joints were edited.

Every tool that edits poses uses these functions: the armature's operators, the drag tool of both editors and
the panel's number fields. All take skeletons in pixels and return new ones. No bpy here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .geometry import PARENT, complete, feet, person_size
from .shared.head import turned_head
from .shared.skeleton import (
    L_ANKLE,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_WRIST,
    MIRROR,
    NECK,
    NOSE,
    NUM_JOINTS,
    R_ANKLE,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_WRIST,
    Skeleton,
)


def _ancestors(joint: int) -> list[int]:
    line = []
    while joint in PARENT:
        joint = PARENT[joint]
        line.append(joint)
    return line


BEHIND = tuple(
    tuple(other for other in range(NUM_JOINTS) if joint in _ancestors(other)) for joint in range(NUM_JOINTS)
)
"""For each joint those that hang on it, directly or not."""

_ENDS = (R_WRIST, L_WRIST, R_ANKLE, L_ANKLE)
_SWINGS = (NOSE, R_ELBOW, L_ELBOW, R_KNEE, L_KNEE)
_EPSILON = 1e-6


def drag(skeleton: Skeleton, joint: int, to: ArrayLike, keep_lengths: bool = True) -> Skeleton:
    """Move one joint, as an artist drags it.

    Args:
        joint (`int`): index of the joint; it becomes visible.
        to (`(x, y)`): where it shall go, pixels.
        keep_lengths (`bool`): the limbs keep the lengths they have in the picture: hands and feet pull their limb
            along and stay within its reach, elbows and knees swing about shoulder and hip with what hangs on
            them, the nose swings about the neck with the face; shoulders and hips take their limb along, an eye its
            ear, the neck everything. Otherwise only this joint moves.
    """
    target, xy = np.asarray(to, dtype=np.float64), complete(skeleton)
    if not keep_lengths:
        return skeleton.with_joints([joint], [target])
    if joint in _ENDS:
        middle = PARENT[joint]
        xy[middle], xy[joint] = _reach(xy[PARENT[middle]], xy[middle], xy[joint], target)
    elif joint in _SWINGS:
        pivot = xy[PARENT[joint]].copy()
        angle = _angle(target - pivot) - _angle(xy[joint] - pivot)
        moved = [joint, *BEHIND[joint]]
        xy[moved] = _turned(xy[moved], pivot, angle)
    else:
        moved = [joint, *BEHIND[joint]]
        xy[moved] += target - xy[joint]
    return _with(skeleton, xy, joint)


def turn(skeleton: Skeleton, joint: int, angle: float) -> Skeleton:
    """Turn what hangs on a joint about it, lengths kept; the neck turns everybody.

    Args:
        angle (radians): clockwise as seen, as y points down.
    """
    xy = complete(skeleton)
    moved = list(BEHIND[joint])
    xy[moved] = _turned(xy[moved], xy[joint].copy(), angle)
    return _with(skeleton, xy)


def turn_head(skeleton: Skeleton, left: float, down: float) -> Skeleton:
    """Turn the head in space; eyes and ears that come to lie on its far side are hidden.

    Args:
        left, down (radians): to the person's own left, and downwards.
    """
    xy = complete(skeleton)
    hips = xy[[R_HIP, L_HIP]].mean(0)
    return turned_head(skeleton, xy[NECK], hips, person_size(skeleton), left, down)


def mirror(skeleton: Skeleton) -> Skeleton:
    """The pose left to right, on the spot: a right hand that waves becomes a left hand."""
    x0, _, x1, _ = skeleton.box
    return skeleton.mirrored(float(x0 + x1))


def turn_round(skeleton: Skeleton) -> Skeleton:
    """The same outline seen from the other side: left and right exchanged in place, the face hidden or shown."""
    order = list(MIRROR)
    xy, visible, score = complete(skeleton)[order], skeleton.visible[order], skeleton.score[order]
    face = [NOSE, R_EYE, L_EYE]
    from_behind = not skeleton.visible[face].any()
    visible[face] = from_behind
    score[face] = 1.0 if from_behind else 0.0
    return Skeleton(xy, visible, score)


def resized(skeleton: Skeleton, factor: float) -> Skeleton:
    """Larger or smaller, the feet staying where they are."""
    at = np.asarray(feet(skeleton))
    return skeleton.transformed(factor, at * (1.0 - factor))


def put_in_place_of(skeleton: Skeleton, other: Skeleton) -> Skeleton:
    """The pose at the size and on the feet of another person: what pasting does."""
    grown = skeleton.transformed(person_size(other) / person_size(skeleton))
    return grown.transformed(offset=np.subtract(feet(other), feet(grown)))


def standing(at: tuple[float, float], height: float) -> Skeleton:
    """A person who stands and looks at the camera.

    Args:
        at (`(x, y)`): between the feet, pixels.
        height (pixels): from the nose to the ankles.
    """
    nobody = Skeleton(np.zeros((NUM_JOINTS, 2)), np.zeros(NUM_JOINTS, bool))
    upright = Skeleton(complete(nobody), np.ones(NUM_JOINTS, bool))
    grown = upright.transformed(height / upright.height)
    return grown.transformed(offset=np.subtract(at, feet(grown)))


def edited_joints(suggested: Skeleton, edited: Skeleton, tolerance: float = 0.05) -> list[int]:
    """The joints that are not as suggested: moved by more than that many pixels, hidden or shown."""
    moved = np.linalg.norm(suggested.xy - edited.xy, axis=1) > tolerance
    return [int(i) for i in np.flatnonzero(moved | (suggested.visible != edited.visible))]


def nearest_joint(skeleton: Skeleton, at: ArrayLike, reach: float) -> int | None:
    """The visible joint nearest to a pixel, or None where none is within `reach` pixels."""
    distance = np.linalg.norm(skeleton.xy - np.asarray(at, dtype=np.float64), axis=1)
    distance[~skeleton.visible] = np.inf
    joint = int(distance.argmin())
    return joint if distance[joint] <= reach else None


def same_person(a: Skeleton, b: Skeleton) -> bool:
    """Whether two skeletons are of one person, seen by two means: joints that both have are close together."""
    both = a.visible & b.visible
    if both.sum() < 3:
        return False
    apart = np.linalg.norm(a.xy[both] - b.xy[both], axis=1)
    # Half a torso's length on the median joint: left and right may be exchanged, neighbours are further away.
    return bool(np.median(apart) < 0.5 * min(person_size(a), person_size(b)))


def _reach(
    root: NDArray[np.float64], middle: NDArray[np.float64], end: NDArray[np.float64], to: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two limbs of fixed lengths reach for a point, bending to the side they bend to: new middle and end."""
    upper, lower = float(np.linalg.norm(middle - root)), float(np.linalg.norm(end - middle))
    away = to - root
    far = float(np.linalg.norm(away))
    direction = away / far if far > _EPSILON else np.array([0.0, 1.0])
    far = float(np.clip(far, abs(upper - lower), upper + lower))
    if far < _EPSILON:
        return middle, root.copy()
    # Law of cosines: how far along the line to the end the middle joint is, and how far beside it.
    along = (upper**2 - lower**2 + far**2) / (2 * far)
    beside = float(np.sqrt(max(0.0, upper**2 - along**2)))
    a, b = middle - root, end - root
    side = 1.0 if a[0] * b[1] - a[1] * b[0] <= 0 else -1.0
    across = np.array([-direction[1], direction[0]]) * side
    return root + along * direction + beside * across, root + far * direction


def _angle(vector: NDArray[np.float64]) -> float:
    return float(np.arctan2(vector[1], vector[0]))


def _turned(points: NDArray[np.float64], pivot: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cos, sin = np.cos(angle), np.sin(angle)
    return (points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot


def _with(skeleton: Skeleton, xy: NDArray[np.float64], shown: int | None = None) -> Skeleton:
    visible, score = skeleton.visible.copy(), skeleton.score.copy()
    if shown is not None and not visible[shown]:
        visible[shown], score[shown] = True, 1.0
    return Skeleton(xy, visible, score)
