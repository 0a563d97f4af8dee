# SPDX-License-Identifier: Apache-2.0
"""Shadows of a person on the ground; without them people seem to float.

Under any light hardly any comes under a sole, and around the feet the body takes away a part of the sky's: how dark,
the scene's own people tell. Where their shadows show a sun (models/sun.py), it throws one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import sun
from shared.errors import BadInput
from shared.skeleton import Skeleton

if TYPE_CHECKING:
    from models.person import Person

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


def with_shadow(
    person: Person,
    target: Skeleton,
    scene: NDArray[np.uint8],
    context: Sequence[Skeleton],
    strength: float = DEFAULT_STRENGTH,
) -> Person:
    """The person with a soft black shadow below and around its feet, and the sun's, as part of the same picture.

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
    stature, feet = sun.feet_of(target)
    soles = [sole for ankle in feet if (sole := _sole(person, ankle, stature)) is not None]
    if strength == 0.0 or not soles or max(y for _, _, y in soles) >= scene.shape[0]:
        return person
    y = float(np.mean([y for _, _, y in soles]))
    left, above, right, below = _room(person, stature, y, found := sun.find(scene, context))
    rgba = np.pad(person.rgba, ((above, below), (left, right), (0, 0)))
    x0, y0 = person.x - left, person.y - above
    light = np.ones(rgba.shape[:2], np.float32)
    # Nothing of the wide and the narrow shadow lies higher than this.
    top = max(0, round(min(y for _, _, y in soles) - 0.4 * stature) - y0)
    near = light[top:]
    dark = min(darkness(scene, context) / _LIKELY, 1.5)
    for start, end, low in soles:
        radii = ((end - start) / 2 + 0.01 * stature, 0.014 * stature)
        spot = _ellipse(near.shape, ((start + end) / 2 - x0, low - y0 - top), radii)
        near *= 1 - min(_CONTACT * np.sqrt(dark), 0.8) * _soft(spot, 0.012 * stature)
    start, end = min(x for x, _, _ in soles), max(x for _, x, _ in soles)
    wide = ((end - start) / 2 + 0.10 * stature, 0.05 * stature + np.ptp([y for _, _, y in soles]) / 2)
    spot = _ellipse(near.shape, ((start + end) / 2 - x0, y - y0 - top), wide)
    near *= 1 - min(_AROUND * dark, 0.5) * _soft(spot, 0.05 * stature)
    if found is not None:
        light *= 1 - sun.shade(found, rgba[..., 3], (x0, y0), y, stature, scene, context)
    shade = strength * (1 - light)
    shade[shade < _FAINTEST] = 0
    rgba[..., 3] += (1 - rgba[..., 3]) * shade  # black, so the premultiplied colours stay
    return replace(person, rgba=rgba, x=x0, y=y0)


def _room(person: Person, stature: float, soles: float, found: sun.Sun | None) -> tuple[int, int, int, int]:
    """Pixels that the shadows need beyond the person: to the left, above, to the right, below."""
    around = 0.6 * stature
    if found is None:
        return int(np.ceil(around)), 0, int(np.ceil(around)), int(np.ceil(around))
    height = soles - person.y
    aside, down = found.across * height, found.down * height
    return (
        int(np.ceil(max(around, 0.1 * stature - aside))),
        int(np.ceil(max(0.0, 0.1 * stature - down - height))),
        int(np.ceil(max(around, 0.1 * stature + aside))),
        int(np.ceil(max(around, 0.1 * stature + down))),
    )


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
        stature, feet = sun.feet_of(person)
        if not feet:
            continue
        middle, y = float(np.mean(feet, axis=0)[0]), max(y for _, y in feet) + 0.07 * stature
        rows = scene[max(0, round(y - 0.02 * stature)) : max(0, round(y + 0.05 * stature) + 1)]
        strip = sun.luminance(rows)
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
