# SPDX-License-Identifier: Apache-2.0
"""Judges whether a person belongs at a place: size and ground, who covers whom, the frame, the pose.

Everything is geometry of skeletons, in statures (models/anatomy.py), with spreads measured on COCO. Each check is
a factor of 0..1 or a reason to turn the person down; the score is their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.anatomy import Anatomy
from models.coco import BODY, EDGE
from shared.skeleton import FACE, NUM_JOINTS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SOLE = 0.07
"""Statures from the ankle down to the ground."""

CROWN = 0.2
"""Statures from the middle of the face up to the top of the head."""

TALL = 1.34
"""Statures (neck to ankles) from the soles to the crown: 0.07 below the ankles and a head of 0.18 about the face."""

_HIPS, _HEAD = NUM_JOINTS, NUM_JOINTS + 1  # the two points that `_points` adds
_PARTS = (
    (_HEAD, _HEAD, 0.12), (1, _HIPS, 0.12), (1, _HEAD, 0.05), (2, 3, 0.05), (3, 4, 0.04), (5, 6, 0.05), (6, 7, 0.04),
    (8, 9, 0.075), (9, 10, 0.055), (11, 12, 0.075), (12, 13, 0.055),
)  # fmt: skip
"""What a body covers: the surroundings of the line from one point to another, with their radius in statures."""

_RING = np.array([(0.0, 0.0)] + [(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4]) * 0.09
"""A face: its middle and eight points about it, in statures."""


@dataclass(frozen=True)
class Figures:
    """Completed people and what is read off them.

    Args:
        people (`(N, 18, 3)` float): pixels and known, `BODY` and neck all known.
        drawn (`(N, 18)` bool): joints that were known before completion.
        stature (`(N,)` float): pixels.
        ground (`(N, 2)` float): where the feet touch the ground, for cut people by their proportions.
    """

    people: Floats
    drawn: Bools
    stature: Floats
    ground: Floats

    @property
    def upright(self) -> Floats:
        """`(N,)` 1 where standing upright, falling to 0 for a seated, crouching or lying person."""
        trunk = self.people[:, [8, 11], :2].mean(1) - self.people[:, 1, :2]
        plumb = trunk[:, 1] / np.maximum(np.linalg.norm(trunk, axis=1), 1e-9)
        tall = anatomy.upright(self.people, self.stature)
        return np.clip(np.minimum((tall - 0.5) / 0.35, (plumb - 0.5) / 0.4), 0.0, 1.0)

    @property
    def unbalanced(self) -> Floats:
        """`(N,)` statures by which the middle of the body lies beside both feet, for who stands; else 0.

        Who leans so far leans on something, or is in motion: of COCO's upright people 5 in 100 are above 0.075.
        """
        hips, neck = self.people[:, [8, 11], 0].mean(1), self.people[:, 1, 0]
        feet = self.people[:, [10, 13], 0]
        middle = (hips + neck) / 2
        beside = np.maximum(feet.min(1) - middle, middle - feet.max(1)) / self.stature
        return np.maximum(beside, 0.0) * self.upright * self.drawn[:, [10, 13]].all(1)

    def chosen(self, index: NDArray[np.int64] | Bools) -> Figures:
        """Only those people."""
        return Figures(self.people[index], self.drawn[index], self.stature[index], self.ground[index])

    def scaled(self, factor: Floats, move: Floats) -> Figures:
        """Each enlarged about its place on the ground by `factor (N,)`, then moved by `move (N, 2)`."""
        people = self.people.copy()
        place = self.ground[:, None]
        people[..., :2] = (people[..., :2] - place) * factor[:, None, None] + place + move[:, None]
        people[..., :2] *= people[..., 2:] > 0
        return Figures(people, self.drawn, self.stature * factor, self.ground + move)


def figures(people: Floats, body: Anatomy) -> Figures:
    """Completes `(N, 18, 3)` people in pixels; all must have a known stature."""
    stature = body.stature(people)
    completed = np.array([body.completed(p, s) for p, s in zip(people, stature, strict=True)]).reshape(
        -1, 18, 3
    )
    ankles = completed[:, [10, 13], :2]
    ground = np.stack([ankles[..., 0].mean(1), ankles[..., 1].max(1) + SOLE * stature], 1)
    return Figures(completed, people[..., 2] > 0, stature, ground)


def joined(groups: Sequence[Figures]) -> Figures:
    """All people of the groups."""
    return Figures(
        np.concatenate([g.people for g in groups]),
        np.concatenate([g.drawn for g in groups]),
        np.concatenate([g.stature for g in groups]),
        np.concatenate([g.ground for g in groups]),
    )


def _points(people: Floats, stature: Floats) -> Floats:
    """`(N, 20, 2)`: the joints, the middle of the hips and of the face."""
    hips = people[:, [8, 11], :2].mean(1)
    face = people[:, list(FACE)]
    number = face[..., 2].sum(1)
    mean = (face[..., :2] * face[..., 2:]).sum(1) / np.maximum(number, 1)[:, None]
    above = people[:, 1, :2] - np.stack([0 * stature, 0.16 * stature], 1)
    head = np.where(number[:, None] > 0, mean, above)
    return np.concatenate([people[..., :2], hips[:, None], head[:, None]], 1)


def _covers(person: Floats, stature: Floats, groups: Floats) -> Bools:
    """Which of the points `(M, P, 2)` of M others each of N bodies covers: `(N, M, P)`.

    Of `person (N, 20, 2)` from `_points`. Most people are nowhere near each other, and need no look at their points.
    """
    reach = max(radius for _, _, radius in _PARTS) * stature[:, None]
    low, high = person.min(1) - reach, person.max(1) + reach
    near = (groups.min(1)[None] <= high[:, None]) & (groups.max(1)[None] >= low[:, None])
    who, whom = np.nonzero(near.all(-1))
    found = np.zeros((len(who), groups.shape[1]), bool)
    points = groups[whom]
    for a, b, radius in _PARTS:
        start = person[who, a]
        way = person[who, b] - start
        relative = points - start[:, None]
        square = np.maximum((way**2).sum(1), 1e-9)
        along = np.clip(np.einsum("rpc,rc->rp", relative, way) / square[:, None], 0.0, 1.0)
        relative -= along[..., None] * way[:, None]
        found |= np.einsum("rpc,rpc->rp", relative, relative) <= ((radius * stature[who]) ** 2)[:, None]
    out = np.zeros((len(person), *groups.shape[:2]), bool)
    out[who, whom] = found
    return out


def _face_and_torso(person: Floats, stature: Floats) -> tuple[Floats, Floats]:
    """Points of the faces `(N, 9, 2)` and torsos `(N, 12, 2)`; `person` from `_points`."""
    face = person[:, _HEAD, None] + _RING * stature[:, None, None]
    across, down = np.meshgrid((0.15, 0.5, 0.85), (0.1, 0.4, 0.7, 1.0))
    u, v = across.ravel()[None, :, None], down.ravel()[None, :, None]
    shoulders = person[:, None, 2] * (1 - u) + person[:, None, 5] * u
    hips = person[:, None, 8] * (1 - u) + person[:, None, 11] * u
    return face, shoulders * (1 - v) + hips * v


@dataclass(frozen=True)
class Ground:
    """A straight line from the height of the feet in the frame to a stature: a flat ground and one camera.

    Args:
        y, stature (`float`): pixels; a point of the line, amid the people.
        slope, slope_spread (`float`): statures' pixels per pixel that the feet are lower.
        spread (`float`): of log(stature) about the line.
        top, bottom (`float`): the y of the highest and the lowest feet seen.
    """

    y: float
    stature: float
    slope: float
    slope_spread: float
    spread: float
    top: float
    bottom: float

    def at(self, y: Floats) -> tuple[Floats, Floats]:
        """Expected stature and the spread of its logarithm for feet at `y`."""
        expected = np.maximum(self.stature + self.slope * (y - self.y), 0.15 * self.stature)
        return expected, np.hypot(self.spread, self.slope_spread * (y - self.y) / expected)


def fit_ground(people: Figures, body: Anatomy) -> Ground:
    """The line through the people, outliers (children, people on a stage) weighing little.

    What the people leave open, COCO fills in: with one person, or with all feet at one height, the slope is
    that of COCO's median scene.
    """
    y, stature = people.ground[:, 1], people.stature
    feet_seen = people.drawn[:, [10, 13]].any(1)
    certain = np.where(feet_seen, 1.0, 0.3) * (0.4 + 0.6 * people.upright)
    weight = certain.copy()
    middle, slope = 0.0, body.slope
    expected = np.full(len(y), np.median(stature))
    for _ in range(20):
        middle = float((weight * y).sum() / weight.sum())
        inverse = weight / (body.size_spread * expected) ** 2
        down = y - middle
        # Ridge regression of the stature on (1, down), the slope drawn to COCO's.
        prior = 1 / body.slope_spread**2
        matrix = np.array(
            [
                [inverse.sum(), (inverse * down).sum()],
                [(inverse * down).sum(), (inverse * down**2).sum() + prior],
            ]
        )
        right = np.array([(inverse * stature).sum(), (inverse * down * stature).sum() + prior * body.slope])
        level, slope = np.linalg.solve(matrix, right)
        slope = max(float(slope), 0.0)
        level = float((inverse * (stature - slope * down)).sum() / inverse.sum())
        expected = np.maximum(level + slope * down, 0.15 * level)
        weight = certain / (1 + (np.log(stature / expected) / (2 * body.size_spread)) ** 2)
    spread = body.size_spread * np.sqrt(1 + 1 / weight.sum())
    slope_spread = float(np.sqrt(np.linalg.inv(matrix)[1, 1]))
    near = weight > 0.25 * weight.max()
    return Ground(
        middle, level, slope, slope_spread, float(spread), float(y[near].min()), float(y[near].max())
    )


@dataclass(frozen=True)
class Scene:
    """The people of a scene as the judge sees them.

    Args:
        people (`Figures`): all whose stature is known.
        size (`(2,)` float): frame in pixels.
        ground (`Ground`): through the people that tell something.
        upright (`float`): share of people who stand.
        cut (`float`): share of people whose feet lie below the frame.
    """

    people: Figures
    size: Floats
    ground: Ground
    upright: float
    cut: float


def read_scene(people: Floats, tells: Bools, size: tuple[int, int], body: Anatomy) -> Scene:
    """A scene from `(K, 18, 3)` people in pixels; `tells (K,)`: those who tell where people belong."""
    everyone = figures(people, body)
    telling = everyone.chosen(tells)
    ground = fit_ground(telling, body)
    cut = telling.ground[:, 1] > size[1] + EDGE
    return Scene(
        everyone, np.array(size, dtype=np.float64), ground, float(telling.upright.mean()), float(cut.mean())
    )


def judge(
    drawn: Figures,
    scene: Scene,
    body: Anatomy,
    *,
    ground_known: bool = False,
    size_known: bool = False,
    stance_known: bool = False,
) -> tuple[Floats, dict[str, Bools]]:
    """Scores `(N,)` in 0..1 of people, and for each reason to turn people down, whom it turns down `(N,)`.

    Args:
        drawn (`Figures`): the people to judge.
        scene (`Scene`): where.
        body (`Anatomy`): what people are like.
        ground_known (`bool`): there is ground under their feet; else it is only trusted to be near other feet.
        size_known (`bool`): they have the right size, whatever the others' is.
        stance_known (`bool`): they may sit among people who stand.
    """
    person = _points(drawn.people, drawn.stature)
    face, torso = _face_and_torso(person, drawn.stature)
    others = scene.people
    other_person = _points(others.people, others.stature)
    other_face, other_torso = _face_and_torso(other_person, others.stature)
    in_front = drawn.ground[:, None, 1] >= others.ground[None, :, 1]

    # Whom the new person covers, and who covers the new person.
    covers = _covers(person, drawn.stature, np.concatenate([other_face, other_torso], 1))
    covers &= in_front[..., None]
    hidden = _covers(other_person, others.stature, np.concatenate([face, torso], 1)).transpose(1, 0, 2)
    hidden &= ~in_front[..., None]
    covers_face, covers_torso = covers[..., :9].mean(-1).max(1), covers[..., 9:].mean(-1).max(1)
    hidden_any: Bools = np.any(hidden, axis=1)
    face_hidden, torso_hidden = hidden_any[:, :9].mean(-1), hidden_any[:, 9:].mean(-1)

    # Size and ground.
    expected, spread = scene.ground.at(drawn.ground[:, 1])
    size_off = np.log(drawn.stature / expected) / spread * (not size_known)
    beyond = np.maximum(scene.ground.top - drawn.ground[:, 1], drawn.ground[:, 1] - scene.ground.bottom)
    beyond = np.maximum(beyond, 0.0) / drawn.stature * (not ground_known)

    # Frame.
    joints = drawn.people[:, [1, *BODY], :2]
    outside: Bools = np.any((joints < 0) | (joints > scene.size), axis=-1)
    head = person[:, _HEAD]
    head_out = np.any((head < 0) | (head > scene.size), axis=-1)
    crown_out = head[:, 1] - CROWN * drawn.stature < 0
    trunk_out = outside[:, [0, 1, 4, 7, 10]].any(1)  # neck, shoulders, hips
    side_out = np.any((joints[..., 0] < 0) | (joints[..., 0] > scene.size[0]), axis=1)
    feet_out = drawn.ground[:, 1] > scene.size[1] + EDGE

    # Body.
    valid, known = body.valid_bones(np.where(drawn.drawn[..., None], drawn.people, 0.0), drawn.stature)
    odd = (known & ~valid).sum(1)
    added = ((~drawn.drawn[:, list(BODY)]) & ~outside[:, 1:]).sum(1)
    headless = ~drawn.drawn[:, list(FACE)].any(1)

    # Company: not on top of somebody, not far from everybody.
    across = np.abs(drawn.ground[:, None, 0] - others.ground[None, :, 0])
    gap = (across / np.minimum(drawn.stature[:, None], others.stature[None])).min(1)

    refused = {
        "have no head": headless,
        "lie outside the frame": head_out | (trunk_out & side_out),
        "cover a face": covers_face > 0.2,
        "have their face covered": face_hidden > 0.2,
        "cover a person": covers_torso > 0.6,
        "are covered": torso_hidden > 0.75,
        "have the wrong size for their place": np.abs(size_off) > 3,
        "stand where there may be no ground": beyond > 1.5,
        "are not human": odd >= 4,
    }
    stands = drawn.upright
    score = np.exp(-(size_off**2) / 2)
    score *= np.exp(-((beyond / 0.5) ** 2) / 2)
    score *= np.exp(-((covers_torso / 0.35) ** 2) / 2) * np.exp(-((torso_hidden / 0.4) ** 2) / 2)
    score *= np.where(covers_face + face_hidden > 0, 0.6, 1.0)
    score *= np.exp(-((np.maximum(gap - 1.2, 0) / 1.5) ** 2) / 2) * np.clip(0.5 + gap / 0.5, 0.5, 1.0)
    if not stance_known:
        score *= 1 - 0.6 * (1 - stands) * (0.3 + 0.7 * scene.upright)
    score *= np.exp(-((drawn.unbalanced / 0.08) ** 2) / 2)
    score *= np.where(feet_out, 0.4 + 0.6 * scene.cut, 1.0)
    score *= np.where(side_out, 0.4, 1.0) * np.where(crown_out, 0.7, 1.0)
    score *= 0.75**odd * 0.93**added
    return score, refused
