# SPDX-License-Identifier: Apache-2.0
"""Placement as the paper has it: a conditional WGAN-GP on 64x64x18 maps (section III-A), whole in this file.

What the paper says is built as it says. What it leaves open is taken from the same authors' public code for the
sister paper TIPS (prasunroy/tips at 80a71f6, text2pose/), where it speaks, and else chosen here:

- Generator's first up-convolution: 4x4, stride 4, from 1x1; the others 4x4, stride 2; no bias. [TIPS] The only
  reading of "4 up-convolutions and one more" that ends at 64x64.
- Critic: 4x4 convolutions without bias or normalisation, leaky slope 0.01; the condition enters after the trunk:
  linear to 128, tiled 4x4, joined, 1x1 convolution to 256, then the 4x4 convolution of stride 4. [TIPS]
- The penalty's gradient is taken in the interpolated maps only, one alpha a sample, the real condition. [TIPS]
- One noise for the critic's and the generator's step of an iteration; a generator's step in every fifth. [TIPS]
- Batch 32; initial weights N(0, 0.02), batch normalisation N(1, 0.02). [TIPS]
- Maps in -1..1, an absent joint is -1 everywhere; decoded after (map + 1) / 2. [TIPS]
- Encoder: the decoder's mirror, 18-32-64-128-256 with 4x4 convolutions of stride 2 and a last one 4x4 to 512,
  batch normalisation and ReLU between. [chosen: the paper gives only the 512]
- The encoder learns through the generator; the critic is given its vector v_B, detached, so that the encoder
  cannot please the critic by the condition alone. [chosen: the paper writes D(x, v_B)]
- Several people's Gaussians in one channel are merged by their maximum, so a peak is 1 however near others
  are. [chosen]
- sigma 1.6 cells. [chosen] TIPS has 3.2 for one person filling the map; COCO's median person is 0.35 of the frame.
  The Gaussian stands at the joint's exact place, not at its cell.
- The frame is padded to a square, not stretched (models/coco.py); an argmax is its cell's centre. [chosen]
- Flips with left and right exchanged are the only augmentation. [chosen]
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.coco import Batch, Examples
from models.training import load_checkpoint, save_checkpoint, write_line
from shared.skeleton import NUM_JOINTS

PENALTY = 10.0
CRITIC_STEPS = 5


@dataclass(frozen=True)
class Codec:
    """Keypoints to maps and back.

    People are `(..., 18, 3)`: x, y in -0.5..0.5 of the padded square, known (see `models.coco.Batch`). Maps are
    `(B, 18, grid, grid)`, -1..1, rows downwards. For one person inside the square,
    `abs(decode(encode(p)) - p) <= 0.5 / grid` on each axis.

    Args:
        grid (`int`): cells a side.
        sigma (`float`): of the Gaussian, in cells.
        threshold (`float`): a joint whose map, brought to 0..1, stays below this everywhere is missing.
        subpixel (`bool`): read joints between the cells; the paper takes the highest cell.
    """

    grid: int = 64
    sigma: float = 1.6
    threshold: float = 0.2
    subpixel: bool = False

    def encode(self, people: Tensor, present: Tensor) -> Tensor:
        """Maps of the people of each scene, merged by their maximum.

        Args:
            people (`(B, K, 18, 3)` float): joints outside the square count as missing.
            present (`(B, K)` bool): which rows hold a person, each scene's first ones.
        """
        centres = (torch.arange(self.grid) + 0.5) / self.grid - 0.5
        known = (people[..., 2] > 0) & (people[..., :2].abs() <= 0.5).all(-1) & present[..., None]
        # A Gaussian is the product of its columns' and its rows' values: two short exps for a whole map.
        square = ((people[..., :2, None] - centres) * self.grid).square()  # (B, K, 18, 2, grid)
        side = (square * (-0.5 / self.sigma**2)).exp() * known[..., None, None]
        # Fullest scenes first, so that the scenes with a k-th person are a plain slice.
        number, order = present.sum(1).sort(descending=True)
        side = side[order]
        most = torch.zeros(len(people), NUM_JOINTS, self.grid, self.grid)
        for k in range(people.shape[1]):
            rows = int((number > k).sum())
            maps = side[:rows, k, :, 1, :, None] * side[:rows, k, :, 0, None, :]
            torch.maximum(most[:rows], maps, out=most[:rows])
        return most[order.argsort()].mul_(2).sub_(1)

    def decode(self, maps: Tensor) -> Tensor:
        """`(B, 18, grid, grid)` maps to `(B, 18, 3)` people; a joint is its highest cell, see `subpixel`."""
        peak, index = maps.flatten(2).max(-1)
        known = ((peak + 1) / 2 >= self.threshold).to(maps.dtype)
        column, row = index % self.grid, index // self.grid
        xy = torch.stack([column, row], -1).to(maps.dtype) + 0.5
        if self.subpixel:
            xy = xy + torch.stack(
                [self._beside(maps, row, column, 1), self._beside(maps, row, column, 0)], -1
            )
        xy = xy / self.grid - 0.5
        return torch.cat([xy, torch.ones_like(xy[..., :1])], -1) * known[..., None]

    def _beside(self, maps: Tensor, row: Tensor, column: Tensor, axis: int) -> Tensor:
        """Cells from the highest cell's centre to the peak of the Gaussian through it and its two neighbours.

        The logarithm of a Gaussian is a parabola, so on its own maps this is exact; none at the map's border.
        """
        at = row if axis == 0 else column
        heights = []
        for step in (-1, 0, 1):
            shifted = (at + step).clamp(0, self.grid - 1)
            index = shifted * self.grid + column if axis == 0 else row * self.grid + shifted
            height = maps.flatten(2).gather(-1, index[..., None])[..., 0]
            heights.append(((height + 1) / 2).clamp_min(1e-4).log())
        before, peak, after = heights
        bend = (2 * peak - before - after).clamp_min(1e-6)
        inside = (at > 0) & (at < self.grid - 1)
        return ((after - before) / (2 * bend)).clamp(-0.5, 0.5) * inside


def codec_error(examples: Examples, *, subpixel: bool, count: int = 2000) -> dict[str, float]:
    """What is lost when real people (the first `count` targets) go through maps and back.

    Returns:
        mean error in cells and in statures of the joints inside the square; share of bones with a human length.
    """
    from models import anatomy

    body, codec = anatomy.installed(), Codec(subpixel=subpixel)
    people = torch.from_numpy(examples.people[examples.target[:count]])
    one = torch.ones(1, 1, dtype=torch.bool)
    decoded = torch.cat(
        [codec.decode(codec.encode(part[:, None], one.expand(len(part), 1))) for part in people.split(100)]
    )
    counted = decoded[..., 2] > 0
    error = (decoded - people)[..., :2].norm(dim=-1).double()
    stature = torch.from_numpy(body.stature(people.double().numpy()))
    valid, known = body.valid_bones(decoded.double().numpy(), body.stature(decoded.double().numpy()))
    return {
        "cells": round(float(error[counted].mean()) * codec.grid, 3),
        "statures": round(float((error / stature[:, None])[counted].nanmean()), 4),
        "bones": round(float(valid.sum() / known.sum()), 3),
    }


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Context maps `(B, 18, 64, 64)` to v_B `(B, width)`."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (NUM_JOINTS, 32, 64, 128, 256)
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, width, 4))

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.layers(maps)
        return out.flatten(1)


class Decoder(nn.Module):
    """v_B and z, joined to `(B, width)`, to maps `(B, 18, 64, 64)` in -1..1."""

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (width, 256, 128, 64, 32)
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            stride, padding = (4, 0) if i == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(True),
            ]
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(32, NUM_JOINTS, 4, 2, 1, bias=False), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        # From 1x1 the first up-convolution is a plain product, and as one it is several times faster.
        first: Tensor = self.layers.get_parameter("0.weight")
        out = (x @ first.flatten(1).to(x.dtype)).unflatten(1, first.shape[1:])
        for layer in list(self.layers)[1:]:
            out = layer(out)
        return out


class Generator(nn.Module):
    """G_T: context maps and noise to the maps of one more person.

    Args:
        condition, noise (`int`): lengths of v_B and z.
        sigma, threshold (`float`), subpixel (`bool`): of the codec; `subpixel` may be changed in config.json.
    """

    def __init__(
        self,
        condition: int = 512,
        noise: int = 512,
        sigma: float = 1.6,
        threshold: float = 0.2,
        subpixel: bool = False,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.codec = Codec(sigma=sigma, threshold=threshold, subpixel=subpixel)
        self.encoder = Encoder(condition)
        self.decoder = Decoder(condition + noise)
        self.apply(_initialise)

    def forward(self, context: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `(B, 18, 64, 64)` and v_B `(B, condition)` from context maps and z `(B, noise)`."""
        condition: Tensor = self.encoder(context)
        return self.decoder(torch.cat([condition, z], 1)), condition

    @torch.inference_mode()
    def sample(self, context: Tensor, present: Tensor, z: Tensor) -> Tensor:
        """People `(B, Q, 18, 3)` for contexts `(B, K, 18, 3)`, `(B, K)` and z `(B, Q, noise)`."""
        condition = self.encoder(self.codec.encode(context, present))[:, None].expand(-1, z.shape[1], -1)
        maps = self.decoder(torch.cat([condition, z], -1).flatten(0, 1))
        return self.codec.decode(maps).unflatten(0, z.shape[:2])


