# SPDX-License-Identifier: Apache-2.0
"""Reading pictures as a person sees them: upright, sRGB, 8 bits; every failure is a `BadImage` with the way out."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from shared.errors import BadImage, BadInput

MAX_MEGAPIXELS = 64.0
MIN_SIDE = 16
"""Pictures with a shorter side than this many pixels cannot show a person."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of R, G and B (Rec. 601)."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""What is decoded; MPO, which many phones write as .jpg, counts as JPEG."""
_SAVE_AS = "Save it as PNG, JPEG, WEBP, TIFF or BMP"

_UNREAD = {
    b"\x76\x2f\x31\x01": "an OpenEXR file",
    b"GIF8": "a GIF",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
}
_READ = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WEBP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
}
"""First bytes of files, to say what a file is that cannot be opened."""

_ODD_MODES = {"I": "32-bit integer pixels", "F": "floating-point pixels", "LAB": "Lab colours"}

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by the value of its EXIF orientation (Exif 2.3, 4.6.4 A)."""

_UNSEEN = 127
"""Grey put where alpha is 0: what lies there is often black, or a background that was cut away and must not be seen."""

# The size is checked here before decoding, against the caller's limit; Pillow's own fixed limit would print
# warnings below that limit and refuse pictures that the caller allows.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory.

    Args:
        rgb (`(H, W, 3)` uint8): sRGB, top row first, not multiplied by alpha; neutral grey where alpha is 0.
        alpha (`(H, W)` float32, 0..1, *optional*): None where the picture is opaque everywhere.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.float32] | None = None


