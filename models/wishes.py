# SPDX-License-Identifier: Apache-2.0
"""What is asked of a new person (`shared.where.Where`), held against drawn people: stance, facing, size, likeness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.anatomy import Anatomy
from models.judgement import SOLE, TALL, Figures, Scene, figures
from shared.errors import BadInput, NoCandidate
from shared.skeleton import MIRROR, Skeleton
from shared.where import Facing, Where

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TURNED = 0.035
"""Statures by which the nose is beside the ears of a head that is turned some 30 degrees."""

SIZE_CORRECTION = 1.6
"""A person off the size of the place is corrected by at most this factor, towards one spread from the line."""

SAME, ALIKE = 0.03, 0.4
"""Mean distance of the joints, in statures, below which a person is the same, and up to which it resembles."""

REACH = 1.2
"""Statures that feet may be higher or lower in the frame than all feet seen."""

_HIPS, _KNEES, _ANKLES, _EYES, _EARS = [8, 11], [9, 12], [10, 13], [14, 15], [16, 17]


def stances(people: Figures) -> tuple[Bools, Bools]:
    """Who stands and who sits, `(N,)` each; crouching, riding, lying people and half-seen seats are neither.

    Of completed people, to keep to an artist's word: stricter than `Anatomy.stance`, which the flow was trained with.
    Told by how far the knees are below the hips (0.31 statures when standing) and the ankles below the neck (1),
    and by the trunk being upright. Crossed legs on the ground are sitting.
    """
    xy = people.people[..., :2]
    trunk = xy[:, _HIPS].mean(1) - xy[:, 1]
    plumb = trunk[:, 1] / np.maximum(np.linalg.norm(trunk, axis=1), 1e-9)
    thigh = (xy[:, _KNEES, 1] - xy[:, _HIPS, 1]) / people.stature[:, None]
    knees_seen = (people.drawn[:, _KNEES] & people.drawn[:, _HIPS]).any(1)
    tall = anatomy.upright(people.people, people.stature)
    stands = (plumb > 0.85) & (tall > 0.78) & (thigh.max(1) > 0.22)
    astride = np.abs(xy[:, 10, 0] - xy[:, 13, 0]) / people.stature
    sits = knees_seen & (plumb > 0.8) & (thigh.max(1) < 0.18) & (tall < 0.78) & (astride < 0.6)
    return stands, sits


def facings(people: Figures) -> NDArray[np.int64]:
    """`(N,)` -1 for who faces the left side of the picture, 1 the right, 0 the camera, away, or not to be told.

    The eyes stand in for a nose or ears that are not seen; what the flow was trained with, `anatomy.facing`, needs
    both.
    """
    xy, known = people.people[..., :2], people.people[..., 2] > 0

    def middle(joints: list[int]) -> tuple[Floats, Bools]:
        number = known[:, joints].sum(1)
        mean = (xy[:, joints, 0] * known[:, joints]).sum(1) / np.maximum(number, 1)
        return mean, number > 0

    (eyes, has_eyes), (ears, has_ears) = middle(_EYES), middle(_EARS)
    nose, has_nose = xy[:, 0, 0], known[:, 0]
    front = np.where(has_nose, nose, eyes)
    # Without ears the eyes lie half as far behind the nose.
    ahead = np.where(has_ears, front - ears, 2 * (nose - eyes)) / people.stature
    told = np.where(has_ears, has_nose | has_eyes, has_nose & has_eyes)
    out: NDArray[np.int64] = np.where(told & (np.abs(ahead) > TURNED), np.sign(ahead), 0).astype(np.int64)
    return out


def facing(skeleton: Skeleton) -> Facing | None:
    """The side of the picture that one person's head is turned to, if it is."""
    person = np.c_[skeleton.xy, skeleton.visible][None].astype(np.float64)
    stature = anatomy.installed().stature(person)
    if not stature[0] > 0:
        return None
    known = person[..., 2] > 0
    turned = int(facings(Figures(person, known, stature, np.zeros((1, 2))))[0])
    return "left" if turned < 0 else "right" if turned > 0 else None


def mirrored(people: Figures, which: Bools) -> Figures:
    """Those people flipped left to right about their place on the ground, joints renamed accordingly."""
    flipped, drawn = people.people.copy(), people.drawn.copy()
    order: Sequence[int] = list(MIRROR)
    flipped[which] = people.people[which][:, order]
    drawn[which] = people.drawn[which][:, order]
    flipped[which, :, 0] = 2 * people.ground[which, None, 0] - flipped[which, :, 0]
    flipped[..., :2] *= flipped[..., 2:] > 0
    return Figures(flipped, drawn, people.stature, people.ground)


