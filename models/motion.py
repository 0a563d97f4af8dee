# SPDX-License-Identifier: Apache-2.0
"""Transfer that moves the photo's own pixels: each limb of the target pose is an exact map into the photo.

From two skeletons every body part gives a map from target points to photo points (`PartMaps`). `Motion`, a small
U-Net at 64 px, weighs these maps, adds a small correction, and predicts alpha, visibility and the colour of what
the photo does not show. `MotionTransfer` enlarges the weights, not the picture, and reads the photo at its full
resolution, so the layer is as sharp as the photo. Without a network the part maps alone give a person too.

Frames, their coordinates, and lengths in torsos are as in models/parts.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import BadInput, NoActor
from shared.skeleton import FACE, MIRROR, Skeleton

from . import weights
from .blocks import Residual, ascend, block, descend, lay_out
from .body import complete, facial_spots, torso_length
from .carry import (
    Photo,
    clear_specks,
    edge_width,
    own_head,
    passes_of,
    render,
)
from .grid import sample
from .head import Head, TurnedHead, arms_before_head, cut, head_frames, turn
from .head_pose import HeadMaps, head_pose
from .images import LUMA
from .parts import MIRRORED_PARTS, NUM_PARTS, PartMaps, limb_prior
from .photo import Hands, arms_apart, hands_of, is_grey, joined, resized, spread_colours
from .retouch import Retouch, paint_over, planes_of

MARGIN = 0.55
"""Room around the known joints, in torsos: hair and hat above the eyes, hands beyond wrists, feet beyond ankles."""
_TORSO_METRES = 0.5
"""Neck to mid-hip of a grown-up: what a torso is taken for where metres are asked for."""
_MAX_LAYER = 6000
"""Largest side of a layer in pixels: above it a skeleton is a slip, and memory would pass 2 GB."""


_Number = TypeVar("_Number", np.uint8, np.float32)


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
        depth (`(h, w)` float32, *optional*): metres towards the camera from the middle of the body, for a body whose
            torso (neck to mid-hip) is half a metre; 0 where alpha is 0.
        normals (`(h, w, 3)` float32, *optional*): unit vectors, x to the right, y up, z towards the camera; 0 where
            alpha is 0.
    """

    rgba: NDArray[np.float32]
    x: int
    y: int
    depth: NDArray[np.float32] | None = None
    normals: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Analysed:
    """All that `MotionTransfer` needs to know of a photo: `analyse` makes it, any number of poses use it.

    Args:
        source (`Skeleton`): the person's joints in the photo.
        frame (`Frame`): the square of the photo around the person.
        straight (`(n, n, 4)` float32): the frame's pixels, colours continued beyond the matte, and the matte.
        bare, armed (`(m, m, 4)` float32): `arms_apart`.
        small (`(1, 4, 256, 256)` float32): the frame as the network sees it, premultiplied.
        head (`(1, 4, 96, 96)` float32): its head frame, the same.
        before_head (`(1, 1, 128, 128)` float32, *optional*): `arms_before_head`.
        hands (`Hands`): bare or hidden.
        grey (`bool`): the photo is black and white, so that what networks paint must be, too.
    """

    source: Skeleton
    frame: Frame
    straight: NDArray[np.float32]
    bare: NDArray[np.float32]
    armed: NDArray[np.float32]
    small: Tensor
    head: Tensor
    before_head: Tensor | None
    hands: Hands
    grey: bool


@dataclass(frozen=True)
class Moved:
    """An actor's pixels moved into a pose, before they are retouched.

    Args:
        frame (`Frame`): the square of the scene around the target.
        rgba (`(n, n, 4)` float32): its pixels, premultiplied.
        edge (`float`): width of its edges, in frame units.
        prediction (`Prediction`, *optional*): what the network said of it.
        retouch (`(1, 1, 64, 64)` float32): how much each place may be retouched, 0..1: nothing that is as in the photo,
            nor a head that is the photo's, nor what is the other side's for want of its own.
    """

    frame: Frame
    rgba: NDArray[np.float32]
    edge: float
    prediction: Prediction | None
    retouch: Tensor


# ------------------------------------------------------------------------------------------------------- the network


