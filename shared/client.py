# SPDX-License-Identifier: Apache-2.0
"""The client of a Walk-On server: one class for the command line, the add-on and studio scripts.

    with Client.connect() as client:
        answer, (layer,) = client.run(Insert(seed=1), [scene, actor], on_progress=show)

A server that dies is noticed at once: its connection closes. One that hangs is noticed after `HEARTBEAT`
seconds by ZeroMQ's own heartbeat, which the server's I/O thread answers even while a network computes. Either
ends in `ServerUnreachable`. The job's id stays good: `submit(..., job=id)` to the same or a restarted server
never makes a second job of it where the first is still known.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import msgspec
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from . import messages
from .errors import (
    ActorUnknown,
    BadInput,
    DeadlineExceeded,
    ServerFault,
    ServerUnreachable,
    VersionMismatch,
    WalkOnError,
)
from .messages import Answer, Array, Blob, Failed, Preview, Previewed, Progress, Request, Status

HEARTBEAT = 3.0
"""Seconds of silence after which a connection counts as lost."""

_NEVER = 2**30
"""Milliseconds, twelve days: as long as a connection that was lost is not tried again."""

START = "Start it with `walkon serve`, or Start in the panel"


class Connection(msgspec.Struct, frozen=True):
    """What a connection file holds (JSON, mode 0600): how to reach one server, and the key it asks for.

    Args:
        protocol (`int`), version (`str`), pid (`int`): of the server.
        work, control (`str`): ZeroMQ endpoints.
        key (`str`): 64 hex digits, sent with every message.
    """

    protocol: int
    version: str
    pid: int
    work: str
    control: str
    key: str


def default_connection_file() -> Path:
    """Where `walkon serve` writes its connection file: a folder that only this user reads."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        # The runtime folder is per machine and per login, so a home on the network is no trouble.
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        base = Path(runtime) if runtime else Path.home() / ".local" / "state"
    return base / "walkon" / "server.json"


def read_connection(path: Path) -> Connection:
    """The content of a connection file.

    Raises:
        ServerUnreachable: there is none, or it is none.
        VersionMismatch: its server speaks another protocol.
    """
    try:
        connection = msgspec.json.decode(path.read_bytes(), type=Connection)
    except OSError as error:
        reason = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise ServerUnreachable(f"no server: {path} {reason}", START, str(path)) from error
    except msgspec.DecodeError as error:
        raise ServerUnreachable(f"{path}: is no connection file ({error})", START, str(path)) from error
    if connection.protocol != messages.PROTOCOL:
        raise VersionMismatch(
            f"the server (Walk-On {connection.version}, process {connection.pid}) speaks protocol"
            f" {connection.protocol}, this client {messages.PROTOCOL}",
            "Install the same version of Walk-On on both sides and start the server again",
            str(path),
        )
    return connection


@dataclass(frozen=True, eq=False)
class Finished:
    """A job is done: its answer and its pixels (read-only arrays)."""

    job: str
    answer: Answer
    blobs: list[Array]


Event: TypeAlias = Progress | Finished | Failed


