# SPDX-License-Identifier: Apache-2.0
"""Retouching: a network that looks at the finished layer and paints over what moving the photo's pixels cannot make.

A sleeve that lay on the chest stays there when the arm is raised, a garment has no other side, a foot that the photo
cuts off is none. `Motion` must say so from 64 px, before anything is put together. `Retouch` sees the layer as it came
out, at 256 px, and beside it what `Motion` knows of the pose: it says which pixels may stay, paints the others, and
draws the outline anew. Pixels that stay are the photo's own at the layer's full resolution.

Frames and their coordinates are as in models/parts.py.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.skeleton import FACE, MIRROR

from .blocks import Residual, ascend, block, descend, lay_out
from .body import facial_spots
from .grid import centres, chunks, pixels_near, smooth, smoothstep
from .motion import Prediction
from .outline import distances, outline_of
from .parts import MIRRORED_PARTS, NUM_PARTS
from .photo import spread_colours


class Retouched(NamedTuple):
    """What `Retouch` says about a batch of layers."""

    keep: Tensor  # (B, 1, 128, 128), logits: the layer's own colour is right
    colour: Tensor  # (B, 3, 256, 256), what to paint elsewhere, about 0..1
    alpha: Tensor  # (B, 1, 256, 256), logits


def planes_of(prediction: Prediction) -> Tensor:
    """What `Motion` tells `Retouch`, `(B, 23, 64, 64)`: the parts' shares, visibility, its painting, depth, normals,
    and where the target's face is."""
    parts = [
        prediction.share,
        torch.sigmoid(prediction.visible),
        prediction.colour,
        prediction.depth.clamp(-2, 2),
        F.normalize(prediction.normals, dim=1),
        facial_spots(prediction.maps.target, prediction.share.shape[-1]).reshape(
            len(prediction.share), -1, *prediction.share.shape[2:]
        ),
    ]
    return torch.cat([part.to(prediction.share.dtype) for part in parts], 1)


COLOUR = slice(NUM_PARTS + 1, NUM_PARTS + 4)
"""The painting's place in `planes_of`."""
_NORMAL_X = COLOUR.stop + 1
_FACE = _NORMAL_X + 3
_MIRRORED_PLANES = (
    *MIRRORED_PARTS, *range(NUM_PARTS, _FACE), *(_FACE + FACE.index(MIRROR[joint]) for joint in FACE),
)  # fmt: skip
"""Which plane is which in a mirror."""


class Retouch(nn.Module):
    """U-Net over a layer of 256 px as 2x2 blocks of a 128-px grid.

    Args:
        channels (`tuple` of 5 `int`, *optional*): width at 128, 64, 32, 16 and 8 px.
        fine (`int`, *optional*, defaults to 48): width of the last block.
    """

    SIZE = 256
    PLANES = 23

    def __init__(self, channels: tuple[int, ...] = (32, 64, 96, 128, 160), fine: int = 48) -> None:
        super().__init__()
        self.config: dict[str, object] = {"channels": list(channels), "fine": fine}
        steps = range(len(channels) - 1)
        self.stem = block(16 + self.PLANES, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(
                block(channels[i], channels[i + 1], 2),
                *(Residual(channels[i + 1]) for _ in range(1 + (i > 0))),
            )
            for i in steps
        )
        self.up = nn.ModuleList(
            nn.Sequential(block(channels[i] + channels[i + 1], channels[i]), Residual(channels[i]))
            for i in steps
        )
        last = nn.Conv2d(fine, 1 + 16, 3, 1, 1)
        self.head = nn.Sequential(block(channels[0] + 16, fine), last)
        nn.init.normal_(last.weight, std=0.01)
        lay_out(self)

    def forward(self, layer: Tensor, planes: Tensor) -> Retouched:
        """Predicts what is wrong with layers.

        Args:
            layer (`(B, 4, 256, 256)` float32): premultiplied, in the target's person frame.
            planes (`(B, 23, 64, 64)` float32): `planes_of`.
        """
        blocks = F.pixel_unshuffle(layer, 2)
        wide = F.interpolate(planes, size=blocks.shape[-2:], mode="bilinear", align_corners=False)
        features = torch.cat([blocks, wide], 1)
        levels = descend(self.stem(features.contiguous(memory_format=torch.channels_last)), self.down)
        x = ascend(levels[-1], levels, self.up)
        keep, change = self.head(torch.cat([x, blocks.to(x.dtype)], 1)).float().split([1, 16], 1)
        change = F.pixel_shuffle(change, 2)
        # It begins with the layer as it is, so that painting and photo meet without a step.
        painted = F.interpolate(
            planes[:, COLOUR], size=layer.shape[-2:], mode="bilinear", align_corners=False
        )
        alpha = layer[:, 3:]
        return Retouched(
            keep,
            layer[:, :3] + (1 - alpha) * painted + change[:, :3],
            # Not of the layer's alpha: its steps, a little shifted, would leave dashes along an outline.
            4 * change[:, 3:],
        )

    def both_ways(self, layer: Tensor, planes: Tensor) -> Retouched:
        """The mean of what `forward` says of layers and of their mirror images, turned back. Args: as of `forward`."""
        image = planes[:, _MIRRORED_PLANES].flip(3)
        image[:, _NORMAL_X].neg_()
        out = self(torch.cat([layer, layer.flip(3)]), torch.cat([planes, image]))
        return Retouched(*((here + there.flip(3)) / 2 for here, there in (of.chunk(2) for of in out)))


