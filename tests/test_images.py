# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind are read as they are seen, and every failure says what to do."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from models.images import load_picture, picture_from_array, picture_from_bytes, save_png
from shared.errors import BadImage, BadInput


def gradient(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 2 % 256], 2).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_give_the_very_pixels(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"ein Bild ä.{kind.lower()}"
    file.write_bytes(encoded(Image.fromarray(gradient()), kind))
    picture = load_picture(file)
    np.testing.assert_array_equal(picture.rgb, gradient())
    assert picture.alpha is None
    assert picture.rgb.flags.c_contiguous


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind: str) -> None:
    smooth = gradient()
    smooth[..., 2] = 90
    picture = picture_from_bytes(encoded(Image.fromarray(smooth), kind, quality=98), "a")
    assert np.abs(picture.rgb.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # What the camera's sensor saw, so that the picture seen is the gradient (Exif 2.3, 4.6.4 A).
    seen = gradient()
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: np.rot90(seen, 1),
        7: seen[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(picture_from_bytes(data, "a").rgb, seen)


def test_damaged_exif_leaves_the_picture_usable() -> None:
    data = encoded(Image.fromarray(gradient()), exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    np.testing.assert_array_equal(picture_from_bytes(data, "a").rgb, gradient())


def test_grey_and_two_tone_and_palette() -> None:
    grey = gradient()[..., 0]
    np.testing.assert_array_equal(
        picture_from_bytes(encoded(Image.fromarray(grey)), "a").rgb, np.stack([grey] * 3, 2)
    )
    two = Image.fromarray(grey).convert("1")
    assert set(np.unique(picture_from_bytes(encoded(two), "a").rgb)) == {0, 255}
    palette = Image.fromarray(gradient()).quantize(64)
    np.testing.assert_array_equal(
        picture_from_bytes(encoded(palette), "a").rgb, np.array(palette.convert("RGB"))
    )


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    rgb = picture_from_bytes(encoded(Image.fromarray(values)), "a").rgb
    np.testing.assert_allclose(rgb[..., 0], values / 257, atol=0.51)


def test_sixteen_bit_colour() -> None:
    # Pillow cannot write it, so the file is put together here (PNG specification, colour type 2).
    colours = np.zeros((20, 30, 3), np.uint16)
    colours[..., 0], colours[..., 1], colours[..., 2] = 65535, 32896, 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert picture_from_bytes(data, "a").rgb[0, 0].tolist() == [255, 128, 1]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_kept_and_the_unseen_is_grey(mode: str) -> None:
    rgba = np.dstack([gradient(), np.full((48, 64), 255, np.uint8)])
    rgba[:24, :, 3] = 0
    rgba[24:30, :, 3] = 128
    rgba[:24, :, :3] = 0
    image = Image.fromarray(rgba)
    if mode == "LA":
        image = image.convert("LA")
    if mode == "P":
        image = image.quantize(128, method=Image.Quantize.FASTOCTREE)
    picture = picture_from_bytes(encoded(image), "a")
    assert picture.alpha is not None
    assert picture.alpha.dtype == np.float32
    assert (picture.alpha[:24] == 0).all()
    assert (picture.alpha[32:] == 1).all()
    assert 0.4 < picture.alpha[26].mean() < 0.6
    assert (picture.rgb[:24] == 127).all()
    if mode == "RGBA":
        np.testing.assert_array_equal(picture.rgb[24:], gradient()[24:])


def test_full_alpha_is_no_alpha() -> None:
    opaque = np.dstack([gradient(), np.full((48, 64), 255, np.uint8)])
    assert picture_from_bytes(encoded(Image.fromarray(opaque)), "a").alpha is None


def test_cmyk() -> None:
    image = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    red = picture_from_bytes(encoded(image, "JPEG", quality=95), "a").rgb[20, 20].astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 40


def test_embedded_profile_becomes_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(gradient())
    np.testing.assert_array_equal(picture_from_bytes(encoded(image, icc_profile=srgb), "a").rgb, gradient())
    np.testing.assert_array_equal(
        picture_from_bytes(encoded(image, icc_profile=b"no profile"), "a").rgb, gradient()
    )
    linear = linear_profile(srgb)
    bright = picture_from_bytes(
        encoded(Image.new("RGB", (32, 32), (55, 55, 55)), icc_profile=linear), "a"
    ).rgb
    # 55/255 linear is 0.503 in sRGB.
    assert abs(int(bright[16, 16, 1]) - 128) <= 2


def linear_profile(srgb: bytes) -> bytes:
    """The sRGB profile with straight lines for its curves and another name."""
    count = struct.unpack(">I", srgb[128:132])[0]
    profile = bytearray(srgb)
    for i in range(count):
        name, offset, size = struct.unpack(">4sII", srgb[132 + 12 * i : 144 + 12 * i])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + size] = (b"curv" + bytes(8)).ljust(size, b"\0")
        if name == b"desc":
            body = bytes(profile[offset : offset + size])
            plain = body.replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be")).replace(
                b"sRGB", b"line"
            )
            profile[offset : offset + size] = plain
    return bytes(profile)


def test_64_pixels_to_8k(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    save_png(small, np.zeros((64, 64, 3), np.uint8))
    assert load_picture(small).rgb.shape == (64, 64, 3)
    large = tmp_path / "8k.jpg"
    Image.new("RGB", (7680, 4320), (10, 20, 30)).save(large)
    assert load_picture(large).rgb.shape == (4320, 7680, 3)


def fails(function: object, *arguments: object) -> BadImage:
    with pytest.raises(BadImage) as caught:
        function(*arguments)  # type: ignore[operator]
    assert caught.value.fix
    return caught.value


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    missing = tmp_path / "nobody.png"
    assert fails(load_picture, missing).message == f"{missing}: there is no such file"
    assert fails(load_picture, tmp_path).message.startswith(f"{tmp_path}: is a folder")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    error = fails(load_picture, empty)
    assert error.message == f"{empty}: is empty (0 bytes)"
    assert error.subject == str(empty)
    assert "null" in fails(load_picture, "a\0b.png").message


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    save_png(file, gradient())
    file.chmod(0)
    assert fails(load_picture, file).message == f"{file}: may not be read"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Dear Sir or Madam, " * 20, "is not a picture"),
        (b"\x76\x2f\x31\x01" + bytes(400), "is an OpenEXR file"),
        (b"\0\0\0\x18ftypheic" + bytes(400), "is a HEIC, AVIF or video file"),
        (b"GIF89a" + bytes(400), "is a GIF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(400), "is damaged"),
    ],
)
def test_not_a_picture(data: bytes, reason: str) -> None:
    error = fails(picture_from_bytes, data, "letter.jpg")
    assert error.message.startswith("letter.jpg: ")
    assert reason in error.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    message = fails(picture_from_bytes, data[: int(len(data) * share)], "half").message
    assert message.startswith("half: is truncated") or "damaged" in message


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        data = np.frombuffer(encoded(Image.fromarray(gradient()), kind), np.uint8)
        for _ in range(60):
            broken = data.copy()
            places = rng.integers(0, min(len(data), 400), 5)
            broken[places] = rng.integers(0, 256, 5)
            with contextlib.suppress(BadImage):
                assert picture_from_bytes(broken.tobytes(), "a").rgb.shape[2] == 3


def test_too_large_is_refused_before_decoding() -> None:
    # The header of a PNG that claims 60000 x 60000; there are no pixels behind it.
    body = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    message = fails(picture_from_bytes, data, "bomb.png").message
    assert message == "bomb.png: 60000 x 60000 is 3600.0 MP, over the limit of 64 MP"


def test_the_limit_is_the_callers() -> None:
    data = encoded(Image.new("RGB", (400, 300)))
    assert picture_from_bytes(data, "a", max_megapixels=0.12).rgb.shape == (300, 400, 3)
    assert "over the limit of 0.1 MP" in fails(picture_from_bytes, data, "a", 0.1).message


def test_too_small() -> None:
    message = fails(picture_from_bytes, encoded(Image.new("RGB", (400, 15))), "a").message
    assert message == "a: 400 x 15 is too small to show a person"


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.zeros((32, 32), np.float32)), "TIFF")
    assert "floating-point pixels" in fails(picture_from_bytes, data, "a").message


