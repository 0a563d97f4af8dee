# SPDX-License-Identifier: GPL-3.0-or-later
"""Uncompressed picture files as Blender writes them: quickest on its side, and read in any thread. No bpy here."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray


def bmp_pixels(data: bytes) -> NDArray[np.uint8]:
    """`(H, W, 3)` RGB, top row first, of an uncompressed BMP file with 24 bits."""
    offset, _, width, height, _, bits, method = struct.unpack_from("<IIiiHHI", data, 10)
    assert (bits, method) == (24, 0), f"BMP with {bits} bits, compression {method}"
    stride = (width * 3 + 3) // 4 * 4
    rows = np.frombuffer(data, np.uint8, stride * abs(height), offset).reshape(abs(height), stride)
    blue_first = (rows[::-1] if height > 0 else rows)[:, : width * 3].reshape(abs(height), width, 3)
    rgb = np.empty((abs(height), width, 3), np.uint8)
    for channel in range(3):  # twice as quick as turning all at once
        rgb[..., channel] = blue_first[..., 2 - channel]
    return rgb


def exr_size(data: bytes) -> tuple[int, int]:
    """Width and height of an OpenEXR file."""
    left, top, right, bottom = struct.unpack("<4i", _exr_header(data)[0][b"dataWindow"])
    return right - left + 1, bottom - top + 1


def exr_pixels(data: bytes) -> NDArray[np.float16]:
    """`(H, W, 3)` RGB, top row first, of an OpenEXR file of one part, scan lines of 16-bit floats, uncompressed."""
    (width, height), (header, end) = exr_size(data), _exr_header(data)
    assert header[b"compression"] == b"\0", "compressed OpenEXR"
    channels, listed = [], header[b"channels"]
    while listed[0]:
        name, _, rest = listed.partition(b"\0")
        assert struct.unpack_from("<i", rest) == (1,), "OpenEXR of other than 16-bit floats"
        channels.append(name)
        listed = rest[16:]
    line = np.dtype([("y", "<i4"), ("size", "<i4"), ("rows", "<f2", (len(channels), width))])
    lines = np.frombuffer(data, line, height, end + 8 * height)  # after the table of offsets
    rgb = np.empty((height, width, 3), np.float16)
    for channel, name in enumerate((b"R", b"G", b"B")):
        rgb[lines["y"] - lines["y"].min(), :, channel] = lines["rows"][:, channels.index(name)]
    return rgb


def _exr_header(data: bytes) -> tuple[dict[bytes, bytes], int]:
    """The attributes, and where they end. The layout is that of "OpenEXR File Layout" (openexr.com)."""
    magic, version = struct.unpack_from("<II", data)
    assert magic == 20000630, "no OpenEXR file"
    assert not version & 0x1A00, "OpenEXR with tiles, depth or several parts"
    attributes, at = {}, 8
    while data[at]:
        name, kind, _ = data[at : at + 512].split(b"\0", 2)  # neither is longer than 255
        at += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<i", data, at)
        attributes[name], at = data[at + 4 : at + 4 + size], at + 4 + size
    return attributes, at + 1
