# SPDX-License-Identifier: Apache-2.0
"""Transfer that moves the photo's own pixels: each limb of the target pose is an exact map into the photo.

From two skeletons every body part gives a map from target points to photo points (`PartMaps`). `Motion`, a small
U-Net at 128 px, weighs these maps, adds a small correction, and predicts alpha, visibility and the colour of what
the photo does not show. `MotionTransfer` enlarges the weights, not the picture, and reads the photo at its full
resolution, so the layer is as sharp as the photo. Without a network the part maps alone give a person too.

Conventions: a *frame* is a square around a person; inside it coordinates run from 0 to 1, y downward. Lengths of a
body are given in *torsos*, the distance from neck to mid-hip as it would be seen from the front.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import BadInput, NoActor
from shared.skeleton import (
    FACE,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    MIRROR,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Skeleton,
)

from . import weights

PARTS = (
    "torso", "head",
    "left upper arm", "left forearm", "right upper arm", "right forearm",
    "left thigh", "left calf", "right thigh", "right calf",
)  # fmt: skip
"""Forearms include the hand, calves the foot: their maps go on beyond the last joint."""
NUM_PARTS = len(PARTS)

_BONES = (
    (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST), (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST),
    (L_HIP, L_KNEE), (L_KNEE, L_ANKLE), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE),
)  # fmt: skip
_NUM_BONES = len(_BONES)
_OTHER_SIDE = (2, 3, 0, 1, 6, 7, 4, 5)
_PARENT = (0, 0, 2, 2, 4, 4, 6, 6)
_NEIGHBOURS = ((1, 2, 4, 6, 8), (0,), (0, 3), (2,), (0, 5), (4,), (0, 7), (6,), (0, 9), (8,))
"""Parts that share a joint: near it both own the pixels, so that a bent joint opens no gap."""

# Half-widths of a limb at its start and at its end, and how far the hand or foot goes on, all in torsos: clothed
# people of average build; they only decide which limb a pixel belongs to, the photo's matte gives the outline.
_HALF_WIDTH_START = (0.17, 0.13, 0.17, 0.13, 0.24, 0.17, 0.24, 0.17)
_HALF_WIDTH_END = (0.15, 0.19, 0.15, 0.19, 0.18, 0.30, 0.18, 0.30)
_BEYOND_END = (0.0, 0.28, 0.0, 0.28, 0.0, 0.12, 0.0, 0.12)

_SEGMENTS = (
    (R_SHOULDER, L_SHOULDER, 0.72), (NECK, R_HIP, 1.03), (NECK, L_HIP, 1.03), (NECK, NOSE, 0.45), (R_EAR, L_EAR, 0.32),
    (R_SHOULDER, R_ELBOW, 0.58), (L_SHOULDER, L_ELBOW, 0.58), (R_ELBOW, R_WRIST, 0.52), (L_ELBOW, L_WRIST, 0.52),
    (R_HIP, R_KNEE, 0.85), (L_HIP, L_KNEE, 0.85), (R_KNEE, R_ANKLE, 0.83), (L_KNEE, L_ANKLE, 0.83),
)  # fmt: skip
"""Pairs of joints with the distance between them in torsos, seen square on."""

_MARGIN = 0.55
"""Room around the known joints, in torsos: hair and hat above the eyes, hands beyond wrists, feet beyond ankles."""
_MAX_LAYER = 6000
"""Largest side of a layer in pixels: above it a skeleton is a slip, and memory would pass 2 GB."""


class Frame(NamedTuple):
    """A square of a picture: integer pixel `x`, `y` of its top-left corner and its `size`."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Person:
    """A person cut out, at scene scale.

    Args:
        rgba (`(h, w, 4)` float32): premultiplied, 0..1, sRGB-encoded values.
        x, y (`int`): the scene pixel on which `rgba[0, 0]` lies; may be negative.
    """

    rgba: NDArray[np.float32]
    x: int
    y: int


# ------------------------------------------------------------------------------------------------ skeleton geometry


def _perp(v: Tensor) -> Tensor:
    return torch.stack([-v[..., 1], v[..., 0]], -1)


def _unit(v: Tensor) -> Tensor:
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
    down = _unit(down)

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
    across = -_perp(down) * unit * 0.7
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


