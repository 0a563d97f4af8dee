# SPDX-License-Identifier: Apache-2.0
"""Heads that turn: a network that moves, and where it must paints, the photo's head as another pose shows it.

The part maps carry a head as it is in the photo, turned in the picture's plane alone. `HeadMaps` turns it in space, as
if it were an ellipsoid; `Head` looks at a square around it, finer than `Motion` sees it, and says how these maps are
off, which of the head the photo shows, there or on its other side, what the rest looks like and where the outline runs.
It is asked only for heads that turn (`turn`) or that the photo's own arms hide: all others are the photo's own pixels.

A *head frame* is a square of about 1.15 torsos around the face; coordinates inside run from 0 to 1 as in other frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.skeleton import (
    FACE,
    L_ELBOW,
    L_SHOULDER,
    L_WRIST,
    NECK,
    R_ELBOW,
    R_SHOULDER,
    R_WRIST,
)

from .blocks import Residual, ascend, block, descend, lay_out
from .body import Body, complete, normalised
from .grid import pixel_grid, sample, smooth, smoothstep
from .head_pose import HeadMaps, HeadPose, angle_between, corrected, head_pose
from .outline import outline_of, volume_at
from .parts import arm_cover, arm_distances

_SIDE = 1.15
"""Of the head frame, in torsos."""
_UP = 0.08
"""How far above the middle of the face its centre lies, in torsos: there is hair above, a neck below."""
_FACE = 1.07
"""How large faces of the rendered people are, against the mean body of shared/head.py."""
_SPOT, _WIDE_SPOT = 0.05, 0.12
"""Standard deviations of what marks facial joints, and neck and shoulders, for the network, in torsos."""
_TRUNK = (NECK, R_SHOULDER, L_SHOULDER)
_CHOICE = 2.0
"""How decided the choice is made: faces that are a pixel apart are, mixed, a blur."""


def head_frames(body: Body, pose: HeadPose) -> tuple[Tensor, Tensor]:
    """Origin `(B, 2)` and side `(B,)` of the head frames, in the unit of the joints.

    A frame is as large as the head that the face shows, so that somebody's head keeps its size on any body.
    """
    up = normalised(body.head - body.xy[:, NECK])
    unit = pose.tilt.abs() / _FACE
    side = _SIDE * unit
    return body.head + _UP * unit[:, None] * up - side[:, None] / 2, side


def turn(maps: HeadMaps, source_known: Tensor, target_known: Tensor) -> Tensor:
    """How far the head must turn out of the picture's plane, `(B,)`: 0 up to 17 degrees, 1 from 19 degrees on, or where
    only one of both shows a face.

    Args:
        maps (`HeadMaps`): of both.
        source_known, target_known (`(B, 18)` bool).
    """
    source, target = (known[:, FACE].any(1) for known in (source_known, target_known))
    turned = smoothstep(angle_between(maps.source, maps.target), math.radians(17), math.radians(19))
    return torch.where(source & target, turned, (source != target).to(turned.dtype))


def cut(picture: Tensor, origin: Tensor, side: Tensor, size: int, finer: int = 2) -> Tensor:
    """The squares at `origin` `(B, 2)` of that `side` `(B,)`, in units of the pictures `(B, C, n, n)`, as
    `(B, C, size, size)`; each pixel is the mean of `finer` x `finer` samples. 0 outside."""
    fine = finer * size
    points = origin[:, None] + side[:, None, None] * pixel_grid(fine).to(picture.device)
    return F.avg_pool2d(sample(picture, points).reshape(*picture.shape[:2], fine, fine), finer)


def arms_before_head(body: Body, pose: HeadPose) -> Tensor | None:
    """Where arms lie before the head of one person, `(1, 1, 128, 128)` of the person frame; None where none does.

    Args:
        body (`Body`): in frame coordinates.
    """
    origin, side = head_frames(body, pose)
    joints = [R_ELBOW, R_WRIST, L_ELBOW, L_WRIST]
    near = window((body.xy[:, joints] - origin[:, None]) / side) > 0
    if not (near & body.known[:, joints]).any():
        return None
    return arm_cover(body.xy, body.known, 128).arms[:, None]


class Turned(NamedTuple):
    """What `Head` says about a batch of heads, in the target's head frame."""

    maps: HeadMaps  # between the head frames, the heads as the network sees them
    guess: Tensor  # (B, 48, 48, 2), the maps' own points of the source's head frame
    correction: Tensor  # (B, 4, 48, 48), added to source points and to those of the other side, frame units
    flow: Tensor  # (B, 48, 48, 4), both kinds of the resulting points of the source's head frame
    carried: Tensor  # (B, 8, 96, 96), the photo there
    choice: Tensor  # (B, 3, 48, 48), logits: the photo, the photo of the other side, the painting
    colour: Tensor  # (B, 3, 96, 96), the painting, 0..1
    alpha: Tensor  # (B, 1, 96, 96), logits


