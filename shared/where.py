# SPDX-License-Identifier: Apache-2.0
"""What an artist may ask of the place and the look of a new person, before one is drawn."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec

from .errors import BadInput
from .skeleton import Skeleton

Stance: TypeAlias = Literal["standing", "sitting"]
Facing: TypeAlias = Literal["left", "right"]

MAX_HEIGHT = 4.0
"""Frame heights; a taller person is nothing but a mistake in units."""


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wishes for the new person; each is left open where None.

    Args:
        feet (`(x, y)`, *optional*): where the feet touch the ground, in pixels inside the scene.
        box (`(x0, y0, x1, y1)`, *optional*): the feet lie in it, in pixels; it may reach beyond the scene.
        height (`float`, *optional*): pixels from the soles to the crown of the head, as when standing upright; a
            seated or cut person is as large as this person would be.
        stance (`"standing"` or `"sitting"`, *optional*).
        facing (`"left"` or `"right"`, *optional*): the side of the picture that the person turns to.
        like (54 numbers, *optional*): a skeleton in pixels of the scene; candidates resemble it.
    """

    feet: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    height: float | None = None
    stance: Stance | None = None
    facing: Facing | None = None
    like: list[float] | None = None

    @property
    def open(self) -> bool:
        """Whether nothing is asked for."""
        return self == Where()

    @property
    def posed(self) -> bool:
        """Whether a pose is asked for, and not only a place or a size."""
        return self.stance is not None or self.facing is not None or self.like is not None

    def check(self, width: float, height: float) -> None:
        """Hold the wishes against a scene of that size in pixels.

        Raises:
            BadInput: a field cannot be; names it.
        """
        if self.feet is not None:
            x, y = _finite("feet", self.feet)
            if not (0 <= x <= width and 0 <= y <= height):
                raise BadInput(
                    f"feet: {x:g},{y:g} lies outside the scene of {width:g} x {height:g} pixels",
                    "Give the pixel of the scene where the feet go",
                    "where.feet",
                )
        if self.box is not None:
            self._check_box(width, height)
        if self.height is not None:
            (tall,) = _finite("height", (self.height,))
            if not 0 < tall <= MAX_HEIGHT * height:
                raise BadInput(
                    f"height: {tall:g} is not above 0 and up to {MAX_HEIGHT:g} times the scene's {height:g} pixels",
                    "Give the pixels from the soles to the crown of the head",
                    "where.height",
                )
        for field, value, known in (
            ("stance", self.stance, ("standing", "sitting")),
            ("facing", self.facing, ("left", "right")),
        ):
            if value is not None and value not in known:
                raise BadInput(
                    f"{field}: there is no {value!r}", f"Choose {known[0]} or {known[1]}", f"where.{field}"
                )
        if self.like is not None and not Skeleton.from_openpose(self.like, "like").visible.any():
            raise BadInput(
                "like: no joint is known", "Give at least one joint with a score above 0", "where.like"
            )

    def _check_box(self, width: float, height: float) -> None:
        assert self.box is not None
        x0, y0, x1, y1 = _finite("box", self.box)
        told = f"box: {x0:g},{y0:g} to {x1:g},{y1:g}"
        if not (x0 < x1 and y0 < y1):
            raise BadInput(
                f"{told} has no area",
                "Give left, top, right, bottom with left < right, top < bottom",
                "where.box",
            )
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise BadInput(
                f"{told} lies outside the scene of {width:g} x {height:g} pixels",
                "Give a box around the place for the feet, in pixels of the scene",
                "where.box",
            )
        if self.feet is not None and not (x0 <= self.feet[0] <= x1 and y0 <= self.feet[1] <= y1):
            raise BadInput(
                f"feet: {self.feet[0]:g},{self.feet[1]:g} lies outside the {told}",
                "Give a point or a box for the feet, not two places",
                "where.feet",
            )


def _finite(field: str, values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(math.isfinite(value) for value in values):
        raise BadInput(
            f"{field}: {','.join(f'{v:g}' for v in values)} is not finite",
            "Give numbers, in pixels of the scene",
            f"where.{field}",
        )
    return values
