# SPDX-License-Identifier: Apache-2.0
"""The sun's shadow: found on drawn grounds and in real photos, and painted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.images import load_picture
from models.judgement import TALL
from models.person import Person
from models.pose import PoseEstimator
from models.shadow import with_shadow
from models.sun import Sun, feet_of, find, shade
from server.poses import upright
from shared.skeleton import Skeleton

PEOPLE = [upright((200.0, 80.0), 160.0), upright((500.0, 120.0), 200.0)]


def scene(people: list[Skeleton], way: tuple[float, float], level: int = 90) -> np.ndarray:
    """A grey ground on which everybody throws a shadow, `way` heights far."""
    rgb = np.full((600, 900, 3), 170, np.uint8)
    for person in people:
        height, feet = feet_of(person)
        start = np.mean(feet, axis=0) + (0, 0.06 * height)
        ends = [tuple(int(v) for v in np.round(at)) for at in (start, start + np.array(way) * TALL * height)]
        cv2.line(rgb, ends[0], ends[1], (level, level, level), round(0.12 * height))
    return rgb


@pytest.mark.parametrize("way", [(0.9, 0.2), (-0.8, -0.15), (0.5, 0.6), (-0.8, 0.15)])
def test_it_is_found_where_all_shadows_run_alike(way: tuple[float, float]) -> None:
    sun = find(scene(PEOPLE, way), PEOPLE)
    assert sun is not None
    found = np.array([sun.across, sun.down])
    assert np.linalg.norm(found - way) < 0.1
    assert found @ way / np.linalg.norm(found) / np.linalg.norm(way) > 0.98
    lit, dark = (((v / 255 + 0.055) / 1.055) ** 2.4 for v in (170, 90))
    assert sun.dark == pytest.approx(1 - dark / lit, abs=0.08)
    assert sun.light == pytest.approx(lit, abs=0.02)


def test_it_is_as_dark_as_the_middle_of_a_shadow_not_as_between_its_legs() -> None:
    rgb = np.full((600, 900, 3), 170, np.uint8)
    for person in PEOPLE:
        height, ankles = feet_of(person)
        way = np.array((0.9, 0.2)) * TALL * height
        right, left = (np.array(ankle) + (0, 0.06 * height) for ankle in ankles)
        hips = (right + left + way) / 2
        for start, end, width in ((right, hips, 0.05), (left, hips, 0.05), (hips, hips + way / 2, 0.13)):
            ends = [tuple(int(v) for v in np.round(at)) for at in (start, end)]
            cv2.line(rgb, ends[0], ends[1], (90, 90, 90), round(width * height))
    sun = find(cv2.GaussianBlur(rgb, (0, 0), 3), PEOPLE)
    assert sun is not None
    lit, dark = (((v / 255 + 0.055) / 1.055) ** 2.4 for v in (170, 90))
    assert sun.dark == pytest.approx(1 - dark / lit, abs=0.03)


def test_large_pictures_show_the_same() -> None:
    small = scene(PEOPLE, (0.9, 0.2))
    sun = find(small, PEOPLE)
    assert sun is not None
    large = find(cv2.resize(small, None, fx=6, fy=6), [person.transformed(6.0) for person in PEOPLE])
    assert large is not None
    assert (large.across, large.down) == (
        pytest.approx(sun.across, abs=0.1),
        pytest.approx(sun.down, abs=0.05),
    )
    body = np.zeros((100, 200), np.float32)
    body[10:90, 40:60] = 1
    taken = shade(sun, body, (100.0, 100.0), 190.0, 90.0, small, [])
    enlarged = cv2.resize(body, None, fx=6, fy=6)
    more = shade(sun, enlarged, (600.0, 600.0), 1140.0, 540.0, cv2.resize(small, None, fx=6, fy=6), [])
    assert more.shape == enlarged.shape
    assert np.abs(cv2.resize(more, (200, 100), interpolation=cv2.INTER_AREA) - taken).mean() < 0.01


def test_stains_and_things_and_shadows_that_disagree_are_no_sun() -> None:
    assert find(np.full((600, 900, 3), 170, np.uint8), PEOPLE) is None
    assert find(scene(PEOPLE, (0.9, 0.2), level=10), PEOPLE) is None, "too dark for a shadow"
    assert find(scene(PEOPLE, (0.25, 0.1)), PEOPLE) is None, "any light has one so short"
    band = np.full((600, 900, 3), 170, np.uint8)
    band[235:262] = band[330:360] = 90
    assert find(band, PEOPLE) is None, "stripes of the ground"
    one, other = (scene(PEOPLE[k : k + 1], way) for k, way in ((0, (0.9, 0.2)), (1, (-0.9, 0.2))))
    assert find(np.minimum(one, other), PEOPLE) is None, "two directions"
    assert find(scene(PEOPLE, (0.9, 0.2)), []) is None


def test_of_real_photos_one_shows_a_sun(shared_data: Path) -> None:
    found = {}
    for path in sorted((shared_data / "photos").glob("*.jpg")):
        rgb = load_picture(path).rgb
        if sun := find(rgb, PoseEstimator().detect(rgb)):
            found[path.stem] = sun
    assert list(found) == ["ccby_000000174375"], "a tennis court at noon"
    (sun,) = found.values()
    assert (sun.across, sun.down) == (pytest.approx(0.68, abs=0.1), pytest.approx(0.16, abs=0.05))


def test_it_falls_on_lit_ground_only() -> None:
    ground = np.full((600, 900, 3), 170, np.uint8)
    ground[:, 420:460] = 90  # a shadow that is there already
    sun = Sun(0.9, 0.3, 0.6, 0.4)
    body = np.zeros((400, 700), np.float32)
    body[100:300, 100:150] = 1  # x 200..250, y 250..450 of the scene
    stands = upright((600.0, 300.0), 200.0)
    taken = shade(sun, body, (100, 150), 450.0, 200.0, ground, [stands])
    y, x = np.nonzero(taken > 0.35)  # dark 0.6 is an alpha of 0.44
    assert x.min() + 100 == pytest.approx(220, abs=25)
    assert y.min() + 150 >= 445
    # The body's top, 200 px above ground, throws 180 px to the right and 60 px down; the other shadow hides its end.
    assert (x.max() + 100, y.max() + 150) == (pytest.approx(410, abs=15), pytest.approx(510, abs=8))
    assert taken[:, 425 - 100 : 455 - 100].max() < 0.1 < taken[:, 380 - 100 : 410 - 100].max()
    assert shade(sun, body, (100, 150), 450.0, 200.0, ground // 2, []).max() == 0, (
        "the place lies in the shade"
    )
    before = upright((330.0, 360.0), 140.0)
    hidden = shade(sun, body, (100, 150), 450.0, 200.0, ground, [before])
    assert hidden[492 - 150, 330 - 100] < 0.2 < taken[492 - 150, 330 - 100]


@pytest.mark.parametrize("down", [-0.08, 0.0])
def test_a_flat_one_has_no_steps_and_no_gaps(down: float) -> None:
    body = np.zeros((240, 320), np.float32)
    body[20:220, 50:56] = body[20:220, 66:72] = 1  # two legs
    ground = np.full((240, 320, 3), 170, np.uint8)
    taken = shade(Sun(1.0, down, 0.6, 0.4), body, (0, 0), 220.0, 150.0, ground, [])
    along = taken.max(0)[90:240]
    assert along.min() > 0.25
    assert np.abs(np.diff(along)).max() < 0.01
    middle = (taken * np.arange(240)[:, None]).sum(0)[90:240] / taken.sum(0)[90:240]
    line = np.polyval(np.polyfit(np.arange(150), middle, 1), np.arange(150))
    assert np.abs(middle - line).max() < 0.2, "pixels"


def test_the_layer_has_room_for_it() -> None:
    pose = upright((350.0, 100.0), 240.0)
    rgba = np.zeros((300, 120, 4), np.float32)
    rgba[5:275, 20:100] = 1
    person = Person(rgba, 290, 80)
    people = [upright((150.0, 80.0), 160.0), upright((700.0, 120.0), 200.0)]
    ground = scene(people, (0.9, 0.2))
    done = with_shadow(person, pose, ground, people)
    none = with_shadow(person, pose, np.full_like(ground, 170), people)
    _, x = np.nonzero(done.rgba[..., 3] > 0.3)
    assert x.max() + done.x > 390 + 0.7 * 270
    _, x = np.nonzero(none.rgba[..., 3] > 0.3)
    assert x.max() + none.x < 390 + 0.2 * 270
    half = with_shadow(person, pose, ground, people, 0.5)
    far = (slice(None), slice(int(390 + 0.4 * 270) - done.x, None))
    assert half.rgba[..., 3][far].max() == pytest.approx(done.rgba[..., 3][far].max() / 2, abs=0.02)
