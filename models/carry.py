# SPDX-License-Identifier: Apache-2.0
"""Carries the photo's pixels into a new pose at the layer's full resolution, led by the part maps and a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.skeleton import NOSE

from .body import far_sides, seen_from_behind
from .grid import pixel_grid, sample, smooth, smoothstep
from .head import Spot, TurnedHead, taken
from .motion import Prediction
from .outline import outline_of
from .parts import NUM_PARTS, PARTS, PartMaps, limb_prior
from .photo import Hands, resized, spread_colours


def _read_photo(photo: NDArray[np.float32], points: Tensor) -> Tensor:
    """Bicubic values `(M, C)` of the photo `(h, w, C)` at pixels `(M, 2)`, 0..1."""
    # OpenCV's limit on a side is 32,767, so the list of points is folded into a rectangle.
    width = 4096
    read = np.zeros((-(-len(points) // width) * width, 2), np.float32)
    read[: len(points)] = points.numpy() - 0.5
    x, y = (np.ascontiguousarray(read[:, axis].reshape(-1, width)) for axis in (0, 1))
    taken = cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.asarray(taken, np.float32).reshape(-1, photo.shape[2])[: len(points)]).clamp(
        0, 1
    )


class Photo(NamedTuple):
    """What is read of a photo, in the person's frame, float32."""

    straight: NDArray[np.float32]  # (n, n, 4), straight colours, continued beyond the matte, and the matte
    bare: NDArray[np.float32]  # (m, m, 4), what torso and legs are taken from, and how far: without the arms
    armed: NDArray[np.float32]  # (m, m, 4), the same for arms: without what lies around them
    hands: Hands
    owned: Tensor  # (10, 1, 256, 256), `owned`


class _Read(NamedTuple):
    """What the parts that agree on a place say."""

    flow: Tensor  # (M, 2), source points
    bare: Tensor  # (M,), 1 where the torso or a leg is read
    armed: Tensor  # (M,), 1 where an arm is read
    weight: Tensor  # (M,), the group's share


def _groups(share: Tensor, points: Tensor, reach: float) -> tuple[_Read, _Read]:
    """The parts' maps as two groups that each agree on one place, the likelier first.

    The mean of two parts' maps is a place that belongs to neither: colours from there drew contour lines between
    limbs. So maps are averaged only among parts that lead within `reach` of the winner, and where there are others,
    colours are mixed instead, over a seam that is narrower than the network's own.

    Args:
        share (`(10, M)`), points (`(10, M, 2)`): of the parts.
        reach (`float`): frame units.
    """
    # Sums over parts are several times as fast of planes as of pairs.
    places = points.movedim(-1, 0).contiguous()
    # A high power of the shares is nearly the winner alone.
    most = share.square().square().square()
    winner = (most * places).sum(1) / most.sum(0)
    near = torch.exp((places - winner[:, None]).square().sum(0) / -(reach**2))
    groups = [share * near, share * (1 - near)]
    first, second = (group.sum(0).clamp_min(1e-8) for group in groups)
    main = torch.sigmoid(_SEAM * torch.log(first / second))
    reads = []
    for group, total, weight in ((groups[0], first, main), (groups[1], second, 1 - main)):
        flow = ((group * places).sum(1) / total).T
        reads.append(_Read(flow, (group[0] + group[6:].sum(0)) / total, group[2:6].sum(0) / total, weight))
    return reads[0], reads[1]


_SEAM = 4.0
"""How much narrower a seam between limbs is than the network's own."""


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


def pixels_near(places: Tensor, size: int) -> NDArray[np.int64]:
    """Flat indices, in order, of the pixels of a frame of that size at or beside `places` `(1, 1, n, n)` bool."""
    near = F.max_pool2d(places.float(), 3, 1, 1)
    return np.flatnonzero(F.interpolate(near, size=(size, size), mode="nearest").numpy())


