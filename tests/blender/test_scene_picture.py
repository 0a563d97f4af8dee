# SPDX-License-Identifier: Apache-2.0
"""The picture that is sent: the render, an image, a frame of a sequence, a movie or a clip; and what goes wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import fails, part, read_png, render


def sent(scene: bpy.types.Scene) -> np.ndarray:
    picture = part("scene_picture").scene_picture(scene)
    pixels = picture.read()
    assert picture.size == pixels.shape[1::-1]
    return pixels


def image(name: str, array: np.ndarray) -> bpy.types.Image:
    return part("scene_picture").packed_image(name, part("painting").png(array), "sRGB")


def numbered(folder: Path, count: int = 4, size: tuple[int, int] = (48, 64), first: int = 1) -> Path:
    """`count` frames, each as bright as 40 times its place in the row; the first one's path."""
    for frame in range(1, count + 1):
        picture = np.full((*size, 3), 40 * frame, np.uint8)
        (folder / f"plate_{frame + first - 1:04d}.png").write_bytes(part("painting").png(picture))
    return folder / f"plate_{first:04d}.png"


# ---- what the artist sees is what is sent ----------------------------------------------------------------


@pytest.mark.parametrize("transform", ["Standard", "AgX", "Filmic"])
def test_the_render_as_it_is_seen_and_settings_as_they_were(
    scene: bpy.types.Scene, tmp_path: Path, transform: str
) -> None:
    scene.view_settings.view_transform = transform
    scene.view_settings.exposure = 0.7
    seen = render(scene, tmp_path)
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"
    settings.exr_codec = "PIZ"
    scene.render.dither_intensity = 1.5
    assert np.abs(sent(scene).astype(int) - seen).max() <= 1
    assert scene.render.dither_intensity == 1.5
    kept = settings.file_format, settings.color_mode, settings.color_depth, settings.exr_codec
    assert kept == ("OPEN_EXR", "RGBA", "32", "PIZ")