def _similarity(points: Tensor, images: Tensor, weight: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Least-squares similarity about the weighted centroids: `(B, 2, 2)` and its squared error `(B,)`.

    Args:
        points, images (`(B, N, 2)`): already relative to their centroids.
        weight (`(B, N)`): sums to 1.
        mirrored (`bool`): with a reflection.
    """
    flip = points.new_tensor([-1.0, 1.0]) if mirrored else points.new_ones(2)
    x = points * flip
    norm = (weight * (x**2).sum(-1)).sum(1).clamp_min(1e-9)
    a = (weight * (x * images).sum(-1)).sum(1) / norm
    b = (weight * (_perp(x) * images).sum(-1)).sum(1) / norm
    matrix = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2) * flip
    error = (weight * ((torch.einsum("bij,bnj->bni", matrix, points) - images) ** 2).sum(-1)).sum(1)
    return matrix, error


def _limb_coordinates(points: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along the bone and across it, `(B, K, M)` each, and the bones' lengths `(B, K, 1)`, for `(B, M, 2)` points."""
    bone = end - start
    length = bone.norm(dim=-1, keepdim=True)
    axis = bone / length.clamp_min(1e-6)
    # A bone seen end on has no direction: any will do, as long as it is finite.
    axis = torch.where(length > 1e-6, axis, axis.new_tensor([0.0, 1.0]))
    offset = (start * axis).sum(-1, keepdim=True)
    side = _perp(axis)
    along = torch.einsum("bmc,bkc->bkm", points, axis) - offset
    aside = torch.einsum("bmc,bkc->bkm", points, side) - (start * side).sum(-1, keepdim=True)
    return along, aside, length


def _limb_distance(along: Tensor, aside: Tensor, length: Tensor, torso: Tensor) -> Tensor:
    """Distance from the limb's axis in half-widths: about 1 on the outline. All `(B, 8, M)`; torso `(B,)`."""
    unit = torso[:, None, None]
    table = along.new_tensor([_HALF_WIDTH_START, _HALF_WIDTH_END, _BEYOND_END])[:, None, :, None]
    # A limb that points at the camera is short, and so is its hand.
    beyond = table[2] * unit * (length / (0.3 * unit)).clamp(max=1.0)
    past = along - along.clamp_min(0.0).minimum(length + beyond)
    toward_end = ((along / length.clamp_min(1e-3) - 0.85) / 0.2).clamp(0, 1)
    half = (table[0] + (table[1] - table[0]) * toward_end) * unit
    return torch.sqrt(aside**2 + past**2 + 1e-12) / half


def _part_distances(points: Tensor, body: Body, bones: tuple[Tensor, Tensor]) -> Tensor:
    """Distances `(B, 10, M)` of points `(B, M, 2)` from every part, in half-widths of the part."""
    unit = body.torso[:, None]
    neck, hip = body.xy[:, NECK], (body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2
    along, aside, length = _limb_coordinates(points, neck[:, None], hip[:, None])
    along, aside, length = along[:, 0], aside[:, 0], length[:, 0]
    side = _perp(_unit(hip - neck))
    shoulders = ((body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER]) * side).sum(-1, keepdim=True).abs()
    hips = ((body.xy[:, L_HIP] - body.xy[:, R_HIP]) * side).sum(-1, keepdim=True).abs()
    wide = torch.maximum(0.55 * shoulders + 0.04 * unit, 0.27 * unit)
    narrow = torch.maximum(0.5 * hips + 0.14 * unit, 0.25 * unit)
    share = (along / length.clamp_min(1e-3)).clamp(0, 1)
    past = along - along.clamp_min(0.0).minimum(length + 0.12 * unit)
    torso = torch.sqrt((aside / (wide + (narrow - wide) * share)) ** 2 + (past / (0.15 * unit)) ** 2 + 1e-12)
    up = _unit(body.head - neck)
    bottom, top = neck + (body.head - neck) * 0.35, body.head + up * 0.1 * unit
    along, aside, length = _limb_coordinates(points, bottom[:, None], top[:, None])
    past = along - along.clamp_min(0.0).minimum(length)
    head = torch.sqrt(aside**2 + past**2 + 1e-12)[:, 0] / (0.27 * unit)
    limbs = _limb_distance(*_limb_coordinates(points, *bones), body.torso)
    return torch.cat([torso[:, None], head[:, None], limbs], 1)


def _bones_of(body: Body) -> tuple[Tensor, Tensor, Tensor]:
    """Start and end `(B, 8, 2)` of the limbs and whether they are known `(B, 8)`. A hip or shoulder may be a guess."""
    start, end = (list(joints) for joints in zip(*_BONES, strict=True))
    trunk = body.known.clone()
    trunk[:, [R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]] = True
    return body.xy[:, start], body.xy[:, end], trunk[:, start] & body.known[:, end]


class PartMaps:
    """For each body part the map from target points to source points, exact at the joints.

    A limb is rotated, its length scaled to the bone's, its width and the hand or foot beyond its end by the ratio of
    the bodies' sizes. The torso is an affine map of shoulders and hips, held near a similarity. The head is a
    similarity, mirrored when the face looks the other way; then the limbs are mirrored about their axes too.
    A limb unknown in the source takes the other side's, mirrored, else its parent's; else it is absent.

    Args:
        source_xy, target_xy (`(B, 18, 2)` float): joints in frame coordinates.
        source_known, target_known (`(B, 18)` bool).
    """

    def __init__(
        self, source_xy: Tensor, source_known: Tensor, target_xy: Tensor, target_known: Tensor
    ) -> None:
        self.source = source = complete(source_xy, source_known)
        self.target = target = complete(target_xy, target_known)
        self.ratio = ratio = (source.torso / target.torso.clamp_min(1e-6)).clamp(0.1, 10.0)
        rows = torch.arange(len(source_xy), device=source_xy.device)[:, None]
        self._fit_torso()
        self._fit_head()
        source_start, source_end, self._source_bones = _bones_of(source)
        self._bones_source = (source_start, source_end)
        target_start, target_end, target_drawn = _bones_of(target)
        self._bones_target = (target_start, target_end)
        own = torch.arange(_NUM_BONES)
        other, parent = torch.tensor(_OTHER_SIDE), torch.tensor(_PARENT)
        choices = torch.stack([own, other, parent, other[parent]])
        usable = self._source_bones[:, choices]  # (B, 4, 8)
        first = usable.float().argmax(1)  # the first usable choice
        chosen = choices[first, own]
        mirrored = (first % 2 == 1) ^ self.head_mirrored[:, None]
        self._side_sign = torch.where(mirrored, -1.0, 1.0).to(ratio.dtype)[..., None]
        self._chosen_start, self._chosen_end = source_start[rows, chosen], source_end[rows, chosen]
        present = usable.any(1)
        always = torch.ones_like(present[:, :2])
        self.in_source = torch.cat([always, present], 1)  # (B, 10)
        self.in_target = torch.cat([always, target_drawn], 1)
        self._owner = torch.cat([torch.tensor([0, 1]).expand(len(rows), 2), chosen + 2], 1)  # (B, 10)

    def _fit_torso(self) -> None:
        source, target = self.source, self.target
        joints = [R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]
        images, points = source.xy[:, joints], target.xy[:, joints]
        # Guessed joints count for little.
        weight = 0.05 + 0.95 * (target.known[:, joints] & source.known[:, joints]).to(points.dtype)
        weight = weight / weight.sum(1, keepdim=True)
        self._torso_source = (images * weight[..., None]).sum(1)
        self._torso_target = (points * weight[..., None]).sum(1)
        y, x = images - self._torso_source[:, None], points - self._torso_target[:, None]

        def frame(body: Body) -> tuple[Tensor, Tensor]:
            spine = _unit((body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2 - body.xy[:, NECK])
            across = body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER] + body.xy[:, L_HIP] - body.xy[:, R_HIP]
            return spine, (across * _perp(spine)).sum(-1) / body.torso

        (spine_s, hand_s), (spine_t, hand_t) = frame(source), frame(target)
        flipped = (hand_s * hand_t < 0) & (hand_s.abs() > 0.15) & (hand_t.abs() > 0.15)
        sign = torch.where(flipped, -1.0, 1.0)[:, None].to(x.dtype)
        side = sign * _perp(spine_s)
        rotation = spine_s[:, :, None] * spine_t[:, None] + side[:, :, None] * _perp(spine_t)[:, None]
        # Towards the similarity with a strength that a torso seen from the front hardly feels, one from the side does.
        hold = (0.015 * target.torso**2)[:, None, None]
        xx = torch.einsum("bn,bni,bnj->bij", weight, x, x) + hold * torch.eye(2, dtype=x.dtype)
        yx = torch.einsum("bn,bni,bnj->bij", weight, y, x) + hold * self.ratio[:, None, None] * rotation
        self._torso_matrix = yx @ torch.linalg.inv(xx)

    def _fit_head(self) -> None:
        source, target = self.source, self.target
        common = (source.known[:, FACE] & target.known[:, FACE]).to(source.xy.dtype)
        no_face = (common.sum(1, keepdim=True) == 0).to(common.dtype)
        images = torch.cat([source.xy[:, FACE], source.head[:, None], source.xy[:, [NECK]]], 1)
        points = torch.cat([target.xy[:, FACE], target.head[:, None], target.xy[:, [NECK]]], 1)

        def fit(neck: float) -> tuple[Tensor, Tensor]:
            weight = torch.cat([common, no_face, torch.full_like(no_face, neck)], 1)
            weight = weight / weight.sum(1, keepdim=True)
            x = points - (points * weight[..., None]).sum(1, keepdim=True)
            y = images - (images * weight[..., None]).sum(1, keepdim=True)
            plain, error = _similarity(x, y, weight, mirrored=False)
            mirror, mirror_error = _similarity(x, y, weight, mirrored=True)
            turned = (mirror_error < 0.5 * error) & (error > 4e-4 * source.torso**2)
            return torch.where(turned[:, None, None], mirror, plain), turned

        # A turn of the head swings the face about the neck in the picture too; with three points or more the face
        # itself tells better how far the head is tilted, unless it contradicts the neck: then it was guessed.
        by_neck, by_neck_turned = fit(1.0)
        by_face, by_face_turned = fit(0.1)
        up = torch.einsum("bij,bj->bi", by_face, target.head - target.xy[:, NECK])
        agree = (_unit(up) * _unit(source.head - source.xy[:, NECK])).sum(-1) > 0.75
        trusted = agree & (common.sum(1) >= 3)
        self.head_mirrored = torch.where(trusted, by_face_turned, by_neck_turned)
        matrix = torch.where(trusted[:, None, None], by_face, by_neck)
        scale = torch.linalg.det(matrix).abs().sqrt().clamp_min(1e-6)
        wanted = torch.minimum(torch.maximum(scale, 0.75 * self.ratio), 1.33 * self.ratio)
        self._head_matrix = matrix * (wanted / scale)[:, None, None]
        # The face must hit the face; the neck only turns it.
        weight = torch.cat([common, no_face], 1)
        weight = (weight / weight.sum(1, keepdim=True))[..., None]
        self._head_source = (images[:, :6] * weight).sum(1)
        self._head_target = (points[:, :6] * weight).sum(1)

    def carried_face(self) -> Tensor:
        """Where the source's five facial joints come to lie in the target, `(B, 5, 2)` in the order of `FACE`.

        A mirrored head brings the right eye and ear to where the left ones were.
        """
        offset = self.source.xy[:, FACE] - self._head_source[:, None]
        inverse = torch.linalg.inv(self._head_matrix)
        face = torch.einsum("bij,bnj->bni", inverse, offset) + self._head_target[:, None]
        swapped = face[:, [0, 2, 1, 4, 3]]
        return torch.where(self.head_mirrored[:, None, None], swapped, face)

    def move_head(self, offset: Tensor) -> None:
        """Moves the head in the target by `(B, 2)`."""
        self._head_target = self._head_target + offset

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Source points `(B, 10, M, 2)` and distances from the target's parts `(B, 10, M)` in half-widths.

        Args:
            points (`(B, M, 2)` float): target points in frame coordinates.
        """
        trunk = []
        for matrix, from_, to in (
            (self._torso_matrix, self._torso_target, self._torso_source),
            (self._head_matrix, self._head_target, self._head_source),
        ):
            trunk.append(torch.einsum("bij,bmj->bmi", matrix, points - from_[:, None]) + to[:, None])
        along, aside, length = _limb_coordinates(points, *self._bones_target)
        bone = self._chosen_end - self._chosen_start
        source_length = bone.norm(dim=-1, keepdim=True)
        axis = torch.where(
            source_length > 1e-6, bone / source_length.clamp_min(1e-6), bone.new_tensor([0.0, 1.0])
        )
        ratio = self.ratio[:, None, None]
        stretch = (source_length / length.clamp_min(1e-6)).minimum(3.5 * ratio).maximum(0.3 * ratio)
        inside = along.clamp_min(0.0).minimum(length)
        on_axis = inside * stretch + (along - inside) * ratio
        off_axis = aside * ratio * self._side_sign
        limbs = (
            self._chosen_start[:, :, None]
            + on_axis[..., None] * axis[:, :, None]
            + off_axis[..., None] * _perp(axis)[:, :, None]
        )
        maps = torch.cat([torch.stack(trunk, 1), limbs], 1)
        # What the photo lacks altogether is taken near the torso, where colours are at least the person's.
        maps = torch.where(self.in_source[:, :, None, None], maps, maps[:, :1])
        return maps, _part_distances(points, self.target, self._bones_target)

    def ownership(self, size: int) -> Tensor:
        """For every source pixel how much it may be taken by each part: `(B, 10, size, size)`, 0..1.

        1 where the part is the nearest, falling slowly towards parts that share a joint and fast towards others, so
        that a leg does not take the other leg along. Already chosen for the limbs that stand in for missing ones.
        """
        batch = len(self.ratio)
        points = pixel_grid(size).to(self.ratio.dtype).expand(batch, -1, -1)
        squared = _part_distances(points, self.source, self._bones_source) ** 2
        # Arms lie in front of the torso more often than behind it.
        squared = torch.cat([squared[:, :2], squared[:, 2:6] * 0.7, squared[:, 6:]], 1)
        known = torch.cat([torch.ones_like(self._source_bones[:, :2]), self._source_bones], 1)
        squared = torch.where(known[..., None], squared, squared.new_tensor(1e4))
        owned = []
        for part, near in enumerate(_NEIGHBOURS):
            strange = [other for other in range(NUM_PARTS) if other != part and other not in near]
            soft = (squared[:, part] - squared[:, near].amin(1)).clamp_min(0)
            hard = (squared[:, part] - squared[:, strange].amin(1)).clamp_min(0)
            owned.append(torch.exp(-(1.0 * soft + 4.0 * hard).clamp(max=30)))
        own = _smoothstep(torch.stack(owned, 1), 0.1, 0.45)
        rows = torch.arange(batch)[:, None]
        return (own[rows, self._owner] * self.in_source[:, :, None]).reshape(batch, NUM_PARTS, size, size)

    def change(self) -> Tensor:
        """How far the target pose is from the source's, `(B,)`, 0 (the same in its frame) to 1.

        The networks' predictions count this much: the photo's own pose comes back untouched.
        """
        source, target = self.source, self.target
        both, either = source.known & target.known, source.known | target.known
        moved = (target.xy - source.xy).norm(dim=-1) / target.torso[:, None]
        moved = torch.where(both, moved, either.to(moved.dtype))
        mean = (moved**2).sum(1) / either.sum(1).clamp_min(1)
        return 1 - torch.exp(-mean / 0.03**2)


def pixel_grid(size: int, rows: slice = slice(None)) -> Tensor:
    """Centres of a frame's pixels `(1, M, 2)`, row by row, in frame coordinates."""
    centres = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(centres, centres[rows], indexing="xy"), -1).reshape(1, -1, 2)


