# SPDX-License-Identifier: Apache-2.0
"""Transfer as in the paper: multi-scale attention guided pose transfer, its losses, training and import.

Section III-C of the paper, whose details the authors' code settles (prasunroy/pose-transfer, commit 9193757,
Apache-2.0; written anew here, with the names of its parameters so that its checkpoints load). Where text and
code differ:

- What the pose gates at levels 1 to 3: the paper's formula has the image encoder's feature, its words ("output
  from decoder block") and the code the running decoder feature; there is no skip from the image encoder. The
  code's form is taken: its weights need it.
- Adversarial loss: the paper writes binary cross-entropy, the code has mean squared error (LSGAN). The code's is
  the default, `bce` the choice.
- Not in the paper, from the code: batch of 8, batch norm's start, no augmentation, no decay of the rate. The
  code asks for 100 epochs; the published checkpoints are of about epoch 20.

Convention of pictures (the code's `api.py`): a person on white in a 256-pixel square, of which only the middle 176
columns are used, values -1..1. Poses are one-hot maps: one pixel of 1 per visible joint, in 18 channels each for
source and target.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import weights
from models.motion import Person
from shared.errors import BadInput, MissingWeights
from shared.skeleton import NUM_JOINTS, Skeleton

SIZE = 256
COLUMNS = 176  # 256 * 11 / 16, DeepFashion's width
_LEFT = (SIZE - COLUMNS) // 2

ATTRIBUTION = (
    "Weights of 'Multi-scale Attention Guided Pose Transfer' by Prasun Roy, Saumik Bhattacharya, Subhankar Ghosh "
    "and Umapada Pal (Pattern Recognition, 2023, doi:10.1016/j.patcog.2023.109315), from prasunroy/pose-transfer, "
    "licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); the file format was changed, the "
    "values were not. "
    "They were trained on DeepFashion, whose pictures are for non-commercial research."
)


# --- networks -----------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to the input; no activation after the sum (the authors' code)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same."""
        return x + self.layers(x)


def _enter(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), ResidualBlock(outputs))


def _double(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), ResidualBlock(outputs))


class MsaGenerator(nn.Module):
    """The paper's G_R: 90,172,928 parameters at full size.

    Args:
        image_channels (`int`, *optional*, defaults to 3): of the source picture.
        pose_channels (`int`, *optional*, defaults to 36): of the source's and target's pose maps together.
        out_channels (`int`, *optional*, defaults to 3): of the generated picture.
        ngf (`int`, *optional*, defaults to 64): channels at full resolution; doubled at each of four halvings.
    """

    def __init__(
        self, image_channels: int = 3, pose_channels: int = 36, out_channels: int = 3, ngf: int = 64
    ) -> None:
        super().__init__()
        # in1 is the image branch, in2 the pose branch: the authors' names.
        self.in1_conv1 = _enter(image_channels, ngf)
        self.in1_down1 = _halve(ngf, ngf * 2)
        self.in1_down2 = _halve(ngf * 2, ngf * 4)
        self.in1_down3 = _halve(ngf * 4, ngf * 8)
        self.in1_down4 = _halve(ngf * 8, ngf * 16)

        self.in2_conv1 = _enter(pose_channels, ngf)
        self.in2_down1 = _halve(ngf, ngf * 2)
        self.in2_down2 = _halve(ngf * 2, ngf * 4)
        self.in2_down3 = _halve(ngf * 4, ngf * 8)
        self.in2_down4 = _halve(ngf * 8, ngf * 16)

        self.out_up1 = _double(ngf * 16, ngf * 8)
        self.out_up2 = _double(ngf * 8, ngf * 4)
        self.out_up3 = _double(ngf * 4, ngf * 2)
        self.out_up4 = _double(ngf * 2, ngf)
        blocks = [ResidualBlock(ngf) for _ in range(4)]
        self.out_conv1 = nn.Sequential(*blocks, nn.Conv2d(ngf, out_channels, 1, bias=False), nn.Tanh())

    def forward(self, image: Tensor, poses: Tensor) -> Tensor:
        """The person of `image` in the target pose.

        Args:
            image (`(B, 3, H, W)`): source, -1..1; H and W multiples of 16.
            poses (`(B, 36, H, W)`): one-hot maps of source and target.

        Returns:
            `(B, 3, H, W)` in -1..1.
        """
        encoded = self.in1_down4(self.in1_down3(self.in1_down2(self.in1_down1(self.in1_conv1(image)))))

        pose1 = self.in2_down1(self.in2_conv1(poses))
        pose2 = self.in2_down2(pose1)
        pose3 = self.in2_down3(pose2)
        pose4 = self.in2_down4(pose3)

        y = self.out_up1(encoded * torch.sigmoid(pose4))
        y = self.out_up2(y * torch.sigmoid(pose3))
        y = self.out_up3(y * torch.sigmoid(pose2))
        y = self.out_up4(y * torch.sigmoid(pose1))
        return self.out_conv1(y)


