# SPDX-License-Identifier: Apache-2.0
"""Training of `Retouch` on layers that `MotionTransfer` made of rendered pairs with the faults of real photos.

The layers are made once, with the networks as they are installed, and kept in the run's folder: making one takes longer
than learning from it. What may stay is not learned from the error of the picture: cloth that is carried a few pixels
beside its place would be painted over with a blur, which has the smaller error. It is learned from the truth, compared
without its details; the painting from the error. (A critic of what is painted stayed at chance for an hour: rendered
cloth has hardly more detail than what is painted.)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from shared.errors import BadInput, NoActor
from shared.skeleton import L_HIP, L_KNEE, NECK, R_HIP, R_KNEE, Skeleton

from . import motion_training, pairs, transfer_training
from .body import torso_length
from .grid import pixel_grid, smoothstep
from .motion import Motion
from .motion_training import blurred, clouds, recoloured
from .msa_training import EdgeLoss
from .person import crop
from .photo import resized
from .retouch import COLOUR, Retouch, Retouched, planes_of
from .transfer import MotionTransfer
from .transfer_training import Lesson, Options

KEYS = ("layer", "truth", "counts", "planes", "ks", "kt")


class Batch(NamedTuple):
    """Layers in their person frames, all of 256 px but the planes."""

    layer: Tensor  # (B, 4, 256, 256) premultiplied, as `MotionTransfer.move` made it
    truth: Tensor  # (B, 4, 256, 256) premultiplied, in the layer's light
    counts: Tensor  # (B, 1, 256, 256): 0 where nothing is asked
    planes: Tensor  # (B, 23, 64, 64), `planes_of`
    right: Tensor  # (B, 1, 256, 256): how far the layer's colour agrees with the truth, 0..1


# ------------------------------------------------------------------------------------------------------- the layers


def make_layers(source: pairs.Stored, out: Path, seed: int, processes: int) -> pairs.Stored:
    """Layers of all pairs of a folder as files in `out`/train and `out`/val; files that exist are kept.

    Raises:
        BadInput: there are no pairs.
    """
    tasks = []
    for split in ("train", "val"):
        files = sorted(f for f in (source.folder / split).glob("*.npz") if not f.name.startswith("."))
        if not files and split == "train":
            fix = "Run `walkon data people` first"
            raise BadInput(f"{source.folder / split}: holds no pair files (*.npz)", fix, str(source.folder))
        (out / split).mkdir(parents=True, exist_ok=True)
        tasks += [
            (f, out / split / f.name, (seed, number), split == "train") for number, f in enumerate(files)
        ]
    tasks = [task for task in tasks if not task[1].exists()]
    with get_context("spawn").Pool(processes) as pool:
        pool.starmap(_make_file, tasks, chunksize=1)
    return pairs.Stored(out)


def _make_file(file: Path, out: Path, seed: tuple[int, int], augment: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    arrays = layers_of(pairs.read_file(file), MotionTransfer(), augment)
    hidden = out.with_name(f".{out.stem}.tmp.npz")
    np.savez(hidden, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its own
    hidden.rename(out)


def layers_of(read: pairs.Pairs, transfer: MotionTransfer, augment: bool) -> pairs.Pairs:
    """What `transfer` makes of pairs, before it is retouched; keys are `KEYS`, a row for each pair.

    Args:
        read: pairs as `motion_training.prepare` takes them.
        augment (`bool`): with the faults of real photos.
    """
    rows: list[dict[str, np.ndarray]] = []
    size = Motion.PHOTO
    for start in range(0, len(read["ks"]), 16):
        some = {key: value[start : start + 16] for key, value in read.items()}
        batch = motion_training.prepare(some, augment)
        if augment:
            batch = batch._replace(source=with_things(batch.source, batch.source_xy, batch.source_known))
        for row in range(len(batch.source)):
            photo = batch.source[row].permute(1, 2, 0).numpy()
            straight = photo[..., :3] / np.maximum(photo[..., 3:], 1e-3)
            source, target = (
                Skeleton(xy[row].double().numpy() * size, known[row].numpy(), known[row].double().numpy())
                for xy, known in (
                    (batch.source_xy, batch.source_known),
                    (batch.target_xy, batch.target_known),
                )
            )
            rgb = np.rint(np.clip(straight, 0, 1) * 255).astype(np.uint8)
            matte = np.ascontiguousarray(photo[..., 3])
            try:
                moved = transfer.move(transfer.analyse(rgb, matte, source), target)
            except (BadInput, NoActor):
                continue  # its faults have left too little of the person
            assert moved.prediction is not None
            truth, counts = (
                resized(crop(of[row].permute(1, 2, 0).contiguous().numpy(), moved.frame), side)
                for of, side in ((batch.target, size), (batch.counts, size // 4))
            )
            rows.append(
                {
                    "layer": np.rint(resized(moved.rgba, size) * 255).astype(np.uint8),
                    "truth": np.rint(truth * 255).astype(np.uint8),
                    "counts": (counts > 0.5).astype(np.uint8),
                    "planes": planes_of(moved.prediction)[0].half().numpy(),
                    "ks": source.xy,
                    "kt": target.xy,
                }
            )
    return {key: np.stack([row[key] for row in rows]) for key in KEYS}


def with_things(source: Tensor, xy: Tensor, known: Tensor) -> Tensor:
    """Photos with something before a fifth of the people, which an estimator takes for a part of them: a bag in a lap,
    a board, a neighbour's shoulder.

    Args:
        source (`(B, 4, 256, 256)`): premultiplied.
        xy (`(B, 18, 2)`), known (`(B, 18)` bool): joints in frame coordinates.
    """
    size, torso = source.shape[-1], torso_length(xy, known)
    cloth = source.roll(1, 0)
    result = source.clone()
    for row in (torch.rand(len(source)) < 0.2).nonzero()[:, 0].tolist():
        middle = xy[row, _COVERED][torch.rand(len(_COVERED)) < 0.5].mean(0)
        if not middle.isfinite().all():
            continue
        middle = middle + 0.2 * torso[row] * torch.randn(2)
        half = torso[row] * torch.empty(2).uniform_(0.1, 0.5)
        angle = torch.rand(()) * math.pi
        turn = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
        here = ((pixel_grid(size)[0] - middle) @ turn / half).abs()
        # Between a box and an ellipse.
        power = 2 ** torch.empty(()).uniform_(1, 3)
        distance = (here**power).sum(-1) ** (1 / power)
        cover = (1 - smoothstep(distance, 0.95, 1.05)).reshape(1, 1, size, size)
        colour = torch.rand(1, 3, 1, 1) + 0.5 * (clouds(source[:1], 3, int(torch.randint(3, 24, ()))) - 0.5)
        if torch.rand(()) < 0.5:
            other = cloth[row : row + 1]
            colour = torch.where(other[:, 3:] > 0.5, other[:, :3] / other[:, 3:].clamp_min(0.5), colour)
        thing = torch.cat([colour.clamp(0, 1), torch.ones(1, 1, size, size)], 1)
        result[row] = (thing * cover + result[row] * (1 - cover))[0]
    return result


_COVERED = [R_HIP, L_HIP, R_KNEE, L_KNEE, NECK]


# --------------------------------------------------------------------------------------------------------- training


def compared(layer: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The truth in the layer's light, premultiplied, and how far the layer agrees with it, `(B, 1, h, w)` 0..1.

    Colours are compared as means over a few pixels, where both have any. The light of a rendered pair differs, that of
    a layer must not: what differs on the whole person is taken off.
    """
    both = layer[:, 3:] * truth[:, 3:]
    amount = blurred(blurred(both, 7), 5)
    means = []
    for picture in (layer, truth):
        straight = picture[:, :3] / picture[:, 3:].clamp_min(1e-3)
        means.append(blurred(blurred(straight * both, 7), 5) / amount.clamp_min(1e-3))
    off = means[0] - means[1]
    # The middle half of the differences, so that a limb in the wrong place does not tint the rest.
    weight = both * (off - _mean(off, both)).abs().amax(1, keepdim=True).lt(0.15)
    shift = _mean(off, weight + 1e-4)
    lit = (truth[:, :3] + shift * truth[:, 3:]).clamp_min(0).minimum(truth[:, 3:])
    wrong = (off - shift).abs().amax(1, keepdim=True)
    right = (1 - smoothstep(wrong, 0.12, 0.28)) * (amount > 0.02)
    return torch.cat([lit, truth[:, 3:]], 1), right


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp_min(1e-3)


