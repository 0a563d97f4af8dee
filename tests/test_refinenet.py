# SPDX-License-Identifier: Apache-2.0
"""Refinement: the paper's network, and what the refiner may and may not touch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import anatomy, refinenet
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


def test_locked_joints_stay_exactly(refiner: Refiner) -> None:
    person = standing()
    bent = person.with_joints([14, 16], person.xy[[14, 16]] + (12, -9))
    refined = refiner.refine(bent, [14, 15])
    assert np.array_equal(refined.xy[[14, 15]], bent.xy[[14, 15]])
    assert not np.array_equal(refined.xy[16], bent.xy[16])
    assert refiner.refine(bent, EYES_AND_EARS) == bent


def test_both_ways_of_training_learn(shared_data: Path, tmp_path: Path) -> None:
    examples = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    file = tmp_path / "val.npz"
    examples.save(file)
    for name, train in (("ours", refinenet.train), ("paper", refinenet.train_as_the_paper)):
        network = train(file, file, tmp_path / name, epochs=3)
        assert isinstance(network, RefineNet)
        lines = [json.loads(line) for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        assert lines[-1]["val"] < lines[0]["val"]
        again = train(file, file, tmp_path / f"{name} again", epochs=3)
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[key]), key
