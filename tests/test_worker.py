# SPDX-License-Identifier: Apache-2.0
"""The add-on's thread that talks to the server, against real servers: starts, ends, kept jobs, faults."""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import addon

# build.py copies shared/ into the add-on; here the add-on finds it beside itself.
addon.__path__.append(str(Path(__file__).resolve().parents[1]))

from addon.shared.client import Connection  # noqa: E402
from addon.shared.errors import (  # noqa: E402
    BadInput,
    Cancelled,
    MissingWeights,
    NoActor,
    ServerFault,
    ServerUnreachable,
    VersionMismatch,
)
from addon.shared.messages import PROTOCOL, Detect, Detected, Insert, Inserted  # noqa: E402
from addon.worker import Ended, Progressed, ServerChanged, ServerCommand, Session, Worker  # noqa: E402


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


def test_a_kept_job_outlives_its_blender_and_is_fetched_by_another(worker: Worker, tmp_path: Path) -> None:
    command, job = tiny(tmp_path, "--idle", "1"), uuid.uuid4().hex
    closed = Worker()

    def insert(session: Session) -> object:
        session.connect(may_start=True)
        return session.ask(Insert(seed=200, candidates=10), Inserted, [picture(), picture()])

    closed.submit(insert, command, job)
    while not isinstance(closed.events.get(timeout=30), Progressed):
        pass
    assert closed._process is not None
    process = closed._process
    closed.close()
    assert process.poll() is None, "the server goes on"

    ended, _ = finish(worker, worker.submit(insert, command, job, fetch=True))
    assert ended.error is None
    answer, (layer,) = ended.result
    assert answer.seed == 200
    assert layer.shape == (40, 30, 4)
    ended, _ = finish(worker, worker.submit(insert, command, "0" * 32, fetch=True))
    assert isinstance(ended.error, BadInput)
    assert "is not known here" in ended.error.message
    # Nobody is left who could stop it: it does so itself.
    worker.close()
    process.wait(10)
    assert not Path(command.connection_file).exists()


def test_health_says_what_the_server_has_and_does(worker: Worker, tmp_path: Path) -> None:
    task = worker.submit(lambda session: session.connect(may_start=True), tiny(tmp_path))
    _, before = finish(worker, task)
    event = before[-1]
    assert isinstance(event, ServerChanged)
    assert event.state == "READY"
    assert re.fullmatch(r"CPU, \d\.\d GB, idle; transfer tiny", event.text)


@pytest.mark.parametrize("host", ["192.0.2.7", "server.studio.example"])
def test_another_machine_needs_leave_to_go_online(worker: Worker, tmp_path: Path, host: str) -> None:
    command = ServerCommand("", str(tmp_path / "server.json"))
    connection = Connection(PROTOCOL, "0", 1, f"tcp://{host}:9", f"tcp://{host}:10", "0" * 64)
    Path(command.connection_file).write_bytes(msgspec.json.encode(connection))
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=False), command))
    assert isinstance(ended.error, BadInput)
    assert f"The server is on another machine ({host}), and Blender may not go online" in ended.error.message
    assert "Allow online access" in ended.error.fix


def test_a_folder_that_cannot_be_written(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    command = ServerCommand(sys.executable, str(tmp_path / "file" / "server.json"))
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=True), command))
    assert isinstance(ended.error, BadInput)
    assert "server.log cannot be written (" in ended.error.message
    assert "a folder that can be written" in ended.error.fix


def test_a_server_of_another_version(worker: Worker, tmp_path: Path) -> None:
    command = ServerCommand("", str(tmp_path / "server.json"))
    connection = Connection(PROTOCOL + 1, "9.9.9", 1, "tcp://127.0.0.1:9", "tcp://127.0.0.1:10", "0" * 64)
    Path(command.connection_file).write_bytes(msgspec.json.encode(connection))
    ended, _ = finish(worker, worker.submit(lambda session: session.connect(may_start=True), command))
    assert isinstance(ended.error, VersionMismatch)
    assert "the server (Walk-On 9.9.9, process 1) speaks protocol" in ended.error.message
    assert "Install the same version of Walk-On on both sides" in ended.error.fix