def kept(right: Tensor) -> Tensor:
    """How much of a layer's colours stays, 0..1, where they are right with a probability of `right`.

    What is likelier wrong than right stays, too, unless that is nearly sure: a wrong fold is better than a blur.
    """
    return smoothstep(right, 0.1, 0.4)


def covered(alpha: Tensor) -> Tensor:
    """How far there are colours that can stay, 0..1."""
    return smoothstep(alpha, 0.03, 0.2)


def _around(small: NDArray[np.float32], colour: Tensor) -> Tensor:
    """Colours `(1, 3, 256, 256)` beyond a layer's edge: near it its own, continued, farther off the painting."""
    alpha = small[..., 3]
    near = cv2.GaussianBlur(alpha, (0, 0), _NEAR)
    straight = small[..., :3] / np.maximum(alpha, 1e-3)[..., None]
    own = spread_colours(np.asarray(straight, np.float32), alpha)
    share = smoothstep(torch.from_numpy(near), 0.01, 0.1)
    return colour + share * (torch.from_numpy(own).permute(2, 0, 1)[None] - colour)


def _outline(alpha: NDArray[np.float32], logits: Tensor) -> Tensor:
    """How far inside the new outline each place is `(1, 1, 256, 256)`, in frame units.

    Where the network is unsure its logits are flat, and the layer's old edge shows in them as a groove, which would be
    a gap along it: it is smoothed away. Far from the layer nothing is added.
    """
    smoothed = cv2.GaussianBlur(logits[0, 0].numpy(), (0, 0), 1.5)
    far = distances((alpha < 0.5).astype(np.uint8))
    away = cv2.GaussianBlur(far, (0, 0), 2)  # of pixels: their steps would show
    limit = torch.from_numpy((_GROWTH - away) / Retouch.SIZE)
    return outline_of(torch.from_numpy(smoothed)[None, None]).minimum(limit)


def paint_over(
    layer: NDArray[np.float32], small: NDArray[np.float32], out: Retouched, share: Tensor, edge: float
) -> None:
    """Makes of the layer what `Retouch` says of it, in place.

    Args:
        layer (`(size, size, 4)` float32): premultiplied, the whole frame, of any size.
        small (`(256, 256, 4)` float32): the same at 256 px.
        out (`Retouched`): of that.
        share (`(1, 1, n, n)` float32): how much it counts at each place of the frame, 0..1.
        edge (`float`): width of an edge that is drawn anew, in frame units.
    """
    size = layer.shape[0]
    outline = _outline(small[..., 3], out.alpha)
    keep = F.interpolate(out.keep, scale_factor=2, mode="bilinear", align_corners=False)
    colour = out.colour.clamp(0, 1)
    planes = torch.cat([torch.sigmoid(keep), colour, _around(small, colour), outline], 1)
    result = np.reshape(layer, (-1, 4), copy=False)
    # Where nobody is or will be, and where all stays, nothing is to be done.
    somebody = torch.from_numpy(small[None, None, ..., 3] > 0) | (outline > -_TOLERANCE - edge)
    wanted = F.interpolate(share, size=Retouch.SIZE) > 0.001
    for chunk in chunks(pixels_near(somebody & wanted, size)):
        at = centres(chunk, size)[0]
        right, paint, around, inside = smooth(planes, at).split([1, 3, 3, 1])
        counts = smooth(share, at)[0].clamp(0, 1)
        before = torch.from_numpy(result[chunk])
        alpha = before[:, 3]
        straight = before[:, :3] / alpha.clamp_min(1e-6)[:, None]
        stays = (1 - counts * (1 - kept(right[0])))[:, None]
        there = (1 - counts * (1 - covered(alpha)))[:, None]
        colour = there * (stays * straight + (1 - stays) * paint.T) + (1 - there) * around.T
        colour = colour.clamp(0, 1)
        # Hair and edges of cloth are finer in the layer: it is overruled only where the outline is some way off.
        drawn = alpha.minimum(0.5 + (inside[0] + _TOLERANCE) / edge).maximum(
            0.5 + (inside[0] - _TOLERANCE) / edge
        )
        alpha = (alpha + counts * (drawn.clamp(0, 1) - alpha))[:, None]
        result[chunk] = torch.cat([colour * alpha, alpha], 1).numpy()


_NEAR = 3.0
"""Pixels of 256, a standard deviation: where a layer's own colours go on beyond its edge."""
_GROWTH = 8.0
"""Pixels of 256: how far beyond the layer's edge the outline may go."""
_TOLERANCE = 1 / 256
"""How far off, in frame units, the layer's outline may be."""
