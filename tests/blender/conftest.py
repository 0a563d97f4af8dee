# SPDX-License-Identifier: Apache-2.0
"""Blender as a module, with the built zip installed as a user installs it."""

from __future__ import annotations

import importlib
import os
import sys
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

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shot import render_shot  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "addon" / "demo"
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
    names = ("server", "connection_file", "auto_start", "actors")
    before = {name: getattr(prefs, name) for name in names}
    yield prefs
    # Looked up again: a test that switches the add-on off leaves `prefs` pointing nowhere.
    prefs = bpy.context.preferences.addons[installed].preferences
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


def part(name: str):
    return importlib.import_module(f"{MODULE}.{name}")


def state():
    return bpy.context.window_manager.walkon


@pytest.fixture
def with_server(preferences: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The add-on knows where the server is; it starts it when it is first needed, once for all these tests."""
    preferences.server = str(server_python())
    preferences.connection_file = str(tmp_path_factory.getbasetemp() / "server.json")


@pytest.fixture(scope="session")
def shot_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shot, rendered small."""
    path = tmp_path_factory.mktemp("shot") / "shot.png"
    render_shot(path, 50, 4)
    return path


@pytest.fixture
def shot(scene: bpy.types.Scene, shot_picture: Path) -> bpy.types.Scene:
    """An empty scene with the shot as its picture."""
    image = bpy.data.images.load(str(shot_picture))
    scene.render.resolution_x, scene.render.resolution_y = image.size
    scene.walkon.source, scene.walkon.image = "IMAGE", image
    scene.walkon.actor = str(DEMO / "actor.png")
    return scene


def fails(operator, message: str, fix: str, mend: str = "", **arguments: object) -> None:
    """The operator raises in a script; the panel shows the message, the fix and the button that mends it."""
    with pytest.raises(RuntimeError) as raised:
        operator(**arguments)
    shown = state()
    assert message in shown.error, shown.error
    assert fix in shown.error_fix, shown.error_fix
    assert shown.error_operator == mend
    assert f"{shown.error}. {shown.error_fix}" in str(raised.value)
    assert not shown.job
    if mend:
        module, _, name = mend.partition(".")
        getattr(getattr(bpy.ops, module), name).get_rna_type()  # the button exists


def begin(kind: type) -> SimpleNamespace:
    """What an operator's `invoke` does, without a window; `end` does the rest."""
    jobs = part("jobs")
    bases = (SimpleNamespace, jobs.Kept) if issubclass(kind, jobs.Kept) else (SimpleNamespace,)
    name = "walkon." + kind.__name__.removeprefix("WALKON_OT_")
    operator = type("Operator", bases, {})(fetch="", bl_idname=name, bl_label=kind.bl_label, label=kind.label)
    operator.work = lambda scene: kind.work(operator, scene)
    operator.apply = lambda scene, result: kind.apply(operator, scene, result)
    jobs.Job._begin(operator, bpy.context)
    return operator


def end(operator: SimpleNamespace) -> None:
    """Waits for what `begin` began, and finishes it as `modal` does.

    Raises:
        WalkOnError: what the panel would show.
    """
    jobs = part("jobs")
    while operator._task not in jobs._ended:
        jobs.pump(wait=0.1)
    jobs.Job._finish(operator)
