# SPDX-License-Identifier: Apache-2.0
"""The whole job through the installed add-on's operators against a real server process, and its faults."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import MODULE, ROOT, read_png, render, server_python

DEMO = ROOT / "addon" / "demo"


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
def shot_picture(installed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shot, rendered small."""
    path = tmp_path_factory.mktemp("shot") / "shot.png"
    bpy.ops.wm.open_mainfile(filepath=str(DEMO / "shot.blend"))
    scene = bpy.context.scene
    scene.cycles.samples, scene.render.resolution_percentage = 4, 50
    scene.cycles.use_denoising = False
    render(scene, path.parent)
    (path.parent / "render.png").rename(path)
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


# ---- the job ---------------------------------------------------------------------------------------------


def test_from_a_picture_to_a_layer(with_server: None, shot: bpy.types.Scene, tmp_path: Path) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    assert walkon.find_people() == {"FINISHED"}
    assert state().server == "READY"
    assert len(work.people) >= 3
    assert state().note == f"{len(work.people)} people found"
    assert tuple(work.picture_size) == tuple(work.image.size)
    assert work.picture.packed_file is not None

    work.count = 3
    assert walkon.suggest() == {"FINISHED"}
    assert len(work.candidates) == 3
    assert work.candidate_index == 0
    assert work.rig is not None
    first = work.candidate.suggested.skeleton
    assert np.abs(part("skeleton_rig").read(work.rig, first).xy - first.xy)[first.visible].max() < 3e-3

    walkon.choose_candidate(step=1)
    assert work.candidate_index == 1
    walkon.choose_candidate(step=-1)

    # The artist moves a hand; what is painted has it there.
    names = part("geometry").BONE_NAMES
    wrist = next(joint for joint in (4, 7) if first.visible[joint])
    work.rig.pose.bones[names[wrist]].location.x += 9.0
    assert walkon.generate() == {"FINISHED"}
    layer = work.layer
    painted = layer.skeleton.skeleton
    assert np.allclose(painted.xy[wrist], first.xy[wrist] + (9.0, 0.0), atol=0.01)
    assert "is in the picture" in state().note
    assert layer.actor == work.actor
    assert "transfer" in layer.provenance

    before = read_png(Path(bpy.path.abspath(work.image.filepath)))
    rendered = render(shot, tmp_path)
    changed = np.abs(rendered.astype(int) - rendered[0, 0]).max(-1) > 8
    rows, columns = np.nonzero(changed)
    # A person of the skeleton's size where the skeleton is.
    x0, y0, x1, y1 = painted.box
    assert columns.min() < (x0 + x1) / 2 < columns.max()
    assert abs(rows.max() - y1) < 0.15 * painted.height + 3
    assert rows.min() < y0 + 3
    alpha = part("scene_picture").pixels(layer.image)[..., 3]
    assert changed.sum() == pytest.approx((alpha > 32).sum(), rel=0.1)
    assert before.shape == rendered.shape


def test_the_render_is_what_is_sent(with_server: None, shot: bpy.types.Scene, tmp_path: Path) -> None:
    shot.walkon.source = "RENDER"
    shot.render.image_settings.file_format = "OPEN_EXR"
    shot.render.image_settings.color_depth = "16"
    expected = render_keeping_format(shot, tmp_path)
    bpy.ops.walkon.find_people()
    settings = shot.render.image_settings
    assert (settings.file_format, settings.color_depth) == ("OPEN_EXR", "16"), "put back"
    assert np.array_equal(part("scene_picture").pixels(shot.walkon.picture)[..., :3], expected)
    assert state().note == "No people were found in the picture"
    fails(
        bpy.ops.walkon.suggest,
        "No people are known in the picture",
        "Press Find People",
        "walkon.find_people",
    )


def render_keeping_format(scene: bpy.types.Scene, folder: Path) -> np.ndarray:
    bpy.ops.render.render()
    settings = scene.render.image_settings
    settings.file_format, settings.color_depth = "PNG", "8"
    bpy.data.images["Render Result"].save_render(str(folder / "seen.png"), scene=scene)
    settings.file_format = "OPEN_EXR"
    settings.color_depth = "16"
    return read_png(folder / "seen.png")


def test_same_seed_same_suggestions(with_server: None, shot: bpy.types.Scene) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    work.actor, work.count = "", 2
    walkon.find_people()
    walkon.suggest()
    first = [candidate.suggested.skeleton for candidate in work.candidates]
    walkon.suggest()
    assert [candidate.suggested.skeleton for candidate in work.candidates] == first
    work.people[0].enabled = False
    assert len(work.context) == len(work.people) - 1


# ---- faults ----------------------------------------------------------------------------------------------


def test_no_camera(shot: bpy.types.Scene) -> None:
    shot.camera = None
    fails(
        bpy.ops.walkon.find_people,
        "Scene 'Scene' has no active camera",
        "Add a camera",
        "object.camera_add",
    )


