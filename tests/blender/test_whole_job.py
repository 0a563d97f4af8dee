# SPDX-License-Identifier: Apache-2.0
"""The whole job through the installed add-on's operators against a real server process, and its faults."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import DEMO, fails, part, read_png, render, state

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
    version = layer.version
    painted = version.skeleton.skeleton
    assert np.allclose(painted.xy[wrist], first.xy[wrist] + (9.0, 0.0), atol=0.01)
    assert "is in the picture" in state().note
    assert layer.actor == version.actor == work.actor
    assert "transfer" in version.provenance
    assert version.picture == work.picture
    assert len(version.people) == len(work.people)

    before = read_png(Path(bpy.path.abspath(work.image.filepath)))
    rendered = render(shot, tmp_path)
    changed = np.abs(rendered.astype(int) - rendered[0, 0]).max(-1) > 8
    rows, columns = np.nonzero(changed)
    # A person of the skeleton's size where the skeleton is.
    x0, y0, x1, y1 = painted.box
    assert columns.min() < (x0 + x1) / 2 < columns.max()
    assert abs(rows.max() - y1) < 0.15 * painted.height + 3
    assert rows.min() < y0 + 3
    alpha = part("scene_picture").pixels(version.image)[..., 3]
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
    sent = part("scene_picture").pixels(shot.walkon.picture)[..., :3]
    assert np.abs(sent.astype(int) - expected).max() <= 1
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
    (tmp_path / "grey.png").write_bytes(part("painting").png(np.full((200, 150, 3), 128, np.uint8)))
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


def test_the_server_is_killed_at_each_stage(with_server: None, shot: bpy.types.Scene) -> None:
    work, walkon = shot.walkon, bpy.ops.walkon
    work.count = 1
    worker = part("jobs").worker()

    def kill() -> None:
        # As soon as the server says that it has begun, and before it can be done.
        while state_of_worker(worker) != "busy":
            time.sleep(0.002)
        worker._process.kill()

    walkon.start_server()
    for operator in (walkon.look_at_actor, walkon.find_people, walkon.suggest, walkon.generate):
        killer = threading.Thread(target=kill)
        killer.start()
        fails(operator, "the server (process", "Press Start, then try again", "walkon.start_server")
        killer.join(5)
        assert state().server == "LOST"
        assert not work.layers
        assert not work.unfinished
        # What the artist had is still there, and the next try starts the server anew.
        assert operator() == {"FINISHED"}
        assert state().server == "READY"
    assert len(work.candidates) == len(work.layers) == 1


def state_of_worker(worker: object) -> str:
    return (
        "busy" if worker.client is not None and worker.client._pending - worker.client._unanswered else "idle"
    )
