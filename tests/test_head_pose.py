# SPDX-License-Identifier: Apache-2.0
"""Which way a head faces is read off its joints, and an ellipsoid says where its other views come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.body import Body, complete
from models.head_pose import HeadMaps, angle_between, corrected, head_pose
from shared.head import JOINTS, turned_head, turns
from shared.skeleton import FACE, L_EAR, L_EYE, L_HIP, NECK, NOSE, R_EAR, R_EYE, R_HIP, Skeleton
from tests.test_motion import STANDING

EVERY = torch.ones(1, 18, dtype=torch.bool)


def body(yaw: float, pitch: float = 0.0, tilt: float = 0.0, missing: tuple[int, ...] = ()) -> Body:
    """Somebody whose head is turned by these degrees, 57 px a torso."""
    xy = STANDING.copy()
    joints = JOINTS @ turns(math.radians(yaw), math.radians(pitch)).T
    tilted = (joints[:, 0] - 1j * joints[:, 1]) * np.exp(1j * math.radians(tilt))
    places = tilted - tilted[-1]
    xy[[*FACE, NECK]] = np.stack([places.real, places.imag], 1) * 75 + STANDING[NECK]
    known = EVERY.clone()
    known[:, list(missing)] = False
    return complete(torch.tensor(xy, dtype=torch.float32)[None], known)


@settings(deadline=None, max_examples=40)
@given(st.integers(-180, 179), st.integers(-30, 30), st.integers(-30, 30))
def test_the_direction_of_a_head_is_found(yaw: int, pitch: int, tilt: int) -> None:
    pose = head_pose(body(yaw, pitch, tilt))
    true = torch.from_numpy(turns(math.radians(yaw), math.radians(pitch))).float()
    off = torch.rad2deg((pose.turned[0, 2] * true[2]).sum().clamp(-1, 1).acos())
    assert off < 15, f"{off:.0f} degrees"


@pytest.mark.parametrize(
    ("missing", "least", "most"),
    [
        ((L_EYE, L_EAR), 0, 110),  # a face of which one side is hidden
        ((NOSE, R_EYE, L_EYE), 100, 180),  # nothing but ears: the back of a head
        (FACE, 150, 180),
    ],
)
def test_what_is_not_seen_tells_too(missing: tuple[int, ...], least: float, most: float) -> None:
    yaw = 60 if L_EYE in missing and NOSE not in missing else 180
    angle = torch.rad2deg(angle_between(head_pose(body(yaw, missing=missing)), head_pose(body(0))))
    assert least <= angle.item() <= most


def test_a_pose_is_corrected_by_a_turn_a_size_and_a_shift() -> None:
    frontal, turned, raised = head_pose(body(0)), head_pose(body(40)), head_pose(body(0, -30))
    for wanted, turn in ((turned, (0.0, math.radians(40), 0.0)), (raised, (-math.radians(30), 0.0, 0.0))):
        before, after = (angle_between(wanted, pose) for pose in (frontal, corrected(frontal, *by(*turn))))
        assert torch.rad2deg(before).item() > 20
        assert torch.rad2deg(after).item() < 12
    larger = corrected(frontal, *by(larger=math.log(1.5), move=(3.0, -4.0)))
    torch.testing.assert_close(larger.tilt, 1.5 * frontal.tilt)
    torch.testing.assert_close(larger.origin, frontal.origin + (3 - 4j))
    torch.testing.assert_close(larger.turned, frontal.turned)


def by(
    x: float = 0.0, y: float = 0.0, z: float = 0.0, larger: float = 0.0, move: tuple[float, float] = (0, 0)
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor([[x, y, z]]), torch.tensor([larger]), torch.tensor([move], dtype=torch.float32)


def test_a_tilt_in_the_picture_is_no_turn() -> None:
    angle = angle_between(head_pose(body(20, 0, -25)), head_pose(body(20, 0, 25)))
    assert torch.rad2deg(angle).item() < 10


def test_the_same_head_comes_from_where_it_is() -> None:
    maps = HeadMaps(head_pose(body(30)), head_pose(body(30)))
    head = STANDING[NOSE] + np.random.default_rng(0).uniform(-12, 12, (50, 2))
    points = torch.tensor(head, dtype=torch.float32)[None]
    places = maps.at(points)
    torch.testing.assert_close(places.direct, points, atol=2.0, rtol=0)
    assert (places.faces > 0).all(), "all that is seen is seen"


def test_a_turned_head_shows_its_joints_and_the_other_side_mirrored() -> None:
    source, target = body(0), body(40)
    places = HeadMaps(head_pose(source), head_pose(target)).at(target.xy[:, list(FACE)])
    joints = source.xy[:, list(FACE)]
    seen = [0, 1, 3]  # nose, right eye and ear: turned to its left, a head shows its right side
    assert (places.direct - joints)[0, seen].abs().max() < 8
    assert (places.mirrored - joints[:, [0, 2, 1, 4, 3]])[0, seen].abs().max() < 8
    assert (places.faces[0, :2] > 0.3).all()


def test_nothing_of_a_face_is_seen_from_behind() -> None:
    places = HeadMaps(head_pose(body(180)), head_pose(body(0))).at(body(0).xy[:, [NOSE, R_EYE, L_EYE]])
    assert (places.faces < 0).all()
    assert (places.mirrored_faces < 0).all()
    assert (
        HeadMaps(head_pose(body(0)), head_pose(body(180))).at(body(180).xy[:, [R_EAR]]).on_head > 0.5
    ).all()


def turned(skeleton: Skeleton, degrees: float, down: float = 0.0) -> Skeleton:
    hips = STANDING[[R_HIP, L_HIP]].mean(0)
    return turned_head(skeleton, STANDING[NECK], hips, 75.0, math.radians(degrees), math.radians(down))


def test_a_head_turned_there_and_back_is_the_same() -> None:
    front = Skeleton(STANDING, np.ones(18, bool))
    assert np.allclose(turned(front, 0).xy, front.xy, atol=1e-6)
    aside = turned(front, 25, 10)
    assert aside.visible.all()
    assert np.abs(turned(aside, -25, -10).xy - front.xy).max() < 2.5
    rest = [joint for joint in range(18) if joint not in FACE]
    assert np.array_equal(aside.xy[rest], front.xy[rest])


def test_turning_left_and_down_moves_the_face_there() -> None:
    front = Skeleton(STANDING, np.ones(18, bool))
    left, down = turned(front, 40), turned(front, 0, 25)
    assert left.xy[NOSE, 0] > front.xy[NOSE, 0] + 5, "its left is our right"
    assert not left.visible[L_EAR], "the ear on that side is behind the head"
    assert left.visible[[R_EAR, R_EYE, L_EYE, NOSE]].all()
    assert down.xy[NOSE, 1] > front.xy[NOSE, 1] + 3


def test_steps_all_the_way_round_show_the_back_of_the_head_and_the_face_again() -> None:
    person, seen = Skeleton(STANDING, np.ones(18, bool)), []
    for _ in range(24):
        person = turned(person, 15)
        seen.append(bool(person.visible[NOSE]))
    assert 4 <= seen.count(False) <= 14
    assert seen[0]
    assert seen[-1], "a whole turn comes back"
