# SPDX-License-Identifier: Apache-2.0
"""The layer at its full resolution: what is carried there, what is painted, and where the person ends."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.skeleton import NOSE

from .body import far_sides, seen_from_behind
from .carry import Photo, carried, read_photo
from .grid import centres, chunks, pixel_grid, pixels_near, sample, smooth, smoothstep
from .head import Spot, TurnedHead, taken
from .motion import Prediction
from .outline import outline_of
from .parts import NUM_PARTS, PARTS, PartMaps, limb_prior
from .photo import resized, spread_colours
from .stand_ins import StandIns

_HEAD = PARTS.index("head")
_EDGE_WIDTH = 1.6
"""Of an edge in pixels of the photo or the layer, whichever are larger."""
_STANDS_OFF = 0.03
"""How far beyond the network's outline, in torsos, the photo's matte counts."""
_HAIR = 0.15
"""The same for a head that hardly turns."""
_SECOND_HEAD = 0.3
"""How far inside its outline, in torsos, the network may fill in such a head where the photo's matte has none."""
_NO_SAY = 30.0
"""Logits by which what moves gives way where nothing has changed."""
_TRUST = 3.0
"""Logits by which what the photo shows of another side is preferred to what is painted."""
_FAR_ARM = 2.0
"""Logits by which arms that lie behind the trunk give way to it."""
_NEAR_LEG = 1.0
"""Logits by which, from the side, each leg is before or behind."""
_SOLID = 0.25
"""Alpha from which on something weighs."""


def edge_width(maps: PartMaps, photo: int, size: int) -> float:
    """How wide an edge is in frame units, of frames of `photo` and `size` pixels: as in the coarser of both."""
    return _EDGE_WIDTH * max(1 / size, float(maps.ratio) / photo)


def render(
    photo: Photo,
    maps: PartMaps,
    prediction: Prediction | None,
    changed: Tensor,
    size: int,
    head: TurnedHead | None = None,
    other_side: bool = False,
) -> tuple[NDArray[np.float32], Tensor]:
    """The layer, computed a bounded number of pixels at a time.

    Args:
        photo (`Photo`): the person's frame of it.
        maps (`PartMaps`): of one person.
        prediction (`Prediction`): of the same; `None`: the part maps alone.
        changed (`(1, 1, n, n)` float32): how far each place is another than in the photo, 0..1.
        size (`int`): side of the target's frame in pixels.
        head (`TurnedHead`, *optional*): of the same, with a prediction; `None`: the head keeps the photo's view.
        other_side (`bool`, *optional*, defaults to `False`): with a prediction, hands and feet that the photo lacks are
            the other ones.

    Returns:
        the layer `(size, size, 4)`, premultiplied, and `changed` without what is the other side's.
    """
    stand_ins = None
    if other_side and prediction is not None:
        matte = torch.from_numpy(resized(photo.straight[..., 3], photo.owned.shape[-1]))
        stand_ins = StandIns.of(maps, prediction, matte, photo.hands)
    edge = edge_width(maps, photo.straight.shape[0], size) / float(maps.target.torso)
    parts = _Parts(photo, maps, changed, head, edge)
    led = None if prediction is None else _Led(parts, prediction, stand_ins)
    outline = None if led is None else led.outline
    rgba = np.zeros((size * size, 4), np.float32)
    for chunk in chunks(occupied(maps, photo.straight[..., 3], outline, head, changed, edge, size)):
        here = parts.at(centres(chunk, size))
        if led is None:
            colour, matte = carried(photo, here.logits.softmax(0), here.points, here.change, maps)
            alpha = here.alpha.amax(0)
        else:
            colour, alpha, matte = led.at(here)
        alpha = (matte * (1 - here.change) + alpha * here.change)[:, None]
        rgba[chunk] = torch.cat([colour * alpha, alpha], 1).numpy()
    layer = rgba.reshape(size, size, 4)
    clear_specks(layer)
    return layer, changed if stand_ins is None else changed * (1 - stand_ins.replaces)


class _Here(NamedTuple):
    """What the part maps say of `M` pixels of a layer."""

    at: Tensor  # (1, M, 2), where they are
    points: Tensor  # (10, M, 2), the source points of each part
    distance: Tensor  # (10, M), from the parts, in half-widths
    change: Tensor  # (M,), how far they are another place than in the photo, 0..1
    logits: Tensor  # (10, M), which part each is
    alpha: Tensor  # (10, M), of the parts
    spot: Spot | None  # those in which a head that turns has a say
    head_inside: Tensor  # (K,), how far inside its outline these are, in torsos


