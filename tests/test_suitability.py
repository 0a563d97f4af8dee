# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from models.suitability import fitted, shown_of, suitability, unfit
from server.poses import upright
from shared.skeleton import (
    FACE,
    L_ANKLE,
    L_ELBOW,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    MIRROR,
    NECK,
    R_ANKLE,
    R_KNEE,
    R_SHOULDER,
    Skeleton,
)

SIZE = (1000, 1000)


@pytest.fixture
def standing() -> Skeleton:
    return upright((500.0, 100.0), 600.0)


def test_its_own_view_is_perfect_at_any_size(standing: Skeleton) -> None:
    assert suitability(standing, standing, SIZE) == pytest.approx(1.0)
    assert suitability(standing.transformed(0.3, (5, 9)), standing, SIZE) == pytest.approx(1.0)


def test_turning_round_foreshortening_and_missing_parts_lower_it(standing: Skeleton) -> None:
    behind = Skeleton(
        standing.mirrored(1000).xy[[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]],
        [i not in FACE for i in range(18)],
    )
    assert suitability(standing, behind, SIZE) < 0.3
    knees = standing.xy[[R_KNEE, L_KNEE]] - (0, 120)
    seated = standing.with_joints([R_KNEE, L_KNEE], knees).with_joints([R_ANKLE, L_ANKLE], knees + (0, 160))
    assert suitability(seated, standing, SIZE) < suitability(standing, seated, SIZE) < 1.0
    half = Skeleton(standing.xy, [i not in (R_KNEE, L_KNEE, R_ANKLE, L_ANKLE) for i in range(18)])
    assert suitability(half, standing, SIZE) < 0.5
    # Cut by the frame's lower edge, the same pose needs no legs.
    cut = standing.transformed(1.0, (0, SIZE[1] - standing.xy[8, 1] - 1))
    assert suitability(half, cut, SIZE) > 0.9


def test_nothing_visible_is_unsuitable(standing: Skeleton) -> None:
    assert suitability(Skeleton(np.zeros((18, 2)), np.zeros(18, bool)), standing, SIZE) == 0.0


def _seen_from_behind(person: Skeleton) -> Skeleton:
    order = list(MIRROR)
    return Skeleton(person.xy[order], [i not in FACE for i in range(18)])


def test_the_photos_own_pose_is_kept_in_place_and_size(standing: Skeleton) -> None:
    target = standing.transformed(0.4, (300, 200))
    pose = fitted(standing, target)
    assert np.allclose(pose.xy, target.xy, atol=1e-6)
    assert np.array_equal(pose.visible, target.visible)


def test_limbs_keep_the_actors_lengths_and_turn_a_little(standing: Skeleton) -> None:
    def length(person: Skeleton) -> float:
        return float(np.linalg.norm(person.xy[L_WRIST] - person.xy[L_ELBOW]) / person.height)

    elbow = standing.xy[L_ELBOW]
    bent = standing.with_joints([L_WRIST], [elbow + (40.0, 90.0)])
    pose = fitted(standing, bent)
    before, wanted, after = (
        float(np.degrees(np.arctan2(*(p.xy[L_WRIST] - p.xy[L_ELBOW])))) for p in (standing, bent, pose)
    )
    assert length(pose) == pytest.approx(length(standing), rel=0.02)
    assert before < after < wanted
    raised = standing.with_joints([L_WRIST], [elbow + (30.0, -100.0)])
    assert fitted(standing, raised).xy[L_WRIST] == pytest.approx(standing.xy[L_WRIST], abs=6.0)


def test_feet_and_stature_stay(standing: Skeleton) -> None:
    strides = standing.with_joints([R_ANKLE, L_ANKLE], standing.xy[[R_ANKLE, L_ANKLE]] + [(-60, -8), (50, 0)])
    target = strides.transformed(0.5, (100, 150))
    pose = fitted(standing, target)
    feet = [p.xy[[R_ANKLE, L_ANKLE], 1].max() for p in (target, pose)]
    assert feet[0] == pytest.approx(feet[1], abs=2.0)
    assert pose.height == pytest.approx(target.height, rel=0.06)


def test_an_actor_from_behind_stays_so(standing: Skeleton) -> None:
    behind = _seen_from_behind(standing)
    pose = fitted(behind, standing)
    assert pose.xy[R_SHOULDER, 0] > pose.xy[L_SHOULDER, 0]
    assert not pose.visible[list(FACE)].any()
    assert pose.xy[R_ANKLE, 0] > pose.xy[L_ANKLE, 0]


def test_without_hips_nothing_is_fitted(standing: Skeleton) -> None:
    bust = Skeleton(standing.xy, [i in FACE or i in (NECK, R_SHOULDER, L_SHOULDER) for i in range(18)])
    assert fitted(bust, standing) == standing


def test_an_arm_that_the_photo_hides_is_not_painted_twice(standing: Skeleton) -> None:
    hidden = Skeleton(standing.xy, [j != L_ELBOW for j in range(18)])
    target = standing.transformed(0.5, (40, 60))
    pose = shown_of(hidden, fitted(hidden, target))
    assert not pose.visible[L_ELBOW]
    assert pose.visible[[L_WRIST, L_KNEE]].all()
    assert pose.xy[L_WRIST] == pytest.approx(target.xy[L_WRIST], abs=1e-6)


def test_photos_of_people_who_do_not_stand_are_told(standing: Skeleton) -> None:
    assert unfit(standing) == []
    knees = standing.xy[[R_KNEE, L_KNEE]]
    feet = standing.xy[[R_ANKLE, L_ANKLE]]
    sits = standing.with_joints([R_KNEE, L_KNEE, R_ANKLE, L_ANKLE], np.concatenate([knees, feet]) - (0, 140))
    assert "sits or rides" in unfit(sits)[0]
    folded = np.concatenate([knees + (90, -100), knees + (0, -40)])
    crouches = standing.with_joints([R_KNEE, L_KNEE, R_ANKLE, L_ANKLE], folded)
    assert "crouches, bends or lies" in unfit(crouches)[0]
    headless = Skeleton(standing.xy, [j not in FACE for j in range(18)])
    assert "no head" in unfit(headless)[0]
