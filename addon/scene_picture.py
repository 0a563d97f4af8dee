# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture that people are inserted into: what the artist sees, as pixels; and pixels as Blender images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import compat, view_lut
from .camera_plane import active_camera
from .colour import image_colour_space
from .exif import orientation, oriented
from .painting import from_png, is_ours
from .picture_files import bmp_pixels, exr_pixels, exr_size
from .shared.errors import BadImage, BadInput

PICTURE_NAME = "Walk-On Picture"


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels on their way: got from Blender, but maybe still to be made what is seen, which any thread can do.

    Args:
        size (`(int, int)`): width and height.
        read (callable): gives `(H, W, 3)` uint8, sRGB.
    """

    size: tuple[int, int]
    read: Callable[[], NDArray[np.uint8]]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Picture:
        """Pixels that are there already."""
        return cls((pixels.shape[1], pixels.shape[0]), lambda: pixels)


def scene_picture(scene: bpy.types.Scene) -> Picture:
    """What the artist sees: the last render, the chosen image or clip at this frame, or what the Image Editor shows.

    Raises:
        BadInput: no camera, nothing chosen, no Image Editor.
        BadImage: nothing was rendered yet, it was rendered with other settings, or the image has no pixels.
    """
    active_camera(scene)
    work = scene.walkon
    if work.source == "RENDER":
        return _rendered(scene)
    if work.source == "CLIP":
        if work.clip is None:
            raise BadInput("No movie clip is chosen", "Choose one, or take the camera's render", "clip")
        return _clip(scene, work.clip)
    image = _edited() if work.source == "EDITOR" else work.image
    if image is None:
        raise BadInput("No picture is chosen", "Choose an image, or take the camera's render", "image")
    if image.type == "RENDER_RESULT":
        return _rendered(scene)
    frame = max(1, scene.frame_current)
    if image.source == "MOVIE":
        _read_frame(image, min(frame, image.frame_duration))
    elif image.source == "SEQUENCE":
        # A plate's files are numbered as the shot's frames are, or begin with the scene's first frame.
        first = _first_number(image.filepath)
        _read_frame(image, frame if frame >= first else first + frame - 1)
    if 0 in image.size:
        at = f" at frame {frame}" if image.source in ("MOVIE", "SEQUENCE") else ""
        raise BadImage(
            f"Image '{image.name}' has no pixels{at}", "Reload it, or choose another image or frame", "image"
        )
    return _as_seen(image, scene)


def _edited() -> bpy.types.Image:
    """What the Image Editor shows; of several editors the largest."""
    areas = [area for window in bpy.context.window_manager.windows for area in window.screen.areas]
    editors = [area for area in areas if area.type == "IMAGE_EDITOR" and area.spaces.active.image is not None]
    if not editors:
        raise BadInput("No Image Editor shows an image", "Open an image in an Image Editor", "image")
    return max(editors, key=lambda area: area.width * area.height).spaces.active.image


def _first_number(path: str) -> int:
    """The number at the end of a sequence's file name, as Blender counts; 1 where there is none."""
    digits = re.search(r"(\d+)\D*$", Path(path).name)
    return int(digits.group(1)) if digits else 1


def _read_frame(image: bpy.types.Image, number: int) -> None:
    """Let a sequence's pixels be those of the file with that number, a movie's those of that frame (from 1)."""
    # Image.pixels is whatever was read last, and a texture is what can be told to read a frame.
    texture = bpy.data.textures.new("Walk-On Reader", "IMAGE")
    try:
        texture.image = image
        texture.image_user.frame_duration = number
        texture.image_user.frame_current = number
        texture.evaluate((0.0, 0.0, 0.0))
    finally:
        bpy.data.textures.remove(texture)


def _clip(scene: bpy.types.Scene, clip: bpy.types.MovieClip) -> Picture:
    """A clip has no pixels in Python; the file that it shows has."""
    frame = scene.frame_current - clip.frame_start + 1 + clip.frame_offset
    try:
        image = bpy.data.images.load(bpy.path.abspath(clip.filepath))
    except RuntimeError as error:
        raise BadImage(
            f"The file of clip '{clip.name}' cannot be read", "Find it with File > External Data", "clip"
        ) from error
    try:
        image.source = clip.source
        image.colorspace_settings.name = clip.colorspace_settings.name
        number = min(max(1, frame), clip.frame_duration)
        _read_frame(image, number if clip.source == "MOVIE" else _first_number(clip.filepath) + number - 1)
        if 0 in image.size:
            raise BadImage(
                f"Clip '{clip.name}' has no picture at frame {scene.frame_current}",
                "Go to a frame of the clip",
                "clip",
            )
        return _as_seen(image, scene)
    finally:
        bpy.data.images.remove(image)


def _as_seen(image: bpy.types.Image, scene: bpy.types.Scene) -> Picture:
    # A float image is scene-linear: it goes through the view transform as the render would. The pixels of a
    # byte image are display values already.
    return _shown(image, scene) if image.is_float else Picture.of(pixels(image)[..., :3])


