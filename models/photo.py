# SPDX-License-Identifier: Apache-2.0
"""What is made of a photo before anything in it moves: the person's colours continued beyond the matte, and the body as
it is where arms hide it."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.skeleton import L_ELBOW, L_WRIST, NOSE, R_ELBOW, R_WRIST

from .body import complete, seen_from_behind, torso_length
from .colours import bins_of, likelier
from .grid import pixel_grid, smoothstep
from .images import LUMA, box_around
from .parts import arm_cover, arm_distances


def resized(picture: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    shrinking = size < picture.shape[0]
    return np.asarray(
        cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR),
        np.float32,
    )


def joined(rgb: NDArray[np.float32], plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(h, w, 4)` of `(h, w, 3)` and `(h, w)`; several times as fast as `numpy.dstack`."""
    return np.asarray(cv2.merge([rgb, plane]), np.float32)


def is_grey(photo: NDArray[np.float32]) -> bool:
    """Whether the person `(h, w, 4)`, premultiplied, of a photo is black and white."""
    person = photo[photo[..., 3] >= 0.5, :3]
    return bool((np.ptp(person, axis=1) > 0.03).mean() < 0.01)


class Hands(NamedTuple):
    """What a photo shows of a person's hands."""

    skin: Tensor  # (1, 4) float32: their colour, and 1; all 0 where none shows, or none in a colour that skin has
    hidden: Tensor  # (2, 64, 64) float32: where the left and the right one would be, if the photo hides it
    tone: Tensor  # (1, 4) float32: as `skin`, and the face's where no hand shows


def hands_of(photo: NDArray[np.float32], xy: Tensor, known: Tensor) -> Hands:
    """Finds bare hands, and those in a pocket or behind something of the person's own.

    Args:
        photo (`(n, n, 4)` float32): the person, premultiplied.
        xy (`(1, 18, 2)` float32), known (`(1, 18)` bool): the joints, frame coordinates.
    """
    size = len(photo)
    inside = photo[..., 3] > 0.9
    rgb = np.asarray(photo[..., :3] / np.maximum(photo[..., 3:], 0.5), np.float32)
    _, red, blue = np.moveaxis(255 * cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), 2, 0)
    # Skin of all tones in most light (Chai and Ngan 1999, Face segmentation using skin-color map, widened).
    bare = (red > 136) & (red < 178) & (blue > 85) & (blue < 127) & (red - blue > 12)
    radius = 0.12 * size * float(torso_length(xy, known)[0])

    def around(elbow: int, wrist: int, wide: float, off: float, long: float) -> NDArray[np.uint8]:
        """A bar that begins `off` forearms beyond the wrist; its half-width and length are in pixels."""
        place = np.zeros((size, size), np.uint8)
        if known[0, elbow] and known[0, wrist]:
            along = xy[0, wrist] - xy[0, elbow]
            hand = size * (xy[0, wrist] + off * along)
            end = hand + long * along / along.norm().clamp_min(1e-6)
            start, stop = (tuple(at.round().int().tolist()) for at in (hand, end))
            cv2.line(place, start, stop, 1, max(1, round(2 * wide)))
        return place

    def colour_of(area: NDArray[np.bool_]) -> Tensor:
        """Of the bare pixels there, and 1; all 0 where hardly any are."""
        skin = area & bare
        if skin.sum() <= max(_FEW, 0.25 * area.sum()):
            return torch.zeros(1, 4)
        return torch.tensor([[*np.median(rgb[skin], 0), 1.0]], dtype=torch.float32)

    arms = (L_ELBOW, L_WRIST), (R_ELBOW, R_WRIST)
    areas = [(around(*arm, radius, 0.3, 0.0) > 0) & inside for arm in arms]
    colour, body = colour_of(areas[0] | areas[1]), complete(xy, known)
    face = _disc(size, body.head[0], 0.1 * float(body.torso)) & inside & bool(known[0, NOSE])
    hidden = torch.zeros(2, _HANDS_SIZE, _HANDS_SIZE)
    for side, (area, other) in enumerate((areas, areas[::-1])):  # left, right
        if area.sum() <= _FEW or bare[area].mean() > 0.1:
            continue
        like = next((of for of in (other, face) if of.sum() > _FEW and bare[of].mean() >= 0.6), None)
        if like is None:
            continue
        bins = bins_of(rgb)
        clothes = inside & ~_disc(size, body.head[0], 0.4 * float(body.torso))
        clothes &= resized(arm_distances(body, _HANDS_SIZE)[0].amin(0).numpy(), size) > 1.3
        # A glove, or what the hand holds, looks like neither bare skin nor the clothes.
        if likelier(bins[like], bins[clothes])[bins[area]].mean() < -2:
            # And beyond: the arm may point away from us and be drawn longer in another pose.
            place = around(*arms[side], 1.3 * radius, 0.1, 3 * radius).astype(np.float32)
            hidden[side] = torch.from_numpy(resized(place, _HANDS_SIZE))
    return Hands(colour, hidden, colour if colour[0, 3] > 0 else colour_of(face))


