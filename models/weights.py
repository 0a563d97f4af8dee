# SPDX-License-Identifier: Apache-2.0
"""Installed weights: models/weights/<stage>/<name>/ holds the tensors, config.json and card.md."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from shared.errors import BadInput, MissingWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    from safetensors import SafetensorError
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
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise MissingWeights(
            f"{stage}/{name}/model.safetensors: cannot be read ({error})",
            "Install the weights again",
            f"{stage}/{name}",
        ) from error
    state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    fault = misfit(state, network.state_dict())
    if fault:
        raise MissingWeights(
            f"{stage}/{name}/model.safetensors: does not fit {network_class.__name__}: {fault}",
            "Install weights made for this version",
            f"{stage}/{name}",
        )
    network.load_state_dict(state)
    return network.eval()


def misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first thing in which tensors differ from what a network expects, in words; empty where they fit."""
    for key, wanted in expected.items():
        if key not in state:
            return f"lacks the tensor {key}"
        found = state[key]
        if found.shape != wanted.shape:
            return f"{key} has the shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
        if found.dtype != wanted.dtype:
            return f"{key} is {found.dtype}, not {wanted.dtype}"
        if found.is_floating_point() and not bool(found.isfinite().all()):
            return f"{key} holds values that are not finite"
    return next((f"has an extra tensor {key}" for key in state if key not in expected), "")


def read_checkpoint(
    path: Path, expected: Mapping[str, Tensor], fix: str, *, extra: bool = False
) -> dict[str, Tensor]:
    """The named tensors of a file written with `torch.save`. A pickled object in it is refused, not run.

    Of a checkpoint of our trainers (models/training.py) it is the running average.

    Args:
        path (`Path`): the file.
        expected (mapping): names to tensors of the shapes and types wanted.
        fix (`str`): what to say to a user whose file does not fit.
        extra (`bool`): whether it may hold more, which is left out.

    Raises:
        BadInput: unreadable, no plain tensors, or they do not fit.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})", fix, str(path)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: is not a PyTorch file of plain tensors", fix, str(path)) from error
    if not isinstance(state, Mapping):
        raise BadInput(f"{path}: holds a {type(state).__name__}, not named tensors", fix, str(path))
    state = state.get("average", state)
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise BadInput(f"{path}: {key} is a {type(value).__name__}, not a tensor", fix, str(path))
    found = {key: value for key, value in state.items() if key in expected or not extra}
    fault = misfit(found, expected)
    if fault:
        raise BadInput(f"{path}: {fault}", fix, str(path))
    return found


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
