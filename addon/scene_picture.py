# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture that people are inserted into: what the artist sees, as pixels; and pixels as Blender images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import compat
from .exif import orientation, oriented
from .shared.errors import BadImage, BadInput

PICTURE_NAME = "Walk-On Picture"


def scene_picture(scene: bpy.types.Scene) -> NDArray[np.uint8]:
    """`(H, W, 3)` sRGB: the last render, or the chosen image.

    Raises:
        BadInput: no camera, no image chosen.
        BadImage: nothing was rendered yet, or the image has no pixels.
    """
    if scene.camera is None:
        raise BadInput(
            f"Scene '{scene.name}' has no active camera",
            "Add a camera that sees what the picture shows",
            "camera",
        )
    if scene.walkon.source == "RENDER":
        return _rendered(scene)
    image = scene.walkon.image
    if image is None:
        raise BadInput("No picture is chosen", "Choose an image, or take the camera's render", "image")
    if image.type == "RENDER_RESULT":
        return _rendered(scene)
    if not image.has_data and image.size[0] == 0:
        raise BadImage(f"Image '{image.name}' has no pixels", "Reload it, or choose another image", "image")
    # A float image is scene-linear: it goes through the view transform as the render would. The pixels of a
    # byte image are display values already.
    return _save_and_read(image, scene) if image.is_float else pixels(image)[..., :3]


def _rendered(scene: bpy.types.Scene) -> NDArray[np.uint8]:
    result = bpy.data.images.get("Render Result")
    fix = "Render the image first (F12)"
    if result is None:
        raise BadImage("Nothing has been rendered yet", fix, "render")
    try:
        return _save_and_read(result, scene)
    except RuntimeError as error:
        raise BadImage("Nothing has been rendered yet", fix, "render") from error


def _save_and_read(image: bpy.types.Image, scene: bpy.types.Scene) -> NDArray[np.uint8]:
    # The pixels of a Render Result can only be had through a file (Image.pixels is empty for it).
    settings = scene.render.image_settings
    saved = compat.still_format(settings)
    with tempfile.TemporaryDirectory(prefix="walkon-") as folder:
        path = Path(folder) / "picture.png"
        try:
            compat.set_still_format(settings, "PNG")
            settings.color_mode, settings.color_depth, settings.compression = "RGB", "8", 0
            settings.color_management = "FOLLOW_SCENE"
            image.save_render(str(path), scene=scene)
        finally:
            compat.restore_format(settings, saved)
        if not path.exists():
            raise RuntimeError("save_render wrote no file")
        loaded = bpy.data.images.load(str(path))
        try:
            return pixels(loaded)[..., :3]
        finally:
            bpy.data.images.remove(loaded)


def actor_picture(path: str) -> NDArray[np.uint8]:
    """`(H, W, 3 or 4)` of the actor photo as it is meant to be seen.

    Raises:
        BadInput: none is chosen.
        BadImage: no such file, or no picture.
    """
    fix = "Choose another photo (JPEG, PNG, TIFF or WebP)"
    if not path:
        raise BadInput(
            "No actor photo is chosen", "Choose a photo of the person to put into the picture", "actor"
        )
    file = Path(bpy.path.abspath(path))
    if not file.is_file():
        raise BadImage(f"Actor photo {file} does not exist", fix, "actor")
    try:
        image = bpy.data.images.load(str(file))
    except RuntimeError as error:
        raise BadImage(f"Actor photo {file.name} cannot be read", fix, "actor") from error
    try:
        if 0 in image.size or not image.channels:
            raise BadImage(f"Actor photo {file.name} is no picture, or is damaged", fix, "actor")
        return oriented(pixels(image), orientation(file.read_bytes()))
    finally:
        bpy.data.images.remove(image)


def pixels(image: bpy.types.Image) -> NDArray[np.uint8]:
    """`(H, W, 3 or 4)`, top row first: a byte image's values as stored, a float image's encoded as sRGB."""
    width, height = image.size
    values = np.empty(width * height * image.channels, dtype=np.float32)
    image.pixels.foreach_get(values)
    if image.is_float:  # 16 bits and more: Blender holds it scene-linear, multiplied with its alpha
        values = _encoded(values.reshape(height, width, image.channels)).ravel()
    array = (values * 255.0 + 0.5).astype(np.uint8).reshape(height, width, image.channels)[::-1]
    if image.channels == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def _encoded(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light `(H, W, channels)` to sRGB (IEC 61966-2-1), alpha divided out and kept."""
    alpha = linear[..., 3:]
    colour = np.clip(linear[..., :3] / (np.maximum(alpha, 1e-6) if alpha.size else 1.0), 0.0, 1.0)
    encoded = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
    return np.concatenate([encoded, np.clip(alpha, 0.0, 1.0)], axis=2)


def make_image(
    name: str, array: NDArray[np.uint8], colour_space: str = "sRGB", over: bpy.types.Image | None = None
) -> bpy.types.Image:
    """A packed image with those pixels, `(H, W, 3)` or `(H, W, 4)` with straight alpha.

    Args:
        over (`Image`, *optional*): an older one that it replaces wherever it is used.
    """
    height, width = array.shape[:2]
    image = bpy.data.images.new(name, width, height, alpha=True)
    if over is not None:
        over.user_remap(image)
        bpy.data.images.remove(over)
        image.name = name
    rgba = np.ones((height, width, 4), dtype=np.float32)
    rgba[..., : array.shape[2]] = array[::-1].astype(np.float32) / 255.0
    image.colorspace_settings.name = colour_space
    image.alpha_mode = "STRAIGHT"
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    # Packing must follow the pixels: on a new image it silently does nothing.
    image.pack()
    return image