_NO_SAY = 30.0
_OWNERSHIP_SIZE = 128
_ENDS = [PARTS.index(f"{side} {end}") for end in ("forearm", "calf") for side in ("left", "right")]
"""Parts with a hand or a foot."""
_ROUGH = 4
"""Pixels of twice that, a twentieth of a torso: where they hold next to no matte the photo shows nothing."""
_SOLID = 0.25
"""Alpha from which on something weighs."""
_LIGHT = (0.0, 0.5, 0.87)
"""From before and above, as most light comes."""
_LACKS = 0.05
"""Of a forearm or calf: less than that is an outline a little beside the photo's."""
_CHUNK = 1 << 17


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
    still = maps.still(0.0 if head is None else head.share)[0, :, None]
    keep_head = _keeps_head(maps)
    # A head that hardly turns brings its hair or hat along, beyond the outline of one without.
    hat = own_head(maps, head)
    far, order = _far_limbs(maps)
    torso = float(maps.target.torso)
    edge = edge_width(maps, photo.straight.shape[0], size) / torso
    outline = head_outline = None
    if head is not None:
        head_outline = head.outline() * head.target_side / torso
    if prediction is not None:
        painted = _painted_like(prediction, photo.straight)
        planes = torch.cat([prediction.part_logits, prediction.visible, painted], 1)
        outline = outline_of(prediction.alpha) / torso
    rgba = np.zeros((size * size, 4), np.float32)
    other = None
    if other_side and prediction is not None:
        matte = torch.from_numpy(resized(photo.straight[..., 3], photo.owned.shape[-1]))
        other = _StandIns.of(maps, prediction, matte, photo.hands)
    pixels = occupied(maps, photo.straight[..., 3], outline, head, changed, edge, size)
    for chunk in chunks(pixels):
        at = centres(chunk, size)
        points, distance = (of_part[0] for of_part in maps.at(at))
        change = smooth(changed, at[0])[0].clamp(0, 1)
        spot = None if head is None else head.spot(at[0])
        if spot is not None:
            points[1, spot.pixels] += spot.counts[:, None] * (spot.direct - points[1, spot.pixels])
            # Of a profile that looks up the joints hardly move, but what they bring is no more where it was.
            change[spot.pixels] = change[spot.pixels].maximum(spot.counts)
        coverage = sample(photo.owned, points)[:, 0]
        if spot is not None and head_outline is not None:
            head_inside = smooth(head_outline, spot.here)[0]
            # What is painted of a head belongs to it, too.
            on_it = spot.counts * (0.5 + head_inside / edge).clamp(0, 1)
            near = distance[1, spot.pixels]
            on_it = (on_it * (1 - smoothstep(near, 1.2, 2.0))).maximum(coverage[1, spot.pixels])
            # Shoulders and collar in its square stay where they are: what stays and is as near has them.
            stand = (still > 0.5) & maps.in_target[0, :, None]
            stand[PARTS.index("head")] = False
            stays = distance[:, spot.pixels].masked_fill(~stand, math.inf).amin(0)
            coverage[1, spot.pixels] = on_it * (1 - smoothstep(near - stays, -0.2, 0.1))
        logits, part_alpha = limb_prior(distance[None], coverage[None], maps.in_target)
        # What moves has no say where all is as in the photo.
        logits, part_alpha = logits[0] + order - _NO_SAY * (1 - still) * (1 - change), part_alpha[0]
        if prediction is None or outline is None:
            colour, matte_there = _carried(photo, logits.softmax(0), points, change, maps)
            alpha = part_alpha.amax(0)
        else:
            more, visible, paint = smooth(planes, at[0]).split([NUM_PARTS, 1, 3])
            # It may bring arms forward, not take them away: where they hardly move its trunk would swallow them. Of
            # those that lie behind the trunk it may.
            arms, others = more[2:6], more.clamp(max=0)
            arms = arms.clamp_min(0) + far * (arms.clamp_max(0) - _FAR_ARM)
            share = (logits + torch.cat([others[:2], arms, others[6:]])).softmax(0)
            # The maps as they are: the network's correction of them helps it to see the matte, but bends cloth, and on
            # held-out people carried colours are nearer to the truth without it.
            colour, matte_there = _carried(photo, share, points, change, maps)
            # The wrong side of a garment beats a smooth guess: it has the photo's grain and folds. Beyond the matte
            # its colours go on; a head does not.
            seen = torch.sigmoid(visible[0] + _TRUST * (1 - share[1] * (1 - keep_head)))
            seen = seen * (1 - share[1] * (1 - smoothstep(matte_there, 0.05, 0.5)))
            seen = (1 - change * (1 - seen))[:, None]
            straight = colour
            colour = straight * seen + paint.T.clamp(0, 1) * (1 - seen)
            if head is not None and spot is not None:
                _show_head(colour, head, spot, share[1], straight, matte_there, photo.straight)
            # The network knows bodies, the matte how far this one's clothes and hair stand off: it decides just beyond
            # the network's outline. All of a head is the photo's, if that is turned as it should be; a second one that
            # the network would draw beside it is none.
            inside, hair = smooth(outline, at[0])[0], hat * share[1]
            stands_off = (_HAIR * hair).clamp_min(_STANDS_OFF)
            if spot is not None:
                # An arm before it reaches beyond its outline, but does not cut it.
                arm, here = share[2:6, spot.pixels].sum(0), inside[spot.pixels]
                of_both = head_inside + arm * (here - head_inside).clamp_min(0)
                inside[spot.pixels] += spot.counts * (of_both - here)
                # Its outline knows this actor's hair; the matte, carried there, says where the ellipsoid ends, or the
                # hand that lay before it.
                stands_off[spot.pixels] *= 1 - spot.counts * share[1, spot.pixels]
            beyond = inside + stands_off
            # The parts' own alpha is no finer than their ownership; at the matte's edge the matte itself is read.
            there = matte_there.minimum(2 * part_alpha.amax(0))
            alpha = there.minimum(0.5 + beyond / edge)
            alpha = alpha.maximum(0.5 + (inside - _SECOND_HEAD * hair) / edge).clamp(0, 1)
            # What stays has no more outline than in the photo.
            alpha = alpha.minimum(1 - (share * still).sum(0) * (1 - matte_there))
            beside = None if other is None else other.limbs(photo, share, points, at, change)
            if beside is not None:
                colour[beside.pixels] += beside.replaces[:, None] * (beside.colour - colour[beside.pixels])
                alpha[beside.pixels] = alpha[beside.pixels].minimum(beside.alpha + 1 - beside.replaces)
            if not maps.in_target.all():
                # Beside a limb that is left out the network has learned nothing.
                drawn = distance.masked_fill(~maps.in_target[0, :, None], math.inf)
                alpha = alpha * (1 - smoothstep(drawn.amin(0), 1.3, 1.9))
        alpha = (matte_there * (1 - change) + alpha * change)[:, None]
        rgba[chunk] = torch.cat([colour * alpha, alpha], 1).numpy()
    layer = rgba.reshape(size, size, 4)
    clear_specks(layer)
    return layer, changed if other is None else changed * (1 - other.replaces)


