# SPDX-License-Identifier: Apache-2.0
"""Training of the paper's transfer networks: losses, a step, the loop; on one process or several.

From the authors' code where the paper is silent (see models/msa.py): batch of 8, batch norm's start, no
augmentation, no decay of the rate. The code asks for 100 epochs; the published checkpoints are of about epoch 20.
Adversarial loss: the paper writes binary cross-entropy (`bce`), the code has mean squared error (`lsgan`, the
default).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from shared.skeleton import Skeleton

from . import transfer_training, weights
from .msa import MsaGenerator, PatchGan, encode, initialise
from .pairs import Pairs, Rendered, Stored
from .transfer_training import Machine, Run

# --- losses -------------------------------------------------------------------------------------------------

Adversarial = Literal["lsgan", "bce"]


def adversarial_loss(logits: Tensor, real: bool, kind: Adversarial) -> Tensor:
    """Distance of the critic's logits from "real" or "not real": squared error (the code) or cross-entropy
    (the paper)."""
    label = torch.full_like(logits, float(real))
    if kind == "lsgan":
        return F.mse_loss(logits, label)
    return F.binary_cross_entropy_with_logits(logits, label)


class Vgg19Loss(nn.Module):
    """The paper's perceptual loss: L1 between features of VGG-19 after layers 4 and 9 (relu1_2 and relu2_2).

    As in the authors' code both pictures are stretched to 0..1, each batch by its own extremes, before ImageNet's
    normalisation.

    Args:
        path (`Path`): torchvision's state dict of VGG-19 (IMAGENET1K_V1); it does not come with Walk-On.

    Raises:
        BadInput: unreadable, or lacks these layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(64, 128, 3, 1, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        fix = "Give torchvision's vgg19-dcbb9e9d.pth, unchanged"
        self.load_state_dict(weights.read_checkpoint(path, self.state_dict(), fix, extra=True))
        self.requires_grad_(False)

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Scalar loss of two `(B, 3, H, W)` batches."""
        loss = torch.zeros((), device=real.device)
        x, y = self._normalised(generated), self._normalised(real)
        for layers in (self.features[:4], self.features[4:]):
            x, y = layers(x), layers(y)
            loss = loss + F.l1_loss(x, y)
        return loss

    def _normalised(self, batch: Tensor) -> Tensor:
        low, high = batch.min(), batch.max()
        return ((batch - low) / (high - low).clamp_min(1e-6) - self.mean) / self.std


class EdgeLoss(nn.Module):
    """What stands in for `Vgg19Loss` without VGG's weights: L1 between differences of neighbouring pixels at full,
    half and quarter resolution. It sharpens edges but knows nothing of textures."""

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Scalar loss of two `(B, 3, H, W)` batches."""
        loss = torch.zeros((), device=real.device)
        for level in range(3):
            if level:
                generated, real = F.avg_pool2d(generated, 2), F.avg_pool2d(real, 2)
            for axis in (2, 3):
                loss = loss + F.l1_loss(generated.diff(dim=axis), real.diff(dim=axis))
        return loss


# --- training -----------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Training pairs: pictures `(B, 3, 256, 256)` in -1..1 and both pose maps `(B, 36, 256, 256)`."""

    source: Tensor
    target: Tensor
    poses: Tensor


@dataclass
class Trainer:
    """Both networks, their optimisers and losses, on one process of several.

    Args:
        fabric (`Fabric`): launched; its precision and its processes are used.
        generator, critic: the networks, the same on every process.
        perceptual (`nn.Module`): `Vgg19Loss` or `EdgeLoss`.
        adversarial (`str`, *optional*, defaults to `"lsgan"`): or `"bce"`.
        rate (`float`, *optional*, defaults to 1e-3): of Adam with betas 0.5, 0.999 (section IV).
    """

    fabric: Fabric
    generator: nn.Module
    critic: nn.Module
    perceptual: nn.Module
    adversarial: Adversarial = "lsgan"
    rate: float = 1e-3

    def __post_init__(self) -> None:
        generator_optimiser = torch.optim.Adam(self.generator.parameters(), self.rate, (0.5, 0.999))
        critic_optimiser = torch.optim.Adam(self.critic.parameters(), self.rate, (0.5, 0.999))
        self._generator, self._generator_optimiser = self.fabric.setup(self.generator, generator_optimiser)
        self._critic, self._critic_optimiser = self.fabric.setup(self.critic, critic_optimiser)
        self.perceptual = self.perceptual.to(self.fabric.device)

    def step(self, batch: Batch) -> dict[str, float]:
        """One step of the critic, then one of the generator: 5 L1 + adversarial + 5 perceptual (section III-C).

        Returns:
            the losses before the step.
        """
        fake = self._generator(batch.source, batch.poses)

        self.critic.requires_grad_(True)
        judged_fake = self._critic(torch.cat([batch.source, fake.detach()], 1))
        judged_real = self._critic(torch.cat([batch.source, batch.target], 1))
        critic_loss = 0.5 * (
            adversarial_loss(judged_fake, False, self.adversarial)
            + adversarial_loss(judged_real, True, self.adversarial)
        )
        self._critic_optimiser.zero_grad()
        self.fabric.backward(critic_loss)
        self._critic_optimiser.step()

        # The bare critic: its own gradients are not wanted, so there is nothing for the processes to share.
        self.critic.requires_grad_(False)
        with self.fabric.autocast():
            judged = self.critic(torch.cat([batch.source, fake], 1)).float()
        l1 = F.l1_loss(fake, batch.target)
        fooled = adversarial_loss(judged, True, self.adversarial)
        perceptual = self.perceptual(fake, batch.target)
        self._generator_optimiser.zero_grad()
        self.fabric.backward(5 * l1 + fooled + 5 * perceptual)
        self._generator_optimiser.step()
        return {
            "l1": l1.item(),
            "fooled": fooled.item(),
            "perceptual": perceptual.item(),
            "critic": critic_loss.item(),
        }

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on."""
        return {
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "generator_optimiser": self._generator_optimiser.state_dict(),
            "critic_optimiser": self._critic_optimiser.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up `state`."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self._generator_optimiser.load_state_dict(state["generator_optimiser"])
        self._critic_optimiser.load_state_dict(state["critic_optimiser"])


def prepare(pairs: Pairs) -> Batch:
    """Pairs in the networks' frame."""
    images, maps = {}, {}
    for side, xy, visible in (("src", "ks", "vs"), ("tgt", "kt", "vt")):
        encoded = []
        for rgba, points, state in zip(pairs[side], pairs[xy], pairs[visible], strict=True):
            person = rgba.astype(np.float32) / 255
            person[..., :3] *= person[..., 3:]
            encoded.append(encode(person, Skeleton(points, state > 0)))
        images[side] = torch.from_numpy(np.stack([image for image, _ in encoded]))
        maps[side] = torch.from_numpy(np.stack([pose for _, pose in encoded]))
    return Batch(images["src"], images["tgt"], torch.cat([maps["src"], maps["tgt"]], 1))


@dataclass(frozen=True)
class Options:
    """What a training run is made of.

    Args:
        source (`Rendered` or `Stored`): where the pairs come from.
        out (`Path`): folder of the run.
        steps (`int`): in all, including those of the checkpoint.
        minutes (`float`): stop earlier after this long, resumed runs included.
        batch (`int`): pairs a step on each process; 8 in all is the authors'.
        ngf (`int`): width of generator and critic; 64 is the paper's.
        adversarial (`str`): see `Trainer`.
        vgg (`Path`, *optional*): VGG-19's weights for the paper's perceptual loss; `EdgeLoss` without.
        seed (`int`): of the weights' start, the people and the order of pairs.
        machine (`Machine`): what it runs on.
        checkpoint_minutes (`float`): between checkpoints.
    """

    source: Rendered | Stored
    out: Path
    steps: int
    minutes: float = math.inf
    batch: int = 8
    ngf: int = 64
    adversarial: Adversarial = "lsgan"
    vgg: Path | None = None
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    checkpoint_minutes: float = 5.0


def train(options: Options) -> None:
    """Trains, going on from `out`/checkpoint.pt where there is one, on as many processes as the options say.

    Writes `out`/checkpoint.pt, `out`/curve.jsonl and `out`/tensorboard (every 50 steps), and at the end `out`/weights
    as models/weights holds them.

    Raises:
        BadInput: no pairs, they cannot be rendered, or VGG's weights do not fit.
    """
    transfer_training.launch(functools.partial(_train, options=options), options.out, options.machine)


def _train(fabric: Fabric, options: Options) -> None:
    torch.manual_seed(options.seed)
    generator, critic = MsaGenerator(ngf=options.ngf), PatchGan(ndf=options.ngf)
    for network in (generator, critic):
        initialise(network)
    perceptual = Vgg19Loss(options.vgg) if options.vgg else EdgeLoss()
    trainer = Trainer(fabric, generator, critic, perceptual, options.adversarial)
    run = Run(fabric, options.out, options.checkpoint_minutes)
    if run.saved is not None:
        trainer.load(run.saved["trainer"])
    batches = transfer_training.load(fabric, options.source, prepare, options.batch, options.seed, run.step)
    run.begin()
    while run.step < options.steps and run.seconds() < options.minutes * 60:
        losses = trainer.step(next(batches))
        run.step += 1
        if run.step % 50 == 0 or run.step == options.steps:
            run.log(losses)
        if run.due():
            run.save({"trainer": trainer.state()})
    if fabric.is_global_zero:
        run.save({"trainer": trainer.state()})
        weights.save(generator, {"ngf": options.ngf}, options.out / "weights")
