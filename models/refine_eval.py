# SPDX-License-Identifier: Apache-2.0
"""Measures refinement on the real people of val2017, and on placement's candidates.

Jitter is whole pixels, uniform in -size..size on each axis, in the 256-px person frame (160 px from neck to ankles).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models import anatomy, body_refiner, refinenet, weights
from models.body_refiner import BodyNet
from models.coco import Examples
from models.placement import Placement
from models.refinenet import RefineNet
from shared.errors import NoCandidate
from shared.skeleton import FACE, NECK, NUM_JOINTS

Floats = NDArray[np.float64]

SIZES = (0, 1, 2, 3, 5, 8, 12)
_FACE = list(FACE[1:])
_BODY = [joint for joint in range(NUM_JOINTS) if joint not in FACE and joint != NECK]


def evaluate(
    examples: Examples, placement: Placement | None = None, scenes: int = 200, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Rows by jitter, and one of placement's first candidates.

    Of a jitter: `face` is the mean error of eyes and ears in pixels where only they are jittered (the paper's
    setting, the nose is exact), then by `refinenet` alone, by `body` alone, and in the middle of both, as an insert
    has it; `all` the mean error of shoulders, elbows, wrists, hips, knees and ankles where every joint is jittered,
    then by `body`; `bones` the share of bones of human length there, before and after.

    Of candidates: `bones` before and after, and how far `body` moves the joints, in pixels.

    Args:
        examples (`Examples`): of val2017.
        placement (`Placement`, *optional*): whose candidates; no such row without.
        scenes (`int`): how many candidates at most.
        seed (`int`): of the jitter.
    """
    face_network = weights.load(RefineNet, "refine", "refinenet")
    body_network = weights.load(BodyNet, "refine", "body")
    people = body_refiner.known_people(examples)
    known = people[..., 2] > 0
    with_face = known[:, FACE[0]] & (known[:, list(FACE)].sum(1) >= refinenet.MIN_JOINTS)
    rng = np.random.default_rng(seed)
    rows = {}
    for size in SIZES:
        noise = rng.integers(-size, size + 1, people[..., :2].shape) * known[..., None]
        faces, all_ = people.copy(), people.copy()
        faces[:, _FACE, :2] += noise[:, _FACE]
        all_[..., :2] += noise
        only, exact = faces[with_face], people[with_face]
        by_face, by_body = by_refinenet(face_network, only), body_refiner.refined(body_network, only)
        cleaned = body_refiner.refined(body_network, all_)
        rows[f"jitter {size} px"] = {
            "face": _error(only, exact, _FACE),
            "face refinenet": _error(by_face, exact, _FACE),
            "face body": _error(by_body, exact, _FACE),
            "face both": _error((by_face + by_body) / 2, exact, _FACE),
            "all": _error(all_, people, _BODY),
            "all body": _error(cleaned, people, _BODY),
            "bones": _bones(all_),
            "bones body": _bones(cleaned),
        }
    if placement is not None:
        drawn = _candidates(placement, examples, scenes, seed)
        cleaned = body_refiner.refined(body_network, drawn)
        rows["candidates"] = {
            "bones": _bones(drawn),
            "bones body": _bones(cleaned),
            "moved": _error(cleaned, drawn, list(range(NUM_JOINTS))),
        }
    return rows


def by_refinenet(network: RefineNet, people: Floats) -> Floats:
    """`(N, 18, 3)` people with their eyes and ears as the paper's network has them."""
    stature = anatomy.installed().stature(people)
    refined = refinenet.answer(network, refinenet.faces(people, stature))
    refined = refined * (refinenet.SPAN / refinenet.STATURE * stature)[:, None, None] + people[:, :1, :2]
    out = people.copy()
    out[:, _FACE, :2] = refined[:, 1:] * (people[:, _FACE, 2:] > 0)
    return out


def _error(people: Floats, true: Floats, joints: list[int]) -> float:
    distance = np.linalg.norm(people[:, joints, :2] - true[:, joints, :2], axis=-1)
    return round(float(distance[true[:, joints, 2] > 0].mean()), 2)


def _bones(people: Floats) -> float:
    body = anatomy.installed()
    valid, known = body.valid_bones(people, body.stature(people))
    return round(float(valid.sum() / known.sum()), 3)


def _candidates(placement: Placement, examples: Examples, scenes: int, seed: int) -> Floats:
    """The first candidates `(N, 18, 3)` of so many scenes, brought to 160 px of stature."""
    found = []
    for example in np.random.default_rng(seed).permutation(len(examples))[:scenes]:
        context, _, size = examples.scene(int(example))
        try:
            skeleton = placement.place(context, size, 1)[0].skeleton
        except NoCandidate:
            continue
        found.append(np.c_[skeleton.xy, skeleton.visible])
    people = np.array(found, dtype=np.float64).reshape(-1, NUM_JOINTS, 3)
    people[..., :2] *= (refinenet.STATURE / anatomy.installed().stature(people))[:, None, None]
    return people
