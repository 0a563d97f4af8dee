# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that talks to the server, so that Blender's main thread never waits for it.

The main thread gives it tasks (plain functions over a `Session`) and reads events from a queue; neither side
touches what is the other's: no Blender data here, no sockets there. One task at a time, in order. No bpy here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .shared.client import Client, Finished, read_connection
from .shared.errors import BY_CODE, BadInput, Cancelled, ServerFault, ServerUnreachable, WalkOnError
from .shared.messages import Detected, Failed, Inserted, Placed, Progress, Refined, Request

START_TIMEOUT = 180.0
"""Seconds that a server may take to load its models; a cold disk is slow."""

_CANCEL_TIMEOUT = 15.0
"""Seconds that the server gets to end a job that was cancelled: it looks between stages."""

_TICK = 0.05
_IDLE_TICK = 0.5


@dataclass(frozen=True)
class ServerCommand:
    """How to reach a server.

    Args:
        program (`str`): the walkon program, or the Python that the server is installed in; may be empty where a
            server already runs.
        connection_file (`str`): where the server says how to reach it.
    """

    program: str
    connection_file: str

    @property
    def argv(self) -> list[str]:
        """The command that starts the server.

        Raises:
            BadInput: no such program.
        """
        fix = "Give the path of walkon, or of the server's Python, in the add-on's preferences"
        if not self.program:
            raise BadInput("The server's program is not set", fix, "server")
        if not Path(self.program).is_file():
            raise BadInput(f"The server's program {self.program} does not exist", fix, "server")
        is_python = Path(self.program).name.lower().startswith("python")
        start = [self.program, "-m", "server.serve"] if is_python else [self.program, "serve"]
        return [*start, "--connection-file", self.connection_file]

    @property
    def log(self) -> Path:
        """What the server that was started here prints."""
        return Path(self.connection_file).with_suffix(".log")


@dataclass(frozen=True)
class ServerChanged:
    """The server's state: OFF, STARTING, READY or LOST, and a line about it."""

    state: str
    text: str


@dataclass(frozen=True)
class Progressed:
    """A task has come that far, 0..1."""

    task: int
    stage: str
    fraction: float


@dataclass(frozen=True, eq=False)
class Ended:
    """A task is over: with a result, or with an error."""

    task: int
    result: Any
    error: WalkOnError | None


Event = ServerChanged | Progressed | Ended
Work = Callable[["Session"], Any]
A = TypeVar("A", Detected, Placed, Refined, Inserted)


class Session:
    """What a task may do in the worker's thread."""

    def __init__(self, worker: Worker, task: int, command: ServerCommand, cancelled: threading.Event) -> None:
        self._worker, self._task, self._command, self._cancelled = worker, task, command, cancelled

    def connect(self, may_start: bool) -> None:
        """Be connected to a server that is ready; start one where none runs, if that is allowed.

        Raises:
            ServerUnreachable, VersionMismatch, BadInput, ServerFault, MissingWeights, Cancelled.
        """
        self._worker.connect(self._command, may_start, self._check_cancelled)

    def stop(self) -> None:
        """Stop the server that was started here; only disconnect from one that was not."""
        self._worker.disconnect(stop=True)

    def report(self, stage: str, fraction: float) -> None:
        """Tell the main thread how far it is."""
        self._worker.events.put(Progressed(self._task, stage, fraction))

    def ask(
        self,
        request: Request,
        expected: type[A],
        pictures: Sequence[NDArray[np.uint8]] = (),
        span: tuple[float, float] = (0.0, 1.0),
    ) -> tuple[A, list[NDArray[Any]]]:
        """Let the server do one job.

        Args:
            request (`Request`), pictures (`list` of arrays): as of `Client.submit`.
            expected (`type`): of the answer, see shared.messages.
            span (`(float, float)`): which part of the task's progress this is.

        Raises:
            WalkOnError: whatever the job ended with.
            Cancelled: the user gave the task up.
        """
        client = self._worker.client
        if client is None:
            raise ServerUnreachable("No server is connected", "Press Start")
        job, cancelled_at = client.submit(request, pictures), 0.0
        while True:
            for event in client.poll(_TICK):
                if event.job != job:
                    continue  # what is left of a task that was given up
                if isinstance(event, Finished):
                    if not isinstance(event.answer, expected):
                        raise ServerFault(f"The server answered {type(event.answer).__name__}", "Report it")
                    return event.answer, event.blobs
                elif isinstance(event, Failed):
                    raise event.error()
                elif isinstance(event, Progress):
                    part = event.index / event.count
                    self.report(event.stage, span[0] + part * (span[1] - span[0]))
            if self._cancelled.is_set():
                if not cancelled_at:
                    cancelled_at = time.monotonic()
                    client.cancel(job)
                elif time.monotonic() - cancelled_at > _CANCEL_TIMEOUT:
                    raise Cancelled("Cancelled; the server is still busy with it", "Wait, or stop the server")

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("Cancelled", "")


