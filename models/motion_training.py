# SPDX-License-Identifier: Apache-2.0
"""Training of `Motion` on rendered pairs with the faults of real photos, and what it is measured by."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import BadInput
from shared.skeleton import (
    FACE,
    L_ANKLE,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_WRIST,
    MIRROR,
    R_ANKLE,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_WRIST,
    Skeleton,
)

from . import weights
from .motion import MARGIN, Motion, MotionTransfer, Person, crop, person_frame, resized
from .parts import complete, pixel_grid, sample, smoothstep, torso_length


class Batch(NamedTuple):
    """Training pairs in their person frames."""

    source: Tensor  # (B, 4, 256, 256) premultiplied, as a photo and its estimated matte would be
    source_xy: Tensor  # (B, 18, 2)
    source_known: Tensor  # (B, 18) bool
    target: Tensor  # (B, 4, 256, 256) premultiplied, the truth
    target_xy: Tensor
    target_known: Tensor
    flow: Tensor  # (B, 128, 128, 2), source points
    flow_weight: Tensor  # (B, 128, 128): how exact the flow is, 0 where there is none
    seen: Tensor  # (B, 128, 128) bool: visible in the source
    counts: Tensor  # (B, 1, 256, 256): 0 where the target was cut off and nothing is asked


_Pairs = dict[str, NDArray[np.generic]]


def read_pairs(file: Path) -> _Pairs:
    with np.load(file) as archive:
        return {key: archive[key] for key in archive.files}


def _pair_files(folder: Path) -> list[Path]:
    # A hidden file is one that is still being written.
    return sorted(file for file in folder.glob("*.npz") if not file.name.startswith("."))


def stream_pairs(folder: Path, batch: int, generator: np.random.Generator) -> Iterator[_Pairs]:
    """Batches from the pair files of a folder, which may still be growing.

    Six files are held in memory; now and then one is exchanged for another, a new one first.
    """
    held: list[_Pairs] = []
    used: dict[Path, int] = {}
    step = 0
    while True:
        if step % 8 == 0:
            files = _pair_files(folder)
            if not files:
                raise BadInput(
                    f"{folder}: holds no pair files", "Run `walkon data people` first", str(folder)
                )
            least = min(used.get(file, 0) for file in files)
            file = generator.choice(np.array([f for f in files if used.get(f, 0) == least], dtype=object))
            if file not in used or len(files) > 6:
                used[file] = used.get(file, 0) + 1
                held = [*held[-5:], read_pairs(file)]
        choice = [(generator.integers(len(held)), generator.random()) for _ in range(batch)]
        rows = [(held[i], int(share * len(held[i]["src"]))) for i, share in choice]
        yield {key: np.stack([pairs[key][row] for pairs, row in rows]) for key in held[0]}
        step += 1


def _frames(xy: Tensor, known: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Origin `(B, 2)` and size `(B,)` of the person frames, as `person_frame` has them, a little shaken."""
    far = torch.where(known[..., None], xy, xy.new_tensor(-9.0)).amax(1)
    near = torch.where(known[..., None], xy, xy.new_tensor(9.0)).amin(1)
    size = (far - near).amax(1) + 2 * MARGIN * torso_length(xy, known)
    size = size.clamp(0.05, 4.0) * (1 + jitter * (2 * torch.rand(len(xy)) - 1))
    middle = (far + near) / 2 + size[:, None] * jitter * (torch.rand(len(xy), 2) - 0.5)
    return middle - size[:, None] / 2, size


