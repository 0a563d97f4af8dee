# SPDX-License-Identifier: Apache-2.0
"""How much likelier a drawn person is among real people than among draws, given the scene: a density ratio.

A classifier that tells real people from draws has, at its best, the logit log(p_real / p_drawn) (Sugiyama et al.
2012). Draws chosen in proportion to exp(logit) out of many are distributed as real people
(sampling-importance-resampling, Rubin 1987; for generators Azadi et al. 2018, arXiv 1810.06758). It sees what a
velocity learns last: who is in whose way, and whether sizes and feet agree.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.coco import Batch

OWN = 18 * 5 + 7
"""Numbers of a person: pose, known joints, how far outside the frame; place, size, lowest joint, frame, company."""

OTHER = 18 * 3 + 14
"""Numbers of somebody else, seen from that person: joints, known; way, size, lowest joint, how their torsos meet."""

TORSO = (2, 5, 8, 11)


def root_and_scale(people: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(..., 2)` and rms distance from it `(..., 1)` of the known joints of `(..., J, 3)`."""
    xy, known = people[..., :2], people[..., 2:]
    number = known.sum(-2).clamp_min(1)
    root = (xy * known).sum(-2) / number
    spread = ((xy - root[..., None, :]).square().sum(-1, keepdim=True) * known).sum(-2) / number
    return root, spread.sqrt().clamp_min(1e-3)


def _lowest_and_torso(people: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest known joint `(...)` and box of shoulders and hips `(..., 4)` of `(..., 18, 3)`."""
    xy, known = people[..., :2], people[..., 2] > 0
    bottom = torch.where(known, xy[..., 1], -1.0).amax(-1)
    torso, torso_known = xy[..., TORSO, :], known[..., TORSO, None]
    low = torch.where(torso_known, torso, 9.0).amin(-2)
    high = torch.where(torso_known, torso, -9.0).amax(-2)
    return bottom, torch.cat([low, high], -1)


class Ratio(nn.Module):
    """log(p_real / p_drawn) of people in a scene: a transformer over the person and the scene as he sees it.

    Args:
        width (`int`): channels.
        layers (`int`): of the transformer.
        heads (`int`): attention heads.
        dropout (`float`): while training.
    """

    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Linear(OWN, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.other = nn.Sequential(nn.Linear(OTHER, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Sequential(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def forward(self, people: Tensor, context: Tensor, present: Tensor, aspect: Tensor) -> Tensor:
        """Logits `(B, Q)` of `people (B, Q, 18, 3)`; the rest as in `coco.Batch`."""
        number, draws = people.shape[:2]
        (root, scale), (bottom, torso) = root_and_scale(people), _lowest_and_torso(people)
        known = people[..., 2]
        pose = (people[..., :2] - root[..., None, :]) / scale[..., None] * known[..., None]
        # The frame's edges, from each joint, in the person's own size.
        edge = aspect[:, None, None] / 2
        outside = ((people[..., :2].abs() - edge) / scale[..., None]).clamp(-2, 2) * known[..., None]
        scene = torch.cat([aspect, torch.log1p(present.sum(1, keepdim=True).float())], -1)
        about = [root * 3, scale.log() + 2, bottom[..., None] * 3, scene[:, None].expand(-1, draws, -1)]
        own = torch.cat([pose.flatten(-2), known * 2 - 1, outside.flatten(-2), *about], -1)

        (roots, scales), (bottoms, torsos) = root_and_scale(context), _lowest_and_torso(context)
        seen = context[..., 2]
        unit = scale[:, :, None]  # (B, Q, 1, 1)
        joints = (context[:, None, :, :, :2] - root[:, :, None, None]) / unit[..., None]
        joints = torch.asinh(joints) * seen[:, None, ..., None]
        way = roots[:, None] - root[:, :, None]
        low = torch.maximum(torsos[:, None, :, :2], torso[:, :, None, :2])
        high = torch.minimum(torsos[:, None, :, 2:], torso[:, :, None, 2:])
        meet = (high - low) / unit
        boxes = (torsos[:, None] - torso[:, :, None]) / unit
        pair = torch.cat(
            [
                joints.flatten(-2),
                seen[:, None].expand(-1, draws, -1, -1) * 2 - 1,
                torch.asinh(way / unit),
                torch.asinh(way / scales[:, None]),
                (scales.log()[:, None] - unit.log()),
                torch.asinh((bottoms[:, None] - bottom[..., None])[..., None] / unit),
                torch.asinh(way.norm(dim=-1, keepdim=True) / (unit * scales[:, None]).sqrt()),
                meet.clamp(-3, 3),
                (meet > 0).all(-1, keepdim=True).to(unit.dtype),
                boxes.clamp(-3, 3),
            ],
            -1,
        )
        mine = self.own(own)
        tokens = torch.cat([mine[:, :, None], self.other(pair) + mine[:, :, None]], 2).flatten(0, 1)
        mask = torch.cat([torch.ones_like(present[:, :1]), present], 1).repeat_interleave(draws, 0)
        tokens = self.body(tokens * mask[..., None], src_key_padding_mask=~mask)
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logit: Tensor = self.out(torch.cat([tokens[:, 0], mean], -1))
        return logit.view(number, draws)


def resampled(people: Tensor, logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`(B, count, 18, 3)` of the draws `(B, Q, 18, 3)`, none twice, in proportion to exp(logits `(B, Q)`).

    By adding Gumbel noise and taking the largest (Efraimidis and Spirakis 2006; Kool et al. 2019).
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    chosen = (logits - (-uniform.log()).log()).topk(count, dim=1).indices
    return people.gather(1, chosen[..., None, None].expand(-1, -1, *people.shape[2:]))


def losses_of(ratio: Ratio, batch: Batch, drawn: NDArray[np.float32]) -> Tensor:
    """`(B, 1 + Q)` cross-entropy of the real target and of its Q draws `(B, Q, 18, 3)`."""
    people = torch.from_numpy(np.concatenate([batch.target[:, None], drawn], 1))
    logits = ratio(
        people,
        torch.from_numpy(batch.context),
        torch.from_numpy(batch.present),
        torch.from_numpy(batch.aspect),
    )
    real = torch.zeros_like(logits)
    real[:, 0] = 1
    return F.binary_cross_entropy_with_logits(logits.float(), real, reduction="none")