class Worker:
    """The thread and the server it talks to. All methods but those named below are for the main thread.

    `connect` and `disconnect` belong to the worker's own thread, through `Session`.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.client: Client | None = None
        self._command: ServerCommand | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tasks: queue.Queue[tuple[int, Work, ServerCommand] | None] = queue.Queue()
        self._cancelled: dict[int, threading.Event] = {}
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="Walk-On", daemon=True)
        self._thread.start()

    # ---- the main thread ---------------------------------------------------------------------------------

    def submit(self, work: Work, command: ServerCommand) -> int:
        """Do this when what was submitted before is done; its `Ended` will carry the number returned."""
        task = next(self._numbers)
        self._cancelled[task] = threading.Event()
        self._tasks.put((task, work, command))
        return task

    def cancel(self, task: int) -> None:
        """Give a task up; harmless when it is over."""
        if task in self._cancelled:
            self._cancelled[task].set()

    def close(self) -> None:
        """Give everything up, stop the server that was started here, end the thread."""
        for cancelled in list(self._cancelled.values()):
            cancelled.set()
        self._tasks.put(None)
        self._thread.join(20)

    # ---- the worker's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                item = self._tasks.get(timeout=_IDLE_TICK)
            except queue.Empty:
                self._look_after_server()
                continue
            if item is None:
                self.disconnect(stop=True)
                return
            task, work, command = item
            session = Session(self, task, command, self._cancelled[task])
            result: Any = None
            error: WalkOnError | None = None
            try:
                session._check_cancelled()
                result = work(session)
            except ServerUnreachable as lost:
                error = lost
                if self.client is not None:
                    error = self._lost(lost)
                    self.disconnect(stop=True, state=ServerChanged("LOST", "The server is gone"))
            except WalkOnError as failed:
                error = failed
            except Exception as fault:  # noqa: BLE001  (a thread that dies silently is what users hate most)
                error = ServerFault(f"Walk-On's worker failed: {fault!r}", "Report it")
            del self._cancelled[task]
            self.events.put(Ended(task, result, error))

    def _look_after_server(self) -> None:
        if self.client is not None:
            try:
                self.client.poll()
            except WalkOnError as error:
                self.disconnect(stop=True, state=ServerChanged("LOST", error.message))

    def _lost(self, error: ServerUnreachable) -> ServerUnreachable:
        """What the panel says of a server that was there and is gone; a job's number means nothing to an artist."""
        fix = "Press Start, then try again"
        if self._process is not None and self._command is not None:
            fix += f"; the server's log is {self._command.log}"
        return ServerUnreachable(error.message.partition(" during job ")[0], fix, "")

    def connect(self, command: ServerCommand, may_start: bool, check_cancelled: Callable[[], None]) -> None:
        """See `Session.connect`."""
        if self.client is not None and self._command == command:
            with contextlib.suppress(ServerUnreachable):
                self.client.status()
                return
        if self.client is not None:
            self.disconnect(stop=True)
        self._command = command
        try:
            try:
                self._attach(command)
            except ServerUnreachable as error:
                if not may_start:
                    raise
                if not command.program and Path(command.connection_file).exists():
                    raise ServerUnreachable(
                        error.message,
                        "Start it again, or give its program in the add-on's preferences",
                        "server",
                    ) from error
                self._start(command, check_cancelled)
            self._wait_until_ready(check_cancelled)
        except BaseException:
            self.disconnect(stop=True)
            raise

    def _attach(self, command: ServerCommand) -> None:
        self.client = Client(read_connection(Path(command.connection_file)))

    def _start(self, command: ServerCommand, check_cancelled: Callable[[], None]) -> None:
        argv = command.argv
        self.events.put(ServerChanged("STARTING", "Starting the server"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        command.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(command.log, "wb") as log:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # Windows: CREATE_NO_WINDOW, no console beside Blender
                    creationflags=0x08000000 if sys.platform == "win32" else 0,
                )
        except OSError as error:
            raise BadInput(
                f"The server's program {command.program} cannot be run ({error.strerror})",
                "Give the path of walkon, or of the server's Python, in the add-on's preferences",
                "server",
            ) from error
        end = time.monotonic() + START_TIMEOUT
        while True:
            check_cancelled()
            if self._process.poll() is not None:
                raise ServerFault(
                    f"The server ended while starting: {_last_line(command.log)}",
                    f"Its log is {command.log}",
                    "server",
                )
            with contextlib.suppress(ServerUnreachable):
                # A file that a dead server left behind names another process.
                if (
                    read_connection(Path(command.connection_file)).pid == self._process.pid
                    or sys.platform == "win32"
                ):
                    return self._attach(command)
            if time.monotonic() > end:
                raise ServerFault(
                    f"The server was not there after {START_TIMEOUT:.0f} s",
                    f"Its log is {command.log}",
                    "server",
                )
            time.sleep(_TICK)

    def _wait_until_ready(self, check_cancelled: Callable[[], None]) -> None:
        assert self.client is not None
        while True:
            check_cancelled()
            status = self.client.status()
            if status.problem is not None:
                problem = status.problem
                raise BY_CODE.get(problem.code, WalkOnError)(problem.message, problem.fix)
            if status.ready:
                memory = status.memory / 1e6
                text = f"Walk-On {status.version} on {status.device}, {memory:.0f} MB, process {status.pid}"
                self.events.put(ServerChanged("READY", text))
                return
            self.events.put(
                ServerChanged("STARTING", f"Loading: {status.stage}" if status.stage else "Loading")
            )
            time.sleep(4 * _TICK)

    def disconnect(self, stop: bool, state: ServerChanged | None = None) -> None:
        """Close the connection and, with `stop`, end the server if it was started here."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self._process is not None and stop:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.events.put(state or ServerChanged("OFF", ""))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
