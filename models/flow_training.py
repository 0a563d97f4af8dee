# SPDX-License-Identifier: Apache-2.0
"""Training of `models.flow`: the velocity by flow matching, then the density ratio of its draws."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import anatomy
from models.coco import FLIP, Batch, Examples
from models.flow import CODE, JOINTS, Flow, condition_vector, drop_neck, encode, lowest_ankle
from models.ratio import Ratio, losses_of
from models.training import follow, load_checkpoint, save_checkpoint, write_line
from shared.skeleton import MIRROR, NUM_JOINTS

PLACE_WEIGHT = 4.0
"""Of the loss of place and size, three numbers of 54 and most of what can be wrong."""


def conditions_of(target: NDArray[np.float32], kind: NDArray[np.int64]) -> dict[str, Tensor]:
    """What could have been asked for to get these people `(B, 18, 3)`: arguments of `condition_vector`, `(B)` each."""
    body = anatomy.installed()
    people = target.astype(np.float64)
    stature = body.stature(people)
    return {
        "kind": torch.from_numpy(kind),
        "feet": torch.from_numpy(lowest_ankle(target)),
        "stature": torch.from_numpy(stature).float(),
        "facing": torch.from_numpy(anatomy.facing(people, stature)).float(),
        "stance": torch.from_numpy(body.stance(people)).float(),
    }


_OPEN = {"kind": -1, "feet": math.nan, "stature": math.nan, "facing": 0.0, "stance": 0.0}


def loss_of(network: Flow, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
    """Flow-matching loss; each context is read once for `draws` pairs of noise and time."""
    target = encode(drop_neck(torch.from_numpy(batch.target)))[:, None]  # (B, 1, 54)
    number = len(target)
    noise = torch.randn(number, draws, CODE, generator=generator)
    # One time from each of `draws` equal parts of 0..1: the loss of a step varies less.
    time_ = (torch.rand(number, draws, generator=generator) + torch.arange(draws)) / draws
    x = noise + (target - noise) * time_[..., None]
    # The kind is left open in half of the draws, the rest in three quarters, so that one network does with and without.
    asks = torch.rand(number, draws, generator=generator) < 0.4
    asked = {}
    for name, value in conditions_of(batch.target, batch.kind).items():
        value = value[:, None].expand(-1, draws, *value.shape[1:])
        ask = torch.rand(number, draws, generator=generator) < (0.5 if name == "kind" else 0.6)
        if name != "kind":
            ask &= asks
        asked[name] = value.masked_fill(~ask.view(number, draws, *[1] * (value.ndim - 2)), _OPEN[name])
    scene = network.read_context(
        torch.from_numpy(batch.context), torch.from_numpy(batch.present), torch.from_numpy(batch.aspect)
    )
    velocity = network(x, time_, condition_vector(**asked), scene)
    # A joint that is not known has no place to learn; a tenth keeps its coordinates near zero. Place and size are
    # three numbers of 54, and most of what can be wrong.
    weight = torch.ones(number, 1, CODE)
    weight[..., :3] = PLACE_WEIGHT
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
    rate: float = 6e-4,
    seed: int = 0,
    start: Path | None = None,
    checkpoint_minutes: float = 3.0,
    ratio_epochs: float = 6.0,
    *,
    bfloat16: bool = False,
) -> Flow:
    """Trains, resuming from `out`/checkpoint.pt where there is one; returns the averaged network.

    After the last step its density ratio is trained, see `train_ratio`; that part begins anew if it is stopped.

    Args:
        examples (`Path`): train.npz of `walkon data coco`.
        out (`Path`): folder for checkpoint.pt and curve.jsonl.
        steps (`int`): the rate stays, and comes down to zero over the last 40 % of them.
        minutes (`float`): stop earlier after this long; a later call continues.
        batch, draws (`int`): scenes a step, and draws of noise and time for each.
        rate (`float`): highest rate of AdamW.
        seed (`int`): the order of the data and all noise depend on seed and step only.
        start (`Path`, *optional*): a state dict to begin from.
        checkpoint_minutes (`float`): between checkpoints.
        ratio_epochs (`float`): see `train_ratio`; 0 leaves it untrained.
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
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01, fused=True)
    step, seconds, whole = 0, 0.0, False
    saved = load_checkpoint(out)
    if saved is not None:
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds, whole = saved["step"], saved["seconds"], saved["whole"]

    def save() -> None:
        state = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "whole": whole,
            "seconds": seconds + time.monotonic() - began,
        }
        save_checkpoint(out, state)

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
            group["lr"] = rate * min(1.0, (step + 1) / 300, (steps - step) / (0.4 * steps))
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
        follow(average, network, min(0.9995, step / (step + 50)))
        losses.append(loss.item())
        if step % 200 == 0:
            line = {
                "step": step,
                "loss": float(np.mean(losses)),
                "seconds": seconds + time.monotonic() - began,
            }
            write_line(out, line)
            losses.clear()
        if time.monotonic() - written > checkpoint_minutes * 60:
            save()
            written = time.monotonic()
    save()
    if step == steps and ratio_epochs and not whole:
        train_ratio(average.eval(), examples, ratio_epochs, seed=seed, bfloat16=bfloat16)
        whole = True
        save()
    return average.eval()