def prepare(read: pairs.Pairs, augment: bool) -> Batch:
    """Layers as read -> a batch, in other colours if `augment`."""
    layer, truth = (
        torch.from_numpy(read[key]).permute(0, 3, 1, 2).float() / 255 for key in ("layer", "truth")
    )
    counts = F.interpolate(torch.from_numpy(read["counts"])[:, None].float(), scale_factor=4)
    planes = torch.from_numpy(read["planes"]).float()
    if augment:
        painted = torch.cat([planes[:, COLOUR], torch.ones_like(planes[:, :1])], 1)
        layer, truth, painted = recoloured((layer, truth, painted), swaps=0.2)
        planes[:, COLOUR] = painted[:, :3]
    truth, right = compared(layer, truth)
    return Batch(layer, truth, counts, planes, right)


def shown(out: Retouched, batch: Batch) -> Tensor:
    """The truth, painted over where the layer is wrong, premultiplied `(B, 4, 256, 256)`.

    So the painting must meet what stays without an edge, which a layer's own faults would hide. Within the true
    outline, as in `Head`'s training: its own would be sure of what nobody can know, for the sake of edges.
    """
    alpha = batch.truth[:, 3:]
    painted = out.colour * alpha
    return torch.cat([painted + batch.right * (batch.truth[:, :3] - painted), alpha], 1)


