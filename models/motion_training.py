# SPDX-License-Identifier: Apache-2.0
"""Training of `Motion` on rendered pairs with the faults of real photos; on one process or several.

models/pairs.py makes the pairs, models/transfer_training.py has the loop, models/transfer_eval.py measures the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

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
)

from . import transfer_training
from .body import complete, torso_length
from .grid import pixel_grid, sample, smoothstep
from .motion import Motion, Prediction
from .pairs import Pairs
from .person import MARGIN
from .transfer_training import Lesson, Options


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
    shape: Tensor  # (B, 5, 128, 128): normals and depth of the target, and 1 where they are known


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


def clouds(like: Tensor, channels: int, cells: int) -> Tensor:
    """Smooth noise `(B, channels, h, w)`, about 0..1, for pictures `(B, C, h, w)`."""
    noise = torch.rand(len(like), channels, cells, cells)
    return F.interpolate(noise, size=like.shape[-2:], mode="bilinear", align_corners=False)


def blurred(picture: Tensor, size: int) -> Tensor:
    """A box filter of odd `size`, by rows and columns: its cost grows with the side, not with the area."""
    rows = F.avg_pool2d(picture, (size, 1), 1, (size // 2, 0))
    return F.avg_pool2d(rows, (1, size), 1, (0, size // 2))


def photographed(clean: Tensor) -> Tensor:
    """The source as an estimator would cut it from a photo: loose edges that take background along, holes, blur."""
    count = len(clean)
    alpha = clean[:, 3:]
    soft = blurred(blurred(alpha, 5), 5)
    softer = blurred(blurred(soft, 9), 9)
    share = torch.rand(count, 1, 1, 1)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.5, soft, soft + (softer - soft) * share)
    gain, bias = 1 + 3 * torch.rand(count, 1, 1, 1), 0.7 * (clouds(clean, 1, 6) - 0.5)
    estimated = ((estimated - 0.5) * gain + 0.5 + bias).clamp(0, 1)
    holes = smoothstep(clouds(clean, 1, 9), 0.8, 0.95) * (torch.rand(count, 1, 1, 1) < 0.3)
    estimated = torch.where(torch.rand(count, 1, 1, 1) < 0.2, alpha, estimated * (1 - 0.8 * holes))
    behind = (torch.rand(count, 3, 1, 1) + 0.6 * (clouds(clean, 3, 10) - 0.5)).clamp(0, 1)
    photo = clean[:, :3] + behind * (1 - alpha)
    photo = torch.where(torch.rand(count, 1, 1, 1) < 0.3, blurred(photo, 3), photo)
    # Blocks of 8 px in which all detail is damped, as strong compression leaves them.
    coarse = F.interpolate(F.avg_pool2d(photo, 8), scale_factor=8)
    damped = 0.5 * torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.15)
    photo = (photo + damped * (coarse - photo) + 0.02 * torch.randn_like(photo)).clamp(0, 1)
    return torch.cat([photo * estimated, estimated], 1)


def recoloured(pictures: Sequence[Tensor], swaps: float = 0.3) -> list[Tensor]:
    """The same change of colour for all premultiplied pictures of each pair; their lights differ already.

    `swaps` is how often red, green and blue are exchanged, which no skin survives.
    """
    gamma = torch.exp(torch.empty(len(pictures[0]), 3, 1, 1).uniform_(-0.5, 0.5))
    swap = torch.randperm(3) if torch.rand(()) < swaps else torch.arange(3)
    changed = []
    for picture in pictures:
        straight = (picture[:, :3] / picture[:, 3:].clamp_min(1e-3)).clamp(0, 1)
        changed.append(torch.cat([straight[:, swap] ** gamma * picture[:, 3:], picture[:, 3:]], 1))
    return changed


def picture_of(pairs: Pairs, key: str) -> Tensor:
    """The pictures `src` or `tgt` of pairs, premultiplied, `(B, 4, 256, 256)`."""
    rgba = torch.from_numpy(pairs[key]).permute(0, 3, 1, 2).float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)


def _forget(known: Tensor, share: float) -> Tensor:
    """Drops single joints, and sometimes a whole end of a limb, as an estimator does."""
    known = known & (torch.rand(known.shape) > share)
    for start, end in ((R_ELBOW, R_WRIST), (L_ELBOW, L_WRIST), (R_KNEE, R_ANKLE), (L_KNEE, L_ANKLE)):
        known[:, end] &= known[:, start] | (torch.rand(len(known)) < 0.5)
    return known


def prepare(pairs: Pairs, augment: bool) -> Batch:
    """Pairs as read -> person frames, with the faults of real photos if `augment`.

    Args:
        pairs: arrays of the pair files: `src`, `tgt` (uint8 straight RGBA, 256 px), `ks`, `kt` (pixels), `vs`, `vt`
            (0 unknown, 1 occluded, 2 seen), `flow` (source points 0..1), `vis` (0 none, 1 exact, 2 unseen), `depth`,
            `normals` (of the target; all 0 where the file has none).
    """
    source, target = picture_of(pairs, "src"), picture_of(pairs, "tgt")
    source_xy, target_xy = (torch.from_numpy(pairs[key]).float() / 256 for key in ("ks", "kt"))
    source_state, target_state = (torch.from_numpy(pairs[key]) for key in ("vs", "vt"))
    flow = torch.from_numpy(pairs["flow"].astype(np.float32)).permute(0, 3, 1, 2)
    bytes_ = torch.from_numpy(pairs["normals"]).permute(0, 3, 1, 2)
    normals = (bytes_.float() - 128) / 127
    depth = torch.from_numpy(pairs["depth"].astype(np.float32))[:, None]
    # The background is 128, 128, 128; all is 0 in a file without normals.
    there = ((bytes_ != 128).any(1, keepdim=True) & (bytes_ > 0).any(1, keepdim=True)).float()
    shape = torch.cat([normals, depth, there], 1)
    state = torch.from_numpy(pairs["vis"])[:, None].float()
    source_known, target_known = source_state > 0, target_state > 0
    count = len(source)
    counts = torch.ones(count, 1, 256, 256)
    rows_256, rows_128 = ((torch.arange(n) + 0.5)[None, None, :, None] / n for n in (256, 128))
    if augment:
        same = torch.rand(count) < 0.1  # the photo's own pose
        target = torch.where(same[:, None, None, None], source, target)
        target_xy = torch.where(same[:, None, None], source_xy, target_xy)
        target_known = torch.where(same[:, None], source_known, target_known)
        grid = pixel_grid(128).reshape(1, 128, 128, 2).permute(0, 3, 1, 2)
        flow = torch.where(same[:, None, None, None], grid, flow)
        state = torch.where(same[:, None, None, None], (F.avg_pool2d(source[:, 3:], 2) > 0.3).float(), state)
        shape = torch.where(same[:, None, None, None], torch.zeros_like(shape), shape)
        if torch.rand(()) < 0.5:
            source, target, flow, state, shape = (t.flip(3) for t in (source, target, flow, state, shape))
            shape = shape * shape.new_tensor([-1.0, 1.0, 1.0, 1.0, 1.0])[:, None, None]
            flow = torch.cat([1 - flow[:, :1], flow[:, 1:]], 1)
            order = list(MIRROR)
            mirror, shift = source_xy.new_tensor([-1.0, 1.0]), source_xy.new_tensor([1.0, 0.0])
            source_xy, target_xy = (xy[:, order] * mirror + shift for xy in (source_xy, target_xy))
            source_known, target_known = source_known[:, order], target_known[:, order]
        source, target = recoloured((source, target))
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
        source = photographed(source)
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
    moved = _resample(torch.cat([flow, state, shape], 1), target_origin, target_size, "nearest")
    state = moved[:, 2].round()
    flow = (moved[:, :2].permute(0, 2, 3, 1) - origin[:, None, None]) / size[:, None, None, None]
    flow_weight = (state == 1).float() + 0.2 * (state == 2).float()
    return Batch(
        source, (source_xy - origin[:, None]) / size[:, None, None], source_known,
        target, (target_xy - target_origin[:, None]) / target_size[:, None, None], target_known,
        flow, flow_weight, state == 1, counts, moved[:, 3:],
    )  # fmt: skip


def losses(out: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar: error of the map, of alpha (edges count more), of the colour, of visibility, of depth (torsos)
    and of normals (1 - cosine); `total`."""
    truth = batch.target[:, 3:]
    step = Motion.PHOTO // Motion.SIZE
    small = F.avg_pool2d(batch.target, step)
    person = small[:, 3:] * (F.avg_pool2d(batch.counts, step) > 0.5)
    area = person.sum() + 1
    # The true map is at 128 px; an average would mix limbs, so every other point is taken.
    points, weight = batch.flow[:, ::2, ::2], batch.flow_weight[:, ::2, ::2]
    flow = ((out.flow - points).abs().sum(-1) * weight).sum() / (weight.sum() + 1)
    edge = 1 - (2 * blurred(truth, 7) - 1).abs()
    weight = (1 + 4 * edge) * batch.counts
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
    normals_depth, known = batch.shape[:, :4, ::2, ::2], batch.shape[:, 4, ::2, ::2]
    count = known.sum() + 1
    depth = ((out.depth[:, 0] - normals_depth[:, 3]).abs() * known).sum() / count
    normals = ((1 - F.cosine_similarity(out.normals, normals_depth[:, :3])) * known).sum() / count
    total = 5 * flow + 2 * alpha + 3 * colour + 0.5 * painted + 0.2 * visible + 0.5 * depth + 0.3 * normals
    return {
        "total": total, "flow": flow, "alpha": alpha, "colour": colour, "painted": painted, "visible": visible,
        "depth": depth, "normals": normals,
    }  # fmt: skip


LESSON = Lesson(
    network=Motion,
    prepare=prepare,
    predict=lambda network, batch: network(*batch[:3], *batch[4:6]),
    losses=losses,
    held_out=32,
    alike=0.5,
)


def train(options: Options) -> None:
    """Trains `Motion` (`transfer_training.fit`); its weights are in `out`/motion.

    Raises:
        BadInput: no pairs, or they cannot be rendered.
    """
    transfer_training.launch(functools.partial(_train, options=options), options.out, options.machine)


def _train(fabric: Fabric, options: Options) -> None:
    transfer_training.fit(fabric, options, LESSON, "motion")
