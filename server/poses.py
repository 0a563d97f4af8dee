# SPDX-License-Identifier: Apache-2.0
"""Poses that are asked for, held against what the actor's photo shows."""

from __future__ import annotations

import numpy as np

from shared.errors import BadInput
from shared.skeleton import (
    JOINTS,
    L_ANKLE,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    NUM_JOINTS,
    R_ANKLE,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Skeleton,
)
from shared.where import Where

_MIN_JOINTS = 6  # known joints of a pose: fewer are no pose but a slip
_MAX_ENLARGEMENT = 16.0  # of the person over the photo: beyond it the scale is a slip and the layer a blur


_ENDS = (R_ELBOW, R_WRIST, L_ELBOW, L_WRIST, R_KNEE, R_ANKLE, L_KNEE, L_ANKLE)
_PAIRS = {
    "shoulders": (R_SHOULDER, L_SHOULDER),
    "hips": (R_HIP, L_HIP),
    "knees": (R_KNEE, L_KNEE),
    "ankles": (R_ANKLE, L_ANKLE),
}


def missing_pairs(skeleton: Skeleton) -> list[str]:
    """Names of the pairs of joints of which neither side is visible, from the top down."""
    return [name for name, pair in _PAIRS.items() if not skeleton.visible[list(pair)].any()]


def what_the_photo_shows(target: Skeleton, source: Skeleton) -> Skeleton:
    """The target without the leg joints that the photo shows of neither leg: they can't be painted."""
    visible = target.visible.copy()
    for name in missing_pairs(source):
        visible[list(_PAIRS[name])] = False
    if not visible[list(_PAIRS["knees"])].any():
        visible[list(_PAIRS["ankles"])] = False
    return Skeleton(target.xy, visible, target.score)


def check_pose(wanted: Skeleton, actor: Skeleton) -> None:
    """Raises BadInput where a pose that somebody gave cannot be meant: hardly a joint, or of a wrong scale."""
    from models.body import torso_length
    from models.person import tensors

    known = int(wanted.visible.sum())
    if known < _MIN_JOINTS:
        raise BadInput(
            f"skeleton: only {known} of its {NUM_JOINTS} joints are known, not at least {_MIN_JOINTS}",
            "Give shoulders, hips and the limbs that shall be seen",
            "skeleton",
        )
    larger = float(torso_length(*tensors(wanted))[0] / torso_length(*tensors(actor))[0])
    if larger > _MAX_ENLARGEMENT:
        raise BadInput(
            f"skeleton: is {larger:.0f} times as large as the person in the actor photo, not at most"
            f" {_MAX_ENLARGEMENT:.0f} times",
            "Scale the skeleton to the scene, or use a larger photo",
            "skeleton",
        )


def turned_away(where: Where, target: Skeleton) -> list[str]:
    """A warning where the head, which keeps the photo's view of it, does not face the way that was asked for."""
    from models.wishes import facing

    found = facing(target)
    if where.facing is None or found == where.facing:
        return []
    return [
        f"facing: the body was placed facing {where.facing}, but a head keeps the view of the actor photo, which"
        f" faces {found or 'the camera or away'}; use a photo that faces {where.facing}"
    ]


def lacking(source: Skeleton, target: Skeleton) -> list[str]:
    """Warnings about parts that the pose shows and the photo does not, beyond what `find_actor` says."""
    from models.transfer import missing_parts

    return [
        f"The pose shows the {part}, and the actor photo does not; that part is left out or made up"
        for part in missing_parts(source, target)
    ]


def left_out(source: Skeleton, wanted: Skeleton) -> list[str]:
    """A warning where a pose lacks joints that the photo shows: a limb ends short of them, as if cut off."""
    lost = [JOINTS[j].replace("_", " ") for j in _ENDS if source.visible[j] and not wanted.visible[j]]
    if not lost:
        return []
    return [f"The pose does not say where these are: {', '.join(lost)}; no limb is drawn to or from there"]


def standing_at(skeleton: Skeleton, at: tuple[float, float]) -> Skeleton:
    """The skeleton moved so that the middle of its feet (or its lowest point) is at that pixel."""
    ankles = [j for j in (R_ANKLE, L_ANKLE) if skeleton.visible[j]]
    x = float(skeleton.xy[ankles, 0].mean()) if ankles else float(skeleton.xy[skeleton.visible, 0].mean())
    return skeleton.transformed(1.0, (at[0] - x, at[1] - float(skeleton.box[3])))


def upright(top: tuple[float, float], height: float) -> Skeleton:
    """A person standing straight, seen from the front: the warm-up's target."""
    # x and y of the joints in units of the height, about the nose.
    pose = [
        (0.0, 0.0), (0.0, 0.11),
        (-0.12, 0.11), (-0.15, 0.30), (-0.16, 0.47), (0.12, 0.11), (0.15, 0.30), (0.16, 0.47),
        (-0.07, 0.45), (-0.07, 0.72), (-0.07, 1.0), (0.07, 0.45), (0.07, 0.72), (0.07, 1.0),
        (-0.02, -0.02), (0.02, -0.02), (-0.05, -0.01), (0.05, -0.01),
    ]  # fmt: skip
    return Skeleton(np.array(pose) * height + np.array(top), np.ones(NUM_JOINTS, bool))
