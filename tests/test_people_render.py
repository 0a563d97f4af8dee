# SPDX-License-Identifier: Apache-2.0
"""Rendered people; run by the Python of .venv/people, skipped where its packages are not installed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.cloth import Bytes
from models.drawing import SIZE
from models.pairs import KEYS, PER_LOOK
from models.people import Correspondence, People, looks, make_light
from models.wardrobe import make_look
from shared.skeleton import FACE, L_SHOULDER, NOSE, R_SHOULDER


@pytest.fixture(scope="module")
def people(shared_data: Path) -> People:
    for package in ("anny", "moderngl"):
        pytest.importorskip(package, reason="the people packages are not installed (build.py setup --people)")
    return People("val", shared_data)


def at_corners(rgba: Bytes) -> NDArray[np.float64]:
    """The picture at whole numbers of pixels: the mean of the four that meet there."""
    wide = np.pad(rgba.astype(float), ((1, 0), (1, 0), (0, 0)), mode="edge")
    return (wide[1:, 1:] + wide[:-1, 1:] + wide[1:, :-1] + wide[:-1, :-1]) / 4


def test_a_rendered_pair_agrees_with_itself(people: People) -> None:
    sources, targets = people.shots(np.random.default_rng(3))
    errors, inside = [], []
    for source, target in itertools.product(sources, targets):
        assert source.rgba.shape == (SIZE, SIZE, 4)
        assert not source.rgba[source.rgba[..., 3] == 0].any()
        flow, visible = Correspondence(source.surface).find(target.small)
        assert visible.shape == (SIZE // 2, SIZE // 2)
        at = (flow[visible == 1].astype(np.float32) * SIZE).round().astype(int)
        rows, columns = np.nonzero(visible == 1)
        wanted = at_corners(target.rgba)[rows * 2 + 1, columns * 2 + 1]
        found = at_corners(source.rgba)[at[:, 1], at[:, 0]]
        errors.append(np.abs(wanted - found)[:, :3].mean() if len(at) else 0)
        seen = target.keypoints[target.seen == 2].astype(int)
        inside.append((target.rgba[seen[:, 1], seen[:, 0], 3] > 0).mean())
    assert np.mean(errors) < 30  # of 255: light differs, the cloth is the same
    assert np.mean(inside) > 0.9


def test_a_person_facing_the_camera_has_the_left_on_the_right(people: People) -> None:
    rng = np.random.default_rng(1)
    look = make_look(people.body, people.wardrobe, rng)
    shot = people.shot(look, {"root": np.eye(3)}, make_light(rng), 0, rng, cut=False)
    assert shot.keypoints[L_SHOULDER, 0] > shot.keypoints[R_SHOULDER, 0] + 5
    assert (shot.seen[[NOSE, L_SHOULDER, R_SHOULDER]] == 2).all()
    back = people.shot(look, {"root": np.eye(3)}, make_light(rng), 180, rng, cut=False)
    assert back.keypoints[L_SHOULDER, 0] < back.keypoints[R_SHOULDER, 0] - 5
    assert back.seen[NOSE] == 1


def test_depth_and_normals_face_the_camera(people: People) -> None:
    rng = np.random.default_rng(2)
    look = make_look(people.body, people.wardrobe, rng)
    shot = people.shot(look, {"root": np.eye(3)}, make_light(rng), 0, rng, cut=False)
    there = shot.small[..., 3] > 0
    normals, depth = shot.shape[there][:, :3], shot.shape[there][:, 3]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert (normals[:, 2] > -0.3).mean() > 0.99
    assert not shot.shape[~there].any()
    # The trunk is about half a torso thick; arms and feet are not far from it in a standing pose.
    assert np.abs(depth).max() < 1.5
    chest = ((shot.keypoints[2] + shot.keypoints[5]) / 2 + (0, 8)).astype(int) // 2
    assert 0 < shot.shape[chest[1], chest[0], 3] < 0.6
    # Surfaces on the left of the body look left, on the right right.
    rows, columns = np.nonzero(there)
    middle = np.median(columns)
    assert shot.shape[rows, columns, 0][columns < middle - 3].mean() < 0
    assert shot.shape[rows, columns, 0][columns > middle + 3].mean() > 0


def test_pairs_are_what_training_reads_and_the_same_every_time(people: People, shared_data: Path) -> None:
    pairs = people.pairs(np.random.default_rng([5, 1, True]))
    assert {key: (array.shape[1:], array.dtype.name) for key, array in pairs.items()} == {
        "src": ((256, 256, 4), "uint8"), "tgt": ((256, 256, 4), "uint8"),
        "ks": ((18, 2), "float32"), "kt": ((18, 2), "float32"), "vs": ((18,), "uint8"), "vt": ((18,), "uint8"),
        "flow": ((128, 128, 2), "float16"), "vis": ((128, 128), "uint8"),
        "depth": ((128, 128), "float16"), "normals": ((128, 128, 3), "uint8"),
    }  # fmt: skip
    assert all(len(array) == PER_LOOK for array in pairs.values())
    people.pairs(np.random.default_rng(0))  # what was drawn before leaves no trace
    again = next(looks(5, "val", shared_data, first=1))
    for key in KEYS:
        np.testing.assert_array_equal(pairs[key], again[key])


def test_close_ups_hold_the_head(people: People, shared_data: Path) -> None:
    del people  # only says whether its packages are there
    near, far = (
        next(looks(5, "val", shared_data, first=1, framing=framing)) for framing in ("head", "whole")
    )
    spread = [np.ptp(pairs["kt"][:, list(FACE)], axis=1).max(1) for pairs in (near, far)]
    assert np.median(spread[0]) > 1.3 * np.median(spread[1])
    face = near["kt"][:, list(FACE)]
    assert ((face > 0.2 * SIZE) & (face < 0.8 * SIZE)).all()
    assert {key: array.shape for key, array in near.items()} == {key: a.shape for key, a in far.items()}