def test_arrays() -> None:
    rgba = np.dstack([gradient(), gradient()[..., 0]])
    picture = picture_from_array(rgba, "scene")
    assert picture.alpha is not None
    np.testing.assert_allclose(picture.alpha * 255, rgba[..., 3], atol=1e-3)
    assert picture_from_array(gradient(), "scene").alpha is None
    assert "has 5 channels" in fails(picture_from_array, np.zeros((32, 32, 5), np.uint8), "scene").message
    assert "has shape (32, 32)" in fails(picture_from_array, np.zeros((32, 32), np.uint8), "scene").message
    assert (
        "float32, not uint8" in fails(picture_from_array, np.zeros((32, 32, 3), np.float32), "scene").message
    )
    assert (
        "over the limit" in fails(picture_from_array, np.zeros((32, 32, 3), np.uint8), "scene", 0.001).message
    )
    assert "too small" in fails(picture_from_array, np.zeros((0, 32, 3), np.uint8), "scene").message


def test_save_png(tmp_path: Path) -> None:
    rgba = np.dstack([gradient(), gradient()[..., 0]])
    for array in (gradient(), rgba, gradient()[..., 0]):
        save_png(tmp_path / "a.png", array)
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), array)
    save_png(tmp_path / "b.png", np.linspace(-0.1, 1.1, 32 * 32).reshape(32, 32))
    stored = np.array(Image.open(tmp_path / "b.png"))
    assert stored.min() == 0
    assert stored.max() == 255
    with pytest.raises(BadInput, match="cannot be written"):
        save_png(tmp_path / "no" / "a.png", gradient())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
