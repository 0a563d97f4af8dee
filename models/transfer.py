# SPDX-License-Identifier: Apache-2.0
"""Transfer that moves the photo's own pixels: each limb of the target pose is an exact map into the photo.

`MotionTransfer` enlarges the weights that `Motion` gives to these maps, not the picture, and reads the photo at its
full resolution, so the layer is as sharp as the photo; `Head` turns heads, and `Retouch` paints over what moved pixels
cannot make. Without networks the part maps alone give a person too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import NoActor
from shared.skeleton import FACE, Skeleton

from . import weights
from .body import complete
from .carry import Photo, owned
from .grid import pixel_grid, sample, smoothstep
from .head import Head, TurnedHead, arms_before_head, cut, head_frames, turn
from .head_pose import HeadMaps, head_pose
from .images import LUMA
from .motion import Motion, Prediction
from .outline import outline_of, volume_of
from .parts import PartMaps
from .person import Frame, Person, crop, person_frame, tensors
from .photo import Hands, arms_apart, hands_of, is_grey, joined, resized, spread_colours
from .render import clear_specks, edge_width, own_head, passes_of, render
from .retouch import Retouch, paint_over, planes_of

_TORSO_METRES = 0.5
"""Neck to mid-hip of a grown-up: what a torso is taken for where metres are asked for."""
_FINER = 1.3
"""How much finer than the layer a photo is kept: read at places between its pixels, a fine
weave would lose half of its gradients' energy."""


@dataclass(frozen=True)
class Analysed:
    """All that `MotionTransfer` needs to know of a photo: `analyse` makes it, any number of poses use it.

    Args:
        source (`Skeleton`): the person's joints in the photo.
        frame (`Frame`): the square of the photo around the person.
        straight (`(n, n, 4)` float32): the frame's pixels, colours continued beyond the matte, and the matte.
        bare, armed (`(m, m, 4)` float32): `arms_apart`.
        owned (`(10, 1, 256, 256)` float32): `carry.owned`.
        small (`(1, 4, 256, 256)` float32): the frame as the network sees it, premultiplied.
        head (`(1, 4, 96, 96)` float32): its head frame, the same.
        volume (function): how much farther out than `Head` draws it the head reaches, by direction, `(36,)` float32;
            worked out when it is first asked for.
        before_head (`(1, 1, 128, 128)` float32, *optional*): `arms_before_head`.
        hands (`Hands`): bare or hidden.
        grey (`bool`): the photo is black and white, so that what networks paint must be, too.
    """

    source: Skeleton
    frame: Frame
    straight: NDArray[np.float32]
    bare: NDArray[np.float32]
    armed: NDArray[np.float32]
    owned: Tensor
    small: Tensor
    head: Tensor
    volume: Callable[[], Tensor]
    before_head: Tensor | None
    hands: Hands
    grey: bool


@dataclass(frozen=True)
class Moved:
    """An actor's pixels moved into a pose, before they are retouched.

    Args:
        frame (`Frame`): the square of the scene around the target.
        rgba (`(n, n, 4)` float32): its pixels, premultiplied.
        edge (`float`): width of its edges, in frame units.
        prediction (`Prediction`, *optional*): what the network said of it.
        retouch (`(1, 1, 64, 64)` float32): how much each place may be retouched, 0..1: nothing that is as in the photo,
            nor a head that is the photo's, nor what is the other side's for want of its own.
    """

    frame: Frame
    rgba: NDArray[np.float32]
    edge: float
    prediction: Prediction | None
    retouch: Tensor


def missing_parts(source: Skeleton, target: Skeleton) -> list[str]:
    """Which limbs the target shows that the photo has neither on this nor on the other side, nor their parents.

    Returns words for a sentence, such as `["legs"]`; empty when the photo has what is needed.
    """
    needed = {"arms": (2, 3, 4, 5), "legs": (6, 7, 8, 9)}
    maps = PartMaps(*tensors(source), *tensors(target))
    lacking = (maps.in_target & ~maps.in_source)[0]
    words = [word for word, parts in needed.items() if lacking[list(parts)].any()]
    known = maps.source.known[0]
    if not known[list(FACE)].any() and maps.target.known[0, list(FACE)].any():
        words.append("face")
    return words


