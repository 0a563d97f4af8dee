# SPDX-License-Identifier: Apache-2.0
"""Weights that do not fit, are damaged or hold no numbers are refused by name and reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import weights
from models.refinenet import RefineNet
from shared.errors import MissingWeights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Good weights in a place of their own."""
    monkeypatch.setattr(weights, "ROOT", tmp_path)
    network = RefineNet()
    folder = tmp_path / "refine" / "tested"
    weights.save(network, {}, folder)
    return folder


def changed(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors, next(iter(tensors)))
    save_file(tensors, file)


def test_good_weights_load(folder):
    assert not weights.load(RefineNet, "refine", "tested").training


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t, k: t.update({k: torch.full_like(t[k], torch.nan)}), "{key} holds values that are not finite"),
        (lambda t, k: t.update({k: torch.zeros(2, 3)}), r"{key} has the shape \(2, 3\), not \("),
        (lambda t, k: t.pop(k), "lacks the tensor {key}"),
        (lambda t, k: t.update(more=torch.zeros(1)), "has an extra tensor more"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(folder, change, reason):
    key = next(iter(load_file(folder / "model.safetensors")))
    changed(folder, change)
    with pytest.raises(MissingWeights, match="does not fit RefineNet: " + reason.format(key=key)):
        weights.load(RefineNet, "refine", "tested")


def test_damaged_file_and_foreign_config(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(MissingWeights, match=r"refine/tested/model.safetensors: cannot be read"):
        weights.load(RefineNet, "refine", "tested")
    (folder / "config.json").write_text(json.dumps({"depth": 3}))
    with pytest.raises(MissingWeights, match="RefineNet has no argument 'depth'"):
        weights.load(RefineNet, "refine", "tested")
