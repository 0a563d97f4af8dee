# SPDX-License-Identifier: Apache-2.0
"""Outlines, which networks draw as logits of alpha, as distances; and by how much somebody's hair or hat differs from
what is drawn of a head."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .grid import pixel_grid, sample, smoothstep
from .head_pose import HeadPose


def outline_of(logits: Tensor) -> Tensor:
    """How far inside the outline each place is `(1, 1, n, n)`, in frame units; negative outside.

    What the network is unsure of it predicts as a wide ramp; enlarged, that is a blur. Near the outline the ramp
    divided by its own slope is a distance, finer than a pixel; farther off it means nothing, and the distance is
    measured.

    Args:
        logits (`(1, 1, n, n)`): of alpha.
    """
    n = logits.shape[-1]
    smooth = F.avg_pool2d(F.pad(logits, (1, 1, 1, 1), mode="replicate"), 3, 1)
    wide = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    slope = (
        torch.hypot(wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1])
        / 2
    )
    near = (logits / slope.clamp_min(_FLAT)).clamp(-2, 2)[0, 0].numpy()
    person = (logits[0, 0] > 0).to(torch.uint8).numpy()
    far = distances(person) - distances(1 - person)
    # It is of pixels: their steps would scallop an outline that is drawn at some distance.
    far = cv2.GaussianBlur(far - 0.5 * np.sign(far), (0, 0), 1.5)
    distance = near + np.clip(np.abs(far) - 1, 0, 1) * (far - near)
    # Where nobody is there is no distance.
    return torch.from_numpy(np.clip(distance, -n, n).astype(np.float32) / n)[None, None]


_FLAT = 0.15


def distances(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How many pixels each one `(h, w)` is from the nearest that is 0."""
    # The last bit of OpenCV's depends on where in memory the mask lies; squares of distances are whole numbers.
    squared = np.rint(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) ** 2)
    return np.sqrt(squared, dtype=np.float32)


def volume_of(drawn: Tensor, matte: Tensor, counts: Tensor, pose: HeadPose) -> Tensor:
    """How much farther out than it is drawn a head reaches in its photo, `(36,)` in torsos of the head, by direction.

    Hats, big hair and shaven heads: what a network draws from the joints is the hair of most people. Directions are
    turned with the head, the first is its way up; both sides of it are alike, as another view has them elsewhere.

    Args:
        drawn (`(1, 1, n, n)`): `outline_of` the head as a network draws it in the photo's own pose, frame units.
        matte (`(1, 1, n, n)`): of the photo.
        counts (`(1, 1, n, n)`): 0 where the photo does not show whether there is head, 1 where it does.
        pose (`HeadPose`): of one head, frame units.
    """
    angle = torch.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
    radius = torch.arange(0, 0.5, 0.5 / drawn.shape[-1])
    way = torch.angle(pose.tilt) + angle
    along = torch.stack([way.sin(), -way.cos()], -1)
    middle = torch.stack([pose.origin.real, pose.origin.imag], -1)
    rays = sample(torch.cat([drawn, matte, counts], 1), (middle + radius[:, None, None] * along)[None])[0]
    inside, there, known = rays  # (radii, directions) each
    more = (there - (inside > 0).float()) * known * (inside.abs() < _FAR)
    more = more.sum(0) * (radius[1] - radius[0]) / pose.tilt.abs()
    # Below the ears the outline is a neck's.
    more = more * (1 - smoothstep(_turn(angle), *_EARS))
    near = torch.exp(-(_turn(angle[:, None] - angle) / _SMOOTH).square() / 2)
    more = near @ more / near.sum(1)
    more = (more + more.flip(0).roll(1)) / 2
    return more * more**2 / (more**2 + _DOUBT**2)


def _turn(angle: Tensor) -> Tensor:
    """How far directions lie apart, 0..pi."""
    return (angle + math.pi).remainder(2 * math.pi).sub(math.pi).abs()


def volume_at(volume: Tensor, pose: HeadPose, size: int) -> Tensor:
    """`volume_of` in the directions of the pixels of a head frame, `(1, 1, size, size)` in frame units."""
    x, y = pixel_grid(size)[0].unbind(-1)
    offset = torch.complex(x, y) - pose.origin
    place = torch.angle(offset / (-1j * pose.tilt)) * (_DIRECTIONS / (2 * math.pi))
    below = place.floor()
    before, after = (volume[(below.long() + step) % _DIRECTIONS] for step in (0, 1))
    at = before + (place - below) * (after - before)
    return (at * pose.tilt.abs()).reshape(1, 1, size, size)


_DIRECTIONS = 36
_FAR = 0.12
"""Head frames: what is farther from the outline than that is no hair."""
_EARS = (math.radians(100), math.radians(130))
_DOUBT = 0.01
"""By how much, in torsos, what is drawn of people whose joints are exact is off for no reason."""
_SMOOTH = math.radians(15)
