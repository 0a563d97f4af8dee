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

from models.draw import CHOSEN, CONTEXT, draw_people
from models.finish import composite
from models.images import Picture, load_picture, save_png
from models.metrics import pckh
from server.pipeline import Insertion, Pipeline
from shared.errors import WalkOnError
from shared.skeleton import (
    L_ANKLE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    NOSE,
    R_ANKLE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    Skeleton,
)

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
        `pairs`, `inserted`, `errors` (words of each), `pckh` (of the inserted people, found again in the result by
        the pose estimator, joints inside the frame and not hidden), `found` (how many of them the estimator sees at
        all) and `pckh_found` (of those), `seconds` (median), `rows`.
    """
    outcomes, tiles = [], []
    for scene_path, actor_path in _pairs(scenes, actors, pairs):
        outcome = Outcome(scene_path.name, actor_path.name)
        try:
            scene = load_picture(scene_path)
            done = pipeline.insert(scene, load_picture(actor_path), seed=seed)
        except WalkOnError as error:
            outcome.error = str(error)
        else:
            outcome.seconds = round(sum(done.seconds.values()), 3)
            outcome.warnings = list(done.warnings)
            result = composite(scene.rgb, done.layer)
            outcome.found, outcome.correct, outcome.total = found_again(result, done, pipeline)
            if sheet is not None:
                tiles.append(_tile(scene, done, result, f"{scene_path.stem} + {actor_path.stem}"))
        outcomes.append(outcome)
    if sheet is not None and tiles:
        save_png(sheet, _stack(tiles))
    inserted = [o for o in outcomes if not o.error]
    total = sum(o.total for o in inserted)
    again = [o for o in inserted if o.found]
    return {
        "pairs": len(outcomes),
        "inserted": len(inserted),
        "errors": [f"{o.scene} + {o.actor}: {o.error}" for o in outcomes if o.error],
        "pckh": round(sum(o.correct for o in inserted) / total, 4) if total else None,
        "found": len(again),
        "pckh_found": round(sum(o.correct for o in again) / sum(o.total for o in again), 4)
        if again
        else None,
        "seconds": statistics.median(o.seconds for o in inserted) if inserted else None,
        "rows": [vars(o) for o in outcomes],
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


def standing_actors(photos: Sequence[Path], pipeline: Pipeline) -> list[Path]:
    """The photos that the README asks for: the largest person stands upright and is seen from head to feet."""
    chosen = []
    for path in photos:
        try:
            person = pipeline.find_actor(load_picture(path)).skeleton
        except WalkOnError:
            continue
        if not person.visible[
            [NOSE, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP, R_KNEE, L_KNEE, R_ANKLE, L_ANKLE]
        ].all():
            continue
        shoulders, hips, ankles = (
            person.xy[list(pair)].mean(0)
            for pair in ((R_SHOULDER, L_SHOULDER), (R_HIP, L_HIP), (R_ANKLE, L_ANKLE))
        )
        torso = float(np.linalg.norm(hips - shoulders))
        # Standing, the ankles are about 1.6 torsos below the hips; seated or crouching, less than 1.2.
        if ankles[1] - hips[1] > 1.2 * torso and hips[1] - shoulders[1] > 0.85 * torso:
            chosen.append(path)
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
