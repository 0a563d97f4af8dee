# SPDX-License-Identifier: Apache-2.0
"""Training of motion: pairs as they are written become batches, gradients reach everything, runs go on."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file

from models.motion import Motion
from models.motion_training import losses, prepare, train
from models.pairs import Stored, read_file
from models.transfer_training import Machine, Options, begin_from

TINY = {"channels": (8, 8, 8, 8), "alpha_channels": 8, "blocks": (1, 0, 1)}


def write_pairs(file: Path, count: int = 4, shape: bool = True) -> None:
    """A person of one box, in the same place in both pictures but for a shift of two pixels a pair."""
    rng = np.random.default_rng(0)
    picture = np.zeros((256, 256, 4), np.uint8)
    picture[40:230, 100:150] = (180, 60, 40, 255)
    joints = np.stack([rng.uniform(104, 146, 18), np.linspace(50, 225, 18)], 1).astype(np.float32)
    centres = (np.arange(128, dtype=np.float32) + 0.5) / 128
    grid = np.stack(np.meshgrid(centres, centres), -1)
    inside = picture[::2, ::2, 3] > 0
    pairs = {
        "src": np.stack([picture] * count),
        "tgt": np.stack([np.roll(picture, 2 * i, 1) for i in range(count)]),
        "ks": np.stack([joints] * count),
        "kt": np.stack([joints + (2 * i, 0) for i in range(count)]).astype(np.float32),
        "vs": np.full((count, 18), 2, np.uint8),
        "vt": np.full((count, 18), 2, np.uint8),
        "flow": np.stack([grid] * count).astype(np.float16),
        "vis": np.stack([inside] * count).astype(np.uint8),
    }
    if shape:
        pairs["depth"] = (0.25 * pairs["vis"]).astype(np.float16)
        pairs["normals"] = (
            np.where(inside[..., None], (128, 128, 255), 128).astype(np.uint8)[None].repeat(count, 0)
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **pairs)


def test_only_the_person_has_depth_and_normals(tmp_path: Path) -> None:
    write_pairs(tmp_path / "new.npz")
    write_pairs(tmp_path / "old.npz", shape=False)
    new, old = (prepare(read_file(tmp_path / f"{name}.npz"), augment=False) for name in ("new", "old"))
    known = new.shape[:, 4] > 0.5
    assert 0.05 < known.float().mean() < 0.5
    torch.testing.assert_close(
        new.shape[:, :4].permute(0, 2, 3, 1)[known].mean(0), torch.tensor([0.0, 0, 1, 0.25])
    )
    assert not old.shape[:, 4].any(), "a file without normals asks for none"


def test_training_pictures_are_valid(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.npz", 16)
    torch.manual_seed(0)
    batch = prepare(read_file(tmp_path / "a.npz"), augment=True)
    for picture in (batch.source, batch.target):
        assert picture.isfinite().all()
        assert picture.min() >= 0
        assert (picture[:, :3] <= picture[:, 3:] + 1e-4).all(), "not premultiplied"


def test_gradients_reach_every_parameter_and_steps_lower_the_loss(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.npz")
    torch.manual_seed(0)
    network = Motion(**TINY)
    batch = prepare(read_file(tmp_path / "a.npz"), augment=False)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    totals = []
    for _ in range(6):
        total = losses(network(*batch[:3], *batch[4:6]), batch)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    # A residual block's first layers feel something once its last layer is no longer zero.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert totals[-1] < 0.9 * totals[0]


def curve_of_two_stretches(
    train: Callable[[Options], None], folder: Path, name: str
) -> list[dict[str, float]]:
    """What a run that was ended and taken up again has logged, once all that holds for any network is asserted."""
    for split in ("train", "val"):
        write_pairs(folder / "pairs" / split / "a.npz")
    out = folder / "run"
    options = Options(Stored(folder / "pairs"), out, minutes=0.05, batch=2)
    train(options)
    first = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    train(replace(options, minutes=first[-1]["seconds"] / 60 + 0.1))
    lines = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] > first[-1]["step"] >= 1
    assert lines[-1]["seconds"] > first[-1]["seconds"]
    assert np.isfinite(lines[-1]["val_total"])
    assert list((out / "tensorboard").glob("events.*"))
    assert (out / name / "model.safetensors").is_file()
    return lines


def test_training_goes_on_and_can_start_from_other_weights(tmp_path: Path) -> None:
    curve_of_two_stretches(train, tmp_path, "motion")
    weights = load_file(tmp_path / "run" / "motion" / "model.safetensors")
    larger = Motion(blocks=(3, 3, 3))
    begin_from(larger, weights)
    torch.testing.assert_close(larger.stem[0].weight, weights["stem.0.weight"].float())
    assert not larger.down[0][4].second.weight.any(), "a block that the weights lack changes nothing"


def test_weights_of_a_narrower_network_are_where_a_wider_one_begins() -> None:
    torch.manual_seed(0)
    narrow, wide = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(5, 6, 3)
    untouched = wide.weight[4:].clone()
    begin_from(wide, narrow.state_dict())
    x = torch.rand(1, 5, 8, 8)
    torch.testing.assert_close(wide(x)[:, :4], narrow(x[:, :3]))
    torch.testing.assert_close(wide.weight[4:], untouched)
    before = narrow.weight.clone()
    begin_from(narrow, wide.state_dict())
    torch.testing.assert_close(narrow.weight, before)


@pytest.mark.timeout(300)
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    for number in range(2):
        write_pairs(tmp_path / "pairs" / "train" / f"{number}.npz")
    out = tmp_path / "run"
    # Every process applies the mean of both gradients, so the first one's weights are those of all.
    options = Options(Stored(tmp_path / "pairs"), out, 0.05, batch=1, machine=Machine(devices=2))
    train(options)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["step"] >= 1
    assert all(value.isfinite().all() for value in saved["network"].values())
    lines = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert len({line["step"] for line in lines}) == len(lines), "only the first process writes"


@pytest.mark.timeout(300)
def test_processes_end_with_the_first_one_even_when_interrupts_are_ignored(tmp_path: Path) -> None:
    for number in range(2):
        write_pairs(tmp_path / "pairs" / "train" / f"{number}.npz")
    out = tmp_path / "run"
    words = ["--pairs", str(tmp_path / "pairs"), "--out", str(out), "--devices", "2", "--threads", "1"]
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from server.cli import main; main()",
            "train",
            "transfer",
            *words,
            "--batch",
            "1",
        ],
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN
        ),  # as a shell's background jobs are started
    )
    others = []
    try:
        wait_for(lambda: (out / "curve.jsonl").is_file(), 240)
        others = psutil.Process(run.pid).children(recursive=True)
        assert len(others) >= 2
        run.kill()
        run.wait()
        wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in others), 30)
    finally:
        run.kill()
        for process in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)
