# SPDX-License-Identifier: Apache-2.0
"""Pairs on their way to training: through pipes, from files, drawn the same whenever training begins."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from models import pairs
from models.pairs import KEYS, PER_LOOK, Pairs, Rendered, Stored, batches, rendered, store
from shared.errors import BadInput


def numbered(first: int, count: int) -> Pairs:
    """Pairs whose number is in `vs`; the pose of odd ones changes more."""
    joints = np.random.default_rng(0).uniform(0, 256, (count, 18, 2)).astype(np.float32)
    number = np.arange(first, first + count)
    moved = joints.copy()
    moved[:, 4] += (1 + 40 * (number % 2))[:, None]
    small = np.zeros((count, 1), np.uint8)
    return dict.fromkeys(KEYS, small) | {"ks": joints, "kt": moved, "vs": number[:, None]}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    (tmp_path / "train").mkdir()
    for number in range(12):
        np.savez(tmp_path / "train" / f"{number:02d}.npz", **numbered(100 * number, 100))
    return Stored(tmp_path)


def test_pairs_survive_a_pipe() -> None:
    stream = io.BytesIO()
    written = numbered(3, 5)
    pairs.write(stream, written)
    stream.seek(0)
    read = pairs.read(stream)
    assert read is not None
    for key in KEYS:
        np.testing.assert_array_equal(read[key], written[key])
    assert pairs.read(stream) is None
    assert pairs.read(io.BytesIO(stream.getvalue()[:-1])) is None, "half of a look is none"


def test_a_run_that_goes_on_sees_what_it_would_have_seen(stored: Stored) -> None:
    whole = list(itertools.islice(batches(stored, 8, seed=1), 60))
    later = list(itertools.islice(batches(stored, 8, seed=1, step=40), 20))
    for one, other in zip(whole[40:], later, strict=True):
        np.testing.assert_array_equal(one["vs"], other["vs"])
    other_seed = next(batches(stored, 8, seed=2))
    assert (other_seed["vs"] != whole[0]["vs"]).any()


def test_processes_share_the_files_and_all_pairs_are_seen(stored: Stored) -> None:
    seen: list[set[int]] = []
    for process in range(2):
        drawn = itertools.islice(batches(stored, 60, 1, process=process, processes=2), 5)
        seen.append({int(number) for batch in drawn for number in batch["vs"][:, 0]})
    assert all(seen)
    assert not {number // 100 for number in seen[0]} & {number // 100 for number in seen[1]}
    everything = {int(n) for batch in itertools.islice(batches(stored, 60, 1), 60) for n in batch["vs"][:, 0]}
    assert len(everything) > 1100


def test_alike_pairs_are_preferred(stored: Stored) -> None:
    shares = [
        np.concatenate([b["vs"] for b in itertools.islice(batches(stored, 50, 1, alike=alike), 20)]) % 2
        for alike in (0.0, 1.0, -1.0)
    ]
    assert abs(shares[0].mean() - 0.5) < 0.06
    assert abs(shares[1].mean() - 0.25) < 0.06  # odd only where both drawn ones are
    assert abs(shares[2].mean() - 0.75) < 0.06


def test_no_files_and_no_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="train: holds no pair files"):
        next(batches(Stored(tmp_path), 2, seed=0))
    with pytest.raises(BadInput, match="--pairs: is 0"):
        list(store(tmp_path, tmp_path, 0, 1))
    with pytest.raises(BadInput, match="makehuman: is missing"):
        next(rendered(tmp_path, 0))


@pytest.mark.timeout(300)  # four renderers start, each of which reads a body and its clothes
def test_people_are_rendered_on_the_way_and_stored(shared_data: Path, tmp_path: Path) -> None:
    if not (Path(__file__).parents[1] / ".venv" / "people").is_dir():
        pytest.skip("the people packages are not installed (build.py setup --people)")
    looks = rendered(shared_data, 5, workers=2)
    two = [next(looks), next(looks)]
    looks.close()  # type: ignore[attr-defined]
    (file,) = store(tmp_path, shared_data, PER_LOOK + 3, 5)
    assert file.name == "5_00000.npz"
    kept = pairs.read_file(file)
    for key in KEYS:
        np.testing.assert_array_equal(kept[key], np.concatenate([look[key] for look in two])[: PER_LOOK + 3])
    assert not list(store(tmp_path, shared_data, PER_LOOK + 3, 5)), "complete files are kept"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    # Training that begins in the middle of a look.
    block = next(Rendered(shared_data).stream(5, PER_LOOK + 1, 0, 1))
    np.testing.assert_array_equal(block["src"], two[1]["src"][1:])
