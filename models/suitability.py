# SPDX-License-Identifier: Apache-2.0
"""How well one photo of an actor can be brought into a pose.

Placement knows only the scene. But a photo from behind has no face to show, a seated actor has foreshortened
thighs, and a half-length photo has no legs: of the candidates that belong in the scene, some suit the photo
better. Not in the paper, whose training pairs show one person from several sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.judgement import Figures, figures
from shared.skeleton import (
    FACE,
    L_ANKLE,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    MIRROR,
    NECK,
    R_ANKLE,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Skeleton,
)

Floats = NDArray[np.float64]

_LIMBS = (
    (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST),
    (R_HIP, R_KNEE), (R_KNEE, R_ANKLE), (L_HIP, L_KNEE), (L_KNEE, L_ANKLE),
)  # fmt: skip
_TRUNK = ((NECK, R_HIP), (NECK, L_HIP))

# Weights of the five differences; each is about 1 where a person would call the result wrong.
_STRETCH, _BEND, _TURN, _FACE, _MISSING = 0.8, 1.0, 0.9, 0.7, 2.0

_SEATED = 0.75
"""Thigh over shin, as seen, below which nobody stands; standing people have 0.85 to 1.2."""
_STANDS = 0.75
"""Least `Figures.upright` of somebody who stands."""
_FLOATS = 2.0
"""The same for legs of which the photo has none, all of them."""

_PULL, _BEARABLE = 0.5, math.radians(45)
"""How far a limb turns from the photo's direction: half of a small difference, at most 10 degrees (at 32)."""
_PROFILE = 0.06
"""Width of shoulders or hips, in statures, below which a person is seen from the side and faces neither way."""


def suitability(source: Skeleton, target: Skeleton, size: tuple[float, float]) -> float:
    """Between 0 (cannot be shown from this photo) and 1 (the photo's own view).

    Five differences lower it: limbs that would have to be stretched beyond what the photo shows of them, limbs and
    torso that point elsewhere (clothes fold and light falls otherwise there), another side of the body towards the
    camera, a face where the photo has none (or the other way), and parts of the target inside the frame that the
    photo does not show.

    Args:
        source (`Skeleton`): the actor in the photo.
        target (`Skeleton`): the pose wanted, in pixels of the scene.
        size (`(width, height)`): of the scene in pixels; what lies outside needs no photo.
    """
    own, wanted = _body_scales(source, target)
    if own == 0.0 or wanted == 0.0:
        return 0.0
    inside = target.visible & ((target.xy >= 0) & (target.xy <= size)).all(axis=1)
    stretch = []
    for limb in _LIMBS:
        a, b = limb
        if not (inside[a] or inside[b]) or not (_shown(source, limb) and _shown(target, limb)):
            continue
        # Foreshortened to a tenth of the body's scale, a limb is a spot whose length says nothing more.
        ratio = math.log(max(_length(target, limb) / wanted, 0.1) / max(_length(source, limb) / own, 0.1))
        # Too long a source is squeezed, which looks better than too short a one stretched.
        stretch.append(min(ratio, 1.5) if ratio > 0 else 0.5 * min(-ratio, 1.5))
    bends = [
        abs(_angle(source, bone) - _angle(target, bone))
        for bone in (*_LIMBS, *_TRUNK)
        if inside[bone[1]] and _shown(source, bone) and _shown(target, bone)
    ]
    bend = sum(min(b, 2 * math.pi - b) for b in bends) / (math.pi / 2) / max(len(bends), 1)
    turn = abs(_facing(source) / own - _facing(target) / wanted) / 0.5
    face = abs(float(_has_face(source)) - float(_has_face(target)))
    missing = float((inside & ~source.visible)[[j for limb in _LIMBS for j in limb]].mean())
    cost = _STRETCH * (sum(stretch) / max(len(stretch), 1)) + _BEND * bend
    cost += _TURN * turn + _FACE * face + _MISSING * missing
    return math.exp(-cost)


