# SPDX-License-Identifier: Apache-2.0
"""A soft shadow where a person's feet touch the ground; without it people seem to float.

Only what is true under any light is drawn: hardly any light comes under a sole, and around the feet the body takes
away a part of the sky's. How dark, the scene's own people tell. The shadow that the sun throws is not drawn: its
direction and length, and what it would fall on, are not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.finish import linear
from models.judgement import figures
from shared.errors import BadInput
from shared.skeleton import L_ANKLE, R_ANKLE, Skeleton

if TYPE_CHECKING:
    from models.motion import Person

Floats = NDArray[np.floating[Any]]

DEFAULT_STRENGTH = 1.0
"""All of what is measured; judged on real pairs of actors and scenes."""

_FOOT = 0.11
"""Half the width of the strip below an ankle in which its sole is looked for, and how far below; in statures."""
_LOW = 0.14
_CONTACT, _AROUND = 0.6, 0.35
"""Darkness, 0..1, under a sole and of the body's wide shadow where the scene's people tell nothing."""
_LIKELY = 0.3
"""Darkness that is measured beside feet, at the median; what is measured counts in relation to it."""
_NEAR, _FAR = (0.06, 0.16), (0.4, 0.65)
"""What is compared, in statures to both sides of the feet."""
_FAINTEST = 2.0 / 255
"""Less is not seen, and would make the layer larger."""
_STANDS = 0.4
"""`Figures.upright` from which somebody stands, and the feet carry the body."""


def with_shadow(
    person: Person,
    target: Skeleton,
    scene: NDArray[np.uint8],
    context: Sequence[Skeleton],
    strength: float = DEFAULT_STRENGTH,
) -> Person:
    """The person with a soft black shadow below and around its feet, as part of the same picture.

    Unchanged where no foot touches the ground inside the frame, and for people who do not stand.

    Args:
        person (`Person`): premultiplied, in scene pixels.
        target (`Skeleton`): its pose, in scene pixels.
        scene (`(H, W, 3)` uint8): sRGB.
        context (sequence of `Skeleton`): the scene's people, by whose feet the darkness is measured.
        strength (`float`, 0..1, *optional*): 0 for none.

    Raises:
        BadInput: strength outside 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise BadInput(f"shadow: {strength} is not between 0 and 1", "Give a number from 0 to 1", "shadow")
    stature, feet = _feet(target)
    soles = [sole for ankle in feet if (sole := _sole(person, ankle, stature)) is not None]
    if strength == 0.0 or not soles or max(y for _, _, y in soles) >= scene.shape[0]:
        return person
    margin = int(np.ceil(0.6 * stature))
    rgba = np.pad(person.rgba, ((0, margin), (margin, margin), (0, 0)))
    left = person.x - margin
    # Nothing of it lies higher than this.
    top = max(person.y, round(min(y for _, _, y in soles) - 0.4 * stature))
    below = rgba[top - person.y :]
    light = np.ones(below.shape[:2], np.float32)
    dark = min(darkness(scene, context) / _LIKELY, 1.5)
    for x0, x1, y in soles:
        radii = ((x1 - x0) / 2 + 0.01 * stature, 0.014 * stature)
        spot = _ellipse(light.shape, ((x0 + x1) / 2 - left, y - top), radii)
        light *= 1 - min(_CONTACT * np.sqrt(dark), 0.8) * _soft(spot, 0.012 * stature)
    x0, x1 = min(x for x, _, _ in soles), max(x for _, x, _ in soles)
    y = float(np.mean([y for _, _, y in soles]))
    wide = ((x1 - x0) / 2 + 0.10 * stature, 0.05 * stature + np.ptp([y for _, _, y in soles]) / 2)
    spot = _ellipse(light.shape, ((x0 + x1) / 2 - left, y - top), wide)
    light *= 1 - min(_AROUND * dark, 0.5) * _soft(spot, 0.05 * stature)
    shade = strength * (1 - light)
    shade[shade < _FAINTEST] = 0
    below[..., 3] += (1 - below[..., 3]) * shade  # black, so the premultiplied colours stay
    return replace(person, rgba=rgba, x=left)


