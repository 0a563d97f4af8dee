# SPDX-License-Identifier: Apache-2.0
"""What the add-on computes without Blender: geometry, photo orientation, colour spaces, and the worker's thread."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import addon

# build.py copies shared/ into the add-on; here the add-on finds it beside itself.
addon.__path__.append(str(Path(__file__).resolve().parents[1]))

from addon import colour, exif, geometry  # noqa: E402
from addon.shared.errors import (  # noqa: E402
    BadInput,
    Cancelled,
    MissingWeights,
    NoActor,
    ServerFault,
    ServerUnreachable,
)
from addon.shared.messages import Detect, Detected, Insert, Inserted  # noqa: E402
from addon.shared.skeleton import JOINTS, MIRROR, NUM_JOINTS, Skeleton  # noqa: E402
from addon.worker import Ended, Progressed, ServerChanged, ServerCommand, Session, Worker  # noqa: E402

# ---- geometry --------------------------------------------------------------------------------------------


def test_bone_names_let_blender_mirror_them() -> None:
    for joint, mirrored in enumerate(MIRROR):
        swapped = geometry.BONE_NAMES[joint].translate(str.maketrans("LR", "RL"))
        assert geometry.BONE_NAMES[mirrored] == swapped
    assert len(set(geometry.BONE_NAMES)) == NUM_JOINTS
    assert geometry.bone_name(JOINTS.index("right_knee")) == "knee.R"


def test_every_joint_comes_after_its_parent() -> None:
    assert sorted(geometry.PARENT_FIRST) == list(range(NUM_JOINTS))
    for place, joint in enumerate(geometry.PARENT_FIRST[1:], 1):
        assert geometry.PARENT[joint] in geometry.PARENT_FIRST[:place]


@given(
    st.floats(5, 400),
    st.tuples(st.floats(-500, 2000), st.floats(-500, 2000)),
    st.sets(st.integers(0, 17), min_size=0, max_size=15),
)
def test_missing_joints_are_offered_where_they_belong(
    size: float, at: tuple[float, float], missing: set[int]
) -> None:
    standing = geometry._STANDING * size + at
    visible = np.ones(NUM_JOINTS, bool)
    visible[list(missing)] = False
    completed = geometry.complete(Skeleton(standing, visible))
    assert np.allclose(completed[visible], standing[visible])
    assert np.allclose(completed, standing, atol=1e-6 * size + 1.1 * (size < 1))


def test_nothing_known_gives_a_person_all_the_same() -> None:
    nobody = Skeleton(np.zeros((18, 2)), np.zeros(18, bool))
    assert geometry.complete(nobody).shape == (18, 2)
    assert geometry.person_size(nobody) == 1.0


@given(
    st.floats(0.2, 5),
    st.floats(-0.4, 0.4),
    st.floats(-0.4, 0.4),
    st.booleans(),
    st.integers(8, 4000),
    st.integers(8, 4000),
)
def test_pixel_space_has_the_pictures_corners_in_the_frames(
    wide: float, shift_x: float, shift_y: float, perspective: bool, width: int, height: int
) -> None:
    x0, x1, y0, y1 = -wide + shift_x, wide + shift_x, -0.5 + shift_y, 0.5 + shift_y
    frame = [(x1, y1, -1.5), (x1, y0, -1.5), (x0, y0, -1.5), (x0, y1, -1.5)]
    matrix = geometry.pixel_space(frame, (width, height), 3.0, perspective)
    grow = 2.0 if perspective else 1.0
    for (x, y), corner in (((width, 0), frame[0]), ((0, height), frame[2]), ((0, 0), frame[3])):
        assert np.allclose((matrix @ (x, -y, 0, 1))[:2], np.array(corner[:2]) * grow)
    assert np.allclose((matrix @ (5, -7, 0, 1))[2], -3.0)


layer_places = st.builds(
    geometry.LayerPlace,
    x=st.floats(-500, 2000),
    y=st.floats(-500, 2000),
    scale=st.floats(0.1, 8),
    flip=st.booleans(),
    anchor=st.tuples(st.floats(0, 300), st.floats(0, 300)),
    size=st.tuples(st.integers(2, 900), st.integers(2, 900)),
)


@given(layer_places, st.floats(0.1, 8))
def test_flipping_and_scaling_keep_the_feet(layer: geometry.LayerPlace, scale: float) -> None:
    for flip in (False, True):
        other = geometry.LayerPlace(layer.x, layer.y, scale, flip, layer.anchor, layer.size)
        left, top = other.top_left
        feet = left + other.anchor_as_seen[0] * scale, top + layer.anchor[1] * scale
        assert np.allclose(feet, (layer.x, layer.y))


@given(layer_places, st.sampled_from([0.5, 1.0, 2.0]))
def test_compositor_coordinates_are_those_of_blenders_transform(
    layer: geometry.LayerPlace, grow: float
) -> None:
    render = round(320 * grow), round(240 * grow)
    x, y, scale = layer.compositor((320, 240), render)
    # Blender: the image's centre lies X right of and Y above the frame's.
    left = render[0] / 2 + x - layer.size[0] * scale / 2
    top = render[1] / 2 - y - layer.size[1] * scale / 2
    assert np.allclose((left, top), np.array(layer.top_left) * grow)


def test_feet_are_the_lower_ankle_between_both_or_the_lowest_that_is_seen() -> None:
    person = Skeleton(geometry._STANDING * 100, np.ones(18, bool))
    assert geometry.feet(person) == pytest.approx((0.0, 255.0))
    raised = person.with_joints([JOINTS.index("left_ankle")], [(60.0, 180.0)])
    assert geometry.feet(raised) == pytest.approx((19.0, 255.0))
    visible = np.ones(18, bool)
    visible[8:14] = False
    assert geometry.feet(Skeleton(person.xy, visible))[1] == pytest.approx(102.0)


# ---- photos and colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", range(1, 9))
def test_photos_are_turned_as_pillow_turns_them(tmp_path: Path, value: int) -> None:
    from PIL import Image, ImageOps

    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :8], picture[8:, 16:] = (250, 10, 10), (10, 10, 250)
    image = Image.fromarray(picture)
    tags = image.getexif()
    tags[0x0112] = value
    path = tmp_path / "photo.jpg"
    image.save(path, exif=tags, quality=95)
    assert exif.orientation(path.read_bytes()) == value
    stored = np.asarray(Image.open(path))
    assert np.array_equal(exif.oriented(stored, value), np.asarray(ImageOps.exif_transpose(Image.open(path))))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0\x08\0\0\0\xff", b"PNG...."]
)
def test_photos_that_do_not_say_are_as_stored(data: bytes) -> None:
    assert exif.orientation(data) == 1


def test_colour_spaces_undo_the_view_transform_where_blender_has_the_inverse() -> None:
    assert colour.image_colour_space("AgX", {"sRGB", "AgX Base sRGB"}) == ("AgX Base sRGB", True)
    assert colour.image_colour_space("AgX", {"sRGB"}) == ("sRGB", False)
    assert colour.image_colour_space("Studio Look", {"sRGB"}) == ("sRGB", False)


# ---- the worker ------------------------------------------------------------------------------------------


def program(folder: Path, text: str) -> ServerCommand:
    """An executable that stands where walkon would, and gets its arguments: serve --connection-file FILE."""
    script = folder / "walkon"
    # Read by sh and by Python: a #! line alone cannot name a Python whose path has spaces.
    python = shlex.quote(sys.executable)
    script.write_text(f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\nimport os, sys\n{text}\n")
    script.chmod(0o755)
    return ServerCommand(str(script), str(folder / "server.json"))


def tiny(folder: Path, *more: str) -> ServerCommand:
    """A real server with a pipeline that is quick."""
    command = [sys.executable, str(Path(__file__).with_name("tiny_server.py")), "--file"]
    return program(folder, f"os.execv({sys.executable!r}, {command!r} + [sys.argv[3]] + {list(more)!r})")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()
    assert not worker._thread.is_alive()


def finish(worker: Worker, task: int, seconds: float = 30) -> tuple[Ended, list[object]]:
    """Events up to the task's end."""
    before: list[object] = []
    end = time.monotonic() + seconds
    while True:
        event = worker.events.get(timeout=max(0.1, end - time.monotonic()))
        if isinstance(event, Ended) and event.task == task:
            return event, before
        before.append(event)