def _resample(picture: Tensor, origin: Tensor, size: Tensor, mode: str = "bilinear") -> Tensor:
    """`(B, C, n, n)` of the frame cut out of `(B, C, n, n)`."""
    n = picture.shape[-1]
    grid = (origin[:, None] + size[:, None, None] * pixel_grid(n)).reshape(-1, n, n, 2) * 2 - 1
    return F.grid_sample(picture, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _clouds(batch: int, channels: int, cells: int) -> Tensor:
    """Smooth noise `(B, C, 256, 256)`, about 0..1."""
    return F.interpolate(
        torch.rand(batch, channels, cells, cells), size=256, mode="bilinear", align_corners=False
    )


def _photographed(clean: Tensor) -> Tensor:
    """The source as an estimator would cut it from a photo: loose edges that take background along, holes, blur."""
    count = len(clean)
    alpha = clean[:, 3:]
    soft = F.avg_pool2d(F.avg_pool2d(alpha, 5, 1, 2), 5, 1, 2)
    softer = F.avg_pool2d(F.avg_pool2d(soft, 9, 1, 4), 9, 1, 4)
    share = torch.rand(count, 1, 1, 1)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.5, soft, soft + (softer - soft) * share)
    gain, bias = 1 + 3 * torch.rand(count, 1, 1, 1), 0.7 * (_clouds(count, 1, 6) - 0.5)
    estimated = ((estimated - 0.5) * gain + 0.5 + bias).clamp(0, 1)
    holes = smoothstep(_clouds(count, 1, 9), 0.8, 0.95) * (torch.rand(count, 1, 1, 1) < 0.3)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.2, alpha, estimated * (1 - 0.8 * holes))
    behind = (torch.rand(count, 3, 1, 1) + 0.6 * (_clouds(count, 3, 10) - 0.5)).clamp(0, 1)
    photo = clean[:, :3] + behind * (1 - alpha)
    photo = torch.where(torch.rand(count, 1, 1, 1) < 0.3, F.avg_pool2d(photo, 3, 1, 1), photo)
    photo = (photo + 0.02 * torch.randn_like(photo)).clamp(0, 1)
    return torch.cat([photo * estimated, estimated], 1)


def _forget(known: Tensor, share: float) -> Tensor:
    """Drops single joints, and sometimes a whole end of a limb, as an estimator does."""
    known = known & (torch.rand(known.shape) > share)
    for start, end in ((R_ELBOW, R_WRIST), (L_ELBOW, L_WRIST), (R_KNEE, R_ANKLE), (L_KNEE, L_ANKLE)):
        known[:, end] &= known[:, start] | (torch.rand(len(known)) < 0.5)
    return known