class Critic(nn.Module):
    """D_T: one number for maps `(B, 18, 64, 64)` given v_B `(B, condition)`; higher is more real."""

    def __init__(self, condition: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (NUM_JOINTS, 32, 64, 128, 256)
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.LeakyReLU(0.01)]
        self.trunk = nn.Sequential(*layers)
        self.condition = nn.Sequential(nn.Linear(condition, 128), nn.LeakyReLU(0.01))
        self.join = nn.Sequential(nn.Conv2d(384, 256, 1, bias=False), nn.LeakyReLU(0.01))
        self.out = nn.Conv2d(256, 1, 4, 4, bias=False)
        self.apply(_initialise)

    def tiled(self, condition: Tensor) -> Tensor:
        """The condition as `(B, 128, 4, 4)`, the same in every cell."""
        vector: Tensor = self.condition(condition)
        return vector[..., None, None].expand(-1, -1, 4, 4)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.out(self.join(torch.cat([self.trunk(maps), self.tiled(condition)], 1)))
        return out.flatten()


def slope(critic: Critic, maps: Tensor, condition: Tensor) -> Tensor:
    """The critic's gradient in the maps, `(B, 18, 64, 64)`, written out so that it can be differentiated once more.

    Between its leaky units the critic is linear, so the gradient is its layers transposed with the units' slopes in
    between. `torch.autograd.grad(create_graph=True)` gives the same but then carries zeros back through the forward
    pass as well, a sixth of a whole step.
    """
    with torch.no_grad():
        sides: list[Tensor] = []
        x = maps
        for layer in critic.trunk:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                sides.append(torch.where(x > 0, 1.0, layer.negative_slope).to(x.dtype))
        joined = critic.join(torch.cat([x, critic.tiled(condition)], 1))
        last = torch.where(joined > 0, 1.0, 0.01).to(joined.dtype)
    out, join = critic.out.weight, critic.join.get_parameter("0.weight")
    gradient = F.conv_transpose2d(out * last, join[:, : x.shape[1]])
    convolutions = [layer for layer in critic.trunk if isinstance(layer, nn.Conv2d)]
    for convolution, side in zip(reversed(convolutions), reversed(sides), strict=True):
        gradient = F.conv_transpose2d(gradient * side, convolution.weight, stride=2, padding=1)
    return gradient


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, condition: Tensor, alpha: Tensor) -> Tensor:
    """Mean of (norm of the critic's gradient - 1) squared at alpha * fake + (1 - alpha) * real.

    Args:
        real, fake (`(B, 18, 64, 64)` float), condition (`(B, condition)` float), alpha (`(B,)` float, 0..1).
    """
    weight = alpha[:, None, None, None].to(real.dtype)
    between = (weight * fake + (1 - weight) * real).detach()
    gradient = slope(critic, between, condition).flatten(1)
    norm = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).norm(dim=1)
    return (norm - 1).square().mean()


