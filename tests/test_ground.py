# SPDX-License-Identifier: Apache-2.0
"""Ground told by the looks of what is under people's feet, on drawn scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.anatomy import installed
from models.ground import GroundLooks
from models.judgement import Figures, figures
from server.evaluate import evaluate_ground
from server.pipeline import Pipeline
from server.poses import upright
from shared.skeleton import L_ANKLE, L_KNEE, R_ANKLE, R_KNEE, Skeleton

STATURE = 105.0  # of a person of `upright` who is 120 px from nose to ankles


@pytest.fixture
def scene() -> np.ndarray:
    """A grey floor below a blue wall, and on the floor a brown table: 640 x 480."""
    noise = np.random.default_rng(0).normal(0, 4, (480, 640, 1))
    picture = np.full((480, 640, 3), (140, 138, 135), float)
    picture[:240] = (70, 110, 190)
    picture[300:400, 360:520] = (150, 90, 40)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def person() -> Skeleton:
    return upright((150.0, 230.0), 120.0)  # the feet at about 358


def belief(looks: GroundLooks, *feet: tuple[float, float]) -> list[float]:
    return looks.belief(np.array(feet), np.full(len(feet), STATURE)).tolist()


def test_floor_is_believed_and_table_and_wall_are_not(scene: np.ndarray, person: Skeleton) -> None:
    looks = GroundLooks(scene, [person])
    assert looks.seen
    beside, far, table, wall, below = belief(
        looks, (240, 360), (600, 440), (440, 350), (300, 120), (300, 490)
    )
    assert min(beside, far) > 0.9
    assert max(table, wall) < 0.1
    assert below > 0.9


def test_ground_is_what_can_be_reached(scene: np.ndarray, person: Skeleton) -> None:
    scene[60:160, 420:620] = scene[260:360, 20:220]  # a picture of the floor on the wall
    looks = GroundLooks(scene, [person])
    assert belief(looks, (520, 110))[0] < 0.1


def test_the_same_at_every_size(scene: np.ndarray, person: Skeleton) -> None:
    large = np.kron(scene, np.ones((3, 3, 1), np.uint8))
    looks = GroundLooks(large, [person.transformed(3.0)])
    said = looks.belief(np.array([(720.0, 1080.0), (1320.0, 1050.0)]), np.full(2, 3 * STATURE))
    assert said[0] > 0.9 > 0.1 > said[1]


def test_without_feet_nothing_is_known(scene: np.ndarray, person: Skeleton) -> None:
    cut = Skeleton(person.xy, [j not in (R_KNEE, L_KNEE, R_ANKLE, L_ANKLE) for j in range(18)])
    for context in ([cut], []):
        looks = GroundLooks(scene, context)
        assert not looks.seen
        inside, below = belief(looks, (240, 360), (240, 500))
        assert inside < below == 1.0


def test_doubts_are_told(scene: np.ndarray, person: Skeleton) -> None:
    def at(x: float, y: float) -> Figures:
        return figures(np.c_[person.transformed(1.0, (x, y)).xy, person.visible][None], installed())

    looks = GroundLooks(scene, [person])
    assert looks.warning(at(90, 0)) == ""
    assert "does not look like the ground" in looks.warning(at(290, -8))
    assert "nobody's feet" in GroundLooks(scene, []).warning(at(90, 0))


def test_real_feet_are_believed_more_than_random_places(shared_data: Path) -> None:
    photos = [shared_data / "photos" / f"ccby_{number}.jpg" for number in ("000000442450", "000000174375")]
    said = evaluate_ground(photos, Pipeline())
    assert said["people"] >= 3
    assert said["real"] > 0.8 > 0.6 > said["random"]
    assert evaluate_ground([], Pipeline()) == {"people": 0}