class Head(nn.Module):
    """U-Net at 48 px over the photo's head, turned as an ellipsoid would; painting and outline at 96 px.

    Five joints, some of them hidden, leave much open of which way a head faces, a picture less: `aim` corrects it. What
    heads have in common, eyes where eyes are, is a map of features on the ellipsoid (a neural texture, Thies et al.
    2019), learned like the weights.

    It paints in colours that it picks from the photo's head: a nape's skin for a face that the photo does not show. The
    first is skin's, for which that of bare hands stands in where a head faces away: hair or a collar may hide it.

    Args:
        channels (`tuple` of 4 `int`, *optional*): width at 48, 24, 12 and 6 px.
        fine (`int`, *optional*, defaults to 32): width at 96 px.
        palette (`int`, *optional*, defaults to 8): how many colours are picked.
    """

    SIZE, FINE = 48, 96
    MAX_CORRECTION = 0.25  # of the frame
    MAX_SIZE, MAX_TURN, MAX_MOVE = 0.2, 0.6, 0.06
    """Of what `aim` corrects: as `head_pose.corrected` takes it, the turn about each axis."""
    SURFACE, FEATURES = 64, 12
    """Size and channels of the map on the ellipsoid, which is seen from the front, its back around it."""
    MAX_SHIFT = 0.1  # on that map
    HEADS = (4, 3, 24, 2)
    """Channels at 48 px: corrections, choice, what the painting at 96 px begins with, shift on the surface."""
    INPUTS = 2 * 4 * 4 + 3 + 2 * (len(FACE) + len(_TRUNK)) + 4 + FEATURES
    """The carried photo and its other side in 2x2 blocks, how the photo sees both, where the ellipsoid is, the photo's
    joints carried and the target's, distance from the bones of its arms, what is on the ellipsoid there."""

    def __init__(
        self, channels: tuple[int, ...] = (32, 64, 96, 128), fine: int = 32, palette: int = 8
    ) -> None:
        super().__init__()
        self.config: dict[str, object] = {"channels": list(channels), "fine": fine, "palette": palette}
        steps = range(len(channels) - 1)
        self.stem = block(self.INPUTS, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(
                block(channels[i], channels[i + 1], 2), Residual(channels[i + 1]), Residual(channels[i + 1])
            )
            for i in steps
        )
        self.up = nn.ModuleList(
            nn.Sequential(block(channels[i] + channels[i + 1], channels[i]), Residual(channels[i]))
            for i in steps
        )
        self.head = nn.Conv2d(channels[0], sum(self.HEADS), 3, 1, 1)
        marks = len(FACE) + len(_TRUNK)
        self.look = nn.Sequential(
            block(16 + marks, channels[0], 2), Residual(channels[0]), nn.Conv2d(channels[0], palette, 3, 1, 1)
        )
        self.aim = Aim(2 * 4 + 3 + 4 + 3 * marks)
        self.surface = nn.Parameter(0.5 * torch.randn(1, self.FEATURES, self.SURFACE, self.SURFACE))
        gist = nn.Linear(channels[-1], channels[-1])
        self.gist = nn.Sequential(nn.Linear(3 * palette + 2 * 9, channels[-1]), nn.SiLU(), gist)
        nn.init.zeros_(gist.weight)
        last = nn.Conv2d(fine, 4 + palette, 3, 1, 1)
        inputs = self.HEADS[2] + 8 + self.FEATURES
        self.paint = nn.Sequential(block(inputs, fine), Residual(fine), Residual(fine), last)
        nn.init.normal_(self.head.weight[: sum(self.HEADS[:2])], std=0.01)
        nn.init.normal_(last.weight, std=0.01)
        lay_out(self)

    def forward(
        self,
        source: Tensor,
        source_xy: Tensor,
        source_known: Tensor,
        target_xy: Tensor,
        target_known: Tensor,
        skin: Tensor,
    ) -> Turned:
        """Predicts the head of the target pose.

        Args:
            source (`(B, 4, 96, 96)` float32): premultiplied RGBA of the photo in its head frame, 0..1; 0 where an
                arm is known to lie before the head.
            source_xy, target_xy (`(B, 18, 2)` float32): joints, each in its own head frame.
            source_known, target_known (`(B, 18)` bool).
            skin (`(B, 4)` float32): the colour of bare skin, and 1; all 0 where none is known. It counts of heads that
                face away in the photo.
        """
        size, fine = self.SIZE, self.FINE
        bodies = complete(source_xy, source_known), complete(target_xy, target_known)
        marks, wanted = (torch.cat([face_spots(body, size), _trunk_spots(body, size)], 1) for body in bodies)
        maps = self._aimed(source, bodies, marks, wanted)
        # Places rounded to bfloat16 would be half a pixel off.
        with torch.autocast(source.device.type, enabled=False):
            at, seen, place = _places(maps, fine)
            coarse_at = F.avg_pool2d(at, 2)
            surface = self.surface.expand(len(source), -1, -1, -1)
            with torch.no_grad():
                seen = F.avg_pool2d(seen, 2)
                planes = [
                    F.pixel_unshuffle(_both(source, at), 2),
                    seen,
                    sample(marks, _points(coarse_at[:, :2])),
                    wanted,
                    torch.exp(-(arm_distances(bodies[1], size) ** 2) / 2),
                ]
                place = place.detach()
            planes.append(sample(surface, _points(F.avg_pool2d(place, 2))))
            features = torch.cat(planes, 1)
        levels = descend(self.stem(features.contiguous(memory_format=torch.channels_last)), self.down)
        away = smoothstep(-maps.source.turned[:, 2, 2].detach(), 0.0, 0.3) * skin[:, 3]
        face, *others = self._palette(source, marks).unbind(1)
        palette = torch.stack([face + away[:, None] * (skin[:, :3] - face), *others], 1)
        facing = [pose.turned.detach().flatten(1) for pose in (maps.source, maps.target)]
        gist = self.gist(torch.cat([palette.flatten(1), *facing], 1))[..., None, None]
        x = ascend(levels[-1] + gist, levels, self.up)
        correction, choice, start, shift = self.head(x).split(self.HEADS, 1)
        correction = torch.tanh(correction.float()) * self.MAX_CORRECTION
        shift = torch.tanh(shift.float()) * self.MAX_SHIFT
        # What the photo sees square on is taken from it unless the network knows better.
        prior = torch.stack([4 * seen[:, 0] + 1, 4 * seen[:, 1] - 2, torch.ones_like(seen[:, 0])], 1)
        enlarged, start, shift = (
            F.interpolate(plane, size=fine, mode="bilinear", align_corners=False)
            for plane in (correction, start, shift)
        )
        carried = _both(source, at + enlarged)
        features = torch.cat([start, carried, sample(surface, _points(place + shift))], 1)
        change, alpha, mix = self.paint(features.to(start.dtype)).float().split([3, 1, palette.shape[1]], 1)
        mixed = (mix.softmax(1)[:, :, None] * palette[..., None, None]).sum(1)
        return Turned(
            maps,
            _points(coarse_at[:, :2]),
            correction,
            _points(coarse_at + correction),
            carried,
            choice.float() + prior,
            torch.sigmoid(mixed.logit(0.02) + change),
            alpha,
        )

    def _aimed(self, source: Tensor, bodies: tuple[Body, Body], marks: Tensor, wanted: Tensor) -> HeadMaps:
        """The maps between the heads as they face after all.

        Args:
            marks, wanted (`(B, 8, 48, 48)`): the joints of the photo and of the target.
        """
        with torch.autocast(source.device.type, enabled=False):
            poses = head_pose(bodies[0]), head_pose(bodies[1])
            coarse = F.avg_pool2d(source, 2)
            at, seen, _ = _places(HeadMaps(*poses), self.SIZE)
            planes = [_both(coarse, at), seen, sample(marks, _points(at[:, :2])), wanted, coarse, marks]
        off = self.aim(torch.cat(planes, 1), bodies, poses).float()
        with torch.autocast(source.device.type, enabled=False):
            size, *by = torch.tanh(off).split((1, 3, 2, 3, 2), 1)
            # Both are one head: if each had a size of its own, whoever turns would grow.
            return HeadMaps(*(
                corrected(pose, self.MAX_TURN * turn, self.MAX_SIZE * size[:, 0], self.MAX_MOVE * move)
                for pose, turn, move in zip(poses, by[::2], by[1::2], strict=True)
            ))  # fmt: skip

    def _palette(self, source: Tensor, marks: Tensor) -> Tensor:
        """Colours of the photo's head, `(B, palette, 3)`, each the mean over places that `look` picks."""
        picked = self.look(torch.cat([F.pixel_unshuffle(source, 2), marks], 1)).float()
        seen = F.avg_pool2d(source, 4).flatten(2)
        means = (picked.flatten(2).softmax(2)[:, :, None] * seen[:, None]).sum(3)
        return means[..., :3] / means[..., 3:].clamp_min(1e-3)


