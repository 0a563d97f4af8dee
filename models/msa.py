# SPDX-License-Identifier: Apache-2.0
"""Transfer as in the paper: multi-scale attention guided pose transfer, and the import of its authors' weights.

Section III-C of the paper, whose details the authors' code settles (prasunroy/pose-transfer, commit 9193757,
Apache-2.0; written anew here, with the names of its parameters so that its checkpoints load). Where text and
code differ:

- What the pose gates at levels 1 to 3: the paper's formula has the image encoder's feature, its words ("output
  from decoder block") and the code the running decoder feature; there is no skip from the image encoder. The
  code's form is taken: its weights need it.

models/msa_training.py trains it.

Convention of pictures (the code's `api.py`): a person on white in a 256-pixel square, of which only the middle 176
columns are used, values -1..1. Poses are one-hot maps: one pixel of 1 per visible joint, in 18 channels each for
source and target.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import weights
from models.person import Person
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


IMPORTED, REDUCED = "msa", "msa-reduced"
"""Folders of models/weights/transfer: the authors' weights, or other full ones, which users install themselves; and
those of a quarter of the width that come with Walk-On, to compare with."""


def installed() -> str:
    """The weights that `MsaTransfer` uses: imported ones where there are any."""
    return IMPORTED if (weights.ROOT / "transfer" / IMPORTED).is_dir() else REDUCED


class MsaTransfer:
    """Paints the actor with the `installed` weights of `MsaGenerator`, at 256 pixels; `weights` says which these are.

    Raises:
        MissingWeights: they do not fit.
    """

    def __init__(self) -> None:
        self.weights = installed()
        self.generator = weights.load(MsaGenerator, "transfer", self.weights)

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

    folder = folder or weights.ROOT / "transfer" / IMPORTED
    with torch.device("meta"):
        expected = MsaGenerator(ngf=ngf).state_dict()
    fix = "Give the generator's checkpoint (netG_*.pth) of prasunroy/pose-transfer, unchanged"
    state = weights.read_checkpoint(path, expected, fix)
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
