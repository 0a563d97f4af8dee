# SPDX-License-Identifier: Apache-2.0
"""Rendered people; run by the Python of .venv/people, skipped where its packages are not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.people import FLOW_SIZE, SIZE, People, correspondence, generate, make_light
from models.wardrobe import make_look
from shared.skeleton import L_SHOULDER, NOSE, R_SHOULDER


@pytest.fixture(scope="module")
def people(shared_data: Path) -> People:
    for package in ("anny", "moderngl"):
        pytest.importorskip(package, reason="the people packages are not installed (build.py setup --people)")
    return People("val", shared_data)


def test_a_rendered_pair_agrees_with_itself(people: People) -> None:
    pairs = list(people.pairs(np.random.default_rng(3)))
    again = next(people.pairs(np.random.default_rng(3)))
    np.testing.assert_array_equal(pairs[0][0].rgba, again[0].rgba)  # the same seed gives the same people
    errors, inside = [], []
    for source, target in pairs:
        assert source.rgba.shape == (SIZE, SIZE, 4)
        assert not source.rgba[source.rgba[..., 3] == 0].any()
        flow, visible = correspondence(source.surface, target.small)
        assert visible.shape == (FLOW_SIZE, FLOW_SIZE)
        at = (flow[visible == 1].astype(np.float32) * SIZE).astype(int).clip(0, SIZE - 1)
        rows, columns = np.nonzero(visible == 1)
        wanted = target.rgba[rows * 2, columns * 2].astype(float)
        found = source.rgba[at[:, 1], at[:, 0]].astype(float)
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


def test_shards_hold_what_training_reads(shared_data: Path, people: People, tmp_path: Path) -> None:
    (path,) = generate(tmp_path, 3, 5, "val", shared_data)
    with np.load(path) as shard:
        shapes = {key: (shard[key].shape[1:], shard[key].dtype.name) for key in shard}
        assert all(len(shard[key]) == 3 for key in shard)
    assert shapes == {
        "src": ((256, 256, 4), "uint8"), "tgt": ((256, 256, 4), "uint8"),
        "ks": ((18, 2), "float32"), "kt": ((18, 2), "float32"), "vs": ((18,), "uint8"), "vt": ((18,), "uint8"),
        "flow": ((128, 128, 2), "float16"), "vis": ((128, 128), "uint8"),
    }  # fmt: skip
    assert not list(generate(tmp_path, 3, 5, "val", shared_data))  # complete files are kept
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