def losses(out: Retouched, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar: what may stay, alpha (edges count more), the painting where it is needed, edges of what is
    `shown`; `total` of these."""
    picture = shown(out, batch)
    alpha = batch.truth[:, 3:]
    person = alpha * batch.counts
    coarse = F.avg_pool2d(person, 2)
    right = F.avg_pool2d(batch.right, 2)
    keep = F.binary_cross_entropy_with_logits(out.keep, right, coarse, reduction="sum") / (coarse.sum() + 1)
    edge = 1 - (2 * blurred(alpha, 7) - 1).abs()
    weight = (1 + 4 * edge) * batch.counts
    outline = F.binary_cross_entropy_with_logits(out.alpha, alpha, weight, reduction="sum") / weight.sum()
    wanted = batch.truth[:, :3] / alpha.clamp_min(0.05)
    needed = person * (1.1 - batch.right)
    painted = ((out.colour - wanted).abs() * needed).sum() / (3 * needed.sum() + 1)
    edges = EdgeLoss()(picture * batch.counts, batch.truth * batch.counts)
    total = 0.3 * keep + outline + 3 * painted + 2 * edges
    return {"total": total, "keep": keep, "alpha": outline, "painted": painted, "edges": edges}


LESSON = Lesson(
    network=Retouch,
    prepare=prepare,
    predict=lambda network, batch: network(batch.layer, batch.planes),
    losses=losses,
    held_out=48,
    alike=0.3,
)


def train(options: Options) -> None:
    """Trains `Retouch` (`transfer_training.fit`); its weights are in `out`/retouch.

    First the layers of all pairs are made in `out`/layers, by as many processes.

    Raises:
        BadInput: no pair files.
    """
    if not isinstance(options.source, pairs.Stored):
        raise BadInput(
            "--assets: the layers that retouch learns from are made once, of files",
            "Run `walkon data people`, then give its folder as --pairs",
            "assets",
        )
    layers = make_layers(options.source, options.out / "layers", options.seed, options.machine.devices)
    options = dataclasses.replace(options, source=layers)
    transfer_training.launch(functools.partial(_train, options=options), options.out, options.machine)


def _train(fabric: Fabric, options: Options) -> None:
    transfer_training.fit(fabric, options, LESSON, "retouch")