def prepare(pairs: _Pairs, augment: bool) -> Batch:
    """Pairs as read -> person frames, with the faults of real photos if `augment`.

    Args:
        pairs: arrays of the pair files: `src`, `tgt` (uint8 straight RGBA, 256 px), `ks`, `kt` (pixels), `vs`, `vt`
            (0 unknown, 1 occluded, 2 seen), `flow` (source points 0..1), `vis` (0 none, 1 exact, 2 unseen).
    """

    def picture(key: str) -> Tensor:
        rgba = torch.from_numpy(pairs[key]).permute(0, 3, 1, 2).float() / 255
        return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)

    source, target = picture("src"), picture("tgt")
    source_xy, target_xy = (torch.from_numpy(pairs[key]).float() / 256 for key in ("ks", "kt"))
    source_state, target_state = (torch.from_numpy(pairs[key]) for key in ("vs", "vt"))
    flow = torch.from_numpy(pairs["flow"].astype(np.float32)).permute(0, 3, 1, 2)
    state = torch.from_numpy(pairs["vis"])[:, None].float()
    source_known, target_known = source_state > 0, target_state > 0
    count = len(source)
    counts = torch.ones(count, 1, 256, 256)
    rows_256, rows_128 = ((torch.arange(n) + 0.5)[None, None, :, None] / n for n in (256, 128))
    if augment:
        same = torch.rand(count) < 0.05  # the photo's own pose
        target = torch.where(same[:, None, None, None], source, target)
        target_xy = torch.where(same[:, None, None], source_xy, target_xy)
        target_known = torch.where(same[:, None], source_known, target_known)
        grid = pixel_grid(128).reshape(1, 128, 128, 2).permute(0, 3, 1, 2)
        flow = torch.where(same[:, None, None, None], grid, flow)
        state = torch.where(same[:, None, None, None], (F.avg_pool2d(source[:, 3:], 2) > 0.3).float(), state)
        if torch.rand(()) < 0.5:
            source, target, flow, state = (t.flip(3) for t in (source, target, flow, state))
            flow = torch.cat([1 - flow[:, :1], flow[:, 1:]], 1)
            order = list(MIRROR)
            mirror, shift = source_xy.new_tensor([-1.0, 1.0]), source_xy.new_tensor([1.0, 0.0])
            source_xy, target_xy = (xy[:, order] * mirror + shift for xy in (source_xy, target_xy))
            source_known, target_known = source_known[:, order], target_known[:, order]
        # The same change of colour for both; their lights differ already.
        gamma = torch.exp(torch.empty(count, 3, 1, 1).uniform_(-0.5, 0.5))
        swap = torch.randperm(3) if torch.rand(()) < 0.3 else torch.arange(3)
        source, target = (
            torch.cat(
                [(t[:, :3] / t[:, 3:].clamp_min(1e-3)).clamp(0, 1)[:, swap] ** gamma * t[:, 3:], t[:, 3:]], 1
            )
            for t in (source, target)
        )
        # Half-length photos: everything below a line between waist and ankles is not in the picture.
        hips = complete(source_xy, source_known).xy[:, [R_HIP, L_HIP], 1].mean(1)
        line = hips + torso_length(source_xy, source_known) * torch.empty(count).uniform_(-0.3, 1.4)
        line = torch.where((torch.rand(count) < 0.15) & ~same, line, torch.full_like(line, 2.0))
        source = source * (rows_256 < line[:, None, None, None])
        source_known = source_known & (source_xy[..., 1] < line[:, None])
        state = torch.where((state > 0) & (flow[:, 1:] > line[:, None, None, None]), 3.0, state)
        # Targets cut by the scene's edge: nothing is asked of what lies beyond.
        hips = complete(target_xy, target_known).xy[:, [R_HIP, L_HIP], 1].mean(1)
        line = hips + torso_length(target_xy, target_known) * torch.empty(count).uniform_(-0.1, 1.4)
        line = torch.where((torch.rand(count) < 0.08) & ~same, line, torch.full_like(line, 2.0))
        counts = counts * (rows_256 < line[:, None, None, None])
        state = state * (rows_128 < line[:, None, None, None])
        target_known = target_known & (target_xy[..., 1] < line[:, None])
        occluded = (source_state == 1) & (torch.rand(source_state.shape) < 0.4)
        source_known = torch.where(same[:, None], source_known, _forget(source_known & ~occluded, 0.03))
        faces = torch.ones(18, dtype=torch.bool)
        faces[list(FACE)] = False
        target_known = torch.where(
            same[:, None], target_known, target_known & (faces | (torch.rand(count, 18) > 0.05))
        )
        shake = torch.where(torch.rand(count) < 0.2, 0.05, 0.02) * torso_length(source_xy, source_known)
        source_shake = torch.randn(count, 18, 2) * shake[:, None, None]
        target_shake = torch.randn(count, 18, 2) * shake[:, None, None] * 0.6
        source_xy = source_xy + source_shake
        target_xy = target_xy + torch.where(same[:, None, None], source_shake, target_shake)
        source = _photographed(source)
    jitter = 0.06 if augment else 0.0
    origin, size = _frames(source_xy, source_known, jitter)
    target_origin, target_size = _frames(target_xy, target_known, jitter)
    if augment:
        target_origin = torch.where(same[:, None], origin, target_origin)
        target_size = torch.where(same, size, target_size)
    source = _resample(source, origin, size)
    target = _resample(target, target_origin, target_size)
    counts = (
        torch.ones_like(counts) if not augment else _resample(counts, target_origin, target_size, "nearest")
    )
    moved = _resample(torch.cat([flow, state], 1), target_origin, target_size, "nearest")
    state = moved[:, 2].round()
    flow = (moved[:, :2].permute(0, 2, 3, 1) - origin[:, None, None]) / size[:, None, None, None]
    flow_weight = (state == 1).float() + 0.2 * (state == 2).float()
    return Batch(
        source, (source_xy - origin[:, None]) / size[:, None, None], source_known,
        target, (target_xy - target_origin[:, None]) / target_size[:, None, None], target_known,
        flow, flow_weight, state == 1, counts,
    )  # fmt: skip


