# SPDX-License-Identifier: Apache-2.0
"""What placement is measured by: the measures themselves, and the installed network against random people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import anatomy, placement, placement_eval
from models.coco import Examples, read_coco
from models.placement_eval import GROUPS, Scenes


@pytest.fixture(scope="module")
def val(shared_data: Path) -> Examples:
    return read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)


@pytest.fixture(scope="module")
def scenes(val: Examples) -> Scenes:
    return Scenes.of(val, np.random.default_rng(0).permutation(len(val))[:300])


def test_halves_are_equal_and_share_no_image(scenes: Scenes) -> None:
    a, b = placement_eval.halves(scenes.image, 3)
    assert len(a) == len(b) > 0.4 * len(scenes)
    assert not set(scenes.image[a]) & set(scenes.image[b])


def test_groups_are_all_features(scenes: Scenes) -> None:
    columns = placement_eval.features(scenes.real, scenes)
    assert sorted(i for g in GROUPS.values() for i in range(g.start, g.stop)) == list(range(columns.shape[1]))
    assert np.isfinite(columns).all()


def test_people_of_other_scenes_are_told_from_real_ones_by_their_place_alone(scenes: Scenes) -> None:
    moved = np.roll(scenes.real, 7, axis=0)
    row = placement_eval.measure(moved[:, None], scenes, seeds=1)
    assert row.c2st is not None
    assert row.c2st > 0.58
    assert row.c2st_pose is not None
    assert row.c2st_pose < 0.58
    ceiling = placement_eval.measure(moved[:, :0], scenes, seeds=1)
    assert ceiling.c2st is not None
    assert ceiling.c2st < 0.57
    assert (ceiling.best_of_8, ceiling.scale_error) == (None, None)
    assert {name: of["scenes"] for name, of in row.by_people.items()} == {
        name: int(((scenes.present.sum(1) >= low) & (scenes.present.sum(1) <= high)).sum())
        for name, (low, high) in placement_eval.CROWDS.items()
        if row.by_people.get(name)
    }


def test_the_true_person_is_hit_and_half_a_head_aside_is_not(scenes: Scenes) -> None:
    known = scenes.real[..., 2:]
    assert (placement_eval.best_shares(scenes.real[:, None], scenes.real) == 1).all()
    assert np.nanmax(placement_eval.scale_errors(scenes.real, scenes.real)) == 0
    stature = anatomy.installed().stature(scenes.real)[:, None]
    aside = scenes.real.copy()
    aside[..., 0] += 1.01 * placement_eval.HALF_HEAD * stature * known[..., 0]
    assert placement_eval.best_shares(aside[:, None], scenes.real)[np.isfinite(stature[:, 0])].max() == 0


def test_the_nearest_training_scene_of_a_scene_is_itself(val: Examples, scenes: Scenes) -> None:
    nearest = placement_eval.nearest_people(scenes, val)[:, 0]
    # A scene of one image can be another's mirror or twin only by chance.
    assert np.isclose(nearest, scenes.real, atol=1e-6).all((1, 2)).mean() > 0.98


def test_random_people_lie_in_the_frame(val: Examples, scenes: Scenes) -> None:
    people = placement_eval.random_people(scenes, val, 0)
    known = people[..., 2]
    middle = (people[..., :2] * known[..., None]).sum(2) / known.sum(2)[..., None]
    assert (np.abs(middle) <= scenes.aspect[:, None] / 2 + 1e-6).all()


def test_the_network_beats_random_people(val: Examples) -> None:
    index = np.random.default_rng(1).permutation(len(val))[:100]
    scenes = Scenes.of(val, index)
    drawn = placement_eval.draw_all(placement.sampler("flow"), val, index, 0)
    random = placement_eval.random_people(scenes, val, 0)
    network, baseline = (placement_eval.measure(d, scenes, classify=False) for d in (drawn, random))
    assert network.best_of_8 is not None
    assert baseline.best_of_8 is not None
    assert network.best_of_8 > 1.5 * baseline.best_of_8
    assert network.scale_error is not None
    assert baseline.scale_error is not None
    assert network.scale_error < 0.7 * baseline.scale_error
    assert network.bones is not None
    assert network.bones > 0.95
    assert network.overlap is not None
    real = placement_eval.overlaps(scenes.real, scenes.context).mean()
    assert abs(network.overlap - real) < 0.08


def test_a_crowd_has_so_many_people_inside_its_frame() -> None:
    for number in (3, 30):
        people, size = placement_eval.crowd(number)
        xy = np.array([person.xy for person in people])
        assert len(people) == number
        assert (xy >= 0).all()
        assert (xy <= size).all()
