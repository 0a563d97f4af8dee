# SPDX-License-Identifier: Apache-2.0
"""Bodies from the joints that are known: how large they are, where their trunk is, which way they face.

Frames, their coordinates, and lengths in torsos are as in models/parts.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shared.skeleton import (
    FACE,
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
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
)

from .grid import pixel_grid, smoothstep

_SEGMENTS = (
    (R_SHOULDER, L_SHOULDER, 0.72), (NECK, R_HIP, 1.03), (NECK, L_HIP, 1.03), (NECK, NOSE, 0.45), (R_EAR, L_EAR, 0.32),
    (R_SHOULDER, R_ELBOW, 0.58), (L_SHOULDER, L_ELBOW, 0.58), (R_ELBOW, R_WRIST, 0.52), (L_ELBOW, L_WRIST, 0.52),
    (R_HIP, R_KNEE, 0.85), (L_HIP, L_KNEE, 0.85), (R_KNEE, R_ANKLE, 0.83), (L_KNEE, L_ANKLE, 0.83),
)  # fmt: skip
"""Pairs of joints with the distance between them in torsos, seen square on."""


def perp(v: Tensor) -> Tensor:
    return torch.stack([-v[..., 1], v[..., 0]], -1)


def normalised(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _mean_of(xy: Tensor, known: Tensor, joints: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean `(B, 2)` of the known ones among the joints, and whether there is any `(B, 1)`."""
    weight = known[:, joints, None].to(xy.dtype)
    total = weight.sum(1)
    return (xy[:, joints] * weight).sum(1) / total.clamp_min(1), total > 0


def torso_length(xy: Tensor, known: Tensor) -> Tensor:
    """How long the torso would be seen from the front, from whatever joints are known.

    Foreshortening only shortens, so the longest segments, each divided by its length on an average body, tell.

    Args:
        xy (`(B, 18, 2)` float): joints.
        known (`(B, 18)` bool).

    Returns `(B,)`, in the unit of `xy`; a third of the joints' extent where no segment is known.
    """
    a, b, length = zip(*_SEGMENTS, strict=True)
    both = known[:, a] & known[:, b]
    ratio = (xy[:, a] - xy[:, b]).norm(dim=-1) / xy.new_tensor(length) * both
    count = both.sum(1).clamp(1, 3)
    longest = ratio.topk(3, dim=1)[0].sum(1) / count
    far = torch.where(known[..., None], xy, xy.new_tensor(-math.inf)).amax(1)
    near = torch.where(known[..., None], xy, xy.new_tensor(math.inf)).amin(1)
    extent = (far - near).amax(1) / 3
    fallback = torch.where(extent.isfinite() & (extent > 1e-4), extent, torch.ones_like(extent) * 0.25)
    return torch.where(longest > 1e-4, longest, fallback)


class Body(NamedTuple):
    """Joints of a batch of people with the trunk completed where joints are missing."""

    xy: Tensor  # (B, 18, 2), neck, shoulders and hips are always sensible
    known: Tensor  # (B, 18) bool, as given
    torso: Tensor  # (B,) torso length
    head: Tensor  # (B, 2) middle of the face
    down: Tensor  # (B, 2) unit vector from head to hips


