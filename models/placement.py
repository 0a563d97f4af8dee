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
from torch import Tensor

from models import anatomy, weights
from models.coco import CUT, FULL, Batch, aspect, from_frame, to_frame
from models.flow import CODE, Flow, between, condition_vector
from models.ground import GroundLooks
from models.judgement import Figures, figures, joined, judge, read_scene
from models.ratio import resampled
from models.sight import Sight
from models.suitability import shown_of, suited
from models.wgan import Generator
from models.wishes import Wishes
from shared.errors import BadInput, MissingWeights, NoCandidate, NoContext
from shared.skeleton import Skeleton
from shared.where import Where

Floats = NDArray[np.float64]

MIN_JOINTS = 8
"""Joints that a person of the context must have, as in training."""

MAX_CONTEXT = 12
"""The most people that training has seen around one."""

POOL = 64
"""People drawn in a round."""

ROUNDS: tuple[tuple[float, ...], ...] = ((0.0,), (-0.6, 0.6), (-1.2, 1.2))
"""Where a round tries its people: so many statures to the right of where the network wants them."""

MORE_ROUNDS: tuple[tuple[float, ...], ...] = ((0.0,),) * 5
"""Rounds that follow where most of those who fit do not meet the wishes."""

DOUBTFUL_ROUNDS: tuple[tuple[float, ...], ...] = ((0.0,),) * 2
"""Rounds that follow where photo and picture have a say, and doubt everybody."""

OVERSAMPLING = 8
"""Draws of the flow out of which one is kept, where nothing is asked for."""

ENOUGH = 4
"""Candidates that end the search."""

GOOD = 0.4
"""Score that the best of them must have, where photo and picture have a say."""

DOUBLES, ALIKE_DOUBLES = 0.25, 0.06
"""Statures by which joints of two candidates are apart on average; less where all shall be alike."""

BEGIN = (0.35, 0.5, 0.65, 0.8)
"""Times at which the flow starts from a person that the new one shall resemble."""

SMALLEST = 4.0
"""Pixels of stature; less is no person."""

MAX_COUNT = 64
NO_WISHES = Where()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predicted person.

    Args:
        skeleton (`Skeleton`): in pixels of the scene; joints beyond its edge are those the frame cuts off. Joints
            that the network did not predict but completion added have the score 0.5.
        score (`float`, 0..1): how well it belongs, the product of all checks.
        warning (`str`): what it lacks of what was asked for; empty where nothing.
    """

    skeleton: Skeleton
    score: float
    warning: str = ""


@dataclass(frozen=True)
class Look:
    """What is asked of how people look, as the flow knows it (models/flow.py, `condition_vector`).

    Args:
        stature (`float`): normalised; NaN leaves it open.
        facing (`int`): -1 to the left of the picture, 1 to the right, 0 leaves it open.
        stance (`int`): -1 sitting, 1 standing, 0 leaves it open.
    """

    stature: float = math.nan
    facing: int = 0
    stance: int = 0


ANY_LOOK = Look()


class Sampler(Protocol):
    """Draws people; the same for the same scene, seed and number, whatever else is in the batch of one."""

    def draw(
        self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None, look: Look = ANY_LOOK
    ) -> Floats:
        """`(B, Q, 18, 3)` people, normalised, Q for each scene of the batch (its targets are not read).

        Args:
            batch (`Batch`): contexts.
            seed (`int`): of the noise.
            kinds (Q `int`): what is asked for, see `models.coco`; -1 leaves it open.
            feet (`(Q, 2)` float, *optional*): where the lower ankle is asked for, normalised; NaN leaves it open.
            look (`Look`): asked of all.
        """
        ...

    def vary(
        self, batch: Batch, seed: int, person: Floats, number: int, feet: Floats | None = None
    ) -> Floats:
        """`(1, number, 18, 3)` people more or less like a person `(18, 3)`, normalised, in the batch's one scene."""
        ...

    def natural(self, batch: Batch, seed: int, number: int) -> Floats:
        """`(B, number, 18, 3)` people, normalised, whom nothing is asked of: as like the real ones as it can."""
        ...

    def belonging(self, batch: Batch, people: Floats) -> Floats:
        """`(N,)` of people `(N, 18, 3)`, normalised, in the batch's one scene: p(real) / p(drawn), at most 1."""
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

    def draw(
        self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None, look: Look = ANY_LOOK
    ) -> Floats:
        """See `Sampler`."""
        shape = (len(batch.context), len(kinds))
        noise = torch.randn(*shape, CODE, generator=torch.Generator().manual_seed(seed))
        with _one_thread():
            people = self.network.sample(
                torch.from_numpy(batch.context),
                torch.from_numpy(batch.present),
                torch.from_numpy(batch.aspect),
                noise,
                condition_vector(
                    torch.tensor(kinds)[None].expand(shape),
                    None if feet is None else torch.from_numpy(feet).float()[None].expand(*shape, 2),
                    torch.full(shape, look.stature),
                    torch.full(shape, float(look.facing)),
                    torch.full(shape, float(look.stance)),
                ),
            )
        return people.double().numpy()

    def vary(
        self, batch: Batch, seed: int, person: Floats, number: int, feet: Floats | None = None
    ) -> Floats:
        """See `Sampler`: the flow starts on the way to that person, the later the more alike."""
        noise = torch.randn(1, number, CODE, generator=torch.Generator().manual_seed(seed))
        known = torch.from_numpy(person).float()
        asked = None if feet is None else torch.from_numpy(feet).float()[None]
        people = []
        with _one_thread():
            for part, begin in enumerate(BEGIN):
                which = slice(part, None, len(BEGIN))
                people.append(
                    self.network.sample(
                        torch.from_numpy(batch.context),
                        torch.from_numpy(batch.present),
                        torch.from_numpy(batch.aspect),
                        between(noise[:, which], known, begin),
                        condition_vector(
                            torch.full(noise[:, which].shape[:2], -1),
                            None if asked is None else asked[:, which],
                        ),
                        begin=begin,
                    )
                )
        return torch.cat(people, 1).double().numpy()

    def natural(self, batch: Batch, seed: int, number: int) -> Floats:
        """See `Sampler`: of eight draws one is kept, as likely as the network's own density ratio says."""
        people = torch.from_numpy(self.draw(batch, seed, [-1] * OVERSAMPLING * number)).float()
        generator = torch.Generator().manual_seed(seed + 1)
        return resampled(people, self._logits(batch, people), number, generator).double().numpy()

    def belonging(self, batch: Batch, people: Floats) -> Floats:
        """See `Sampler`."""
        logits = self._logits(batch, torch.from_numpy(people[None]).float())[0]
        return logits.clamp_max(0.0).exp().double().numpy()

    def _logits(self, batch: Batch, people: Tensor) -> Tensor:
        with _one_thread(), torch.inference_mode():
            logits: Tensor = self.network.ratio(
                people,
                torch.from_numpy(batch.context),
                torch.from_numpy(batch.present),
                torch.from_numpy(batch.aspect),
            )
        return logits