def _sample(picture: Tensor, points: Tensor) -> Tensor:
    """Bilinear values `(B, C, ...)` of `(B, C, h, w)` at frame points `(B, ..., 2)`; 0 outside."""
    grid = points.reshape(len(points), -1, 1, 2) * 2 - 1
    values = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.reshape(len(points), picture.shape[1], *points.shape[1:-1])


def _limb_prior(distance: Tensor, coverage: Tensor, in_target: Tensor) -> tuple[Tensor, Tensor]:
    """What the part maps alone say: logits of the parts and each part's own alpha, `(B, 10, M)` both.

    Args:
        distance (`(B, 10, M)`): in half-widths.
        coverage (`(B, 10, M)`): ownership times matte at the source points.
        in_target (`(B, 10)` bool).
    """
    reach = 1 - _smoothstep(distance, 2.2, 2.8)
    alpha = coverage * reach * in_target[..., None]
    front = distance.new_tensor([0.0, 0.5] + [1.0] * 4 + [0.0] * 4)[:, None]
    logits = front - 1.5 * (distance**2).clamp(max=16) + 3.0 * torch.log(alpha + 0.03)
    return logits.masked_fill(~in_target[..., None], -60.0), alpha


def _smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


# ------------------------------------------------------------------------------------------------------- the network


class Prediction(NamedTuple):
    """What `Motion` says about a batch of targets, at 64 px unless noted."""

    maps: PartMaps
    share: Tensor  # (B, 10, 64, 64), each part's share in the map
    part_logits: Tensor  # (B, 10, 64, 64), added to the prior of `_limb_prior`
    correction: Tensor  # (B, 2, 64, 64), added to the blended map, frame units
    flow: Tensor  # (B, 64, 64, 2), the resulting source points
    alpha: Tensor  # (B, 1, 256, 256), logits
    visible: Tensor  # (B, 1, 64, 64), logits
    colour: Tensor  # (B, 3, 64, 64), 0..1


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True)
    )


