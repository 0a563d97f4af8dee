# SPDX-License-Identifier: Apache-2.0
"""Refinement of whole skeletons: jitter goes, exact people stay, locked and missing joints are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models import anatomy, body_refiner, refine_eval, weights
from models.body_refiner import BodyNet, BodyRefiner
from models.coco import Examples, read_coco
from server.pipeline import Pipeline
from shared import messages
from shared.skeleton import Skeleton


@pytest.fixture(scope="module")
def refiner() -> BodyRefiner:
    return BodyRefiner()


@pytest.fixture(scope="module")
def val(shared_data: Path) -> Examples:
    return read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)


def standing(stature: float = 200.0) -> Skeleton:
    """An average person seen from the front."""
    template = np.array(anatomy.installed().template)
    return Skeleton(template * stature + (400, 150), np.ones(18))


def test_a_joint_far_off_comes_back_and_the_rest_stays(refiner: BodyRefiner) -> None:
    person = standing()
    bent = person.with_joints([16], person.xy[[16]] + (-22, -20))
    refined = refiner.refine(bent)
    away = np.linalg.norm(refined.xy - person.xy, axis=1)
    assert away[16] < 0.6 * np.hypot(22, 20)
    assert np.delete(away, 16).max() < 0.03 * 200


def test_an_exact_person_stays(refiner: BodyRefiner) -> None:
    person = standing()
    assert np.linalg.norm(refiner.refine(person).xy - person.xy, axis=1).max() < 0.01 * 200


def test_locked_joints_stay_exactly_and_missing_ones_missing(refiner: BodyRefiner) -> None:
    rng = np.random.default_rng(0)
    person = standing()
    visible = np.ones(18, bool)
    visible[[13, 17]] = False
    rough = Skeleton(person.xy + rng.uniform(-8, 8, (18, 2)), visible, np.full(18, 0.7))
    locked = [0, 4, 9, 10]
    refined = refiner.refine(rough, locked)
    assert np.array_equal(refined.xy[locked], rough.xy[locked])
    assert np.array_equal(refined.visible, visible)
    assert np.array_equal(refined.score, rough.score)
    free = [j for j in range(18) if visible[j] and j not in locked]
    assert (refined.xy[free] != rough.xy[free]).any(1).all()
    assert refiner.refine(rough, list(range(18))) == rough


def test_scale_and_place_do_not_matter(refiner: BodyRefiner) -> None:
    rough = standing().with_joints([4, 16], [(330, 300), (390, 100)])
    moved = refiner.refine(rough.transformed(0.37, (55.0, -12.0)))
    assert np.allclose(moved.xy, refiner.refine(rough).transformed(0.37, (55.0, -12.0)).xy, atol=1e-3)


@pytest.mark.parametrize("known", [[], [0], [0, 14, 15, 16], [0, 1, 14, 15, 16, 17]])
def test_too_little_is_left_alone(refiner: BodyRefiner, known: list[int]) -> None:
    visible = np.zeros(18, bool)
    visible[known] = True
    partial = Skeleton(standing().xy, visible)
    assert refiner.refine(partial) == partial


def test_measured_on_real_people(val: Examples) -> None:
    rows = refine_eval.evaluate(val)
    exact, small, large = (rows[f"jitter {size} px"] for size in (0, 2, 8))
    assert exact["face body"] < 0.2
    assert exact["all body"] < 0.1
    assert exact["face refinenet"] < 0.6
    assert small["all body"] < small["all"]
    assert large["face body"] < 0.6 * large["face"]
    assert large["face refinenet"] < 0.5 * large["face"]
    assert large["all body"] < 0.85 * large["all"]
    assert large["bones body"] > large["bones"] + 0.06


def test_one_answer_whatever_the_batch(val: Examples) -> None:
    network = weights.load(BodyNet, "refine", "body")
    people = body_refiner.known_people(val)[:20]
    whole = body_refiner.refined(network, people)
    singly = np.concatenate([body_refiner.refined(network, people[i : i + 1]) for i in range(20)])
    assert np.allclose(whole, singly, atol=1e-3)


def test_training_learns_and_goes_on(val: Examples, tmp_path: Path) -> None:
    val.save(tmp_path / "val.npz")
    network = body_refiner.train(tmp_path / "val.npz", tmp_path / "whole", steps=12, batch=32)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
    untrained = BodyNet()
    assert any(
        not torch.equal(a, b) for a, b in zip(network.parameters(), untrained.parameters(), strict=True)
    )
    checkpoint = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 12
    more = body_refiner.train(tmp_path / "val.npz", tmp_path / "whole", steps=14, batch=32)
    assert torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["step"] == 14
    assert not torch.equal(more.last.weight, network.last.weight)


def test_locked_joints_stay_over_the_wire() -> None:
    rough = standing().with_joints([4, 16], [(330, 300), (390, 100)])
    asked = messages.Refine(rough.to_openpose(), [4])
    answer, _ = Pipeline().run(asked, [])
    assert isinstance(answer, messages.Refined)
    refined = np.reshape(answer.skeleton, (18, 3))
    assert refined[4].tolist() == asked.skeleton[12:15]
    assert refined[16].tolist() != asked.skeleton[48:51]
