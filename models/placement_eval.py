# SPDX-License-Identifier: Apache-2.0
"""Measures placement on leave-one-out scenes: each number is defined where it is computed.

Rows are draws of a network without any ranking ("one draw for each scene"), what `Placement` puts first ("first
candidate"), and for comparison real people and random people of the training set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.coco import Examples
from models.placement import Placement, Sampler, sampler
from shared.errors import NoCandidate
from shared.skeleton import LIMBS

Floats = NDArray[np.float64]

HALF_HEAD = 0.095
"""Half the height of a head in statures: a person is 1.43 statures tall and 7.5 heads."""

POSE_FEATURES = 18 * 3


@dataclass(frozen=True)
class Row:
    """What was measured of one way to place; NaN where it was not.

    Args:
        c2st, c2st_pose, c2st_place (`float`): accuracy of gradient-boosted trees that tell drawn from real
            people, 5-fold: by all features, by the pose and known joints, by place and size among the others.
            0.5: cannot be told; real against real gives the floor.
        scale_error (`float`): median of abs(log(stature / true stature)).
        overlap (`float`): share of people whose box of the torso meets another's.
        bones (`float`): share of bones with a length within the 1st to 99th percentile of people.
        best_of_8 (`float`): best share, over 8 draws, of the true person's joints within half a head.
    """

    c2st: float = np.nan
    c2st_pose: float = np.nan
    c2st_place: float = np.nan
    scale_error: float = np.nan
    overlap: float = np.nan
    bones: float = np.nan
    best_of_8: float = np.nan


def _torso_boxes(people: Floats) -> Floats:
    """`(..., 4)` of the known shoulders and hips of `(..., 18, 3)`; empty boxes where none is known."""
    torso = people[..., [2, 5, 8, 11], :]
    known = torso[..., 2:] > 0
    low = np.where(known, torso[..., :2], np.inf).min(-2)
    high = np.where(known, torso[..., :2], -np.inf).max(-2)
    return np.concatenate([low, high], -1)


def overlaps(people: Floats, context: Floats) -> NDArray[np.bool_]:
    """Whether the torso's box of each `(N, 18, 3)` person meets that of one of his `(N, K, 18, 3)` context."""
    mine, others = _torso_boxes(people)[:, None], _torso_boxes(context)
    low, high = np.maximum(mine[..., :2], others[..., :2]), np.minimum(mine[..., 2:], others[..., 2:])
    met: NDArray[np.bool_] = np.any((high > low).all(-1), axis=1)
    return met


def features(people: Floats, context: Floats, present: NDArray[np.bool_]) -> Floats:
    """`(N, 54 + 17)`: pose about its own middle and size, known joints; then place and size among the others.

    Args:
        people (`(N, 18, 3)`), context (`(N, K, 18, 3)`), present (`(N, K)`): normalised, see `coco.Batch`.
    """

    def middle(x: Floats) -> tuple[Floats, Floats, Floats]:
        known = x[..., 2]
        number = np.maximum(known.sum(-1), 1)
        root = (x[..., :2] * known[..., None]).sum(-2) / number[..., None]
        spread = (((x[..., :2] - root[..., None, :]) ** 2).sum(-1) * known).sum(-1) / number
        bottom = np.where(known > 0, x[..., 1], -1.0).max(-1)
        return root, np.sqrt(spread) + 1e-4, bottom

    root, scale, bottom = middle(people)
    roots, scales, bottoms = middle(context)
    known = people[..., 2]
    pose = (people[..., :2] - root[:, None]) / scale[:, None, None] * known[..., None]
    hide = np.where(present, 0.0, np.nan)
    distance = np.linalg.norm(roots - root[:, None], axis=-1) / scale[:, None] + hide
    nearest = np.nanargmin(distance, axis=1)
    pick = np.arange(len(people)), nearest
    log_scale, log_scales = np.log(scale), np.log(scales) + hide
    place = [
        root[:, 0],
        root[:, 1],
        bottom,
        log_scale,
        log_scale - np.nanmedian(log_scales, 1),
        log_scale - log_scales[pick],
        np.nanstd(log_scales, 1),
        bottom - bottoms[pick],
        (bottom - bottoms[pick]) / scale,
        np.nanmean(bottoms + hide, 1) - bottom,
        np.nanmin(distance, 1),
        np.nanmedian(distance, 1),
        (root[:, 0] - roots[pick][:, 0]) / scale,
        (root[:, 1] - roots[pick][:, 1]) / scale,
        root[:, 1] - np.nanmean(roots[..., 1] + hide, 1),
        overlaps(people, context * present[..., None, None]).astype(float),
        present.sum(1),
    ]
    return np.concatenate([pose.reshape(len(people), -1), known, np.stack(place, 1)], 1)