def picture(bright: bool = True) -> np.ndarray:
    array = np.zeros((40, 30, 3), np.uint8)
    if bright:
        array[10:30, 5:20] = 200
    return array


def test_a_task_starts_the_server_asks_and_is_stopped(worker: Worker, tmp_path: Path) -> None:
    command = tiny(tmp_path)

    def find(session: Session) -> list[list[float]]:
        session.connect(may_start=True)
        return session.ask(Detect(), Detected, [picture()])[0].people

    ended, before = finish(worker, worker.submit(find, command))
    assert ended.error is None
    assert len(ended.result) == 1
    states = [event.state for event in before if isinstance(event, ServerChanged)]
    assert states[0] == "STARTING"
    assert states[-1] == "READY"
    assert any(isinstance(event, Progressed) and event.stage == "detect" for event in before)
    assert worker._process is not None
    pid = worker._process.pid
    ended, before = finish(worker, worker.submit(lambda session: session.stop(), command))
    assert [event.state for event in before if isinstance(event, ServerChanged)] == ["OFF"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not Path(command.connection_file).exists()


def test_a_task_is_cancelled_while_the_server_works(worker: Worker, tmp_path: Path) -> None:
    def insert(session: Session) -> object:
        session.connect(may_start=True)
        return session.ask(Insert(seed=200, candidates=60), Inserted, [picture(), picture()])

    task = worker.submit(insert, tiny(tmp_path))
    while not isinstance(worker.events.get(timeout=30), Progressed):
        pass
    start = time.monotonic()
    worker.cancel(task)
    ended, _ = finish(worker, task)
    assert isinstance(ended.error, Cancelled)
    assert time.monotonic() - start < 2
    ended, _ = finish(
        worker, worker.submit(lambda s: s.ask(Detect(), Detected, [picture()])[0].people, tiny(tmp_path))
    )
    assert len(ended.result) == 1, "the server is as good as before"


def test_a_server_that_dies_in_the_middle_is_said_so_and_started_anew(worker: Worker, tmp_path: Path) -> None:
    command = tiny(tmp_path)

    def insert(session: Session) -> object:
        session.connect(may_start=True)
        return session.ask(Insert(seed=200, candidates=60), Inserted, [picture(), picture()])

    task = worker.submit(insert, command)
    while not isinstance(worker.events.get(timeout=30), Progressed):
        pass
    assert worker._process is not None
    worker._process.send_signal(signal.SIGKILL)
    ended, before = finish(worker, task, 10)
    assert isinstance(ended.error, ServerUnreachable)
    assert ended.error.message.endswith(") died or closed the connection")
    assert ended.error.fix == f"Press Start, then try again; the server's log is {command.log}"
    assert before[-1] == ServerChanged("LOST", "The server is gone")
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=True), command))
    assert ended.error is None