class _Line:
    """One DEALER with its monitor: it never reconnects, so that a key is never sent to a stranger's socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)  # a job that was just submitted still leaves when we close
        self.socket.setsockopt(zmq.SNDHWM, 8)
        # Without bound: no more comes than was asked for, and a full pipe would keep heartbeats from being read.
        self.socket.setsockopt(zmq.RCVHWM, 0)
        # ZeroMQ's own never, -1, and IMMEDIATE drop with the connection what has arrived and is not read yet.
        self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(HEARTBEAT * 1000) - 1000)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, int(HEARTBEAT * 1000))
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )
        self.closed = False
        self.socket.connect(endpoint)

    def events(self) -> list[int]:
        """Monitor events that have happened since; whether the connection is `closed` is known afterwards."""
        found: list[int] = []
        while self.monitor.poll(0):
            found.append(recv_monitor_message(self.monitor)["event"])
        self.closed |= zmq.EVENT_DISCONNECTED in found or zmq.EVENT_CLOSED in found
        return found

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()  # left open, it would keep the context from ending
        self.socket.close(linger=0 if self.closed else None)  # what was sent to the dead goes nowhere


class Client:
    """A connection to one server. One thread makes it and uses it; others give that thread work by a queue.

    Args:
        connection (`Connection`): where the server is.
        timeout (`float`): seconds to wait for its first answer.

    `limits` are the server's; `status_at_connect` is its first answer.

    Raises:
        ServerUnreachable: nothing answers.
        VersionMismatch: the server speaks another protocol.
    """

    def __init__(self, connection: Connection, timeout: float = 5.0) -> None:
        self.connection = connection
        self._thread = threading.get_ident()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._work = _Line(self._context, connection.work)
        self._control = _Line(self._context, connection.control)
        self._poller = zmq.Poller()
        for line in (self._work, self._control):
            self._poller.register(line.socket, zmq.POLLIN)
            self._poller.register(line.monitor, zmq.POLLIN)
        self._asked = 0
        self._replies: dict[int, messages.ControlReply] = {}
        self._events: list[Event] = []
        self._unanswered: set[str] = set()  # sent, neither accepted nor refused yet
        self._pending: set[str] = set()  # sent, no result yet
        self._lost = ""
        try:
            self._wait_for_handshake(timeout)
            self.status_at_connect = self.status(timeout)
        except BaseException:
            self.close()
            raise
        self.limits = self.status_at_connect.limits

    @classmethod
    def connect(cls, connection_file: str | Path | None = None, timeout: float = 5.0) -> Client:
        """Connect to the server of a connection file; the user's own server where none is named.

        Raises:
            ServerUnreachable: there is no such file, or nothing answers.
            VersionMismatch: the server speaks another protocol.
        """
        return cls(read_connection(Path(connection_file or default_connection_file())), timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. Jobs go on; another client can fetch their results by id for some minutes."""
        for line in (self._work, self._control):
            if not line.socket.closed:
                line.close()
        self._context.term()

    # ---- what a caller does ------------------------------------------------------------------------------

    def status(self, timeout: float = 5.0) -> Status:
        """The server's state.

        Raises:
            ServerUnreachable: no answer in time.
        """
        reply = self._ask(messages.StatusRequest(self._next_ask()), timeout)
        assert isinstance(reply, Status)
        return reply

    def submit(
        self,
        request: Request,
        blobs: Sequence[Array] = (),
        deadline: float | None = None,
        job: str | None = None,
    ) -> str:
        """Send a job; does not wait for it.

        Args:
            request (`Request`): e.g. `Insert(seed=1)`.
            blobs (`list` of arrays): the pictures that the request names, `(H, W, 3 or 4)` uint8.
            deadline (seconds, *optional*): the job fails when it is not done by then, waiting included.
            job (`str`, *optional*): id of a job sent before, to send it again without doing it twice.

        Returns:
            `str`: the job's id.

        Raises:
            BadImage, BadInput: beyond the server's limits, or malformed; nothing was sent.
            ServerUnreachable: the connection is lost.
        """
        job = job or uuid.uuid4().hex
        arrays = [np.ascontiguousarray(array) for array in blobs]
        try:
            names = (*request.PICTURES, *("one picture too many" for _ in arrays))
            described = [Blob.of(array, name) for array, name in zip(arrays, names, strict=False)]
            header = messages.encode(messages.Submit(job, request, described, deadline))
        except (TypeError, msgspec.MsgspecError, OverflowError) as error:
            raise BadInput(
                f"request: cannot be sent ({error})", "Give plain numbers and text", "request"
            ) from error
        # The types say what may be sent but nothing checks them when a request is made; decoding does.
        sent = messages.decode(messages.work_requests, header)
        assert isinstance(sent, messages.Submit)
        messages.check(sent.request, sent.blobs, self.limits)
        self._unanswered.add(job)
        self._pending.add(job)
        self._send(self._work, header, arrays)
        return job

    def poll(self, timeout: float = 0.0) -> list[Event]:
        """What has happened to this client's jobs since the last call: `Progress`, `Finished` or `Failed`.

        Args:
            timeout (seconds): how long to wait for something to happen.

        Raises:
            ServerUnreachable: the connection is lost.
        """
        if not self._events:
            self._pump(timeout)
        events, self._events = self._events, []
        return events

    def cancel(self, job: str, timeout: float = 5.0) -> bool:
        """Give a job up, waiting or running; it then ends with `Failed` of code `cancelled`.

        Returns:
            `bool`: False where it was already over or is unknown.
        """
        end = time.monotonic() + timeout
        # Control messages overtake pictures, so wait until the server knows the job.
        while job in self._unanswered and time.monotonic() < end:
            self._pump(end - time.monotonic())
        reply = self._ask(messages.Cancel(self._next_ask(), job), timeout)
        assert isinstance(reply, messages.CancelReply)
        return reply.cancelled

    def fetch(self, job: str) -> None:
        """Ask for a job that another client sent; like this client's own jobs, it is heard of by `poll`.

        Raises:
            ServerUnreachable: the connection is lost.
        """
        self._pending.add(job)
        self._send(self._work, messages.encode(messages.Fetch(job)))

    def result(
        self,
        job: str,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> tuple[Answer, list[Array]]:
        """Wait for a job, also one that another client sent: it is fetched by its id.

        Returns:
            the answer and its pixels (read-only arrays).

        Raises:
            WalkOnError: whatever the job ended with, in the class that the server raised.
            DeadlineExceeded: not done within `timeout` seconds; the job goes on.
            ServerUnreachable: the connection is lost.
        """
        end = time.monotonic() + timeout if timeout is not None else None
        if job not in self._pending and not any(event.job == job for event in self._events):
            self.fetch(job)
        while True:
            for event in [event for event in self._events if event.job in (job, "")]:
                self._events.remove(event)
                if isinstance(event, Failed):
                    raise event.error()
                elif isinstance(event, Finished):
                    return event.answer, event.blobs
                elif on_progress is not None:
                    on_progress(event)
            if end is not None and time.monotonic() >= end:
                raise DeadlineExceeded(
                    f"job {job}: no result within {timeout:g} seconds", "Wait longer, or cancel the job", job
                )
            self._pump(1.0 if end is None else min(1.0, end - time.monotonic()))

    def run(
        self,
        request: Request,
        blobs: Sequence[Array] = (),
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float | None = None,
    ) -> tuple[Answer, list[Array]]:
        """Submit and wait. When the caller is interrupted, the job is cancelled.

        Args:
            timeout (seconds, *optional*): the job's deadline.

        Raises:
            as `submit` and `result`.
        """
        job = self.submit(request, blobs, deadline=timeout)
        try:
            # The server's own word about the deadline is the better one: give it time to arrive.
            return self.result(job, None if timeout is None else timeout + HEARTBEAT, on_progress)
        except WalkOnError:
            raise
        except BaseException:
            if not self._lost:
                self.cancel(job, timeout=1.0)
            raise

    def preview(
        self, request: Preview, photo: Array, timeout: float | None = None
    ) -> tuple[Previewed, Array]:
        """A small picture of the actor in a pose; the photo is sent and analysed when the server doesn't know it.

        Args:
            request (`Preview`): its `actor` is `picture_hash(photo)`; keep that, rather than hash for every pose.
            photo (`(H, W, 3 or 4)` uint8): the actor photo.
            timeout (seconds, *optional*): deadline of each of the up to three jobs.

        Returns:
            where the square lies in the scene, and its pixels `(size, size, 4)` uint8.

        Raises:
            as `run`; `Superseded` where this client asked for a newer one meanwhile.
        """
        try:
            answer, blobs = self.run(request, timeout=timeout)
        except ActorUnknown:
            self.run(messages.Analyse(request.actor_person), [photo], timeout=timeout)
            answer, blobs = self.run(request, timeout=timeout)
        assert isinstance(answer, Previewed)
        return answer, blobs[0]

    # ---- sockets -----------------------------------------------------------------------------------------

    def _next_ask(self) -> int:
        self._asked += 1
        return self._asked

    def _wait_for_handshake(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        for line in (self._work, self._control):
            if not line.monitor.poll(max(0, int((end - time.monotonic()) * 1000))):
                self._lose("does not answer")
            if zmq.EVENT_HANDSHAKE_SUCCEEDED not in line.events():
                self._lose("does not run any more")

    def _ask(self, message: messages.ControlRequest, timeout: float) -> Status | messages.CancelReply:
        self._send(self._control, messages.encode(message))
        end = time.monotonic() + timeout
        while message.ask not in self._replies:
            if time.monotonic() >= end:
                raise ServerUnreachable(
                    f"the server (process {self.connection.pid}) gave no answer within {timeout:g} seconds",
                    "Wait, or stop it and start it again",
                )
            self._pump(end - time.monotonic())
            if self._control.closed and message.ask not in self._replies:
                self._lose("died or closed the connection")
        reply = self._replies.pop(message.ask)
        assert not isinstance(reply, Failed)
        return reply

    def _send(self, line: _Line, header: bytes, arrays: Sequence[Array] = ()) -> None:
        self._check_alive()
        frames: list[Any] = [messages.MAGIC, self.connection.key.encode(), header, *arrays]
        line.socket.setsockopt(zmq.SNDTIMEO, int(HEARTBEAT * 1000))
        try:
            line.socket.send_multipart(frames)
        except zmq.Again:
            self._pump(0.0)
            self._lose("takes no more messages")

    def _check_alive(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Client belongs to the thread that made it")
        if self._lost:
            raise self._unreachable()

    def _pump(self, timeout: float) -> None:
        """Read what has arrived; wait up to `timeout` seconds for something to."""
        self._check_alive()
        self._poller.poll(max(0, int(np.ceil(timeout * 1000))))
        # Look for a closed connection first and read afterwards: what came before the end still counts. A server that
        # stops may close the other line first, while a result is still under way on this one.
        for line in (self._work, self._control):
            line.events()
        for line in (self._work, self._control):
            while line.socket.poll(0):
                parts = line.socket.recv_multipart(copy=False)
                self._read(line, [part.buffer for part in parts])
        if self._work.closed:
            self._lost = "died or closed the connection"
            if not self._events:
                raise self._unreachable()

    def _read(self, line: _Line, frames: list[memoryview]) -> None:
        if len(frames) < 2 or frames[0] != messages.MAGIC:
            raise VersionMismatch(
                f"the server (process {self.connection.pid}) does not speak protocol {messages.PROTOCOL}",
                "Install the same version of Walk-On on both sides and start the server again",
            )
        header = bytes(frames[1])
        if line is self._control:
            reply = messages.decode(messages.control_replies, header)
            if isinstance(reply, Failed):
                raise reply.error()
            self._replies[reply.ask] = reply
            return
        message = messages.decode(messages.work_replies, header)
        self._unanswered.discard(message.job)
        if isinstance(message, messages.Result):
            self._pending.discard(message.job)
            if len(message.blobs) != len(frames) - 2:
                raise ServerFault(
                    f"job {message.job}: the result has {len(frames) - 2} blobs, not {len(message.blobs)}",
                    "Report it with the server's log",
                )
            blobs = [
                messages.array_of(blob, frame, f"result blob {index}")
                for index, (blob, frame) in enumerate(zip(message.blobs, frames[2:], strict=True))
            ]
            self._events.append(Finished(message.job, message.answer, blobs))
        elif isinstance(message, Failed):
            self._pending.discard(message.job)
            self._events.append(message)
        elif isinstance(message, Progress):
            self._events.append(message)

    def _lose(self, reason: str) -> None:
        self._lost = reason
        raise self._unreachable()

    def _unreachable(self) -> ServerUnreachable:
        first, *others = sorted(self._pending) or [""]
        during = f" during job {first}" if first else ""
        if others:
            during += f" and {len(others)} more"
        return ServerUnreachable(
            f"the server (process {self.connection.pid}) {self._lost}{during}",
            START,
            first or self.connection.work,
        )