def losses(network: Motion, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar: error of the map, of alpha (edges count more), of the colour, of visibility; `total`."""
    out = network(batch.source, batch.source_xy, batch.source_known, batch.target_xy, batch.target_known)
    truth = batch.target[:, 3:]
    step = Motion.PHOTO // Motion.SIZE
    small = F.avg_pool2d(batch.target, step)
    person = small[:, 3:] * (F.avg_pool2d(batch.counts, step) > 0.5)
    area = person.sum() + 1
    # The true map is at 128 px; an average would mix limbs, so every other point is taken.
    points, weight = batch.flow[:, ::2, ::2], batch.flow_weight[:, ::2, ::2]
    flow = ((out.flow - points).abs().sum(-1) * weight).sum() / (weight.sum() + 1)
    edge = F.max_pool2d(truth, 7, 1, 3) + F.max_pool2d(-truth, 7, 1, 3)
    weight = (1 + 3 * edge) * batch.counts
    alpha = F.binary_cross_entropy_with_logits(out.alpha, truth, weight, reduction="sum") / weight.sum()
    carried = sample(F.avg_pool2d(batch.source, step), out.flow)
    seen = torch.sigmoid(out.visible) * smoothstep(carried[:, 3:], 0.05, 0.5)
    straight = (carried[:, :3] / carried[:, 3:].clamp_min(0.05)).clamp(0, 1)
    wanted = small[:, :3] / small[:, 3:].clamp_min(0.05)
    colour = ((straight * seen + out.colour * (1 - seen) - wanted).abs() * person).sum() / area / 3
    painted = ((out.colour - wanted).abs() * person).sum() / area / 3
    truly_seen = batch.seen[:, ::2, ::2].float()
    visible = F.binary_cross_entropy_with_logits(out.visible[:, 0], truly_seen, person[:, 0], reduction="sum")
    visible = visible / area
    total = 5 * flow + 2 * alpha + 3 * colour + 0.5 * painted + 0.2 * visible
    return {
        "total": total,
        "flow": flow,
        "alpha": alpha,
        "colour": colour,
        "painted": painted,
        "visible": visible,
    }


def train(
    pairs: Path,
    out: Path,
    minutes: float,
    batch: int = 8,
    rate: float = 2e-3,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Trains `Motion` on pair files, or goes on from `out/checkpoint.pt`.

    Args:
        pairs (`Path`): folder with `train/*.npz` and `val/*.npz`; files may still be added.
        out (`Path`): gets `curve.jsonl`, and every three minutes `checkpoint.pt` and the weights to install, `motion/`.
        minutes (`float`): in all, resumed runs included; the rate falls to nothing along a cosine.
        rate (`float`): AdamW's learning rate at the start.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    network, average = Motion(), Motion().eval()
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    step, before = 0, 0.0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step, before = state["step"], state["seconds"]
    else:
        average.load_state_dict(network.state_dict())
    torch.manual_seed(seed + step)
    stream = stream_pairs(pairs / "train", batch, np.random.default_rng(seed + step))
    start = last = time.monotonic()
    sums: dict[str, float] = {}
    with (out / "curve.jsonl").open("a") as curve:
        while True:
            seconds = before + time.monotonic() - start
            done = seconds / (60 * minutes)
            if done < 1:
                data = prepare(next(stream), augment=True)
                for group in optimiser.param_groups:
                    group["lr"] = rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
                with torch.autocast("cpu", torch.bfloat16):
                    parts = losses(network, data)
                optimiser.zero_grad()
                parts["total"].backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                step += 1
                keep = min(0.995, (step + 1) / (step + 20))
                with torch.no_grad():
                    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
                        mean.lerp_(current, 1 - keep)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value.item()
            if step % 25 == 0 or done >= 1:
                line = {key: round(value / 25, 5) for key, value in sums.items()}
                curve.write(json.dumps({"step": step, "seconds": round(seconds), **line}) + "\n")
                curve.flush()
                sums = {}
            if time.monotonic() - last > 180 or done >= 1:
                last = time.monotonic()
                state = {
                    "network": network.state_dict(), "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds,
                }  # fmt: skip
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                weights.save(average, average.config, out / "motion")
                files = _pair_files(pairs / "val")
                if files:
                    held_out = {key: value[:32] for key, value in read_pairs(files[0]).items()}
                    with torch.no_grad():
                        parts = losses(average, prepare(held_out, augment=False))
                    line = {f"val_{key}": round(value.item(), 5) for key, value in parts.items()}
                    curve.write(json.dumps({"step": step, "seconds": round(seconds), **line}) + "\n")
                    curve.flush()
            if done >= 1:
                return


# -------------------------------------------------------------------------------------------------------- evaluation


def _pasted(person: Person, size: int) -> NDArray[np.float32]:
    """The layer in the square picture `(size, size, 4)` that its place refers to."""
    out = np.zeros((size, size, 4), np.float32)
    height, width = person.rgba.shape[:2]
    x0, y0, x1, y1 = (
        max(person.x, 0),
        max(person.y, 0),
        min(person.x + width, size),
        min(person.y + height, size),
    )
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = person.rgba[y0 - person.y : y1 - person.y, x0 - person.x : x1 - person.x]
    return out


def _copied(photo: NDArray[np.float32], source: Skeleton, target: Skeleton) -> Person:
    """The person as it stands in the photo, scaled and moved to the target's frame: what any transfer must beat."""
    to = person_frame(target)
    return Person(resized(crop(photo, person_frame(source)), to.size), to.x, to.y)


def _person_error(layer: NDArray[np.float32], truth: NDArray[np.float32], power: int) -> float:
    """Mean of |difference| ** power over mid-grey, on the true person."""
    difference = np.abs((layer - truth)[..., :3] - 0.5 * (layer - truth)[..., 3:])
    return float((difference[truth[..., 3] > 0.5] ** power).mean())


def evaluate(
    pairs: Path, names: tuple[str, ...] = ("motion", "limbs", "copy"), count: int = 100
) -> dict[str, dict[str, float]]:
    """Measures transfers on held-out rendered pairs through the whole path a photo takes, at 256 px.

    Args:
        pairs (`Path`): folder of pair files.
        names: weights of stage `transfer`, `"limbs"`, or `"copy"` for the source merely moved to the target's place.
        count (`int`): how many pairs, spread evenly over the files.

    Returns per name: `alpha_iou` (at 0.5), `edge_mae` (mean absolute error of alpha within 5 px of the true outline),
    `l1` (on the true person, over mid-grey, 0..1), `own_pose_psnr` (dB, the source's own pose, on the person),
    `milliseconds` per transfer.

    Raises:
        BadInput: the folder holds no pair files.
    """
    files = _pair_files(pairs)
    if not files:
        raise BadInput(f"{pairs}: holds no pair files", "Run `walkon data people` first", str(pairs))
    transfers = {name: None if name == "copy" else MotionTransfer(name) for name in names}
    sums: dict[str, list[list[float]]] = {name: [] for name in names}
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
    each = -(-count // len(files))
    for file in files:
        data = read_pairs(file)
        for row in np.linspace(0, len(data["src"]) - 1, each).astype(int):
            photo, truth = (data[key][row].astype(np.float32) / 255 for key in ("src", "tgt"))
            rgb, matte = data["src"][row][..., :3], photo[..., 3].copy()
            for picture in (photo, truth):
                picture[..., :3] *= picture[..., 3:]
            source, target = (
                Skeleton(data[xy][row], data[state][row] > 0) for xy, state in (("ks", "vs"), ("kt", "vt"))
            )
            if source.visible.sum() < 4 or target.visible.sum() < 4:
                continue
            solid = truth[..., 3] > 0.5
            edge = (cv2.dilate(truth[..., 3], kernel) > 0.5) & (cv2.erode(truth[..., 3], kernel) < 0.5)
            for name, transfer in transfers.items():
                start = time.perf_counter()
                if transfer is None:
                    person, own = _copied(photo, source, target), _copied(photo, source, source)
                else:
                    person = transfer.transfer(rgb, matte, source, target)
                milliseconds = 1000 * (time.perf_counter() - start)
                if transfer is not None:
                    own = transfer.transfer(rgb, matte, source, source)
                layer, back = _pasted(person, 256), _pasted(own, 256)
                guess = layer[..., 3] > 0.5
                square = _person_error(back, photo, 2)
                sums[name].append([
                    (guess & solid).sum() / max((guess | solid).sum(), 1),
                    np.abs(layer[..., 3] - truth[..., 3])[edge].mean() if edge.any() else 0.0,
                    _person_error(layer, truth, 1),
                    min(60.0, -10 * math.log10(square + 1e-9)),
                    milliseconds,
                ])  # fmt: skip
    keys = ("alpha_iou", "edge_mae", "l1", "own_pose_psnr", "milliseconds")
    return {
        name: dict(zip(keys, (round(float(v), 4) for v in np.mean(rows, 0)), strict=True))
        for name, rows in sums.items()
    }