# ---------------------------------------------------------------------------------------------------------


def _layout(weight: Tensor) -> torch.memory_format:
    product = weight.shape[0] == 1024  # the decoder's first, see there
    return torch.channels_last if weight.dim() == 4 and not product else torch.contiguous_format


class Trainer:
    """Both networks, their optimisers and one iteration of the paper's training.

    Args:
        seed (`int`): initial weights.
        rate (`float`): of both Adams.
        bfloat16 (`bool`): convolutions in bfloat16, on processors that have it 1.5 times as fast. The penalty's
            gradient then differs by about 1 %, far less than between two batches; weights stay float32.
    """

    def __init__(self, seed: int = 0, rate: float = 1e-4, *, bfloat16: bool = False) -> None:
        torch.manual_seed(seed)
        self.bfloat16 = bfloat16
        # The layout that the convolutions are fastest in; it changes no result.
        self.generator, self.critic = Generator(), Critic()
        for network in (self.generator, self.critic):
            for weight in network.parameters():
                weight.data = weight.data.contiguous(memory_format=_layout(weight))
        self.step = 0
        self.optimisers = [
            torch.optim.Adam(net.parameters(), rate, (0.0, 0.9), 1e-8, fused=True)
            for net in (self.generator, self.critic)
        ]

    def iterate(self, batch: Batch, random: torch.Generator) -> dict[str, float]:
        """A critic's step, and in every fifth iteration a generator's; returns the numbers for the curve."""
        codec = self.generator.codec
        context = codec.encode(torch.from_numpy(batch.context), torch.from_numpy(batch.present))
        target = torch.from_numpy(batch.target)[:, None]
        real = codec.encode(target, torch.ones(len(target), 1, dtype=torch.bool))
        kind = torch.bfloat16 if self.bfloat16 else torch.float32
        context, real = (x.to(kind, memory_format=torch.channels_last) for x in (context, real))
        z = torch.randn(len(real), self.generator.noise, generator=random)
        alpha = torch.rand(len(real), generator=random)

        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            with torch.no_grad():
                fake, condition = self.generator(context, z)
            scores = self.critic(torch.cat([real, fake]), torch.cat([condition, condition])).float()
            distance = scores[: len(real)].mean() - scores[len(real) :].mean()
            penalty = gradient_penalty(self.critic, real, fake, condition, alpha)
        self.optimisers[1].zero_grad()
        (PENALTY * penalty - distance).backward()
        self.optimisers[1].step()
        self.step += 1
        numbers = {"distance": distance.item(), "penalty": penalty.item()}

        if self.step % CRITIC_STEPS == 0:
            self.critic.requires_grad_(False)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                fake, condition = self.generator(context, z)
                loss = -self.critic(fake, condition.detach()).float().mean()
            self.optimisers[0].zero_grad()
            loss.backward()
            self.optimisers[0].step()
            self.critic.requires_grad_(True)
        return numbers

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]


