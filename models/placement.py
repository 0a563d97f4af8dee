# SPDX-License-Identifier: Apache-2.0
"""Stage 1: from the people of a scene to candidates for one more person, ranked by how well they belong.

A network draws a pool of people; each is completed, brought to pixels, judged and ranked. The judgement uses
geometry that holds in any picture (ground, size, who covers whom), with its numbers measured on COCO
(models/judgement.py, models/anatomy.py).
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models import anatomy, weights
from models.coco import CUT, FULL, Batch, aspect, from_frame, to_frame
from models.flow import CODE, Flow
from models.judgement import SOLE, Figures, Scene, figures, judge, read_scene
from models.wgan import Generator
from shared.errors import BadInput, MissingWeights, NoCandidate, NoContext
from shared.skeleton import Skeleton

Floats = NDArray[np.float64]

MIN_JOINTS = 8
"""Joints that a person of the context must have, as in training."""

MAX_CONTEXT = 12
"""The most people that training has seen around one."""

POOL = 64
"""People drawn in a round."""

ROUNDS = ((0.0,), (-0.6, 0.6), (-1.2, 1.2))
"""Where a round tries its people: so many statures to the right of where the network wants them."""

ENOUGH = 4
"""Candidates that end the search."""

SMALLEST = 4.0
"""Pixels of stature; less is no person."""

MAX_COUNT = 64
SIZE_CORRECTION = 1.6
"""A person off the size of the place is corrected by at most this factor, towards one spread from the line."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predicted person.

    Args:
        skeleton (`Skeleton`): in pixels of the scene; joints beyond its edge are those the frame cuts off. Joints
            that the network did not predict but completion added have the score 0.5.
        score (`float`, 0..1): how well it belongs, the product of all checks.
    """

    skeleton: Skeleton
    score: float


class Sampler(Protocol):
    """Draws people; the same for the same scene, seed and number, whatever else is in the batch of one."""

    def draw(self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None) -> Floats:
        """`(B, Q, 18, 3)` people, normalised, Q for each scene of the batch (its targets are not read).

        Args:
            batch (`Batch`): contexts.
            seed (`int`): of the noise.
            kinds (Q `int`): what is asked for, see `models.coco`; -1 leaves it open.
            feet (`(Q, 2)` float, *optional*): where the lower ankle is asked for, normalised; NaN leaves it open.
        """
        ...


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: for matrices this small more gain nothing, and wait long where processors are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class FlowSampler:
    """Draws people with `models.flow.Flow`."""

    def __init__(self, network: Flow) -> None:
        self.network = network

    def draw(self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None) -> Floats:
        """See `Sampler`."""
        shape = (len(batch.context), len(kinds))
        noise = torch.randn(*shape, CODE, generator=torch.Generator().manual_seed(seed))
        with _one_thread():
            people = self.network.sample(
                torch.from_numpy(batch.context),
                torch.from_numpy(batch.present),
                torch.from_numpy(batch.aspect),
                noise,
                torch.tensor(kinds)[None].expand(shape),
                None if feet is None else torch.from_numpy(feet).float()[None].expand(*shape, 2),
            )
        return people.double().numpy()


class WganSampler:
    """Draws people with `models.wgan.Generator`, which can be asked for neither kind nor place."""

    def __init__(self, network: Generator) -> None:
        self.network = network

    def draw(self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None) -> Floats:
        """See `Sampler`."""
        shape = (len(batch.context), len(kinds))
        z = torch.randn(*shape, self.network.noise, generator=torch.Generator().manual_seed(seed))
        with _one_thread():
            people = self.network.sample(torch.from_numpy(batch.context), torch.from_numpy(batch.present), z)
        return people.double().numpy()


def sampler(name: str) -> Sampler:
    """The installed network of that name, ready to draw.

    Raises:
        MissingWeights: not installed, or no placement network of that name is known.
    """
    if name == "flow":
        return FlowSampler(weights.load(Flow, "placement", name))
    if name == "wgan":
        return WganSampler(weights.load(Generator, "placement", name))
    raise MissingWeights(
        f"placement/{name}: no placement network has that name", "Choose flow or wgan", f"placement/{name}"
    )


class Placement:
    """Candidates for one more person in a scene.

    Args:
        name (`str`): the network, by its weights in models/weights/placement.

    Raises:
        MissingWeights: not installed.
    """

    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self._body = anatomy.installed()
        self._sampler = sampler(name)

    def place(
        self,
        context: Sequence[Skeleton],
        size: tuple[int, int],
        count: int = 8,
        seed: int = 0,
        at: tuple[float, float] | None = None,
    ) -> list[Candidate]:
        """At most `count` candidates, best first; the same for the same input, a smaller count gives a prefix.

        People with fewer than 8 known joints inside the frame tell nothing of where others belong: they are only
        kept from being covered. The network reads the 12 largest people (the 12 nearest to `at`); all count in
        the checks.

        Args:
            context (sequence of `Skeleton`): the people in the scene, in its pixels.
            size (`(int, int)`): width and height of the scene.
            count (`int`): 1..64.
            seed (`int`): of the draw.
            at (`(float, float)`, *optional*): where the feet touch the ground, in pixels inside the scene.

        Raises:
            BadInput: size, count, seed or at cannot be.
            NoContext: nobody in the scene tells where people belong.
            NoCandidate: no draw passed the checks.
        """
        _check(size, count, seed, at)
        people, tells = self._read(context, size)
        scene = read_scene(people, tells, size, self._body)
        batch = self._batch(people[tells], scene.people.chosen(tells), size, at)
        # Feet that were asked for are in the frame.
        cuts = round(POOL * min(max(scene.cut, 0.1), 0.75)) if at is None else 0
        kinds = [CUT] * cuts + [FULL] * (POOL - cuts)
        feet = np.full((POOL, 2), np.nan)
        if at is not None:
            stature = float(scene.ground.at(np.array(at[1]))[0])
            # Every second is asked for at the place itself; the others show what else people do here.
            feet[::2] = from_frame((at[0], at[1] - SOLE * stature), size)

        kept: list[tuple[float, Figures]] = []
        chosen: list[tuple[float, Figures]] = []
        turned_down: Counter[str] = Counter()
        tried = 0
        for round_, aside in enumerate(ROUNDS):
            drawn = self._sampler.draw(batch, (seed * len(ROUNDS) + round_) % 2**63, kinds, feet)[0]
            whole = self._figures(drawn, size)
            for step in aside:
                pool, near = _moved(whole, scene, at, step)
                if not len(near):
                    continue
                score, refused = judge(pool, scene, self._body, ground_known=at is not None)
                tried += len(score)
                turned_down.update({reason: int(which.sum()) for reason, which in refused.items()})
                passed = ~np.any(list(refused.values()), axis=0)
                kept += [
                    (float(score[i] * near[i]), pool.chosen(np.array([i]))) for i in np.flatnonzero(passed)
                ]
            chosen = _without_doubles(kept)
            if len(chosen) >= ENOUGH:
                break
        if not chosen:
            reasons = ", ".join(f"{n} {reason}" for reason, n in turned_down.most_common() if n)
            raise NoCandidate(
                f"scene: none of {tried} drawn people can stand here (of them {reasons or 'none is whole'})",
                "Try another seed, name a free place for the feet with --at, or give the pose with --pose",
                "scene",
            )
        return [Candidate(_skeleton(figure), score) for score, figure in chosen[:count]]

    def _read(self, context: Sequence[Skeleton], size: tuple[int, int]) -> tuple[Floats, NDArray[np.bool_]]:
        """People `(K, 18, 3)` in pixels whose stature is known, and which of them tell where people belong."""
        people = np.array([np.c_[s.xy, s.visible] for s in context], dtype=np.float64).reshape(-1, 18, 3)
        inside = _inside(people, size)
        stature = self._body.stature(people)
        usable = inside.any(1) & (stature > 0)
        tells = usable & (inside.sum(1) >= MIN_JOINTS)
        if not tells.any():
            what = (
                "shows no people"
                if not context
                else f"none of its {len(context)} people shows {MIN_JOINTS} joints inside the frame"
            )
            raise NoContext(
                f"scene: {what}, so nothing tells where one more belongs",
                "Take a picture with people, or place the person yourself: --at with --pose still works",
                "context",
            )
        return people[usable], tells[usable]

    def _batch(
        self, telling: Floats, read: Figures, size: tuple[int, int], at: tuple[float, float] | None
    ) -> Batch:
        """The scene as the network has seen scenes: at most 12 people, joints inside the frame only."""
        if at is None:
            order = np.argsort(-read.stature, kind="stable")
        else:
            order = np.argsort(np.linalg.norm(read.ground - at, axis=1), kind="stable")
        seen = telling[np.sort(order[:MAX_CONTEXT])]
        joints = np.concatenate([from_frame(seen[..., :2], size), np.ones((*seen.shape[:2], 1))], -1)
        context = (joints * _inside(seen, size)[..., None]).astype(np.float32)[None]
        return Batch(
            context,
            np.ones(context.shape[:2], bool),
            np.zeros((1, *context.shape[2:]), np.float32),
            aspect(size).astype(np.float32)[None],
            np.zeros(1, np.int64),
        )

    def _figures(self, drawn: Floats, size: tuple[int, int]) -> Figures:
        """The drawn people in pixels and completed, without fragments."""
        people = drawn.copy()
        people[..., :2] = to_frame(drawn[..., :2], size) * (drawn[..., 2:] > 0)
        large = self._body.stature(people) >= SMALLEST
        return figures(people[large & (drawn[..., 2].sum(1) >= MIN_JOINTS)], self._body)


def _inside(people: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which joints `(N, 18)` are known and lie inside the frame."""
    low = np.all(people[..., :2] >= 0, axis=-1)
    high = np.all(people[..., :2] <= np.array(size), axis=-1)
    return np.logical_and(low & high, people[..., 2] > 0)