class Prediction(NamedTuple):
    """What `Motion` says about a batch of targets, at 64 px unless noted."""

    maps: PartMaps
    share: Tensor  # (B, 10, 64, 64), each part's share in the map
    part_logits: Tensor  # (B, 10, 64, 64), added to the prior of `limb_prior`
    correction: Tensor  # (B, 2, 64, 64), added to the blended map, frame units
    flow: Tensor  # (B, 64, 64, 2), the resulting source points
    alpha: Tensor  # (B, 1, 256, 256), logits
    visible: Tensor  # (B, 1, 64, 64), logits
    colour: Tensor  # (B, 3, 64, 64), 0..1
    depth: Tensor  # (B, 1, 64, 64), towards the camera from the middle of neck and mid-hip, in torsos
    normals: Tensor  # (B, 3, 64, 64), x right, y up, z to the camera; of any length


class Motion(nn.Module):
    """U-Net at 64 px over the parts' warped photos, with an alpha head at 256 px.

    64 px are enough to say which part a pixel belongs to and how its map is off: the maps themselves are analytic
    and are evaluated at the layer's resolution. Only the outline needs more, and a head of its own gives it.

    Args:
        channels (`tuple` of 4 `int`, *optional*): width at 64, 32, 16 and 8 px.
        alpha_channels (`int`, *optional*, defaults to 24): width of the alpha head.
        blocks (`tuple` of 3 `int`, *optional*): residual blocks at 32, 16 and 8 px.
    """

    SIZE = 64
    PHOTO = 256
    PER_PART = 9  # warped premultiplied RGBA, source point, distance, ownership, prior logit
    OTHER = 5 + 2 * len(FACE)  # the photo, the prior's alpha, facial joints of both
    MAX_CORRECTION = 0.15  # of the frame

    HEADS = (NUM_PARTS, 2, 1, 1, 3, 1, 3)
    """Channels at 64 px: part logits, correction, alpha, visible, colour, depth, normals."""

    def __init__(
        self,
        channels: tuple[int, ...] = (48, 96, 160, 256),
        alpha_channels: int = 24,
        blocks: tuple[int, ...] = (2, 3, 3),
    ) -> None:
        super().__init__()
        self.config: dict[str, object] = {
            "channels": list(channels), "alpha_channels": alpha_channels, "blocks": list(blocks),
        }  # fmt: skip
        steps = range(len(channels) - 1)
        self.stem = block(NUM_PARTS * self.PER_PART + self.OTHER, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(
                block(channels[i], channels[i + 1], 2),
                block(channels[i + 1], channels[i + 1]),
                *(Residual(channels[i + 1]) for _ in range(blocks[i])),
            )
            for i in steps
        )
        self.up = nn.ModuleList(
            nn.Sequential(block(channels[i] + channels[i + 1], channels[i]), block(channels[i], channels[i]))
            for i in steps
        )
        self.head = nn.Conv2d(channels[0], sum(self.HEADS), 3, 1, 1)
        self.narrow = nn.Conv2d(channels[0], 16, 1)
        last = nn.Conv2d(alpha_channels, 4, 3, 1, 1)
        # The photo's matte, carried at 256 px along the map, as 2x2 blocks of a 128-px grid.
        self.alpha = nn.Sequential(block(16 + 4, alpha_channels), last)
        for layer in (self.head, last):
            nn.init.normal_(layer.weight, std=0.01)
        lay_out(self)

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
            points, distance = maps.on_grid(size)
            own = maps.ownership(size)
            warped = torch.stack([sample(small, points[:, part]) for part in range(NUM_PARTS)], 1)
            owned = sample(own.reshape(-1, 1, size, size), points.reshape(batch * NUM_PARTS, -1, 2))
            owned = owned.reshape(batch, NUM_PARTS, -1)
            prior, prior_alpha = limb_prior(distance, owned * warped[:, :, 3], maps.in_target)
            drawn = maps.in_target[..., None]
            planes = [
                (warped * drawn[:, :, None]).flatten(1, 2),
                (points - 0.5).clamp(-1, 1).transpose(2, 3).flatten(1, 2),
                torch.exp(-(distance**2) / 2) * drawn,
                owned * drawn,
                prior.clamp_min(-20) / 10,
                small.flatten(2),
                prior_alpha.amax(1, keepdim=True),
                facial_spots(maps.source, size),
                facial_spots(maps.target, size),
            ]
            features = torch.cat(planes, 1).reshape(batch, -1, size, size)
            prior = prior.reshape(batch, NUM_PARTS, size, size)
            points = points.reshape(batch, NUM_PARTS, size, size, 2)
            change = maps.change()[:, None, None, None]
        levels = descend(self.stem(features.contiguous(memory_format=torch.channels_last)), self.down)
        x = ascend(levels[-1], levels, self.up)
        part_logits, correction, coarse, visible, colour, depth, normals = (
            self.head(x).float().split(self.HEADS, 1)
        )
        correction = torch.tanh(correction) * self.MAX_CORRECTION * change
        share = (part_logits + prior).softmax(1)
        flow = (share[..., None] * points).sum(1) + correction.permute(0, 2, 3, 1)
        with torch.no_grad():
            fine = F.interpolate(
                flow.permute(0, 3, 1, 2), size=self.PHOTO, mode="bilinear", align_corners=False
            )
            carried = F.pixel_unshuffle(sample(source[:, 3:], fine.permute(0, 2, 3, 1)), 2)
        outline = F.interpolate(
            torch.cat([self.narrow(x), coarse.to(x.dtype)], 1),
            scale_factor=2, mode="bilinear", align_corners=False,
        )  # fmt: skip
        fine_logits = self.alpha(torch.cat([outline[:, :-1], carried.to(x.dtype)], 1))
        alpha = F.pixel_shuffle((fine_logits + outline[:, -1:]).float(), 2)
        colour = torch.sigmoid(colour)
        return Prediction(maps, share, part_logits, correction, flow, alpha, visible, colour, depth, normals)

    def both_ways(
        self, source: Tensor, source_xy: Tensor, source_known: Tensor, target_xy: Tensor, target_known: Tensor
    ) -> Prediction:
        """The mean of what `forward` says of a batch and of its mirror image, turned back. Args: as of `forward`."""
        order = list(MIRROR)

        def mirrored(xy: Tensor) -> Tensor:
            return torch.stack([1 - xy[..., 0], xy[..., 1]], -1)

        given = (source, source_xy, source_known, target_xy, target_known)
        image = (
            source.flip(3),
            mirrored(source_xy)[:, order],
            source_known[:, order],
            mirrored(target_xy)[:, order],
            target_known[:, order],
        )
        out = self(*(torch.cat(pair) for pair in zip(given, image, strict=True)))

        def mean(of: Tensor, other_parts: bool = False, turned: tuple[float, ...] = (1.0,)) -> Tensor:
            here, there = of.chunk(2)
            there = there[:, MIRRORED_PARTS] if other_parts else there
            return (here + there.flip(3) * here.new_tensor(turned)[:, None, None]) / 2

        here, there = out.flow.chunk(2)
        return Prediction(
            PartMaps(*given[1:]),
            # Of shares the geometric mean, as of their logits.
            mean(out.share.clamp_min(1e-9).log(), other_parts=True).softmax(1),
            mean(out.part_logits, other_parts=True),
            mean(out.correction, turned=(-1.0, 1.0)),
            (here + mirrored(there.flip(2))) / 2,
            mean(out.alpha),
            mean(out.visible),
            mean(out.colour),
            mean(out.depth),
            mean(out.normals, turned=(-1.0, 1.0, 1.0)),
        )