def test_settings_are_restored_when_it_fails(scene: bpy.types.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    bpy.ops.render.render()
    settings = scene.render.image_settings
    settings.file_format, settings.quality = "JPEG", 37
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    fails(
        bpy.ops.walkon.find_people,
        "The picture cannot be written to the folder for temporary files",
        "name another folder in the environment variable TMPDIR",
    )
    assert (settings.file_format, settings.quality) == ("JPEG", 37)


def test_byte_images_are_sent_as_they_are_float_images_as_they_are_seen(scene: bpy.types.Scene) -> None:
    scene.view_settings.view_transform = "AgX"
    scene.walkon.source = "IMAGE"
    array = np.random.default_rng(0).integers(0, 256, (31, 45, 3)).astype(np.uint8)
    scene.walkon.image = image("plate", array)
    assert np.array_equal(sent(scene), array)
    light = bpy.data.images.new("light", 8, 8, float_buffer=True)
    light.pixels.foreach_set(np.full(8 * 8 * 4, 4.0, np.float32))
    scene.walkon.image = light
    assert 200 < sent(scene)[0, 0, 0] < 250, "AgX has four times white not yet white"


def test_photos_of_16_bits_are_read_as_those_of_8(scene: bpy.types.Scene, tmp_path: Path) -> None:
    values = np.linspace(0, 255, 16 * 12 * 3).astype(np.uint8).reshape(12, 16, 3)
    photo = image("photo", values)
    settings = scene.render.image_settings
    for depth in ("8", "16"):
        settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", depth
        photo.save_render(str(tmp_path / f"{depth}.png"), scene=scene)
        read = part("scene_picture").actor_picture(str(tmp_path / f"{depth}.png"))
        assert np.abs(read[..., :3].astype(int) - values).max() <= 1, depth


@pytest.mark.parametrize("first", [1, 1001])
def test_a_sequence_is_sent_at_this_frame(scene: bpy.types.Scene, tmp_path: Path, first: int) -> None:
    plate = bpy.data.images.load(str(numbered(tmp_path, first=first)))
    plate.source = "SEQUENCE"
    scene.walkon.source, scene.walkon.image = "IMAGE", plate
    for frame, bright in ((3, 120), (1, 40), (4, 160)):
        scene.frame_set(frame)
        assert (sent(scene) == bright).all(), frame
    scene.frame_set(first + 2)
    assert (sent(scene) == 120).all(), "files numbered as the shot's frames"
    scene.frame_set(first + 9)
    fails(bpy.ops.walkon.find_people, f"has no pixels at frame {first + 9}", "choose another image or frame")
    assert not bpy.data.textures


def test_a_clip_is_sent_at_this_frame(scene: bpy.types.Scene, tmp_path: Path) -> None:
    clip = bpy.data.movieclips.load(str(numbered(tmp_path, first=57)))
    clip.frame_start = 101
    scene.walkon.source, scene.walkon.clip = "CLIP", clip
    images = len(bpy.data.images)
    for frame, bright in ((101, 40), (103, 120), (104, 160)):
        scene.frame_set(frame)
        assert (sent(scene) == bright).all(), frame
    assert len(bpy.data.images) == images
    scene.walkon.clip = None
    fails(bpy.ops.walkon.find_people, "No movie clip is chosen", "Choose one")


@pytest.mark.skipif(not bpy.app.ffmpeg.supported, reason="this Blender was built without movies")
def test_a_movie_is_sent_at_this_frame(scene: bpy.types.Scene, tmp_path: Path) -> None:
    first = numbered(tmp_path, size=(240, 320))
    settings, sequences = scene.render.image_settings, scene.sequence_editor_create()
    strips = sequences.strips if hasattr(sequences, "strips") else sequences.sequences
    strip = strips.new_image(name="plate", filepath=str(first), channel=1, frame_start=1)
    for frame in (2, 3, 4):
        strip.elements.append(f"plate_{frame:04d}.png")
    strip.frame_final_duration = 4
    if bpy.app.version >= (5, 0, 0):
        settings.media_type = "VIDEO"
    settings.file_format = "FFMPEG"
    scene.render.ffmpeg.format, scene.render.ffmpeg.codec = "MPEG4", "H264"
    scene.render.ffmpeg.constant_rate_factor = "PERC_LOSSLESS"
    scene.frame_start, scene.frame_end = 1, 4
    scene.render.filepath = str(tmp_path / "movie.mp4")
    bpy.ops.render.render(animation=True)
    for movie in tmp_path.glob("movie*.mp4"):
        scene.walkon.source, scene.walkon.image = "IMAGE", bpy.data.images.load(str(movie))
    for frame, bright in ((3, 120), (1, 40), (4, 160)):
        scene.frame_set(frame)
        middle = sent(scene)[120, 160].astype(int)
        assert np.abs(middle - bright).max() < 8, frame


# ---- what goes wrong -------------------------------------------------------------------------------------


def test_no_image_editor_is_open(scene: bpy.types.Scene) -> None:
    scene.walkon.source = "EDITOR"
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            assert area.type != "IMAGE_EDITOR" or area.spaces.active.image is None
    fails(bpy.ops.walkon.find_people, "No Image Editor shows an image", "Open an image in an Image Editor")


def test_the_image_editors_image_is_sent(scene: bpy.types.Scene) -> None:
    array = np.full((20, 30, 3), 77, np.uint8)
    area = next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == "VIEW_3D")
    area.type = "IMAGE_EDITOR"
    try:
        area.spaces.active.image = image("shown", array)
        scene.walkon.source = "EDITOR"
        assert np.array_equal(sent(scene), array)
    finally:
        area.type = "VIEW_3D"


def test_a_render_of_another_shape_than_the_frame(scene: bpy.types.Scene) -> None:
    render_settings = scene.render
    render_settings.use_border = render_settings.use_crop_to_border = True
    render_settings.border_max_x = 0.5
    bpy.ops.render.render()
    fails(
        bpy.ops.walkon.find_people,
        "The last render has 160 x 240 pixels, other proportions than the camera's frame (320 x 240)",
        "switch Crop to Render Region off",
        "render.render",
    )
    render_settings.use_border = False
    render_settings.resolution_percentage = 1
    bpy.ops.render.render()
    assert sent(scene).shape == (2, 3, 3), "tiny, and still a picture"


def test_no_camera_and_nothing_rendered(scene: bpy.types.Scene) -> None:
    if "Render Result" in bpy.data.images:
        bpy.data.images.remove(bpy.data.images["Render Result"])
    fails(bpy.ops.walkon.find_people, "Nothing has been rendered yet", "(F12)", "render.render")
    scene.camera = None
    fails(bpy.ops.walkon.find_people, "has no active camera", "Add a camera", "object.camera_add")


