# SPDX-License-Identifier: Apache-2.0
"""What is taken away while a job runs, pictures of hardly a pixel, servers of another version: told, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import DEMO, begin, end, fails, part, state, zip_file


@pytest.fixture
def ready(with_server: None, shot: bpy.types.Scene) -> bpy.types.Scene:
    """The shot with its people found, one suggestion, and an actor."""
    shot.walkon.count = 1
    bpy.ops.walkon.find_people()
    bpy.ops.walkon.suggest()
    return shot


def test_the_scene_is_removed_while_a_job_runs(ready: bpy.types.Scene) -> None:
    for kind, label in (("people_operators.WALKON_OT_find_people", "Finding people"),
                        ("layer_operators.WALKON_OT_generate", "Painting the person")):  # fmt: skip
        module, _, name = kind.partition(".")
        bpy.ops.scene.new(type="LINK_COPY")
        operator = begin(getattr(part(module), name))
        bpy.data.scenes.remove(bpy.context.scene)
        with pytest.raises(part("shared.errors").BadInput, match="the scene was removed meanwhile") as raised:
            end(operator)
        assert raised.value.message.startswith(label)
        assert raised.value.fix == "Do it again in another scene"
        assert not state().job, "the next one may begin"
        assert len(ready.walkon.people) >= 3
    assert bpy.ops.walkon.generate() == {"FINISHED"}


def test_the_camera_is_removed_while_a_person_is_painted(ready: bpy.types.Scene) -> None:
    work = ready.walkon
    operator = begin(part("layer_operators").WALKON_OT_generate)
    camera, ready.camera = ready.camera, None
    with pytest.raises(part("shared.errors").BadInput, match="has no active camera"):
        end(operator)
    assert not work.layers
    assert not [thing.name for thing in bpy.data.objects if thing.name.startswith("Person")]
    (left,) = part("jobs").unfinished(ready)
    assert left.name == operator._job, "the panel offers to get it"
    ready.camera = camera
    assert bpy.ops.walkon.generate(fetch=left.name) == {"FINISHED"}
    assert len(work.layers) == 1
    assert not work.unfinished


def test_the_actor_is_removed_while_a_person_is_painted(ready: bpy.types.Scene, tmp_path: Path) -> None:
    work, photo = ready.walkon, tmp_path / "ada.png"
    shutil.copyfile(DEMO / "actor.png", photo)
    work.actor = str(photo)
    operator = begin(part("layer_operators").WALKON_OT_generate)
    photo.unlink()
    work.actor = ""
    end(operator)
    assert work.layer.actor == str(photo)
    assert work.layer.version.image.packed_file is not None
    fails(
        bpy.ops.walkon.regenerate,
        "ada.png does not exist",
        "Choose another photo (JPEG, PNG, TIFF or WebP)",
        "walkon.choose_actor",
    )
    assert len(work.layer.versions) == 1


def test_people_and_suggestions_are_removed_while_a_person_is_painted(ready: bpy.types.Scene) -> None:
    work = ready.walkon
    operator = begin(part("layer_operators").WALKON_OT_generate)
    part("candidate_operators").clear(ready)
    work.people.clear()
    picture, work.picture = work.picture, None
    bpy.data.images.remove(picture)
    end(operator)
    assert len(work.layers) == 1
    assert len(work.layer.version.people) >= 3, "those that it was painted among"
    assert work.layer.version.picture is None
    fails(
        bpy.ops.walkon.regenerate,
        "The picture that was sent is gone",
        "Press Find People",
        "walkon.find_people",
    )


_CLOSED = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import bpy
    from conftest import MODULE, begin, part, state
    bpy.ops.extensions.package_install_files(filepath=sys.argv[2], repo="user_default", enable_on_install=True)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.connection_file, preferences.auto_start = sys.argv[3], False
    bpy.ops.wm.open_mainfile(filepath=sys.argv[4])
    operator = begin(part("layer_operators").WALKON_OT_generate)
    while not state().stage:  # until the server is on it
        part("jobs").pump(wait=0.1)
    bpy.ops.wm.save_mainfile()
    print("JOB", operator._job, flush=True)
"""


def test_blender_is_closed_while_a_person_is_painted(
    ready: bpy.types.Scene, preferences: SimpleNamespace, tmp_path: Path
) -> None:
    path = str(tmp_path / "closed.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    arguments = [str(Path(__file__).parent), str(zip_file()), preferences.connection_file, path]
    closed = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(_CLOSED), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "WALKON_ZIP": str(zip_file())},
        check=False,
    )
    (job,) = [line.split()[1] for line in closed.stdout.splitlines() if line.startswith("JOB")]
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    assert [left.name for left in part("jobs").unfinished(scene)] == [job]
    assert bpy.ops.walkon.generate(fetch=job) == {"FINISHED"}
    assert len(scene.walkon.layers) == 1
    assert not scene.walkon.unfinished


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4000, 1)])
def test_pictures_of_hardly_a_pixel(
    with_server: None, scene: bpy.types.Scene, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.png"
    path.write_bytes(part("painting").png(np.full((size[1], size[0], 3), 128, np.uint8)))
    work = scene.walkon
    work.source, work.image = "IMAGE", bpy.data.images.load(str(path))
    fails(
        bpy.ops.walkon.find_people,
        f"picture: {size[0]} x {size[1]} is too small to show a person",
        "Give a picture of at least 16 pixels a side",
    )


def test_a_server_of_another_version(
    preferences: SimpleNamespace, shot: bpy.types.Scene, tmp_path: Path
) -> None:
    import msgspec  # the extension's own

    messages, client = part("shared.messages"), part("shared.client")
    preferences.connection_file = str(tmp_path / "server.json")
    connection = client.Connection(
        messages.PROTOCOL + 1, "9.9.9", 1, "tcp://127.0.0.1:9", "tcp://127.0.0.1:10", "0" * 64
    )
    (tmp_path / "server.json").write_bytes(msgspec.json.encode(connection))
    fails(
        bpy.ops.walkon.find_people,
        "the server (Walk-On 9.9.9, process 1) speaks protocol",
        "Install the same version of Walk-On on both sides",
    )
    assert state().server == "OFF"


def test_no_folder_for_temporary_files_or_for_the_servers(
    preferences: SimpleNamespace, shot: bpy.types.Scene, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    preferences.server, preferences.connection_file = sys.executable, str(tmp_path / "file" / "server.json")
    fails(
        bpy.ops.walkon.start_server,
        "server.log cannot be written (",
        "Name a connection file in a folder that can be written",
        "walkon.preferences",
    )


def test_a_file_that_was_never_saved_loses_nothing(ready: bpy.types.Scene, tmp_path: Path) -> None:
    assert not bpy.data.filepath
    ready.walkon.actor = "//ada.png"
    fails(
        bpy.ops.walkon.generate,
        "Actor photo //ada.png is beside a file that was never saved",
        "Save the file, or choose the photo again",
        "walkon.choose_actor",
    )
    ready.walkon.actor = str(DEMO / "actor.png")
    bpy.ops.walkon.generate()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "now.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "now.blend"))
    assert bpy.context.scene.walkon.layer.version.image.packed_file is not None
