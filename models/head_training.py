# SPDX-License-Identifier: Apache-2.0
"""Training of `Head` on rendered close-ups (`walkon data people --framing head`), with the faults of real photos.

Its losses are like those of `Motion`, and an adversarial one (LSGAN, Mao et al. 2017), without which what the photo
does not show is a blur. A patch critic sees the painting, and where the joints of the face should be.
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
from .grid import pixel_grid, sample, smoothstep
from .head import Head, Turned, cut, face_spots, head_frames, in_window, taken
from .head_pose import head_pose
from .motion_training import photographed, picture_of, recoloured
from .msa_training import EdgeLoss
from .pairs import Pairs
from .raised_arms import raised_arms
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
    hidden: Tensor  # (B, 1, 96, 96), where something lies before the source's head

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


def _misjudged(source_xy: Tensor, target_xy: Tensor) -> tuple[Tensor, Tensor]:
    """Joints whose faces are too large or small as a whole, and a little off, as an estimator takes them for: the
    photo's, and of every other pair the target's by as much."""
    count = len(source_xy)
    larger = (_LARGER * torch.randn(count, 1, 1)).exp()
    off = _OFF * torch.randn(count, 1, 2)
    both = (torch.rand(count, 1, 1) < 0.5).float()
    moved = []
    for xy, share in ((source_xy, 1.0), (target_xy, both)):
        face = xy[:, FACE]
        middle = face.mean(1, keepdim=True)
        torso = (xy[:, [NECK]] - xy[:, [8, 11]].mean(1, keepdim=True)).norm(dim=-1, keepdim=True)
        xy = xy.clone()
        xy[:, FACE] = face + share * ((larger - 1) * (face - middle) + off * torso)
        moved.append(xy)
    return moved[0], moved[1]


_LARGER, _OFF = 0.07, 0.014
"""Standard deviations of the logarithm of a face's size, and of its place in torsos: what MoveNet's joints of 273
held-out rendered people have, beyond what each joint is off by itself."""


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


class Covered(NamedTuple):
    """Heads that a hand is before, some of them."""

    picture: Tensor  # (B, 4, 96, 96) premultiplied
    hidden: Tensor  # (B, 1, 96, 96), what of it is the arm
    known: Tensor  # (B, 1, 96, 96), what it is taken for (`head.arms_before_head`)


def _covered(source: Tensor, skin: Tensor) -> Covered:
    """Every third head with an arm before it, in a skin like its own and a sleeve of somebody else's colours."""
    size = source.shape[-1]
    means = F.adaptive_avg_pool2d(source, 3)
    middle, low = (of[:, :3] / of[:, 3:].clamp_min(0.05) for of in (means[:, :, 1, 1], means[:, :, 2, 1]))
    own = torch.where(skin[:, 3:] > 0, skin[:, :3], middle)
    light = (0.15 * torch.randn(len(source), 1) + 0.04 * torch.randn(len(source), 3)).exp()
    bare = torch.rand(len(source), 1) < 0.3
    own = (own * light).clamp(0, 1)
    arms = raised_arms(own, torch.where(bare, own, low.roll(1, 0)), size)
    some = (torch.rand(len(source), 1, 1, 1) < 1 / 3).float()
    hidden = arms.picture[:, 3:] * some
    return Covered(source * (1 - hidden) + arms.picture * some, hidden, arms.known * some)


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
    if augment:
        source_xy, target_xy = _misjudged(source_xy, target_xy)
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
    hidden = torch.zeros_like(source[:, 3:])
    if augment:
        covered = _covered(source, skin)
        source, hidden = photographed(covered.picture) * (1 - covered.known), covered.hidden
    points = target_origin[:, None] + target_side[:, None, None] * pixel_grid(Head.SIZE)
    at = points.reshape(-1, Head.SIZE, Head.SIZE, 2) * 2 - 1
    # The mean of two places of the photo is neither of them.
    moved = F.grid_sample(torch.cat([flow, state], 1), at, mode="nearest", align_corners=False)
    flow = (moved[:, :2].permute(0, 2, 3, 1) - origin[:, None, None]) / side[:, None, None, None]
    state = moved[:, 2].round()
    state = torch.where((state == 1) & (sample(hidden, flow)[:, 0] > 0.5), torch.full_like(state, 2.0), state)
    return Batch(
        source,
        joints[0][..., :2],
        source_known,
        target,
        joints[1][..., :2],
        target_known,
        flow,
        state,
        skin,
        hidden,
    )