class Aim(nn.Module):
    """Looks at where the heads come to lie by their joints alone, and says by how much their poses are off.

    Args:
        inputs (`int`): planes of 48 px.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.look = nn.Sequential(block(inputs, 32, 2), block(32, 48, 2), Residual(48), block(48, 64, 2))
        joints = 3 * len(FACE) + 9
        last = nn.Linear(128, 1 + 2 * 5)
        self.say = nn.Sequential(nn.Linear(64 * 6**2 + 2 * joints, 128), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, planes: Tensor, bodies: tuple[Body, Body], poses: tuple[HeadPose, HeadPose]) -> Tensor:
        """`(B, 11)`, without limits: one number for the size of both, then for each how it turns (3) and moves (2)."""
        looks = [self.look(planes.contiguous(memory_format=torch.channels_last)).flatten(1)]
        for body, pose in zip(bodies, poses, strict=True):
            known = body.known[:, FACE].float()
            looks += [((body.xy[:, FACE] - 0.5) * known[..., None]).flatten(1), known, pose.turned.flatten(1)]
        return self.say(torch.cat(looks, 1))


def _places(maps: HeadMaps, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of a target's head frame of that size where it comes from, both kinds of points
    `(B, 4, size, size)`; how the photo sees both, and where the head is, `(B, 3, size, size)`; and where on the map of
    the ellipsoid it is, `(B, 2, size, size)`."""
    batch = len(maps.source.turned)
    here = maps.at(pixel_grid(size).to(maps.source.turned.device).expand(batch, -1, -1))
    at = torch.cat([here.direct, here.mirrored], 2)
    seen = torch.stack([here.faces, here.mirrored_faces, here.on_head], 2)
    # Lambert's azimuthal projection: equal areas, the face in the middle.
    onto = here.place[..., :2] * (2 * (1 + here.place[..., 2:]).clamp_min(1e-3)).rsqrt()
    at, seen, onto = (
        planes.transpose(1, 2).reshape(batch, -1, size, size) for planes in (at, seen, 0.5 + 0.5 * onto)
    )
    return at, seen, onto


