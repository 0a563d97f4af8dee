# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that talks to the server, so that Blender's main thread never waits for it.

The main thread gives it tasks (plain functions over a `Session`) and reads events from a queue; neither side
touches what is the other's: no Blender data here, no sockets there. One task at a time, in order. No bpy here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .shared.client import Client, Finished, read_connection
from .shared.errors import BY_CODE, BadInput, Cancelled, ServerFault, ServerUnreachable, WalkOnError
from .shared.messages import Analysed, Detected, Failed, Inserted, Placed, Progress, Refined, Request, Status

START_TIMEOUT = 180.0
"""Seconds that a server may take to load its models; a cold disk is slow."""

_CANCEL_TIMEOUT = 15.0
"""Seconds that the server gets to end a job that was cancelled: it looks between stages."""

IDLE_TIMEOUT = 900.0
"""Seconds after which a server that was started here stops by itself, should Blender not be there to stop it."""

_TICK = 0.05
_IDLE_TICK = 0.5
_HEALTH_EVERY = 2.0


@dataclass(frozen=True)
class ServerCommand:
    """How to reach a server.

    Args:
        program (`str`): the walkon program, or the Python that the server is installed in; may be empty where a
            server already runs.
        connection_file (`str`): where the server says how to reach it.
        online (`bool`): whether it may be on another machine.
    """

    program: str
    connection_file: str
    online: bool = False

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
        return [*start, "--connection-file", self.connection_file, "--idle", f"{IDLE_TIMEOUT:.0f}"]

    @property
    def seems_to_run(self) -> bool:
        """Whether a server says how to reach it; one that was killed may have left that behind."""
        return Path(self.connection_file).exists()

    @property
    def log(self) -> Path:
        """What the server that was started here prints."""
        return Path(self.connection_file).with_suffix(".log")


@dataclass(frozen=True)
class ServerChanged:
    """The server's state: OFF, STARTING, READY or LOST, and a few words about it."""

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
A = TypeVar("A", Analysed, Detected, Placed, Refined, Inserted)


class Session:
    """What a task may do in the worker's thread."""

    def __init__(self, worker: Worker, number: int, task: _Task) -> None:
        self._worker, self._number, self._task = worker, number, task
        self._job = task.job

    def connect(self, may_start: bool) -> None:
        """Be connected to a server that is ready; start one where none runs, if that is allowed.

        Raises:
            ServerUnreachable, VersionMismatch, BadInput, ServerFault, MissingWeights, Cancelled.
        """
        self._worker.connect(self._task.command, may_start, self._check_cancelled)

    def stop(self) -> None:
        """Stop the server that was started here; only disconnect from one that was not."""
        self._worker.disconnect(stop=True)

    def report(self, stage: str, fraction: float) -> None:
        """Tell the main thread how far it is."""
        self._worker.events.put(Progressed(self._number, stage, fraction))

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
        # The first job of a task that is kept has the id that the file remembers.
        job, self._job = self._job or None, ""
        if job and self._task.fetch:
            client.fetch(job)
        else:
            job = client.submit(request, pictures, job=job)
        cancelled_at = 0.0
        while True:
            self._worker.tell_health()
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
            if self._task.cancelled.is_set():
                if self._task.left:
                    raise Cancelled(
                        "Blender left the job to the server", "Fetch it when the file is open again"
                    )
                if not cancelled_at:
                    cancelled_at = time.monotonic()
                    client.cancel(job)
                elif time.monotonic() - cancelled_at > _CANCEL_TIMEOUT:
                    raise Cancelled("Cancelled; the server is still busy with it", "Wait, or stop the server")

    def _check_cancelled(self) -> None:
        if self._task.cancelled.is_set():
            raise Cancelled("Cancelled", "")


@dataclass(eq=False)
class _Task:
    """What was submitted: the work, and what has become of it.

    Args:
        job (`str`): id of its job where that is to be kept on the server when Blender goes; otherwise empty.
        fetch (`bool`): that job was sent before.
        left (`bool`): given up by Blender but not by the server.
    """

    work: Work
    command: ServerCommand
    job: str
    fetch: bool
    cancelled: threading.Event = field(default_factory=threading.Event)
    left: bool = False