def _straight(photo: Tensor) -> Tensor:
    return (photo[:, :3] / photo[:, 3:].clamp_min(0.05)).clamp(0, 1)


def shown(out: Turned, alpha: Tensor) -> Tensor:
    """The head as `Head` alone would show it within an outline, premultiplied `(B, 4, 96, 96)`.

    Args:
        alpha (`(B, 1, 96, 96)`): the true one in training. With its own a network would make up by colours for an edge
            that nobody can know.
    """
    choice = F.interpolate(out.choice, scale_factor=2, mode="bilinear", align_corners=False)
    photos = out.carried.split(4, 1)
    shares = taken(choice.transpose(0, 1), (photos[0][:, 3], photos[1][:, 3]))
    made_of = (_straight(photos[0]), _straight(photos[1]), out.colour)
    colour = torch.stack([share[:, None] * of for share, of in zip(shares, made_of, strict=True)]).sum(0)
    return torch.cat([colour * alpha, alpha], 1)


def losses(out: Turned, batch: Batch) -> dict[str, Tensor]:
    """Each a scalar; `total` of these. What lies in the frame but not on the head counts little.

    `flow` and `aim`, errors of the map and of the ellipsoid; `carried`, of what the maps bring of both sides; `alpha`,
    where edges count more; `colour` and `edges`, of the picture; `painted`, of the painting alone; `choice`, of what is
    chosen on the head, and `visible`, of what is elsewhere.
    """
    device = batch.source.device
    near, near_coarse = (0.2 + 0.8 * in_window(size).to(device) for size in (Head.FINE, Head.SIZE))
    guess = (out.guess - batch.flow).abs().sum(-1)
    off, off_mirrored = ((flow - batch.flow).abs().sum(-1) for flow in out.flow.split(2, 3))
    seen, unseen = ((batch.state == state).float() * near_coarse for state in (1, 2))
    flow = (off * seen).sum() + 0.2 * (off.minimum(off_mirrored) * unseen).sum()
    flow = flow / (seen.sum() + 0.2 * unseen.sum() + 1)
    places = out.maps.at(pixel_grid(Head.SIZE).to(device).expand(len(seen), -1, -1))
    on_head, *facing = (
        of.detach().reshape(seen.shape) for of in (places.on_head, places.faces, places.mirrored_faces)
    )
    aim = _mean(guess, seen * on_head)

    truth = batch.target[:, 3:]
    wanted = batch.target[:, :3] / truth.clamp_min(0.05)
    whole = on_head * near_coarse * (F.avg_pool2d(truth, 2)[:, 0] > 0.9)
    carried, unlike = torch.zeros((), device=device), []
    # No truth says where the photo shows the same of the head's other side, but that it looks alike.
    for photo, square_on, flow_there in zip(
        out.carried.split(4, 1), facing, out.flow.split(2, 3), strict=True
    ):
        error = F.avg_pool2d((_straight(photo) - wanted).abs().mean(1, keepdim=True), 2)[:, 0]
        there = F.avg_pool2d(photo[:, 3:], 2)[:, 0] > 0.5
        # No correction brings what a hand is before.
        there = there & (sample(batch.hidden, flow_there.detach())[:, 0] < 0.1)
        carried = carried + _mean(error, whole * there * smoothstep(square_on, 0.1, 0.4))
        unlike.append(_unlike(_straight(photo), wanted))
    # Equally good, pixels of the photo are better than painted ones.
    unlike.append(_unlike(out.colour, wanted) + 0.01)
    choice = _mean((out.choice.softmax(1) * torch.stack(unlike, 1).detach()).sum(1), whole)
    photo, *others = out.choice.log_softmax(1).unbind(1)
    visible = photo * seen + torch.stack(others).logsumexp(0) * unseen
    visible = _mean(-visible, (seen + unseen > 0) * (1 - on_head))

    edge = 1 - (2 * F.avg_pool2d(truth, 5, 1, 2) - 1).abs()
    alpha = F.binary_cross_entropy_with_logits(out.alpha, truth, reduction="none")
    alpha = _mean(alpha, (1 + 4 * edge) * near)
    # What nobody can know to the pixel is nearest as a blur. Where the photo shows nothing, and of the painting, means
    # are compared, and the critic asks for the rest.
    known = 1 - F.interpolate((batch.state == 2).float()[:, None], size=Head.FINE)
    picture = shown(out, truth)
    difference = (picture - batch.target) * near
    colour = (difference * known).abs().mean() + F.avg_pool2d(difference * (1 - known), 4).abs().mean()
    edges = EdgeLoss()(picture * near * known, batch.target * near * known)
    painted = _mean(_unlike(out.colour * truth, wanted * truth), F.avg_pool2d(truth * near, 2)[:, 0])
    total = (
        4 * flow + 2 * aim + carried + alpha + 6 * colour + 3 * edges + painted + 2 * choice + 0.2 * visible
    )
    return {
        "total": total, "flow": flow, "aim": aim, "carried": carried, "alpha": alpha, "colour": colour, "edges": edges,
        "painted": painted, "choice": choice, "visible": visible,
    }  # fmt: skip