def test_a_server_that_dies_while_idle_is_noticed(worker: Worker, tmp_path: Path) -> None:
    finish(worker, worker.submit(lambda session: session.connect(may_start=True), tiny(tmp_path)))
    assert worker._process is not None
    worker._process.kill()
    event = worker.events.get(timeout=5)
    assert isinstance(event, ServerChanged)
    assert event.state == "LOST"


def test_errors_of_the_server_arrive_in_their_class(worker: Worker, tmp_path: Path) -> None:
    def insert(session: Session) -> object:
        session.connect(may_start=True)
        return session.ask(Insert(candidates=1), Inserted, [picture(), picture(bright=False)])

    ended, _ = finish(worker, worker.submit(insert, tiny(tmp_path)))
    assert isinstance(ended.error, NoActor)
    assert ended.error.fix == "Choose a photo of a person"


def test_a_server_that_cannot_warm_up_says_why(worker: Worker, tmp_path: Path) -> None:
    task = worker.submit(lambda session: session.connect(may_start=True), tiny(tmp_path, "--broken"))
    ended, _ = finish(worker, task)
    assert isinstance(ended.error, MissingWeights)
    assert ended.error.fix == "Run `walkon models import`"
    assert worker._process is None


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("sys.exit('no torch here')", ServerFault, "The server ended while starting: no torch here"),
        (None, BadInput, "does not exist"),
        ("", BadInput, "The server's program is not set"),
    ],
    ids=["ends", "missing", "unset"],
)
def test_programs_that_are_no_server(
    worker: Worker, tmp_path: Path, text: str | None, kind: type[Exception], message: str
) -> None:
    command = program(tmp_path, text or "")
    if text is None:
        command = ServerCommand(str(tmp_path / "nowhere"), command.connection_file)
    elif not text:
        command = ServerCommand("", command.connection_file)
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=True), command))
    assert type(ended.error) is kind
    assert message in ended.error.message
    assert ended.error.fix


def test_nothing_is_started_without_leave(worker: Worker, tmp_path: Path) -> None:
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=False), tiny(tmp_path)))
    assert isinstance(ended.error, ServerUnreachable)
    assert "server.json does not exist" in ended.error.message
    assert worker._process is None


def test_a_fault_of_a_task_does_not_end_the_thread(worker: Worker, tmp_path: Path) -> None:
    ended, _ = finish(worker, worker.submit(lambda session: 1 / 0, tiny(tmp_path)))
    assert isinstance(ended.error, ServerFault)
    assert "division by zero" in ended.error.message
    ended, _ = finish(worker, worker.submit(lambda session: "fine", tiny(tmp_path)))
    assert ended.result == "fine"


def test_closing_stops_the_server_in_the_middle_of_a_task(tmp_path: Path) -> None:
    worker = Worker()

    def insert(session: Session) -> object:
        session.connect(may_start=True)
        return session.ask(Insert(seed=200, candidates=60), Inserted, [picture(), picture()])

    worker.submit(insert, tiny(tmp_path))
    while not isinstance(worker.events.get(timeout=30), Progressed):
        pass
    assert worker._process is not None
    pid = worker._process.pid
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(queue.Empty):
        while True:
            worker.events.get_nowait()
