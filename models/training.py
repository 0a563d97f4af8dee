# SPDX-License-Identifier: Apache-2.0
"""What the training loops have in common: a checkpoint to go on from, a curve, a running average of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_checkpoint(out: Path, device: str | torch.device = "cpu") -> dict[str, Any] | None:
    """What `save_checkpoint` left in the folder `out` of a run; None at its start."""
    file = out / "checkpoint.pt"
    return torch.load(file, map_location=device, weights_only=True) if file.is_file() else None


def save_checkpoint(out: Path, state: Mapping[str, Any]) -> None:
    """Writes `out`/checkpoint.pt, whole or not at all: a run may be stopped at any moment."""
    file = out / "checkpoint.pt"
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def write_line(out: Path, line: Mapping[str, object]) -> None:
    """Adds a line of JSON to `out`/curve.jsonl."""
    with (out / "curve.jsonl").open("a", encoding="utf-8") as curve:
        curve.write(json.dumps(line) + "\n")


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Moves the weights of `average` towards those of `network`; the share `keep` of them stays."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