def fitted(source: Skeleton, target: Skeleton) -> Skeleton:
    """The target as this photo can show it: at its place and in its size, with the actor's own body.

    Pixels can be moved, but neither turned out of the picture's plane nor shown where the photo has none. So trunk
    and head are the photo's own (an actor seen from behind stays so; the wanted pose is then read from behind),
    every limb has the actor's own length, and its direction is the photo's, turned towards the wanted one by
    half of a small difference and nothing of one so large that it would look wrong (`_turn`).
    Where the feet touch the ground and the stature stay. Joints that the photo lacks are the target's.

    Args:
        source (`Skeleton`): the actor in the photo.
        target (`Skeleton`): the pose wanted.

    Returns:
        The skeleton to paint; `target` itself where either one shows too little to tell its size.
    """
    body = anatomy.installed()
    people = [np.c_[person.xy, person.visible] for person in (source, target)]
    own, wanted = (float(body.stature(person[None])[0]) for person in people)
    if not (
        own > 0
        and wanted > 0
        and _shown(source, (NECK, R_HIP, L_HIP))
        and _shown(target, (NECK, R_HIP, L_HIP))
    ):
        return target
    if (
        _facing(source) * _facing(target) < 0
        and min(abs(_facing(source)) / own, abs(_facing(target)) / wanted) > _PROFILE
    ):
        order = list(MIRROR)
        target = Skeleton(target.xy[order], target.visible[order], target.score[order])
    photo, scale = source.xy, wanted / own
    xy, visible = target.xy.copy(), target.visible.copy()
    lean = _turn(_lean(source), _lean(target))
    for joint in (R_SHOULDER, L_SHOULDER, R_HIP, L_HIP, *FACE):
        if source.visible[joint]:
            xy[joint] = xy[NECK] + scale * _rotated(photo[joint] - photo[NECK], lean)
            visible[joint] = True
        elif joint in FACE:
            visible[joint] = False
        else:
            xy[joint] = target.xy[joint]
    for parent, joint in _LIMBS:  # from the trunk outwards
        if not (target.visible[joint] and target.visible[parent]):
            visible[joint] = False
        elif _shown(source, (parent, joint)):
            turn = _turn(_angle(source, (parent, joint)), _angle(target, (parent, joint)))
            xy[joint] = xy[parent] + scale * _rotated(photo[joint] - photo[parent], turn)
        elif source.visible[joint]:  # a hand whose elbow is hidden moves with the trunk
            xy[joint] = xy[NECK] + scale * _rotated(photo[joint] - photo[NECK], lean)
        else:
            xy[joint] = xy[parent] + target.xy[joint] - target.xy[parent]
    pose = Skeleton(xy, visible, np.where(visible, np.maximum(target.score, 0.5), 0.0))
    before, after = (figures(np.c_[p.xy, p.visible][None], body) for p in (target, pose))
    factor = float(before.stature[0] / after.stature[0])
    return pose.transformed(factor, before.ground[0] - factor * after.ground[0])


def unfit(source: Skeleton) -> list[str]:
    """Why a photo gives no good standing person although its joints are found, as words for its user; mostly empty.

    Seated and riding people are seen by their thighs, which point to the camera and are much shorter than their
    shins; crouching and bending ones by their height.

    Args:
        source (`Skeleton`): the actor in the photo.
    """
    thighs = [_length(source, limb) for limb in ((R_HIP, R_KNEE), (L_HIP, L_KNEE)) if _shown(source, limb)]
    shins = [_length(source, limb) for limb in ((R_KNEE, R_ANKLE), (L_KNEE, L_ANKLE)) if _shown(source, limb)]
    if not source.visible[list(FACE)].any():
        return ["has no head in the photo"]
    if not thighs or not shins:
        return []
    if sum(thighs) / len(thighs) < _SEATED * sum(shins) / len(shins):
        return ["sits or rides, and can only be shown so; things in the lap or between the legs come along"]
    person = np.c_[source.xy, source.visible][None]
    if float(figures(person, anatomy.installed()).upright[0]) < _STANDS:
        return ["crouches, bends or lies, and can only be shown so"]
    return []


