# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a layer lies on its picture. No bpy here; pixels are those of shared.skeleton, y down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shared.skeleton import Skeleton


@dataclass(frozen=True)
class LayerPlace:
    """Where a layer lies on its picture.

    Args:
        x, y (`float`): where the anchor (the feet) goes, pixels of the picture.
        scale (`float`): layer pixels to picture pixels.
        rotation (radians): about the anchor, counter-clockwise as seen.
        flip (`bool`): mirrored left to right about the anchor, before it is turned.
        anchor (`(float, float)`): the anchor in pixels of the layer, before it is flipped.
        size (`(int, int)`): the layer's width and height.
    """

    x: float
    y: float
    scale: float
    rotation: float
    flip: bool
    anchor: tuple[float, float]
    size: tuple[int, int]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """`(2, 3)`: pixels of the layer (x, y, 1) to pixels of the picture."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        mirror = -1.0 if self.flip else 1.0
        # y points down, so that a turn that is seen counter-clockwise is clockwise in numbers.
        turn = self.scale * np.array([[cos * mirror, sin], [-sin * mirror, cos]])
        return np.column_stack([turn, np.array([self.x, self.y]) - turn @ self.anchor])

    @property
    def corners(self) -> NDArray[np.float64]:
        """`(4, 2)`: where the layer's corners lie on the picture: top left, top right, bottom right, bottom left."""
        width, height = self.size
        points = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
        return np.asarray(points @ self.matrix.T)


def placed(skeleton: Skeleton, painted: tuple[float, float], place: LayerPlace, grow: float) -> Skeleton:
    """A painted skeleton as its layer shows it now.

    Args:
        skeleton (`Skeleton`): that was painted.
        painted (`(float, float)`): where its feet were then.
        place (`LayerPlace`): where the layer lies now.
        grow (`float`): how much larger it is now than it was painted.
    """
    if place.flip:
        skeleton = skeleton.mirrored(2 * painted[0])
    return turned(skeleton, painted, (place.x, place.y), grow, place.rotation)


def unplaced(skeleton: Skeleton, painted: tuple[float, float], place: LayerPlace, grow: float) -> Skeleton:
    """The inverse of `placed`."""
    skeleton = turned(skeleton, (place.x, place.y), painted, 1 / grow, -place.rotation)
    return skeleton.mirrored(2 * painted[0]) if place.flip else skeleton


def turned(
    skeleton: Skeleton, about: tuple[float, float], to: tuple[float, float], grow: float, rotation: float
) -> Skeleton:
    """The skeleton turned (radians, counter-clockwise as seen) and grown about a point that goes to another."""
    cos, sin = grow * np.cos(rotation), grow * np.sin(rotation)
    xy = (skeleton.xy - about) @ np.array([[cos, -sin], [sin, cos]]) + to
    return Skeleton(xy, skeleton.visible, skeleton.score)
