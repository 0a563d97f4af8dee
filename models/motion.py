# SPDX-License-Identifier: Apache-2.0
"""Transfer that moves the photo's own pixels: each limb of the target pose is an exact map into the photo.

From two skeletons every body part gives a map from target points to photo points (`PartMaps`). `Motion`, a small
U-Net at 64 px, weighs these maps, adds a small correction, and predicts alpha, visibility and the colour of what
the photo does not show. `MotionTransfer` enlarges the weights, not the picture, and reads the photo at its full
resolution, so the layer is as sharp as the photo. Without a network the part maps alone give a person too.

Conventions: a *frame* is a square around a person; inside it coordinates run from 0 to 1, y downward. Lengths of a
body are given in *torsos*, the distance from neck to mid-hip as it would be seen from the front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    NECK,
    NOSE,
    Skeleton,
)

from . import weights
from .parts import (
    BONES,
    NUM_PARTS,
    PartMaps,
    limb_prior,
    normalised,
    perp,
    pixel_grid,
    sample,
    smoothstep,
    torso_length,
)

MARGIN = 0.55
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
            carried = F.pixel_unshuffle(sample(source[:, 3:], fine.permute(0, 2, 3, 1)), 2)
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


def crop(picture: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """The frame's pixels `(size, size, C)`; 0 outside of the picture."""
    height, width, channels = picture.shape
    out = np.zeros((frame.size, frame.size, channels), np.float32)
    x0, y0 = max(frame.x, 0), max(frame.y, 0)
    x1, y1 = min(frame.x + frame.size, width), min(frame.y + frame.size, height)
    if x1 > x0 and y1 > y0:
        out[y0 - frame.y : y1 - frame.y, x0 - frame.x : x1 - frame.x] = picture[y0:y1, x0:x1]
    return out


def resized(picture: NDArray[np.float32], size: int) -> NDArray[np.float32]:
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
        photo = crop(photo, source_frame)
        if photo[..., 3].max() < 0.5:
            raise NoActor(
                "actor photo: the matte shows no person at the skeleton", "Choose another photo", "actor"
            )
        source_xy, source_known = tensors(source, source_frame)
        target_xy, target_known = tensors(target, target_frame)
        maps = PartMaps(source_xy, source_known, target_xy, target_known)
        # A limb of which the photo holds nothing is left out: painted from nothing it would be a ghost.
        for part in (maps.in_target & ~maps.in_source)[0].nonzero():
            target_known[0, BONES[int(part) - 2][1]] = False
        maps = PartMaps(source_xy, source_known, target_xy, target_known)
        # Photo pixels per layer pixel; a photo that is larger is reduced first, so that reading it does not alias.
        per_pixel = float(maps.ratio[0]) * source_frame.size / target_frame.size
        straight = np.dstack([spread_colours(photo[..., :3], photo[..., 3]), photo[..., 3]])
        if per_pixel > 1:
            straight = resized(straight, max(8, round(source_frame.size / per_pixel)))
        prediction = None
        if self.network is not None:
            premultiplied = photo.copy()
            premultiplied[..., :3] *= premultiplied[..., 3:]
            small = torch.from_numpy(resized(premultiplied, Motion.PHOTO)).permute(2, 0, 1)[None]
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
    matte = torch.from_numpy(resized(photo[..., 3], 2 * _OWNERSHIP_SIZE))
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
        logits, part_alpha = limb_prior(distance, sample(own, points)[:, 0][None], maps.in_target)
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
            seen = torch.sigmoid(visible[0] + _TRUST * (1 - share[1])) * smoothstep(carried[:, 3], 0.05, 0.5)
            head = own_head * part_alpha[1] * (1 - smoothstep(distance[0, 1], 1.3, 1.8))
            above = (at[0] - maps.target.xy[0, NECK]).norm(dim=-1) / maps.target.torso[0]
            ghost = own_head * smoothstep(above, 0.2, 0.35) * (1 - seen)
            seen = (1 - change * (1 - seen.maximum(head)))[:, None]
            colour = colour * seen + painted.T.clamp(0, 1) * (1 - seen)
            # An outline that the network is unsure of is a wide ramp: a sharp edge in its middle looks better.
            alpha = smoothstep(torch.sigmoid(_between(prediction.alpha, at)[0]), *_EDGE)
            alpha = (alpha * (1 - ghost)).maximum(head)
            if not maps.in_target.all():
                # Beside a limb that is left out the network has learned nothing.
                drawn = distance[0].masked_fill(~maps.in_target[0, :, None], math.inf)
                alpha = alpha * (1 - smoothstep(drawn.amin(0), 1.3, 1.9))
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
    lies = sample(own[1:2], points[:, 1])[0, 0] * (distance[0, 1] < 2.0)
    alpha = torch.sigmoid(F.avg_pool2d(prediction.alpha, Motion.PHOTO // Motion.SIZE)).reshape(-1)
    expected = alpha * prediction.share[0, 1].reshape(-1) * (distance[0, 1] < 2.0)
    if min(lies.sum(), expected.sum()) < 4:
        return torch.zeros(1, 2)
    middle, wanted = ((grid[0] * mask[:, None]).sum(0) / mask.sum() for mask in (lies, expected))
    side = perp(normalised(maps.target.head[0] - maps.target.xy[0, NECK]))
    reach = 0.25 * float(maps.target.torso)
    return ((wanted - middle) @ side).clamp(-reach, reach) * side * maps.change()[:, None]


_EDGE = (0.36, 0.64)
_TRUST = 1.5


def _painted_like(prediction: Prediction, photo: NDArray[np.float32]) -> Tensor:
    """The painted colours `(1, 3, 64, 64)`, moved by what they miss at the nearest places that the photo shows.

    Head and body separately: hair must not take the collar's colour.
    """
    small = torch.from_numpy(resized(photo, Motion.PHOTO)).permute(2, 0, 1)[None]
    carried = sample(small, prediction.flow)
    missed = (carried[:, :3] - prediction.colour)[0].permute(1, 2, 0).numpy()
    sure = torch.sigmoid(prediction.visible[0, 0]) * carried[0, 3]
    head = prediction.share[0, 1]
    moved = prediction.colour
    for part in (head, 1 - head):
        known = smoothstep(sure * part, 0.4, 0.8).numpy()
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
