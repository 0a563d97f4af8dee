# SPDX-License-Identifier: Apache-2.0
"""One person is cut out, without the neighbours, with the photo's own edges."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.images import load_picture
from models.matte import MatteEstimator, by_colours, enlarge, refine
from models.matte_eval import evaluate
from models.pose import PoseEstimator
from shared.errors import BadInput
from shared.skeleton import LIMBS, Skeleton

Cut = tuple[NDArray[np.uint8], list[Skeleton]]


@pytest.fixture(scope="module")
def estimator() -> MatteEstimator:
    return MatteEstimator()


@pytest.fixture(scope="module")
def photos(request: pytest.FixtureRequest) -> dict[str, Cut]:
    folder = request.getfixturevalue("shared_data") / "photos"
    pose = PoseEstimator()
    pictures = {}
    for number in ("328", "241", "459"):
        rgb = load_picture(folder / f"op_COCO_val2014_{int(number):012d}.jpg").rgb
        pictures[number] = (rgb, pose.detect(rgb))
    return pictures


def on_limbs(matte: NDArray[np.float32], person: Skeleton) -> float:
    """Mean coverage in the middle of a person's limbs; of the face there is only the middle that counts."""
    height, width = matte.shape
    values = []
    for a, b in LIMBS[:12]:
        if person.visible[a] and person.visible[b]:
            x, y = np.floor((person.xy[a] + person.xy[b]) / 2).astype(int)
            if 0 <= x < width and 0 <= y < height:
                values.append(matte[y, x])
    return float(np.mean(values))


@pytest.mark.parametrize("number", ["328", "241"])
def test_each_of_several_people_alone(photos: dict[str, Cut], estimator: MatteEstimator, number: str) -> None:
    rgb, people = photos[number]
    assert len(people) >= 3
    mattes = [estimator.matte(rgb, p, [q for q in people if q is not p]) for p in people[:3]]
    for i, matte in enumerate(mattes):
        assert matte.shape == rgb.shape[:2]
        assert matte.dtype == np.float32
        assert matte.min() >= 0
        assert matte.max() <= 1
        assert on_limbs(matte, people[i]) > 0.85
        for j in range(3):
            if j != i:
                assert on_limbs(matte, people[j]) < 0.06
                assert np.minimum(matte, mattes[j]).sum() < 0.12 * matte.sum()


def test_half_length_man_with_a_raised_hand(photos: dict[str, Cut], estimator: MatteEstimator) -> None:
    rgb, people = photos["459"]
    matte = estimator.matte(rgb, people[0])
    assert on_limbs(matte, people[0]) > 0.85
    # He is cut by the lower border: the matte reaches it and does not fade out there.
    assert matte[-3:].max(0).mean() > 0.3
    # The wall beside his head.
    assert matte[:150, :60].max() < 0.05


def test_sharp_and_in_few_pieces(photos: dict[str, Cut], estimator: MatteEstimator) -> None:
    rgb, people = photos["328"]
    matte = estimator.matte(rgb, people[0], people[1:])
    unsure = ((matte > 0.05) & (matte < 0.95)).sum() / (matte > 0.5).sum()
    assert unsure < 0.15
    _, _, stats, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8))
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    assert areas[0] > 0.9 * areas.sum()


def test_the_same_matte_at_every_size(photos: dict[str, Cut], estimator: MatteEstimator) -> None:
    rgb, people = photos["241"]
    small = estimator.matte(rgb, people[0], people[1:]) > 0.5
    for scale in (0.4, 3.0):
        scaled = cv2.resize(
            rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        others = [p.transformed(scale) for p in people[1:]]
        matte = estimator.matte(np.asarray(scaled, np.uint8), people[0].transformed(scale), others)
        back = cv2.resize(matte, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA) > 0.5
        assert (small & back).sum() / (small | back).sum() > 0.93


def test_deterministic(photos: dict[str, Cut], estimator: MatteEstimator) -> None:
    rgb, people = photos["241"]
    first = estimator.matte(rgb, people[0], people[1:])
    np.testing.assert_array_equal(first, MatteEstimator(threads=1).matte(rgb, people[0], people[1:]))


def test_refinement_moves_edges_to_those_of_the_picture() -> None:
    y, x = np.mgrid[:600, :800] + 0.5
    disc = (np.hypot(x - 380, y - 290) < 200).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (600, 800, 3))
    rgb = np.clip(np.where(disc[..., None] > 0, (190, 90, 70), (70, 110, 150)) + noise, 0, 255).astype(
        np.uint8
    )
    to_mask = np.array([[256 / 800, 0, 0], [0, 256 / 800, 8.0]])
    my, mx = np.mgrid[:256, :256] + 0.5
    # The mask is a little too large, and off to one side, as the network's is.
    radius = np.hypot((mx - 0.8) / 0.32 - 380, (my - 8) / 0.32 - 290)
    mask = np.clip((204 - radius) / 12 + 0.5, 0, 1).astype(np.float32)
    before = enlarge(mask, to_mask, 800, 600)
    after = refine(rgb, mask, to_mask)
    assert np.abs(after - disc).mean() < 0.75 * np.abs(before - disc).mean()
    assert after[290, 380] == 1
    assert after[20, 20] == 0


