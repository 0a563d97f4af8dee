# SPDX-License-Identifier: Apache-2.0
"""The whole job judged on real photos: does it end well, and is the person found again where it was put?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.anatomy import installed
from models.draw import CHOSEN, CONTEXT, draw_people
from models.finish import composite
from models.ground import GroundLooks
from models.images import Picture, load_picture, save_png
from models.judgement import figures
from models.metrics import pckh
from server.pipeline import Insertion, Pipeline
from shared.errors import WalkOnError
from shared.skeleton import L_ANKLE, R_ANKLE, Skeleton

_TILE = 420  # height of a picture on the contact sheet, in pixels


@dataclass
class Outcome:
    """One pair of scene and actor: the insertion, or the words of the error."""

    scene: str
    actor: str
    error: str = ""
    found: bool = False
    correct: int = 0
    total: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def evaluate_inserts(
    scenes: Sequence[Path],
    actors: Sequence[Path],
    pairs: int,
    pipeline: Pipeline,
    sheet: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Inserts actors into scenes and finds them again.

    Args:
        scenes, actors (sequences of `Path`): photos; each serves equally often.
        pairs (`int`): how many pairs to try.
        pipeline (`Pipeline`): what is judged.
        sheet (`Path`, *optional*): a PNG of all results: skeletons beside the result, the error's words else.
        seed (`int`): of the insertions.

    Returns:
        `pairs`, `errors` (words of each), `rows` (one for each pair), and for `all` inserted people and for those
        that the product says nothing against (`unwarned`): `inserted` (how many), `pckh` (found again in the result
        by the pose estimator, joints inside the frame and not hidden; who is not found counts as missed), `found`
        (how many of them the estimator sees at all), `pckh_found` (of those), `seconds` (median).
    """
    outcomes, tiles = [], []
    for scene_path, actor_path in _pairs(scenes, actors, pairs):
        outcome = Outcome(scene_path.name, actor_path.name)
        try:
            scene = load_picture(scene_path)
            # Named, so that nothing is said of the photo's other people.
            done = pipeline.insert(scene, load_picture(actor_path), seed=seed, actor_person=0)
        except WalkOnError as error:
            outcome.error = str(error)
        else:
            outcome.seconds = round(sum(done.seconds.values()), 3)
            outcome.warnings = list(done.warnings)
            result = composite(scene.rgb, done.layer)
            outcome.found, outcome.correct, outcome.total = found_again(result, done, pipeline)
            if sheet is not None:
                words = " (warned)" if done.warnings else ""
                tiles.append(_tile(scene, done, result, f"{scene_path.stem} + {actor_path.stem}{words}"))
        outcomes.append(outcome)
    if sheet is not None and tiles:
        save_png(sheet, _stack(tiles))
    inserted = [o for o in outcomes if not o.error]
    return {
        "pairs": len(outcomes),
        "errors": [f"{o.scene} + {o.actor}: {o.error}" for o in outcomes if o.error],
        "all": _summary(inserted),
        "unwarned": _summary([o for o in inserted if not o.warnings]),
        "rows": [vars(o) for o in outcomes],
    }


def _summary(outcomes: Sequence[Outcome]) -> dict[str, float | int | None]:
    """The numbers of some inserted people; None where there is nothing to divide by."""

    def share(some: Sequence[Outcome]) -> float | None:
        total = sum(o.total for o in some)
        return round(sum(o.correct for o in some) / total, 4) if total else None

    again = [o for o in outcomes if o.found]
    seconds = statistics.median(o.seconds for o in outcomes) if outcomes else None
    return {
        "inserted": len(outcomes),
        "pckh": share(outcomes),
        "found": len(again),
        "pckh_found": share(again),
        "seconds": seconds,
    }


def found_again(result: NDArray[np.uint8], done: Insertion, pipeline: Pipeline) -> tuple[bool, int, int]:
    """Whether the inserted person is found in the finished picture `(H, W, 3)`, and PCKh counts (see `pckh`).

    All people of the picture are detected, the estimator also looks into the skeleton's box (as it does at
    pictures of one person, for which PCKh was made), and who is nearest to the skeleton is compared. Joints
    outside the frame or where the layer is transparent (hidden behind nearer people) aren't looked for. Who lies
    further from the skeleton than a sixth of its size, on average of the joints, is somebody else.
    """
    height, width = result.shape[:2]
    x, y = np.floor(done.skeleton.xy).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    alpha = np.zeros((height, width), np.uint8)
    cv2.dilate(_alpha_in(done, (height, width)), np.ones((9, 9), np.uint8), alpha)
    shown = inside.copy()
    shown[inside] = alpha[y[inside], x[inside]] > 0
    truth = Skeleton(done.skeleton.xy, done.skeleton.visible & shown, done.skeleton.score)
    if not truth.visible.any():
        return False, 0, 0
    seen = [*pipeline.detect(result), pipeline.pose.estimate(result, truth.box)]
    nearest = min(seen, key=lambda person: _distance(truth, person))
    found = _distance(truth, nearest) < float(np.ptp(truth.box.reshape(2, 2), axis=0).max()) / 6
    return found, *pckh(truth, nearest)