def _mean(of: Tensor, weight: Tensor) -> Tensor:
    return (of * weight).sum() / (weight.sum() + 1)


def _unlike(colours: Tensor, wanted: Tensor) -> Tensor:
    """How much colours `(B, 3, 96, 96)` differ, `(B, 48, 48)`; what is a pixel to the side hardly does."""
    return F.avg_pool2d(colours - wanted, 4, 2, 1).abs().mean(1)


def judged(out: Turned, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the critic sees: the painting within the true outline, the head as it was rendered, and with both where the
    face should be.

    It does not see what is shown: of that most is the photo's, and no critic could tell it.
    """
    window = in_window(Head.FINE).to(batch.source.device)
    joints = face_spots(complete(batch.target_xy, batch.target_known), Head.FINE)
    truth = batch.target[:, 3:]
    painting = torch.cat([out.colour * truth, truth], 1)
    made, real = (torch.cat([picture * window, joints], 1) for picture in (painting, batch.target))
    places = out.maps.at(pixel_grid(Head.FINE).to(window.device).expand(len(truth), -1, -1))
    on_head = places.on_head.detach().reshape(truth.shape)
    return made, real, F.avg_pool2d(on_head * truth * window, PatchCritic.PATCH)


LESSON = Lesson(
    network=Head,
    prepare=prepare,
    predict=lambda network, batch: network(*batch.given),
    losses=losses,
    held_out=96,
    # Backs of heads and faces that the photo does not show are the hardest, and rare.
    alike=-0.7,
    judged=Judged(lambda: PatchCritic(4 + len(FACE)), judged, weight=0.05),
)


def train(options: Options) -> None:
    """Trains `Head` on close-ups (`transfer_training.fit`); its weights are in `out`/head.

    Raises:
        BadInput: no pairs, or they cannot be rendered.
    """
    transfer_training.launch(functools.partial(_train, options=options), options.out, options.machine)


def _train(fabric: Fabric, options: Options) -> None:
    transfer_training.fit(fabric, options, LESSON, "head")