def _disc(size: int, middle: Tensor, radius: float) -> NDArray[np.bool_]:
    """Which pixels of a frame lie within `radius` of `middle` `(2,)`, frame units."""
    return ((pixel_grid(size)[0] - middle).norm(dim=1) < radius).reshape(size, size).numpy()


def spread_colours(rgb: NDArray[np.float32], matte: NDArray[np.float32]) -> NDArray[np.float32]:
    """The person's colours, continued over the matte's edge and beyond.

    At its edge a photo mixes the person with what stood behind; sampled as it is, that mixture would be a halo in
    another scene. Pixels that are not safely inside take the colour of the nearest that are, by a pull-push pyramid
    (Gortler et al., The Lumigraph, section 3.4).

    Args:
        rgb (`(h, w, 3)` float32).
        matte (`(h, w)` float32).

    Returns `(h, w, 3)`; unchanged where the matte is well inside.
    """
    # An edge is a few pixels wide whatever the photo's size; how many follows from the matte itself.
    inside = np.clip((matte - 0.9) / 0.1, 0, 1).astype(np.float32)
    if inside.max() == 0:
        return rgb
    rgb = np.ascontiguousarray(rgb)
    # Most pixels are wholly inside or outside: to compute with these, too, takes twice as long.
    whole, edge = (inside == 1).astype(np.uint8), np.nonzero((inside > 0) & (inside < 1))
    weighted = np.zeros_like(rgb)
    cv2.copyTo(rgb, whole, weighted)
    weighted[edge] = rgb[edge] * inside[edge][:, None]
    levels = [joined(weighted, inside)]
    while min(levels[-1].shape[:2]) > 2:
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.float32))
    coarse: NDArray[np.float32] = np.asarray(
        levels[-1][..., :3] / np.maximum(levels[-1][..., 3:], 1e-6), np.float32
    )
    for level in reversed(levels[1:-1]):
        coarse = _enlarged(coarse, level.shape)
        share = np.clip(level[..., 3:] * 4, 0, 1)
        coarse += share * (level[..., :3] / np.maximum(level[..., 3:], 1e-6) - coarse)
    coarse = _enlarged(coarse, rgb.shape)
    cv2.copyTo(rgb, whole, coarse)
    coarse[edge] += inside[edge][:, None] * (rgb[edge] - coarse[edge])
    return coarse


