# SPDX-License-Identifier: Apache-2.0
"""What the training of `motion` and `msa` has in common: several processes, mixed precision, a run's clock and folder,
and the way from pairs to batches."""

from __future__ import annotations

import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.utils.data import DataLoader, IterableDataset

from . import pairs
from .training import load_checkpoint, save_checkpoint, write_line

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Machine:
    """What a training runs on.

    Args:
        device (`str`): `cpu` or `cuda`.
        devices (`int`): processes, each with a GPU of its own on `cuda`.
        precision (`str`): Fabric's name for it; mixed precision is faster where the processor has it.
        threads (`int`): of each process on the CPU.
    """

    device: str = "cpu"
    devices: int = 1
    precision: Precision = "32-true"
    threads: int = 1


def fast_precision(device: str) -> Precision:
    """`bf16-mixed` where the device computes with it fast. A CPU without AVX-512 only imitates it, at a tenth of the
    speed of 32 bits."""
    slow = device == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "32-true" if slow else "bf16-mixed"


class _Mixed(MixedPrecision):
    """Leaves what a network is given as it is: autocast brings what it computes with to few bits; coordinates of joints
    need all of theirs."""

    def convert_input(self, data: Any) -> Any:
        return data


def launch(train: Callable[[Fabric], None], out: Path, machine: Machine) -> None:
    """Runs `train`, which must be picklable, on every process; tensorboard's files come to `out`/tensorboard."""
    out.mkdir(parents=True, exist_ok=True)
    # The running means of batch norm differ from process to process, as in the authors' nn.DataParallel; the first
    # one's are saved.
    several = DDPStrategy(start_method="spawn", broadcast_buffers=False)
    fabric = Fabric(
        accelerator=machine.device,
        devices=machine.devices,
        strategy=several if machine.devices > 1 else "auto",
        plugins=None if machine.precision == "32-true" else _Mixed(machine.precision, machine.device),
        loggers=TensorBoardLogger(out, name="", version="tensorboard"),
    )
    fabric.launch(functools.partial(_start, train=train, threads=machine.threads))


def _start(fabric: Fabric, train: Callable[[Fabric], None], threads: int) -> None:
    if fabric.world_size > 1:
        # Torch interrupts the processes of one that is killed. A run that a script starts in the background ignores
        # interrupts, and so do its processes: they would train on, into the same folder as the run's next start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(threads)
    train(fabric)
    fabric.logger.finalize("success")  # else its writer thread complains when the process ends


class Run:
    """A run on one process of several: where it stands, and what it leaves in its folder.

    `saved` is the checkpoint that it goes on from, None at its start; `step` the steps done, to be counted on.
    """

    def __init__(self, fabric: Fabric, out: Path, checkpoint_minutes: float) -> None:
        self.saved = load_checkpoint(out, fabric.device)
        self.step: int = 0 if self.saved is None else self.saved["step"]
        self._before: float = 0.0 if self.saved is None else self.saved["seconds"]
        self._fabric, self._out, self._wait = fabric, out, checkpoint_minutes * 60
        self._began = self._written = time.monotonic()

    def begin(self) -> None:
        """Starts the clock: what was got ready until now does not count."""
        self._began = self._written = time.monotonic()

    def seconds(self) -> float:
        """Since the run began, earlier stretches included; the first process's, so that all end together."""
        return float(self._fabric.broadcast(self._spent()))

    def _spent(self) -> float:
        return self._before + time.monotonic() - self._began

    def log(self, values: Mapping[str, float]) -> None:
        """Adds numbers of this step to the curve and to tensorboard."""
        self._fabric.log_dict(dict(values), self.step)
        if self._fabric.is_global_zero:
            rounded = {key: round(value, 5) for key, value in values.items()}
            write_line(self._out, {"step": self.step, "seconds": round(self._spent(), 2), **rounded})

    def due(self) -> bool:
        """Whether this process is the first one and its last checkpoint is old enough for the next one."""
        return self._fabric.is_global_zero and time.monotonic() - self._written > self._wait

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint; on the first process only."""
        if self._fabric.is_global_zero:
            save_checkpoint(self._out, {**state, "step": self.step, "seconds": self._spent()})
            self._written = time.monotonic()


class _Prepared(IterableDataset[Any]):
    """`pairs.batches`, made into tensors. Chance in `prepare` is torch's, and depends on seed, step and process."""

    def __init__(
        self, prepare: Callable[[pairs.Pairs], Any], source: pairs.Rendered | pairs.Stored, seed: int, step: int,
        process: int, **drawn: Any,
    ) -> None:  # fmt: skip
        self._prepare, self._seed, self._step, self._process = prepare, seed, step, process
        self._drawn = functools.partial(pairs.batches, source, seed=seed, step=step, process=process, **drawn)

    def __iter__(self) -> Iterator[Any]:
        for step, batch in enumerate(self._drawn(), self._step):
            torch.manual_seed(int(np.random.default_rng((self._seed, self._process, step)).integers(2**62)))
            yield self._prepare(batch)


def load(
    fabric: Fabric,
    source: pairs.Rendered | pairs.Stored,
    prepare: Callable[[pairs.Pairs], Any],
    size: int,
    seed: int,
    step: int,
    alike: float = 0.0,
) -> Iterator[Any]:
    """Endless batches from `step` on, prepared and on the process's device; the first is ready when this returns.

    With a GPU a process of its own prepares ahead.
    """
    data = _Prepared(
        prepare, source, seed, step, fabric.global_rank, size=size, processes=fabric.world_size, alike=alike
    )
    gpu = fabric.device.type == "cuda"
    loader = DataLoader(data, batch_size=None, num_workers=int(gpu), pin_memory=gpu)
    batches = iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))
    return itertools.chain([next(batches)], batches)
