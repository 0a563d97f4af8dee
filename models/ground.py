# SPDX-License-Identifier: Apache-2.0
"""Where a picture shows the ground that its people stand on, told by the looks of what is under their feet.

Skeletons tell how large a person is at a place, but not whether there is a floor, a table or a wall. What lies
around the feet of the people who are there is ground for certain; a place that looks like none of it, or that
cannot be reached from it without crossing something else, is doubtful. No network is involved and nothing is known
of what things are: a wall in the colours of the pavement still passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.finish import to_oklab
from models.judgement import Figures, figures
from shared.skeleton import L_ANKLE, LIMBS, R_ANKLE, Skeleton

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SIZE = 320
"""Longest side, in pixels, at which the picture is looked at."""
_BESIDE, _ABOVE, _BELOW = 0.30, 0.06, 0.10
"""What is taken for the surroundings of feet, in statures to each side, above and below where they touch the ground."""
_LIGHTNESS, _COLOUR = 0.06, 0.02
"""Sides of a cell of colours in Oklab; neighbouring cells count as alike."""
_RARE = 0.02
"""Cells with a smaller share of the pixels around feet are specks on the ground, or no ground at all."""
_FEWEST = 12
"""Pixels below which surroundings say nothing."""
_BODY = 0.09
"""Half the width of a limb with its clothes, in statures."""
_FAR = 0.35
"""Share of a place that must look like ground that can be reached, for half of the belief that it is ground."""
_UNSEEN = 0.5
"""Belief where nobody's feet tell: tables and other things that hide them lie in front as a rule."""
_DOUBTFUL = 0.6
"""Belief below which the artist is told; the feet of real people whom the rest of their scene was to judge have
0.68 to 1."""


class GroundLooks:
    """The ground of one scene.

    Args:
        rgb (`(H, W, 3)` uint8): the scene.
        context (sequence of `Skeleton`): its people, in its pixels.

    Attributes:
        seen (`bool`): whether the feet of anybody who stands show any ground; if not, nothing is known.
        reachable (`(h, w)` bool): of the scene at 320 px, what looks like the ground and is connected with it.
    """

    def __init__(self, rgb: NDArray[np.uint8], context: Sequence[Skeleton]) -> None:
        self._scale = min(1.0, _SIZE / max(rgb.shape[:2]))
        height, width = (max(1, round(side * self._scale)) for side in rgb.shape[:2])
        small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        smooth = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0), np.float32)
        cells = np.floor(to_oklab(smooth) / (_LIGHTNESS, _COLOUR, _COLOUR))
        cells = cells.astype(np.int64) + (1, 26, 26)
        body = anatomy.installed()
        joints = np.array([np.c_[p.xy, p.visible] for p in context], np.float64).reshape(-1, 18, 3)
        joints = joints[body.stature(joints) > 0]
        people = figures(joints, body)
        self._covered = _covered(joints, people.stature, self._scale, (height, width))
        stands = (people.upright > 0.3) & people.drawn[:, [R_ANKLE, L_ANKLE]].any(1)
        places = [
            place
            for xy, stature in zip(people.ground[stands], people.stature[stands], strict=True)
            if (place := self._around(xy, stature)).sum() >= _FEWEST
        ]
        self.seen = bool(places)
        self.reachable: Bools = np.zeros((height, width), bool)
        if self.seen:
            alike = _alike(cells, places)
            _, labels = cv2.connectedComponents(_tidied(alike).astype(np.uint8), connectivity=4)
            under = np.unique(np.concatenate([labels[place & alike] for place in places]))
            self.reachable = np.isin(labels, under[under > 0]) & alike

    def belief(self, feet: Floats, stature: Floats) -> Floats:
        """How sure it is, 0..1, that feet at `(N, 2)` pixels of people `(N,)` pixels tall stand on this ground.

        1 for feet below the frame; `_UNSEEN` where the scene shows nobody's feet.
        """
        out = np.ones(len(feet))
        if not self.seen:
            return np.where(feet[:, 1] * self._scale < len(self.reachable), _UNSEEN, 1.0)
        for index, (xy, tall) in enumerate(zip(feet, stature, strict=True)):
            place = self._around(xy, tall)
            if place.sum() >= _FEWEST:
                share = float(self.reachable[place].mean())
                out[index] = share**2 / (share**2 + _FAR**2) * (1 + _FAR**2)
        return out

    def warning(self, person: Figures) -> str:
        """What is doubtful about the ground under the one person `person`; empty where nothing is."""
        belief = float(self.belief(person.ground, person.stature)[0])
        if belief >= _DOUBTFUL:
            return ""
        if not self.seen:
            return (
                "The scene shows nobody's feet, so nothing tells whether there is ground at the place chosen"
            )
        return "What lies under the feet does not look like the ground that the others stand on"

    def _around(self, feet: Floats, stature: float) -> Bools:
        """The pixels of the small picture around feet, without those that people cover."""
        x, y = feet * self._scale
        tall = stature * self._scale
        out = np.zeros_like(self._covered)
        rows = slice(max(0, round(y - _ABOVE * tall)), max(0, round(y + _BELOW * tall) + 1))
        columns = slice(max(0, round(x - _BESIDE * tall)), max(0, round(x + _BESIDE * tall) + 1))
        out[rows, columns] = ~self._covered[rows, columns]
        return out


def _covered(joints: Floats, stature: Floats, scale: float, size: tuple[int, int]) -> Bools:
    """The pixels that people cover, roughly: thick limbs."""
    drawn = np.zeros(size, np.uint8)
    for person, tall in zip(joints, stature, strict=True):
        points = np.round(person[:, :2] * scale).astype(int)
        width = max(1, round(2 * _BODY * tall * scale))
        for a, b in LIMBS:
            if person[a, 2] > 0 and person[b, 2] > 0:
                cv2.line(drawn, points[a].tolist(), points[b].tolist(), 1, width)
    return drawn > 0


def _alike(cells: NDArray[np.int64], places: Sequence[Bools]) -> Bools:
    """Pixels whose colour is found around the feet: each place counts the same."""
    counts = np.zeros((20, 56, 56))
    for place in places:
        here = np.zeros_like(counts)
        np.add.at(here, tuple(np.clip(cells[place], 0, (19, 55, 55)).T), 1.0 / place.sum())
        counts = np.maximum(counts, here)
    common = counts >= _RARE
    near = common.copy()
    for axis in range(3):
        near |= np.roll(common, 1, axis) | np.roll(common, -1, axis)
    found: Bools = near[tuple(np.moveaxis(np.clip(cells, 0, (19, 55, 55)), -1, 0))]
    return found


def _tidied(mask: Bools) -> Bools:
    """Without threads of a pixel or two, over which one surface would leak into the next."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