def with_carried_face(source: Skeleton, target: Skeleton) -> Skeleton:
    """The target with the face that the photo's head has there: pixels can be moved, but not turned out of the plane.

    Args:
        source (`Skeleton`): the person in the photo.
        target (`Skeleton`): the pose wanted. Unchanged where the photo or the pose shows no face.
    """
    joints = list(FACE)
    if not source.visible[joints].any() or not target.visible[joints].any():
        return target
    frame = person_frame(target)
    maps = PartMaps(*tensors(source, person_frame(source)), *tensors(target, frame))
    face = maps.carried_face()[0].double().numpy() * frame.size + (frame.x, frame.y)
    known = source.visible[joints]
    if maps.head_mirrored[0]:
        known = known[[0, 2, 1, 4, 3]]
    xy, visible, score = target.xy.copy(), target.visible.copy(), target.score.copy()
    xy[joints], visible[joints], score[joints] = face, known, np.where(known, target.score.max(), 0.0)
    return Skeleton(xy, visible, score)


class MotionTransfer:
    """Paints the actor of a photo in a new pose.

    Args:
        name (`str`, *optional*, defaults to `"motion"`): installed weights of stage `transfer`, or `"limbs"` for the
            part maps alone, without a network.
    """

    def __init__(self, name: str = "motion") -> None:
        self.network = None if name == "limbs" else weights.load(Motion, "transfer", name)
        self.head = None if name == "limbs" else weights.load(Head, "transfer", "head")
        self.retouch = None if name == "limbs" else weights.load(Retouch, "transfer", "retouch")

    def transfer(
        self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton, target: Skeleton
    ) -> Person:
        """The person of `rgb` in the pose `target`, at the target's scale: `analyse` and `pose` in one."""
        return self.pose(self.analyse(rgb, matte, source), target)

    @torch.inference_mode()
    def analyse(self, rgb: NDArray[np.uint8], matte: NDArray[np.float32], source: Skeleton) -> Analysed:
        """What depends on the photo alone.

        Args:
            rgb (`(H, W, 3)` uint8): the photo.
            matte (`(H, W)` float32): how much of each pixel is the person, 0..1.
            source (`Skeleton`): the person's joints in the photo.

        Raises:
            NoActor: the matte is empty around the source skeleton.
            BadInput: a skeleton without joints, or of an impossible size.
        """
        frame = person_frame(source)
        photo = joined(crop(rgb, frame) * np.float32(1 / 255), crop(matte[..., None], frame)[..., 0])
        if photo[..., 3].max() < 0.5:
            raise NoActor(
                "actor photo: the matte shows no person at the skeleton", "Choose another photo", "actor"
            )
        straight = joined(spread_colours(photo[..., :3], photo[..., 3]), photo[..., 3])
        photo[..., :3] *= photo[..., 3:]
        small = resized(photo, Motion.PHOTO)
        joints = tensors(source, frame)
        bare, armed = arms_apart(straight, *joints)
        mine = owned(PartMaps(*joints, *joints), torch.from_numpy(small[..., 3]))
        body = complete(*joints)
        pose = head_pose(body)
        origin, side = head_frames(body, pose)
        finer = math.ceil(float(side) * frame.size / Head.FINE)
        head = cut(torch.from_numpy(photo).permute(2, 0, 1)[None], origin, side, Head.FINE, max(finer, 1))
        seen = torch.from_numpy(small).permute(2, 0, 1)[None]
        covered = arms_before_head(body, pose)
        hands = hands_of(small, *joints)
        points = origin + side * pixel_grid(Head.FINE)
        pixels = frame.size * points[0] + torch.tensor([frame.x, frame.y])
        shown = ((pixels >= 0) & (pixels < torch.tensor(matte.shape[::-1]))).all(1).float()
        if covered is not None:
            clear = 1 - sample(covered, points)[0, 0]
            shown, head = shown * clear, head * clear.reshape(1, 1, Head.FINE, Head.FINE)
        own = head, (body.xy - origin[:, None]) / side, body.known, hands.skin
        volume = functools.cache(functools.partial(self._volume, *own, shown))
        return Analysed(
            source, frame, straight, bare, armed, mine, seen, head, volume, covered, hands, is_grey(small)
        )

    @torch.inference_mode()
    def _volume(self, photo: Tensor, xy: Tensor, known: Tensor, skin: Tensor, shown: Tensor) -> Tensor:
        """`volume_of` a head, whose frame holds what the photo shows at the places that are `shown` `(96 * 96,)`."""
        assert self.head is not None
        out = self.head(photo, xy, known, xy, known, skin)
        return volume_of(outline_of(out.alpha), photo[:, 3:], shown.reshape(out.alpha.shape), out.maps.source)

    @torch.inference_mode()
    def pose(self, actor: Analysed, target: Skeleton, passes: bool = False, draft: bool = False) -> Person:
        """The actor in a pose, at the target's scale.

        Args:
            actor (`Analysed`): from `analyse`.
            target (`Skeleton`): the pose, in pixels of the scene. Limbs whose joints are unknown are not drawn; those
                that `missing_parts` names are made up, blurred and in the colours of the rest.
            passes (`bool`, *optional*, defaults to `False`): depth and normals too, where a network predicts them.
            draft (`bool`, *optional*, defaults to `False`): not retouched, and the network asked once, not of the
                mirror image too.

        Raises:
            BadInput: a skeleton without joints, or of an impossible size.
        """
        moved = self.move(actor, target, draft)
        frame, rgba = moved.frame, moved.rgba
        wanted = not draft and float(moved.retouch.max()) > 0.01
        if wanted and self.retouch is not None and moved.prediction is not None:
            small = resized(rgba, Retouch.SIZE)
            seen = torch.from_numpy(small).permute(2, 0, 1)[None]
            out = self.retouch.both_ways(seen, planes_of(moved.prediction))
            paint_over(rgba, small, out, moved.retouch, moved.edge)
            clear_specks(rgba)
        if actor.grey:
            rgba[..., :3] = (rgba[..., :3] @ LUMA)[..., None]
        rows, columns = (np.flatnonzero(rgba[..., 3].any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            return Person(np.zeros((1, 1, 4), np.float32), frame.x, frame.y)
        top, left = int(rows[0]), int(columns[0])
        here = np.s_[top : rows[-1] + 1, left : columns[-1] + 1]
        depth = normals = None
        if passes and moved.prediction is not None:
            shape = passes_of(moved.prediction, rgba[..., 3])[here]
            normals, depth = np.ascontiguousarray(shape[..., :3]), shape[..., 3] * _TORSO_METRES
        return Person(np.ascontiguousarray(rgba[here]), frame.x + left, frame.y + top, depth, normals)

    @torch.inference_mode()
    def move(self, actor: Analysed, target: Skeleton, draft: bool = False) -> Moved:
        """The actor's pixels in a pose: what `pose` retouches.

        Args, errors: as of `pose`.
        """
        frame = person_frame(target)
        source_xy, source_known = tensors(actor.source, actor.frame)
        target_xy, target_known = tensors(target, frame)
        prediction = None
        if self.network is None:
            maps = PartMaps(source_xy, source_known, target_xy, target_known)
        else:
            predict = self.network if draft else self.network.both_ways
            prediction = predict(actor.small, source_xy, source_known, target_xy, target_known)
            maps = prediction.maps
        # A photo that is larger than the layer is reduced first, so that reading it does not alias.
        per_pixel = float(maps.ratio[0]) * actor.frame.size / frame.size / _FINER
        straight = actor.straight
        if per_pixel > 1:
            straight = resized(straight, max(8, round(actor.frame.size / per_pixel)))
        photo = Photo(straight, actor.bare, actor.armed, actor.hands, actor.owned)
        head = self._turned(actor, maps)
        changed = maps.moved().expand(1, 1, Motion.SIZE, Motion.SIZE)
        if prediction is not None:
            turned = 0.0 if head is None else head.share
            changed = changed * (1 - maps.unmoved(Motion.SIZE, prediction.share, turned))
        rgba, retouch = render(photo, maps, prediction, changed, frame.size, head, not draft)
        if prediction is not None:
            retouch = retouch * (1 - own_head(maps, head) * prediction.share[:, 1:2])
        return Moved(frame, rgba, edge_width(maps, actor.frame.size, frame.size), prediction, retouch)

    def _turned(self, actor: Analysed, maps: PartMaps) -> TurnedHead | None:
        """The head, where there is a network for it and it must turn, or show what an arm hid."""
        # Half of two views is a ghost.
        change = float(smoothstep(maps.moved(), 0.3, 0.7))
        if self.head is None or change < 0.01:
            return None
        heads = HeadMaps(head_pose(maps.source), head_pose(maps.target))
        turned = turn(heads, maps.source.known, maps.target.known)
        share, covered = float(turned) * change, actor.before_head
        if share < 0.01 and covered is None:
            return None
        source, target = (
            (origin[0], float(side))
            for origin, side in (
                head_frames(maps.source, heads.source),
                head_frames(maps.target, heads.target),
            )
        )
        joints = [
            ((body.xy - origin) / side, body.known)
            for body, (origin, side) in ((maps.source, source), (maps.target, target))
        ]
        out = self.head(actor.head, *joints[0], *joints[1], actor.hands.skin)
        return TurnedHead(share, covered, change, actor.volume(), out, *source, *target)
