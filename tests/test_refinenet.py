# SPDX-License-Identifier: Apache-2.0
"""Refinement: the paper's network, and what the refiner may and may not touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models import anatomy, refinenet, weights
from models.coco import read_coco
from models.refinenet import RefineNet, Refiner
from shared.skeleton import FACE, NOSE, Skeleton

EYES_AND_EARS = list(FACE[1:])


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner()


def standing(stature: float = 200.0) -> Skeleton:
    """An average person seen from the front."""
    template = np.array(anatomy.installed().template)
    return Skeleton(template * stature + (400, 150), np.ones(18))


def test_has_the_papers_size() -> None:
    assert sum(p.numel() for p in RefineNet().parameters()) == 35_722


def test_touches_only_known_eyes_and_ears(refiner: Refiner) -> None:
    person = standing()
    bent = person.with_joints([14], person.xy[[14]] + (12, -9))
    visible = bent.visible.copy()
    visible[17] = False
    bent = Skeleton(bent.xy, visible, bent.score)
    refined = refiner.refine(bent)
    others = [j for j in range(18) if j not in EYES_AND_EARS]
    assert np.array_equal(refined.xy[others], bent.xy[others])
    assert np.array_equal(refined.visible, bent.visible)
    assert np.array_equal(refined.score, bent.score)
    true, before, after = (s.xy[14] for s in (person, bent, refined))
    assert np.linalg.norm(after - true) < 0.6 * np.linalg.norm(before - true)


def test_leaves_an_average_face_alone(refiner: Refiner) -> None:
    person = standing()
    moved = np.linalg.norm(refiner.refine(person).xy - person.xy, axis=1).max()
    assert moved < 0.01 * 200


def test_scale_and_place_do_not_matter(refiner: Refiner) -> None:
    person = standing()
    bent = person.with_joints([15, 16], person.xy[[15, 16]] + (-8, 10))
    moved = refiner.refine(bent.transformed(0.37, (55.0, -12.0)))
    assert np.allclose(moved.xy, refiner.refine(bent).transformed(0.37, (55.0, -12.0)).xy, atol=1e-3)


@pytest.mark.parametrize("missing", [[NOSE], EYES_AND_EARS, list(range(2, 14))])
def test_without_what_it_needs_nothing_changes(refiner: Refiner, missing: list[int]) -> None:
    person = standing()
    visible = np.ones(18, bool)
    visible[missing] = False
    partial = Skeleton(person.xy, visible)
    assert refiner.refine(partial) == partial
    nobody = Skeleton(np.zeros((18, 2)), np.zeros(18))
    assert refiner.refine(nobody) == nobody


def test_halves_a_large_jitter_and_spares_exact_faces(shared_data: Path) -> None:
    val = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    table = refinenet.evaluate(weights.load(RefineNet, "refine", "refinenet"), val)
    assert table["5"]["network"] < 0.55 * table["5"]["before"]
    assert table["5"]["guarded"] < 0.65 * table["5"]["before"]
    assert table["0"]["guarded"] < 0.8
    # The card's constant is the installed network's.
    assert abs(table["0"]["network"] - refinenet.OWN_ERROR) < 0.1


def test_training_learns(shared_data: Path, tmp_path: Path) -> None:
    examples = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    examples.save(tmp_path / "val.npz")
    torch.manual_seed(1)
    untrained = refinenet.evaluate(RefineNet().eval(), examples)["5"]["network"]
    trained = refinenet.train(tmp_path / "val.npz", tmp_path / "val.npz", tmp_path, epochs=3)
    assert refinenet.evaluate(trained, examples)["5"]["network"] < 0.95 * untrained
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 3