def darkness(scene: NDArray[np.uint8], context: Sequence[Skeleton]) -> float:
    """By what share the ground beside the feet of a scene's people is darker than the same ground further off.

    Args:
        scene (`(H, W, 3)` uint8): sRGB.
        context (sequence of `Skeleton`): its people.

    Returns:
        0.1..0.6; `_LIKELY` where nobody's feet are seen.
    """
    found = []
    for person in context:
        stature, feet = _feet(person)
        if not feet:
            continue
        middle, y = float(np.mean(feet, axis=0)[0]), max(y for _, y in feet) + 0.07 * stature
        rows = scene[max(0, round(y - 0.02 * stature)) : max(0, round(y + 0.05 * stature) + 1)]
        strip = linear(rows.astype(np.float32) / 255) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        near, far = (_beside(strip, middle, low * stature, high * stature) for low, high in (_NEAR, _FAR))
        if len(near) == len(far) == 2 and min(far) > 0.01:
            # A pattern or a border of the ground makes one side lighter than the other.
            found.append(1 - sum(near) / sum(far))
    return float(np.clip(np.median(found), 0.1, 0.6)) if found else _LIKELY


def _beside(strip: Floats, middle: float, low: float, high: float) -> list[float]:
    """Median light to the left and to the right of a column, from `low` to `high` pixels off, inside the picture."""
    levels = []
    for side in (-1, 1):
        a, b = sorted((middle + side * low, middle + side * high))
        part = strip[:, max(0, round(a)) : max(0, round(b) + 1)]
        if part.size >= 6 and a >= 0 and b < strip.shape[1]:
            levels.append(float(np.median(part)))
    return levels


def _feet(person: Skeleton) -> tuple[float, list[tuple[float, float]]]:
    """Stature in pixels, and the ankles that are seen of somebody who stands; none of others."""
    joints = np.c_[person.xy, person.visible][None]
    body = anatomy.installed()
    stature = float(body.stature(joints)[0])
    seen = [j for j in (R_ANKLE, L_ANKLE) if person.visible[j]]
    if not stature > 0 or not seen or figures(joints, body).upright[0] < _STANDS:
        return 0.0, []
    return stature, [(float(person.xy[j, 0]), float(person.xy[j, 1])) for j in seen]


def _sole(person: Person, ankle: tuple[float, float], stature: float) -> tuple[float, float, float] | None:
    """Left, right and lowest y of the foot below an ankle, in scene pixels, from the person's own outline."""
    x, y = round(ankle[0]) - person.x, round(ankle[1]) - person.y
    left = max(0, x - round(_FOOT * stature))
    solid = (
        person.rgba[max(0, y) : y + round(_LOW * stature) + 1, left : x + round(_FOOT * stature) + 1, 3] > 0.5
    )
    rows = np.flatnonzero(solid.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(solid[max(0, rows[-1] - round(0.04 * stature)) :].any(axis=0))
    x0, x1 = person.x + left + columns[0], person.x + left + columns[-1] + 1
    return float(x0), float(x1), float(person.y + max(0, y) + rows[-1] + 1)


def _ellipse(size: tuple[int, ...], centre: tuple[float, float], radii: tuple[float, float]) -> Floats:
    """1 inside an ellipse, 0 outside, `size`; at least a pixel high."""
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - centre[0]) / max(radii[0], 0.7)
    down = (y + 0.5 - centre[1]) / max(radii[1], 0.7)
    return (across**2 + down**2 <= 1).astype(np.float32)


def _soft(spot: Floats, sigma: float) -> Floats:
    """Blurred; a wide blur is computed smaller, where it is the same and takes a tenth of the time."""
    step = max(1, int(sigma / 3))
    height, width = spot.shape
    size = (max(1, width // step), max(1, height // step))
    small = cv2.GaussianBlur(
        cv2.resize(spot, size, interpolation=cv2.INTER_AREA), (0, 0), max(sigma / step, 0.5)
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