def suited(people: Figures, source: Skeleton, size: tuple[float, float]) -> tuple[Figures, Floats]:
    """People as this photo can show them (`fitted`), and how well it can, `(N,)` in 0..1.

    The half of what `suitability` takes off a pose that `fitted` does not change: the scene still asked for another.
    What the photo lacks altogether, nothing can make good: a person without legs floats, unless the frame's edge
    is where they end.

    Args:
        people (`Figures`): poses wanted, in pixels of the scene.
        source (`Skeleton`): the actor in the photo.
        size (`(width, height)`): of the scene in pixels.
    """
    legs = [j for j in (R_KNEE, L_KNEE, R_ANKLE, L_ANKLE) if not source.visible[j]]
    joints, drawn = people.people.copy(), people.drawn.copy()
    score = np.ones(len(joints))
    for index, person in enumerate(people.people):
        wanted = Skeleton(person[:, :2], person[:, 2] > 0)
        pose = fitted(source, wanted)
        joints[index] = np.c_[pose.xy, pose.visible]
        face = list(FACE)
        drawn[index, face] = pose.visible[face]
        floats = float(np.mean(pose.xy[legs, 1] < size[1])) if legs else 0.0
        score[index] = math.sqrt(suitability(source, wanted, size)) * math.exp(-_FLOATS * floats)
    return Figures(joints, drawn, people.stature, people.ground), score


def shown_of(source: Skeleton, pose: Skeleton) -> Skeleton:
    """The pose without elbows, hands, knees and feet that the photo does not show.

    An arm behind the body or before it in the same colours is not found; given to the pose, it would be painted
    a second time.

    Args:
        source (`Skeleton`): the actor in the photo.
        pose (`Skeleton`): what is to be painted.
    """
    visible = pose.visible.copy()
    ends = [joint for _, joint in _LIMBS]
    visible[ends] &= source.visible[ends]
    return Skeleton(pose.xy, visible, pose.score)


def _lean(person: Skeleton) -> float:
    """Direction from the neck to the middle of the hips, in radians."""
    x, y = person.xy[[R_HIP, L_HIP]].mean(axis=0) - person.xy[NECK]
    return math.atan2(y, x)


def _turn(own: float, wanted: float) -> float:
    """By how many radians the photo's direction turns towards the wanted one."""
    difference = math.remainder(wanted - own, 2 * math.pi)
    return _PULL * difference * math.exp(-((difference / _BEARABLE) ** 2))


def _rotated(vector: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])


def _length(person: Skeleton, limb: tuple[int, int]) -> float:
    return float(np.linalg.norm(person.xy[limb[0]] - person.xy[limb[1]]))


def _angle(person: Skeleton, bone: tuple[int, int]) -> float:
    x, y = person.xy[bone[1]] - person.xy[bone[0]]
    return math.atan2(y, x)


def _shown(person: Skeleton, joints: Sequence[int]) -> bool:
    return bool(person.visible[list(joints)].all())


def _body_scales(first: Skeleton, second: Skeleton) -> tuple[float, float]:
    """Sizes of two bodies in pixels, by what both show: means of each one's four longest of limbs and torso."""
    both = [limb for limb in _LIMBS if _shown(first, limb) and _shown(second, limb)]
    hips = [j for j in (R_HIP, L_HIP) if first.visible[j] and second.visible[j]]
    scales = []
    for person in (first, second):
        lengths = [_length(person, limb) for limb in both]
        if hips and first.visible[NECK] and second.visible[NECK]:
            middle: NDArray[np.float64] = person.xy[hips].mean(axis=0)
            lengths.append(float(np.linalg.norm(person.xy[NECK] - middle)))
        # The longest are the least foreshortened.
        longest = sorted(lengths)[-4:]
        scales.append(sum(longest) / len(longest) if longest else 0.0)
    return scales[0], scales[1]


def _facing(person: Skeleton) -> float:
    """Signed width in pixels of shoulders and hips: positive from the front, negative from behind."""
    widths = [
        float(person.xy[left, 0] - person.xy[right, 0])
        for left, right in ((L_SHOULDER, R_SHOULDER), (L_HIP, R_HIP))
        if person.visible[left] and person.visible[right]
    ]
    return max(widths, key=abs, default=0.0)


def _has_face(person: Skeleton) -> bool:
    """Nose or both eyes are seen."""
    nose, right_eye, left_eye = FACE[:3]
    return bool(person.visible[nose] or (person.visible[right_eye] and person.visible[left_eye]))