def two_sample(real: Floats, drawn: Floats) -> float:
    """Accuracy, 5-fold, of gradient-boosted trees that tell the rows of `drawn` from those of `real`."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_val_score

    x, y = np.concatenate([real, drawn]), np.repeat([0, 1], (len(real), len(drawn)))
    order = np.random.default_rng(0).permutation(len(y))
    trees = HistGradientBoostingClassifier(max_iter=150, random_state=0)
    return float(cross_val_score(trees, x[order], y[order], cv=5).mean())


def closeness(drawn: Floats, real: Floats) -> tuple[float, float]:
    """`Row.best_of_8` (over all draws there are) and `Row.scale_error` of `(N, Q, 18, 3)` for `(N, 18, 3)`."""
    body = anatomy.installed()
    true = body.stature(real)
    distance = np.linalg.norm(drawn[..., :2] - real[:, None, :, :2], axis=-1)
    hit = (distance < HALF_HEAD * true[:, None, None]) & (drawn[..., 2] > 0) & (real[:, None, :, 2] > 0)
    best = (hit.sum(-1) / real[:, None, :, 2].sum(-1)).max(1).mean()
    return float(best), float(np.nanmedian(np.abs(np.log(body.stature(drawn[:, 0]) / true))))


def row(drawn: Floats, real: Floats, context: Floats, present: NDArray[np.bool_]) -> Row:
    """Measures `(N, Q, 18, 3)` draws (Q is 8, or 1 for ranked ones) against real `(N, 18, 3)` people, normalised."""
    body = anatomy.installed()
    first = drawn[:, 0]
    stature = body.stature(first)
    valid, known = body.valid_bones(first, stature)
    a, b = features(real, context, present), features(first, context, present)
    best, scale = closeness(drawn, real)
    return Row(
        two_sample(a, b),
        two_sample(a[:, :POSE_FEATURES], b[:, :POSE_FEATURES]),
        two_sample(a[:, POSE_FEATURES:], b[:, POSE_FEATURES:]),
        scale,
        float(overlaps(first, context * present[..., None, None]).mean()),
        float(valid.sum() / max(known.sum(), 1)),
        best,
    )


def draw_all(network: Sampler, examples: Examples, index: NDArray[np.int64], count: int, seed: int) -> Floats:
    """`(N, count, 18, 3)` draws for the examples, kind and place left open."""
    parts = []
    for first in range(0, len(index), 128):
        batch = examples.batch(index[first : first + 128])
        parts.append(network.draw(batch, seed + first, [-1] * count))
    return np.concatenate(parts)


def evaluate(
    names: tuple[str, ...], val: Examples, train: Examples, scenes: int = 2000, first: int = 0, seed: int = 0
) -> dict[str, Row]:
    """The table: draws of each network, real and random people; `first` > 0 adds what ranking puts first.

    Args:
        names (`str`s): installed networks.
        val, train (`Examples`): val2017 to measure on; train2017 for the random people.
        scenes (`int`): at most so many examples of `val`.
        first (`int`): for so many scenes `Placement` is run and its first candidate measured.
        seed (`int`): of the choice and all draws.
    """
    rng = np.random.default_rng(seed)
    index = rng.permutation(len(val))[:scenes]
    batch = val.batch(index)
    context, present, real = batch.context.astype(float), batch.present, batch.target.astype(float)
    rows = {}
    for name in names:
        drawn = draw_all(sampler(name), val, index, 8, seed)
        rows[name] = row(drawn, real, context, present)
        if first:
            placement = Placement(name)
            people, kept = [], []
            for i in range(min(first, len(index))):
                scene, _, size = val.scene(int(index[i]))
                try:
                    skeleton = placement.place(scene, size, 1, seed)[0].skeleton
                except NoCandidate:
                    continue
                xy = (skeleton.xy - np.array(size) / 2) / max(size)
                people.append(np.c_[xy, skeleton.visible] * skeleton.visible[:, None])
                kept.append(i)
            label = f"{name}, first candidate in {len(kept)} of {min(first, len(index))} scenes"
            # Fewer tell nothing.
            rows[label] = (
                row(np.array(people)[:, None], real[kept], context[kept], present[kept])
                if len(kept) >= 50
                else Row()
            )
    other = train.people[train.target[rng.integers(0, len(train), (len(index), 8))]].astype(float)
    rows["random people of train2017"] = row(other, real, context, present)
    half = len(index) // 2
    a = features(real, context, present)
    p = POSE_FEATURES
    body = anatomy.installed()
    valid, known = body.valid_bones(real, body.stature(real))
    rows["real against real, half each"] = Row(
        two_sample(a[:half], a[half:]),
        two_sample(a[:half, :p], a[half:, :p]),
        two_sample(a[:half, p:], a[half:, p:]),
        overlap=float(overlaps(real, context * present[..., None, None]).mean()),
        bones=float(valid.sum() / known.sum()),
    )
    return rows


def milliseconds(placement: Placement, val: Examples, example: int = 0, repeats: int = 5) -> float:
    """Median time for 8 candidates in one scene."""
    context, _, size = val.scene(example)
    times = []
    for seed in range(repeats + 1):
        began = time.perf_counter()
        placement.place(context, size, 8, seed)
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