class WganSampler:
    """Draws people with `models.wgan.Generator`, which can be asked for nothing."""

    def __init__(self, network: Generator) -> None:
        self.network = network

    def draw(
        self, batch: Batch, seed: int, kinds: Sequence[int], feet: Floats | None = None, look: Look = ANY_LOOK
    ) -> Floats:
        """See `Sampler`."""
        shape = (len(batch.context), len(kinds))
        z = torch.randn(*shape, self.network.noise, generator=torch.Generator().manual_seed(seed))
        with _one_thread():
            people = self.network.sample(torch.from_numpy(batch.context), torch.from_numpy(batch.present), z)
        return people.double().numpy()

    def vary(
        self, batch: Batch, seed: int, person: Floats, number: int, feet: Floats | None = None
    ) -> Floats:
        """See `Sampler`: it cannot begin with a person, so these are any people, of whom the nearest count."""
        return self.draw(batch, seed, [-1] * number)

    def natural(self, batch: Batch, seed: int, number: int) -> Floats:
        """See `Sampler`."""
        return self.draw(batch, seed, [-1] * number)

    def belonging(self, batch: Batch, people: Floats) -> Floats:
        """See `Sampler`: it does not know."""
        return np.ones(len(people))


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
        where: Where = NO_WISHES,
        actor: Skeleton | None = None,
        looks: GroundLooks | None = None,
        sight: Sight | None = None,
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
            where (`Where`): wishes.
            actor (`Skeleton`, *optional*): of the photo to show; candidates are then fitted to it and the score
                says how well it can show them (models/suitability.py), unless a pose is wished for.
            looks (`GroundLooks`, *optional*): what the picture tells of its ground, if the place is left open.
            sight (`Sight`, *optional*): what the picture tells of who would be hidden.

        Raises:
            BadInput: size, count, seed or a wish cannot be.
            NoContext: nobody in the scene tells where people belong.
            NoCandidate: no draw passed the checks.
        """
        _check(size, count, seed)
        where.check(*size)
        people, tells = self._read(context, size)
        scene = read_scene(people, tells, size, self._body)
        wishes = Wishes(where, scene, self._body)
        batch = self._batch(people[tells], scene.people.chosen(tells), size, wishes)

        if where.posed:
            actor = None
        if wishes.ground_known:
            looks = None
        enough = 2 * ENOUGH if wishes.picky else ENOUGH
        least = 0.0 if actor is None and looks is None else GOOD

        kept: list[tuple[float, Figures]] = []
        chosen: list[tuple[float, Figures]] = []
        fitting: list[Figures] = []
        turned_down: Counter[str] = Counter()
        whole_number, tried = 0, 0

        def judged(pool: Figures) -> tuple[Floats, NDArray[np.bool_]]:
            """Scores `(N,)` and who is not turned down."""
            score, refused = judge(
                pool,
                scene,
                self._body,
                ground_known=wishes.ground_known,
                size_known=wishes.sized,
                stance_known=where.stance is not None or wishes.like is not None,
            )
            turned_down.update({reason: int(which.sum()) for reason, which in refused.items()})
            return score, ~np.any(list(refused.values()), axis=0)

        rounds = ROUNDS
        if wishes.picky:
            rounds += MORE_ROUNDS
        elif least > 0:
            rounds += DOUBTFUL_ROUNDS
        for round_, aside in enumerate(rounds):
            whole = self._figures(self._draw(batch, wishes, seed, round_), size)
            whole_number += len(whole.stature)
            for step in aside:
                pool, near = wishes.moved(whole, step)
                if not len(near):
                    continue
                tried += len(near)
                score, fits = judged(pool)
                if actor is not None:  # it takes its time: only for those who could stand here
                    pool, shown = suited(pool.chosen(fits), actor, size)
                    near = near[fits] * shown
                    score, fits = judged(pool)
                if looks is not None:
                    near = near * looks.belief(pool.ground, pool.stature)
                if sight is not None:
                    near = near * sight.belief(pool)
                fitting.append(pool.chosen(fits))
                meets = ~np.any([~fits, *wishes.unmet(pool).values()], axis=0)
                score = (score * near * wishes.likeness(pool))[meets]
                pool = pool.chosen(meets)
                score *= self._sampler.belonging(batch, _normalised(pool, size))
                kept += [(float(s), pool.chosen(np.array([i]))) for i, s in enumerate(score)]
            apart = ALIKE_DOUBLES if wishes.like is not None else DOUBLES
            chosen = _without_doubles(kept, apart, max(count, enough))
            if len(chosen) >= enough and chosen[0][0] >= least:
                break
        if not chosen:
            raise self._nobody(wishes, fitting, tried, whole_number, len(rounds) * POOL, turned_down)
        candidates = []
        for belongs, figure in chosen[:count]:
            skeleton = _skeleton(figure) if actor is None else shown_of(actor, _skeleton(figure))
            warning = wishes.warning(figure) or ("" if looks is None else looks.warning(figure))
            candidates.append(Candidate(skeleton, belongs, warning))
        return candidates

    def _draw(self, batch: Batch, wishes: Wishes, seed: int, round_: int) -> Floats:
        """`(POOL, 18, 3)` people of one round, normalised."""
        scene, size = wishes.scene, wishes.scene.size.tolist()
        seed = (seed * 8 + round_) % 2**63
        feet = from_frame(wishes.spots(POOL, np.random.default_rng(seed)), size)
        if wishes.like is not None:
            person = np.where(wishes.like.drawn[0, :, None], wishes.like.people[0], 0.0)
            person[:, :2] = from_frame(person[:, :2], size) * person[:, 2:]
            return self._sampler.vary(batch, seed, person, POOL, feet if wishes.placed else None)[0]
        # Feet in the frame are those of people who are not cut.
        inside, below = wishes.high[1] <= size[1], wishes.low[1] > size[1]
        share = 0.0 if inside else 1.0 if below else min(max(scene.cut, 0.1), 0.75)
        cuts = round(POOL * share)
        look = Look(
            math.nan if wishes.stature is None else wishes.stature / max(size),
            {"left": -1, None: 0, "right": 1}[wishes.where.facing],
            {"sitting": -1, None: 0, "standing": 1}[wishes.where.stance],
        )
        return self._sampler.draw(batch, seed, [CUT] * cuts + [FULL] * (POOL - cuts), feet, look)[0]

    def _nobody(
        self,
        wishes: Wishes,
        fitting: Sequence[Figures],
        tried: int,
        whole: int,
        drawn: int,
        turned_down: Counter[str],
    ) -> NoCandidate:
        """The error that tells why there is no candidate."""
        reasons = ", ".join(f"{n} {reason}" for reason, n in turned_down.most_common() if n)
        fit = [figure for figure in fitting if len(figure.stature)]
        if self.name == "wgan" and not fit:
            return NoCandidate(
                f"placement/wgan: of {drawn} people that the paper's network drew {whole} are whole, and none can"
                f" stand here{f' ({reasons})' if reasons else ''}",
                "Its installed weights may be at fault (see their card.md): use --placement flow",
                "network",
            )
        error = wishes.nobody(joined(fit) if fit else None, tried, reasons or "none is whole")
        return error or NoCandidate(
            f"scene: none of {tried} drawn people can stand here (of them {reasons or 'none is whole'})",
            "Try another seed, name a free place for the feet with --at, or give the pose with --pose",
            "scene",
        )

    def _read(self, context: Sequence[Skeleton], size: tuple[int, int]) -> tuple[Floats, NDArray[np.bool_]]:
        """People `(K, 18, 3)` in pixels whose stature is known, and which of them tell where people belong."""
        people = _arrays(context)
        usable = _inside(people, size).any(1) & (self._body.stature(people) > 0)
        tells = usable & tellers(context, size)
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

    def _batch(self, telling: Floats, read: Figures, size: tuple[int, int], wishes: Wishes) -> Batch:
        """The scene as the network has seen scenes: at most 12 people, joints inside the frame only."""
        if wishes.placed:
            middle = (wishes.low + wishes.high) / 2
            order = np.argsort(np.linalg.norm(read.ground - middle, axis=1), kind="stable")
        else:
            order = np.argsort(-read.stature, kind="stable")
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


def tellers(context: Sequence[Skeleton], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which people `(K,)` of a scene of that size tell where others belong; the rest is only kept free."""
    people = _arrays(context)
    known = _inside(people, size).sum(1) >= MIN_JOINTS
    return np.logical_and(known, anatomy.installed().stature(people) > 0)


