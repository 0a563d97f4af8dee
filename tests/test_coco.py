# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out examples: nobody in two splits, exact mapping, flips, errors by their words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import coco
from models.coco import CUT, FULL, HIDDEN, Examples, from_frame, read_coco, to_frame
from shared.errors import BadInput

SIDES = st.integers(1, 10_000)
PLACES = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))


@pytest.fixture(scope="module")
def val(shared_data: Path) -> Examples:
    return read_coco(shared_data / "coco" / "coco_person_keypoints_2017_compact.npz", val=True)


@given(SIDES, SIDES, PLACES)
def test_frame_maps_there_and_back(width: int, height: int, place: tuple[float, float]) -> None:
    size = (width, height)
    assert np.allclose(to_frame(from_frame(place, size), size), place, rtol=1e-12, atol=1e-9)


@given(SIDES, SIDES)
def test_aspect_is_kept(width: int, height: int) -> None:
    corners = from_frame([(0, 0), (width, height)], (width, height))
    assert np.allclose(corners[1] - corners[0], coco.aspect((width, height)))
    assert np.isclose(np.abs(corners).max(), 0.5)


def test_examples_leave_the_target_out(val: Examples) -> None:
    assert len(val) > 2000
    assert not (val.context == val.target[:, None]).any()
    image = np.where(val.context >= 0, val.image[val.context], val.image[val.target][:, None])
    assert (image == val.image[val.target][:, None]).all()
    joints17 = np.delete(val.people[..., 2], 1, axis=1).sum(1)
    assert joints17[val.target].min() >= 12
    assert joints17[val.context[val.context >= 0]].min() >= 8
    assert (val.context >= 0).sum(1).min() >= 1


def test_splits_share_no_image(val: Examples, shared_data: Path) -> None:
    train = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=False)
    assert not set(train.image.tolist()) & set(val.image.tolist())


def test_people_are_coco_people_with_a_neck(val: Examples, shared_data: Path) -> None:
    with np.load(shared_data / "coco" / "coco_person_keypoints_2017_compact.npz") as file:
        of_val = np.repeat(file["is_val"], file["count"])
        xy, known = file["xy"][of_val][val.target[7]], file["vis"][of_val][val.target[7]] > 0
    skeleton = val.skeleton(int(val.target[7]))
    xy17, known17, _ = skeleton.to_coco()
    assert np.array_equal(known17, known)
    assert np.allclose(xy17[known], xy[known] + 0.5, atol=1e-3)
    assert np.allclose(skeleton.xy[1], xy17[[5, 6]].mean(0), atol=1e-3)


def test_batch_matches_its_scene(val: Examples) -> None:
    index = np.array([3, 400, 11])
    batch = val.batch(index)
    assert batch.context.shape[:2] == batch.present.shape
    for row, example in enumerate(index):
        context, target, size = val.scene(int(example))
        assert batch.present[row].sum() == len(context)
        visible = target.visible
        assert np.allclose(to_frame(batch.target[row, :, :2], size)[visible], target.xy[visible], atol=1e-3)
        assert np.array_equal(batch.target[row, :, 2] > 0, visible)


def test_a_flip_is_the_skeletons_mirror_image(val: Examples) -> None:
    batch = val.batch(np.arange(2))
    flipped = batch.mirrored(np.array([True, False]))
    context, target, size = val.scene(0)
    mirrored = target.mirrored(size[0])
    assert np.array_equal(flipped.target[0, :, 2] > 0, mirrored.visible)
    known = mirrored.visible
    assert np.allclose(to_frame(flipped.target[0, :, :2], size)[known], mirrored.xy[known], atol=1e-3)
    assert np.array_equal(flipped.context[1], batch.context[1])
    again = flipped.mirrored(np.array([True, False]))
    assert np.array_equal(again.context, batch.context)
    assert len(context) == batch.present[0].sum()


def test_kinds(val: Examples) -> None:
    kind = val.kind
    full = val.people[kind == FULL]
    assert (full[:, list(coco.BODY), 2] == 1).all()
    assert set(np.unique(kind)) == {FULL, CUT, HIDDEN}


def test_prepared_files_read_back(shared_data: Path, tmp_path: Path) -> None:
    counts = coco.prepare(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", tmp_path)
    val = Examples.load(tmp_path / "val.npz")
    assert counts["val"] == len(val) < counts["train"]
    assert np.array_equal(val.batch(np.arange(5)).target, val.people[val.target[:5]])


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.npz: no such file.*walkon data coco"):
        Examples.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(BadInput, match=r"text\.npz: is no COCO keypoint archive.*Give an \.npz with xy"):
        read_coco(tmp_path / "text.npz", val=True)
    np.savez(tmp_path / "other.npz", xy=np.zeros(3))
    with pytest.raises(BadInput, match=r"other\.npz: is no COCO keypoint archive"):
        read_coco(tmp_path / "other.npz", val=True)
