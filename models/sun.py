# SPDX-License-Identifier: Apache-2.0
"""The shadow that the sun throws, as the scene's own people tell: its direction, length and darkness.

A person's shadow is a dark strip that begins at the feet, with lighter ground on both sides, and under one sun all
strips of a picture run alike. So rays from the feet of everybody are compared with what lies beside them, and a strip
must be seen at most of them to be believed: no shadow is less wrong than one without a sun.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.finish import linear
from models.judgement import TALL, figures
from shared.skeleton import L_ANKLE, LIMBS, R_ANKLE, Skeleton

Floats = NDArray[np.floating[Any]]

_STANDS = 0.4
"""`Figures.upright` from which somebody stands, and the feet carry the body."""

_ANGLES = np.arange(144) * np.pi / 72
_NEAR_ANGLES = 4  # steps to either side: perspective spreads the shadows of one sun
_SOLES = (0.03, 0.06, 0.09)
"""Statures from the ankle down to where the shadow may begin: to the ground, as the foot is seen."""
_RADII = 0.14 + 0.04 * np.arange(50)  # statures from the feet: up to 2.1
_CORE, _BESIDE = np.array([-0.015, 0.0, 0.015]), np.array([0.16, 0.22, 0.28])
"""Where a strip is looked at, and the ground to each side of it; statures across the ray."""
_BEGINNING = 11  # radii, to 0.54 statures, that must be dark: shorter shadows are lost among the feet
_DARK, _DARKEST = 0.15, 0.8
"""Share of the light that a shadow takes: less is a stain, more is a dark thing."""
_TOGETHER = 0.6
"""Share of the people who must show it, if it is two at least."""
_ALONE, _ALONE_LENGTH = 0.35, 0.7
"""What one person alone must show, and its statures, with nothing half as dark in another direction."""
_SHORTEST = 0.55
"""Statures of length; less is lost among the feet, and any light has it."""
_NIGHT = 0.02
"""Luminance of ground on which nothing can be told."""
_SMALLEST = 40.0
"""Pixels of stature below which nothing can be read off a shadow."""
_FLATTEST = 0.05
"""Pixels that a shadow falls down, or up, for each of the body's height, at least: flatter, rows would be skipped."""
_SOFT = 0.008
"""Blur of its outline, in statures."""
_DEEP = 0.025
"""Statures by which a body's depth, seen along the ground, thickens its shadow."""
_ROWS = 4
"""Per pixel of a shadow: thrown flat, ten rows of a body may fall on one."""
_BETWEEN = 1.25
"""Picture programs lay layers over sRGB values, where black of alpha `a` leaves (1 - a) ** 2.2 of the light, Blender
over linear ones, where it leaves 1 - a: with a power between both, neither is far from what is measured."""
_FINE = 300.0
"""Pixels of stature; shadows of larger people are read and painted smaller: they are soft."""
_BODY = 0.07
"""Half the width of a limb, in statures: shadows are not read off bodies, nor painted on them."""


@dataclass(frozen=True)
class Sun:
    """What the sun makes of upright things.

    Args:
        across, down (`float`): pixels by which the shadow of a point moves for every pixel that it is above ground.
        dark (`float`, 0..1): share of the light that is taken.
        light (`float`): linear luminance, 0..1, of lit ground.
    """

    across: float
    down: float
    dark: float
    light: float


def luminance(scene: NDArray[np.uint8]) -> Floats:
    """Linear luminance `(H, W)`, 0..1, of sRGB `(H, W, 3)`."""
    return linear(scene.astype(np.float32) / 255) @ np.array([0.2126, 0.7152, 0.0722], np.float32)


def bodies(size: tuple[int, int], people: Sequence[Skeleton]) -> NDArray[np.uint8]:
    """`(H, W)`, 255 where the people are, as far as their bones tell."""
    mask = np.zeros(size, np.uint8)
    for person in people:
        stature = float(anatomy.installed().stature(np.c_[person.xy, person.visible][None])[0])
        width = max(1, round(2 * _BODY * stature)) if stature > 0 else 1
        for a, b in LIMBS:
            if person.visible[a] and person.visible[b]:
                ends = [tuple(int(v) for v in np.round(person.xy[j])) for j in (a, b)]
                cv2.line(mask, ends[0], ends[1], 255, width)
    return mask


def feet_of(person: Skeleton) -> tuple[float, list[tuple[float, float]]]:
    """Stature in pixels, and the ankles that are seen of somebody who stands; none of others."""
    joints = np.c_[person.xy, person.visible][None]
    body = anatomy.installed()
    stature = float(body.stature(joints)[0])
    seen = [j for j in (R_ANKLE, L_ANKLE) if person.visible[j]]
    if not stature > 0 or not seen or figures(joints, body).upright[0] < _STANDS:
        return 0.0, []
    return stature, [(float(person.xy[j, 0]), float(person.xy[j, 1])) for j in seen]