def test_colours_take_gaps_out_and_bring_back_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((256, 256), np.bool_)
    truth[30:120, 90:160] = truth[120:230, 110:140] = True
    truth[120:230, 122:128] = False  # between the legs
    truth[60:75, 160:200] = True  # an arm
    rgb = np.where(truth[..., None], (170, 60, 50), (120, 125, 130)) + rng.normal(0, 6, (256, 256, 3))
    mask = np.zeros((256, 256), np.float32)
    mask[30:120, 84:160] = mask[120:236, 106:140] = 1  # too wide, and without the arm's end
    mask[120:230, 122:128] = 0.8  # not quite sure
    mask[60:75, 160:190] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), 2)
    far = np.full((256, 256), 99, np.float32)
    moved = by_colours(mask, np.clip(rgb, 0, 255).astype(np.uint8), far)
    wrong = [np.mean((of > 0.5) != truth) for of in (mask, moved)]
    assert wrong[1] < 0.45 * wrong[0]
    assert moved[150:220, 124:126].max() < 0.3, "the gap"
    assert mask[62:73, 191:195].max() < 0.5
    assert moved[62:73, 191:195].min() > 0.5, "the hand"


def test_a_sleeve_like_the_wall_stays_along_its_bone() -> None:
    rgb = np.full((256, 256, 3), 128, np.uint8)
    rgb[:, 100:156] = (150, 40, 40)
    rgb[100:112, 156:200] = 128
    mask = np.zeros((256, 256), np.float32)
    mask[:, 100:156] = mask[100:112, 156:200] = 1
    bone = np.full((256, 256), 99, np.float32)
    rows = np.arange(256, dtype=np.float32)
    bone[:, 150:200] = np.abs(rows - 105.5)[:, None]
    kept = by_colours(mask, rgb, bone)
    assert kept[104:108, 160:195].min() > 0.5


def test_enlarging_keeps_pixels_where_they_are() -> None:
    mask = np.zeros((256, 256), np.float32)
    mask[64:128, 32:96] = 1
    large = enlarge(mask, np.array([[0.25, 0, 0], [0, 0.25, 0]]), 1024, 1024)
    y, x = np.mgrid[:1024, :1024] + 0.5
    np.testing.assert_allclose(
        [(large * x).sum() / large.sum(), (large * y).sum() / large.sum()], [256, 384], atol=0.01
    )


def test_nobody_to_cut_out(estimator: MatteEstimator) -> None:
    nobody = Skeleton(np.zeros((18, 2)), np.zeros(18, bool))
    with pytest.raises(BadInput, match="no joint is visible"):
        estimator.matte(np.zeros((64, 64, 3), np.uint8), nobody)


def test_person_outside_the_picture(estimator: MatteEstimator) -> None:
    away = Skeleton(np.random.default_rng(0).uniform(5000, 5200, (18, 2)), np.ones(18, bool))
    assert not estimator.matte(np.zeros((64, 64, 3), np.uint8), away).any()


def test_evaluation_on_people_with_known_coverage(
    photos: dict[str, Cut], estimator: MatteEstimator, shared_data: Path, tmp_path: Path
) -> None:
    # Stands in for the renders, which take minutes to make: a real man, cut out by the matte itself.
    rgb, people = photos["241"]
    rgba = np.dstack([rgb, np.rint(estimator.matte(rgb, people[0], people[1:]) * 255).astype(np.uint8)])
    x0, y0, x1, _ = people[0].box.astype(int)
    square = rgba[max(0, y0 - 40) :, max(0, x0 - 200) : x1 + 200][:560, :560]
    source = cv2.resize(square, (256, 256), interpolation=cv2.INTER_AREA)
    np.savez(tmp_path / "pairs.npz", src=np.stack([source] * 2))
    scores = evaluate(tmp_path / "pairs.npz", shared_data / "photos", count=2)
    assert scores.people == 2
    assert scores.iou_after > 0.7
    assert 0 < scores.edge_after < 0.3