def _moved(
    whole: Figures, scene: Scene, at: tuple[float, float] | None, aside: float
) -> tuple[Figures, Floats]:
    """People `aside` statures to the right, or `at` a place, in the size of their place.

    Also a factor `(N,)` that falls with the way they were moved from where the network wanted them.
    """
    if at is None:
        move = np.stack([aside * whole.stature, 0 * whole.stature], 1)
    else:
        move = np.array(at) - whole.ground
    near = np.exp(-((np.linalg.norm(move, axis=1) / (2 * whole.stature)) ** 2) / 2)
    expected, spread = scene.ground.at(whole.ground[:, 1] + move[:, 1])
    off = np.log(whole.stature / expected)
    limit = np.inf if at is not None else math.log(SIZE_CORRECTION)
    correction = np.clip(np.clip(off, -spread, spread) - off, -limit, limit)
    return whole.scaled(np.exp(correction), move), near


def _without_doubles(kept: list[tuple[float, Figures]]) -> list[tuple[float, Figures]]:
    """Best first; of people whose joints lie within a quarter of a stature on average, the best only."""
    chosen: list[tuple[float, Figures]] = []
    for score, figure in sorted(kept, key=lambda item: -item[0]):
        joints = figure.people[0, 1:14, :2]
        for _, other in chosen:
            distance = np.linalg.norm(joints - other.people[0, 1:14, :2], axis=1).mean()
            if distance < 0.25 * max(figure.stature[0], other.stature[0]):
                break
        else:
            chosen.append((score, figure))
    return chosen


def _skeleton(figure: Figures) -> Skeleton:
    person, drawn = figure.people[0], figure.drawn[0]
    known = person[:, 2] > 0
    return Skeleton(person[:, :2], known, known * np.where(drawn, 1.0, 0.5))


def _check(size: tuple[int, int], count: int, seed: int, at: tuple[float, float] | None) -> None:
    """Raises `BadInput` for what cannot be."""
    if len(size) != 2 or not all(math.isfinite(v) and v >= 1 for v in size):
        raise BadInput(
            f"size: {size} is no frame", "Give width and height in pixels, both at least 1", "size"
        )
    if not 1 <= count <= MAX_COUNT:
        raise BadInput(f"count: {count} is not within 1..{MAX_COUNT}", "Ask for fewer candidates", "count")
    if not -(2**53) <= seed <= 2**53:
        raise BadInput(f"seed: {seed} is too large", "Give a whole number up to 2**53", "seed")
    if at is not None and not (len(at) == 2 and 0 <= at[0] <= size[0] and 0 <= at[1] <= size[1]):
        raise BadInput(
            f"at: {at} lies outside the {size[0]}x{size[1]} frame", "Give X,Y in pixels of the scene", "at"
        )