def _rendered(scene: bpy.types.Scene) -> Picture:
    result = bpy.data.images.get("Render Result")
    fix = "Render the image first (F12)"
    if result is None:
        raise BadImage("Nothing has been rendered yet", fix, "render")
    try:
        picture = _shown(result, scene)
    except RuntimeError as error:
        raise BadImage("Nothing has been rendered yet", fix, "render") from error
    width, height = picture.size
    frame = scene.render.resolution_x, scene.render.resolution_y
    # A pixel of the longer side may be lost to rounding.
    if abs(width * frame[1] - height * frame[0]) > 2 * max(frame):
        raise BadImage(
            f"The last render has {width} x {height} pixels, other proportions than the camera's frame"
            f" ({frame[0]} x {frame[1]})",
            "Render again (F12); with Render Region, switch Crop to Render Region off",
            "render",
        )
    return picture


def _shown(image: bpy.types.Image, scene: bpy.types.Scene) -> Picture:
    """What the view transform shows of a picture. (The pixels of a Render Result can only be had through a file.)"""
    if image.type == "RENDER_RESULT" and compat.has_strips(scene):
        return Picture.of(bmp_pixels(_saved(image, scene, "BMP")))  # strips may be display values already
    linear, table = _saved(image, scene, "OPEN_EXR"), _view_table(scene)
    exposure = scene.view_settings.exposure
    return Picture(exr_size(linear), lambda: view_lut.applied(exr_pixels(linear), table, exposure))


_table: tuple[tuple[object, ...], NDArray[np.uint8]] = (), np.empty(0, np.uint8)


def _view_table(scene: bpy.types.Scene) -> NDArray[np.uint8]:
    """The scene's view transform, look, exposure, gamma and curves, as view_lut takes them."""
    global _table
    view = scene.view_settings
    kinds = ("ENUM", "FLOAT", "BOOLEAN")
    key = (
        scene.display_settings.display_device,
        *(getattr(view, known.identifier) for known in view.bl_rna.properties if known.type in kinds),
    )
    if _table[0] != key or view.use_curve_mapping:  # nothing tells that a curve has changed
        nodes = view_lut.nodes(view.exposure)
        colours = bpy.data.images.new("Walk-On Colors", nodes.shape[1], nodes.shape[0], float_buffer=True)
        try:
            colours.pixels.foreach_set(nodes[::-1].ravel())
            _table = key, bmp_pixels(_saved(colours, scene, "BMP"))
        finally:
            bpy.data.images.remove(colours)
    return _table[1]


def _saved(image: bpy.types.Image, scene: bpy.types.Scene, file_format: str) -> bytes:
    """The file of that format that Blender saves of an image: a BMP as it is seen, an OpenEXR as it is.

    Raises:
        BadInput: the folder for temporary files cannot be written.
        RuntimeError: the image has no pixels.
    """
    settings = scene.render.image_settings
    saved, dither = compat.still_format(settings), scene.render.dither_intensity
    try:
        with tempfile.TemporaryDirectory(prefix="walkon-") as folder:
            path = Path(folder) / "picture"
            try:
                compat.set_still_format(settings, file_format)
                settings.color_mode, settings.color_management = "RGB", "FOLLOW_SCENE"
                if file_format == "OPEN_EXR":
                    settings.color_depth, settings.exr_codec = "16", "NONE"
                scene.render.dither_intensity = 0.0  # noise for the eye; a third of the time
                image.save_render(str(path), scene=scene)
            finally:
                compat.restore_format(settings, saved)
                scene.render.dither_intensity = dither
            if not path.exists():
                raise RuntimeError("save_render wrote no file")
            return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"The picture cannot be written to the folder for temporary files: {error.strerror}",
            "Free space on that disk, or name another folder in the environment variable TMPDIR",
            "folder",
        ) from error


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
    if path.startswith("//") and not bpy.data.filepath:
        raise BadImage(
            f"Actor photo {path} is beside a file that was never saved",
            "Save the file, or choose the photo again",
            "actor",
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


def colour_space(scene: bpy.types.Scene) -> tuple[str, bool]:
    """The colour space in which a picture that is shown in the scene keeps its colours, and whether exactly."""
    return image_colour_space(scene.view_settings.view_transform, compat.colour_spaces())


def reader(image: bpy.types.Image | None) -> Callable[[], NDArray[np.uint8]]:
    """What gives a kept picture's pixels `(H, W, 3)`, in any thread.

    Bytes that we packed ourselves are read when it is called; what the artist changed, Blender has to read, now.

    Raises:
        BadInput: the picture was taken away.
    """
    if image is None:
        raise BadInput("The picture that was sent is gone", "Press Find People", "people")
    packed = image.packed_file.data if image.packed_file is not None and not image.is_dirty else b""
    if is_ours(packed):
        return lambda: from_png(packed)[..., :3]
    given = pixels(image)[..., :3]
    return lambda: given


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


def packed_image(
    name: str, file: bytes, colour_space: str, over: bpy.types.Image | None = None
) -> bpy.types.Image:
    """An image with that PNG file packed, straight alpha. Blender reads it when it is first shown or rendered.

    Args:
        over (`Image`, *optional*): an older one that it replaces wherever it is used.
    """
    image = bpy.data.images.new(name, 1, 1, alpha=True)
    image.pack(data=file, data_len=len(file))
    image.source = "FILE"
    image.colorspace_settings.name = colour_space
    image.alpha_mode = "STRAIGHT"
    if over is not None:
        _replace(over, image, name)
    return image


def _replace(old: bpy.types.Image, new: bpy.types.Image, name: str) -> None:
    old.user_remap(new)
    bpy.data.images.remove(old)
    new.name = name