def test_a_photo_beside_a_file_that_was_never_saved(scene: bpy.types.Scene) -> None:
    with pytest.raises(part("shared.errors").BadImage, match="beside a file that was never saved") as raised:
        part("scene_picture").actor_picture("//actor.jpg")
    assert "Save the file" in raised.value.fix


def test_pictures_of_two_scenes_and_of_layers_stay_their_own(scene: bpy.types.Scene) -> None:
    layers, png = part("layers"), part("painting").png
    pixels = part("scene_picture").pixels
    layers.adopt_picture(scene, png(np.full((4, 4, 3), 10, np.uint8)))
    first = scene.walkon.picture
    other = bpy.data.scenes.new("Other")
    layers.adopt_picture(other, png(np.full((4, 4, 3), 20, np.uint8)))
    assert (first.name, other.walkon.picture.name) == ("Walk-On Picture", "Walk-On Picture.001")
    layers.adopt_picture(scene, png(np.full((8, 6, 3), 30, np.uint8)))
    assert scene.walkon.picture.name == "Walk-On Picture"
    assert (pixels(scene.walkon.picture)[..., 0] == 30).all()
    assert (pixels(other.walkon.picture)[..., 0] == 20).all()
    assert len(bpy.data.images) == 2


@pytest.mark.parametrize(
    ("transform", "mean", "most"),
    [("Standard", 0.5, 9), ("AgX", 0.3, 9), ("Filmic", 0.3, 2), ("Khronos PBR Neutral", 0.5, 5)],
)
def test_a_thread_sees_light_as_blender_does(
    scene: bpy.types.Scene, transform: str, mean: float, most: int
) -> None:
    """Any colors from a thousandth of white to sixteen times white, against what Blender itself saves."""
    parts, scene.walkon.source, view = part("scene_picture"), "IMAGE", scene.view_settings
    rng = np.random.default_rng(0)
    values = np.exp2(rng.uniform(-9, 3, (90, 123, 1)) + rng.normal(0, 0.6, (90, 123, 3)))
    values[:5], values[5:10] = 0.0, np.linspace(0, 1.2, 123)[:, None]
    light = bpy.data.images.new("light", 123, 90, float_buffer=True)
    light.pixels.foreach_set(np.dstack([values, np.ones((90, 123))]).astype(np.float32).ravel())
    scene.walkon.image, view.view_transform = light, transform
    pictures = []
    for exposure, curves in ((0.0, False), (1.3, False), (1.3, True)):
        view.exposure, view.use_curve_mapping = exposure, curves
        if curves:
            view.curve_mapping.curves[3].points.new(0.5, 0.3)
            view.curve_mapping.update()
        seen = parts.bmp_pixels(parts._saved(light, scene, "BMP"))
        pictures.append(sent(scene))
        error = np.abs(pictures[-1].astype(int) - seen)
        assert error.mean() < mean * (2 if curves else 1)
        assert error.max() <= most * (2 if curves else 1)
    assert np.abs(pictures[1].astype(int) - pictures[0]).mean() > 10, "another exposure is another table"
    assert np.abs(pictures[2].astype(int) - pictures[1]).mean() > 3, "curves count"
    assert not [one for one in bpy.data.images if one.name.startswith("Walk-On")]


def test_a_render_of_strips_is_sent_as_it_is(scene: bpy.types.Scene, tmp_path: Path) -> None:
    editor = scene.sequence_editor or scene.sequence_editor_create()
    strips = editor.strips if bpy.app.version >= (4, 4, 0) else editor.sequences
    scene.view_settings.view_transform = "AgX"
    strips.new_image("plate", str(numbered(tmp_path)), 1, 1)
    seen = render(scene, tmp_path)
    assert np.array_equal(sent(scene), seen)


def test_bmp_rows_are_padded_and_upside_down(tmp_path: Path, scene: bpy.types.Scene) -> None:
    array = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode = "BMP", "RGB"
    image("odd", array).save_render(str(tmp_path / "odd.bmp"), scene=scene)
    data = (tmp_path / "odd.bmp").read_bytes()
    assert np.array_equal(part("scene_picture").bmp_pixels(data), array)
    (tmp_path / "odd.png").write_bytes(part("painting").png(array))
    assert np.array_equal(read_png(tmp_path / "odd.png"), array)