def train_ratio(
    network: Flow,
    examples: Path,
    epochs: float,
    draws: int = 2,
    batch: int = 256,
    rate: float = 1e-3,
    seed: int = 0,
    *,
    bfloat16: bool = False,
) -> Ratio:
    """Trains `network.ratio` in place to tell the network's draws from the real people of `examples`.

    Args:
        network (`Flow`): trained.
        examples (`Path`): train.npz of `walkon data coco`.
        epochs (`float`): over all scenes, each with two of its draws.
        draws (`int`): of each scene, all made first.
        batch (`int`): scenes a step.
        rate (`float`): highest rate of AdamW; a cosine brings it down to zero.
        seed (`int`): of draws, order and augmentation.
        bfloat16 (`bool`): matrices in bfloat16.
    """
    data = Examples.load(examples)
    crowd = (data.context >= 0).sum(1)
    drawn = _draws_of(network, data, draws, seed, bfloat16=bfloat16)
    torch.manual_seed(seed)
    average = network.ratio.eval()
    ratio = Ratio().train()
    ratio.load_state_dict(average.state_dict())
    optimiser = torch.optim.AdamW(ratio.parameters(), rate, weight_decay=0.05, fused=True)
    steps = int(epochs * len(data) / batch)
    for step in range(steps):
        rng = np.random.default_rng((seed, step))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        index = _draw(crowd, batch, seed, step)
        fake = drawn[index][:, rng.permutation(draws)[:2]]
        flip, zoom = rng.random(batch) < 0.5, np.exp(rng.normal(0, 0.08, batch)).astype(np.float32)
        fake[flip] = fake[flip][..., list(MIRROR), :] * FLIP
        fake[..., :2] *= zoom[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            losses = losses_of(ratio, data.batch(index).mirrored(flip).zoomed(zoom), fake)
        loss = losses[:, 0].mean() + losses[:, 1:].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(ratio.parameters(), 1.0)
        optimiser.step()
        follow(average, ratio, min(0.998, step / (step + 20)))
    return average


def _draws_of(
    network: Flow, data: Examples, draws: int, seed: int, *, bfloat16: bool = False
) -> NDArray[np.float32]:
    """`(E, draws, 18, 3)` draws for all examples, kind and place left open."""
    out = np.zeros((len(data), draws, NUM_JOINTS, 3), np.float32)
    order = np.argsort((data.context >= 0).sum(1), kind="stable")
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, len(order), 512):
        index = order[first : first + 512]
        batch = data.batch(index)
        noise = torch.randn(len(index), draws, CODE, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out[index] = network.sample(
                torch.from_numpy(batch.context),
                torch.from_numpy(batch.present),
                torch.from_numpy(batch.aspect),
                noise,
                condition_vector(torch.full((len(index), draws), -1)),
            ).float()
    return out