def _enlarged(picture: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(picture, shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def arms_apart(
    straight: NDArray[np.float32], xy: Tensor, known: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the photo would show without its arms, and with nothing else around them.

    An arm before the chest would stay on it when the arm moves. Behind it comes the torso's other side, mirrored,
    where that shows, else the colours around it. And what lies around a hand, a lap or a hip, would come along.

    Args:
        straight (`(n, n, 4)` float32): straight colours and the matte.
        xy (`(1, 18, 2)` float32), known (`(1, 18)` bool): the joints in the photo, frame coordinates.

    Returns:
        both as pictures `(m, m, 4)` of at most 384 px: colours, and how far they replace the photo's own, 0..1.
    """
    size = min(_BEHIND_SIZE, straight.shape[0])
    whole = resized(straight, size)
    here = box_around(whole[..., 3], size // 12)
    small = whole[here]

    def planes(of: Tensor) -> NDArray[np.float32]:
        """Those `(N, n, n)`, as of the box. Of what hardly varies from pixel to pixel every other one will do."""
        return np.stack([resized(plane.numpy(), size)[here] for plane in of])

    body, half = complete(xy, known), -(-size // 2)
    cover = arm_cover(xy, known, half)
    torso, legs, *mirror = planes(torch.cat([cover.torso, cover.legs, *cover.mirrored.permute(0, 3, 1, 2)]))
    bones, below = (planes(arm_distances(body, half, of)[0]) for of in (False, True))
    rgb, matte = small[..., :3], small[..., 3]
    masks = arm_masks(small, bones, float(seen_from_behind(body)))
    apart = masks.before * (1 - _step(below.min(0), 1.2, 1.6))
    free = matte * (1 - _step(apart, 0.0, 0.3))
    behind = rgb.copy()
    for place in (torso, legs):
        around = spread_colours(rgb, free * place)
        shown = _step(free * place, 0.5, 0.9)
        around = around + ((1 - shown) * _texture(around, shown))[..., None]
        behind += place[..., None] * (around - rgb)
    x, y = (plane * size - 0.5 - here[axis].start for plane, axis in zip(mirror, (1, 0), strict=True))
    other = cv2.remap(joined(rgb, free * torso), x, y, cv2.INTER_LINEAR)
    # The other side may have another colour: what does not fit its surroundings is not taken.
    strange = cv2.GaussianBlur(np.abs(other[..., :3] - behind).max(-1), (0, 0), size / 96)
    take = torso * np.clip((other[..., 3] - 0.8) / 0.2, 0, 1) * np.clip(1.6 - 8 * strange, 0, 1)
    behind += cv2.GaussianBlur(take, (0, 0), 1.5)[..., None] * (other[..., :3] - behind)
    # A sleeve of the torso's own colour may stay, with its folds.
    differs = np.clip((np.abs(rgb - behind).max(-1) - 0.06) / 0.06, 0, 1)
    differs = cv2.dilate(differs, np.ones((3, 3), np.uint8))
    # Less than all of an arm would leave its ghost.
    gone = _step(apart, 0.1, 0.5) * cv2.GaussianBlur(differs, (0, 0), 1.5)
    own = spread_colours(rgb, matte * _step(masks.arms, 0.5, 0.9))
    bare, armed = (joined(whole[..., :3], np.zeros_like(whole[..., 3])) for _ in range(2))
    bare[here], armed[here] = joined(behind, gone), joined(own, masks.around)
    return bare, armed


def _texture(rgb: NDArray[np.float32], shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Random lightness `(h, w)`, as uneven in each octave as what is shown around: of cloth that is made up the weave.

    Args:
        rgb (`(h, w, 3)` float32): colours, those that are not shown continued smoothly.
        shown (`(h, w)` float32): 1 where they are the photo's.
    """
    noise = np.random.default_rng(0).standard_normal(shown.shape).astype(np.float32)
    # The outlines of what is shown are no weave.
    inside = np.asarray(cv2.erode(shown, np.ones((5, 5), np.uint8)), np.float32)
    size = tuple(max(1, side // _COARSE) for side in shown.shape[::-1])

    def around(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        coarse = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        blurred = np.asarray(cv2.GaussianBlur(coarse, (0, 0), max(size) / 12), np.float32)
        return _enlarged(blurred, shown.shape)

    weight = around(inside) + 1e-4
    texture = np.zeros_like(shown)
    for band, like in zip(_octaves(rgb @ LUMA), _octaves(noise), strict=True):
        # Squares of mean roots: folds and seams, which are few, count for little.
        typical = (around(np.sqrt(np.abs(band)) * inside) / weight) ** 2
        texture += like / like.std() * np.minimum(typical, _WEAVE)
    return texture


def _octaves(plane: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    blurred = [plane, *(cv2.GaussianBlur(plane, (0, 0), sigma) for sigma in (1.0, 2.0, 4.0))]
    return [np.asarray(fine - coarse) for fine, coarse in pairwise(blurred)]


_WEAVE = 0.03
"""Lightness, 0..1, by which an octave of a weave is uneven at most: more is a pattern, which noise cannot continue."""
_COARSE = 8
"""How much smaller it is worked out how uneven what is shown is."""


def _step(x: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    return smoothstep(torch.from_numpy(x), low, high).numpy()


class ArmMasks(NamedTuple):
    """What pixels `(n, n)` show, 0..1."""

    arms: NDArray[np.float32]
    before: NDArray[np.float32]  # arms that lie before the body
    around: NDArray[np.float32]  # near arms, what has the colours of the body around


def arm_masks(photo: NDArray[np.float32], distance: NDArray[np.float32], behind: float) -> ArmMasks:
    """Where arms are: near their bones, in colours that are rather those nearest to these than the body's around.

    Args:
        photo (`(n, n, 4)` float32): straight colours and the matte.
        distance (`(4, n, n)` float32): from the arms' bones, in half-widths (`parts.arm_distances`).
        behind (`float`): 1 for somebody seen from behind. Arms that look like the body around are behind it then.
    """
    bins = bins_of(photo[..., :3])
    inside = photo[..., 3] > 0.9
    away = inside & (distance.min(0) > 1.3)
    nearest = distance.argmin(0)
    arms, before, around = np.zeros((3, *bins.shape), np.float32)
    for bone, near in enumerate(distance):
        own, body = inside & (near < 0.45), away & (near < 4)
        odds, sure = 5 * (0.65 - near**2).clip(-4), 1.0
        if own.sum() > _FEW and body.sum() > _FEW:
            ratio = likelier(bins[own], bins[body])
            told = np.asarray(cv2.GaussianBlur(ratio[bins], (0, 0), 1.0), np.float32)
            odds += told
            around += (nearest == bone) * _step(-told, 1.5, 4.0)
            # How well its colours tell it from the body: their Kullback-Leibler divergence.
            apart = float(smoothstep(torch.tensor(ratio[bins[own]].mean()), 1.5, 3.0))
            sure = 1 - behind * (1 - apart)
        mask = 1 / (1 + np.exp(-odds))
        arms, before = np.maximum(arms, mask), np.maximum(before, sure * mask)
    return ArmMasks(arms, before, around)


_BEHIND_SIZE = 384
_HANDS_SIZE = 64
_FEW = 20
"""Pixels that tell no colours."""