def test_nothing_chosen_or_rendered(shot: bpy.types.Scene) -> None:
    shot.walkon.image = None
    fails(bpy.ops.walkon.find_people, "No picture is chosen", "take the camera's render")
    shot.walkon.image = bpy.data.images.new("Empty", 4, 4)
    shot.walkon.image.source = "FILE"
    shot.walkon.image.filepath = "/nowhere.png"
    fails(bpy.ops.walkon.find_people, "Image 'Empty' has no pixels", "Reload it")


def test_where_the_server_is_must_be_known(
    preferences: SimpleNamespace, shot: bpy.types.Scene, tmp_path: Path
) -> None:
    preferences.connection_file = str(tmp_path / "server.json")
    fails(
        bpy.ops.walkon.find_people,
        "The server's program is not set",
        "in the add-on's preferences",
        "walkon.preferences",
    )
    preferences.server = str(tmp_path / "walkon")
    fails(
        bpy.ops.walkon.start_server,
        "walkon does not exist",
        "in the add-on's preferences",
        "walkon.preferences",
    )
    preferences.auto_start = False
    fails(bpy.ops.walkon.find_people, "no server", "Start in the panel", "walkon.start_server")
    assert state().server == "OFF"


def test_actor_photos_that_are_none(with_server: None, shot: bpy.types.Scene, tmp_path: Path) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    walkon.find_people()
    work.count, work.actor = 1, ""
    walkon.suggest()
    mend = "walkon.choose_actor"
    fails(walkon.generate, "No actor photo is chosen", "Choose a photo", mend)
    work.actor = str(tmp_path / "nobody.png")
    fails(walkon.generate, "nobody.png does not exist", "Choose another photo", mend)
    (tmp_path / "text.png").write_text("not a picture")
    work.actor = str(tmp_path / "text.png")
    fails(walkon.generate, "Actor photo text.png", "Choose another photo", mend)
    whole = (DEMO / "actor.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:100])
    work.actor = str(tmp_path / "cut.png")
    fails(walkon.generate, "Actor photo cut.png", "Choose another photo", mend)
    image = part("scene_picture").make_image("grey", np.full((200, 150, 3), 128, np.uint8))
    image.filepath_raw, image.file_format = str(tmp_path / "grey.png"), "PNG"
    image.save()
    work.actor = str(tmp_path / "grey.png")
    fails(walkon.generate, "no person was found in the photo", "Use a photo that shows one person", mend)
    assert not work.layers, "nothing was changed"


def test_all_people_off_and_all_joints_hidden(with_server: None, shot: bpy.types.Scene) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    work.count = 1
    fails(walkon.generate, "No place is suggested yet", "Press Suggest", "walkon.suggest")
    walkon.find_people()
    walkon.suggest()
    for bone in work.rig.pose.bones:
        part("compat").hide_joint(bone, True)
    fails(walkon.generate, "All joints of the skeleton are hidden", "Alt+H")
    walkon.reset_pose()
    assert work.candidate.edited.skeleton == work.candidate.suggested.skeleton
    for person in work.people:
        person.enabled = False
    fails(walkon.suggest, "All people are switched off", "Switch at least one on")


def test_cancel_ends_a_job(with_server: None, shot: bpy.types.Scene) -> None:
    threading.Timer(0.05, part("jobs").cancel).start()
    with pytest.raises(RuntimeError, match=r"[Cc]ancel"):
        bpy.ops.walkon.find_people()
        bpy.ops.walkon.suggest()
    assert not state().job
    bpy.ops.walkon.find_people()


def test_the_server_is_killed_in_the_middle(with_server: None, shot: bpy.types.Scene) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    work.count = 1
    walkon.find_people()
    walkon.suggest()
    worker = part("jobs").worker()
    # As soon as the server says that it has begun, and before it can be done.
    killed = threading.Event()

    def kill() -> None:
        while state_of_worker(worker) != "busy":
            time.sleep(0.005)
        worker._process.kill()
        killed.set()

    threading.Thread(target=kill).start()
    fails(walkon.generate, "the server (process", "Press Start, then try again", "walkon.start_server")
    assert killed.wait(5)
    assert state().server == "LOST"
    assert not work.layers
    # What the artist had is still there, and the next try starts the server anew.
    assert len(work.candidates) == 1
    assert walkon.generate() == {"FINISHED"}
    assert state().server == "READY"


def state_of_worker(worker: object) -> str:
    return (
        "busy" if worker.client is not None and worker.client._pending - worker.client._unanswered else "idle"
    )


def test_the_scene_is_removed_meanwhile(with_server: None, shot: bpy.types.Scene) -> None:
    jobs = part("jobs")
    job = SimpleNamespace(_scene=-1, _task=7, label="Finding people")
    jobs._ended[7] = part("worker").Ended(7, None, None)
    with pytest.raises(part("shared.errors").BadInput, match="the scene was removed meanwhile"):
        jobs.Job._finish(job)


# ---- panel and registration ------------------------------------------------------------------------------


class Layout:
    """Records what a panel draws; raises where the panel names something that does not exist."""

    def __init__(self, drawn: list[str]) -> None:
        self.drawn = drawn

    def _inner(self, *_: object, **__: object) -> Layout:
        return Layout(self.drawn)

    row = column = box = split = grid_flow = _inner

    def label(self, text: str = "", **_: object) -> None:
        self.drawn.append(text)

    def prop(self, data: object, name: str, **_: object) -> None:
        assert name in data.bl_rna.properties, name
        assert data.bl_rna.properties[name].description, f"{name} has no tooltip"
        self.drawn.append(name)

    def operator(self, idname: str, **_: object) -> SimpleNamespace:
        module, _, name = idname.partition(".")
        assert getattr(getattr(bpy.ops, module), name).get_rna_type().description
        self.drawn.append(idname)
        return SimpleNamespace()

    def progress(self, text: str = "", **_: object) -> None:
        self.drawn.append(text)

    def template_list(self, kind: str, *_: object, **__: object) -> None:
        assert hasattr(bpy.types, kind)

    def template_ID(self, data: object, name: str, **_: object) -> None:  # noqa: N802 - Blender's name
        assert name in data.bl_rna.properties


def draw() -> list[str]:
    drawn: list[str] = []
    for name in ("WALKON_PT_server", "WALKON_PT_insert", "WALKON_PT_layers"):
        panel = getattr(bpy.types, name)
        if not hasattr(panel, "poll") or panel.poll(bpy.context):
            panel.draw(SimpleNamespace(layout=Layout(drawn)), bpy.context)
    return drawn


def test_the_panel_in_all_its_states(scene: bpy.types.Scene) -> None:
    drawn = draw()
    assert {"walkon.find_people", "walkon.suggest", "walkon.generate", "actor"} <= set(drawn)
    prefs = bpy.context.preferences.addons[MODULE].preferences
    type(prefs).draw(SimpleNamespace(layout=Layout(drawn), bl_rna=prefs.bl_rna), bpy.context)
    assert {"server", "connection_file", "auto_start"} <= set(drawn)
    shown, work = state(), scene.walkon
    work.source = "IMAGE"
    shown.server = "LOST"
    part("jobs").show_error(part("shared.errors").ServerUnreachable("The server died", "Press Start"))
    drawn = draw()
    assert {"Server lost", "The server died", "Press Start", "walkon.start_server"} <= set(drawn)
    shown.server, shown.job, shown.stage, shown.progress = "READY", "Finding people", "detect", 0.3
    assert {"walkon.stop_server", "Finding people: detect", "walkon.cancel"} <= set(draw())
    shown.job = ""
    part("jobs").clear_error()
    skeleton = part("shared.skeleton").Skeleton(np.arange(36).reshape(18, 2) + 5.0, np.ones(18))
    work.people.add().skeleton = skeleton
    candidate = work.candidates.add()
    candidate.suggested.skeleton = candidate.edited.skeleton = skeleton
    work.candidate_index = 0
    part("layers").add(scene, np.full((20, 10, 4), 255, np.uint8), 3, 4, 1.0, skeleton)
    scene.view_settings.view_transform = "False Color"
    scene.render.use_compositing = False
    drawn = draw()
    assert {"walkon.edit_pose", "1 of 1", "enabled", "x", "y", "scale", "flip", "opacity"} <= set(drawn)
    assert any("view transform" in line for line in drawn)
    assert any("Compositing is off" in line for line in drawn)
    part("panel").WALKON_UL_layers.draw_item(None, bpy.context, Layout(drawn), None, work.layer, 0, None, "")
    assert "show" in drawn


def test_drawing_the_panel_is_quick(scene: bpy.types.Scene) -> None:
    draw()
    start = time.process_time()
    for _ in range(20):
        draw()
    assert (time.process_time() - start) / 20 < 0.01


def test_nothing_of_the_state_is_saved(scene: bpy.types.Scene, tmp_path: Path) -> None:
    part("jobs").show_error(part("shared.errors").BadInput("A message", "A fix"))
    state().job = "Finding people"
    path = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert (state().error, state().job) == ("", "")


@pytest.fixture
def enabled_again(installed: str) -> Iterator[None]:
    yield
    bpy.ops.preferences.addon_enable(module=MODULE)


def test_switching_off_stops_the_server_and_leaves_nothing(
    with_server: None, enabled_again: None, scene: bpy.types.Scene
) -> None:
    prefs = bpy.context.preferences.addons[MODULE].preferences
    server, file = prefs.server, prefs.connection_file
    handlers = [
        len(handler) for handler in (bpy.app.handlers.depsgraph_update_post, bpy.app.handlers.load_post)
    ]
    bpy.ops.walkon.start_server()
    pid = part("jobs").worker()._process.pid
    scene.walkon.seed = 5
    for _ in range(2):
        bpy.ops.preferences.addon_disable(module=MODULE)
        assert not hasattr(scene, "walkon") or "walkon" not in scene.bl_rna.properties
        assert not hasattr(bpy.types, "WALKON_PT_server")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        bpy.ops.preferences.addon_enable(module=MODULE)
        assert scene.walkon.seed == 5, "what the file holds is kept"
    assert handlers == [
        len(handler) for handler in (bpy.app.handlers.depsgraph_update_post, bpy.app.handlers.load_post)
    ]
    # The other tests go on with the same settings.
    prefs = bpy.context.preferences.addons[MODULE].preferences
    prefs.server, prefs.connection_file = server, file
