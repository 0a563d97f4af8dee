# SPDX-License-Identifier: Apache-2.0
"""The measures of transfer: perfection scores perfectly, faults are told apart, real photos go through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from models import metrics
from models.person import Person, person_frame
from models.transfer_eval import (
    LAYER,
    Copying,
    alpha_iou,
    cost,
    edge_error,
    gradient_energy,
    in_square,
    on_pairs,
    on_person,
    on_photos,
    over_grey,
    pairs_of,
    pasted,
    psnr,
    ssim_on_person,
    transfers,
)
from server.cli import app
from shared.errors import BadInput
from shared.skeleton import Skeleton

pytestmark = pytest.mark.timeout(180)

STANDING = [
    (128, 50), (128, 70), (108, 70), (104, 102), (102, 132), (148, 70), (152, 102), (154, 132), (116, 128),
    (116, 176), (116, 222), (140, 128), (140, 176), (140, 222), (124, 46), (132, 46), (119, 49), (137, 49),
]  # fmt: skip


def person(shift: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Straight RGBA `(256, 256, 4)` uint8 of a drawn person with a grain, and its joints `(18, 2)`."""
    xy = np.array(STANDING, np.float64) + shift
    alpha = np.zeros((256, 256), np.uint8)
    for a, b in (
        (1, 8),
        (1, 11),
        (2, 3),
        (3, 4),
        (5, 6),
        (6, 7),
        (8, 9),
        (9, 10),
        (11, 12),
        (12, 13),
        (2, 5),
    ):
        cv2.line(alpha, *(tuple(np.rint(xy[j]).astype(int).tolist()) for j in (a, b)), 255, 20, cv2.LINE_AA)
    cv2.circle(alpha, tuple(np.rint(xy[0]).astype(int).tolist()), 20, 255, -1, cv2.LINE_AA)
    grain = np.random.default_rng(0).integers(60, 200, (256, 256, 3), dtype=np.uint8)
    return np.dstack([grain, alpha]), xy


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    out = rgba.astype(np.float32) / 255
    out[..., :3] *= out[..., 3:]
    return out


def write_pairs(folder: Path, shift: tuple[float, float], count: int = 4) -> None:
    (source, ks), (target, kt) = person(), person(shift)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "0.npz",
        src=np.stack([source] * count), tgt=np.stack([target] * count), ks=np.stack([ks] * count),
        kt=np.stack([kt] * count), vs=np.full((count, 18), 2), vt=np.full((count, 18), 2),
    )  # fmt: skip


def test_perfection_scores_perfectly(tmp_path):
    write_pairs(tmp_path, (0, 0))
    said = on_pairs({"copy": Copying()}, tmp_path, 3)
    copy = said["copy"]
    assert copy["pairs"] == 3
    assert copy["l1"] == pytest.approx(0, abs=1e-4)
    assert (copy["psnr"], copy["own_pose_psnr"]) == (60, 60)
    assert copy["ssim"] == pytest.approx(1, abs=1e-3)
    assert (copy["alpha_iou"], copy["alpha_edge"]) == (1, 0)
    assert copy["frechet"] == pytest.approx(0, abs=1e-3)
    assert copy["pckh"] == said["truth"]["pckh"]
    assert set(said["truth"]) == {"pckh", "pairs"}


def test_faults_lower_the_number_that_is_meant_for_them():
    truth = premultiplied(person()[0])
    shifted = premultiplied(person((6, 0))[0])
    assert alpha_iou(shifted, truth) < 0.8 < alpha_iou(truth, truth)
    assert edge_error(shifted, truth) > 0.3
    darker = truth * np.array([0.8, 0.8, 0.8, 1.0], np.float32)
    assert alpha_iou(darker, truth) == 1.0
    assert edge_error(darker, truth) == 0.0
    assert on_person(darker, truth, 1) == pytest.approx(
        0.2 * truth[truth[..., 3] == 1][:, :3].mean(), rel=0.05
    )
    assert psnr(on_person(darker, truth, 2)) < 30
    # What spills beyond the person costs nothing on the person, and something where either is.
    spilt = np.where(truth[..., 3:] > 0, truth, 1)
    assert on_person(spilt, truth, 2) == 0
    assert on_person(spilt, truth, 2, either=True) > 0.1
    blurred = cv2.GaussianBlur(truth, (0, 0), 2.0)
    assert ssim_on_person(blurred, truth) < 0.5
    assert gradient_energy(blurred) < 0.2 * gradient_energy(truth)
    assert math.isnan(gradient_energy(truth * 0))


