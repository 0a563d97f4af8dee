# SPDX-License-Identifier: Apache-2.0
"""Stage 2 beyond the paper: all 18 joints of a skeleton cleaned at once by a network that takes jitter away.

A residual network over one person's joints, in statures about their middle, learns from COCO's people with noise of
unknown size to say where the joints were. The loss is the distance, not its square: an estimate then stays where
it is while "nothing is wrong" is the likeliest, and faces and bodies that are exact are hardly moved. Joints may be
missing, and joints may be locked: those are exact, the network is told so, and the others follow them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import anatomy, weights
from models.coco import Examples
from models.refinenet import MIN_STATURE, STATURE
from models.training import follow, load_checkpoint, save_checkpoint, write_line
from shared.skeleton import FACE, MIRROR, NUM_JOINTS, Skeleton

Floats = NDArray[np.float64]

MIN_JOINTS = 5
"""Known joints that a skeleton must have to be refined."""

NOISE = 10.0
"""Pixels of the person frame of models/refinenet.py; the largest noise of training on all joints."""

OUTLIER = 30.0
"""The largest noise of training on single joints."""

GROUPS = (FACE[1:], FACE[1:], FACE, (3, 4, 6, 7), (9, 10, 12, 13), tuple(range(1, 14)))
"""Joints that go wrong together: eyes and ears (as in the paper, so twice), the head, arms, legs, all but the head."""

_GROUPS = np.array([[joint in group for joint in range(NUM_JOINTS)] for group in GROUPS])


class BodyNet(nn.Module):
    """Where the joints should be, in statures about the middle of the known ones.

    Args:
        width (`int`): channels.
        blocks (`int`): residual blocks of two layers.
    """

    def __init__(self, width: int = 384, blocks: int = 4) -> None:
        super().__init__()
        self.config: dict[str, object] = {"width": width, "blocks": blocks}
        self.first = nn.Linear(NUM_JOINTS * 4, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.last_norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, NUM_JOINTS * 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, joints: Tensor) -> Tensor:
        """`(B, 18, 2)` from `(B, 18, 4)` of x, y, known, locked; what is said of unknown joints means nothing."""
        h = self.first(joints.flatten(1))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + block(norm(h))
        moved: Tensor = self.last(self.last_norm(h)).unflatten(1, (NUM_JOINTS, 2))
        return joints[..., :2] + moved


def normalised(people: Floats, locked: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """What the network sees `(N, 18, 4)` of `(N, 18, 3)` people in pixels, the middles `(N, 2)` and statures `(N,)`."""
    known = people[..., 2:] > 0
    middle = (people[..., :2] * known).sum(1) / np.maximum(known.sum(1), 1)
    stature = anatomy.installed().stature(people)
    xy = (people[..., :2] - middle[:, None]) / stature[:, None, None] * known
    return np.concatenate([xy, known, known & locked[..., None]], -1), middle, stature


class BodyRefiner:
    """Cleans whole skeletons with the installed weights.

    Args:
        name (`str`): weights in models/weights/refine.

    Raises:
        MissingWeights: not installed.
    """

    def __init__(self, name: str = "body") -> None:
        self.network = weights.load(BodyNet, "refine", name)

    def refine(self, skeleton: Skeleton, locked: Sequence[int] = ()) -> Skeleton:
        """The skeleton with its known joints cleaned; missing ones stay missing, locked ones exactly as they are.

        A skeleton of fewer than 5 joints, or with no bone to tell the person's size by, is returned unchanged.
        """
        person = np.concatenate([skeleton.xy, skeleton.visible[:, None]], 1)[None]
        free = [j for j in np.flatnonzero(skeleton.visible).tolist() if j not in locked]
        if not free or int(skeleton.visible.sum()) < MIN_JOINTS:
            return skeleton
        fixed = np.zeros((1, NUM_JOINTS), bool)
        fixed[0, list(locked)] = True
        cleaned = refined(self.network, person, fixed)[0]
        if not np.isfinite(cleaned).all():
            return skeleton
        return skeleton.with_joints(free, cleaned[free, :2])


def refined(network: BodyNet, people: Floats, locked: NDArray[np.bool_] | None = None) -> Floats:
    """The cleaned `(N, 18, 3)` people in pixels; NaN where a stature is not known."""
    if locked is None:
        locked = np.zeros(people.shape[:2], bool)
    seen, middle, stature = normalised(people, locked)
    with torch.inference_mode():
        xy = network(torch.from_numpy(seen).float()).double().numpy()
    out = people.copy()
    out[..., :2] = np.where(locked[..., None], people[..., :2], xy * stature[:, None, None] + middle[:, None])
    out[..., :2] *= people[..., 2:] > 0
    return out


def known_people(examples: Examples) -> Floats:
    """`(N, 18, 3)` real people that are large enough and known well enough, 160 px from neck to ankles."""
    people = examples.people.astype(np.float64)
    people[..., :2] *= examples.size.max(1)[:, None, None]
    stature = anatomy.installed().stature(people)
    chosen = (people[..., 2].sum(1) >= 8) & (stature >= MIN_STATURE)
    people, stature = people[chosen], stature[chosen]
    people[..., :2] *= STATURE / stature[:, None, None]
    return people


def noisy(people: Floats, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Training's inputs `(N, 18, 3)` for exact people, and which joints are locked `(N, 18)`.

    A quarter of the people stay exact, the others have noise of one size each, uniform, up to `NOISE`; in two fifths of
    them it is only in one of `GROUPS`. In a third single joints are far off; a fifth lack joints that are known; a
    third have locked joints, without noise.
    """
    count = len(people)
    size = rng.uniform(0, NOISE, (count, 1)) * (rng.random((count, 1)) < 0.75)
    size = size * (_GROUPS[rng.integers(0, len(GROUPS), count)] | (rng.random((count, 1)) < 0.6))
    single = (rng.random((count, 1)) < 0.33) & (rng.random((count, NUM_JOINTS)) < 0.08)
    size = np.where(single, rng.uniform(0, OUTLIER, (count, NUM_JOINTS)), size)
    locked = (rng.random((count, 1)) < 0.33) & (rng.random((count, NUM_JOINTS)) < 0.3)
    out = people.copy()
    out[..., :2] += rng.uniform(-1, 1, (count, NUM_JOINTS, 2)) * (size * ~locked)[..., None]
    lost = (rng.random((count, 1)) < 0.2) & (rng.random((count, NUM_JOINTS)) < 0.3)
    out[lost] = 0
    out[..., :2] *= out[..., 2:] > 0
    return out, locked & (out[..., 2] > 0)


