# SPDX-License-Identifier: Apache-2.0
"""Carries the photo's pixels to places of a new pose: each part's map leads to one, and they agree on what is read."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .parts import PartMaps
from .photo import Hands

_OWNERSHIP_SIZE = 128
_AGREE = 0.1
"""Maps that lead within this many torsos of each other show the same place."""
_SEAM = 4.0
"""How much narrower a seam between limbs is than the network's own."""


class Photo(NamedTuple):
    """What is read of a photo, in the person's frame, float32."""

    straight: NDArray[np.float32]  # (n, n, 4), straight colours, continued beyond the matte, and the matte
    bare: NDArray[np.float32]  # (m, m, 4), what torso and legs are taken from, and how far: without the arms
    armed: NDArray[np.float32]  # (m, m, 4), the same for arms: without what lies around them
    hands: Hands
    owned: Tensor  # (10, 1, 256, 256), `owned`


def owned(maps: PartMaps, matte: Tensor) -> Tensor:
    """Each part's share of the source pixels `(10, 1, 256, 256)`, cut to the person: what may be moved.

    Args:
        maps (`PartMaps`): of one person; any target will do.
        matte (`(256, 256)` float32): of the photo.
    """
    own = F.interpolate(maps.ownership(_OWNERSHIP_SIZE), scale_factor=2, mode="bilinear", align_corners=False)
    return (own * matte)[0, :, None]


def carried(
    photo: Photo, share: Tensor, points: Tensor, change: Tensor, maps: PartMaps
) -> tuple[Tensor, Tensor]:
    """Straight colours `(M, 3)` and matte `(M,)` that the parts bring from the photo to the layer's pixels.

    Where there is no `change` `(M,)` the arms are where they were, before the body.
    """
    main, second = _groups(share, points, _AGREE * float(maps.source.torso[0]))
    values = _taken_apart(photo, main, change)
    # Few pixels lie in a seam.
    seam = (second.weight > 0.01).nonzero()[:, 0]
    if len(seam) > 0:
        other = _taken_apart(photo, _Read(*(of[seam] for of in second)), change[seam])
        values[seam] += second.weight[seam, None] * (other - values[seam])
    return values[:, :3], values[:, 3]


def _taken_apart(photo: Photo, read: _Read, change: Tensor) -> Tensor:
    """Straight colours and matte `(M, 4)` there: arms without what lies around them, the body without arms."""
    values = read_photo(photo.straight, read.flow * photo.straight.shape[0])
    as_it_is = values[:, :3].clone()
    for picture, share in ((photo.bare, read.bare * change), (photo.armed, read.armed * change)):
        some = (share > 0.01).nonzero()[:, 0]
        if len(some) > 0:
            there = read_photo(picture, read.flow[some] * picture.shape[0])
            counts = share[some, None] * there[:, 3:]
            values[some, :3] += counts * (there[:, :3] - as_it_is[some])
    return values


class _Read(NamedTuple):
    """What the parts that agree on a place say."""

    flow: Tensor  # (M, 2), source points
    bare: Tensor  # (M,), 1 where the torso or a leg is read
    armed: Tensor  # (M,), 1 where an arm is read
    weight: Tensor  # (M,), the group's share


def _groups(share: Tensor, points: Tensor, reach: float) -> tuple[_Read, _Read]:
    """The parts' maps as two groups that each agree on one place, the likelier first.

    The mean of two parts' maps is a place that belongs to neither: colours from there drew contour lines between
    limbs. So maps are averaged only among parts that lead within `reach` of the winner, and where there are others,
    colours are mixed instead, over a seam that is narrower than the network's own.

    Args:
        share (`(10, M)`), points (`(10, M, 2)`): of the parts.
        reach (`float`): frame units.
    """
    # Sums over parts are several times as fast of planes as of pairs.
    places = points.movedim(-1, 0).contiguous()
    # A high power of the shares is nearly the winner alone.
    most = share.square().square().square()
    winner = (most * places).sum(1) / most.sum(0)
    near = torch.exp((places - winner[:, None]).square().sum(0) / -(reach**2))
    groups = [share * near, share * (1 - near)]
    first, second = (group.sum(0).clamp_min(1e-8) for group in groups)
    main = torch.sigmoid(_SEAM * torch.log(first / second))
    reads = []
    for group, total, weight in ((groups[0], first, main), (groups[1], second, 1 - main)):
        flow = ((group * places).sum(1) / total).T
        reads.append(_Read(flow, (group[0] + group[6:].sum(0)) / total, group[2:6].sum(0) / total, weight))
    return reads[0], reads[1]


def read_photo(photo: NDArray[np.float32], points: Tensor) -> Tensor:
    """Bicubic values `(M, C)` of the photo `(h, w, C)` at pixels `(M, 2)`, 0..1."""
    # OpenCV's limit on a side is 32,767, so the list of points is folded into a rectangle.
    width = 4096
    read = np.zeros((-(-len(points) // width) * width, 2), np.float32)
    read[: len(points)] = points.numpy() - 0.5
    x, y = (np.ascontiguousarray(read[:, axis].reshape(-1, width)) for axis in (0, 1))
    taken = cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.asarray(taken, np.float32).reshape(-1, photo.shape[2])[: len(points)]).clamp(
        0, 1
    )