def _arrays(people: Sequence[Skeleton]) -> Floats:
    """`(K, 18, 3)` pixels and known."""
    return np.array([np.c_[s.xy, s.visible] for s in people], dtype=np.float64).reshape(-1, 18, 3)


def _inside(people: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which joints `(N, 18)` are known and lie inside the frame."""
    low = np.all(people[..., :2] >= 0, axis=-1)
    high = np.all(people[..., :2] <= np.array(size), axis=-1)
    return np.logical_and(low & high, people[..., 2] > 0)


def _without_doubles(
    kept: list[tuple[float, Figures]], apart: float, most: int
) -> list[tuple[float, Figures]]:
    """Best first, at most so many; of people whose joints lie within `apart` statures on average, the best only."""
    kept = sorted(kept, key=lambda item: -item[0])
    joints = np.array([figure.people[0, 1:14, :2] for _, figure in kept])
    stature = np.array([figure.stature[0] for _, figure in kept])
    chosen: list[int] = []
    for i in range(len(kept)):
        distance = np.linalg.norm(joints[chosen] - joints[i], axis=-1).mean(-1)
        if (distance >= apart * np.maximum(stature[chosen], stature[i])).all():
            chosen.append(i)
        if len(chosen) == most:
            break
    return [kept[i] for i in chosen]


def _normalised(people: Figures, size: tuple[int, int]) -> Floats:
    """`(N, 18, 3)` as the network has drawn them: without the joints that were completed or left the frame."""
    known = people.drawn & _inside(people.people, size)
    joints = np.concatenate([from_frame(people.people[..., :2], size), np.ones((*known.shape, 1))], -1)
    out: Floats = joints * known[..., None]
    return out


def _skeleton(figure: Figures) -> Skeleton:
    person, drawn = figure.people[0], figure.drawn[0]
    known = person[:, 2] > 0
    return Skeleton(person[:, :2], known, known * np.where(drawn, 1.0, 0.5))


def _check(size: tuple[int, int], count: int, seed: int) -> None:
    """Raises `BadInput` for what cannot be."""
    if len(size) != 2 or not all(math.isfinite(v) and v >= 1 for v in size):
        raise BadInput(
            f"size: {size} is no frame", "Give width and height in pixels, both at least 1", "size"
        )
    if not 1 <= count <= MAX_COUNT:
        raise BadInput(f"count: {count} is not within 1..{MAX_COUNT}", "Ask for fewer candidates", "count")
    if not -(2**53) <= seed <= 2**53:
        raise BadInput(f"seed: {seed} is too large", "Give a whole number up to 2**53", "seed")