def train(
    examples: Path, out: Path, steps: int = 11_000, batch: int = 256, rate: float = 1e-3, seed: int = 0
) -> BodyNet:
    """Trains, resuming from `out`/checkpoint.pt where there is one; returns the averaged network.

    Args:
        examples (`Path`): train.npz of `walkon data coco`.
        out (`Path`): folder for checkpoint.pt and curve.jsonl.
        steps (`int`): until the rate, a cosine, has come down to zero.
        batch (`int`): people in a step.
        rate (`float`): highest rate of AdamW.
        seed (`int`): of weights, order, flips and noise.
    """
    people = known_people(Examples.load(examples))
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network, average = BodyNet(), BodyNet()
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    step, seconds = 0, 0.0
    saved = load_checkpoint(out)
    if saved is not None:
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]
    began, distances = time.process_time(), []
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        rng = np.random.default_rng((seed, step))
        clean = people[rng.integers(0, len(people), batch)]
        flip = rng.random(batch) < 0.5
        clean[flip] = clean[flip][:, list(MIRROR)] * (-1, 1, 1)
        distance = _distance(network, clean, rng)
        optimiser.zero_grad(set_to_none=True)
        distance.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        follow(average, network, min(0.9995, step / (step + 50)))
        distances.append(distance.item() * STATURE)
        if step % 500 == 0 or step == steps:
            spent = seconds + time.process_time() - began
            write_line(out, {"step": step, "pixels": float(np.mean(distances)), "seconds": spent})
            distances.clear()
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": spent,
            }
            save_checkpoint(out, state)
    return average.eval()


def _distance(network: BodyNet, clean: Floats, rng: np.random.Generator) -> Tensor:
    """Mean distance of the free joints from where they are in `clean (N, 18, 3)`, in statures."""
    given, locked = noisy(clean, rng)
    usable = (given[..., 2].sum(1) >= MIN_JOINTS) & (anatomy.installed().stature(given) > STATURE / 4)
    given, locked, clean = given[usable], locked[usable], clean[usable]
    seen, middle, stature = normalised(given, locked)
    wanted = (clean[..., :2] - middle[:, None]) / stature[:, None, None]
    # The matrices in bfloat16, where the processor has it twice as fast; places stay exact.
    with torch.autocast("cpu", torch.bfloat16):
        found = network(torch.from_numpy(seen).float())
    away = (found.float() - torch.from_numpy(wanted).float()).square().sum(-1)
    free = torch.from_numpy((given[..., 2] > 0) & ~locked)
    return (away + 1e-8).sqrt()[free].mean()
