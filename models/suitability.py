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

from shared.skeleton import (
    FACE,
    L_ANKLE,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    NECK,
    R_ANKLE,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Skeleton,
)

_LIMBS = (
    (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST),
    (R_HIP, R_KNEE), (R_KNEE, R_ANKLE), (L_HIP, L_KNEE), (L_KNEE, L_ANKLE),
)  # fmt: skip
_TRUNK = ((NECK, R_HIP), (NECK, L_HIP))

# Weights of the five differences; each is about 1 where a person would call the result wrong.
_STRETCH, _BEND, _TURN, _FACE, _MISSING = 0.8, 1.0, 0.9, 0.7, 2.0


def suitability(source: Skeleton, target: Skeleton, size: tuple[int, int]) -> float:
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