def complete(xy: Tensor, known: Tensor) -> Body:
    """Fills in neck, shoulders, hips and the middle of the face where they are missing.

    Args:
        xy (`(B, 18, 2)` float): joints; what stands at unknown ones does not matter as long as it is finite.
        known (`(B, 18)` bool).
    """
    size = torso_length(xy, known)
    unit = size[:, None]
    face, has_face = _mean_of(xy, known, FACE)
    top, has_top = _mean_of(xy, known, (NECK, R_SHOULDER, L_SHOULDER))
    bottom, has_bottom = _mean_of(xy, known, (R_HIP, L_HIP))
    anything, _ = _mean_of(xy, known, tuple(range(18)))
    down = xy.new_tensor([0.0, 1.0]).expand(len(xy), 2)
    down = torch.where(has_face & has_bottom, bottom - face, down)
    down = torch.where(has_face & has_top, top - face, down)
    down = torch.where(has_top & has_bottom, bottom - top, down)
    down = torch.where(down.norm(dim=-1, keepdim=True) > 1e-4, down, xy.new_tensor([0.0, 1.0]))
    down = normalised(down)

    def is_known(joint: int) -> Tensor:
        return known[:, joint, None]

    right, left = xy[:, R_SHOULDER], xy[:, L_SHOULDER]
    both_shoulders = is_known(R_SHOULDER) & is_known(L_SHOULDER)
    neck = anything
    neck = torch.where(has_top, top, neck)
    neck = torch.where(has_bottom & ~has_top, bottom - down * unit, neck)
    neck = torch.where(has_face & ~has_top, face + down * unit * 0.42, neck)
    neck = torch.where(both_shoulders, (right + left) / 2, neck)
    neck = torch.where(is_known(NECK), xy[:, NECK], neck)
    # From the right to the left shoulder; a person facing us has the left one on the right of the picture.
    across = -perp(down) * unit * 0.7
    hips = xy[:, L_HIP] - xy[:, R_HIP]
    both_hips = is_known(R_HIP) & is_known(L_HIP)
    across = torch.where(both_hips, hips * 1.5, across)
    across = torch.where(is_known(R_SHOULDER), 2 * (neck - right), across)
    across = torch.where(is_known(L_SHOULDER), 2 * (left - neck), across)
    across = torch.where(both_shoulders, left - right, across)
    right = torch.where(is_known(R_SHOULDER), right, neck - across / 2)
    left = torch.where(is_known(L_SHOULDER), left, neck + across / 2)
    middle = neck + down * unit
    middle = torch.where(is_known(R_HIP), xy[:, R_HIP] + across * 0.3, middle)
    middle = torch.where(is_known(L_HIP) & ~is_known(R_HIP), xy[:, L_HIP] - across * 0.3, middle)
    right_hip = torch.where(is_known(R_HIP), xy[:, R_HIP], middle - across * 0.3)
    left_hip = torch.where(is_known(L_HIP), xy[:, L_HIP], middle + across * 0.3)
    full = xy.clone()
    for joint, value in (
        (NECK, neck),
        (R_SHOULDER, right),
        (L_SHOULDER, left),
        (R_HIP, right_hip),
        (L_HIP, left_hip),
    ):
        full[:, joint] = value
    return Body(full, known, size, torch.where(has_face, face, neck - down * unit * 0.42), down)


def seen_from_behind(body: Body) -> Tensor:
    """1 where the right shoulder is clearly on the right, 0 where it is not or is not known, `(B,)`."""
    across = body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER]
    width = (across * perp(body.down)).sum(-1) / body.torso  # negative where we see the front
    return smoothstep(width, 0.1, 0.3) * body.known[:, [R_SHOULDER, L_SHOULDER]].all(1)


def far_sides(body: Body) -> Tensor:
    """How surely people are seen from the side and their left, or right, is the far one, `(B, 2)` 0..1.

    Shoulders that are hardly apart do not tell which way somebody faces; the face does, where it is known. Of 500
    rendered pairs no near forearm was hidden where the shoulders were less than 0.3 torsos apart, and half of the far
    ones were, all that cross the body.
    """
    right = -perp(body.down)
    apart = ((body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER]) * right).sum(-1).abs() / body.torso
    (front, has_front), (ears, has_ears) = (
        _mean_of(body.xy, body.known, joints) for joints in ((NOSE, R_EYE, L_EYE), (R_EAR, L_EAR))
    )
    known = (has_front & has_ears)[:, 0] & body.known[:, [R_SHOULDER, L_SHOULDER]].all(1)
    sure = (1 - smoothstep(apart, 0.3, 0.45)) * known
    ahead = ((front - ears) * right).sum(-1) / body.torso
    return torch.stack([sure * smoothstep(way * ahead, 0.05, 0.12) for way in (1, -1)], 1)


def facial_spots(body: Body, size: int) -> Tensor:
    """A soft spot at each known facial joint, `(B, 5, size * size)`: they say which way somebody faces."""
    joints = list(FACE)
    squared = (pixel_grid(size)[:, None] - body.xy[:, joints, None]).square().sum(-1)
    return torch.exp(-squared / (2 * (_SPOT * body.torso[:, None, None]) ** 2)) * body.known[:, joints, None]


_SPOT = 0.1
"""Standard deviation of what marks a facial joint for the networks, in torsos."""
