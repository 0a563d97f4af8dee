# SPDX-License-Identifier: Apache-2.0
"""Placement by flow matching: the scene's skeletons as a set, the new person as a vector.

No grid: any number of people, joints exact, missing joints said outright. A transformer reads the context; a
small network with cross-attention to it carries noise to a person along straight paths (conditional flow
matching, Lipman et al. 2022, arXiv 2210.02747). Inside, people are COCO-17: the neck is the middle of the
shoulders and is added on the way out.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.ratio import Ratio, root_and_scale
from shared.skeleton import NUM_JOINTS

JOINTS = 17
CODE = 2 + 1 + 2 * JOINTS + JOINTS
"""Length of a person's vector: root, log of the scale, pose, known joints."""

KINDS = 3  # models.coco.FULL, CUT, HIDDEN
CONDITIONS = KINDS + 3 + 2 + 2  # kind; feet; stature; facing and stance
FREQUENCIES = 32
PAIR = 96
STEPS = 5

_TO_17 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
_TO_18 = (0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # the neck is overwritten


def drop_neck(people: Tensor) -> Tensor:
    """`(..., 18, 3)` in COCO-18 order to `(..., 17, 3)` in COCO-17 order."""
    return people[..., list(_TO_17), :]


def add_neck(people: Tensor) -> Tensor:
    """`(..., 17, 3)` in COCO-17 order to `(..., 18, 3)` in COCO-18 order; inverse of `drop_neck`."""
    out = people[..., list(_TO_18), :].clone()
    shoulders = people[..., 5:7, :]
    known = shoulders[..., 2].amin(-1, keepdim=True)
    out[..., 1, :] = shoulders.mean(-2) * known
    return out


def encode(people: Tensor) -> Tensor:
    """`(..., 17, 3)` normalised people to `(..., 54)` vectors of about unit variance."""
    root, scale = root_and_scale(people)
    known = people[..., 2:]
    pose = (people[..., :2] - root[..., None, :]) / scale[..., None] * known
    return torch.cat([root * 3, scale.log() + 2, pose.flatten(-2), known[..., 0] * 2 - 1], -1)


def decode(code: Tensor) -> Tensor:
    """`(..., 54)` vectors to `(..., 17, 3)`; inverse of `encode`. Unknown joints are zero."""
    root, scale = code[..., :2] / 3, (code[..., 2:3] - 2).exp()
    pose = code[..., 3 : 3 + 2 * JOINTS].unflatten(-1, (JOINTS, 2))
    known = (code[..., 3 + 2 * JOINTS :] > 0).to(code.dtype)[..., None]
    return torch.cat([pose * scale[..., None] + root[..., None, :], torch.ones_like(known)], -1) * known


def condition_vector(
    kind: Tensor,
    feet: Tensor | None = None,
    stature: Tensor | None = None,
    facing: Tensor | None = None,
    stance: Tensor | None = None,
) -> Tensor:
    """What is asked of the person, `(..., CONDITIONS)`; each part may be left open.

    Args:
        kind (`(...)` int64): `FULL`, `CUT` or `HIDDEN`; -1 leaves it open.
        feet (`(..., 2)` float, *optional*): normalised place of the feet (lowest known ankle); NaN leaves it open.
        stature (`(...)` float, *optional*): see `models.anatomy`, normalised; NaN leaves it open.
        facing (`(...)` float, *optional*): -1 to the left of the picture, 1 to the right; 0 leaves it open.
        stance (`(...)` float, *optional*): -1 sitting, 1 standing; 0 leaves it open.
    """
    open_ = torch.zeros(kind.shape)
    one_hot = F.one_hot(kind.clamp_min(0), KINDS) * (kind >= 0)[..., None]
    if feet is None:
        feet = torch.full((*kind.shape, 2), math.nan)
    if stature is None:
        stature = torch.full(kind.shape, math.nan)
    at, sized = feet.isfinite().all(-1, keepdim=True), stature.isfinite()
    parts = (
        one_hot,
        at,
        feet.nan_to_num(0.0) * 3 * at,
        torch.stack([sized, (stature.nan_to_num(1.0).clamp_min(1e-3).log() + 2) * sized], -1),
        torch.stack([open_ if facing is None else facing, open_ if stance is None else stance], -1),
    )
    return torch.cat([part.float() for part in parts], -1)


class Scene(NamedTuple):
    """A scene as the velocity reads it; `Flow.read_context` makes it.

    Args:
        keys_values: keys and values of each layer's attention, `(B, heads, 1 + K, width / heads)` each.
        mask (`(B, 1 + K)` bool): what may be attended to: the frame, then the people.
        place (`(B, 1 + K, 3)` float): root and log of the scale of each person, zero for the frame.
        beside (`(B, 1 + K, PAIR)` float): what each person is to somebody beside him.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    mask: Tensor
    place: Tensor
    beside: Tensor


class CrossAttention(nn.Module):
    """Multi-head attention whose keys and values are made once per scene."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, K, width)` to keys and values `(B, heads, K, width / heads)`."""
        key, value = self.to_key_value(memory).chunk(2, -1)
        return key.unflatten(-1, (self.heads, -1)).transpose(1, 2), value.unflatten(
            -1, (self.heads, -1)
        ).transpose(1, 2)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """`(B, Q, width)`; `bias (B, heads, Q, K)` is added to what each query thinks of each key."""
        query = self.to_query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, *keys_values, attn_mask=bias.to(query.dtype))
        return self.out(out.transpose(1, 2).flatten(-2))


class Flow(nn.Module):
    """Velocity of a person's vector at time t on the way from noise (0) to a person (1).

    Args:
        width (`int`): channels.
        context_layers (`int`): transformer layers over the scene's people.
        layers (`int`): cross-attention and MLP layers of the velocity.
        heads (`int`): attention heads.
        dropout (`float`): in the context transformer, while training.
    """

    def __init__(
        self,
        width: int = 192,
        context_layers: int = 2,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.person = nn.Sequential(
            nn.Linear(3 * JOINTS + 3 + 2 * JOINTS, width), nn.GELU(), nn.Linear(width, width)
        )
        self.frame = nn.Linear(2, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.context = nn.TransformerEncoder(layer, context_layers, enable_nested_tensor=False)
        self.code = nn.Linear(CODE, width)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.GELU(), nn.Linear(width, width))
        self.condition = nn.Linear(CONDITIONS, width, bias=False)
        # Zero, so that before training a condition changes nothing.
        nn.init.zeros_(self.condition.weight)
        # The new person against each person of the scene: a set transformer alone is slow to learn who is in whose way.
        self.heads = heads
        self.beside_them = nn.Linear(width, PAIR)
        self.beside = nn.Linear(6, PAIR, bias=False)
        self.beside_time = nn.Linear(width, PAIR, bias=False)
        self.pair = nn.Sequential(nn.GELU(), nn.Linear(PAIR, PAIR), nn.GELU())
        self.pair_bias = nn.Linear(PAIR, layers * heads)
        self.pair_sum = nn.Linear(PAIR, width)
        nn.init.zeros_(self.pair_bias.weight)
        nn.init.zeros_(self.pair_bias.bias)
        nn.init.zeros_(self.pair_sum.weight)
        self.ratio = Ratio()
        self.attention = nn.ModuleList(CrossAttention(width, heads) for _ in range(layers))
        self.attention_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.mlp_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.out = nn.Linear(width, CODE)

    def read_context(self, context: Tensor, present: Tensor, aspect: Tensor) -> Scene:
        """All that does not change from step to step.

        Args:
            context (`(B, K, 18, 3)` float), present (`(B, K)` bool), aspect (`(B, 2)` float): see `coco.Batch`.
        """
        people = drop_neck(context)
        root, scale = root_and_scale(people)
        pose = (people[..., :2] - root[..., None, :]) / scale[..., None] * people[..., 2:]
        features = torch.cat([people.flatten(-2), root * 3, scale.log() + 2, pose.flatten(-2)], -1)
        tokens = torch.cat([self.frame(aspect)[:, None], self.person(features) * present[..., None]], 1)
        mask = torch.cat([torch.ones_like(present[:, :1]), present], 1)
        memory = self.context(tokens, src_key_padding_mask=~mask)
        keys_values = [cast(CrossAttention, layer).keys_values(memory) for layer in self.attention]
        place = F.pad(torch.cat([root, scale.log()], -1), (0, 0, 1, 0))
        return Scene(keys_values, mask, place, self.beside_them(memory))

    def _pairs(self, x: Tensor, e: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Each of Q people against everybody: a message `(B, Q, width)` and biases `(B, layers, heads, Q, 1 + K)`."""
        size = x[..., 2].clamp(-4, 4)[:, :, None] - 2
        sizes = scene.place[:, None, :, 2]
        way = (x[..., :2] / 3)[:, :, None] - scene.place[:, None, :, :2]
        relative = torch.cat(
            [
                torch.asinh(way * torch.exp(-sizes)[..., None]),
                torch.asinh(way * torch.exp(-size)[..., None]),
                torch.asinh(way.norm(dim=-1) * torch.exp(-(size + sizes) / 2))[..., None],
                (size - sizes)[..., None],
            ],
            -1,
        )
        h = self.pair(self.beside(relative) + scene.beside[:, None] + self.beside_time(e)[:, :, None])
        bias = self.pair_bias(h).unflatten(-1, (-1, self.heads)).permute(0, 3, 4, 1, 2)
        bias = bias.masked_fill(~scene.mask[:, None, None, None], -1e4)
        message: Tensor = self.pair_sum((h * scene.mask[:, None, :, None]).sum(2))
        return message, bias

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        condition: Tensor,
        scene: Scene,
    ) -> Tensor:
        """Velocity `(B, Q, 54)` of Q people in each scene.

        Args:
            x (`(B, Q, 54)` float): vectors on their way.
            time (`(B, Q)` float): 0..1; the last axis may be 1 for all.
            condition (`(B, Q, CONDITIONS)` float): see `condition_vector`.
            scene (`Scene`): from `read_context`.
        """
        angle = time[..., None] * 100 * torch.exp(-0.3 * torch.arange(FREQUENCIES, dtype=x.dtype))
        e = self.time(torch.cat([angle.sin(), angle.cos()], -1)) + self.condition(condition)
        message, biases = self._pairs(x, e, scene)
        h = self.code(x) + e + message
        for attention, attention_norm, mlp, mlp_norm, modulation, keys_values, bias in zip(
            self.attention,
            self.attention_norm,
            self.mlp,
            self.mlp_norm,
            self.modulation,
            scene.keys_values,
            biases.unbind(1),
            strict=True,
        ):
            h = h + attention(attention_norm(h), keys_values, bias)
            gain, bias = modulation(e).chunk(2, -1)
            h = h + mlp(mlp_norm(h) * (1 + gain) + bias)
        out: Tensor = self.out(h)
        return out

    @torch.inference_mode()
    def sample(
        self,
        context: Tensor,
        present: Tensor,
        aspect: Tensor,
        noise: Tensor,
        condition: Tensor,
        steps: int = STEPS,
        begin: float = 0.0,
    ) -> Tensor:
        """People `(B, Q, 18, 3)` for the noise `(B, Q, 54)`, by the midpoint rule.

        With 5 steps the joints end within 0.004 (median, rms, normalised) of where 100 end.

        Args:
            context, present, aspect: see `read_context`.
            condition (`(B, Q, CONDITIONS)` float): see `condition_vector`.
            steps (`int`): of two evaluations each.
            begin (`float`): the time that `noise` is at, 0 for pure noise. See `between`.
        """
        scene = self.read_context(context, present, aspect)
        x = noise
        # The path bends most near its end, where the steps are short.
        times = begin + (1 - begin) * (1 - (1 - torch.linspace(0, 1, steps + 1)).pow(1.5))
        for start, step in zip(times[:-1].view(-1, 1, 1), times.diff(), strict=True):
            half = x + step / 2 * self(x, start, condition, scene)
            x = x + step * self(half, start + step / 2, condition, scene)
        return add_neck(decode(x))


def between(noise: Tensor, person: Tensor, time: float) -> Tensor:
    """Vectors `(..., 54)` on the way from the noise to a person `(18, 3)` at that time: a start for variations."""
    return noise + (encode(drop_neck(person)) - noise) * time


def lowest_ankle(people: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(B, 2)` place of the lower known ankle of `(B, 18, 3)`; NaN where none is known."""
    ankles = people[:, [10, 13]]
    y = np.where(ankles[..., 2] > 0, ankles[..., 1], -np.inf)
    feet = ankles[np.arange(len(ankles)), y.argmax(1), :2].copy()
    feet[~np.isfinite(y).any(1)] = np.nan
    return feet


assert len(_TO_18) == NUM_JOINTS
