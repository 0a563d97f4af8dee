# SPDX-License-Identifier: Apache-2.0
"""Small pictures of an actor in a pose, quick enough to follow an artist's hand.

What depends on the photo alone is done once and kept: detection, matte, and the photo reduced to what a small
picture can show. A preview is then one run of the transfer network.
"""

from __future__ import annotations

from collections import OrderedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from models.finish import overlap, straight_bytes
from models.person import person_frame
from models.transfer import Analysed, MotionTransfer
from shared import messages
from shared.errors import ActorUnknown
from shared.skeleton import Skeleton

KEPT = 8
"""Analysed actors that are remembered, the last used ones; each takes at most 10 MB."""

_PHOTO = 512  # px: side of the square around the person to which a larger photo is reduced


def analyse(
    transfer: MotionTransfer, rgb: NDArray[np.uint8], matte: NDArray[np.float32], skeleton: Skeleton
) -> Analysed:
    """What previews need of an actor.

    Args:
        rgb (`(H, W, 3)` uint8): the photo.
        matte (`(H, W)` float32, 0..1): of the person.
        skeleton (`Skeleton`): the person's joints in the photo.
    """
    frame = person_frame(skeleton)
    height, width = matte.shape
    top, left = max(frame.y, 0), max(frame.x, 0)
    here = np.s_[top : min(frame.y + frame.size, height), left : min(frame.x + frame.size, width)]
    scale = min(1.0, _PHOTO / frame.size)
    size = tuple(max(1, round(side * scale)) for side in matte[here].shape[::-1])
    return transfer.analyse(
        np.asarray(cv2.resize(rgb[here], size, interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(matte[here], size, interpolation=cv2.INTER_AREA), np.float32),
        skeleton.transformed(scale, (-left * scale, -top * scale)),
    )


def small_matte(matte: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The matte for an artist to look at: `(h, w)` uint8 of the photo's form, the longer side at most 512 pixels."""
    scale = min(1.0, _PHOTO / max(matte.shape))
    size = tuple(max(1, round(side * scale)) for side in matte.shape[::-1])
    return np.asarray(cv2.resize(matte, size, interpolation=cv2.INTER_AREA) * 255 + 0.5, np.uint8)


class AnalysedActors:
    """The actors that previews can be asked of, by the photo's hash and the number of the person in it."""

    def __init__(self) -> None:
        self._actors: OrderedDict[tuple[str, int | None], Analysed] = OrderedDict()

    def keep(self, photo: str, number: int | None, actor: Analysed) -> None:
        """Remember an actor; the one that was not used for longest is forgotten for it."""
        self._actors[photo, number] = actor
        self._actors.move_to_end((photo, number))
        if len(self._actors) > KEPT:
            self._actors.popitem(last=False)

    def get(self, photo: str, number: int | None) -> Analysed:
        """The actor.

        Raises:
            ActorUnknown: it was not analysed, or others were since.
        """
        if (photo, number) not in self._actors:
            raise ActorUnknown(
                f"actor: the server has not analysed this photo ({photo[:12]}...), or not lately",
                "Send `analyse` with the photo first",
                "actor",
            )
        self._actors.move_to_end((photo, number))
        return self._actors[photo, number]


def paint(
    transfer: MotionTransfer, actor: Analysed, target: Skeleton, size: int
) -> tuple[messages.Previewed, NDArray[np.uint8]]:
    """The actor in the pose of `target` (in pixels of the scene).

    Returns:
        where the square lies in the scene, and its pixels `(size, size, 4)` uint8, sRGB with straight alpha.

    Raises:
        BadInput: the person would be of an impossible size.
    """
    frame = person_frame(target)
    scale = frame.size / size
    small = target.transformed(1 / scale, (-frame.x / scale, -frame.y / scale))
    person = transfer.pose(actor, small, draft=True)
    square = np.zeros((size, size, 4), np.uint8)
    out_of, into = overlap(person.rgba.shape[:2], (person.x, person.y), (size, size))
    square[into] = straight_bytes(person.rgba[out_of])
    return messages.Previewed(frame.x, frame.y, scale), square
