# SPDX-License-Identifier: Apache-2.0
"""Installed weights: models/weights/<stage>/<name>/ holds the tensors, config.json and card.md."""

from __future__ import annotations

import functools
import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from shared.errors import MissingWeights

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parent / "weights"
Network = TypeVar("Network", bound="nn.Module")


def path_of(stage: str, name: str) -> Path:
    """Folder of installed weights.

    Raises:
        MissingWeights: there is none of that name.
    """
    folder = ROOT / stage / name
    if not folder.is_dir():
        installed = ", ".join(sorted(p.name for p in (ROOT / stage).glob("*/"))) or "none"
        raise MissingWeights(
            f"{stage}/{name}: no such weights are installed",
            f"Choose one of: {installed}",
            f"{stage}/{name}",
        )
    return folder


def save(network: nn.Module, config: dict[str, object], folder: Path) -> None:
    """Writes float16 `model.safetensors` and `config.json` (the constructor's arguments) to `folder`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


def load(network_class: type[Network], stage: str, name: str) -> Network:
    """The network with its installed weights, float32, in eval mode.

    Raises:
        MissingWeights: not installed, or they do not fit the network.
    """
    from safetensors.torch import load_file

    folder = path_of(stage, name)
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    known = inspect.signature(network_class.__init__).parameters
    unknown = [key for key in config if key not in known]
    if unknown:
        raise MissingWeights(
            f"{stage}/{name}/config.json: {network_class.__name__} has no argument {unknown[0]!r}",
            "The weights are of another version; install the ones that belong to this one",
            f"{stage}/{name}",
        )
    network = network_class(**config)
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in load_file(folder / "model.safetensors").items()
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise MissingWeights(
            f"{stage}/{name}/model.safetensors: does not fit {network_class.__name__} ({error})",
            "Install weights made for this version",
            f"{stage}/{name}",
        ) from error
    return network.eval()


@functools.cache
def sha256(stage: str, name: str) -> str:
    """Hash of the tensors' file (or files, in order of name): the weights' identity in reports."""
    folder = path_of(stage, name)
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.onnx")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def installed() -> list[tuple[str, str, int]]:
    """Stage, name and size in bytes of everything installed."""
    return [
        (folder.parent.name, folder.name, sum(f.stat().st_size for f in folder.iterdir() if f.is_file()))
        for folder in sorted(ROOT.glob("*/*/"))
    ]