def find(scene: NDArray[np.uint8], context: Sequence[Skeleton]) -> Sun | None:
    """The sun of a scene `(H, W, 3)` uint8 with those people; None where their shadows do not show one."""
    standing = [feet_of(person) for person in context]
    largest = max((stature for stature, _ in standing), default=0.0)
    if largest > 1.5 * _FINE:
        scale = _FINE / largest
        return find(_smaller(scene, scale), [person.transformed(scale) for person in context])
    light, covered = luminance(scene), bodies(scene.shape[:2], context)
    standing = [stands for stands in standing if stands[0] >= _SMALLEST]
    rays = [_rays(light, covered, *stands) for stands in standing]
    if not rays:
        return None
    strips = np.stack([ray.strip for ray in rays])  # (K, angles)
    spread = _spread(strips)
    people = np.isfinite(spread).sum(0)
    agree = (spread > _DARK).sum(0)
    votes = np.nan_to_num(spread).sum(0) / np.maximum(people, 1) * (agree >= _TOGETHER * people)
    # The rays beside the middle of a broad shadow are as dark as that, but leave it sooner.
    total = np.sum([ray.total for ray in rays], axis=0)
    best = int(np.argmax(np.where(votes > 0.95 * votes.max(), total, -1.0)))
    if not votes[best] > _DARK:
        return None
    # The clearest shadow gives the numbers.
    clearest = max(
        (k for k in range(len(rays)) if spread[k, best] > _DARK),
        key=lambda k: spread[k, best] * standing[k][0],
    )
    ray = rays[clearest]
    around = (best + np.arange(-_NEAR_ANGLES, _NEAR_ANGLES + 1)) % len(_ANGLES)
    angle = int(around[(ray.total * (ray.strip > _DARK))[around].argmax()])
    dark, length = float(ray.strip[angle]), float(ray.length[angle])
    half = len(_ANGLES) // 2
    elsewhere = np.abs((np.arange(2 * half) - angle + half) % (2 * half) - half) > 3 * _NEAR_ANGLES
    alone = dark > _ALONE and length > _ALONE_LENGTH and not (ray.strip[elsewhere] > dark / 2).any()
    if agree[best] < 2 and not alone:
        return None
    across, down = (ray.end[angle] / TALL).tolist()
    return Sun(across, down, float(ray.dark[angle]), float(ray.light[angle]))


@dataclass(frozen=True)
class _Rays:
    """What is seen along rays from somebody's feet, `(angles,)` each.

    Args:
        strip: how much darker its beginning is than the ground on both sides; NaN where that cannot be told, 0 where
            it is no shadow.
        total: the same along all of it, summed.
        length: statures to where it is no longer half as dark; 0 where that is not seen.
        dark: how much of the light it takes to there, at the median, where it is darkest across.
        light: luminance of the ground beside it.
        end: `(angles, 2)`, where it ends, in statures from the middle of the feet.
    """

    strip: Floats
    total: Floats
    length: Floats
    dark: Floats
    light: Floats
    end: Floats


