# SPDX-License-Identifier: Apache-2.0
"""A person in a picture: the square around them, their joints in it, and what any transfer makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import BadInput
from shared.skeleton import Skeleton

from .body import torso_length

MARGIN = 0.55
"""Room around the known joints, in torsos: hair and hat above the eyes, hands beyond wrists, feet beyond ankles."""
_MAX_LAYER = 6000
"""Largest side of a layer in pixels: above it a skeleton is a slip, and memory would pass 2 GB."""


_Number = TypeVar("_Number", np.uint8, np.float32)


class Frame(NamedTuple):
    """A square of a picture: integer pixel `x`, `y` of its top-left corner and its `size`."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Person:
    """A person cut out, at scene scale.

    Args:
        rgba (`(h, w, 4)` float32): premultiplied, 0..1, sRGB-encoded values.
        x, y (`int`): the scene pixel on which `rgba[0, 0]` lies; may be negative.
        depth (`(h, w)` float32, *optional*): metres towards the camera from the middle of the body, for a body whose
            torso (neck to mid-hip) is half a metre; 0 where alpha is 0.
        normals (`(h, w, 3)` float32, *optional*): unit vectors, x to the right, y up, z towards the camera; 0 where
            alpha is 0.
    """

    rgba: NDArray[np.float32]
    x: int
    y: int
    depth: NDArray[np.float32] | None = None
    normals: NDArray[np.float32] | None = None


def person_frame(skeleton: Skeleton) -> Frame:
    """The square around a person: its known joints with room for hair, hands and feet.

    Raises:
        BadInput: no joint is known, or the square has more than 6,000 px a side or fewer than 8.
    """
    x0, y0, x1, y1 = skeleton.box
    torso = float(torso_length(*tensors(skeleton))[0])
    size = math.ceil(max(x1 - x0, y1 - y0) + 2 * MARGIN * torso)
    if not 8 <= size <= _MAX_LAYER:
        raise BadInput(
            f"skeleton: the person would be {size} px large, not 8 to {_MAX_LAYER}",
            "Scale the skeleton to the picture",
            "skeleton",
        )
    return Frame(math.floor((x0 + x1 - size) / 2), math.floor((y0 + y1 - size) / 2), size)


def tensors(skeleton: Skeleton, frame: Frame | None = None) -> tuple[Tensor, Tensor]:
    """`(1, 18, 2)` float32 joints, in the frame's coordinates if one is given, and `(1, 18)` bool."""
    xy = skeleton.xy if frame is None else (skeleton.xy - (frame.x, frame.y)) / frame.size
    return torch.tensor(xy, dtype=torch.float32)[None], torch.tensor(skeleton.visible)[None]


def crop(picture: NDArray[_Number], frame: Frame) -> NDArray[_Number]:
    """The frame's pixels `(size, size, C)`; 0 outside of the picture."""
    height, width, channels = picture.shape
    out = np.zeros((frame.size, frame.size, channels), picture.dtype)
    x0, y0 = max(frame.x, 0), max(frame.y, 0)
    x1, y1 = min(frame.x + frame.size, width), min(frame.y + frame.size, height)
    if x1 > x0 and y1 > y0:
        out[y0 - frame.y : y1 - frame.y, x0 - frame.x : x1 - frame.x] = picture[y0:y1, x0:x1]
    return out
