# SPDX-License-Identifier: Apache-2.0
"""Drawing skeletons over a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.skeleton import LIMBS, Skeleton

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (230, 80, 60), (60, 160, 240), (90, 200, 80), (240, 190, 50),
    (190, 110, 230), (60, 210, 200), (240, 130, 180), (170, 140, 90),
)  # fmt: skip
"""Colours of people, sRGB, taken in turn."""
CONTEXT: Colour = (165, 165, 165)
CHOSEN: Colour = (255, 255, 255)
_OUTLINE: Colour = (20, 20, 20)
_FINE = 4
"""Fractional bits of OpenCV's drawing coordinates."""


def draw_people(
    rgb: NDArray[np.uint8],
    people: Sequence[Skeleton],
    colours: Sequence[Colour] = COLOURS,
    width: float | None = None,
) -> NDArray[np.uint8]:
    """A copy of the picture with skeletons over it, the first person on top.

    Args:
        rgb (`(H, W, 3)` uint8): sRGB.
        people (sequence of `Skeleton`): in pixels of the picture.
        colours (sequence of sRGB triples, *optional*): one for each person, repeated where there are more people.
        width (`float`, *optional*): of a limb in pixels; by default it follows the picture's size,
            and is finer on people who are small in it.
    """
    drawn = np.ascontiguousarray(rgb).copy()
    for index in reversed(range(len(people))):
        person, colour = people[index], colours[index % len(colours)]
        if not person.visible.any():
            continue
        line = _line_width(rgb, person) if width is None else width
        outline = line + max(1.0, line / 2)
        # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
        points = np.rint((person.xy - 0.5) * 2**_FINE).astype(int).tolist()
        bones = [(a, b) for a, b in LIMBS if person.visible[a] and person.visible[b]]
        joints = [i for i in range(len(points)) if person.visible[i]]
        for stroke, ink in ((outline, _OUTLINE), (line, colour)):
            for a, b in bones:
                cv2.line(drawn, points[a], points[b], ink, round(stroke), cv2.LINE_AA, _FINE)
            for i in joints:
                cv2.circle(drawn, points[i], round(stroke * 0.9 * 2**_FINE), ink, -1, cv2.LINE_AA, _FINE)
    return drawn


def draw_placement(
    size: tuple[int, int], context: Sequence[Skeleton], candidates: Sequence[Skeleton], longest: int = 1600
) -> NDArray[np.uint8]:
    """A dark frame of that width and height, at most `longest` a side: the context grey, candidates over it.

    Candidates have `COLOURS` in turn; the best lies on top.
    """
    scale = min(1.0, longest / max(size))
    canvas = np.full((max(1, round(size[1] * scale)), max(1, round(size[0] * scale)), 3), 40, np.uint8)
    people = [person.transformed(scale) for person in (*candidates, *context)]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(candidates))] + [CONTEXT] * len(context)
    return draw_people(canvas, people, colours or COLOURS)


def _line_width(rgb: NDArray[np.uint8], person: Skeleton) -> float:
    extent = float((person.box[2:] - person.box[:2]).max())
    return max(1.5, min(max(rgb.shape[:2]) / 220, extent / 25))