class Motion(nn.Module):
    """U-Net at 64 px over the parts' warped photos, with an alpha head at 256 px.

    64 px are enough to say which part a pixel belongs to and how its map is off: the maps themselves are analytic
    and are evaluated at the layer's resolution. Only the outline needs more, and a head of its own gives it.

    Args:
        channels (`tuple` of 4 `int`, *optional*): width at 64, 32, 16 and 8 px.
        alpha_channels (`int`, *optional*, defaults to 24): width of the alpha head.
    """

    SIZE = 64
    PHOTO = 256
    PER_PART = 9  # warped premultiplied RGBA, source point, distance, ownership, prior logit
    MAX_CORRECTION = 0.15  # of the frame

    def __init__(self, channels: tuple[int, ...] = (40, 64, 96, 128), alpha_channels: int = 24) -> None:
        super().__init__()
        self.config: dict[str, object] = {"channels": list(channels), "alpha_channels": alpha_channels}
        steps = range(len(channels) - 1)
        self.stem = _block(NUM_PARTS * self.PER_PART + 5, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(_block(channels[i], channels[i + 1], 2), _block(channels[i + 1], channels[i + 1]))
            for i in steps
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                _block(channels[i] + channels[i + 1], channels[i]), _block(channels[i], channels[i])
            )
            for i in steps
        )
        self.head = nn.Conv2d(channels[0], NUM_PARTS + 2 + 1 + 1 + 3, 3, 1, 1)
        self.narrow = nn.Conv2d(channels[0], 16, 1)
        last = nn.Conv2d(alpha_channels, 4, 3, 1, 1)
        # The photo's matte, carried at 256 px along the map, as 2x2 blocks of a 128-px grid.
        self.alpha = nn.Sequential(_block(16 + 4, alpha_channels), last)
        for layer in (self.head, last):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(
        self, source: Tensor, source_xy: Tensor, source_known: Tensor, target_xy: Tensor, target_known: Tensor
    ) -> Prediction:
        """Predicts the map of target points into the source.

        Args:
            source (`(B, 4, 256, 256)` float32): premultiplied RGBA of the photo in its frame, 0..1.
            source_xy, target_xy (`(B, 18, 2)` float32): joints in frame coordinates.
            source_known, target_known (`(B, 18)` bool).
        """
        size, batch = self.SIZE, len(source)
        with torch.no_grad():
            maps = PartMaps(source_xy, source_known, target_xy, target_known)
            small = F.avg_pool2d(source, self.PHOTO // size)
            points, distance = maps.at(pixel_grid(size).expand(batch, -1, -1))
            own = maps.ownership(size)
            warped = torch.stack([_sample(small, points[:, part]) for part in range(NUM_PARTS)], 1)
            owned = _sample(own.reshape(-1, 1, size, size), points.reshape(batch * NUM_PARTS, -1, 2))
            owned = owned.reshape(batch, NUM_PARTS, -1)
            prior, prior_alpha = _limb_prior(distance, owned * warped[:, :, 3], maps.in_target)
            drawn = maps.in_target[..., None]
            planes = [
                (warped * drawn[:, :, None]).flatten(1, 2),
                (points - 0.5).clamp(-1, 1).transpose(2, 3).flatten(1, 2),
                torch.exp(-(distance**2) / 2) * drawn,
                owned * drawn,
                prior.clamp_min(-20) / 10,
                small.flatten(2),
                prior_alpha.amax(1, keepdim=True),
            ]
            features = torch.cat(planes, 1).reshape(batch, -1, size, size)
            prior = prior.reshape(batch, NUM_PARTS, size, size)
            points = points.reshape(batch, NUM_PARTS, size, size, 2)
            change = maps.change()[:, None, None, None]
        x = self.stem(features.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        for i in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.up[i](torch.cat([x, skips[i]], 1))
        out = self.head(x).float()
        part_logits = out[:, :NUM_PARTS]
        correction = torch.tanh(out[:, NUM_PARTS : NUM_PARTS + 2]) * self.MAX_CORRECTION * change
        share = (part_logits + prior).softmax(1)
        flow = (share[..., None] * points).sum(1) + correction.permute(0, 2, 3, 1)
        with torch.no_grad():
            fine = F.interpolate(
                flow.permute(0, 3, 1, 2), size=self.PHOTO, mode="bilinear", align_corners=False
            )
            carried = F.pixel_unshuffle(_sample(source[:, 3:], fine.permute(0, 2, 3, 1)), 2)
        outline = F.interpolate(
            torch.cat([self.narrow(x), out[:, NUM_PARTS + 2 : NUM_PARTS + 3].to(x.dtype)], 1),
            scale_factor=2, mode="bilinear", align_corners=False,
        )  # fmt: skip
        fine_logits = self.alpha(torch.cat([outline[:, :-1], carried.to(x.dtype)], 1))
        alpha = F.pixel_shuffle((fine_logits + outline[:, -1:]).float(), 2)
        visible, colour = out[:, NUM_PARTS + 3 : NUM_PARTS + 4], torch.sigmoid(out[:, NUM_PARTS + 4 :])
        return Prediction(maps, share, part_logits, correction, flow, alpha, visible, colour)


# ---------------------------------------------------------------------------------------------- applied to photographs


def person_frame(skeleton: Skeleton) -> Frame:
    """The square around a person: its known joints with room for hair, hands and feet.

    Raises:
        BadInput: no joint is known, or the square has more than 6,000 px a side or fewer than 8.
    """
    x0, y0, x1, y1 = skeleton.box
    torso = float(torso_length(*_tensors(skeleton))[0])
    size = math.ceil(max(x1 - x0, y1 - y0) + 2 * _MARGIN * torso)
    if not 8 <= size <= _MAX_LAYER:
        raise BadInput(
            f"skeleton: the person would be {size} px large, not 8 to {_MAX_LAYER}",
            "Scale the skeleton to the picture",
            "skeleton",
        )
    return Frame(math.floor((x0 + x1 - size) / 2), math.floor((y0 + y1 - size) / 2), size)


def _tensors(skeleton: Skeleton, frame: Frame | None = None) -> tuple[Tensor, Tensor]:
    """`(1, 18, 2)` float32 joints, in the frame's coordinates if one is given, and `(1, 18)` bool."""
    xy = skeleton.xy if frame is None else (skeleton.xy - (frame.x, frame.y)) / frame.size
    return torch.tensor(xy, dtype=torch.float32)[None], torch.tensor(skeleton.visible)[None]


def _crop(picture: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """The frame's pixels `(size, size, C)`; 0 outside of the picture."""
    height, width, channels = picture.shape
    out = np.zeros((frame.size, frame.size, channels), np.float32)
    x0, y0 = max(frame.x, 0), max(frame.y, 0)
    x1, y1 = min(frame.x + frame.size, width), min(frame.y + frame.size, height)
    if x1 > x0 and y1 > y0:
        out[y0 - frame.y : y1 - frame.y, x0 - frame.x : x1 - frame.x] = picture[y0:y1, x0:x1]
    return out


def _resized(picture: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    shrinking = size < picture.shape[0]
    return np.asarray(
        cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR),
        np.float32,
    )


def spread_colours(rgb: NDArray[np.float32], matte: NDArray[np.float32]) -> NDArray[np.float32]:
    """The person's colours, continued over the matte's edge and beyond.

    At its edge a photo mixes the person with what stood behind; sampled as it is, that mixture would be a halo in
    another scene. Pixels that are not safely inside take the colour of the nearest that are, by a pull-push pyramid
    (Gortler et al., The Lumigraph, section 3.4).

    Args:
        rgb (`(h, w, 3)` float32).
        matte (`(h, w)` float32).

    Returns `(h, w, 3)`; unchanged where the matte is well inside.
    """
    # An edge is a few pixels wide whatever the photo's size; how many follows from the matte itself.
    inside = np.clip((matte - 0.9) / 0.1, 0, 1).astype(np.float32)
    if inside.max() == 0:
        return rgb
    levels = [np.dstack([rgb * inside[..., None], inside])]
    while min(levels[-1].shape[:2]) > 2:
        levels.append(cv2.pyrDown(levels[-1]))
    coarse = levels[-1][..., :3] / np.maximum(levels[-1][..., 3:], 1e-6)
    for level in reversed(levels[:-1]):
        coarse = cv2.resize(coarse, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        share = np.clip(level[..., 3:] * 4, 0, 1) if level is not levels[0] else level[..., 3:]
        coarse = level[..., :3] / np.maximum(level[..., 3:], 1e-6) * share + coarse * (1 - share)
    return coarse


def missing_parts(source: Skeleton, target: Skeleton) -> list[str]:
    """Which limbs the target shows that the photo has neither on this nor on the other side, nor their parents.

    Returns words for a sentence, such as `["legs"]`; empty when the photo has what is needed.
    """
    needed = {"arms": (2, 3, 4, 5), "legs": (6, 7, 8, 9)}
    maps = PartMaps(*_tensors(source), *_tensors(target))
    lacking = (maps.in_target & ~maps.in_source)[0]
    words = [word for word, parts in needed.items() if lacking[list(parts)].any()]
    known = maps.source.known[0]
    if not known[list(FACE)].any() and maps.target.known[0, list(FACE)].any():
        words.append("face")
    return words


def with_carried_face(source: Skeleton, target: Skeleton) -> Skeleton:
    """The target with the face that the photo's head has there: pixels can be moved, but not turned out of the plane.

    Args:
        source (`Skeleton`): the person in the photo.
        target (`Skeleton`): the pose wanted. Unchanged where the photo or the pose shows no face.
    """
    joints = list(FACE)
    if not source.visible[joints].any() or not target.visible[joints].any():
        return target
    frame = person_frame(target)
    maps = PartMaps(*_tensors(source, person_frame(source)), *_tensors(target, frame))
    face = maps.carried_face()[0].double().numpy() * frame.size + (frame.x, frame.y)
    known = source.visible[joints]
    if maps.head_mirrored[0]:
        known = known[[0, 2, 1, 4, 3]]
    xy, visible, score = target.xy.copy(), target.visible.copy(), target.score.copy()
    xy[joints], visible[joints], score[joints] = face, known, np.where(known, target.score.max(), 0.0)
    return Skeleton(xy, visible, score)


class MotionTransfer:
    """Paints the actor of a photo in a new pose.

    Args:
        name (`str`, *optional*, defaults to `"motion"`): installed weights of stage `transfer`, or `"limbs"` for the
            part maps alone, without a network.
    """

    def __init__(self, name: str = "motion") -> None:
        self.network = None if name == "limbs" else weights.load(Motion, "transfer", name)

    @torch.inference_mode()
    def transfer(
        self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton, target: Skeleton
    ) -> Person:
        """The person of `rgb` in the pose `target`, at the target's scale.

        Args:
            rgb (`(H, W, 3)` uint8): the photo.
            matte (`(H, W)` float32): how much of each pixel is the person, 0..1.
            source (`Skeleton`): the person's joints in the photo.
            target (`Skeleton`): the pose, in pixels of the scene. Limbs whose joints are unknown are not drawn, nor
                are those that `missing_parts` names.

        Raises:
            NoActor: the matte is empty around the source skeleton.
            BadInput: a skeleton without joints, or of an impossible size.
        """
        source_frame, target_frame = person_frame(source), person_frame(target)
        photo = np.dstack([rgb.astype(np.float32) / 255, matte.astype(np.float32)])
        photo = _crop(photo, source_frame)
        if photo[..., 3].max() < 0.5:
            raise NoActor(
                "actor photo: the matte shows no person at the skeleton", "Choose another photo", "actor"
            )
        source_xy, source_known = _tensors(source, source_frame)
        target_xy, target_known = _tensors(target, target_frame)
        maps = PartMaps(source_xy, source_known, target_xy, target_known)
        # A limb of which the photo holds nothing is left out: painted from nothing it would be a ghost.
        for part in (maps.in_target & ~maps.in_source)[0].nonzero():
            target_known[0, _BONES[int(part) - 2][1]] = False
        maps = PartMaps(source_xy, source_known, target_xy, target_known)
        # Photo pixels per layer pixel; a photo that is larger is reduced first, so that reading it does not alias.
        per_pixel = float(maps.ratio[0]) * source_frame.size / target_frame.size
        straight = np.dstack([spread_colours(photo[..., :3], photo[..., 3]), photo[..., 3]])
        if per_pixel > 1:
            straight = _resized(straight, max(8, round(source_frame.size / per_pixel)))
        prediction = None
        if self.network is not None:
            premultiplied = photo.copy()
            premultiplied[..., :3] *= premultiplied[..., 3:]
            small = torch.from_numpy(_resized(premultiplied, Motion.PHOTO)).permute(2, 0, 1)[None]
            prediction = self.network(small, source_xy, source_known, target_xy, target_known)
        rgba = _render(straight, maps, prediction, target_frame.size)
        rows, columns = (np.flatnonzero(rgba[..., 3].any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            return Person(np.zeros((1, 1, 4), np.float32), target_frame.x, target_frame.y)
        top, left = int(rows[0]), int(columns[0])
        cut = rgba[top : rows[-1] + 1, left : columns[-1] + 1]
        return Person(np.ascontiguousarray(cut), target_frame.x + left, target_frame.y + top)


def _between(planes: Tensor, points: Tensor) -> Tensor:
    """Bicubic values `(C, M)` of `(1, C, n, n)` at frame points `(1, M, 2)`."""
    grid = points[:, :, None] * 2 - 1
    return F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)[0, :, :, 0]


def _read_photo(photo: NDArray[np.float32], points: Tensor) -> Tensor:
    """Bicubic colours and matte `(M, 4)` of the photo `(n, n, 4)` at frame points `(M, 2)`, 0..1."""
    # OpenCV's limit on a side is 32,767, so the list of points is folded into a rectangle.
    width = 4096
    read = np.zeros((-(-len(points) // width) * width, 2), np.float32)
    read[: len(points)] = points.numpy() * photo.shape[0] - 0.5
    x, y = (np.ascontiguousarray(read[:, axis].reshape(-1, width)) for axis in (0, 1))
    taken = cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.asarray(taken, np.float32).reshape(-1, 4)[: len(points)]).clamp(0, 1)


def _occupied(maps: PartMaps, prediction: Prediction | None, size: int) -> NDArray[np.int64]:
    """Flat indices of the layer's pixels that may be covered, in order; most of a person's frame is empty."""
    coarse = 64
    _, distance = maps.at(pixel_grid(coarse))
    if prediction is None:
        maybe = distance.amin(1) < 2.9
    else:
        likely = F.max_pool2d(prediction.alpha, Motion.PHOTO // coarse) > -4.0
        maybe = (distance[:, 1] < 2.9) | likely.reshape(1, -1)
    if float(maps.change()) < 0.99:
        # Close to the photo's own pose the photo's matte counts wherever it is.
        maybe = torch.ones_like(maybe)
    maybe = F.max_pool2d(maybe.reshape(1, 1, coarse, coarse).float(), 3, 1, 1)
    return np.flatnonzero(F.interpolate(maybe, size=(size, size), mode="nearest").numpy())


_OWNERSHIP_SIZE = 128
_CHUNK = 1 << 17
"""Layer pixels computed at a time: bounds the memory of the ten maps."""


def _render(
    photo: NDArray[np.float32], maps: PartMaps, prediction: Prediction | None, size: int
) -> NDArray[np.float32]:
    """The layer `(size, size, 4)`, premultiplied.

    Args:
        photo (`(n, n, 4)` float32): straight colours, continued beyond the matte, and the matte.
        maps (`PartMaps`): of one person.
        prediction (`Prediction`): of the same; `None`: the part maps alone.
        size (`int`): side of the target's frame in pixels.
    """
    change = maps.change()
    # Each part's share of the source pixels, cut to the person: enough to say what may be moved.
    matte = torch.from_numpy(_resized(photo[..., 3], 2 * _OWNERSHIP_SIZE))
    own = F.interpolate(maps.ownership(_OWNERSHIP_SIZE), scale_factor=2, mode="bilinear", align_corners=False)
    own = (own * matte)[0, :, None]
    if prediction is not None:
        painted = _painted_like(prediction, photo)
        planes = torch.cat([prediction.part_logits, prediction.correction, prediction.visible, painted], 1)
    # A head is moved whole, with its hair or hat, even when it should turn: half of one painted has no features.
    # Only a face seen from the front that must be seen from behind is painted over.
    keep_head = float(~maps.source.known[0, NOSE] | maps.target.known[0, NOSE])
    if prediction is not None:
        maps.move_head(keep_head * _head_offset(maps, prediction, own))
    out = np.zeros((size * size, 4), np.float32)
    pixels = _occupied(maps, prediction, size)
    for start in range(0, len(pixels), _CHUNK):
        chunk = pixels[start : start + _CHUNK]
        at = (
            torch.from_numpy(np.stack([chunk % size, chunk // size], -1).astype(np.float32) + 0.5)[None]
            / size
        )
        points, distance = maps.at(at)
        points = points[0]
        logits, part_alpha = _limb_prior(distance, _sample(own, points)[:, 0][None], maps.in_target)
        logits, part_alpha = logits[0], part_alpha[0]
        if prediction is not None:
            more, correction, visible, painted = _between(planes, at).split([NUM_PARTS, 2, 1, 3])
            logits = logits + more
        share = logits.softmax(0)
        flow = (share[..., None] * points).sum(0)
        if prediction is not None:
            # A face that is bent is no longer that person's.
            own_head = keep_head * share[1]
            flow = flow + correction.T * (1 - own_head)[:, None]
        carried = _read_photo(photo, flow)
        colour = carried[:, :3]
        if prediction is None:
            alpha = part_alpha.amax(0)
        else:
            # Off the head the wrong side of a garment beats a smooth guess: it has the photo's grain and folds.
            seen = torch.sigmoid(visible[0] + _TRUST * (1 - share[1])) * _smoothstep(carried[:, 3], 0.05, 0.5)
            head = own_head * part_alpha[1] * (1 - _smoothstep(distance[0, 1], 1.3, 1.8))
            above = (at[0] - maps.target.xy[0, NECK]).norm(dim=-1) / maps.target.torso[0]
            ghost = own_head * _smoothstep(above, 0.2, 0.35) * (1 - seen)
            seen = (1 - change * (1 - seen.maximum(head)))[:, None]
            colour = colour * seen + painted.T.clamp(0, 1) * (1 - seen)
            # An outline that the network is unsure of is a wide ramp: a sharp edge in its middle looks better.
            alpha = _smoothstep(torch.sigmoid(_between(prediction.alpha, at)[0]), *_EDGE)
            alpha = (alpha * (1 - ghost)).maximum(head)
            if not maps.in_target.all():
                # Beside a limb that is left out the network has learned nothing.
                drawn = distance[0].masked_fill(~maps.in_target[0, :, None], math.inf)
                alpha = alpha * (1 - _smoothstep(drawn.amin(0), 1.3, 1.9))
        alpha = (carried[:, 3] * (1 - change) + alpha * change)[:, None]
        out[chunk] = torch.cat([colour * alpha, alpha], 1).numpy()
    return _without_specks(out.reshape(size, size, 4))


def _head_offset(maps: PartMaps, prediction: Prediction, own: Tensor) -> Tensor:
    """How far `(1, 2)` the head must move sideways to lie where the network expects a head.

    A face in profile lies in front of its head's middle, one from the front in it: laid face on face, a head that
    should have turned would stick out of its body.
    """
    grid = pixel_grid(Motion.SIZE)
    points, distance = maps.at(grid)
    lies = _sample(own[1:2], points[:, 1])[0, 0] * (distance[0, 1] < 2.0)
    alpha = torch.sigmoid(F.avg_pool2d(prediction.alpha, Motion.PHOTO // Motion.SIZE)).reshape(-1)
    expected = alpha * prediction.share[0, 1].reshape(-1) * (distance[0, 1] < 2.0)
    if min(lies.sum(), expected.sum()) < 4:
        return torch.zeros(1, 2)
    middle, wanted = ((grid[0] * mask[:, None]).sum(0) / mask.sum() for mask in (lies, expected))
    side = _perp(_unit(maps.target.head[0] - maps.target.xy[0, NECK]))
    reach = 0.25 * float(maps.target.torso)
    return ((wanted - middle) @ side).clamp(-reach, reach) * side * maps.change()[:, None]


_EDGE = (0.36, 0.64)
_TRUST = 1.5


def _painted_like(prediction: Prediction, photo: NDArray[np.float32]) -> Tensor:
    """The painted colours `(1, 3, 64, 64)`, moved by what they miss at the nearest places that the photo shows.

    Head and body separately: hair must not take the collar's colour.
    """
    small = torch.from_numpy(_resized(photo, Motion.PHOTO)).permute(2, 0, 1)[None]
    carried = _sample(small, prediction.flow)
    missed = (carried[:, :3] - prediction.colour)[0].permute(1, 2, 0).numpy()
    sure = torch.sigmoid(prediction.visible[0, 0]) * carried[0, 3]
    head = prediction.share[0, 1]
    moved = prediction.colour
    for part in (head, 1 - head):
        known = _smoothstep(sure * part, 0.4, 0.8).numpy()
        if known.max() == 1:
            moved = moved + 0.7 * torch.from_numpy(spread_colours(missed, known)).permute(2, 0, 1) * part
    return moved.clamp(0, 1)


def _without_specks(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clears what is fainter than 8-bit alpha can show, and what hangs free and is under a fiftieth of the person."""
    faint = layer[..., 3] > 1 / 255
    count, labels, stats, _ = cv2.connectedComponentsWithStats(faint.astype(np.uint8), connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    area[0] = 0
    keep = area > area.max() / 50 if count > 1 else area > 0
    layer[~keep[labels]] = 0
    return layer


# ---------------------------------------------------------------------------------------------------------- training


class Batch(NamedTuple):
    """Training pairs in their person frames."""

    source: Tensor  # (B, 4, 256, 256) premultiplied, as a photo and its estimated matte would be
    source_xy: Tensor  # (B, 18, 2)
    source_known: Tensor  # (B, 18) bool
    target: Tensor  # (B, 4, 256, 256) premultiplied, the truth
    target_xy: Tensor
    target_known: Tensor
    flow: Tensor  # (B, 128, 128, 2), source points
    flow_weight: Tensor  # (B, 128, 128): how exact the flow is, 0 where there is none
    seen: Tensor  # (B, 128, 128) bool: visible in the source
    counts: Tensor  # (B, 1, 256, 256): 0 where the target was cut off and nothing is asked


_Pairs = dict[str, NDArray[np.generic]]


def _read_pairs(file: Path) -> _Pairs:
    with np.load(file) as archive:
        return {key: archive[key] for key in archive.files}


def _pair_files(folder: Path) -> list[Path]:
    # A hidden file is one that is still being written.
    return sorted(file for file in folder.glob("*.npz") if not file.name.startswith("."))


def stream_pairs(folder: Path, batch: int, generator: np.random.Generator) -> Iterator[_Pairs]:
    """Batches from the pair files of a folder, which may still be growing.

    Six files are held in memory; now and then one is exchanged for another, a new one first.
    """
    held: list[_Pairs] = []
    used: dict[Path, int] = {}
    step = 0
    while True:
        if step % 8 == 0:
            files = _pair_files(folder)
            if not files:
                raise BadInput(
                    f"{folder}: holds no pair files", "Run `walkon data people` first", str(folder)
                )
            least = min(used.get(file, 0) for file in files)
            file = generator.choice(np.array([f for f in files if used.get(f, 0) == least], dtype=object))
            if file not in used or len(files) > 6:
                used[file] = used.get(file, 0) + 1
                held = [*held[-5:], _read_pairs(file)]
        choice = [(generator.integers(len(held)), generator.random()) for _ in range(batch)]
        rows = [(held[i], int(share * len(held[i]["src"]))) for i, share in choice]
        yield {key: np.stack([pairs[key][row] for pairs, row in rows]) for key in held[0]}
        step += 1


def _frames(xy: Tensor, known: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Origin `(B, 2)` and size `(B,)` of the person frames, as `person_frame` has them, a little shaken."""
    far = torch.where(known[..., None], xy, xy.new_tensor(-9.0)).amax(1)
    near = torch.where(known[..., None], xy, xy.new_tensor(9.0)).amin(1)
    size = (far - near).amax(1) + 2 * _MARGIN * torso_length(xy, known)
    size = size.clamp(0.05, 4.0) * (1 + jitter * (2 * torch.rand(len(xy)) - 1))
    middle = (far + near) / 2 + size[:, None] * jitter * (torch.rand(len(xy), 2) - 0.5)
    return middle - size[:, None] / 2, size


def _resample(picture: Tensor, origin: Tensor, size: Tensor, mode: str = "bilinear") -> Tensor:
    """`(B, C, n, n)` of the frame cut out of `(B, C, n, n)`."""
    n = picture.shape[-1]
    grid = (origin[:, None] + size[:, None, None] * pixel_grid(n)).reshape(-1, n, n, 2) * 2 - 1
    return F.grid_sample(picture, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _clouds(batch: int, channels: int, cells: int) -> Tensor:
    """Smooth noise `(B, C, 256, 256)`, about 0..1."""
    return F.interpolate(
        torch.rand(batch, channels, cells, cells), size=256, mode="bilinear", align_corners=False
    )


def _photographed(clean: Tensor) -> Tensor:
    """The source as an estimator would cut it from a photo: loose edges that take background along, holes, blur."""
    count = len(clean)
    alpha = clean[:, 3:]
    soft = F.avg_pool2d(F.avg_pool2d(alpha, 5, 1, 2), 5, 1, 2)
    softer = F.avg_pool2d(F.avg_pool2d(soft, 9, 1, 4), 9, 1, 4)
    share = torch.rand(count, 1, 1, 1)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.5, soft, soft + (softer - soft) * share)
    gain, bias = 1 + 3 * torch.rand(count, 1, 1, 1), 0.7 * (_clouds(count, 1, 6) - 0.5)
    estimated = ((estimated - 0.5) * gain + 0.5 + bias).clamp(0, 1)
    holes = _smoothstep(_clouds(count, 1, 9), 0.8, 0.95) * (torch.rand(count, 1, 1, 1) < 0.3)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.2, alpha, estimated * (1 - 0.8 * holes))
    behind = (torch.rand(count, 3, 1, 1) + 0.6 * (_clouds(count, 3, 10) - 0.5)).clamp(0, 1)
    photo = clean[:, :3] + behind * (1 - alpha)
    photo = torch.where(torch.rand(count, 1, 1, 1) < 0.3, F.avg_pool2d(photo, 3, 1, 1), photo)
    photo = (photo + 0.02 * torch.randn_like(photo)).clamp(0, 1)
    return torch.cat([photo * estimated, estimated], 1)


def _forget(known: Tensor, share: float) -> Tensor:
    """Drops single joints, and sometimes a whole end of a limb, as an estimator does."""
    known = known & (torch.rand(known.shape) > share)
    for start, end in ((R_ELBOW, R_WRIST), (L_ELBOW, L_WRIST), (R_KNEE, R_ANKLE), (L_KNEE, L_ANKLE)):
        known[:, end] &= known[:, start] | (torch.rand(len(known)) < 0.5)
    return known


def prepare(pairs: _Pairs, augment: bool) -> Batch:
    """Pairs as read -> person frames, with the faults of real photos if `augment`.

    Args:
        pairs: arrays of the pair files: `src`, `tgt` (uint8 straight RGBA, 256 px), `ks`, `kt` (pixels), `vs`, `vt`
            (0 unknown, 1 occluded, 2 seen), `flow` (source points 0..1), `vis` (0 none, 1 exact, 2 unseen).
    """

    def picture(key: str) -> Tensor:
        rgba = torch.from_numpy(pairs[key]).permute(0, 3, 1, 2).float() / 255
        return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)

    source, target = picture("src"), picture("tgt")
    source_xy, target_xy = (torch.from_numpy(pairs[key]).float() / 256 for key in ("ks", "kt"))
    source_state, target_state = (torch.from_numpy(pairs[key]) for key in ("vs", "vt"))
    flow = torch.from_numpy(pairs["flow"].astype(np.float32)).permute(0, 3, 1, 2)
    state = torch.from_numpy(pairs["vis"])[:, None].float()
    source_known, target_known = source_state > 0, target_state > 0
    count = len(source)
    counts = torch.ones(count, 1, 256, 256)
    rows_256, rows_128 = ((torch.arange(n) + 0.5)[None, None, :, None] / n for n in (256, 128))
    if augment:
        same = torch.rand(count) < 0.05  # the photo's own pose
        target = torch.where(same[:, None, None, None], source, target)
        target_xy = torch.where(same[:, None, None], source_xy, target_xy)
        target_known = torch.where(same[:, None], source_known, target_known)
        grid = pixel_grid(128).reshape(1, 128, 128, 2).permute(0, 3, 1, 2)
        flow = torch.where(same[:, None, None, None], grid, flow)
        state = torch.where(same[:, None, None, None], (F.avg_pool2d(source[:, 3:], 2) > 0.3).float(), state)
        if torch.rand(()) < 0.5:
            source, target, flow, state = (t.flip(3) for t in (source, target, flow, state))
            flow = torch.cat([1 - flow[:, :1], flow[:, 1:]], 1)
            order = list(MIRROR)
            mirror, shift = source_xy.new_tensor([-1.0, 1.0]), source_xy.new_tensor([1.0, 0.0])
            source_xy, target_xy = (xy[:, order] * mirror + shift for xy in (source_xy, target_xy))
            source_known, target_known = source_known[:, order], target_known[:, order]
        # The same change of colour for both; their lights differ already.
        gamma = torch.exp(torch.empty(count, 3, 1, 1).uniform_(-0.5, 0.5))
        swap = torch.randperm(3) if torch.rand(()) < 0.3 else torch.arange(3)
        source, target = (
            torch.cat(
                [(t[:, :3] / t[:, 3:].clamp_min(1e-3)).clamp(0, 1)[:, swap] ** gamma * t[:, 3:], t[:, 3:]], 1
            )
            for t in (source, target)
        )
        # Half-length photos: everything below a line between waist and ankles is not in the picture.
        hips = complete(source_xy, source_known).xy[:, [R_HIP, L_HIP], 1].mean(1)
        line = hips + torso_length(source_xy, source_known) * torch.empty(count).uniform_(-0.3, 1.4)
        line = torch.where((torch.rand(count) < 0.15) & ~same, line, torch.full_like(line, 2.0))
        source = source * (rows_256 < line[:, None, None, None])
        source_known = source_known & (source_xy[..., 1] < line[:, None])
        state = torch.where((state > 0) & (flow[:, 1:] > line[:, None, None, None]), 3.0, state)
        # Targets cut by the scene's edge: nothing is asked of what lies beyond.
        hips = complete(target_xy, target_known).xy[:, [R_HIP, L_HIP], 1].mean(1)
        line = hips + torso_length(target_xy, target_known) * torch.empty(count).uniform_(-0.1, 1.4)
        line = torch.where((torch.rand(count) < 0.08) & ~same, line, torch.full_like(line, 2.0))
        counts = counts * (rows_256 < line[:, None, None, None])
        state = state * (rows_128 < line[:, None, None, None])
        target_known = target_known & (target_xy[..., 1] < line[:, None])
        occluded = (source_state == 1) & (torch.rand(source_state.shape) < 0.4)
        source_known = torch.where(same[:, None], source_known, _forget(source_known & ~occluded, 0.03))
        faces = torch.ones(18, dtype=torch.bool)
        faces[list(FACE)] = False
        target_known = torch.where(
            same[:, None], target_known, target_known & (faces | (torch.rand(count, 18) > 0.05))
        )
        shake = torch.where(torch.rand(count) < 0.2, 0.05, 0.02) * torso_length(source_xy, source_known)
        source_shake = torch.randn(count, 18, 2) * shake[:, None, None]
        target_shake = torch.randn(count, 18, 2) * shake[:, None, None] * 0.6
        source_xy = source_xy + source_shake
        target_xy = target_xy + torch.where(same[:, None, None], source_shake, target_shake)
        source = _photographed(source)
    jitter = 0.06 if augment else 0.0
    origin, size = _frames(source_xy, source_known, jitter)
    target_origin, target_size = _frames(target_xy, target_known, jitter)
    if augment:
        target_origin = torch.where(same[:, None], origin, target_origin)
        target_size = torch.where(same, size, target_size)
    source = _resample(source, origin, size)
    target = _resample(target, target_origin, target_size)
    counts = (
        torch.ones_like(counts) if not augment else _resample(counts, target_origin, target_size, "nearest")
    )
    moved = _resample(torch.cat([flow, state], 1), target_origin, target_size, "nearest")
    state = moved[:, 2].round()
    flow = (moved[:, :2].permute(0, 2, 3, 1) - origin[:, None, None]) / size[:, None, None, None]
    flow_weight = (state == 1).float() + 0.2 * (state == 2).float()
    return Batch(
        source, (source_xy - origin[:, None]) / size[:, None, None], source_known,
        target, (target_xy - target_origin[:, None]) / target_size[:, None, None], target_known,
        flow, flow_weight, state == 1, counts,
    )  # fmt: skip


def losses(network: Motion, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar: error of the map, of alpha (edges count more), of the colour, of visibility; `total`."""
    out = network(batch.source, batch.source_xy, batch.source_known, batch.target_xy, batch.target_known)
    truth = batch.target[:, 3:]
    step = Motion.PHOTO // Motion.SIZE
    small = F.avg_pool2d(batch.target, step)
    person = small[:, 3:] * (F.avg_pool2d(batch.counts, step) > 0.5)
    area = person.sum() + 1
    # The true map is at 128 px; an average would mix limbs, so every other point is taken.
    points, weight = batch.flow[:, ::2, ::2], batch.flow_weight[:, ::2, ::2]
    flow = ((out.flow - points).abs().sum(-1) * weight).sum() / (weight.sum() + 1)
    edge = F.max_pool2d(truth, 7, 1, 3) + F.max_pool2d(-truth, 7, 1, 3)
    weight = (1 + 3 * edge) * batch.counts
    alpha = F.binary_cross_entropy_with_logits(out.alpha, truth, weight, reduction="sum") / weight.sum()
    carried = _sample(F.avg_pool2d(batch.source, step), out.flow)
    seen = torch.sigmoid(out.visible) * _smoothstep(carried[:, 3:], 0.05, 0.5)
    straight = (carried[:, :3] / carried[:, 3:].clamp_min(0.05)).clamp(0, 1)
    wanted = small[:, :3] / small[:, 3:].clamp_min(0.05)
    colour = ((straight * seen + out.colour * (1 - seen) - wanted).abs() * person).sum() / area / 3
    painted = ((out.colour - wanted).abs() * person).sum() / area / 3
    truly_seen = batch.seen[:, ::2, ::2].float()
    visible = F.binary_cross_entropy_with_logits(out.visible[:, 0], truly_seen, person[:, 0], reduction="sum")
    visible = visible / area
    total = 5 * flow + 2 * alpha + 3 * colour + 0.5 * painted + 0.2 * visible
    return {
        "total": total,
        "flow": flow,
        "alpha": alpha,
        "colour": colour,
        "painted": painted,
        "visible": visible,
    }


def train(
    pairs: Path,
    out: Path,
    minutes: float,
    batch: int = 8,
    rate: float = 2e-3,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Trains `Motion` on pair files, or goes on from `out/checkpoint.pt`.

    Args:
        pairs (`Path`): folder with `train/*.npz` and `val/*.npz`; files may still be added.
        out (`Path`): gets `curve.jsonl`, and every three minutes `checkpoint.pt` and the weights to install, `motion/`.
        minutes (`float`): in all, resumed runs included; the rate falls to nothing along a cosine.
        rate (`float`): AdamW's learning rate at the start.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    network, average = Motion(), Motion().eval()
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    step, before = 0, 0.0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step, before = state["step"], state["seconds"]
    else:
        average.load_state_dict(network.state_dict())
    torch.manual_seed(seed + step)
    stream = stream_pairs(pairs / "train", batch, np.random.default_rng(seed + step))
    start = last = time.monotonic()
    sums: dict[str, float] = {}
    with (out / "curve.jsonl").open("a") as curve:
        while True:
            seconds = before + time.monotonic() - start
            done = seconds / (60 * minutes)
            if done < 1:
                data = prepare(next(stream), augment=True)
                for group in optimiser.param_groups:
                    group["lr"] = rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
                with torch.autocast("cpu", torch.bfloat16):
                    parts = losses(network, data)
                optimiser.zero_grad()
                parts["total"].backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                step += 1
                keep = min(0.995, (step + 1) / (step + 20))
                with torch.no_grad():
                    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
                        mean.lerp_(current, 1 - keep)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value.item()
            if step % 25 == 0 or done >= 1:
                line = {key: round(value / 25, 5) for key, value in sums.items()}
                curve.write(json.dumps({"step": step, "seconds": round(seconds), **line}) + "\n")
                curve.flush()
                sums = {}
            if time.monotonic() - last > 180 or done >= 1:
                last = time.monotonic()
                state = {
                    "network": network.state_dict(), "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds,
                }  # fmt: skip
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                weights.save(average, average.config, out / "motion")
                files = _pair_files(pairs / "val")
                if files:
                    held_out = {key: value[:32] for key, value in _read_pairs(files[0]).items()}
                    with torch.no_grad():
                        parts = losses(average, prepare(held_out, augment=False))
                    line = {f"val_{key}": round(value.item(), 5) for key, value in parts.items()}
                    curve.write(json.dumps({"step": step, "seconds": round(seconds), **line}) + "\n")
                    curve.flush()
            if done >= 1:
                return


# -------------------------------------------------------------------------------------------------------- evaluation


def _pasted(person: Person, size: int) -> NDArray[np.float32]:
    """The layer in the square picture `(size, size, 4)` that its place refers to."""
    out = np.zeros((size, size, 4), np.float32)
    height, width = person.rgba.shape[:2]
    x0, y0, x1, y1 = (
        max(person.x, 0),
        max(person.y, 0),
        min(person.x + width, size),
        min(person.y + height, size),
    )
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = person.rgba[y0 - person.y : y1 - person.y, x0 - person.x : x1 - person.x]
    return out


def _copied(photo: NDArray[np.float32], source: Skeleton, target: Skeleton) -> Person:
    """The person as it stands in the photo, scaled and moved to the target's frame: what any transfer must beat."""
    to = person_frame(target)
    return Person(_resized(_crop(photo, person_frame(source)), to.size), to.x, to.y)


def _person_error(layer: NDArray[np.float32], truth: NDArray[np.float32], power: int) -> float:
    """Mean of |difference| ** power over mid-grey, on the true person."""
    difference = np.abs((layer - truth)[..., :3] - 0.5 * (layer - truth)[..., 3:])
    return float((difference[truth[..., 3] > 0.5] ** power).mean())


def evaluate(
    pairs: Path, names: tuple[str, ...] = ("motion", "limbs", "copy"), count: int = 100
) -> dict[str, dict[str, float]]:
    """Measures transfers on held-out rendered pairs through the whole path a photo takes, at 256 px.

    Args:
        pairs (`Path`): folder of pair files.
        names: weights of stage `transfer`, `"limbs"`, or `"copy"` for the source merely moved to the target's place.
        count (`int`): how many pairs, spread evenly over the files.

    Returns per name: `alpha_iou` (at 0.5), `edge_mae` (mean absolute error of alpha within 5 px of the true outline),
    `l1` (on the true person, over mid-grey, 0..1), `own_pose_psnr` (dB, the source's own pose, on the person),
    `milliseconds` per transfer.

    Raises:
        BadInput: the folder holds no pair files.
    """
    files = _pair_files(pairs)
    if not files:
        raise BadInput(f"{pairs}: holds no pair files", "Run `walkon data people` first", str(pairs))
    transfers = {name: None if name == "copy" else MotionTransfer(name) for name in names}
    sums: dict[str, list[list[float]]] = {name: [] for name in names}
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
    each = -(-count // len(files))
    for file in files:
        data = _read_pairs(file)
        for row in np.linspace(0, len(data["src"]) - 1, each).astype(int):
            photo, truth = (data[key][row].astype(np.float32) / 255 for key in ("src", "tgt"))
            rgb, matte = data["src"][row][..., :3], photo[..., 3].copy()
            for picture in (photo, truth):
                picture[..., :3] *= picture[..., 3:]
            source, target = (
                Skeleton(data[xy][row], data[state][row] > 0) for xy, state in (("ks", "vs"), ("kt", "vt"))
            )
            if source.visible.sum() < 4 or target.visible.sum() < 4:
                continue
            solid = truth[..., 3] > 0.5
            edge = (cv2.dilate(truth[..., 3], kernel) > 0.5) & (cv2.erode(truth[..., 3], kernel) < 0.5)
            for name, transfer in transfers.items():
                start = time.perf_counter()
                if transfer is None:
                    person, own = _copied(photo, source, target), _copied(photo, source, source)
                else:
                    person = transfer.transfer(rgb, matte, source, target)
                milliseconds = 1000 * (time.perf_counter() - start)
                if transfer is not None:
                    own = transfer.transfer(rgb, matte, source, source)
                layer, back = _pasted(person, 256), _pasted(own, 256)
                guess = layer[..., 3] > 0.5
                square = _person_error(back, photo, 2)
                sums[name].append([
                    (guess & solid).sum() / max((guess | solid).sum(), 1),
                    np.abs(layer[..., 3] - truth[..., 3])[edge].mean() if edge.any() else 0.0,
                    _person_error(layer, truth, 1),
                    min(60.0, -10 * math.log10(square + 1e-9)),
                    milliseconds,
                ])  # fmt: skip
    keys = ("alpha_iou", "edge_mae", "l1", "own_pose_psnr", "milliseconds")
    return {
        name: dict(zip(keys, (round(float(v), 4) for v in np.mean(rows, 0)), strict=True))
        for name, rows in sums.items()
    }
