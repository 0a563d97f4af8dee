# SPDX-License-Identifier: Apache-2.0
"""Training from the command line: what a command trained is there afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from models import weights
from models.body_refiner import BodyNet
from models.coco import read_coco
from models.refinenet import RefineNet
from models.wgan import Generator
from server.cli import app
from shared.errors import BadInput


@pytest.mark.parametrize(
    ("network", "length", "kind"),
    [("body", "--steps", BodyNet), ("refinenet", "--epochs", RefineNet), ("paper", "--epochs", RefineNet)],
)
def test_refinement_leaves_its_network(
    shared_data: Path, tmp_path: Path, network: str, length: str, kind: type[nn.Module]
) -> None:
    examples = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    for name in ("train", "val"):
        examples.save(tmp_path / f"{name}.npz")
    said = CliRunner().invoke(
        app,
        ["train", "refine", "--examples", str(tmp_path), "--out", str(tmp_path / "out")]
        + ["--network", network, length, "2"],
    )
    assert said.exit_code == 0, said.output
    kind().load_state_dict(load_file(tmp_path / "out" / "weights" / "model.safetensors"))
    assert (tmp_path / "out" / "weights" / "config.json").is_file()


def test_a_generator_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(weights.path_of("placement", "wgan"), tmp_path / "placement" / "wgan")
    monkeypatch.setattr(weights, "ROOT", tmp_path)
    trained, file = Generator(), tmp_path / "generator_75000.pt"
    torch.save(trained.state_dict(), file)
    said = CliRunner().invoke(app, ["train", "install", "wgan", str(file)])
    assert said.exit_code == 0, said.output
    tensors = load_file(tmp_path / "placement" / "wgan" / "model.safetensors")
    assert torch.equal(tensors["decoder.layers.0.weight"], trained.decoder.layers[0].weight.half())


@pytest.mark.parametrize(
    ("network", "reason"),
    [("flow", "lacks the tensor person.0.weight"), ("wgan", "is not a PyTorch file of plain tensors")],
)
def test_another_file_is_not_installed(tmp_path: Path, network: str, reason: str) -> None:
    file = tmp_path / "other.pt"
    torch.save(Generator().state_dict(), file)
    if network == "wgan":
        file.write_text("no weights")
    installed = weights.path_of("placement", network) / "model.safetensors"
    before = installed.read_bytes()
    with pytest.raises(BadInput) as raised:
        CliRunner().invoke(app, ["train", "install", network, str(file)], catch_exceptions=False)
    assert reason in raised.value.message
    assert "wrote for this network" in raised.value.fix
    assert installed.read_bytes() == before


def test_placement_is_measured(shared_data: Path, tmp_path: Path) -> None:
    examples = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    for name in ("train", "val"):
        examples.save(tmp_path / f"{name}.npz")
    sheet = tmp_path / "sheet.png"
    said = CliRunner().invoke(
        app,
        [
            "eval",
            "placement",
            "--examples",
            str(tmp_path),
            "--scenes",
            "100",
            "--json",
            "--sheet",
            str(sheet),
        ],
    )
    assert said.exit_code == 0, said.output
    rows = json.loads(said.output)["rows"]
    assert set(rows) == {"flow", "wgan", "flow, placed", "random", "nearest", "real"}
    assert [name for name, row in rows.items() if row["default"]] == ["flow"]
    assert rows["flow"]["best_of_8"] > rows["random"]["best_of_8"]
    with Image.open(sheet) as picture:
        assert min(picture.size) > 500