# ---------------------------------------------------------------------------------------------- applied to photographs


def person_frame(skeleton: Skeleton) -> Frame:
    """The square around a person: its known joints with room for hair, hands and feet.

    Raises:
        BadInput: no joint is known, or the square has more than 6,000 px a side or fewer than 8.
    """
    x0, y0, x1, y1 = skeleton.box
    torso = float(torso_length(*tensors(skeleton))[0])
    size = math.ceil(max(x1 - x0, y1 - y0) + 2 * MARGIN * torso)
    if not 8 <= size <= _MAX_LAYER:
        raise BadInput(
            f"skeleton: the person would be {size} px large, not 8 to {_MAX_LAYER}",
            "Scale the skeleton to the picture",
            "skeleton",
        )
    return Frame(math.floor((x0 + x1 - size) / 2), math.floor((y0 + y1 - size) / 2), size)


def tensors(skeleton: Skeleton, frame: Frame | None = None) -> tuple[Tensor, Tensor]:
    """`(1, 18, 2)` float32 joints, in the frame's coordinates if one is given, and `(1, 18)` bool."""
    xy = skeleton.xy if frame is None else (skeleton.xy - (frame.x, frame.y)) / frame.size
    return torch.tensor(xy, dtype=torch.float32)[None], torch.tensor(skeleton.visible)[None]