def _alpha_in(done: Insertion, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The layer's alpha in the scene's frame, as 8 bits."""
    white = np.full_like(done.layer.rgba, 255)
    white[..., 3] = done.layer.rgba[..., 3]
    layer = type(done.layer)(white, done.layer.x, done.layer.y, done.layer.scale)
    return np.ascontiguousarray(composite(np.zeros((*size, 3), np.uint8), layer)[..., 0])


def _distance(truth: Skeleton, person: Skeleton) -> float:
    both = truth.visible & person.visible
    return float(np.linalg.norm(truth.xy - person.xy, axis=1)[both].mean()) if both.any() else float("inf")


def evaluate_ground(photos: Sequence[Path], pipeline: Pipeline, draws: int = 60) -> dict[str, float | int]:
    """Whether the looks of the ground tell real feet from places drawn at random.

    Each person who stands in a photo with others is judged by the ground under the others' feet, and so are `draws`
    places for the same person in the lower 70 % of the frame, many of which are ground as well.

    Args:
        photos (sequence of `Path`): photos of people.
        pipeline (`Pipeline`): finds them.
        draws (`int`, *optional*, defaults to 60): random places for each person.

    Returns:
        `people` (how many were judged), `real` and `least` (mean and lowest belief in their own places) and `random`
        (mean belief in the random ones).
    """
    rng = np.random.default_rng(0)
    body = installed()
    real: list[float] = []
    random: list[float] = []
    for path in photos:
        rgb = load_picture(path).rgb
        context = pipeline.detect(rgb)
        for index, person in enumerate(context):
            joints = np.c_[person.xy, person.visible][None]
            if not (body.stature(joints)[0] > 0 and person.visible[[R_ANKLE, L_ANKLE]].any()):
                continue
            figure = figures(joints, body)
            looks = GroundLooks(rgb, [*context[:index], *context[index + 1 :]])
            if not looks.seen or figure.upright[0] <= 0.3:
                continue
            places = rng.uniform((0.0, 0.3), 1.0, (draws, 2)) * rgb.shape[1::-1]
            real.append(float(looks.belief(figure.ground, figure.stature)[0]))
            random.append(float(looks.belief(places, np.repeat(figure.stature, draws)).mean()))
    if not real:
        return {"people": 0}
    mean = {"real": float(np.mean(real)), "least": min(real), "random": float(np.mean(random))}
    return {"people": len(real)} | {name: round(value, 3) for name, value in mean.items()}


def fit_actors(photos: Sequence[Path], pipeline: Pipeline) -> list[Path]:
    """The photos that the product itself has nothing to say against: the largest person stands, from head to feet."""
    chosen = []
    for path in photos:
        try:
            if pipeline.find_actor(load_picture(path)).fit:
                chosen.append(path)
        except WalkOnError:
            continue
    return chosen


def _pairs(scenes: Sequence[Path], actors: Sequence[Path], pairs: int) -> Iterator[tuple[Path, Path]]:
    for number in range(pairs):
        turn, index = divmod(number, len(scenes))
        scene = scenes[index]
        # Neighbours in a folder are often of one origin: step on by 5, and by 3 more each turn.
        shift = index + 5 + 3 * turn
        actor = actors[shift % len(actors)]
        yield scene, actor if actor != scene or len(actors) == 1 else actors[(shift + 1) % len(actors)]


def _tile(scene: Picture, done: Insertion, result: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    skeletons = draw_people(draw_people(scene.rgb, done.context, [CONTEXT]), [done.skeleton], [CHOSEN])
    both = np.hstack([skeletons, result])
    scale = _TILE / both.shape[0]
    size = (round(both.shape[1] * scale), _TILE)
    tile = cv2.resize(both, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    cv2.putText(tile, title, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def _stack(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Two pairs a row, each pair's pictures side by side."""
    width = max(t.shape[1] for t in tiles)
    padded = [np.pad(t, ((0, 6), (0, width + 6 - t.shape[1]), (0, 0))) for t in tiles]
    if len(padded) % 2:
        padded.append(np.zeros_like(padded[0]))
    return np.vstack([np.hstack(padded[i : i + 2]) for i in range(0, len(padded), 2)])