def _rays(
    light: Floats, covered: NDArray[np.uint8], stature: float, feet: Sequence[tuple[float, float]]
) -> _Rays:
    """Rays from below each foot and between them; for each angle from where it shows most."""
    middle = np.mean(feet, axis=0)
    starts = np.array([(x, y + down * stature) for x, y in (*feet, middle) for down in _SOLES])
    ray = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)[:, None, None]
    side = np.stack([-np.sin(_ANGLES), np.cos(_ANGLES)], -1)[:, None, None]
    offsets = np.concatenate([_CORE, _BESIDE, -_BESIDE])[None, None, :, None]
    at = starts[:, None, None, None] + stature * (ray * _RADII[None, :, None, None] + side * offsets)
    where = at.astype(np.float32).reshape(len(starts) * len(_ANGLES), -1, 2)
    soft = cv2.GaussianBlur(light, (0, 0), max(0.005 * stature, 0.5))
    columns, rows = where[..., 0], where[..., 1]
    levels = cv2.remap(soft, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
    hidden = cv2.remap(
        covered, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255
    )
    levels = np.where((hidden > 0) | (levels < 0), np.nan, levels).reshape(at.shape[:4])
    ground = np.minimum(levels[..., 3:6].mean(-1), levels[..., 6:].mean(-1))
    darker = 1 - levels[..., :3].mean(-1) / np.maximum(ground, 1e-3)  # (starts, angles, radii)
    seen = np.isfinite(darker[..., :_BEGINNING]).mean(-1) >= 0.6
    strip = np.where(seen, _median(darker[..., :_BEGINNING]), np.nan)
    # What somebody covers may belong to it. A strip without an end is an edge, a stripe, or goes on as somebody else's.
    over = darker < (strip / 2)[..., None]
    length = np.where(over.any(-1), _RADII[over.argmax(-1)], 0.0)
    total = np.nan_to_num(darker).clip(0, _DARKEST) * (length[..., None] > _RADII)
    best = total.sum(-1).argmax(0), np.arange(len(_ANGLES))
    endless = _spread(((np.nan_to_num(strip) > _DARK) & (length == 0)).max(0).astype(np.float32)) > 0
    most = _spread(np.nan_to_num(strip).max(0))
    strip, length, lit = strip[best], length[best], _median(ground[best][:, :_BEGINNING])
    # Its edges are half in the light, and so is what is seen between two legs.
    darkest = 1 - levels[best][..., :3].min(-1) / np.maximum(ground[best], 1e-3)
    dark = _median(np.where(length[:, None] > _RADII, darkest, np.nan))
    total = total[best].sum(-1)
    strip[(length < _SHORTEST) | (most > _DARKEST)] = 0.0
    strip[(lit < _NIGHT) | endless] = np.nan
    foot = middle + (0, _SOLES[1] * stature)
    ends = (starts[best[0]] - foot) / stature + length[:, None] * ray[:, 0, 0]
    return _Rays(strip, total, length, dark, lit, ends)


def shade(
    sun: Sun, body: Floats, place: tuple[float, float], soles: float, stature: float, scene: NDArray[np.uint8],
    context: Sequence[Skeleton],
) -> Floats:  # fmt: skip
    """Alpha `(h, w)`, 0..1, of the black shadow that a body throws on the ground around it.

    None where the ground lies in shade already or somebody stands, as far as their bones tell.

    Args:
        sun (`Sun`): of the scene.
        body (`(h, w)` float, 0..1): alpha of the person, in scene pixels.
        place (`(float, float)`): of its top-left corner in the scene.
        soles (`float`): y of the scene where the feet touch the ground.
        stature (`float`): pixels.
        scene (`(H, W, 3)` uint8): sRGB.
        context (sequence of `Skeleton`): its people.
    """
    if stature > _FINE:
        scale = _FINE / stature
        people = [person.transformed(scale) for person in context]
        at = (place[0] * scale, place[1] * scale)
        taken = shade(sun, _smaller(body, scale), at, soles * scale, _FINE, _smaller(scene, scale), people)
        return np.asarray(cv2.resize(taken, body.shape[::-1], interpolation=cv2.INTER_LINEAR))

    size, sigma = (body.shape[1], body.shape[0]), max(_SOFT * stature, 0.7)
    ground = soles - place[1]
    upper = body.copy()
    upper[max(0, round(ground)) :] = 0
    # A point `p` throws its shadow to `(p.x + across * height, ground + down * height)`.
    down = sun.down if abs(sun.down) > _FLATTEST else float(np.copysign(_FLATTEST, sun.down))
    to_shadow = np.array([[1, -sun.across, sun.across * ground], [0, -down, ground * (1 + down)]])
    fine = np.array([[1.0], [_ROWS]]) * to_shadow
    thrown = cv2.warpAffine(upper, fine, (size[0], _ROWS * size[1]))
    thrown = cv2.dilate(thrown, np.ones((1 + round(_ROWS * _DEEP * stature), 1), np.uint8))
    thrown = cv2.GaussianBlur(cv2.resize(thrown, size, interpolation=cv2.INTER_AREA), (0, 0), sigma)
    if thrown.max() < 0.02:
        return np.zeros_like(body)
    corner = np.array([[1.0, 0.0, -place[0]], [0.0, 1.0, -place[1]]])
    light = cv2.GaussianBlur(luminance(scene), (0, 0), sigma)
    light = cv2.warpAffine(light, corner, size, borderMode=cv2.BORDER_REPLICATE)
    others = cv2.warpAffine(bodies(scene.shape[:2], context), corner, size)
    others = cv2.GaussianBlur(others, (0, 0), sigma)
    free = (thrown > 0.2) & (others < 128)
    if not free.any():
        return np.zeros_like(body)
    lit = float(np.percentile(light[free], 75))
    if lit < sun.light * (1 - 0.7 * sun.dark):  # the place itself is in the shade
        return np.zeros_like(body)
    shaded = lit * (1 - sun.dark)
    share = np.clip((light - shaded) / (0.5 * (lit - shaded)), 0.0, 1.0) * (1 - others / 255.0)
    dark = 1 - (1 - sun.dark) ** (1 / _BETWEEN)
    return np.asarray(dark * thrown * share, np.float32)


def _smaller(picture: NDArray[Any], scale: float) -> NDArray[Any]:
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _spread(values: Floats) -> Floats:
    """The largest among the near angles, along the last axis; NaN where all of them are."""
    turns = range(-_NEAR_ANGLES, _NEAR_ANGLES + 1)
    return np.asarray(np.fmax.reduce([np.roll(values, turn, axis=-1) for turn in turns]))


def _median(values: Floats) -> Floats:
    """Along the last axis, without NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=-1))
