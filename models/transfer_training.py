# SPDX-License-Identifier: Apache-2.0
"""What the training of the transfer networks has in common: several processes, mixed precision, a run's clock and
folder, the way from pairs to batches, and the loop of all networks but `msa`."""

from __future__ import annotations

import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from . import pairs, weights
from .training import follow, load_checkpoint, save_checkpoint, write_line

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


# ------------------------------------------------------------------------------------------------------- the loop


@dataclass(frozen=True)
class Options:
    """What a training run of `Motion`, `Head` or `Retouch` is made of.

    Args:
        source (`Rendered` or `Stored`): where the pairs come from.
        out (`Path`): folder of the run.
        minutes (`float`): in all, resumed runs included; the rate falls to nothing along a cosine.
        batch (`int`): pairs a step on each process.
        rate (`float`): AdamW's learning rate at the start.
        seed (`int`): of the people, the order of pairs and their faults.
        start (`Path`, *optional*): a `model.safetensors` to begin a new run from, as far as it fits.
        machine (`Machine`): what it runs on.
    """

    source: pairs.Rendered | pairs.Stored
    out: Path
    minutes: float = 90.0
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0
    start: Path | None = None
    machine: Machine = field(default_factory=Machine)


@dataclass(frozen=True)
class Judged:
    """What a critic (`models/critic.py`) sees of a network's output.

    Args:
        critic: makes it.
        shown: of output and batch: what the network made and what was rendered, as the critic takes them, and how much
            each of its patches counts.
        weight (`float`): of what it says in the network's loss.
    """

    critic: Callable[[], nn.Module]
    shown: Callable[[Any, Any], tuple[Tensor, Tensor, Tensor]]
    weight: float


@dataclass(frozen=True)
class Lesson:
    """What one network is taught.

    Args:
        network: makes it; it has a `config`.
        prepare: pairs as read and whether to add a photo's faults -> a batch, a named tuple of tensors.
        predict: network, batch -> output.
        losses: output, batch -> scalars, `total` among them.
        held_out (`int`): how many pairs it is tested on.
        alike (`float`, *optional*, defaults to 0): see `pairs.batches`.
        judged (`Judged`, *optional*): its critic.
    """

    network: Callable[[], nn.Module]
    prepare: Callable[[pairs.Pairs, bool], Any]
    predict: Callable[[nn.Module, Any], Any]
    losses: Callable[[Any, Any], dict[str, Tensor]]
    held_out: int
    alike: float = 0.0
    judged: Judged | None = None


_ALONE = 0.15
"""Share of a training from nothing in which there is no critic: nothing can be learned from one that sees through
everything."""


def begin_from(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Takes over what fits of other weights: layers that have grown at the end of their outputs or inputs keep what
    they had, and new inputs count for nothing at first; new layers start as they are."""
    state = network.state_dict()
    for key, value in tensors.items():
        grown = state.get(key)
        if grown is None or value.dim() != grown.dim() or value.shape[2:] != grown.shape[2:]:
            continue
        if all(had <= has for had, has in zip(value.shape, grown.shape, strict=True)):
            outputs = grown[: len(value)]
            outputs.zero_()
            outputs[tuple(slice(had) for had in value.shape)] = value.float()
    network.load_state_dict(state)


def fit(fabric: Fabric, options: Options, lesson: Lesson, name: str) -> None:
    """Trains a network, going on from `out`/checkpoint.pt where there is one.

    Writes `out`/curve.jsonl and `out`/tensorboard (every 25 steps), and every three minutes `out`/checkpoint.pt, the
    running average as weights to install, `out`/`name`, and its losses on held-out pairs where the source has any.
    """
    torch.manual_seed(options.seed)  # the same networks on every process
    network, average = (lesson.network().to(fabric.device) for _ in range(2))
    average.eval()
    judged = lesson.judged
    critic = None if judged is None else judged.critic().to(fabric.device)
    # With float16 the gradients are unscaled before they are clipped, which the fused optimiser does not allow.
    fused = options.machine.precision != "16-mixed"
    optimiser = torch.optim.AdamW(
        network.parameters(), options.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=fused
    )
    kept: dict[str, Any] = {"network": network, "average": average, "optimiser": optimiser}
    trained, stepper = fabric.setup(network, optimiser)
    judge: Any = None
    judge_stepper: Any = None
    if critic is not None:
        critic_optimiser = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
        kept |= {"critic": critic, "critic_optimiser": critic_optimiser}
        judge, judge_stepper = fabric.setup(critic, critic_optimiser)
    run = Run(fabric, options.out, checkpoint_minutes=3)
    if run.saved is not None:
        for key, value in kept.items():
            value.load_state_dict(run.saved[key])
    else:
        if options.start is not None:
            begin_from(network, load_file(options.start))
        average.load_state_dict(network.state_dict())
    held_out = options.source.held_out(options.seed, lesson.held_out) if fabric.is_global_zero else None
    faulty = functools.partial(lesson.prepare, augment=True)  # type: ignore[call-arg]
    batches = load(fabric, options.source, faulty, options.batch, options.seed, run.step, lesson.alike)

    def save() -> None:
        run.save({key: value.state_dict() for key, value in kept.items()})
        weights.save(average, average.config, options.out / name)  # type: ignore[arg-type]
        if held_out is not None:
            with torch.no_grad():
                batch = fabric.to_device(lesson.prepare(held_out, False))
                parts = lesson.losses(lesson.predict(average, batch), batch)
            run.log({f"val_{key}": value.item() for key, value in parts.items()})

    alone = _ALONE if options.start is None else 0.0
    sums: dict[str, float] = {}
    steps = 0  # in `sums`
    run.begin()
    while (done := run.seconds() / (60 * options.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1, (run.step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = next(batches)
        with fabric.autocast():
            out = lesson.predict(trained, batch)
            parts = lesson.losses(out, batch)
        total = parts["total"]
        if judged is not None and critic is not None and judge is not None and done >= alone:
            made, real, counts = judged.shown(out, batch)
            counts = counts / counts.sum().clamp_min(1)
            critic.requires_grad_(True)
            wrong = (counts * (judge(made.detach()).square() + (judge(real) - 1).square())).sum()
            judge_stepper.zero_grad()
            fabric.backward(wrong)
            judge_stepper.step()
            critic.requires_grad_(False)
            # The bare critic: its own gradients are not wanted, so there is nothing for the processes to share.
            with fabric.autocast():
                fooled = (counts * (critic(made) - 1).square()).sum()
            total = total + judged.weight * fooled
            parts |= {"critic": wrong, "fooled": fooled}
        stepper.zero_grad()
        fabric.backward(total)
        fabric.clip_gradients(trained, stepper, max_norm=1.0)
        stepper.step()
        run.step += 1
        follow(average, network, min(0.995, (run.step + 1) / (run.step + 20)))
        for key, value in parts.items():
            sums[key] = sums.get(key, 0.0) + value.item()
        steps += 1
        if run.step % 25 == 0:
            run.log({key: value / steps for key, value in sums.items()})
            sums, steps = {}, 0
        if run.due():
            save()
    if steps:
        run.log({key: value / steps for key, value in sums.items()})
    if fabric.is_global_zero:
        save()
