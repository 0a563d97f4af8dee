# SPDX-License-Identifier: Apache-2.0
"""Body parts as maps: from two skeletons, where in the photo each point of the target pose comes from.

Conventions: a *frame* is a square around a person; inside it coordinates run from 0 to 1, y downward. Lengths of a
body are given in *torsos*, the distance from neck to mid-hip as it would be seen from the front.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
)

from .body import Body, complete, far_sides, normalised, perp
from .grid import pixel_grid, sample, smoothstep

PARTS = (
    "torso", "head",
    "left upper arm", "left forearm", "right upper arm", "right forearm",
    "left thigh", "left calf", "right thigh", "right calf",
)  # fmt: skip
"""Forearms include the hand, calves the foot: their maps go on beyond the last joint."""
NUM_PARTS = len(PARTS)

BONES = (
    (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST), (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST),
    (L_HIP, L_KNEE), (L_KNEE, L_ANKLE), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE),
)  # fmt: skip
_NUM_BONES = len(BONES)
_OTHER_SIDE = (2, 3, 0, 1, 6, 7, 4, 5)
MIRRORED_PARTS = (0, 1, *(2 + bone for bone in _OTHER_SIDE))
"""Which part is which in a mirror; of joints it is `MIRROR`."""
_PARENT = (0, 0, 2, 2, 4, 4, 6, 6)
_NEIGHBOURS = ((1, 2, 4, 6, 8), (0,), (0, 3), (2,), (0, 5), (4,), (0, 7), (6,), (0, 9), (8,))
"""Parts that share a joint: near it both own the pixels, so that a bent joint opens no gap."""

# Half-widths of a limb at its start and at its end, and how far the hand or foot goes on, all in torsos: clothed
# people of average build; they only decide which limb a pixel belongs to, the photo's matte gives the outline.
_HALF_WIDTH_START = (0.17, 0.13, 0.17, 0.13, 0.24, 0.17, 0.24, 0.17)
_HALF_WIDTH_END = (0.15, 0.19, 0.15, 0.19, 0.18, 0.30, 0.18, 0.30)
_BEYOND_END = (0.0, 0.28, 0.0, 0.28, 0.0, 0.12, 0.0, 0.12)


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
    b = (weight * (perp(x) * images).sum(-1)).sum(1) / norm
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
    side = perp(axis)
    along = torch.einsum("bmc,bkc->bkm", points, axis) - offset
    aside = torch.einsum("bmc,bkc->bkm", points, side) - (start * side).sum(-1, keepdim=True)
    return along, aside, length


def _limb_distance(along: Tensor, aside: Tensor, length: Tensor, torso: Tensor) -> Tensor:
    """Distance from the limb's axis in half-widths: about 1 on the outline. All `(B, 8, M)`, or `(B, 4, M)` of the arms
    alone; torso `(B,)`."""
    unit = torso[:, None, None]
    table = along.new_tensor([_HALF_WIDTH_START, _HALF_WIDTH_END, _BEYOND_END])
    table = table[:, None, : along.shape[1], None]
    # A limb that points at the camera is short, and so is its hand.
    beyond = table[2] * unit * (length / (0.3 * unit)).clamp(max=1.0)
    past = along - along.clamp_min(0.0).minimum(length + beyond)
    toward_end = ((along / length.clamp_min(1e-3) - 0.85) / 0.2).clamp(0, 1)
    half = (table[0] + (table[1] - table[0]) * toward_end) * unit
    return torch.sqrt(aside**2 + past**2 + 1e-12) / half


class _Along(NamedTuple):
    """Where points lie to the parts' axes: neck to mid-hip, chin to forehead, and the bones of the limbs."""

    along: Tensor  # (B, 10, M)
    aside: Tensor  # (B, 10, M)
    length: Tensor  # (B, 10, 1), of the axes

    def of(self, parts: int | slice) -> tuple[Tensor, Tensor, Tensor]:
        """All three of some parts."""
        return self.along[:, parts], self.aside[:, parts], self.length[:, parts]


