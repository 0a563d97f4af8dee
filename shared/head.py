# SPDX-License-Identifier: Apache-2.0
"""Which way a head faces, from the joints of a skeleton, and heads turned in space.

A head has five joints and a neck below; it is seen from far away (weak perspective). Lengths are torsos (neck to
mid-hip, seen from the front); the head's own axes are x to its left, y up, z out of its face; its origin lies between
the ears. The numbers are means over 40 grown-up bodies of anny.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .skeleton import FACE, Skeleton

Array = NDArray[Any]

JOINTS = np.array([
    (0.0, -0.025, 0.203), (-0.057, 0.037, 0.16), (0.057, 0.037, 0.16), (-0.143, 0.0, 0.0), (0.143, 0.0, 0.0),
    (0.0, -0.373, -0.064),
])  # fmt: skip
"""Nose, right and left eye, right and left ear, neck, in the head's axes."""
_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.1])
"""What the joints' places count: a neck bends."""

# In what a pose costs, errors of joints are squared in units of this, in torsos; other terms are 1 where unlikely.
_JOINT_ERROR = 0.03
_HOLD = 0.02
"""How firmly size and tilt are held to what torso and neck say, as the weight of a point one torso away."""
_PITCH = math.radians(25)
_UNSEEN, _MISSED = 0.4, 0.7
"""Of a joint that is known though it is on the far side, and of one that is unknown though it is on the near side."""
_NEAR, _OUT_OF_SIGHT = 0.03, -0.07
"""How far before the ears, in torsos, a joint is surely seen, and how far behind them no more."""
_MOST_PITCH = math.radians(60)
_BACK = math.radians(32)
"""How far from straight away a head may be turned with both ears in sight."""


class HeadPose(NamedTuple):
    """How heads are seen."""

    turned: Array  # (..., 3, 3), from the head's axes to x right, y up, z towards us, before the tilt
    tilt: Array  # (...,) complex, torsos to the picture's unit and the turn in its plane
    origin: Array  # (...,) complex, x + iy in the picture, where the point between the ears is seen


def turns(yaw: ArrayLike, pitch: ArrayLike) -> Array:
    """Rotations `(..., 3, 3)`: about the head's own vertical, to its left, then down; radians."""
    yaw, pitch = np.broadcast_arrays(np.asarray(yaw, np.float64), np.asarray(pitch, np.float64))
    about_y, about_x = (np.zeros((*yaw.shape, 3, 3)) for _ in range(2))
    about_y[..., 0, 0] = about_y[..., 2, 2] = np.cos(yaw)
    about_y[..., 0, 2], about_y[..., 2, 0] = np.sin(yaw), -np.sin(yaw)
    about_x[..., 1, 1] = about_x[..., 2, 2] = np.cos(pitch)
    about_x[..., 2, 1], about_x[..., 1, 2] = np.sin(pitch), -np.sin(pitch)
    about_y[..., 1, 1] = about_x[..., 0, 0] = 1.0
    return about_x @ about_y


def head_pose(
    face: ArrayLike, known: ArrayLike, neck: ArrayLike, torso: ArrayLike, upright: ArrayLike
) -> HeadPose:
    """How the heads of people are seen, by search over all directions, to about 1 degree.

    Where no joint of a face is known, a head is taken to be seen from behind.

    Args:
        face (`(B, 5, 2)`), known (`(B, 5)` bool): the facial joints in the order of `FACE`, in pixels or any unit.
        neck (`(B, 2)`): in the same unit, as are
        torso (`(B,)`): lengths of the torsos.
        upright (`(B, 2)`): unit vectors from the hips to the neck, the heads' way up as far as the body tells.
    """
    face, known, neck = np.asarray(face, np.float64), np.asarray(known, bool), np.asarray(neck, np.float64)
    torso, upright = np.asarray(torso, np.float64), np.asarray(upright, np.float64)
    points = np.concatenate([face, neck[:, None]], 1) / torso[:, None, None]
    rows = np.arange(len(points))
    yaw = np.tile(np.radians(np.arange(-180, 180, 6)).repeat(9), (len(points), 1))
    pitch = np.tile(np.radians(np.arange(-48, 49, 12)), (len(points), 60))
    for step in (6, 2, 0):
        turned = turns(yaw, pitch)
        cost, tilt, origin = _fitted(points, known, upright, turned, pitch)
        best = cost.argmin(1)
        if step:
            near = np.radians(np.arange(-1, 2) * step / 2)
            yaw = yaw[rows, best, None] + near.repeat(3)
            pitch = pitch[rows, best, None] + np.tile(2 * near, 3)
    return HeadPose(turned[rows, best], tilt[rows, best] * torso, origin[rows, best] * torso)


