# SPDX-License-Identifier: Apache-2.0
"""The network that moves the photo's own pixels: it says how the parts' maps are weighed and what they lack.

From two skeletons every body part gives a map from target points to photo points (`PartMaps`). `Motion`, a small
U-Net at 64 px, weighs these maps, adds a small correction, and predicts alpha, visibility and the colour of what
the photo does not show. models/transfer.py applies it to photographs.

Frames, their coordinates, and lengths in torsos are as in models/parts.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.skeleton import FACE, MIRROR

from .blocks import Residual, ascend, block, descend, lay_out
from .body import facial_spots
from .grid import sample
from .parts import MIRRORED_PARTS, NUM_PARTS, PartMaps, limb_prior


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