def owned(maps: PartMaps, matte: Tensor) -> Tensor:
    """Each part's share of the source pixels `(10, 1, 256, 256)`, cut to the person: what may be moved.

    Args:
        maps (`PartMaps`): of one person; any target will do.
        matte (`(256, 256)` float32): of the photo.
    """
    own = F.interpolate(maps.ownership(_OWNERSHIP_SIZE), scale_factor=2, mode="bilinear", align_corners=False)
    return (own * matte)[0, :, None]


class _Limbs(NamedTuple):
    """What stands in for lost hands and feet at some of a chunk's pixels."""

    pixels: Tensor  # (N,), which
    colour: Tensor  # (N, 3), straight
    alpha: Tensor  # (N,)
    replaces: Tensor  # (N,), how far it stands in for what the photo lacks of their own


class _StandIns:
    """What stands in for hands and feet of one person that the photo lacks.

    A foot that it cuts off, or hides behind somebody, is the other foot (`PartMaps.other_side`), and so is a hand in a
    pocket: there would be only cloth. Where both hands are in pockets they are painted, in the tone of the face.
    `replaces` `(1, 1, 64, 64)` is how far there is something.
    """

    @classmethod
    def of(cls, maps: PartMaps, prediction: Prediction, matte: Tensor, hands: Hands) -> _StandIns | None:
        """None where the photo shows every hand and foot that is asked for.

        Args:
            maps (`PartMaps`), prediction (`Prediction`): of the pose.
            matte (`(n, n)` float32): of the photo, small.
            hands (`Hands`): of the photo.
        """
        size = prediction.share.shape[-1]
        inside = F.avg_pool2d(torch.sigmoid(prediction.alpha), prediction.alpha.shape[-1] // size)
        share = prediction.share * inside
        # Near its pocket a hand stays in it.
        hidden = F.pad(hands.hidden * maps.hands_away()[0, :, None, None], (0, 0, 0, 0, 0, 2))[:, None]
        rough = F.avg_pool2d(matte[None, None], _ROUGH) * (1 - hidden)
        ends = share[0, _ENDS].flatten(1)
        lacks = ends * (1 - _there(rough, maps.on_grid(size)[0][0]))
        if not bool((lacks.sum(1) > _LACKS * ends.sum(1)).any()):
            return None
        return cls(maps, share, matte, rough, lacks, hands, hidden, prediction.normals)

    def __init__(
        self,
        maps: PartMaps,
        share: Tensor,
        matte: Tensor,
        rough: Tensor,
        lacks: Tensor,
        hands: Hands,
        hidden: Tensor,
        normals: Tensor,
    ) -> None:
        size = share.shape[-1]
        self._source, self._maps, self._hidden = maps, maps.other_side(share, matte[None, None]), hidden
        self._rough = rough
        self._own = owned(self._maps, matte)
        here, there = (of.on_grid(size)[0][0] for of in (maps, self._maps))
        # Nor is the other hand any help in its pocket.
        others = F.pad(hands.hidden.flip(0), (0, 0, 0, 0, 0, 2))[:, None]
        found = sample(self._own[_ENDS], there[_ENDS])[:, 0] * (1 - sample(others, there[_ENDS])[:, 0])
        self._better = smoothstep((lacks * found).sum(1) / lacks.sum(1).clamp_min(1e-6), 0.3, 0.5)[:, None]
        self._tone, self._normals = hands.tone[0], normals
        self.replaces = (lacks * self._better + self._painted(lacks, here)).sum(0).reshape(1, 1, size, size)
        self._near = F.max_pool2d(self.replaces, 3, 1, 1)

    def _painted(self, lacks: Tensor, points: Tensor) -> Tensor:
        """Of what is lacking `(4, M)` at source points `(10, M, 2)`, the hidden hands that nothing shows."""
        return lacks * sample(self._hidden, points[_ENDS])[:, 0] * (1 - self._better) * self._tone[3]

    def limbs(self, photo: Photo, share: Tensor, points: Tensor, at: Tensor, change: Tensor) -> _Limbs | None:
        """At the pixels of a chunk; arguments as there, its source points among them. None where nothing is lost."""
        pixels = ((sample(self._near, at)[0, 0] > 0.01) & (share[_ENDS].sum(0) > 0.05)).nonzero()[:, 0]
        if len(pixels) == 0:
            return None
        there = self._maps.at(at[:, pixels])[0][0]
        ends, points = share[_ENDS][:, pixels], points[:, pixels]
        share = share[:, pixels] * self._maps.in_source[0, :, None]
        leads = share / share.sum(0).clamp_min(1e-6)
        colour, matte = _carried(photo, leads, there, change[pixels], self._source)
        # As much of each as the photo shows of the other side.
        alpha = matte.minimum((share * sample(self._own, there)[:, 0]).sum(0))
        lacks = ends * (1 - _there(self._rough, points))
        other, bare = (lacks * self._better).sum(0), self._painted(lacks, points).sum(0)
        painted = (bare / (other + bare).clamp_min(1e-6))[:, None]
        normals = F.normalize(smooth(self._normals, at[0, pixels]), dim=0)
        light = (normals * normals.new_tensor(_LIGHT)[:, None]).sum(0).clamp_min(0)
        colour = colour + painted * (self._tone[:3] * (0.7 + 0.4 * light)[:, None] - colour)
        alpha = alpha + painted[:, 0] * (1 - alpha)
        return _Limbs(pixels, colour, alpha, smoothstep(other + bare, 0.3, 0.7) * change[pixels])


def _there(rough: Tensor, points: Tensor) -> Tensor:
    """Whether a photo of this rough matte `(4, 1, n, n)` shows anything at source points `(10, M, 2)`, of forearms and
    calves `(4, M)`."""
    return smoothstep(sample(rough, points[_ENDS])[:, 0], 0.15, 0.45)


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


def chunks(pixels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """A bounded number of pixels at a time, which bounds the memory of what is computed for each."""
    for start in range(0, len(pixels), _CHUNK):
        yield pixels[start : start + _CHUNK]


def centres(pixels: NDArray[np.int64], size: int) -> Tensor:
    """Where flat indices of a layer's pixels lie, `(1, M, 2)` in frame coordinates."""
    return (
        torch.from_numpy(np.stack([pixels % size, pixels // size], -1).astype(np.float32) + 0.5)[None] / size
    )


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
    other = _read_photo(photo, spot.other_side[some] * photo.shape[0])
    bare = head.bare(spot.direct[some]), head.bare(spot.other_side[some])
    parts = taken(smooth(head.out.choice, here), (matte[pixels] * bare[0], other[:, 3] * bare[1]))
    made_of = (straight[pixels], other[:, :3], smooth(head.out.colour, here).T.clamp(0, 1))
    shown = torch.stack([part[:, None] * of for part, of in zip(parts, made_of, strict=True)]).sum(0)
    colours[pixels] += share * (shown - colours[pixels])


def _carried(
    photo: Photo, share: Tensor, points: Tensor, change: Tensor, maps: PartMaps
) -> tuple[Tensor, Tensor]:
    """Straight colours `(M, 3)` and matte `(M,)` that the parts bring from the photo to the layer's pixels.

    Where there is no `change` `(M,)` the arms are where they were, before the body.
    """
    main, second = _groups(share, points, _AGREE * float(maps.source.torso[0]))
    carried = _taken_apart(photo, main, change)
    # Few pixels lie in a seam.
    seam = (second.weight > 0.01).nonzero()[:, 0]
    if len(seam) > 0:
        other = _taken_apart(photo, _Read(*(of[seam] for of in second)), change[seam])
        carried[seam] += second.weight[seam, None] * (other - carried[seam])
    return carried[:, :3], carried[:, 3]


def _taken_apart(photo: Photo, read: _Read, change: Tensor) -> Tensor:
    """Straight colours and matte `(M, 4)` there: arms without what lies around them, the body without arms."""
    values = _read_photo(photo.straight, read.flow * photo.straight.shape[0])
    as_it_is = values[:, :3].clone()
    for picture, share in ((photo.bare, read.bare * change), (photo.armed, read.armed * change)):
        some = (share > 0.01).nonzero()[:, 0]
        if len(some) > 0:
            there = _read_photo(picture, read.flow[some] * picture.shape[0])
            counts = share[some, None] * there[:, 3:]
            values[some, :3] += counts * (there[:, :3] - as_it_is[some])
    return values


_EDGE_WIDTH = 1.6
"""Of an edge in pixels of the photo or the layer, whichever are larger."""
_STANDS_OFF = 0.03
"""How far beyond the network's outline, in torsos, the photo's matte counts."""
_HAIR = 0.15
"""The same for a head that hardly turns."""
_SECOND_HEAD = 0.3
"""How far inside its outline, in torsos, the network may fill in such a head where the photo's matte has none."""

_AGREE = 0.1
"""Maps that lead within this many torsos of each other show the same place."""


_TRUST = 3.0
_FAR_ARM = 2.0
"""Logits by which arms that lie behind the trunk give way to it."""
_NEAR_LEG = 1.0
"""Logits by which, from the side, each leg is before or behind."""


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
