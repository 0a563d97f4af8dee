# SPDX-License-Identifier: Apache-2.0
"""Measures placement on leave-one-out scenes of val2017. docs/placement.md tells each number in words.

A network's row is of its draws as `Sampler.natural` gives them, before `Placement` completes, checks and ranks them
for an artist; "..., placed" is of what `Placement.place` returns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.coco import FLIP, Examples
from models.judgement import SOLE
from models.placement import Placement, Sampler
from shared.errors import NoCandidate
from shared.skeleton import LIMBS, MIRROR, Skeleton

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HALF_HEAD = 0.095
"""Half the height of a head in statures: a person is 1.43 statures tall and 7.5 heads."""

DRAWS = 8
CROWDS = {"1": (1, 1), "2": (2, 2), "3-4": (3, 4), "5-7": (5, 7), "8+": (8, 99)}
"""Numbers of context people that are measured apart."""

GROUPS = {
    "pose": slice(0, 36),
    "visibility": slice(36, 54),
    "scale": slice(54, 58),
    "feet": slice(58, 66),
    "overlap": slice(66, 71),
}
"""Columns of `features`."""


@dataclass
class Row:
    """What was measured of one way to place; None where it does not apply.

    Args:
        default (`bool`): what `walkon insert` uses.
        c2st (`float`): accuracy of gradient-boosted trees that tell drawn from real people; 0.5: cannot be told.
        c2st_std (`float`): its standard deviation over the random halves of the scenes.
        c2st_pose, c2st_visibility, c2st_scale, c2st_feet, c2st_overlap (`float`): by one group of features.
        best_of_8 (`float`): best share, over 8 draws, of the true person's joints within half a head.
        scale_error (`float`): median of abs(log(stature / true stature)) of the first draw.
        overlap (`float`): share of first draws whose torso's box meets another's.
        bones (`float`): share of bones with a length within the 1st to 99th percentile of people.
        milliseconds_3, milliseconds_30 (`float`): 8 candidates among so many people.
        scenes (`int`): measured.
        by_people: c2st, best_of_8, scale_error, overlap by the number of context people.
    """

    default: bool = False
    c2st: float | None = None
    c2st_std: float | None = None
    c2st_pose: float | None = None
    c2st_visibility: float | None = None
    c2st_scale: float | None = None
    c2st_feet: float | None = None
    c2st_overlap: float | None = None
    best_of_8: float | None = None
    scale_error: float | None = None
    overlap: float | None = None
    bones: float | None = None
    milliseconds_3: float | None = None
    milliseconds_30: float | None = None
    scenes: int = 0
    by_people: dict[str, dict[str, float | int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenes:
    """The scenes that all rows are measured on.

    Args:
        context (`(N, K, 18, 3)`), present (`(N, K)`), real (`(N, 18, 3)`), aspect (`(N, 2)`): see `coco.Batch`.
        image (`(N,)`): several scenes come of one image; they are never on both sides of a split.
    """

    context: Floats
    present: Bools
    real: Floats
    aspect: Floats
    image: NDArray[np.int64]

    @classmethod
    def of(cls, examples: Examples, index: NDArray[np.int64]) -> Scenes:
        """The examples `index (N,)`."""
        batch = examples.batch(index)
        return cls(
            batch.context.astype(np.float64),
            batch.present,
            batch.target.astype(np.float64),
            batch.aspect.astype(np.float64),
            examples.image[examples.target[index]],
        )

    def __len__(self) -> int:
        return len(self.real)

    def chosen(self, index: NDArray[np.int64]) -> Scenes:
        """Only those scenes."""
        return Scenes(
            self.context[index], self.present[index], self.real[index], self.aspect[index], self.image[index]
        )


def _torso_boxes(people: Floats) -> Floats:
    """`(..., 4)` of the known shoulders and hips of `(..., 18, 3)`; empty boxes where none is known."""
    torso = people[..., [2, 5, 8, 11], :]
    known = torso[..., 2:] > 0
    low = np.where(known, torso[..., :2], np.inf).min(-2)
    high = np.where(known, torso[..., :2], -np.inf).max(-2)
    return np.concatenate([low, high], -1)


def overlaps(people: Floats, context: Floats) -> Bools:
    """Whether the torso's box of each `(N, 18, 3)` person meets that of one of his `(N, K, 18, 3)` context."""
    mine, others = _torso_boxes(people)[:, None], _torso_boxes(context)
    low, high = np.maximum(mine[..., :2], others[..., :2]), np.minimum(mine[..., 2:], others[..., 2:])
    met: Bools = np.any((high > low).all(-1), axis=1)
    return met


