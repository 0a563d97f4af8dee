# SPDX-License-Identifier: Apache-2.0
"""What is made of a photo before anything in it moves: the person's colours continued beyond the matte, and the body as
it is where arms hide it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .parts import arm_cover, smoothstep


def resized(picture: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    shrinking = size < picture.shape[0]
    return np.asarray(
        cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR),
        np.float32,
    )


def spread_colours(rgb: NDArray[np.float32], matte: NDArray[np.float32]) -> NDArray[np.float32]:
    """The person's colours, continued over the matte's edge and beyond.

    At its edge a photo mixes the person with what stood behind; sampled as it is, that mixture would be a halo in
    another scene. Pixels that are not safely inside take the colour of the nearest that are, by a pull-push pyramid
    (Gortler et al., The Lumigraph, section 3.4).

    Args:
        rgb (`(h, w, 3)` float32).
        matte (`(h, w)` float32).

    Returns `(h, w, 3)`; unchanged where the matte is well inside.
    """
    # An edge is a few pixels wide whatever the photo's size; how many follows from the matte itself.
    inside = np.clip((matte - 0.9) / 0.1, 0, 1).astype(np.float32)
    if inside.max() == 0:
        return rgb
    levels = [np.dstack([rgb * inside[..., None], inside])]
    while min(levels[-1].shape[:2]) > 2:
        levels.append(cv2.pyrDown(levels[-1]))
    coarse = levels[-1][..., :3] / np.maximum(levels[-1][..., 3:], 1e-6)
    for level in reversed(levels[1:-1]):
        coarse = cv2.resize(coarse, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        share = np.clip(level[..., 3:] * 4, 0, 1)
        coarse += share * (level[..., :3] / np.maximum(level[..., 3:], 1e-6) - coarse)
    coarse = cv2.resize(coarse, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    coarse += inside[..., None] * (rgb - coarse)
    return coarse


def without_arms(straight: NDArray[np.float32], xy: Tensor, known: Tensor) -> NDArray[np.float32]:
    """The photo's colours `(n, n, 3)` where its arms are taken away: what they hide of the torso and the legs.

    An arm before the chest would stay on it when the arm moves. Behind it comes the torso's other side, mirrored,
    where that shows, else the colours around it.

    Args:
        straight (`(n, n, 4)` float32): straight colours and the matte.
        xy (`(1, 18, 2)` float32), known (`(1, 18)` bool): the joints in the photo, frame coordinates.
    """
    size = min(_BEHIND_SIZE, straight.shape[0])
    small = resized(straight, size)
    # Of planes that hardly vary from pixel to pixel every other one will do.
    cover = arm_cover(xy, known, -(-size // 2))
    arms, torso, legs, *mirror = (
        resized(plane.numpy(), size)
        for plane in (*(of[0] for of in cover[:3]), *cover.mirrored[0].unbind(-1))
    )
    rgb, matte = small[..., :3], small[..., 3]
    free = matte * (1 - smoothstep(torch.from_numpy(arms), 0.0, 0.3).numpy())
    behind = rgb.copy()
    for place in (torso, legs):
        around = spread_colours(rgb, free * place)
        behind += place[..., None] * (around - rgb)
    x, y = (plane * size - 0.5 for plane in mirror)
    other = cv2.remap(np.dstack([rgb, free * torso]), x, y, cv2.INTER_LINEAR)
    # The other side may have another colour: what does not fit its surroundings is not taken.
    strange = cv2.GaussianBlur(np.abs(other[..., :3] - behind).max(-1), (0, 0), size / 96)
    take = torso * np.clip((other[..., 3] - 0.8) / 0.2, 0, 1) * np.clip(1.6 - 8 * strange, 0, 1)
    behind += cv2.GaussianBlur(take, (0, 0), 1.5)[..., None] * (other[..., :3] - behind)
    # A sleeve of the torso's own colour may stay, with its folds.
    differs = np.clip((np.abs(rgb - behind).max(-1) - 0.06) / 0.06, 0, 1)
    differs = cv2.dilate(differs, np.ones((3, 3), np.uint8))
    gone = arms * cv2.GaussianBlur(differs, (0, 0), 1.5)
    filled = resized(np.dstack([behind, gone]), straight.shape[0])
    bare = straight[..., :3].copy()
    rows = np.flatnonzero(filled[..., 3].any(1))
    here = slice(rows[0], rows[-1] + 1) if len(rows) > 0 else slice(0)
    bare[here] += filled[here, :, 3:] * (filled[here, :, :3] - bare[here])
    return bare


_BEHIND_SIZE = 384