def _fitted(
    points: Array, known: Array, upright: Array, turned: Array, pitch: Array
) -> tuple[Array, Array, Array]:
    """For each of `(B, K)` directions its cost, and the tilt and origin that suit it best, in torsos."""
    weight = (np.concatenate([known, np.ones_like(known[:, :1])], 1) * _WEIGHTS)[:, None]  # (B, 1, 6)
    seen = np.einsum("bkij,nj->bkni", turned, JOINTS)
    model, places = seen[..., 0] - 1j * seen[..., 1], (points[..., 0] + 1j * points[..., 1])[:, None]
    total = weight.sum(-1, keepdims=True)
    model_mean, mean = ((weight * x).sum(-1, keepdims=True) / total for x in (model, places))
    x, y = model - model_mean, places - mean
    # The way up of a picture is -i.
    no_tilt = ((upright[:, 0] + 1j * upright[:, 1]) * 1j)[:, None]
    tilt = ((weight * x.conj() * y).sum(-1) + _HOLD * no_tilt) / ((weight * np.abs(x) ** 2).sum(-1) + _HOLD)
    error = (weight * np.abs(y - tilt[..., None] * x) ** 2).sum(-1) + _HOLD * np.abs(tilt - no_tilt) ** 2
    far = seen[..., :5, 2]
    unlikely = _UNSEEN * (known[:, None] & (far < -_NEAR)).sum(-1)
    unlikely = unlikely + _MISSED * (~known[:, None] & (far > _NEAR)).sum(-1)
    cost = error / _JOINT_ERROR**2 + (pitch / _PITCH) ** 2 + unlikely
    return cost, tilt, (mean - tilt[..., None] * model_mean)[..., 0]


def turned_head(
    skeleton: Skeleton, neck: ArrayLike, hips: ArrayLike, torso: float, yaw: float, pitch: float = 0.0
) -> Skeleton:
    """The skeleton with its head turned in space; joints that come to lie on the far side are no longer visible.

    Args:
        neck, hips (`(2,)`): the ends of the trunk, pixels; `skeleton` need not know them.
        torso (`float`): the length of the torso in pixels, as it would be seen from the front.
        yaw, pitch (radians): to the person's own left, and down; at most 60 degrees of the latter in all.
    """
    joints, known = list(FACE), skeleton.visible[list(FACE)]
    up = np.subtract(neck, hips)
    up = up / max(float(np.linalg.norm(up)), 1e-6)
    pose = head_pose(skeleton.xy[joints][None], known[None], np.asarray(neck)[None], [torso], up[None])
    before = pose.turned[0]
    faces = math.atan2(before[0, 2], before[0, 0])
    if yaw and known[3:].all() and not known[:3].any():
        # The back of a head looks alike whichever way it is turned a little: it is left in one step.
        faces, yaw = math.pi, math.copysign(max(abs(yaw), _BACK), yaw)
    now = turns(
        faces + yaw,
        np.clip(math.atan2(before[2, 1], before[1, 1]) + pitch, -_MOST_PITCH, _MOST_PITCH),
    )
    old, new = (JOINTS[:5] @ turned.T for turned in (before, now))
    # A face that differs from the average one keeps its difference.
    moved = pose.tilt[0] * ((new - old)[:, 0] - 1j * (new - old)[:, 1])
    model = pose.origin[0] + pose.tilt[0] * (new[:, 0] - 1j * new[:, 1])
    xy, visible, score = skeleton.xy.copy(), skeleton.visible.copy(), skeleton.score.copy()
    xy[joints] = np.where(
        known[:, None],
        skeleton.xy[joints] + np.stack([moved.real, moved.imag], 1),
        np.stack([model.real, model.imag], 1),
    )
    visible[joints] = new[:, 2] > _OUT_OF_SIGHT
    score[joints] = np.where(known, score[joints], 1.0)
    return Skeleton(xy, visible, score)