def _middle(people: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean `(..., 2)`, rms size and lowest y of the known joints of `(..., 18, 3)`."""
    known = people[..., 2]
    number = np.maximum(known.sum(-1), 1)
    root = (people[..., :2] * known[..., None]).sum(-2) / number[..., None]
    spread = (((people[..., :2] - root[..., None, :]) ** 2).sum(-1) * known).sum(-1) / number
    return root, np.sqrt(spread) + 1e-4, np.where(known > 0, people[..., 1], -1.0).max(-1)


def features(people: Floats, scenes: Scenes) -> Floats:
    """`(N, 71)` numbers of `(N, 18, 3)` people in their scenes, in the groups of `GROUPS`."""
    root, scale, bottom = _middle(people)
    roots, scales, bottoms = _middle(scenes.context)
    known = people[..., 2]
    pose = (people[..., :2] - root[:, None]) / scale[:, None, None] * known[..., None]
    hide = np.where(scenes.present, 0.0, np.nan)
    distance = np.linalg.norm(roots - root[:, None], axis=-1) / scale[:, None] + hide
    pick = np.arange(len(people)), np.nanargmin(distance, axis=1)
    log_scale, log_scales = np.log(scale), np.log(scales) + hide
    way = root - roots[pick]
    place = [
        # scale
        log_scale,
        log_scale - np.nanmedian(log_scales, 1),
        log_scale - log_scales[pick],
        np.nanstd(log_scales, 1),
        # feet
        root[:, 0],
        root[:, 1],
        bottom,
        bottom - bottoms[pick],
        (bottom - bottoms[pick]) / scale,
        np.nanmean(bottoms + hide, 1) - bottom,
        root[:, 1] - np.nanmean(roots[..., 1] + hide, 1),
        scenes.aspect[:, 1],
        # overlap
        np.nanmin(distance, 1),
        way[:, 0] / scale,
        way[:, 1] / scale,
        overlaps(people, scenes.context).astype(np.float64),
        scenes.present.sum(1),
    ]
    return np.concatenate([pose.reshape(len(people), -1), known, np.stack(place, 1)], 1)


def halves(image: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two equally long sets of scenes that share no image."""
    images = np.random.default_rng(seed).permutation(np.unique(image))
    first = np.isin(image, images[: len(images) // 2])
    a, b = np.flatnonzero(first), np.flatnonzero(~first)
    return a[: len(b)], b[: len(a)]


def told_apart(real: Floats, drawn: Floats, image: NDArray[np.int64], seed: int = 0) -> Floats:
    """How gradient-boosted trees tell real people `(N, F)` of one half of the images from drawn ones of the other.

    Five folds; scenes of one image are never in two folds. Real people against real people go through the same
    function, so every row, the ceiling too, has equal samples.

    Returns:
        `(N,)` 1 where a scene's person (the real or the drawn one) was told rightly, 0 where not, NaN where the
        scene is in neither half.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    a, b = halves(image, seed)
    index = np.concatenate([a, b])
    x, y = np.concatenate([real[a], drawn[b]]), np.repeat([0, 1], (len(a), len(b)))
    right = np.full(len(real), np.nan)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, image[index]):
        trees = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x[train], y[train])
        right[index[test]] = trees.predict(x[test]) == y[test]
    return right


def best_shares(drawn: Floats, real: Floats) -> Floats:
    """`(N,)` best share, over the Q draws `(N, Q, 18, 3)`, of the real person's joints within half a head."""
    true = anatomy.installed().stature(real)
    distance = np.linalg.norm(drawn[..., :2] - real[:, None, :, :2], axis=-1)
    hit = (distance < HALF_HEAD * true[:, None, None]) & (drawn[..., 2] > 0) & (real[:, None, :, 2] > 0)
    best: Floats = (hit.sum(-1) / real[:, None, :, 2].sum(-1)).max(1)
    return best


def scale_errors(drawn: Floats, real: Floats) -> Floats:
    """`(N,)` abs(log(stature / true stature)) of `(N, 18, 3)` people; NaN where a stature cannot be told."""
    body = anatomy.installed()
    stature = body.stature(drawn)
    errors: Floats = np.abs(np.log(np.where(stature > 0, stature, np.nan) / body.stature(real)))
    return errors


def measure(drawn: Floats, scenes: Scenes, seeds: int = 5, *, classify: bool = True) -> Row:
    """A row for draws `(N, Q, 18, 3)` in the scenes, normalised; of real people themselves where Q is 0.

    Args:
        seeds (`int`): random halves that c2st is averaged over; the groups of features take the first.
        classify (`bool`): measure the c2st numbers too.
    """
    real = scenes.real
    ceiling = drawn.shape[1] == 0
    first = real if ceiling else drawn[:, 0]
    body = anatomy.installed()
    valid, known = body.valid_bones(first, body.stature(first))
    meets = overlaps(first, scenes.context)
    row = Row(overlap=float(meets.mean()), bones=float(valid.sum() / max(known.sum(), 1)), scenes=len(scenes))
    nothing = np.full(len(scenes), np.nan)
    best, size, right = nothing, nothing, nothing[None]
    if not ceiling:
        best, size = best_shares(drawn, real), scale_errors(first, real)
        row.best_of_8, row.scale_error = float(best.mean()), float(np.nanmedian(size))
    if classify:
        a, b = features(real, scenes), features(first, scenes)
        right = np.array([told_apart(a, b, scenes.image, seed) for seed in range(seeds)])
        each = np.nanmean(right, axis=1)
        row.c2st, row.c2st_std = float(each.mean()), float(each.std())
        for name, columns in GROUPS.items():
            told = np.nanmean(told_apart(a[:, columns], b[:, columns], scenes.image))
            setattr(row, f"c2st_{name}", float(told))
    number = scenes.present.sum(1)
    for name, (least, most) in CROWDS.items():
        which = (number >= least) & (number <= most)
        if which.any():
            row.by_people[name] = {
                "c2st": _mean(right[:, which]),
                "best_of_8": _mean(best[which]),
                "scale_error": None if ceiling else float(np.nanmedian(size[which])),
                "overlap": float(meets[which].mean()),
                "scenes": int(which.sum()),
            }
    return row


def _mean(values: Floats) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


# -- ways to place -------------------------------------------------------------------------------------------


def draw_all(network: Sampler, examples: Examples, index: NDArray[np.int64], seed: int) -> Floats:
    """`(N, 8, 18, 3)` draws for the examples, kind and place left open, without any ranking."""
    parts = []
    for first in range(0, len(index), 16):
        batch = examples.batch(index[first : first + 16])
        parts.append(network.natural(batch, seed + first, DRAWS))
    return np.concatenate(parts)


def random_people(scenes: Scenes, train: Examples, seed: int) -> Floats:
    """`(N, 8, 18, 3)` targets of training scenes, each with his middle anywhere in the frame."""
    rng = np.random.default_rng(seed)
    people = train.people[train.target[rng.integers(0, len(train), (len(scenes), DRAWS))]].astype(np.float64)
    place = rng.uniform(-0.5, 0.5, (len(scenes), DRAWS, 2)) * scenes.aspect[:, None]
    people[..., :2] += (place - _middle(people)[0])[..., None, :]
    people[..., :2] *= people[..., 2:]
    return people


def nearest_people(scenes: Scenes, train: Examples, chunk: int = 64) -> Floats:
    """`(N, 8, 18, 3)` targets of the 8 training scenes, as they are or flipped, whose people are most alike.

    Compared are scenes of the same number of people, from left to right: their middles and half the logarithms of
    their sizes, and the frame's shape; sum of squares.
    """

    def signature(people: Floats, aspect: Floats) -> Floats:
        root, scale, _ = _middle(people)
        order = np.argsort(root[..., 0], axis=1)[..., None]
        each = np.concatenate([root, 0.5 * np.log(scale)[..., None]], -1)
        return np.concatenate([np.take_along_axis(each, order, 1).reshape(len(people), -1), aspect], 1)

    def flipped(people: Floats) -> Floats:
        return people[..., list(MIRROR), :] * FLIP

    number, train_number = scenes.present.sum(1), (train.context >= 0).sum(1)
    out = np.zeros((len(scenes), DRAWS, 18, 3))
    for people in np.unique(number):
        mine, theirs = np.flatnonzero(number == people), np.flatnonzero(train_number == people)
        if len(theirs) < DRAWS:  # nobody trained in such a crowd
            theirs = np.flatnonzero(train_number == train_number[train_number <= people].max())
        batch = train.batch(theirs)
        context, target = batch.context.astype(np.float64), batch.target.astype(np.float64)
        shape = batch.aspect.astype(np.float64)
        known = np.concatenate([signature(context, shape), signature(flipped(context), shape)])
        targets = np.concatenate([target, flipped(target)])
        count = context.shape[1]
        asked = signature(scenes.context[mine][:, :count], scenes.aspect[mine])
        for begin in range(0, len(mine), chunk):
            distance = (asked[begin : begin + chunk] ** 2).sum(1)[:, None] + (known**2).sum(1)
            distance -= 2 * asked[begin : begin + chunk] @ known.T
            nearest = np.argpartition(distance, DRAWS, axis=1)[:, :DRAWS]
            nearest = np.take_along_axis(
                nearest, np.argsort(np.take_along_axis(distance, nearest, 1), axis=1), 1
            )
            out[mine[begin : begin + chunk]] = targets[nearest]
    return out


def placed(
    placement: Placement, examples: Examples, index: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """What `Placement.place` gives: `(M, 8, 18, 3)`, the last repeated where there are fewer, and which scenes."""
    people, kept = [], []
    for number, example in enumerate(index):
        context, _, size = examples.scene(int(example))
        try:
            skeletons = [c.skeleton for c in placement.place(context, size, DRAWS)]
        except NoCandidate:
            continue
        skeletons += [skeletons[-1]] * (DRAWS - len(skeletons))
        known = np.array([s.visible for s in skeletons])[..., None]
        xy = (np.array([s.xy for s in skeletons]) - np.array(size) / 2) / max(size)
        people.append(np.concatenate([xy * known, known], -1))
        kept.append(number)
    return np.array(people), np.array(kept)


def evaluate(
    networks: Mapping[str, Sampler],
    default: Placement,
    val: Examples,
    train: Examples,
    scenes: int = 4000,
    ranked: int = 200,
    seed: int = 0,
) -> dict[str, Row]:
    """The table: draws of each network, what the default places, the baselines, and real people.

    Args:
        networks: by name.
        default (`Placement`): what `walkon insert` uses.
        val, train (`Examples`): val2017 to measure on; train2017 for the baselines.
        scenes (`int`): at most so many examples of `val`.
        ranked (`int`): so many of them for "..., placed", which draws and judges one scene after the other.
        seed (`int`): of the choice and all draws.
    """
    index = np.random.default_rng(seed).permutation(len(val))[:scenes]
    chosen = Scenes.of(val, index)
    rows = {}
    for name, network in networks.items():
        rows[name] = measure(draw_all(network, val, index, seed), chosen)
    rows[default.name].default = True
    rows[default.name].milliseconds_3 = milliseconds(default, 3)
    rows[default.name].milliseconds_30 = milliseconds(default, 30)
    people, kept = placed(default, val, index[:ranked])
    rows[f"{default.name}, placed"] = measure(people, chosen.chosen(kept), classify=False)
    rows["random"] = measure(random_people(chosen, train, seed), chosen)
    rows["nearest"] = measure(nearest_people(chosen, train), chosen)
    rows["real"] = measure(np.zeros((len(index), 0, 18, 3)), chosen)
    return rows


def crowd(number: int) -> tuple[list[Skeleton], tuple[int, int]]:
    """So many people standing on flat ground, ten in a row, those behind smaller; and the frame's size."""
    body = anatomy.installed()
    size = (1920, 1080)
    people = []
    for i in range(number):
        row, place = divmod(i, 10)
        feet = 900.0 - 160 * row
        stature = 0.35 * (feet - 300)
        x = 100 + (place * 181 + row * 60) % 1720
        people.append(
            Skeleton(np.array(body.template) * stature + (x, feet - (1 + SOLE) * stature), np.ones(18))
        )
    return people, size


def milliseconds(placement: Placement, people: int, repeats: int = 9) -> float:
    """Median time for 8 candidates in a scene of so many people."""
    context, size = crowd(people)
    times = []
    for seed in range(repeats + 1):
        began = time.perf_counter()
        placement.place(context, size, DRAWS, seed)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]) * 1000)


def sheet(
    placement: Placement, val: Examples, path: Path, scenes: int = 40, columns: int = 8, seed: int = 4
) -> None:
    """Writes a picture of scenes: context grey, the true person green, candidates orange, blue and yellow."""
    import cv2

    cells = []
    side, margin = 360, 12
    for example in np.random.default_rng(seed).permutation(len(val))[:scenes]:
        context, target, size = val.scene(int(example))
        scale = (side - 2 * margin) / max(size)
        offset = (side - np.array(size) * scale) / 2
        cell = np.full((side, side, 3), 30, np.uint8)
        corners = [tuple(int(v) for v in p) for p in (offset, offset + np.array(size) * scale)]
        cv2.rectangle(cell, corners[0], corners[1], (62, 62, 62), -1)
        try:
            candidates = placement.place(context, size, 3)
            words = " ".join(f"{c.score:.2f}" for c in candidates)
        except NoCandidate as error:
            candidates, words = [], error.code
        people = [(s, (190, 190, 190), 2) for s in context] + [(target, (0, 170, 0), 1)]
        colours = ((40, 140, 255), (255, 150, 70), (90, 230, 255))
        people += [(c.skeleton, k, 3 - i) for i, (c, k) in enumerate(zip(candidates, colours, strict=False))][
            ::-1
        ]
        for skeleton, colour, width in people:
            xy = skeleton.xy * scale + offset
            for a, b in LIMBS:
                if skeleton.visible[a] and skeleton.visible[b]:
                    ends = [tuple(int(v) for v in np.round(xy[j] * 8)) for j in (a, b)]
                    cv2.line(cell, ends[0], ends[1], colour, width, cv2.LINE_AA, 3)
        cv2.putText(cell, words, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        cells.append(cell)
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack([r for r in rows if r.shape == rows[0].shape]))
