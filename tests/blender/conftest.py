# SPDX-License-Identifier: Apache-2.0
"""Blender 5.0 as a module, with the built zip installed as a user installs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

# Blender reads this once, when it is imported: its settings and extensions go there and not into the home.
_USER = tempfile.TemporaryDirectory(prefix="walkon-blender-")
os.environ["BLENDER_USER_RESOURCES"] = _USER.name

import bpy  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bl_ext.user_default.walkon"


def zip_file() -> Path:
    """The built add-on."""
    named = os.environ.get("WALKON_ZIP")
    found = [Path(named)] if named else sorted((ROOT / "dist").glob("walkon-*.zip"))
    assert any(map(Path.is_file, found)), "no zip of the add-on; make it with: python3 build.py addon"
    return found[-1]


def server_python() -> Path:
    """The Python that the server is installed in."""
    named = os.environ.get("WALKON_SERVER_PYTHON")
    inside = Path("Scripts/python.exe") if os.name == "nt" else Path("bin/python")
    python = Path(named) if named else ROOT / ".venv" / "server" / inside
    assert python.is_file(), f"no server environment at {python}; make it with: python3 build.py setup"
    return python


@pytest.fixture(scope="session")
def installed() -> Iterator[str]:
    """The extension, installed and enabled; its module's name."""
    bpy.ops.extensions.package_install_files(
        filepath=str(zip_file()), repo="user_default", enable_on_install=True
    )
    assert MODULE in bpy.context.preferences.addons, "the extension did not register"
    yield MODULE
    bpy.ops.preferences.addon_disable(module=MODULE)


@pytest.fixture
def preferences(installed: str) -> Iterator[SimpleNamespace]:
    """The add-on's preferences as they are after the installation; put back after the test."""
    prefs = bpy.context.preferences.addons[installed].preferences
    names = ("server", "connection_file", "auto_start")
    before = {name: getattr(prefs, name) for name in names}
    yield prefs
    for name, value in before.items():
        setattr(prefs, name, value)


@pytest.fixture
def scene(installed: str) -> bpy.types.Scene:
    """A new file: a camera looking at nothing, 320 x 240 pixels, an even background, rendered in a blink."""
    bpy.ops.wm.read_homefile(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 320, 240, 100
    scene.render.dither_intensity = 0.0  # noise on every pixel
    scene.view_settings.view_transform = "Standard"
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location, camera.rotation_euler = (1.0, -5.0, 2.0), (1.3, 0.1, 0.3)
    scene.collection.objects.link(camera)
    scene.camera = camera
    world = bpy.data.worlds.new("World")
    scene.world = world
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.1, 0.2, 0.3, 1.0)
    scene.walkon.picture_size = 320, 240
    bpy.context.view_layer.update()
    return scene


def render(scene: bpy.types.Scene, folder: Path) -> np.ndarray:
    """`(H, W, 3)` uint8 of what the scene renders to, as the artist sees it."""
    path = folder / "render.png"
    scene.render.filepath = str(path)
    scene.render.image_settings.file_format = "PNG"
    bpy.ops.render.render(write_still=True)
    return read_png(path)


def read_png(path: Path) -> np.ndarray:
    """`(H, W, 3)` uint8."""
    image = bpy.data.images.load(str(path))
    values = np.empty(image.size[0] * image.size[1] * image.channels, np.float32)
    image.pixels.foreach_get(values)
    array = (values * 255 + 0.5).astype(np.uint8).reshape(image.size[1], image.size[0], -1)[::-1]
    bpy.data.images.remove(image)
    return array[..., :3]
