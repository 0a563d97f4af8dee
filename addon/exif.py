# SPDX-License-Identifier: GPL-3.0-or-later
"""The EXIF orientation of a JPEG, which Blender ignores: phones store portraits lying on their side. No bpy here.

Formats: JPEG segments (ITU T.81 annex B), TIFF directory (TIFF 6.0 section 2), tag 0x0112 (EXIF 2.3, 4.6.4 A).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_ORIENTATION = 0x0112


def orientation(data: bytes) -> int:
    """1..8 as of EXIF; 1 (as stored) where the file does not say."""
    if not data.startswith(b"\xff\xd8"):
        return 1
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack(">xBH", data[at : at + 4])
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _from_tiff(data[at + 10 : at + 2 + length])
        if marker == 0xDA:  # the picture itself begins
            break
        at += 2 + length
    return 1


def _from_tiff(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * entry)
            if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:  # cut short: the photo may still be good
        pass
    return 1


def oriented(picture: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
    """The picture `(H, W, C)` as it is meant to be seen."""
    if value >= 5:
        picture = picture.transpose(1, 0, 2)
    # After the exchange of the axes: 2, 3, 6 and 7 are mirrored left to right, 3, 4, 7 and 8 top to bottom.
    if value in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if value in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