def unlikeness(people: Figures, like: Figures, *, placed: bool) -> Floats:
    """`(N,)` mean distance of the body's joints from those of the one person `like`, in that person's statures.

    Args:
        people (`Figures`): whom to compare.
        like (`Figures`): one person.
        placed (`bool`): the place is asked for apart, so only the pose about the feet counts.
    """
    away = people.people[:, 1:14, :2] - like.people[:, 1:14, :2]
    if placed:
        away = away - (people.ground - like.ground)[:, None]
    distance: Floats = np.linalg.norm(away, axis=-1).mean(1) / like.stature
    return distance


class Wishes:
    """What is asked for, in terms of one scene.

    Args:
        where (`Where`): checked against the size of the scene.
        scene (`Scene`), body (`Anatomy`): where, and what people are like.

    Raises:
        BadInput: the skeleton to resemble shows too little.
        NoCandidate: nobody of the height asked for could stand in this scene.
    """

    def __init__(self, where: Where, scene: Scene, body: Anatomy) -> None:
        self.where = where
        self.scene = scene
        self.stature = None if where.height is None else where.height / TALL
        self.like = None if where.like is None else _resembled(where.like, body)
        # The feet lie between these two corners.
        self.low, self.high = np.full(2, -np.inf), np.full(2, np.inf)
        # There is ground where the artist says so; a person like another may stand where that one does.
        self.ground_known = self.like is not None
        if where.box is not None:
            self.low, self.high = np.array(where.box, np.float64).reshape(2, 2)
            if self.high[1] >= scene.size[1] - 1:
                # A box down to the frame's edge means those as well whom the edge cuts off.
                self.high[1] = np.inf
        if where.feet is not None:
            self.low = self.high = np.array(where.feet, np.float64)
            self.ground_known = True
        if where.box is not None:
            self._fit_ground()
        if self.stature is not None:
            self._fit_height(self.stature)

    @property
    def placed(self) -> bool:
        """The artist says where the feet are."""
        return self.where.feet is not None or self.where.box is not None

    @property
    def sized(self) -> bool:
        """The artist says how large the person is at that place, whatever the others are."""
        return self.like is not None or (self.placed and self.stature is not None)

    @property
    def picky(self) -> bool:
        """Most people that are drawn without knowing of the wishes do not meet them."""
        return self.where != Where(feet=self.where.feet)

    def _fit_ground(self) -> None:
        """Of a box that reaches beyond the ground that people stand on, the part on the ground; else all of it."""
        ground = self.scene.ground
        low, high = ground.top - ground.stature / 2, ground.bottom + ground.stature / 2
        if self.low[1] <= high and self.high[1] >= low:
            self.low[1], self.high[1] = max(self.low[1], low), min(self.high[1], high)
        else:
            self.ground_known = True

    def _fit_height(self, stature: float) -> None:
        """Narrows the place to where people have that stature, as far as it is open."""
        ground = self.scene.ground
        floor = min(ground.bottom + REACH * stature, self.scene.size[1] + stature / 2)
        low = self.low[1] if self.placed else ground.top - REACH * stature
        high = self.high[1] if self.placed else max(floor, low)
        if ground.slope > 0.02:
            y = float(np.clip(ground.y + (stature - ground.stature) / ground.slope, low, high))
            self.low[1] = self.high[1] = y
        else:
            y = ground.y
        expected, spread = (float(v) for v in ground.at(np.array(y)))
        if not self.placed and abs(np.log(stature / expected)) > 3 * spread:
            ends = [float(v) * TALL for v in ground.at(np.array([ground.top, ground.bottom]))[0]]
            told = " to ".join(dict.fromkeys(f"{end:.0f}" for end in sorted(ends)))
            raise NoCandidate(
                f"height: nobody of {stature * TALL:.0f} px fits the scene, whose people are some {told} px tall where"
                " they stand",
                "Ask for about that height, or name the place as well",
                "where.height",
            )

    def spots(self, number: int, rng: np.random.Generator) -> Floats:
        """`(number, 2)` places of the lower ankle to ask a network for, pixels; NaN for every second, left open.

        The open half shows what else people do here.
        """
        spots = np.full((number, 2), np.nan)
        if not (self.placed or self.stature is not None):
            return spots
        low = np.maximum(self.low, 0.0)
        high = np.maximum(np.minimum(self.high, self.scene.size), low)
        ground = rng.uniform(low, high, (len(spots[::2]), 2))
        stature = self.scene.ground.at(ground[:, 1])[0] if self.stature is None else self.stature
        spots[::2] = ground
        spots[::2, 1] -= SOLE * stature
        return spots

    def moved(self, people: Figures, aside: float) -> tuple[Figures, Floats]:
        """The people where and as large as they are asked for, and a factor `(N,)` that falls with the way there.

        Args:
            people (`Figures`): as drawn.
            aside (`float`): statures to move them to the right of where they were drawn, if the place is open.
        """
        if self.where.facing is not None:
            people = mirrored(people, facings(people) == (1 if self.where.facing == "left" else -1))
        shifted = people.ground + np.stack([aside * people.stature, 0 * people.stature], 1)
        move = np.clip(shifted, self.low, self.high) - people.ground
        near = np.exp(-((np.linalg.norm(move, axis=1) / (2 * people.stature)) ** 2) / 2)
        if self.stature is not None:
            factor = self.stature / people.stature
        elif self.like is not None:
            factor = np.ones(len(people.stature))
        else:
            expected, spread = self.scene.ground.at(people.ground[:, 1] + move[:, 1])
            off = np.log(people.stature / expected)
            limit = np.inf if self.placed else np.log(SIZE_CORRECTION)
            factor = np.exp(np.clip(np.clip(off, -spread, spread) - off, -limit, limit))
        return people.scaled(factor, move), near

    def unmet(self, people: Figures) -> dict[str, Bools]:
        """For each wish that can be missed by the field's name, who misses it `(N,)`."""
        out: dict[str, Bools] = {}
        if self.where.stance is not None:
            stands, sits = stances(people)
            out["stance"] = ~(sits if self.where.stance == "sitting" else stands)
        if self.where.facing is not None:
            out["facing"] = facings(people) != (-1 if self.where.facing == "left" else 1)
        if self.like is not None:
            away = self._away(people)
            out["like"] = (away > ALIKE) | (away < SAME)
        return out

    def likeness(self, people: Figures) -> Floats:
        """`(N,)` factor of the score that falls with the distance from the skeleton to resemble."""
        if self.like is None:
            return np.ones(len(people.stature))
        out: Floats = np.exp(-((self._away(people) / 0.25) ** 2) / 2)
        return out

    def _away(self, people: Figures) -> Floats:
        assert self.like is not None
        return unlikeness(people, self.like, placed=self.placed)

    def warning(self, person: Figures) -> str:
        """What the artist should know of the one person `person` that meets the wishes."""
        if not (self.placed and self.stature is not None):
            return ""
        expected, spread = (float(v) for v in self.scene.ground.at(person.ground[0, 1]))
        if abs(np.log(self.stature / expected)) <= 2 * spread:
            return ""
        return (
            f"height: people who stand there would be some {expected * TALL:.0f} px tall,"
            f" not {self.stature * TALL:.0f}"
        )

    def nobody(self, fitting: Figures | None, tried: int, reasons: str) -> NoCandidate | None:
        """The error for wishes that nobody meets; None if there are no wishes that could be at fault.

        Args:
            fitting (`Figures`, *optional*): those who fit the place, whatever they look like.
            tried (`int`): people who were drawn and held against the place.
            reasons (`str`): why the others do not fit.
        """
        if fitting is not None:
            unmet = self.unmet(fitting)
            fields = ", ".join(unmet)
            return NoCandidate(
                f"{fields}: of {len(fitting.stature)} people who fit here none is {self._told()}"
                f" ({self._found(fitting)})",
                "Leave that wish open, name another place or seed, or give the pose itself with --pose",
                f"where.{next(iter(unmet))}",
            )
        named = [name for name in ("feet", "box", "height") if getattr(self.where, name) is not None]
        if not named:
            return None
        return NoCandidate(
            f"{named[0]}: none of {tried} drawn people can stand here (of them {reasons})",
            "Choose another place for the feet with --at or --box, or give the pose with --pose",
            f"where.{named[0]}",
        )

    def _told(self) -> str:
        facing = f"facing {self.where.facing}" if self.where.facing is not None else ""
        like = "like the given skeleton" if self.like is not None else ""
        return " and ".join(part for part in (self.where.stance or "", facing, like) if part)

    def _found(self, people: Figures) -> str:
        found = []
        if self.where.stance is not None:
            stands, sits = stances(people)
            other = len(stands) - int(stands.sum() + sits.sum())
            found.append(f"{stands.sum()} standing, {sits.sum()} sitting, {other} neither")
        if self.where.facing is not None:
            turned = facings(people)
            found.append(
                f"{(turned < 0).sum()} facing left, {(turned > 0).sum()} right, {(turned == 0).sum()} neither"
            )
        if self.like is not None:
            found.append(f"the nearest is {self._away(people).min():.2f} statures off")
        return "; ".join(found)


def _resembled(values: Sequence[float], body: Anatomy) -> Figures:
    """The skeleton to resemble, completed."""
    skeleton = Skeleton.from_openpose(values, "like")
    person = np.c_[skeleton.xy, skeleton.visible][None].astype(np.float64)
    if not body.stature(person)[0] > 0:
        raise BadInput(
            "like: no arm, leg, shoulders or hips are known, so its size cannot be told",
            "Give a skeleton with at least one limb",
            "where.like",
        )
    return figures(person, body)
