# SPDX-License-Identifier: Apache-2.0
"""Panels in all their states, tooltips, speed, preferences, switching on and off."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import DEMO, MODULE, begin, fails, part, render, state


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
        if name.startswith("["):  # a custom property
            shown = data.id_properties_ui(name[2:-2]).as_dict()["description"]
        else:
            shown = data.bl_rna.properties[name].description
        assert shown, f"{name} has no tooltip"
        self.drawn.append(name)

    def operator(self, idname: str, **_: object) -> SimpleNamespace:
        module, _, name = idname.partition(".")
        assert getattr(getattr(bpy.ops, module), name).get_rna_type().description
        self.drawn.append(idname)
        return SimpleNamespace()

    def progress(self, text: str = "", **_: object) -> None:
        self.drawn.append(text)

    def template_list(
        self, kind: str, _: str, data: object, name: str, other: object, index: str, **__: object
    ) -> None:
        assert other.bl_rna.properties[index].type == "INT"
        for item in getattr(data, name):
            getattr(bpy.types, kind).draw_item(None, bpy.context, self, data, item, 0, other, index)

    def prop_search(self, data: object, name: str, search: object, names: str, **_: object) -> None:
        self.prop(data, name)
        assert names in search.bl_rna.properties

    def template_icon_view(self, data: object, name: str, **_: object) -> None:
        assert data.bl_rna.properties[name].type == "ENUM"
        self.drawn.append(name)

    def template_icon(self, icon: int, **_: object) -> None:
        self.drawn.append("icon")

    def separator(self, **_: object) -> None:
        pass

    def template_ID(self, data: object, name: str, **_: object) -> None:  # noqa: N802 - Blender's name
        assert name in data.bl_rna.properties


def kinds(prefix: str) -> list[type]:
    """Our registered classes of that prefix."""
    return [getattr(bpy.types, name) for name in dir(bpy.types) if name.startswith(f"WALKON_{prefix}_")]


def draw(panels: list[type] | None = None) -> list[str]:
    drawn: list[str] = []
    for panel in panels or kinds("PT"):
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
    rgba = np.full((20, 10, 4), 255, np.uint8)
    part("layers").add(scene, part("painting").Painting.of(rgba, 3, 4, 1.0, skeleton, (320, 240)))
    scene.view_settings.view_transform = "False Color"
    scene.render.use_compositing = False
    drawn = draw()
    assert {"walkon.edit_pose", "1 of 1", "enabled", "location", "scale", '["Opacity"]'} <= set(drawn)
    assert any("view transform" in line for line in drawn)
    assert any("Compositing is off" in line for line in drawn)
    part("layer_panel").WALKON_UL_layers.draw_item(
        None, bpy.context, Layout(drawn), None, work.layer, 0, None, ""
    )
    assert '["Show"]' in drawn


def per_call(function, times: int) -> float:
    """Seconds of this thread in the quickest of a few rounds: the machine may be busy."""
    best = 1.0
    for _ in range(5):
        start = time.thread_time()
        for _ in range(times):
            function()
        best = min(best, (time.thread_time() - start) / times)
    return best


def test_drawing_the_panels_takes_under_a_millisecond(scene: bpy.types.Scene) -> None:
    panels = kinds("PT")
    draw(panels)
    assert per_call(lambda: draw(panels), 20) < 1e-3


def test_registering_takes_under_50_milliseconds(installed: str, scene: bpy.types.Scene) -> None:
    package = importlib.import_module(MODULE)

    seconds = []
    for _ in range(3):
        package.unregister()
        start = time.thread_time()
        package.register()
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.05


def test_every_property_and_operator_says_what_it_is(installed: str) -> None:
    silent, seen = [], set()

    def look(kind: object) -> None:
        """A type of ours, and those that it points to or collects."""
        for name, known in kind.properties.items():
            if (
                known.is_hidden
                or name in ("rna_type", "name", "bl_idname")
                or (kind.identifier, name) in seen
            ):
                continue
            seen.add((kind.identifier, name))
            if known.type in ("POINTER", "COLLECTION") and known.fixed_type.identifier.startswith("WalkOn"):
                look(known.fixed_type)  # never a field itself, but its properties are
            elif not (known.name and known.description):
                silent.append(f"{kind.identifier}.{name}")

    for owner in (bpy.types.Scene, bpy.types.WindowManager):
        look(owner.bl_rna.properties["walkon"].fixed_type)
    look(part("preferences").WalkOnPreferences.bl_rna)
    operators = kinds("OT")
    assert len(operators) > 20
    for kind in operators:
        named = getattr(bpy.ops.walkon, kind.bl_idname.partition(".")[2]).get_rna_type()
        assert named.name, kind
        assert named.description, kind
        assert not named.description.endswith("."), f"{kind}: Blender adds the full stop"
        assert "INTERNAL" not in getattr(kind, "bl_options", set()), f"{kind} cannot be searched for"
        look(named)
    assert not silent


# ---- the actor -------------------------------------------------------------------------------------------


def test_the_library_is_a_folder_of_photos(
    preferences: SimpleNamespace, scene: bpy.types.Scene, tmp_path: Path
) -> None:
    actors, work = part("actors"), scene.walkon
    preferences.actors = str(tmp_path / "library")
    assert actors.photos() == []
    fails(bpy.ops.walkon.add_actor, "No actor photo is chosen", "Choose a photo first", "walkon.choose_actor")
    work.actor = str(DEMO / "actor.png")
    bpy.ops.walkon.add_actor()
    kept = tmp_path / "library" / "actor.png"
    assert kept.read_bytes() == (DEMO / "actor.png").read_bytes()
    assert work.actor == str(kept)
    nobody = (actors.NOBODY, "No Photo")
    assert [item[:2] for item in actors.items(None, None)] == [(str(kept), "actor"), nobody]
    fails(bpy.ops.walkon.add_actor, "The library has a photo actor.png already", "Rename one of them")
    (tmp_path / "library" / "b.txt").write_text("no photo")
    (tmp_path / "library" / "Zoe.JPG").write_bytes(kept.read_bytes())
    assert [item[1] for item in actors.items(None, None)] == ["Zoe", "actor", "No Photo"]
    state().library = str(tmp_path / "library" / "Zoe.JPG")
    assert work.actor == str(tmp_path / "library" / "Zoe.JPG")
    assert state().library == work.actor
    state().library = actors.NOBODY
    assert work.actor == ""
    assert state().library == actors.NOBODY, "no photo stands for one that is not chosen"
    work.actor = str(DEMO / "actor.png")
    assert state().library == actors.NOBODY
    assert "library" in draw()


def test_a_library_that_cannot_be_written(
    preferences: SimpleNamespace, scene: bpy.types.Scene, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    preferences.actors = str(tmp_path / "file" / "library")
    scene.walkon.actor = str(DEMO / "actor.png")
    fails(
        bpy.ops.walkon.add_actor,
        "actor.png cannot be copied to",
        "Choose a folder that can be written",
        "walkon.preferences",
    )


def test_who_is_in_the_photo_is_shown(with_server: None, scene: bpy.types.Scene, tmp_path: Path) -> None:
    work = scene.walkon
    picture = part("scene_picture").actor_picture(str(DEMO / "actor.png"))[..., :3]
    two = np.concatenate([picture, picture[:, ::-1]], axis=1)
    (tmp_path / "two.png").write_bytes(part("painting").png(np.ascontiguousarray(two)))
    work.actor = str(tmp_path / "two.png")
    bpy.ops.walkon.look_at_actor()
    found = part("actors").look(work.actor)
    assert len(found.people) == 2
    assert "person 1 of 2 is taken" in state().note
    bpy.ops.walkon.look_at_actor(person=1)
    assert work.actor_person == 1
    found = part("actors").look(work.actor)
    side = found.people[1].xy[found.people[1].visible][:, 0].mean() > two.shape[1] / 2
    dark, light = (found.portrait[..., :3][:, half].mean() for half in (slice(0, 128), slice(128, 256)))
    assert (light > dark) == side, "only the chosen person is bright"
    drawn = draw()
    assert "icon" in drawn
    assert drawn.count("walkon.look_at_actor") == 3
    work.actor = str(DEMO / "actor.png")
    assert work.actor_person == 0
    assert "icon" not in draw()


def test_the_picture_is_shown_behind_the_camera_view(with_server: None, shot: bpy.types.Scene) -> None:
    camera, work = shot.camera.data, shot.walkon
    own = camera.background_images.new()
    own.image = work.image
    bpy.ops.walkon.find_people()
    assert [entry.image for entry in camera.background_images] == [work.image, work.picture]
    bpy.ops.walkon.find_people()
    assert [entry.image for entry in camera.background_images] == [work.image, work.picture]
    work.show_picture = False
    assert [entry.image for entry in camera.background_images] == [work.image]


def test_the_render_is_laid_over_the_picture(scene: bpy.types.Scene, tmp_path: Path) -> None:
    fails(
        bpy.ops.walkon.composite_picture, "There is no picture yet", "Press Find People", "walkon.find_people"
    )
    plate = np.zeros((240, 320, 3), np.uint8)
    plate[:, :160], plate[:, 160:] = (200, 40, 30), (20, 90, 180)
    work = scene.walkon
    work.source = "IMAGE"
    part("layers").adopt_picture(scene, part("painting").png(plate))
    for _ in range(2):  # again changes nothing
        bpy.ops.walkon.composite_picture()
        rendered = render(scene, tmp_path)
        assert np.abs(rendered[:, 2:-2].astype(int) - plate[:, 2:-2]).max() <= 2
        assert work.picture.colorspace_settings.name == "sRGB", "the camera view shows it as before"
    assert len([image for image in bpy.data.images if image.name.startswith("Walk-On Plate")]) == 1
    part("layers").adopt_picture(scene, part("painting").png(plate[:, ::-1]))
    part("backdrop").follow(scene)
    rendered = render(scene, tmp_path)
    assert np.abs(rendered[:, 2:-2].astype(int) - plate[:, ::-1][:, 2:-2]).max() <= 2, "another picture"
    part("layers").adopt_picture(scene, part("painting").png(plate))
    part("backdrop").follow(scene)
    tree = part("compat").compositor_tree(scene)
    assert len([node for node in tree.nodes if node.type == "ALPHAOVER"]) == 1
    skeleton = part("shared.skeleton").Skeleton(np.arange(36).reshape(18, 2) + 50.0, np.ones(18))
    person = np.full((20, 10, 4), 255, np.uint8)
    part("layers").add(scene, part("painting").Painting.of(person, 100, 100, 1.0, skeleton, (320, 240)))
    rendered = render(scene, tmp_path)
    assert rendered[110, 105].min() > 250, "the person"
    assert np.abs(rendered[50, 50].astype(int) - (200, 40, 30)).max() <= 2, "the picture"


# ---- jobs that outlive Blender ---------------------------------------------------------------------------


def test_a_result_is_fetched_after_the_file_was_closed(
    with_server: None, shot: bpy.types.Scene, tmp_path: Path
) -> None:
    jobs, work, walkon = part("jobs"), shot.walkon, bpy.ops.walkon
    work.count = 1
    walkon.find_people()
    walkon.suggest()
    # As in a window: the job begins, the file is saved meanwhile, another one is opened.
    operator = begin(part("layer_operators").WALKON_OT_generate)
    assert [left.name for left in work.unfinished] == [operator._job]
    assert not jobs.unfinished(shot), "it runs here"
    path = str(tmp_path / "closed.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    while not state().stage:  # until the server is on it
        jobs.pump(wait=0.1)
    jobs.worker().leave(operator._task)
    jobs._known.discard(operator._job)
    state().job = ""
    bpy.ops.wm.read_homefile(use_empty=True)
    assert not bpy.context.scene.walkon.unfinished
    bpy.ops.wm.open_mainfile(filepath=path)
    work = bpy.context.scene.walkon
    (left,) = jobs.unfinished(bpy.context.scene)
    assert (left.operator, left.label) == ("walkon.generate", "Painting the person")
    assert {"walkon.generate", "walkon.forget_job"} <= set(draw())
    walkon.generate(fetch=left.name)
    assert len(work.layers) == 1
    assert not work.unfinished

    # What the server does not know any more is said so, and can be forgotten.
    work.unfinished.add().name = "0" * 32
    fails(walkon.generate, "does not have the result any more", "Press Generate again", fetch="0" * 32)
    assert not work.unfinished
    work.unfinished.add().name = "1" * 32
    walkon.forget_job(job="1" * 32)
    assert not work.unfinished


# ---- files -----------------------------------------------------------------------------------------------


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