class _Parts:
    """The part maps of one person, with a head that turns among them; arguments as of `render`."""

    def __init__(
        self, photo: Photo, maps: PartMaps, changed: Tensor, head: TurnedHead | None, edge: float
    ) -> None:
        self.photo, self.maps, self.head, self.edge = photo, maps, head, edge
        self.torso = float(maps.target.torso)
        self.still = maps.still(0.0 if head is None else head.share)[0, :, None]
        self.far, self.order = _far_limbs(maps)
        self._changed = changed
        self._head_outline = None if head is None else head.outline() * head.target_side / self.torso

    def at(self, at: Tensor) -> _Here:
        """At places `(1, M, 2)`."""
        points, distance = (of_part[0] for of_part in self.maps.at(at))
        change = smooth(self._changed, at[0])[0].clamp(0, 1)
        spot, head_inside = None if self.head is None else self.head.spot(at[0]), change.new_zeros(0)
        if spot is not None:
            points[_HEAD, spot.pixels] += spot.counts[:, None] * (spot.direct - points[_HEAD, spot.pixels])
            # Of a profile that looks up the joints hardly move, but what they bring is no more where it was.
            change[spot.pixels] = change[spot.pixels].maximum(spot.counts)
        coverage = sample(self.photo.owned, points)[:, 0]
        if spot is not None and self._head_outline is not None:
            head_inside = smooth(self._head_outline, spot.here)[0]
            coverage[_HEAD, spot.pixels] = self._of_head(coverage, distance, spot, head_inside)
        logits, alpha = limb_prior(distance[None], coverage[None], self.maps.in_target)
        # What moves has no say where all is as in the photo.
        own = logits[0] + self.order - _NO_SAY * (1 - self.still) * (1 - change)
        return _Here(at, points, distance, change, own, alpha[0], spot, head_inside)

    def _of_head(self, coverage: Tensor, distance: Tensor, spot: Spot, inside: Tensor) -> Tensor:
        """How much of a spot's pixels belongs to the head, `(K,)`; `coverage`, `distance` `(10, M)` of all."""
        # What is painted of a head belongs to it, too.
        on_it = spot.counts * (0.5 + inside / self.edge).clamp(0, 1)
        near = distance[_HEAD, spot.pixels]
        on_it = (on_it * (1 - smoothstep(near, 1.2, 2.0))).maximum(coverage[_HEAD, spot.pixels])
        # Shoulders and collar in its square stay where they are: what stays and is as near has them.
        stand = (self.still > 0.5) & self.maps.in_target[0, :, None]
        stand[_HEAD] = False
        stays = distance[:, spot.pixels].masked_fill(~stand, math.inf).amin(0)
        return on_it * (1 - smoothstep(near - stays, -0.2, 0.1))