def test_layers_are_pasted_where_they_lie():
    rgba = np.ones((4, 3, 4), np.float32)
    square = pasted(Person(rgba, -1, 6), 8)
    assert square[..., 3].sum() == 2 * 2
    assert square[6:, :2, 3].all()
    assert (over_grey(square)[:6] == 0.5).all()


def test_a_skeleton_fills_its_square():
    moved = in_square(Skeleton(STANDING, np.ones(18, bool)).transformed(1.7, (900, -40)))
    x, y, size = person_frame(moved)
    assert abs(x) <= 1
    assert abs(y) <= 1
    assert abs(size - LAYER) <= 2


def test_similarity_is_that_of_the_field():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    # By the definition, one window after the other.
    values = []
    for y in range(34):
        for x in range(44):
            for c in range(3):
                p, q = (im[y : y + 7, x : x + 7, c].astype(float) / 255 for im in (a, b))
                (vp, both), (_, vq) = np.cov(p.ravel(), q.ravel())
                values.append(
                    (2 * p.mean() * q.mean() + 1e-4) * (2 * both + 9e-4)
                    / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (vp + vq + 9e-4))
                )  # fmt: skip
    assert metrics.ssim_of_pictures(a, b) == pytest.approx(np.mean(values), abs=1e-6)


def test_distances_of_known_distributions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20_000, 3)), 2 * rng.normal(size=(20_000, 3)) + 1
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, b) == pytest.approx(3 * 1 + 3 * (1 + 4 - 2 * 2), rel=0.05)
    assert metrics.inception_score(np.eye(8)) == pytest.approx(8)
    assert metrics.inception_score(np.full((8, 4), 0.25)) == pytest.approx(1)
    assert metrics.inception_score(np.eye(8)[[0, 0, 1, 1]], splits=2) == pytest.approx(1)


def test_folders_without_pairs_or_people_are_named(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path}: holds no pair files"):
        next(pairs_of(tmp_path, 3))
    with pytest.raises(BadInput, match=f"{tmp_path}: shows too few people"):
        on_photos({}, tmp_path, 3)


def test_real_photos_and_their_sheet(tmp_path, shared_data):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("op_COCO_val2014_000000000241.jpg", "ccby_000000234748.jpg"):
        (folder / name).symlink_to(shared_data / "photos" / name)
    said = on_photos(transfers(["limbs", "copy"]), folder, 2, tmp_path / "sheet.png")
    assert set(said["limbs"]) == {
        "pckh_real", "round_trip", "round_trip_either", "sharpness", "real_pairs", "refused",
    }  # fmt: skip
    assert set(said["copy"]) == {"pckh_real", "sharpness", "real_pairs", "refused"}
    assert said["limbs"]["real_pairs"] + said["limbs"]["refused"] == 2
    assert said["limbs"]["round_trip"] > 10
    assert said["truth"]["pckh_real"] > max(said["limbs"]["pckh_real"], 0.6)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (LAYER // 2, 2 * 5 * LAYER // 2, 3)


def test_cost_is_measured_in_a_process_of_its_own():
    ballast = np.ones(1_500_000_000, np.uint8)  # that of this process must not count
    said = cost("limbs", threads=1, heights=(64, 256))
    del ballast
    assert set(said) == {"seconds_64", "seconds_256", "memory", "preview_ms"}
    assert said["seconds_64"] < said["seconds_256"]
    assert 50e6 < said["memory"] < 1.2e9


def test_command(tmp_path):
    write_pairs(tmp_path / "val", (4, 0), count=8)
    done = CliRunner().invoke(app, ["eval", "transfer", "--pairs", str(tmp_path), "--rows", "copy", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert rows["copy"]["pairs"] == 8
    assert rows["copy"]["alpha_iou"] > 0.9
    failed = CliRunner().invoke(app, ["eval", "transfer", "--rows", "nice"])
    assert "--rows: there is no 'nice'" in str(failed.exception)