def load_picture(path: str | os.PathLike[str], max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """The picture of a file as it is seen.

    EXIF orientation is applied, grey, palette, 16-bit and CMYK pictures become 8-bit RGB, and an embedded colour
    profile other than sRGB is converted.

    Args:
        path: a PNG, JPEG, WEBP, TIFF or BMP file; of several pages or frames the first.
        max_megapixels (`float`, *optional*, defaults to 64): larger pictures are refused before they are decoded.

    Raises:
        BadImage: missing, a folder, not readable, empty, not a picture, damaged, too large or too small.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise BadImage(f"{path}: there is no such file", "Check the path", str(path)) from None
    except IsADirectoryError:
        raise BadImage(f"{path}: is a folder", "Name a picture file in it", str(path)) from None
    except PermissionError:
        reason = (
            "is a folder" if Path(path).is_dir() else "may not be read"
        )  # Windows says so of folders too.
        raise BadImage(f"{path}: {reason}", "Check its permissions", str(path)) from None
    except (OSError, ValueError) as error:
        raise BadImage(
            f"{path}: cannot be read ({error})", "Check the path and the disk", str(path)
        ) from error
    return picture_from_bytes(data, str(path), max_megapixels)


def picture_from_bytes(data: bytes, subject: str, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """As `load_picture`, from a file's content.

    Args:
        data (`bytes`): the encoded picture.
        subject (`str`): its name, for the error's text.
        max_megapixels (`float`, *optional*, defaults to 64): larger pictures are refused before they are decoded.

    Raises:
        BadImage: empty, not a picture, damaged, too large or too small.
    """
    if not data:
        raise BadImage(f"{subject}: is empty (0 bytes)", "Export or copy the picture again", subject)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data, subject) from None
    except Exception as error:  # On damaged headers Pillow raises nearly anything.
        raise BadImage(
            f"{subject}: is damaged ({error})", "Export or copy the picture again", subject
        ) from error
    with image:
        _check_size(image.width, image.height, subject, max_megapixels)
        try:
            image.load()
        except Exception as error:  # The same of damaged bodies.
            reason = "is truncated" if "truncated" in str(error).lower() else f"is damaged ({error})"
            raise BadImage(f"{subject}: {reason}", "Export or copy the picture again", subject) from error
        try:
            orientation = image.getexif().get(_ORIENTATION)
        except Exception:  # noqa: BLE001  A damaged EXIF block says nothing; the pixels are still good.
            orientation = None
        return _to_picture(
            image, _UPRIGHT.get(orientation) if isinstance(orientation, int) else None, subject
        )


def picture_from_array(
    array: NDArray[np.uint8], subject: str, max_megapixels: float = MAX_MEGAPIXELS
) -> Picture:
    """A picture from decoded pixels, such as came over the wire.

    Args:
        array (`(H, W, 3)` or `(H, W, 4)` uint8): sRGB, straight alpha, top row first.
        subject (`str`): its name, for the error's text.
        max_megapixels (`float`, *optional*, defaults to 64): larger pictures are refused.

    Raises:
        BadImage: wrong type, shape or channel count, too large or too small.
    """
    if array.dtype != np.uint8:
        raise BadImage(f"{subject}: pixels are {array.dtype}, not uint8", "Send 8-bit pixels", subject)
    if array.ndim != 3:
        reason = f"has shape {array.shape}, not (height, width, channels)"
        raise BadImage(f"{subject}: {reason}", "Send RGB or RGBA", subject)
    if array.shape[2] not in (3, 4):
        raise BadImage(f"{subject}: has {array.shape[2]} channels, not 3 or 4", "Send RGB or RGBA", subject)
    _check_size(array.shape[1], array.shape[0], subject, max_megapixels)
    if array.shape[2] == 3:
        return Picture(np.ascontiguousarray(array))
    alpha = array[..., 3]
    if (alpha == 255).all():
        return Picture(np.ascontiguousarray(array[..., :3]))
    rgb = np.where(alpha[..., None] == 0, np.uint8(_UNSEEN), array[..., :3])
    return Picture(rgb, alpha.astype(np.float32) / np.float32(255))


def box_around(mask: NDArray[np.bool_] | NDArray[np.floating], margin: int) -> tuple[slice, slice]:
    """Rows and columns of what is not zero in a mask `(H, W)`, and `margin` pixels around; it must not be empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = (max(0, int(first[0]) - margin) for first in (rows, columns))
    return slice(top, int(rows[-1]) + 1 + margin), slice(left, int(columns[-1]) + 1 + margin)


def save_png(path: str | os.PathLike[str], array: NDArray[np.uint8] | NDArray[np.floating]) -> None:
    """Writes a PNG; the file appears whole or not at all.

    Args:
        path: the file; its folder must exist.
        array (`(H, W)`, `(H, W, 3)` or `(H, W, 4)`): uint8, or floating point in 0..1. Alpha is straight.

    Raises:
        BadInput: the file cannot be written.
    """
    pixels = np.asarray(array)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
    target = Path(path)
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", suffix=".png", delete=False) as file:
            temporary = file.name
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", compress_level=3)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written ({reason})"
        raise BadInput(message, "Name a file in a folder that exists", str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_size(width: int, height: int, subject: str, max_megapixels: float) -> None:
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise BadImage(
            f"{subject}: {width} x {height} is {megapixels:.1f} MP, over the limit of {max_megapixels:g} MP",
            "Scale it down or raise the limit",
            subject,
        )
    if min(width, height) < MIN_SIDE:
        raise BadImage(
            f"{subject}: {width} x {height} is too small to show a person",
            f"Give a picture of at least {MIN_SIDE} pixels a side",
            subject,
        )


def _unidentified(data: bytes, subject: str) -> BadImage:
    for magic, name in _READ.items():
        if data.startswith(magic):
            return BadImage(
                f"{subject}: is a {name} file that is damaged, or of a kind that cannot be read "
                "(a wrong channel count or a rare compression)",
                f"{_SAVE_AS} with 1, 3 or 4 channels",
                subject,
            )
    if data[4:8] == b"ftyp":
        return BadImage(f"{subject}: is a HEIC, AVIF or video file", _SAVE_AS, subject)
    for magic, name in _UNREAD.items():
        if data.startswith(magic):
            return BadImage(f"{subject}: is {name}, which is not read here", _SAVE_AS, subject)
    return BadImage(f"{subject}: is not a picture", _SAVE_AS, subject)


def _to_picture(image: Image.Image, upright: Image.Transpose | None, subject: str) -> Picture:
    """8-bit sRGB of a decoded image of any mode."""
    if image.mode in _ODD_MODES:
        fix = f"{_SAVE_AS} with 8 or 16 bits, grey or RGB"
        raise BadImage(f"{subject}: has {_ODD_MODES[image.mode]}", fix, subject)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey instead of scaling it.
        values = np.asarray(image).astype(np.uint32)
        image, profile = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)), None
    has_alpha = "A" in image.getbands() or image.mode in ("La", "RGBa") or "transparency" in image.info
    alpha = None
    if has_alpha:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("1", "P", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    if upright is not None:
        image = image.transpose(upright)
    return picture_from_array(np.array(image), subject, float("inf"))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB; as it is where its profile is sRGB already, is damaged or belongs to another mode."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted
