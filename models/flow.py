# SPDX-License-Identifier: Apache-2.0
"""Placement by flow matching: the scene's skeletons as a set, the new person as a vector.

No grid: any number of people, joints exact, missing joints said outright. A transformer reads the context; a
small network with cross-attention to it carries noise to a person along straight paths (conditional flow
matching, Lipman et al. 2022, arXiv 2210.02747). Inside, people are COCO-17: the neck is the middle of the
shoulders and is added on the way out.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.coco import Batch, Examples
from shared.skeleton import NUM_JOINTS

JOINTS = 17
CODE = 2 + 1 + 2 * JOINTS + JOINTS
"""Length of a person's vector: root, log of the scale, pose, known joints."""

KINDS = 3  # models.coco.FULL, CUT, HIDDEN
FREQUENCIES = 32

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


def _root_and_scale(people: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(..., 2)` and rms distance from it `(..., 1)` of the known joints of `(..., 17, 3)`."""
    xy, known = people[..., :2], people[..., 2:]
    number = known.sum(-2).clamp_min(1)
    root = (xy * known).sum(-2) / number
    spread = ((xy - root[..., None, :]).square().sum(-1, keepdim=True) * known).sum(-2) / number
    return root, spread.sqrt().clamp_min(1e-3)


def encode(people: Tensor) -> Tensor:
    """`(..., 17, 3)` normalised people to `(..., 54)` vectors of about unit variance."""
    root, scale = _root_and_scale(people)
    known = people[..., 2:]
    pose = (people[..., :2] - root[..., None, :]) / scale[..., None] * known
    return torch.cat([root * 3, scale.log() + 2, pose.flatten(-2), known[..., 0] * 2 - 1], -1)


def decode(code: Tensor) -> Tensor:
    """`(..., 54)` vectors to `(..., 17, 3)`; inverse of `encode`. Unknown joints are zero."""
    root, scale = code[..., :2] / 3, (code[..., 2:3] - 2).exp()
    pose = code[..., 3 : 3 + 2 * JOINTS].unflatten(-1, (JOINTS, 2))
    known = (code[..., 3 + 2 * JOINTS :] > 0).to(code.dtype)[..., None]
    return torch.cat([pose * scale[..., None] + root[..., None, :], torch.ones_like(known)], -1) * known


def condition_vector(kind: Tensor, feet: Tensor | None = None) -> Tensor:
    """What is asked of the person, `(..., 6)`.

    Args:
        kind (`(...)` int64): `FULL`, `CUT` or `HIDDEN`; -1 leaves it open.
        feet (`(..., 2)` float, *optional*): normalised place of the feet (lowest known ankle); NaN leaves it open.
    """
    one_hot = F.one_hot(kind.clamp_min(0), KINDS) * (kind >= 0)[..., None]
    if feet is None:
        feet = torch.full((*kind.shape, 2), math.nan)
    asked = feet.isfinite().all(-1, keepdim=True)
    return torch.cat([one_hot.to(feet.dtype), asked.to(feet.dtype), feet.nan_to_num(0.0) * 3 * asked], -1)


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

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        query = self.to_query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, *keys_values, attn_mask=mask[:, None, None])
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
        self.condition = nn.Linear(KINDS + 3, width, bias=False)
        # Zero, so that before training a condition changes nothing.
        nn.init.zeros_(self.condition.weight)
        self.attention = nn.ModuleList(CrossAttention(width, heads) for _ in range(layers))
        self.attention_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.mlp_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.out = nn.Linear(width, CODE)

    def read_context(
        self, context: Tensor, present: Tensor, aspect: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Keys and values for each layer, and the `(B, 1 + K)` mask of what may be attended to.

        Args:
            context (`(B, K, 18, 3)` float), present (`(B, K)` bool), aspect (`(B, 2)` float): see `coco.Batch`.
        """
        people = drop_neck(context)
        root, scale = _root_and_scale(people)
        pose = (people[..., :2] - root[..., None, :]) / scale[..., None] * people[..., 2:]
        features = torch.cat([people.flatten(-2), root * 3, scale.log() + 2, pose.flatten(-2)], -1)
        tokens = torch.cat([self.frame(aspect)[:, None], self.person(features) * present[..., None]], 1)
        mask = torch.cat([torch.ones_like(present[:, :1]), present], 1)
        memory = self.context(tokens, src_key_padding_mask=~mask)
        keys_values = [cast(CrossAttention, layer).keys_values(memory) for layer in self.attention]
        return keys_values, mask

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        condition: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
        mask: Tensor,
    ) -> Tensor:
        """Velocity `(B, Q, 54)` of Q people in each scene.

        Args:
            x (`(B, Q, 54)` float): vectors on their way.
            time (`(B, Q)` float): 0..1; the last axis may be 1 for all.
            condition (`(B, Q, 6)` float): see `condition_vector`.
            keys_values, mask: from `read_context`.
        """
        angle = time[..., None] * 100 * torch.exp(-0.3 * torch.arange(FREQUENCIES, dtype=x.dtype))
        e = self.time(torch.cat([angle.sin(), angle.cos()], -1)) + self.condition(condition)
        h = self.code(x) + e
        for attention, attention_norm, mlp, mlp_norm, modulation, kv in zip(
            self.attention,
            self.attention_norm,
            self.mlp,
            self.mlp_norm,
            self.modulation,
            keys_values,
            strict=True,
        ):
            h = h + attention(attention_norm(h), kv, mask)
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
        kind: Tensor,
        feet: Tensor | None = None,
        steps: int = 8,
    ) -> Tensor:
        """People `(B, Q, 18, 3)` for the noise `(B, Q, 54)`, by the midpoint rule.

        With 8 steps the vectors end within 0.005 (median, rms) of where 200 end; equal steps would need 24.

        Args:
            context, present, aspect: see `read_context`.
            kind (`(B, Q)` int64), feet (`(B, Q, 2)` float, *optional*): see `condition_vector`.
            steps (`int`): of two evaluations each.
        """
        keys_values, mask = self.read_context(context, present, aspect)
        condition = condition_vector(kind, feet)
        x = noise
        # The path bends most near its end, where the steps are short.
        times = 1 - (1 - torch.linspace(0, 1, steps + 1)).pow(1.5)
        for start, step in zip(times[:-1].view(-1, 1, 1), times.diff(), strict=True):
            half = x + step / 2 * self(x, start, condition, keys_values, mask)
            x = x + step * self(half, start + step / 2, condition, keys_values, mask)
        return add_neck(decode(x))


def lowest_ankle(people: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(B, 2)` place of the lower known ankle of `(B, 18, 3)`; NaN where none is known."""
    ankles = people[:, [10, 13]]
    y = np.where(ankles[..., 2] > 0, ankles[..., 1], -np.inf)
    feet = ankles[np.arange(len(ankles)), y.argmax(1), :2].copy()
    feet[~np.isfinite(y).any(1)] = np.nan
    return feet


# ---------------------------------------------------------------------------------------------------------


def loss_of(network: Flow, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
    """Flow-matching loss; each context is read once for `draws` pairs of noise and time."""
    target = encode(drop_neck(torch.from_numpy(batch.target)))[:, None]  # (B, 1, 54)
    number = len(target)
    noise = torch.randn(number, draws, CODE, generator=generator)
    time_ = torch.rand(number, draws, generator=generator)
    x = noise + (target - noise) * time_[..., None]
    kind = torch.from_numpy(batch.kind)[:, None].expand(-1, draws)
    feet = torch.from_numpy(lowest_ankle(batch.target))[:, None].expand(-1, draws, -1)
    # Kind is left open in a fifth, feet in two thirds of the draws: one network does with and without.
    kind = kind.masked_fill(torch.rand(number, draws, generator=generator) < 0.2, -1)
    feet = feet.masked_fill((torch.rand(number, draws, generator=generator) < 0.67)[..., None], math.nan)
    keys_values, mask = network.read_context(
        torch.from_numpy(batch.context), torch.from_numpy(batch.present), torch.from_numpy(batch.aspect)
    )
    velocity = network(x, time_, condition_vector(kind, feet), keys_values, mask)
    # A joint that is not known has no place to learn; a tenth keeps its coordinates near zero.
    weight = torch.ones(number, 1, CODE)
    known = drop_neck(torch.from_numpy(batch.target))[..., 2]
    weight[:, 0, 3 : 3 + 2 * JOINTS] = known.repeat_interleave(2, -1) * 0.9 + 0.1
    return ((velocity - (target - noise)).square() * weight).mean()


def _draw(crowd: NDArray[np.int64], batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Indices of a step's examples: eight batches are drawn at once, each of scenes about equally full.

    Padding every scene to the fullest of 256 would double the work.
    """
    group, part = divmod(step, 8)
    rng = np.random.default_rng((seed, group))
    index = rng.integers(0, len(crowd), 8 * batch)
    index = index[np.argsort(crowd[index], kind="stable")].reshape(8, batch)
    chosen: NDArray[np.int64] = index[rng.permutation(8)[part]]
    return chosen


def train(
    examples: Path,
    out: Path,
    steps: int = 12_000,
    minutes: float = math.inf,
    batch: int = 256,
    draws: int = 4,
    rate: float = 1e-3,
    seed: int = 0,
    start: Path | None = None,
    checkpoint_minutes: float = 3.0,
    *,
    bfloat16: bool = False,
) -> nn.Module:
    """Trains, resuming from `out`/checkpoint.pt where there is one; returns the averaged network.

    Args:
        examples (`Path`): train.npz of `walkon data coco`.
        out (`Path`): folder for checkpoint.pt and curve.jsonl.
        steps (`int`): until the rate, a cosine, has come down to zero.
        minutes (`float`): stop earlier after this long; a later call continues.
        batch, draws (`int`): scenes a step, and draws of noise and time for each.
        rate (`float`): highest rate of AdamW.
        seed (`int`): the order of the data and all noise depend on seed and step only.
        start (`Path`, *optional*): a state dict to begin from.
        checkpoint_minutes (`float`): between checkpoints.
        bfloat16 (`bool`): matrices in bfloat16, faster on processors that have it; weights stay float32.
    """
    data = Examples.load(examples)
    out.mkdir(parents=True, exist_ok=True)
    crowd = (data.context >= 0).sum(1)
    torch.manual_seed(seed)
    network, average = Flow(), Flow()
    if start is not None:
        network.load_state_dict(torch.load(start, weights_only=True))
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    step, seconds = 0, 0.0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]

    def save() -> None:
        state = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds + time.monotonic() - began,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    began = written = time.monotonic()
    losses: list[float] = []
    network.train()
    while step < steps and time.monotonic() - began < minutes * 60:
        torch.manual_seed(hash((seed, step)) % 2**31)  # dropout
        rng, generator = (
            np.random.default_rng((seed, step)),
            torch.Generator().manual_seed(seed * 1_000_003 + step),
        )
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 500) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = data.batch(_draw(crowd, batch, seed, step))
        chosen = chosen.mirrored(rng.random(batch) < 0.5)
        # The frame is zoomed with its people, so where it cuts them stays true.
        chosen = chosen.zoomed(np.exp(rng.normal(0, 0.12, batch)).astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = loss_of(network, chosen, draws, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(0.999, step / (step + 50))
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        losses.append(loss.item())
        if step % 200 == 0:
            line = {
                "step": step,
                "loss": float(np.mean(losses)),
                "seconds": seconds + time.monotonic() - began,
            }
            with (out / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            losses.clear()
        if time.monotonic() - written > checkpoint_minutes * 60:
            save()
            written = time.monotonic()
    save()
    return average.eval()


assert len(_TO_18) == NUM_JOINTS