class _Led:
    """The same, led by the network."""

    def __init__(self, parts: _Parts, prediction: Prediction, stand_ins: StandIns | None) -> None:
        self._parts, self._stand_ins = parts, stand_ins
        self.outline = outline_of(prediction.alpha) / parts.torso
        painted = _painted_like(prediction, parts.photo.straight)
        self._planes = torch.cat([prediction.part_logits, prediction.visible, painted], 1)
        self._keep_head = _keeps_head(parts.maps)
        # A head that hardly turns brings its hair or hat along, beyond the outline of one without.
        self._hat = own_head(parts.maps, parts.head)

    def at(self, here: _Here) -> tuple[Tensor, Tensor, Tensor]:
        """Straight colours `(M, 3)`, alpha and the carried matte `(M,)`."""
        parts = self._parts
        more, visible, paint = smooth(self._planes, here.at[0]).split([NUM_PARTS, 1, 3])
        # It may bring arms forward, not take them away: where they hardly move its trunk would swallow them. Of
        # those that lie behind the trunk it may.
        arms, others = more[2:6], more.clamp(max=0)
        arms = arms.clamp_min(0) + parts.far * (arms.clamp_max(0) - _FAR_ARM)
        share = (here.logits + torch.cat([others[:2], arms, others[6:]])).softmax(0)
        # The maps as they are: the network's correction of them helps it to see the matte, but bends cloth, and on
        # held-out people carried colours are nearer to the truth without it.
        straight, matte = carried(parts.photo, share, here.points, here.change, parts.maps)
        # The wrong side of a garment beats a smooth guess: it has the photo's grain and folds. Beyond the matte
        # its colours go on; a head does not.
        seen = torch.sigmoid(visible[0] + _TRUST * (1 - share[_HEAD] * (1 - self._keep_head)))
        seen = seen * (1 - share[_HEAD] * (1 - smoothstep(matte, 0.05, 0.5)))
        seen = (1 - here.change * (1 - seen))[:, None]
        colour = straight * seen + paint.T.clamp(0, 1) * (1 - seen)
        if parts.head is not None and here.spot is not None:
            _show_head(colour, parts.head, here.spot, share[_HEAD], straight, matte, parts.photo.straight)
        alpha = self._alpha(here, share, matte)
        if self._stand_ins is not None:
            lost = self._stand_ins.limbs(parts.photo, share, here.points, here.at, here.change)
            if lost is not None:
                colour[lost.pixels] += lost.replaces[:, None] * (lost.colour - colour[lost.pixels])
                alpha[lost.pixels] = alpha[lost.pixels].minimum(lost.alpha + 1 - lost.replaces)
        drawn = parts.maps.in_target[0, :, None]
        if not drawn.all():
            # Beside a limb that is left out the network has learned nothing.
            near = here.distance.masked_fill(~drawn, math.inf).amin(0)
            alpha = alpha * (1 - smoothstep(near, 1.3, 1.9))
        return colour, alpha, matte

    def _alpha(self, here: _Here, share: Tensor, matte: Tensor) -> Tensor:
        """Of the parts' shares `(10, M)` and the carried matte `(M,)`.

        The network knows bodies, the matte how far this one's clothes and hair stand off: it decides just beyond the
        network's outline. All of a head is the photo's, if that is turned as it should be; a second one that the
        network would draw beside it is none.
        """
        inside, hair, spot = smooth(self.outline, here.at[0])[0], self._hat * share[_HEAD], here.spot
        stands_off = (_HAIR * hair).clamp_min(_STANDS_OFF)
        if spot is not None:
            # An arm before it reaches beyond its outline, but does not cut it.
            arm, of_body = share[2:6, spot.pixels].sum(0), inside[spot.pixels]
            of_both = here.head_inside + arm * (of_body - here.head_inside).clamp_min(0)
            inside[spot.pixels] += spot.counts * (of_both - of_body)
            # Its outline knows this actor's hair; the matte, carried there, says where the ellipsoid ends, or the
            # hand that lay before it.
            stands_off[spot.pixels] *= 1 - spot.counts * share[_HEAD, spot.pixels]
        edge, still = self._parts.edge, self._parts.still
        # The parts' own alpha is no finer than their ownership; at the matte's edge the matte itself is read.
        there = matte.minimum(2 * here.alpha.amax(0))
        alpha = there.minimum(0.5 + (inside + stands_off) / edge)
        alpha = alpha.maximum(0.5 + (inside - _SECOND_HEAD * hair) / edge).clamp(0, 1)
        # What stays has no more outline than in the photo.
        return alpha.minimum(1 - (share * still).sum(0) * (1 - matte))


def occupied(
    maps: PartMaps,
    matte: NDArray[np.float32],
    outline: Tensor | None,
    head: TurnedHead | None,
    changed: Tensor,
    edge: float,
    size: int,
) -> NDArray[np.int64]:
    """Flat indices of the layer's pixels that may be covered, in order; most of a person's frame is empty.

    Args:
        maps (`PartMaps`), head (`TurnedHead`, *optional*), changed (`(1, 1, n, n)`), size (`int`): as of `render`.
        matte (`(m, m)` float32): the photo's.
        outline (`(1, 1, k, k)`, *optional*): how far inside the network's outline each place is, in torsos.
        edge (`float`): width of an edge, in torsos.
    """
    coarse, known = 128, 64
    # Maps and distances are smooth, and these are known already.
    points, distance = maps.on_grid(known)
    distance = distance.reshape(1, NUM_PARTS, known, known)
    distance = F.interpolate(distance, size=coarse, mode="bilinear", align_corners=False).flatten(2)
    if outline is None:
        maybe = distance.amin(1) < 2.9
    else:
        inside = F.adaptive_max_pool2d(outline, coarse).reshape(1, -1) + edge
        maybe = (inside > -_STANDS_OFF) | ((inside > -_HAIR) & (distance[:, 1] < 2.9))
    if head is not None:
        maybe |= head.counts(pixel_grid(coarse)[0]) > 0
    # Close to the photo's own pose the photo's matte counts wherever it is.
    there = sample(F.adaptive_max_pool2d(torch.from_numpy(matte)[None, None], known), points).amax(2)
    own = (there.reshape(1, 1, known, known) > 0) & (F.interpolate(changed, size=known) < 0.99)
    maybe |= F.interpolate(own.float(), size=coarse).flatten(1) > 0
    return pixels_near(maybe.reshape(1, 1, coarse, coarse), size)