class PatchGan(nn.Module):
    """The paper's D_R, judging 70x70 patches: 2,768,705 parameters at full size.

    Args:
        in_channels (`int`, *optional*, defaults to 6): of source and target picture together.
        ndf (`int`, *optional*, defaults to 64): channels of the first layer.
    """

    def __init__(self, in_channels: int = 6, ndf: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, outputs, stride in ((ndf, ndf * 2, 2), (ndf * 2, ndf * 4, 2), (ndf * 4, ndf * 8, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(ndf * 8, 1, 4, 1, 1))

    def forward(self, pair: Tensor) -> Tensor:
        """`(B, 6, H, W)` source and target to logits, `(B, 1, 30, 30)` for 256 pixels."""
        return self.layers(pair)


def initialise(network: nn.Module) -> None:
    """The paper's start (section IV): weights from N(0, 0.02), batch norm's from N(1, 0.02) as in the code."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- codec --------------------------------------------------------------------------------------------------


def pose_maps(xy: NDArray[Any], visible: NDArray[Any]) -> NDArray[np.float32]:
    """One-hot maps: the pixel in which each visible joint lies is 1, all else 0.

    Args:
        xy (`(18, 2)` array): pixels of the 256 frame.
        visible (`(18,)` bool array): joints outside the frame count as not visible.

    Returns:
        `(18, 256, 256)` float32 array.
    """
    maps = np.zeros((NUM_JOINTS, SIZE, SIZE), np.float32)
    columns, rows = np.floor(xy).astype(int).T
    inside = visible & (columns >= 0) & (rows >= 0) & (columns < SIZE) & (rows < SIZE)
    joints = np.flatnonzero(inside)
    maps[joints, rows[joints], columns[joints]] = 1.0
    return maps


class Window(NamedTuple):
    """A square of whole pixels that is brought to the 256 frame: its top-left pixel and its size."""

    x: int
    y: int
    size: int


def window_of(skeleton: Skeleton) -> Window:
    """The square around a person in which it fills the middle 176 of 256 columns or the height, as DeepFashion's.

    The joints end at eyes and ankles, so room is left for the top of the head, hands and feet.
    """
    x0, y0, x1, y1 = skeleton.box
    height, width = max(y1 - y0, 1.0), max(x1 - x0, 1.0)
    reach = 0.12 * max(height, width)
    size = max(height + 2.2 * reach, (width + 2 * reach) * SIZE / COLUMNS)
    size_px = max(8, round(size))
    return Window(
        round((x0 + x1 - size_px) / 2), round((y0 - 1.2 * reach + y1 + reach - size_px) / 2), size_px
    )


def encode(
    premultiplied: NDArray[np.float32], skeleton: Skeleton
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A person as the networks see it.

    Args:
        premultiplied (`(H, W, 4)` float32 array): the person cut out, 0..1.
        skeleton (`Skeleton`): in the same pixels.

    Returns:
        the person on white in its window, `(3, 256, 256)` in -1..1, and its pose maps `(18, 256, 256)`.
    """
    window = window_of(skeleton)
    crop = np.zeros((window.size, window.size, 4), np.float32)
    height, width = premultiplied.shape[:2]
    top, bottom = max(window.y, 0), min(window.y + window.size, height)
    left, right = max(window.x, 0), min(window.x + window.size, width)
    if top < bottom and left < right:
        inner = np.s_[top - window.y : bottom - window.y, left - window.x : right - window.x]
        crop[inner] = premultiplied[top:bottom, left:right]
    person = _resized(crop, SIZE)
    white = person[..., :3] + (1 - person[..., 3:])
    white[:, :_LEFT] = white[:, SIZE - _LEFT :] = 1.0
    return np.ascontiguousarray(np.moveaxis(white * 2 - 1, 2, 0)), _maps_in(window, skeleton)


def _maps_in(window: Window, skeleton: Skeleton) -> NDArray[np.float32]:
    return pose_maps((skeleton.xy - (window.x, window.y)) * (SIZE / window.size), skeleton.visible)


def _resized(square: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    method = cv2.INTER_AREA if size < square.shape[0] else cv2.INTER_CUBIC
    return np.clip(cv2.resize(square, (size, size), interpolation=method), 0, 1).astype(np.float32)


def cut_from_white(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """A generated person on white, cut out.

    Alpha is what differs from white, one connected figure of it, with white inside the figure (a shirt) kept.

    Args:
        rgb (`(256, 256, 3)` float32 array): 0..1.

    Returns:
        `(256, 256, 4)` float32 array, premultiplied; zero in the outer columns.
    """
    difference = 1 - rgb.min(axis=2)
    difference[:, :_LEFT] = difference[:, SIZE - _LEFT :] = 0
    coloured = (difference > 0.08).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(coloured, connectivity=8)
    if count < 2:
        return np.zeros((*rgb.shape[:2], 4), np.float32)
    figure = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    # What the figure encloses is the figure; 5 pixels bridge small gaps of its outline.
    closed = cv2.morphologyEx(figure.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(closed)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    inside = cv2.erode(filled, np.ones((5, 5), np.uint8)) > 0
    near = cv2.dilate(filled, np.ones((3, 3), np.uint8)) > 0
    # At the edge a pixel covers as much as its difference has of the fullest one beside it.
    full = cv2.dilate(difference * filled, np.ones((5, 5), np.uint8))
    edge = np.where(near, difference / np.maximum(full, 0.04), 0.0)
    alpha = np.where(inside, 1.0, np.clip(edge, 0, 1)).astype(np.float32)
    alpha[:, :_LEFT] = alpha[:, SIZE - _LEFT :] = 0
    # The generated colour is the person's over white: taking the white away leaves the premultiplied colour.
    colour = np.clip(rgb - (1 - alpha[..., None]), 0, alpha[..., None])
    return np.concatenate([colour, alpha[..., None]], axis=2).astype(np.float32)


# --- inference ----------------------------------------------------------------------------------------------


class MsaTransfer:
    """Paints the actor with installed weights of `MsaGenerator`, at 256 pixels.

    Args:
        name (`str`, *optional*, defaults to `"msa"`): the weights' folder in models/weights/transfer.

    Raises:
        MissingWeights: they aren't installed (none come with Walk-On) or do not fit.
    """

    def __init__(self, name: str = "msa") -> None:
        if not (weights.ROOT / "transfer" / name).is_dir():
            raise MissingWeights(
                f"transfer/{name}: no weights of the paper's generator are installed",
                "Get netG_260500.pth from the authors (prasunroy/pose-transfer) and run: "
                "walkon models import netG_260500.pth",
                f"transfer/{name}",
            )
        self.generator = weights.load(MsaGenerator, "transfer", name)

    def transfer(
        self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton, target: Skeleton
    ) -> Person:
        """The actor in the target pose.

        Source and target are brought to the frame separately, as in the pictures the network is trained on.

        Args:
            rgb (`(H, W, 3)` uint8 array): the actor photo.
            matte (`(H, W)` float32 array): the actor's.
            source (`Skeleton`): the actor's, in pixels of the photo.
            target (`Skeleton`): the pose wanted, in pixels of the scene.

        Raises:
            BadInput: no joint is visible.
        """
        alpha = matte[..., None]
        image, source_maps = encode(np.concatenate([rgb / np.float32(255) * alpha, alpha], axis=2), source)
        place = window_of(target)
        poses = np.concatenate([source_maps, _maps_in(place, target)])
        with torch.inference_mode():
            output = self.generator(torch.from_numpy(image)[None], torch.from_numpy(poses)[None])
        rgba = _resized(cut_from_white(output[0].permute(1, 2, 0).numpy() * 0.5 + 0.5), place.size)
        rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])  # cubic enlarging overshoots
        return Person(rgba, place.x, place.y)


# --- import -------------------------------------------------------------------------------------------------


def import_checkpoint(path: Path, folder: Path | None = None, ngf: int = 64) -> Path:
    """Installs a generator's checkpoint in the authors' layout; the caller shows `ATTRIBUTION`.

    Args:
        path (`Path`): netG_*.pth, a state dict written by `torch.save`.
        folder (`Path`, *optional*): where to; models/weights/transfer/msa if not given. Replaced if it exists.
        ngf (`int`, *optional*): the generator's width.

    Returns:
        the folder.

    Raises:
        BadInput: unreadable, no plain state dict, or names, shapes or values that do not fit.
    """
    from safetensors.torch import save_file

    folder = folder or weights.ROOT / "transfer" / "msa"
    state = _read_state(path)
    with torch.device("meta"):
        expected = MsaGenerator(ngf=ngf).state_dict()
    _check_state(path, state, expected)
    # A new folder under a temporary name, so that an interrupted import leaves nothing half done.
    fresh = folder.with_name(folder.name + ".new")
    fresh.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, fresh / "model.safetensors")
    (fresh / "config.json").write_text(json.dumps({"ngf": ngf}, indent=2) + "\n", encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = (
        f"# transfer/{folder.name}\n\n{ATTRIBUTION}\n\n"
        f"Imported from `{path.name}`, sha256 `{digest}`. Not part of Walk-On and not to be committed to it.\n"
    )
    (fresh / "card.md").write_text(card, encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for file in fresh.iterdir():
        file.replace(folder / file.name)
    fresh.rmdir()
    weights.sha256.cache_clear()
    return folder


def _read_state(path: Path) -> Mapping[str, Tensor]:
    fix = "Give netG_260500.pth as the authors publish it"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})", fix, str(path)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: is not a PyTorch file of plain tensors", fix, str(path)) from error
    if not isinstance(state, Mapping):
        raise BadInput(f"{path}: holds a {type(state).__name__}, not named tensors", fix, str(path))
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise BadInput(f"{path}: {key} is a {type(value).__name__}, not a tensor", fix, str(path))
    return state


def _check_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises BadInput that names the first tensor in which `state` differs from what is expected."""
    fix = "Give the generator's checkpoint (netG_*.pth) of prasunroy/pose-transfer, unchanged"
    for key, wanted in expected.items():
        if key not in state:
            raise BadInput(f"{path}: lacks the tensor {key}", fix, str(path))
        found = state[key]
        if found.shape != wanted.shape:
            raise BadInput(
                f"{path}: {key} has the shape {tuple(found.shape)}, not {tuple(wanted.shape)}", fix, str(path)
            )
        if found.dtype != wanted.dtype:
            raise BadInput(f"{path}: {key} is {found.dtype}, not {wanted.dtype}", fix, str(path))
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise BadInput(f"{path}: {key} holds values that are not finite", fix, str(path))
    for key in state:
        if key not in expected:
            raise BadInput(f"{path}: has an extra tensor {key}", fix, str(path))


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
        expected = self.state_dict()
        state = {key: value for key, value in _read_state(path).items() if key in expected}
        _check_state(path, state, expected)
        self.load_state_dict(state)
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
    """Both networks, their optimisers and losses.

    Args:
        generator, critic: the networks.
        perceptual (`nn.Module`): `Vgg19Loss` or `EdgeLoss`.
        adversarial (`str`, *optional*, defaults to `"lsgan"`): or `"bce"`.
        rate (`float`, *optional*, defaults to 1e-3): of Adam with betas 0.5, 0.999 (section IV).
    """

    generator: nn.Module
    critic: nn.Module
    perceptual: nn.Module
    adversarial: Adversarial = "lsgan"
    rate: float = 1e-3

    def __post_init__(self) -> None:
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), self.rate, (0.5, 0.999))
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), self.rate, (0.5, 0.999))

    def step(self, batch: Batch) -> dict[str, float]:
        """One step of the critic, then one of the generator: 5 L1 + adversarial + 5 perceptual (section III-C).

        Returns:
            the losses before the step.
        """
        fake = self.generator(batch.source, batch.poses)

        self.critic.requires_grad_(True)
        judged_fake = self.critic(torch.cat([batch.source, fake.detach()], 1))
        judged_real = self.critic(torch.cat([batch.source, batch.target], 1))
        critic_loss = 0.5 * (
            adversarial_loss(judged_fake, False, self.adversarial)
            + adversarial_loss(judged_real, True, self.adversarial)
        )
        self.critic_optimiser.zero_grad()
        critic_loss.backward()
        self.critic_optimiser.step()

        self.critic.requires_grad_(False)
        judged = self.critic(torch.cat([batch.source, fake], 1))
        l1 = F.l1_loss(fake, batch.target)
        fooled = adversarial_loss(judged, True, self.adversarial)
        perceptual = self.perceptual(fake, batch.target)
        self.generator_optimiser.zero_grad()
        (5 * l1 + fooled + 5 * perceptual).backward()
        self.generator_optimiser.step()
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
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up `state`."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])


def _batch_of(pairs: Mapping[str, NDArray[Any]]) -> Batch:
    """Pairs of a shard in the networks' frame."""
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


def batches(folder: Path, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Endless batches of the pair shards in `folder` (`*.npz`, written by models/people.py).

    A shard is read whole, its pairs in random order; a remainder smaller than a batch is left out. Shards that
    are added are seen in the next pass. The order depends on the shards, the seed and `start`, the step at which
    training begins or goes on.

    Raises:
        BadInput: no shards there, or none holds as many pairs as a batch.
    """
    rng = np.random.default_rng((seed, start))
    while True:
        made = 0
        files = sorted(folder.glob("*.npz"))
        if not files:
            raise BadInput(f"{folder}: holds no pair shards (*.npz)", "Render pairs first", str(folder))
        for index in rng.permutation(len(files)):
            with np.load(files[index]) as shard:
                pairs = {key: shard[key] for key in ("src", "tgt", "ks", "kt", "vs", "vt")}
            order = rng.permutation(len(pairs["ks"]))
            for first in range(0, len(order) - size + 1, size):
                chosen = order[first : first + size]
                made += 1
                yield _batch_of({key: value[chosen] for key, value in pairs.items()})
        if not made:
            raise BadInput(
                f"batch: {size} is more than any shard of {folder} holds", "Ask for smaller batches", "batch"
            )


def train(
    pairs: Path,
    out: Path,
    steps: int,
    minutes: float = math.inf,
    batch: int = 8,
    ngf: int = 64,
    adversarial: Adversarial = "lsgan",
    vgg: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint_minutes: float = 5.0,
) -> MsaGenerator:
    """Trains, going on from `out`/checkpoint.pt where there is one; returns the generator.

    Writes `out`/checkpoint.pt, `out`/curve.jsonl (a line per 50 steps) and at the end `out`/weights as
    models/weights holds them.

    Args:
        pairs (`Path`): folder with `train/*.npz`, pair shards of models/people.py.
        out (`Path`): folder of the run.
        steps (`int`): in all, including those of the checkpoint.
        minutes (`float`): stop earlier after this long; a later call continues.
        batch (`int`): pairs a step; 8 is the authors'.
        ngf (`int`): width of generator and critic; 64 is the paper's.
        adversarial (`str`): see `Trainer`.
        vgg (`Path`, *optional*): VGG-19's weights for the paper's perceptual loss; `EdgeLoss` without.
        seed (`int`): of the weights' start and the order of pairs.
        device (`str`): of PyTorch.
        checkpoint_minutes (`float`): between checkpoints.
    """
    torch.manual_seed(seed)
    generator, critic = MsaGenerator(ngf=ngf), PatchGan(ndf=ngf)
    perceptual = Vgg19Loss(vgg) if vgg else EdgeLoss()
    for network in (generator, critic):
        initialise(network)
    trainer = Trainer(generator.to(device), critic.to(device), perceptual.to(device), adversarial)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, step, seconds = out / "checkpoint.pt", 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        trainer.load(saved["trainer"])
        step, seconds = saved["step"], saved["seconds"]
    began = written = time.monotonic()

    def save() -> None:
        state = {"trainer": trainer.state(), "step": step, "seconds": seconds + time.monotonic() - began}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    data = batches(pairs / "train", batch, seed, step)
    while step < steps and time.monotonic() - began < minutes * 60:
        losses = trainer.step(Batch(*(tensor.to(device) for tensor in next(data))))
        step += 1
        if step % 50 == 0 or step == steps:
            line = {"step": step, "seconds": round(seconds + time.monotonic() - began, 1), **losses}
            with (out / "curve.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if time.monotonic() - written > checkpoint_minutes * 60:
            save()
            written = time.monotonic()
    save()
    weights.save(generator, {"ngf": ngf}, out / "weights")
    return generator.eval()
