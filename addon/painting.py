# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server painted, made ready for Blender in the worker's thread: PNG bytes, feather map, contact point.

Blender's own packing compresses on the main thread and takes a second for a large picture; packing bytes that are
PNG already takes a millisecond. No bpy here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shared.errors import BadImage
from .shared.skeleton import L_ANKLE, R_ANKLE, Skeleton

FEATHER_MAX = 63.75
"""The widest feather in layer pixels: the feather map has 8 bits and steps of a quarter pixel."""


DEPTH_RANGE = 8.0
"""Metres between black and white of a depth pass: of its 16 bits, the middle is the middle of the body."""


def png(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """A PNG file of `(H, W)`, `(H, W, 3)` or `(H, W, 4)`, 8 or 16 bits; lossless, quick rather than small."""
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    bits = 8 * array.itemsize
    rows = np.ascontiguousarray(array, array.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = 2  # the filter "up": each row as its difference to the one above
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"tEXt", _OURS) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


_OURS = b"Software\0Walk-On"
"""Marks the PNG files that `from_png` can read: those of `png`."""


def is_ours(file: bytes) -> bool:
    """Whether `png` made this file, and `from_png` can read it."""
    return file[41 : 41 + len(_OURS)] == _OURS


def from_png(file: bytes) -> NDArray[np.uint8]:
    """The 8-bit array of which `png` made this file. (Blender itself reads on the main thread only.)"""
    width, height, _, colour = struct.unpack_from(">IIBB", file, 16)
    shape = (height, width, *{0: (), 2: (3,), 6: (4,)}[colour])
    start = 41 + len(_OURS) + 4
    (length,) = struct.unpack_from(">I", file, start)
    lines = np.frombuffer(zlib.decompress(file[start + 8 : start + 8 + length]), np.uint8).reshape(height, -1)
    return np.add.accumulate(lines[:, 1:], dtype=np.uint8).reshape(shape)


def feather_map(alpha: NDArray[np.uint8], open_sides: tuple[bool, bool, bool, bool]) -> NDArray[np.uint8]:
    """How far inside the person each pixel is: quarter pixels to the nearest pixel without any person.

    Args:
        alpha (`(h, w)` uint8): the layer's.
        open_sides (left, top, right, bottom): where the person goes on beyond the picture's frame. There the
            layer's border is no edge, and feathering leaves it alone.

    Returns:
        `(h, w)` uint8, 0 where there is no person, 255 from `FEATHER_MAX` pixels on.
    """
    height, width = alpha.shape
    reach = int(FEATHER_MAX) + 1
    far = np.float32(reach + 1)
    left, top, right, bottom = open_sides
    inside = np.pad(alpha > 0, 1)
    # A closed side has a row of nothing beyond it, an open one has not.
    inside[:, 0], inside[0], inside[:, -1], inside[-1] = (
        inside[:, 0] | left, inside[0] | top, inside[:, -1] | right, inside[-1] | bottom
    )  # fmt: skip
    down = np.where(inside, far, np.float32(0))
    for row in range(1, height + 2):
        np.minimum(down[row], down[row - 1] + 1, out=down[row])
    for row in range(height, -1, -1):
        np.minimum(down[row], down[row + 1] + 1, out=down[row])
    # Exact: the smallest squared distance over the columns within reach.
    columns = np.pad(down**2, ((0, 0), (reach, reach)), constant_values=far**2)
    nearest = down**2
    for step in range(1, reach + 1):
        for start in (reach - step, reach + step):
            np.minimum(nearest, columns[:, start : start + width + 2] + np.float32(step * step), out=nearest)
    quarter = np.minimum(np.sqrt(nearest[1:-1, 1:-1]) * 4, 255)
    return np.asarray(quarter + 0.5, np.uint8)


_ROUND = 8  # pixels: as far as a blurred outline reaches beyond the person
_GROUND = 0.3  # metres: the shadow around the feet lies on ground that is nearer than they by so much at most
_BEFORE = 4.0  # metres by which ground is nearer, at most, for each metre below the feet in the picture
_STATURE = 1.7  # metres


def _whole_depth(
    metres: NDArray[np.float16],
    directions: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    rows: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Depth wherever the layer is seen: a soft outline has that of the person beside it, a shadow that of the ground.

    Args:
        metres, directions: depth and normals as `messages.Inserted` brings them; where the person is not, the normal
            is none, (128, 128, 128).
        alpha (`(h, w)` uint8): the layer's.
        rows: in which the person is.
    """
    depth = np.pad(metres.astype(np.float32), _ROUND)  # nothing comes round from the other side
    known = np.pad((directions != 128).any(2), _ROUND)
    for _ in range(_ROUND):
        for axis in (0, 1):
            for step in (1, -1):
                take = ~known & np.roll(known, step, axis)
                depth[take] = np.roll(depth, step, axis)[take]
                known |= take
    inside = np.s_[_ROUND:-_ROUND, _ROUND:-_ROUND]
    below = np.maximum(np.arange(len(alpha)) - rows[-1], 0) * (_STATURE / len(rows))
    ground = (_GROUND + _BEFORE * below).astype(np.float32)[:, None]
    return np.where(known[inside] | (alpha == 0), depth[inside], ground)


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted person as the layers take it. Made by `Painting.of`.

    Args:
        person, feather (`bytes`): PNG files of one size, as all others here.
        plain (`bytes`, *optional*): the person in the photo's own colours, before they were matched to the scene's.
        depth (`bytes`, *optional*): 16 bits, `DEPTH_RANGE`; brighter is nearer.
        normal (`bytes`, *optional*): a normal map: x to the right, y up, z towards the camera.
        size (`(int, int)`): width and height of them all.
        x, y (`float`): pixel of the scene in which their top-left corner lies.
        scale (`float`): scene pixels per layer pixel.
        skeleton (`Skeleton`): that was painted, in scene pixels.
        sole (`float`): row of the layer at which the lowest part of the person ends.
    """

    person: bytes
    feather: bytes
    plain: bytes | None
    depth: bytes | None
    normal: bytes | None
    size: tuple[int, int]
    x: float
    y: float
    scale: float
    skeleton: Skeleton
    sole: float

    @classmethod
    def of(
        cls,
        rgba: NDArray[np.uint8],
        x: float,
        y: float,
        scale: float,
        skeleton: Skeleton,
        frame: tuple[int, int],
        passes: Sequence[NDArray[Any]] = (),
    ) -> Painting:
        """Encode a person for a scene.

        Args:
            rgba (`(h, w, 4)` uint8): sRGB with straight alpha.
            x, y, scale, skeleton: as kept.
            frame (`(int, int)`): width and height of the scene.
            passes (*optional*): depth, normals and own colours as `messages.Inserted` brings them.

        Raises:
            BadImage: no pixel of the person is seen.
        """
        height, width = rgba.shape[:2]
        # Shadows are black, and no part of the person.
        rows = np.flatnonzero(((rgba[..., 3] > 127) & (rgba[..., :3] > 0).any(2)).any(1))
        if not len(rows):
            raise BadImage(
                "Nothing of the person is seen: it is outside the picture, or behind others",
                "Move the skeleton to where it can be seen",
                "skeleton",
            )
        beyond = x <= 0, y <= 0, x + width * scale >= frame[0], y + height * scale >= frame[1]
        feather = feather_map(rgba[..., 3], beyond)
        # A clear margin lets Blender smooth the outline when the layer is turned. And its compositor puts a picture
        # of odd size half a pixel off the grid of an even frame, and blurs it.
        margin = (1, 1 + (height - frame[1]) % 2), (1, 1 + (width - frame[0]) % 2)

        def padded(array: NDArray[Any]) -> NDArray[Any]:
            return np.pad(array, (*margin, (0, 0))[: array.ndim])

        plain = depth = normal = None
        if passes:
            metres, directions, colours = passes
            metres = _whole_depth(metres, directions, rgba[..., 3], rows)
            grey = np.clip(metres.astype(np.float32) / DEPTH_RANGE + 0.5, 0, 1)
            depth = png(padded(np.rint(grey * 65535).astype(np.uint16)))
            normal = png(padded(directions))
            plain = png(padded(np.concatenate([colours, rgba[..., 3:]], -1)))
        return cls(
            png(padded(rgba)),
            png(padded(feather)),
            plain,
            depth,
            normal,
            (width + sum(margin[1]), height + sum(margin[0])),
            x - scale,
            y - scale,
            scale,
            skeleton,
            float(rows[-1] + 2),
        )

    @property
    def whole(self) -> bool:
        """Whether the feet are in the picture."""
        return bool(self.skeleton.visible[[R_ANKLE, L_ANKLE]].any())
