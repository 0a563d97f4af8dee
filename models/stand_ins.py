# SPDX-License-Identifier: Apache-2.0
"""What stands in for hands and feet that the photo lacks: the other ones, or hands in the tone of the face."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .carry import Photo, carried, owned
from .grid import sample, smooth, smoothstep
from .motion import Prediction
from .parts import PARTS, PartMaps
from .photo import Hands

_ENDS = [PARTS.index(f"{side} {end}") for end in ("forearm", "calf") for side in ("left", "right")]
"""Parts with a hand or a foot."""
_ROUGH = 4
"""Pixels of twice that, a twentieth of a torso: where they hold next to no matte the photo shows nothing."""
_LACKS = 0.05
"""Of a forearm or calf: less than that is an outline a little beside the photo's."""
_LIGHT = (0.0, 0.5, 0.87)
"""From before and above, as most light comes."""


class Limbs(NamedTuple):
    """What stands in for lost hands and feet at some of a chunk's pixels."""

    pixels: Tensor  # (N,), which
    colour: Tensor  # (N, 3), straight
    alpha: Tensor  # (N,)
    replaces: Tensor  # (N,), how far it stands in for what the photo lacks of their own


class StandIns:
    """What stands in for hands and feet of one person that the photo lacks.

    A foot that it cuts off, or hides behind somebody, is the other foot (`PartMaps.other_side`), and so is a hand in a
    pocket: there would be only cloth. Where both hands are in pockets they are painted, in the tone of the face.
    `replaces` `(1, 1, 64, 64)` is how far there is something.
    """

    @classmethod
    def of(cls, maps: PartMaps, prediction: Prediction, matte: Tensor, hands: Hands) -> StandIns | None:
        """None where the photo shows every hand and foot that is asked for.

        Args:
            maps (`PartMaps`), prediction (`Prediction`): of the pose.
            matte (`(n, n)` float32): of the photo, small.
            hands (`Hands`): of the photo.
        """
        size = prediction.share.shape[-1]
        inside = F.avg_pool2d(torch.sigmoid(prediction.alpha), prediction.alpha.shape[-1] // size)
        share = prediction.share * inside
        # Near its pocket a hand stays in it.
        hidden = F.pad(hands.hidden * maps.hands_away()[0, :, None, None], (0, 0, 0, 0, 0, 2))[:, None]
        rough = F.avg_pool2d(matte[None, None], _ROUGH) * (1 - hidden)
        ends = share[0, _ENDS].flatten(1)
        lacks = ends * (1 - _there(rough, maps.on_grid(size)[0][0]))
        if not bool((lacks.sum(1) > _LACKS * ends.sum(1)).any()):
            return None
        return cls(maps, share, matte, rough, lacks, hands, hidden, prediction.normals)

    def __init__(
        self,
        maps: PartMaps,
        share: Tensor,
        matte: Tensor,
        rough: Tensor,
        lacks: Tensor,
        hands: Hands,
        hidden: Tensor,
        normals: Tensor,
    ) -> None:
        size = share.shape[-1]
        self._source, self._maps, self._hidden = maps, maps.other_side(share, matte[None, None]), hidden
        self._rough = rough
        self._own = owned(self._maps, matte)
        here, there = (of.on_grid(size)[0][0] for of in (maps, self._maps))
        # Nor is the other hand any help in its pocket.
        others = F.pad(hands.hidden.flip(0), (0, 0, 0, 0, 0, 2))[:, None]
        found = sample(self._own[_ENDS], there[_ENDS])[:, 0] * (1 - sample(others, there[_ENDS])[:, 0])
        self._better = smoothstep((lacks * found).sum(1) / lacks.sum(1).clamp_min(1e-6), 0.3, 0.5)[:, None]
        self._tone, self._normals = hands.tone[0], normals
        self.replaces = (lacks * self._better + self._painted(lacks, here)).sum(0).reshape(1, 1, size, size)
        self._near = F.max_pool2d(self.replaces, 3, 1, 1)

    def _painted(self, lacks: Tensor, points: Tensor) -> Tensor:
        """Of what is lacking `(4, M)` at source points `(10, M, 2)`, the hidden hands that nothing shows."""
        return lacks * sample(self._hidden, points[_ENDS])[:, 0] * (1 - self._better) * self._tone[3]

    def limbs(self, photo: Photo, share: Tensor, points: Tensor, at: Tensor, change: Tensor) -> Limbs | None:
        """At the pixels of a chunk; arguments as there, its source points among them. None where nothing is lost."""
        pixels = ((sample(self._near, at)[0, 0] > 0.01) & (share[_ENDS].sum(0) > 0.05)).nonzero()[:, 0]
        if len(pixels) == 0:
            return None
        there = self._maps.at(at[:, pixels])[0][0]
        ends, points = share[_ENDS][:, pixels], points[:, pixels]
        share = share[:, pixels] * self._maps.in_source[0, :, None]
        leads = share / share.sum(0).clamp_min(1e-6)
        colour, matte = carried(photo, leads, there, change[pixels], self._source)
        # As much of each as the photo shows of the other side.
        alpha = matte.minimum((share * sample(self._own, there)[:, 0]).sum(0))
        lacks = ends * (1 - _there(self._rough, points))
        other, bare = (lacks * self._better).sum(0), self._painted(lacks, points).sum(0)
        painted = (bare / (other + bare).clamp_min(1e-6))[:, None]
        normals = F.normalize(smooth(self._normals, at[0, pixels]), dim=0)
        light = (normals * normals.new_tensor(_LIGHT)[:, None]).sum(0).clamp_min(0)
        colour = colour + painted * (self._tone[:3] * (0.7 + 0.4 * light)[:, None] - colour)
        alpha = alpha + painted[:, 0] * (1 - alpha)
        return Limbs(pixels, colour, alpha, smoothstep(other + bare, 0.3, 0.7) * change[pixels])


def _there(rough: Tensor, points: Tensor) -> Tensor:
    """Whether a photo of this rough matte `(4, 1, n, n)` shows anything at source points `(10, M, 2)`, of forearms and
    calves `(4, M)`."""
    return smoothstep(sample(rough, points[_ENDS])[:, 0], 0.15, 0.45)