def _coordinates(points: Tensor, body: Body, bones: tuple[Tensor, Tensor]) -> _Along:
    """Of points `(B, M, 2)` to every part."""
    neck, hip = body.xy[:, NECK], (body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2
    up = normalised(body.head - neck)
    chin, forehead = neck + (body.head - neck) * 0.35, body.head + up * 0.1 * body.torso[:, None]
    start, end = (
        torch.cat([torch.stack(trunk, 1), limbs], 1)
        for trunk, limbs in zip(((neck, chin), (hip, forehead)), bones, strict=True)
    )
    return _Along(*_limb_coordinates(points, start, end))


def _distances(to: _Along, body: Body) -> Tensor:
    """Distances `(B, 10, M)` from every part, in half-widths of the part."""
    unit = body.torso[:, None]
    along, aside, length = to.of(0)
    side = perp(normalised((body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2 - body.xy[:, NECK]))
    shoulders = ((body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER]) * side).sum(-1, keepdim=True).abs()
    hips = ((body.xy[:, L_HIP] - body.xy[:, R_HIP]) * side).sum(-1, keepdim=True).abs()
    wide = torch.maximum(0.55 * shoulders + 0.04 * unit, 0.27 * unit)
    narrow = torch.maximum(0.5 * hips + 0.14 * unit, 0.25 * unit)
    share = (along / length.clamp_min(1e-3)).clamp(0, 1)
    past = along - along.clamp_min(0.0).minimum(length + 0.12 * unit)
    torso = torch.sqrt((aside / (wide + (narrow - wide) * share)) ** 2 + (past / (0.15 * unit)) ** 2 + 1e-12)
    along, aside, length = to.of(1)
    past = along - along.clamp_min(0.0).minimum(length)
    head = torch.sqrt(aside**2 + past**2 + 1e-12) / (0.27 * unit)
    limbs = _limb_distance(*to.of(slice(2, None)), body.torso)
    return torch.cat([torso[:, None], head[:, None], limbs], 1)


def _part_distances(points: Tensor, body: Body, bones: tuple[Tensor, Tensor]) -> Tensor:
    """Distances `(B, 10, M)` of points `(B, M, 2)` from every part, in half-widths of the part."""
    return _distances(_coordinates(points, body, bones), body)


def _bones_of(body: Body) -> tuple[Tensor, Tensor, Tensor]:
    """Start and end `(B, 8, 2)` of the limbs and whether they are known `(B, 8)`. A hip or shoulder may be a guess."""
    start, end = (list(joints) for joints in zip(*BONES, strict=True))
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
        self.ratio = (source.torso / target.torso.clamp_min(1e-6)).clamp(0.1, 10.0)
        rows = torch.arange(len(source_xy), device=source_xy.device)[:, None]
        self._fit_torso()
        self._off, self._trunk_off = self._from_the_trunk()
        self._trunk_still = 1 - smoothstep(self._trunk_off, *_STILL)
        # Of a trunk that does not move the size is known, whatever is made of the limbs.
        a, b, c, d = self._torso_matrix.flatten(1).float().unbind(1)
        size = (a * d - b * c).abs().sqrt().to(self.ratio.dtype)
        self.ratio = ratio = (self.ratio + self._trunk_still * (size - self.ratio)).clamp(0.1, 10.0)
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
        self._on_grid: dict[int, tuple[Tensor, Tensor]] = {}

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
            spine = normalised((body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2 - body.xy[:, NECK])
            across = body.xy[:, L_SHOULDER] - body.xy[:, R_SHOULDER] + body.xy[:, L_HIP] - body.xy[:, R_HIP]
            return spine, (across * perp(spine)).sum(-1) / body.torso

        (spine_s, hand_s), (spine_t, hand_t) = frame(source), frame(target)
        flipped = (hand_s * hand_t < 0) & (hand_s.abs() > 0.15) & (hand_t.abs() > 0.15)
        sign = torch.where(flipped, -1.0, 1.0)[:, None].to(x.dtype)
        side = sign * perp(spine_s)
        rotation = spine_s[:, :, None] * spine_t[:, None] + side[:, :, None] * perp(spine_t)[:, None]
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
        agree = (normalised(up) * normalised(source.head - source.xy[:, NECK])).sum(-1) > 0.75
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

    def face_fit(self) -> Tensor:
        """How well the photo's face lies on the one asked for, `(B,)`: 1 where a head needs no turn, 0 from about 30
        degrees of turn on."""
        both = (self.source.known & self.target.known)[:, FACE].to(self.ratio.dtype)
        offset = self.target.xy[:, FACE] - self._head_target[:, None]
        laid = torch.einsum("bij,bnj->bni", self._head_matrix, offset) + self._head_source[:, None]
        squared = ((laid - self.source.xy[:, FACE]).square().sum(-1) * both).sum(1) / both.sum(1).clamp_min(1)
        return 1 - smoothstep(squared.sqrt() / self.source.torso, 0.05, 0.11)

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
        lie = _coordinates(points, self.target, self._bones_target)
        along, aside, length = lie.of(slice(2, None))
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
        # By planes, which is several times as fast as by pairs.
        (x, y), (start_x, start_y) = axis[..., None].unbind(2), self._chosen_start[..., None].unbind(2)
        limbs = torch.stack([start_x + on_axis * x - off_axis * y, start_y + on_axis * y + off_axis * x], -1)
        maps = torch.cat([torch.stack(trunk, 1), limbs], 1)
        # What the photo lacks altogether is taken near the torso, where colours are at least the person's.
        maps = torch.where(self.in_source[:, :, None, None], maps, maps[:, :1])
        return maps, _distances(lie, self.target)

    def on_grid(self, size: int) -> tuple[Tensor, Tensor]:
        """What `at` says of the pixels of a frame of that size; worked out once."""
        if size not in self._on_grid:
            grid = pixel_grid(size).to(self.ratio.dtype).expand(len(self.ratio), -1, -1)
            self._on_grid[size] = self.at(grid)
        return self._on_grid[size]

    def ownership(self, size: int) -> Tensor:
        """For every source pixel how much it may be taken by each part: `(B, 10, size, size)`, 0..1.

        1 where the part is the nearest, falling slowly towards parts that share a joint and fast towards others, so
        that a leg does not take the other leg along. Already chosen for the limbs that stand in for missing ones.
        """
        batch = len(self.ratio)
        points = pixel_grid(size).to(self.ratio.dtype).expand(batch, -1, -1)
        squared = _part_distances(points, self.source, self._bones_source) ** 2
        # Arms lie in front of the torso more often than behind it, but the far one of somebody seen from the side does
        # not: it would take the face along.
        far = far_sides(self.source).repeat_interleave(2, 1)[..., None]
        on_trunk = (1 - squared[:, :2].amin(1, keepdim=True)).clamp_min(0)
        arms = squared[:, 2:6] * 0.7 + 4 * far * on_trunk
        squared = torch.cat([squared[:, :2], arms, squared[:, 6:]], 1)
        known = torch.cat([torch.ones_like(self._source_bones[:, :2]), self._source_bones], 1)
        squared = torch.where(known[..., None], squared, squared.new_tensor(1e4))
        owned = []
        for part, near in enumerate(_NEIGHBOURS):
            strange = [other for other in range(NUM_PARTS) if other != part and other not in near]
            soft = (squared[:, part] - squared[:, near].amin(1)).clamp_min(0)
            hard = (squared[:, part] - squared[:, strange].amin(1)).clamp_min(0)
            owned.append(torch.exp(-(1.0 * soft + 4.0 * hard).clamp(max=30)))
        own = smoothstep(torch.stack(owned, 1), 0.1, 0.45)
        rows = torch.arange(batch)[:, None]
        return (own[rows, self._owner] * self.in_source[:, :, None]).reshape(batch, NUM_PARTS, size, size)

    def other_side(self, share: Tensor, matte: Tensor) -> PartMaps:
        """The same with every limb taken from the photo's other side, for what the photo hides of its own.

        Each is mirrored or as it is, whichever covers more of the limb asked for: of somebody who faces the camera the
        feet point apart, of somebody seen from the side one way. Trunk and head, and limbs that the other side stands
        in for already, are absent.

        Args:
            share (`(B, 10, n, n)`): of the parts in the target, 0 beyond its outline.
            matte (`(B, 1, m, m)`): of the photo.
        """
        size = share.shape[-1]
        maps = copy.copy(self)
        start, end = self._bones_source
        other = torch.tensor(_OTHER_SIDE)
        maps._chosen_start, maps._chosen_end = start[:, other], end[:, other]
        fresh = self._source_bones[:, other] & (self._owner[:, 2:] != other + 2)
        maps.in_source = torch.cat([torch.zeros_like(self.in_source[:, :2]), fresh], 1)
        maps._owner = torch.cat([self._owner[:, :2], (other + 2).expand(len(start), -1)], 1)
        own = maps.ownership(size) * F.interpolate(matte, size=size, mode="bilinear", align_corners=False)
        covers = []
        for sign in (1.0, -1.0):
            maps._side_sign, maps._on_grid = torch.full_like(self._side_sign, sign), {}
            points, _ = maps.on_grid(size)
            found = sample(own.reshape(-1, 1, size, size), points.reshape(-1, size * size, 2))
            covers.append((found.reshape(share.shape) * share)[:, 2:].sum((2, 3)))
        maps._side_sign = torch.where(covers[0] > covers[1], 1.0, -1.0).to(share.dtype)[..., None]
        maps._on_grid = {}
        return maps

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

    def moved(self) -> Tensor:
        """How far a layer is another than the photo, `(B,)`, 0 for the photo's own pose to 1: as `change`, and 1 as
        soon as any joint has moved by what is seen. (Half of both would be a ghost of the limb beside it.)"""
        most = self._off.amax(1).maximum(self._trunk_off)
        return 1 - (1 - self.change()) * (1 - smoothstep(most, *_STILL))

    def still(self, turned: float = 0.0) -> Tensor:
        """How far each part lies to the trunk as it does in the photo, `(B, 10)`: 1 for one that does not move, 0 for
        one that is turned, stretched or has joints that only photo or pose knows.

        Args:
            turned (`float`, *optional*): how far the head turns out of the picture's plane, 0..1 (`head.turn`): of one
                that looks up from a profile the joints hardly move.
        """
        limbs = [self._off[:, joints].amax(1) for joints in ([NECK, *FACE], *map(list, BONES))]
        still = torch.cat([torch.zeros_like(self.ratio)[:, None], torch.stack(limbs, 1)], 1)
        still = (1 - smoothstep(still, *_STILL)) * self._trunk_still[:, None]
        still[:, PARTS.index("head")] *= 1 - turned
        return still

    def hands_away(self) -> Tensor:
        """How far the left and the right wrist leave the place of the trunk where the photo has them, `(B, 2)`: 0 up to
        a quarter of a torso, 1 from half of one on."""
        return smoothstep(self._off[:, [L_WRIST, R_WRIST]], 0.25, 0.5)

    def _from_the_trunk(self) -> tuple[Tensor, Tensor]:
        """How far the joints lie to the trunk from where they do in the photo `(B, 18)`, in torsos, and how far the
        trunk is from its picture turned and scaled `(B,)`."""
        source, target = self.source, self.target
        offset = target.xy - self._torso_target[:, None]
        laid = torch.einsum("bij,bnj->bni", self._torso_matrix, offset) + self._torso_source[:, None]
        off = (laid - source.xy).norm(dim=-1) / source.torso[:, None]
        off = torch.where(source.known & target.known, off, (source.known ^ target.known).to(off.dtype))
        # The trunk's map is affine: one that is seen from another side is narrower, not off.
        a, b, c, d = self._torso_matrix.flatten(1).unbind(1)
        plain = torch.stack([a + d, b - c], -1).norm(dim=-1)
        skew = torch.stack([a - d, b + c], -1).norm(dim=-1) / plain.clamp_min(1e-6)
        return off, off[:, [NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]].amax(1).maximum(skew)

    def unmoved(self, size: int, share: Tensor, turned: float = 0.0) -> Tensor:
        """Where the target is as the photo, `(B, 1, size, size)` 0..1: on parts that are `still`, away from others, and
        from where others lie in the photo.

        Args:
            share (`(B, 10, size, size)`): of the parts.
            turned (`float`, *optional*): as of `still`.
        """
        still = self.still(turned)
        points, distance = self.on_grid(size)
        share = share.flatten(2)[..., None]
        flow = (share * points).sum(1)
        before = _part_distances(flow, self.source, self._bones_source)
        known = torch.cat([torch.ones_like(self.in_target[:, :2]), self._source_bones], 1)
        moving = (1 - still)[..., None]
        # Sleeves and trouser legs stand off; within as much of a head lie the shoulders.
        loose = torch.tensor([1.0, _TIGHT_HEAD] + [1.0] * _NUM_BONES).to(still)[:, None]
        near = [
            (moving * there[..., None] * (1 - smoothstep(of * loose, 1.2, 1.8))).amax(1)
            for of, there in ((distance, self.in_target), (before, known))
        ]
        # Far from everybody the shares are a mixture, and the mean of several maps leads anywhere.
        apart = (share * (points - flow[:, None]).square()).sum((1, 3)).sqrt() / self.source.torso[:, None]
        reach = distance.masked_fill(still[..., None] < 0.5, math.inf).amin(1).clamp(max=9)
        unmoved = (share[..., 0] * still[..., None]).sum(1) * (1 - near[0]) * (1 - near[1])
        unmoved = unmoved * (1 - smoothstep(apart, 0.03, 0.1)) * (1 - smoothstep(reach, 2.2, 2.8))
        return unmoved.reshape(-1, 1, size, size)


_TIGHT_HEAD = 1.35
"""How much nearer to a head than to a limb, in half-widths, what lies still is left alone."""
_STILL = (0.03, 0.08)
"""Torsos by which a joint that is where it was is off at most, and one that moves at least."""


class Cover(NamedTuple):
    """What lies before what in a photo, `(B, size, size)` each."""

    arms: Tensor  # 1 on a known forearm, hand or lower half of an upper arm, falling to 0 beyond
    torso: Tensor  # 1 where of torso, head and legs the torso is the nearest
    legs: Tensor
    mirrored: Tensor  # (B, size, size, 2), each pixel's mirror image about the spine, frame points


def arm_cover(xy: Tensor, known: Tensor, size: int) -> Cover:
    """Where known arms lie before the body.

    Args:
        xy (`(B, 18, 2)` float), known (`(B, 18)` bool): joints in frame coordinates.
        size (`int`): pixels a side.
    """
    body = complete(xy, known)
    start, end, drawn = _bones_of(body)
    start = torch.cat([_below_shoulders(start[:, :4], end[:, :4]), start[:, 4:]], 1)
    points = pixel_grid(size).to(xy.dtype).expand(len(xy), -1, -1)
    distance = _part_distances(points, body, (start, end))
    distance[:, 2:] = distance[:, 2:].masked_fill(~drawn[..., None], 9.0)
    torso, head, legs = distance[:, 0], distance[:, 1], distance[:, 6:].amin(1)
    arms = 1 - smoothstep(distance[:, 2:6].amin(1), 0.6, 0.95)
    hip = (body.xy[:, R_HIP] + body.xy[:, L_HIP]) / 2
    side = perp(normalised(hip - body.xy[:, NECK]))
    across = torch.einsum("bmc,bc->bm", points - body.xy[:, None, NECK], side)
    mirrored = points - 2 * across[..., None] * side[:, None]
    planes = (
        arms,
        ((torso < head) & (torso <= legs)).to(xy.dtype),
        ((legs < head) & (legs < torso)).to(xy.dtype),
    )
    arms, torso, legs = (plane.reshape(-1, size, size) for plane in planes)
    return Cover(arms, torso, legs, mirrored.reshape(-1, size, size, 2))


def _below_shoulders(start: Tensor, end: Tensor) -> Tensor:
    """Where arms begin `(B, 4, 2)` that are apart from the torso: near the shoulder they are part of it, as sleeves."""
    return start.lerp(end, start.new_tensor([0.4, 0.0, 0.4, 0.0])[:, None])


def arm_distances(body: Body, size: int, below_shoulders: bool = False) -> Tensor:
    """Distance of each pixel from the four bones of the arms, in half-widths of an arm, `(B, 4, size, size)`; 9 from
    those that are not known. With `below_shoulders` from what of them is apart from the torso."""
    start, end, drawn = (of_limb[:, :4] for of_limb in _bones_of(body))
    start = _below_shoulders(start, end) if below_shoulders else start
    points = pixel_grid(size).to(body.xy.device).expand(len(body.xy), -1, -1)
    distance = _limb_distance(*_limb_coordinates(points, start, end), body.torso)
    return distance.masked_fill(~drawn[..., None], 9.0).reshape(-1, 4, size, size)


def limb_prior(distance: Tensor, coverage: Tensor, in_target: Tensor) -> tuple[Tensor, Tensor]:
    """What the part maps alone say: logits of the parts and each part's own alpha, `(B, 10, M)` both.

    Args:
        distance (`(B, 10, M)`): in half-widths.
        coverage (`(B, 10, M)`): ownership times matte at the source points.
        in_target (`(B, 10)` bool).
    """
    reach = 1 - smoothstep(distance, 2.2, 2.8)
    alpha = coverage * reach * in_target[..., None]
    front = distance.new_tensor([0.0, 0.5] + [1.0] * 4 + [0.0] * 4)[:, None]
    logits = front - 1.5 * (distance**2).clamp(max=16) + 3.0 * torch.log(alpha + 0.03)
    return logits.masked_fill(~in_target[..., None], -60.0), alpha
