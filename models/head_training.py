# SPDX-License-Identifier: Apache-2.0
"""Training of `Head` on rendered close-ups (`walkon data people --framing head`), with the faults of real photos.

Its losses are those of `Motion` and an adversarial one (LSGAN, Mao et al. 2017), without which what the photo does not
show is a blur. A patch critic sees the head, and where the joints of its face should be.
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

from shared.skeleton import FACE, MIRROR, NECK

from . import transfer_training
from .body import complete
from .critic import PatchCritic
from .grid import pixel_grid, sample
from .head import Head, Turned, cut, face_spots, head_frames, in_window, taken
from .head_pose import head_pose
from .motion_training import photographed, picture_of, recoloured
from .msa_training import EdgeLoss
from .pairs import Pairs
from .transfer_training import Judged, Lesson, Options


class Batch(NamedTuple):
    """Heads in their frames."""

    source: Tensor  # (B, 4, 96, 96) premultiplied, as a photo and its estimated matte would be
    source_xy: Tensor  # (B, 18, 2)
    source_known: Tensor  # (B, 18) bool
    target: Tensor  # (B, 4, 96, 96) premultiplied, the truth
    target_xy: Tensor
    target_known: Tensor
    flow: Tensor  # (B, 48, 48, 2), source points
    state: Tensor  # (B, 48, 48): 0 background, 1 seen in the source, 2 not
    skin: Tensor  # (B, 4), bare skin, as `photo.hands_of` would find it

    @property
    def given(self) -> tuple[Tensor, ...]:
        """What `Head` is given of it."""
        return *self[:3], *self[4:6], self.skin


def _as_estimated(xy: Tensor, state: Tensor, augment: bool) -> tuple[Tensor, Tensor]:
    """Joints and which are known, as an estimator would find them.

    Joints outside a close-up's frame are known too: in use the person is seen whole. Of what the head itself hides an
    estimator finds, in one photo, all, in another nothing.
    """
    known = torch.ones_like(state, dtype=torch.bool)
    if augment:
        face = torch.zeros(18, dtype=torch.bool)
        face[list(FACE)] = True
        hidden = face & (state != 2)
        known &= ~(hidden & (torch.rand(len(xy), 1) < 0.5))
        known &= (torch.rand(xy.shape[:2]) > 0.03) | ~face
        torso = (xy[:, NECK] - xy[:, [8, 11]].mean(1)).norm(dim=-1)
        shake = torch.where(torch.rand(len(xy)) < 0.2, 0.03, 0.012) * torso
        xy = xy + torch.randn(xy.shape) * shake[:, None, None]
    return xy, known


def _skin(pictures: Sequence[Tensor], joints: Sequence[Tensor], augment: bool) -> Tensor:
    """The colour of a face that one of both pictures shows, in another light, as hands would have it; `(B, 4)`.

    Args:
        pictures (two `(B, 4, 96, 96)`): premultiplied.
        joints (two `(B, 18, 3)`): in the head frames, and 1 where seen.
    """
    skin = torch.zeros(len(pictures[0]), 4)
    around = 0.04 * (pixel_grid(4) * 2 - 1)
    for picture, face in zip(pictures, (of[:, [0, 14, 15]] for of in joints), strict=True):
        seen = sample(picture, face[..., :2].mean(1, keepdim=True) + around).mean(2)
        there = face[..., 2].amin(1, keepdim=True) * (seen[:, 3:] > 0.9)
        colour = seen[:, :3] / seen[:, 3:].clamp_min(0.05)
        if augment:
            there = there * (torch.rand_like(there) < 0.6)
            light = 0.2 * torch.randn_like(there) + 0.05 * torch.randn_like(colour)
            colour = (colour * light.exp()).clamp(0, 1)
        skin = torch.where((skin[:, 3:] == 0) & (there > 0), torch.cat([colour, there], 1), skin)
    return skin


def prepare(pairs: Pairs, augment: bool) -> Batch:
    """Close-ups as read -> head frames, with the faults of real photos if `augment`; keys as in docs/people.md."""
    source, target = picture_of(pairs, "src"), picture_of(pairs, "tgt")
    source_xy, target_xy = (torch.from_numpy(pairs[key]).float() / 256 for key in ("ks", "kt"))
    source_state, target_state = (torch.from_numpy(pairs[key]) for key in ("vs", "vt"))
    flow = torch.from_numpy(pairs["flow"].astype(np.float32)).permute(0, 3, 1, 2)
    state = torch.from_numpy(pairs["vis"])[:, None].float()
    if augment and torch.rand(()) < 0.5:
        source, target, flow, state = (t.flip(3) for t in (source, target, flow, state))
        flow = torch.cat([1 - flow[:, :1], flow[:, 1:]], 1)
        order = list(MIRROR)
        mirror, shift = source_xy.new_tensor([-1.0, 1.0]), source_xy.new_tensor([1.0, 0.0])
        source_xy, target_xy = (xy[:, order] * mirror + shift for xy in (source_xy, target_xy))
        source_state, target_state = source_state[:, order], target_state[:, order]
    source_xy, source_known = _as_estimated(source_xy, source_state, augment)
    target_xy, target_known = _as_estimated(target_xy, target_state, augment)
    bodies = complete(source_xy, source_known), complete(target_xy, target_known)
    (origin, side), (target_origin, target_side) = (head_frames(body, head_pose(body)) for body in bodies)
    source = cut(source, origin, side, Head.FINE)
    target = cut(target, target_origin, target_side, Head.FINE)
    if augment:
        source, target = recoloured((source, target), swaps=0.05)
    joints = [
        torch.cat([(xy - start[:, None]) / length[:, None, None], (state == 2)[..., None]], 2)
        for xy, start, length, state in (
            (source_xy, origin, side, source_state), (target_xy, target_origin, target_side, target_state)
        )
    ]  # fmt: skip
    skin = _skin((source, target), joints, augment)
    if augment:
        source = photographed(source)
    points = target_origin[:, None] + target_side[:, None, None] * pixel_grid(Head.SIZE)
    at = points.reshape(-1, Head.SIZE, Head.SIZE, 2) * 2 - 1
    # The mean of two places of the photo is neither of them.
    moved = F.grid_sample(torch.cat([flow, state], 1), at, mode="nearest", align_corners=False)
    return Batch(
        source,
        joints[0][..., :2],
        source_known,
        target,
        joints[1][..., :2],
        target_known,
        (moved[:, :2].permute(0, 2, 3, 1) - origin[:, None, None]) / side[:, None, None, None],
        moved[:, 2].round(),
        skin,
    )


def shown(out: Turned, alpha: Tensor) -> Tensor:
    """The head as `Head` alone would show it within an outline, premultiplied `(B, 4, 96, 96)`.

    Args:
        alpha (`(B, 1, 96, 96)`): the true one in training. With its own a network would make up by colours for an edge
            that nobody can know, or be sure of one to please the critic.
    """
    choice = F.interpolate(out.choice, scale_factor=2, mode="bilinear", align_corners=False)
    straight, mattes = [], []
    for photo in out.carried.split(4, 1):
        straight.append((photo[:, :3] / photo[:, 3:].clamp_min(0.05)).clamp(0, 1))
        mattes.append(photo[:, 3])
    shares = [share[:, None] for share in taken(choice.transpose(0, 1), (mattes[0], mattes[1]))]
    colour = shares[0] * straight[0] + shares[1] * straight[1] + shares[2] * out.colour
    return torch.cat([colour * alpha, alpha], 1)


def losses(out: Turned, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar: error of the map, of alpha (edges count more), of the picture and of its edges, of the painting
    alone, of what is taken for visible; `total` of these. What lies in the frame but not on the head counts little."""
    near, near_coarse = (0.2 + 0.8 * in_window(size) for size in (Head.FINE, Head.SIZE))
    off, off_mirrored = ((flow - batch.flow).abs().sum(-1) for flow in out.flow.split(2, 3))
    seen, unseen = ((batch.state == state).float() * near_coarse for state in (1, 2))
    flow = (off * seen).sum() + 0.2 * (off.minimum(off_mirrored) * unseen).sum()
    flow = flow / (seen.sum() + 0.2 * unseen.sum() + 1)
    truth = batch.target[:, 3:]
    edge = 1 - (2 * F.avg_pool2d(truth, 5, 1, 2) - 1).abs()
    weight = (1 + 4 * edge) * near
    alpha = F.binary_cross_entropy_with_logits(out.alpha, truth, weight, reduction="sum") / weight.sum()
    picture = shown(out, truth)
    colour = ((picture - batch.target).abs() * near).mean()
    edges = EdgeLoss()(picture * near, batch.target * near)
    wanted = batch.target[:, :3] / truth.clamp_min(0.05)
    person = truth * near
    painted = ((out.colour - wanted).abs() * person).sum() / (3 * person.sum() + 1)
    photo, *others = out.choice.log_softmax(1).unbind(1)
    other = torch.stack(others).logsumexp(0)
    visible = -(photo * seen + other * unseen).sum() / (seen.sum() + unseen.sum() + 1)
    total = 4 * flow + alpha + 6 * colour + 3 * edges + painted + 0.2 * visible
    return {
        "total": total, "flow": flow, "alpha": alpha, "colour": colour, "edges": edges, "painted": painted,
        "visible": visible,
    }  # fmt: skip


def judged(out: Turned, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the critic sees: the head as it is shown, as it was rendered, and with both where the face should be."""
    window = in_window(Head.FINE).to(batch.source.device)
    joints = face_spots(complete(batch.target_xy, batch.target_known), Head.FINE)
    fake, real = (
        torch.cat([picture * window, joints], 1)
        for picture in (shown(out, batch.target[:, 3:]), batch.target)
    )
    return fake, real


LESSON = Lesson(
    network=Head,
    prepare=prepare,
    predict=lambda network, batch: network(*batch.given),
    losses=losses,
    held_out=96,
    # Backs of heads and faces that the photo does not show are the hardest, and rare.
    alike=-0.4,
    judged=Judged(lambda: PatchCritic(4 + len(FACE)), judged, weight=0.6),
)


def train(options: Options) -> None:
    """Trains `Head` on close-ups (`transfer_training.fit`); its weights are in `out`/head.

    Raises:
        BadInput: no pairs, or they cannot be rendered.
    """
    transfer_training.launch(functools.partial(_train, options=options), options.out, options.machine)


def _train(fabric: Fabric, options: Options) -> None:
    transfer_training.fit(fabric, options, LESSON, "head")
