# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import BadInput
from shared.skeleton import (
    FACE,
    JOINTS,
    L_SHOULDER,
    LIMBS,
    MIRROR,
    NECK,
    NUM_JOINTS,
    R_SHOULDER,
    Skeleton,
    people_from_json,
    people_to_json,
)

coordinates = hnp.arrays(np.float64, (NUM_JOINTS, 2), elements=st.floats(-1e4, 1e4))
visibilities = hnp.arrays(np.bool_, (NUM_JOINTS,))


@given(coordinates, visibilities)
def test_openpose_round_trip(xy: np.ndarray, visible: np.ndarray) -> None:
    person = Skeleton(xy, visible)
    (back,) = people_from_json(people_to_json([person]))
    assert np.array_equal(back.visible, person.visible)
    assert np.abs(back.xy - person.xy).max() <= 1e-4
    assert (back.xy[~visible] == 0).all()


@given(coordinates, visibilities)
def test_mirrored_twice_is_the_same(xy: np.ndarray, visible: np.ndarray) -> None:
    person = Skeleton(xy, visible)
    back = person.mirrored(640).mirrored(640)
    assert np.allclose(back.xy, person.xy)
    assert np.array_equal(back.visible, person.visible)


def test_mirror_exchanges_only_left_and_right() -> None:
    assert [JOINTS[i].replace("left", "?").replace("right", "?") for i in MIRROR] == [
        name.replace("left", "?").replace("right", "?") for name in JOINTS
    ]
    assert [JOINTS[i] for i in FACE] == ["nose", "right_eye", "left_eye", "right_ear", "left_ear"]
    assert len({joint for limb in LIMBS for joint in limb}) == NUM_JOINTS


def test_coco_neck_is_mid_shoulder() -> None:
    xy = np.arange(34, dtype=float).reshape(17, 2)
    visible = np.ones(17, bool)
    person = Skeleton.from_coco(xy, visible, np.linspace(0.1, 0.9, 17))
    assert np.allclose(person.xy[NECK], (person.xy[R_SHOULDER] + person.xy[L_SHOULDER]) / 2)
    back = person.to_coco()
    assert np.allclose(back[0], xy)
    visible[5] = False
    assert not Skeleton.from_coco(xy, visible).visible[NECK]


def test_the_arrays_cannot_be_changed() -> None:
    person = Skeleton(np.ones((18, 2)), np.ones(18, bool))
    with pytest.raises(ValueError, match="read-only"):
        person.xy[0, 0] = 5


def test_a_joint_that_is_not_finite_is_named() -> None:
    xy = np.ones((18, 2))
    xy[4, 0] = np.nan
    with pytest.raises(BadInput, match="right_wrist is not a finite number"):
        Skeleton(xy, np.ones(18, bool))
    assert Skeleton(xy, np.arange(18) != 4).visible.sum() == 17


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "pose.json: is not OpenPose JSON"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"people": [{}]}', "missing required field `pose_keypoints_2d`"),
        (
            json.dumps({"people": [{"pose_keypoints_2d": [0] * 75}]}).encode(),
            "person 0: has 75 numbers, not 54",
        ),
        (b"[" * 100_000, "pose.json: is not OpenPose JSON"),
    ],
)
def test_bad_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        people_from_json(data, "pose.json")
    assert message in str(caught.value)
