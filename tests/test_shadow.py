# SPDX-License-Identifier: Apache-2.0
"""The shadow under the feet, on drawn scenes."""

from __future__ import annotations

import numpy as np
import pytest

from models.person import Person
from models.shadow import darkness, with_shadow
from server.poses import upright
from shared.errors import BadInput
from shared.skeleton import L_ANKLE, L_KNEE, R_ANKLE, R_KNEE, Skeleton

GREY = np.full((480, 640, 3), 128, np.uint8)


@pytest.fixture
def pose() -> Skeleton:
    return upright((300.0, 100.0), 240.0)  # ankles at 340


@pytest.fixture
def person(pose: Skeleton) -> Person:
    """A white body that ends at y = 355, in two feet."""
    rgba = np.zeros((300, 120, 4), np.float32)
    rgba[5:240, 20:100] = 1
    for ankle in (R_ANKLE, L_ANKLE):
        x = int(pose.xy[ankle, 0]) - 240
        rgba[240:275, x - 8 : x + 8] = 1
    return Person(rgba, 240, 80)


def test_it_lies_under_the_feet_and_the_person_is_as_before(person: Person, pose: Skeleton) -> None:
    done = with_shadow(person, pose, GREY, [])
    left, top = person.x - done.x, person.y - done.y
    inner = done.rgba[top : top + 300, left : left + 120]
    solid = person.rgba[..., 3] == 1
    assert np.array_equal(inner[solid], person.rgba[solid])
    assert np.array_equal(done.rgba[..., :3].sum(), person.rgba[..., :3].sum())
    shade = done.rgba[..., 3] * (done.rgba[..., 0] == 0)
    y, x = np.nonzero(shade)
    assert y.min() + done.y > 300
    assert abs((x * shade[y, x]).sum() / shade.sum() + done.x - 300) < 3
    sole = 355 - done.y
    ankle = int(pose.xy[R_ANKLE, 0]) - done.x
    assert shade[sole + 1, ankle] > 0.35 > shade[sole + 1, ankle - 30] > shade[sole + 1, ankle - 70]


def test_strength_zero_sitting_and_cut_people_have_none(person: Person, pose: Skeleton) -> None:
    assert with_shadow(person, pose, GREY, [], 0.0) is person
    assert with_shadow(person, pose, GREY[:350], []) is person
    no_feet = Skeleton(pose.xy, [j not in (R_ANKLE, L_ANKLE) for j in range(18)])
    assert with_shadow(person, no_feet, GREY, []) is person
    knees = pose.xy[[R_KNEE, L_KNEE]] - (0, 100)
    sits = pose.with_joints([R_KNEE, L_KNEE], knees).with_joints([R_ANKLE, L_ANKLE], knees + (0, 50))
    assert with_shadow(person, sits, GREY, []) is person
    with pytest.raises(BadInput, match=r"shadow: 1\.5 is not between 0 and 1"):
        with_shadow(person, pose, GREY, [], 1.5)


def test_the_scenes_people_tell_how_dark(person: Person, pose: Skeleton) -> None:
    other = pose.transformed(1.0, (150, 0))
    dark = GREY.copy()
    dark[345:375, 405:500] = 80
    assert darkness(GREY, [other]) == pytest.approx(0.1)
    assert darkness(dark, [other]) > 0.3
    alpha = [with_shadow(person, pose, scene, [other]).rgba[..., 3].sum() for scene in (GREY, dark)]
    assert alpha[0] < alpha[1]