def train(
    examples: Path,
    out: Path,
    steps: int = 75_000,
    minutes: float = math.inf,
    batch: int = 32,
    seed: int = 0,
    checkpoint_minutes: float = 5.0,
    *,
    bfloat16: bool = False,
) -> Generator:
    """Trains, resuming from `out`/checkpoint.pt where there is one; returns the generator.

    Args:
        examples (`Path`): train.npz of `walkon data coco`.
        out (`Path`): folder for checkpoint.pt, curve.jsonl and generator_<step>.pt.
        steps (`int`): critic's steps; the authors' sister work released 75,000, with 15,000 of the generator.
        minutes (`float`): stop earlier after this long; a later call continues.
        batch (`int`): examples a step.
        seed (`int`): initial weights; the data's order and all noise depend on seed and step only.
        checkpoint_minutes (`float`): between checkpoints.
        bfloat16 (`bool`): see `Trainer`.
    """
    data = Examples.load(examples)
    out.mkdir(parents=True, exist_ok=True)
    trainer, seconds = Trainer(seed, bfloat16=bfloat16), 0.0
    saved = load_checkpoint(out)
    if saved is not None:
        trainer.restore(saved)
        seconds = saved["seconds"]

    def save() -> None:
        save_checkpoint(out, {**trainer.state(), "seconds": seconds + time.monotonic() - began})
        torch.save(trainer.generator.state_dict(), out / f"generator_{trainer.step}.pt")

    began = written = time.monotonic()
    numbers: list[dict[str, float]] = []
    while trainer.step < steps and time.monotonic() - began < minutes * 60:
        rng = np.random.default_rng((seed, trainer.step))
        random = torch.Generator().manual_seed(seed * 1_000_003 + trainer.step)
        chosen = data.batch(rng.integers(0, len(data), batch)).mirrored(rng.random(batch) < 0.5)
        numbers.append(trainer.iterate(chosen, random))
        if trainer.step % 100 == 0:
            means = {key: float(np.mean([n[key] for n in numbers])) for key in numbers[0]}
            write_line(out, {"step": trainer.step, **means, "seconds": seconds + time.monotonic() - began})
            numbers.clear()
        if time.monotonic() - written > checkpoint_minutes * 60:
            save()
            written = time.monotonic()
    save()
    return trainer.generator.eval()