class Worker:
    """The thread and the server it talks to: first what the main thread calls, then what is the thread's own."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.client: Client | None = None
        self._command: ServerCommand | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._queue: queue.Queue[int] = queue.Queue()  # numbers of tasks; 0 ends the thread
        self._tasks: dict[int, _Task] = {}  # those that are not over
        self._has_left = False
        self._health_at, self._told = 0.0, ""
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="Walk-On", daemon=True)
        self._thread.start()

    # ---- the main thread ---------------------------------------------------------------------------------

    def submit(self, work: Work, command: ServerCommand, job: str = "", fetch: bool = False) -> int:
        """Do this when what was submitted before is done; its `Ended` will carry the number returned.

        Args:
            job (32 hex digits, *optional*): id for the work's first job, by which another Blender can fetch it.
            fetch (`bool`): that job was sent before, maybe by another Blender: wait for its result.
        """
        number = next(self._numbers)
        self._tasks[number] = _Task(work, command, job, fetch)
        self._queue.put(number)
        return number

    def cancel(self, number: int) -> None:
        """Give a task up; harmless when it is over."""
        task = self._tasks.get(number)
        if task is not None:
            task.cancelled.set()

    def leave(self, number: int) -> None:
        """Give a task up, but let the server go on with a job that can be fetched later."""
        task = self._tasks.get(number)
        if task is not None:
            task.left = bool(task.job)
            task.cancelled.set()

    def close(self) -> None:
        """Leave everything, end the thread, stop the server that was started here unless it is to go on."""
        for number in list(self._tasks):
            self.leave(number)
        self._queue.put(0)
        self._thread.join(20)

    # ---- the worker's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                number = self._queue.get(timeout=_IDLE_TICK)
            except queue.Empty:
                self._look_after_server()
                continue
            if number == 0:
                self.disconnect(stop=not (self._has_left and self._is_busy()))
                return
            task = self._tasks[number]
            session = Session(self, number, task)
            result: Any = None
            error: WalkOnError | None = None
            try:
                session._check_cancelled()
                result = task.work(session)
            except ServerUnreachable as lost:
                error = lost
                if self.client is not None:
                    error = self._lost(lost)
                    self.disconnect(stop=True, state=ServerChanged("LOST", "The server is gone"))
            except WalkOnError as failed:
                error = failed
            except Exception as fault:  # noqa: BLE001  (a thread that dies silently is what users hate most)
                error = ServerFault(f"Walk-On's worker failed: {fault!r}", "Report it")
            self._has_left |= task.left
            del self._tasks[number]
            self.events.put(Ended(number, result, error))

    def _is_busy(self) -> bool:
        with contextlib.suppress(WalkOnError):
            if self.client is not None:
                status = self.client.status()
                return bool(status.running or status.waiting)
        return False

    def _look_after_server(self) -> None:
        if self.client is not None:
            try:
                self.client.poll()
                self.tell_health()
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
        connection = read_connection(Path(command.connection_file))
        host = connection.work.removeprefix("tcp://").rpartition(":")[0]
        if not command.online and not _is_loopback(host):
            raise BadInput(
                f"The server is on another machine ({host}), and Blender may not go online",
                "Allow online access in Blender's preferences (System), or use a server on this machine",
                "online",
            )
        self.client = Client(connection)

    def _start(self, command: ServerCommand, check_cancelled: Callable[[], None]) -> None:
        argv = command.argv
        self.events.put(ServerChanged("STARTING", "Starting the server"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            log = open(command.log, "wb")  # noqa: SIM115  (its errors are others than the program's)
        except OSError as error:
            raise BadInput(
                f"{command.log} cannot be written ({error.strerror})",
                "Name a connection file in a folder that can be written, in the add-on's preferences",
                "server",
            ) from error
        try:
            with log:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # Ctrl-C in Blender's terminal is not meant for it, and it may outlive Blender.
                    start_new_session=True,
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
                self._health_at, self._told = 0.0, ""
                return self.tell_health()
            self.events.put(
                ServerChanged("STARTING", f"Loading: {status.stage}" if status.stage else "Loading")
            )
            time.sleep(4 * _TICK)

    def tell_health(self) -> None:
        """Say how the server is where that has changed. Asking every few seconds also keeps it from being idle.

        Raises:
            ServerUnreachable: it does not answer.
        """
        if self.client is None or time.monotonic() < self._health_at + _HEALTH_EVERY:
            return
        self._health_at = time.monotonic()
        status = self.client.status()
        if status.ready and health(status) != self._told:
            self._told = health(status)
            self.events.put(ServerChanged("READY", self._told))

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


def health(status: Status) -> str:
    """What the panel says of a server that is ready: what it computes on and with, and how busy it is."""
    busy = f"{status.waiting} waiting" if status.waiting else "1 job runs" if status.running else "idle"
    # Of what is loaded, the two that there is a choice of.
    chosen = ("placement/", "transfer/")
    models = ", ".join(name.replace("/", " ") for name in sorted(status.weights) if name.startswith(chosen))
    device = "CPU" if status.device == "cpu" else status.device
    return f"{device}, {status.memory / 1e9:.1f} GB, {busy}; {models}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