def crop(picture: NDArray[_Number], frame: Frame) -> NDArray[_Number]:
    """The frame's pixels `(size, size, C)`; 0 outside of the picture."""
    height, width, channels = picture.shape
    out = np.zeros((frame.size, frame.size, channels), picture.dtype)
    x0, y0 = max(frame.x, 0), max(frame.y, 0)
    x1, y1 = min(frame.x + frame.size, width), min(frame.y + frame.size, height)
    if x1 > x0 and y1 > y0:
        out[y0 - frame.y : y1 - frame.y, x0 - frame.x : x1 - frame.x] = picture[y0:y1, x0:x1]
    return out


def missing_parts(source: Skeleton, target: Skeleton) -> list[str]:
    """Which limbs the target shows that the photo has neither on this nor on the other side, nor their parents.

    Returns words for a sentence, such as `["legs"]`; empty when the photo has what is needed.
    """
    needed = {"arms": (2, 3, 4, 5), "legs": (6, 7, 8, 9)}
    maps = PartMaps(*tensors(source), *tensors(target))
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
    maps = PartMaps(*tensors(source, person_frame(source)), *tensors(target, frame))
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
        self.head = None if name == "limbs" else weights.load(Head, "transfer", "head")
        self.retouch = None if name == "limbs" else weights.load(Retouch, "transfer", "retouch")

    def transfer(
        self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton, target: Skeleton
    ) -> Person:
        """The person of `rgb` in the pose `target`, at the target's scale: `analyse` and `pose` in one."""
        return self.pose(self.analyse(rgb, matte, source), target)

    @torch.inference_mode()
    def analyse(self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton) -> Analysed:
        """What depends on the photo alone.

        Args:
            rgb (`(H, W, 3)` uint8): the photo.
            matte (`(H, W)` float32): how much of each pixel is the person, 0..1.
            source (`Skeleton`): the person's joints in the photo.

        Raises:
            NoActor: the matte is empty around the source skeleton.
            BadInput: a skeleton without joints, or of an impossible size.
        """
        frame = person_frame(source)
        photo = joined(crop(rgb, frame) * np.float32(1 / 255), crop(matte[..., None], frame)[..., 0])
        if photo[..., 3].max() < 0.5:
            raise NoActor(
                "actor photo: the matte shows no person at the skeleton", "Choose another photo", "actor"
            )
        straight = joined(spread_colours(photo[..., :3], photo[..., 3]), photo[..., 3])
        photo[..., :3] *= photo[..., 3:]
        small = resized(photo, Motion.PHOTO)
        joints = tensors(source, frame)
        bare, armed = arms_apart(straight, *joints)
        body = complete(*joints)
        pose = head_pose(body)
        origin, side = head_frames(body, pose)
        finer = math.ceil(float(side) * frame.size / Head.FINE)
        head = cut(torch.from_numpy(photo).permute(2, 0, 1)[None], origin, side, Head.FINE, max(finer, 1))
        seen = torch.from_numpy(small).permute(2, 0, 1)[None]
        covered = arms_before_head(body, pose)
        hands = hands_of(small, *joints)
        return Analysed(source, frame, straight, bare, armed, seen, head, covered, hands, is_grey(small))

    @torch.inference_mode()
    def pose(self, actor: Analysed, target: Skeleton, passes: bool = False, draft: bool = False) -> Person:
        """The actor in a pose, at the target's scale.

        Args:
            actor (`Analysed`): from `analyse`.
            target (`Skeleton`): the pose, in pixels of the scene. Limbs whose joints are unknown are not drawn; those
                that `missing_parts` names are made up, blurred and in the colours of the rest.
            passes (`bool`, *optional*, defaults to `False`): depth and normals too, where a network predicts them.
            draft (`bool`, *optional*, defaults to `False`): not retouched, and the network asked once, not of the
                mirror image too.

        Raises:
            BadInput: a skeleton without joints, or of an impossible size.
        """
        moved = self.move(actor, target, draft)
        frame, rgba = moved.frame, moved.rgba
        wanted = not draft and float(moved.retouch.max()) > 0.01
        if wanted and self.retouch is not None and moved.prediction is not None:
            small = resized(rgba, Retouch.SIZE)
            seen = torch.from_numpy(small).permute(2, 0, 1)[None]
            out = self.retouch.both_ways(seen, planes_of(moved.prediction))
            paint_over(rgba, small, out, moved.retouch, moved.edge)
            clear_specks(rgba)
        if actor.grey:
            rgba[..., :3] = (rgba[..., :3] @ LUMA)[..., None]
        rows, columns = (np.flatnonzero(rgba[..., 3].any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            return Person(np.zeros((1, 1, 4), np.float32), frame.x, frame.y)
        top, left = int(rows[0]), int(columns[0])
        here = np.s_[top : rows[-1] + 1, left : columns[-1] + 1]
        depth = normals = None
        if passes and moved.prediction is not None:
            shape = passes_of(moved.prediction, rgba[..., 3])[here]
            normals, depth = np.ascontiguousarray(shape[..., :3]), shape[..., 3] * _TORSO_METRES
        return Person(np.ascontiguousarray(rgba[here]), frame.x + left, frame.y + top, depth, normals)

    @torch.inference_mode()
    def move(self, actor: Analysed, target: Skeleton, draft: bool = False) -> Moved:
        """The actor's pixels in a pose: what `pose` retouches.

        Args, errors: as of `pose`.
        """
        frame = person_frame(target)
        source_xy, source_known = tensors(actor.source, actor.frame)
        target_xy, target_known = tensors(target, frame)
        prediction = None
        if self.network is None:
            maps = PartMaps(source_xy, source_known, target_xy, target_known)
        else:
            predict = self.network if draft else self.network.both_ways
            prediction = predict(actor.small, source_xy, source_known, target_xy, target_known)
            maps = prediction.maps
        # Photo pixels per layer pixel; a photo that is larger is reduced first, so that reading it does not alias.
        per_pixel = float(maps.ratio[0]) * actor.frame.size / frame.size
        straight = actor.straight
        if per_pixel > 1:
            straight = resized(straight, max(8, round(actor.frame.size / per_pixel)))
        photo = Photo(straight, actor.bare, actor.armed, actor.hands.hidden)
        head = self._turned(actor, maps)
        changed = maps.moved().expand(1, 1, Motion.SIZE, Motion.SIZE)
        if prediction is not None:
            changed = changed * (1 - maps.unmoved(Motion.SIZE, prediction.share))
        rgba, retouch = render(photo, maps, prediction, changed, frame.size, head, not draft)
        if prediction is not None:
            retouch = retouch * (1 - own_head(maps, head) * prediction.share[:, 1:2])
        return Moved(frame, rgba, edge_width(maps, actor.frame.size, frame.size), prediction, retouch)

    def _turned(self, actor: Analysed, maps: PartMaps) -> TurnedHead | None:
        """The head, where there is a network for it and it must turn, or show what an arm hid."""
        change = float(maps.moved())
        if self.head is None or change < 0.01:
            return None
        heads = HeadMaps(maps.source, maps.target)
        turned = turn(heads, maps.source.known, maps.target.known)
        share, covered = float(turned) * change, actor.before_head
        if share < 0.01 and covered is None:
            return None
        frames = (head_frames(maps.source, heads.source), head_frames(maps.target, heads.target))
        origins, sides = zip(*frames, strict=True)
        joints = [
            ((body.xy - origin[:, None]) / side, body.known)
            for body, origin, side in zip((maps.source, maps.target), origins, sides, strict=True)
        ]
        out = self.head(actor.head, *joints[0], *joints[1], actor.hands.skin)
        covered = None if covered is None else covered * change
        return TurnedHead(share, covered, out, origins[0][0], float(sides[0]), origins[1][0], float(sides[1]))