def _points(planes: Tensor) -> Tensor:
    """`(B, C, n, n)` -> `(B, n, n, C)`."""
    return planes.permute(0, 2, 3, 1)


def _both(source: Tensor, at: Tensor) -> Tensor:
    """`(B, 8, n, n)`: the photo at the two kinds of points `(B, 4, n, n)`."""
    return torch.cat([sample(source, _points(points)) for points in at.split(2, 1)], 1)


def face_spots(body: Body, size: int) -> Tensor:
    """A soft spot at each known facial joint, `(B, 5, size, size)`, of people in their head frames."""
    return _spots(body, FACE, size, _SPOT)


def _trunk_spots(body: Body, size: int) -> Tensor:
    return _spots(body, _TRUNK, size, _WIDE_SPOT)


def _spots(body: Body, joints: tuple[int, ...], size: int, deviation: float) -> Tensor:
    offset = pixel_grid(size).to(body.xy.device)[:, None] - body.xy[:, joints, None]
    spots = torch.exp(-offset.square().sum(-1) / (2 * (deviation * body.torso[:, None, None]) ** 2))
    return (spots * body.known[:, joints, None]).reshape(-1, len(joints), size, size)


def in_window(size: int) -> Tensor:
    """`(size, size)`: 1 on a head and the hair around it, falling to 0 at the head frame's edge."""
    return window(pixel_grid(size)[0]).reshape(size, size)