def _keeps_head(maps: PartMaps) -> float:
    """0 where a face seen from the front must be seen from behind: it is painted over.

    Else, without a network for it, a head keeps the photo's view even when it should turn: one painted at 64 px has no
    features.
    """
    return float(~maps.source.known[0, NOSE] | maps.target.known[0, NOSE])


def _far_limbs(maps: PartMaps) -> tuple[Tensor, Tensor]:
    """How surely the arms of one person lie behind the trunk where they cross it, `(4, 1)` 0..1, and which leg lies
    before the other one, `(10, 1)`, added to the parts' logits.

    From behind most arms that cross the trunk are before it, out of sight; from the side the far one is.
    """
    far = far_sides(maps.target)[0]
    legs = _NEAR_LEG * maps.moved() * (far.flip(0) - far)
    arms = maps.moved() * far.maximum(seen_from_behind(maps.target))
    order = torch.cat([far.new_zeros(NUM_PARTS - 4), legs.repeat_interleave(2)])
    return arms.repeat_interleave(2)[:, None], order[:, None]


def own_head(maps: PartMaps, head: TurnedHead | None) -> float:
    """How far the head of one person is the photo's as it is there, 0..1, hair or hat included."""
    return _keeps_head(maps) * float(maps.face_fit()) * (1 - (0.0 if head is None else head.share))


def passes_of(prediction: Prediction, alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normal and depth in torsos `(size, size, 4)` of a layer; 0 where its `alpha` `(size, size)` is."""
    size = len(alpha)
    planes = torch.cat([prediction.normals, prediction.depth], 1)
    shape = np.zeros((size * size, 4), np.float32)
    pixels = np.flatnonzero(alpha)
    for chunk in chunks(pixels):
        normals, depth = smooth(planes, centres(chunk, size)[0]).split([3, 1])
        shape[chunk] = torch.cat([F.normalize(normals, dim=0), depth]).T.numpy()
    return shape.reshape(size, size, 4)


def _show_head(
    colours: Tensor,
    head: TurnedHead,
    spot: Spot,
    share: Tensor,
    straight: Tensor,
    matte: Tensor,
    photo: NDArray[np.float32],
) -> None:
    """Moves colours `(M, 3)` towards those of a head that turns, in place.

    Args:
        share (`(M,)`): how much of each pixel is head.
        straight (`(M, 3)`), matte (`(M,)`): what the maps bring from the photo.
    """
    share = spot.counts * share[spot.pixels]
    some = share > 0.01
    pixels, here, share = spot.pixels[some], spot.here[some], share[some, None]
    if len(pixels) == 0:
        return
    other = read_photo(photo, spot.other_side[some] * photo.shape[0])
    bare = head.bare(spot.direct[some]), head.bare(spot.other_side[some])
    parts = taken(smooth(head.out.choice, here), (matte[pixels] * bare[0], other[:, 3] * bare[1]))
    made_of = (straight[pixels], other[:, :3], smooth(head.out.colour, here).T.clamp(0, 1))
    shown = torch.stack([part[:, None] * of for part, of in zip(parts, made_of, strict=True)]).sum(0)
    colours[pixels] += share * (shown - colours[pixels])


def _painted_like(prediction: Prediction, photo: NDArray[np.float32]) -> Tensor:
    """The painted colours `(1, 3, 64, 64)`, moved by what they miss at the nearest places that the photo shows.

    Head and body separately: hair must not take the collar's colour.
    """
    small = torch.from_numpy(resized(photo, 4 * prediction.flow.shape[1])).permute(2, 0, 1)[None]
    carried = sample(small, prediction.flow)
    missed = (carried[:, :3] - prediction.colour)[0].permute(1, 2, 0).numpy()
    sure = torch.sigmoid(prediction.visible[0, 0]) * carried[0, 3]
    head = prediction.share[0, 1]
    moved = prediction.colour
    for part in (head, 1 - head):
        known = smoothstep(sure * part, 0.4, 0.8).numpy()
        if known.max() == 1:
            moved = moved + 0.7 * torch.from_numpy(spread_colours(missed, known)).permute(2, 0, 1) * part
    return moved.clamp(0, 1)


def clear_specks(layer: NDArray[np.float32]) -> None:
    """Clears, in place, what is fainter than 8-bit alpha can show, and what hangs free and is under a fiftieth of the
    person."""
    rows, columns = (np.flatnonzero(layer[..., 3].any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return
    person = layer[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    count, labels = cv2.connectedComponents((person[..., 3] > 1 / 255).astype(np.uint8), connectivity=8)
    area = np.bincount(labels[person[..., 3] > _SOLID], minlength=count)
    area[0] = 0
    keep = (area > area.max() / 50).astype(np.float32)
    person *= keep[labels][..., None]
