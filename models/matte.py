# SPDX-License-Identifier: Apache-2.0
"""Cutting one person out of a picture: BlazePose's mask, kept from the neighbours, its edges refined at full size.

BlazePose-full (Google, Apache-2.0) runs in onnxruntime from models/weights/matte/. It sees a square turned so that
the person is upright, and gives a mask of that one person at 256 x 256.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pose import open_onnx
from shared.skeleton import L_HIP, L_SHOULDER, NECK, R_HIP, R_SHOULDER, Skeleton

if TYPE_CHECKING:
    import onnxruntime

_SIZE = 256
_MARGIN = 1.25


class MatteEstimator:
    """Mattes of single people.

    Args:
        threads (`int`, *optional*, defaults to 2): threads of onnxruntime.
    """

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    def matte(self, rgb: NDArray[np.uint8], skeleton: Skeleton, others: Sequence[Skeleton] = ()) -> NDArray[np.float32]:
        """Coverage of one person.

        Args:
            rgb (`(H, W, 3)` uint8): sRGB.
            skeleton (`Skeleton`): the person.
            others (sequence of `Skeleton`, *optional*): other people of the picture, which are left out.

        Returns:
            `(H, W)` float32, 0..1.
        """
        height, width = rgb.shape[:2]
        to_crop = _to_crop(skeleton)
        crop = cv2.warpAffine(rgb, to_crop, (_SIZE, _SIZE), flags=cv2.INTER_LINEAR)
        (mask,) = self._session.run(["Identity_1:0"], {"input_1:0": crop[None].astype(np.float32) / 255})
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(np.asarray(mask)[0, ..., 0], to_crop, (width, height), flags=flags)  # type: ignore[return-value]

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_onnx("matte", "blazepose-full", self.threads)


def _to_crop(skeleton: Skeleton) -> NDArray[np.float64]:
    """`(2, 3)` map from pixels of the picture to BlazePose's square: hips in the centre, spine upright."""
    xy, seen = skeleton.xy, skeleton.visible
    points = xy[seen]
    shoulders = [i for i in (R_SHOULDER, L_SHOULDER) if seen[i]] or ([NECK] if seen[NECK] else [])
    hips = [i for i in (R_HIP, L_HIP) if seen[i]]
    top = xy[shoulders].mean(0) if shoulders else points.mean(0)
    if hips:
        centre = xy[hips].mean(0)
    elif len(shoulders) == 2:
        # Hips that are not seen: a torso is about 1.4 shoulder widths long.
        width = float(np.linalg.norm(xy[R_SHOULDER] - xy[L_SHOULDER]))
        centre = top + (0.0, 1.4 * width)
    else:
        centre = points.mean(0)
    up = top - centre
    length = float(np.linalg.norm(up))
    up = up / length if length > 1e-6 else np.array([0.0, -1.0])
    right = np.array([-up[1], up[0]])
    offsets = (points - centre) @ np.stack([right, -up], 1)
    half = max(8.0, float(np.abs(offsets).max()) * _MARGIN)
    scale = _SIZE / (2 * half)
    rotation = np.stack([right, -up]) * scale
    return np.column_stack([rotation, _SIZE / 2 - rotation @ centre])