def window(points: Tensor) -> Tensor:
    """`in_window` at any points `(..., 2)` of a head frame."""
    return 1 - smoothstep((points - 0.5).norm(dim=-1), 0.36, 0.5)


class Taken(NamedTuple):
    """Of what a head is made: shares `(..., 3)` of the photo, of the photo of the other side, and of the painting."""

    photo: Tensor
    other_side: Tensor
    painting: Tensor


def taken(choice: Tensor, mattes: tuple[Tensor, Tensor]) -> Taken:
    """What counts where the photo's matte is `mattes` at both kinds of points: where it is 0 there is nothing to take.

    Args:
        choice (`(3, ...)`): logits.
    """
    shares = (_CHOICE * choice).softmax(0)
    photo, other = (
        share * smoothstep(matte, 0.05, 0.5) for share, matte in zip(shares, mattes, strict=False)
    )
    return Taken(photo, other, 1 - photo - other)


@dataclass(frozen=True)
class TurnedHead:
    """One head that turns, as models/render.py reads it.

    Args:
        share (`float`): how much of it counts, 0..1: `turn`.
        covered (`(1, 1, n, n)`, *optional*): where the photo's arms lie before its head, in its person frame.
        uncovered (`float`): how much of what is behind them counts, however little the head turns, 0..1.
        volume (`(36,)`): how much farther out than drawn the head reaches (`outline.volume_of`).
        out (`Turned`): of a batch of one.
        source_origin, target_origin (`(2,)`), source_side, target_side (`float`): the head frames in the coordinates
            of the person frames.
    """

    share: float
    covered: Tensor | None
    uncovered: float
    volume: Tensor
    out: Turned
    source_origin: Tensor
    source_side: float
    target_origin: Tensor
    target_side: float

    def outline(self) -> Tensor:
        """How far inside the head's outline each place is `(1, 1, 96, 96)`, in units of the target's head frame."""
        return outline_of(self.out.alpha) + volume_at(self.volume, self.out.maps.target, Head.FINE)

    def counts(self, points: Tensor) -> Tensor:
        """How much the head counts at target points `(M, 2)` of the person frame, `(M,)`."""
        here = (points - self.target_origin) / self.target_side
        counts = torch.full_like(here[:, 0], self.share)
        if self.covered is not None:
            photo = self.out.maps.at(here[None]).direct * self.source_side + self.source_origin
            counts = counts.maximum(self.uncovered * sample(self.covered, photo)[0, 0])
        return counts * window(here)

    def bare(self, points: Tensor) -> Tensor | float:
        """How much of the head the photo shows at points `(K, 2)` of its person frame, `(K,)`."""
        return 1.0 if self.covered is None else 1 - sample(self.covered, points[None])[0, 0]

    def spot(self, points: Tensor) -> Spot | None:
        """The part of target points `(M, 2)` of the person frame that the head has a say in; None if it is in none."""
        pixels = (window((points - self.target_origin) / self.target_side) > 0).nonzero()[:, 0]
        if len(pixels) == 0:
            return None
        here = (points[pixels] - self.target_origin) / self.target_side
        places, correction = self.out.maps.at(here[None]), smooth(self.out.correction, here).T
        direct, other_side = (
            (at[0] + off) * self.source_side + self.source_origin
            for at, off in zip((places.direct, places.mirrored), correction.split(2, 1), strict=True)
        )
        return Spot(pixels, here, self.counts(points[pixels]), direct, other_side)


class Spot(NamedTuple):
    """Pixels in which a head that turns has a say."""

    pixels: Tensor  # (K,), which of the points they are
    here: Tensor  # (K, 2), in the target's head frame
    counts: Tensor  # (K,), how much the head counts, 0..1
    direct: Tensor  # (K, 2), where in the source's person frame they come from
    other_side: Tensor  # (K, 2), where the photo shows the same of the head's other side
