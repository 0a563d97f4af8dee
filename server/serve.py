# SPDX-License-Identifier: Apache-2.0
"""The model server: sockets in one thread, networks in two others.

The socket thread owns both ROUTERs and the job tables, and never waits for a network: jobs go to a worker thread
through a queue, what it has to say comes back through another, with a byte on a socket pair to wake the poller. So
a status or a cancel is answered while a network computes. Previews have a lane of their own, table and worker: an
artist who drags a joint does not wait for a whole job. docs/protocol.md describes the wire.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import ipaddress
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil  # type: ignore[import-untyped]
import structlog
import zmq

from server.connection_file import refuse_second_server, remove_connection, write_connection
from server.jobs import Job, JobTable, Outcome, State
from shared import __version__, messages
from shared.client import Connection, default_connection_file
from shared.errors import (
    BadInput,
    Cancelled,
    ServerFault,
    ServerUnreachable,
    VersionMismatch,
    WalkOnError,
)
from shared.limits import Limits
from shared.messages import Answer, Array, Failed, Request

GRACE = 5.0
"""Seconds that the running job gets to finish when the server is asked to stop."""

LONGEST_NAP = 0.5  # seconds; on Windows a signal is only seen when the poller returns

log = structlog.get_logger("walkon")


class Pipeline(Protocol):
    """What does the work; server.pipeline.Pipeline is one."""

    def warm_up(self, progress: Callable[[str], None]) -> None:
        """Run through all stages once; `progress` is told each stage's name."""

    def run(
        self,
        request: Request,
        blobs: Sequence[Array],
        progress: Callable[[str, int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[Answer, list[Array]]:
        """Do one request. `progress(stage, index, count)` raises `Cancelled` when the job was given up."""


# ---- what the worker tells the socket thread -------------------------------------------------------------


@dataclass(frozen=True)
class _Warming:
    stage: str


@dataclass(frozen=True)
class _Warm:
    problem: WalkOnError | None


@dataclass(frozen=True)
class _Stage:
    job: Job
    stage: str
    index: int
    count: int


@dataclass(frozen=True)
class _Done:
    lane: _Lane
    outcome: Outcome


class _Lane:
    """Jobs that are done one after the other, and the thread that does them."""

    def __init__(self, table: JobTable, name: str, work: Callable[[_Lane], None]) -> None:
        self.table = table
        self.todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)


class Server:
    """A server of one pipeline.

    Args:
        pipeline (`Pipeline`): does the work, in a thread of its own.
        connection_file (`Path`, *optional*): where clients look; the user's own place if None.
        host (`str`): a loopback address.
        port (`int`): for work, the next one for control; 0 for any two that are free.
        limits (`Limits`): what it takes at most.
        weights (*optional*): asked once after warm-up for the weights' hashes that `Status` tells.
        grace (`float`): seconds that the running job gets when the server is asked to stop.
        idle (seconds, *optional*): stop when it has had nothing to do and heard nothing for so long.

    Raises:
        BadInput: a host beyond loopback, a port that is taken, or another server runs for that file.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        connection_file: str | Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        weights: Callable[[], dict[str, str]] = dict,
        grace: float = GRACE,
        idle: float | None = None,
    ) -> None:
        self.connection_file = Path(connection_file or default_connection_file())
        self.limits = limits or Limits()
        self._pipeline = pipeline
        self._weights = weights
        self._grace = grace
        self._idle = idle
        self._heard = time.monotonic()
        self._started = time.monotonic()
        self._process = psutil.Process()
        self._jobs = _Lane(JobTable(self.limits), "walkon-worker", self._warm_up_and_do_jobs)
        # What a preview showed is soon stale: little of it is kept.
        small_table = JobTable(self.limits, keep_seconds=30.0, keep_jobs=16)
        self._previews = _Lane(small_table, "walkon-previews", self._do_jobs)
        self._lanes = (self._jobs, self._previews)
        self._warming = "start"
        self.problem: WalkOnError | None = None  # why warm-up failed
        self._known_weights: dict[str, str] = {}
        self._stops = 0
        self._stop_at: float | None = None
        self._undelivered: set[str] = set()  # jobs whose result waits for room in the client's pipe
        self._told: queue.SimpleQueue[_Warming | _Warm | _Stage | _Done] = queue.SimpleQueue()
        self._key = secrets.token_hex(32).encode()

        _check_host(host)
        refuse_second_server(self.connection_file)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._work = self._bind(host, port, self.limits.max_blob_bytes)
            self._control = self._bind(host, port + 1 if port else 0, 1 << 16)
            self.connection = Connection(
                messages.PROTOCOL,
                __version__,
                os.getpid(),
                self._work.getsockopt_string(zmq.LAST_ENDPOINT),
                self._control.getsockopt_string(zmq.LAST_ENDPOINT),
                self._key.decode(),
            )
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    @property
    def ready(self) -> bool:
        """Warmed up."""
        return not self._warming and self.problem is None

    @property
    def worker_is_busy(self) -> bool:
        """Whether a worker thread is still in a network; after `run` only where a stop did not wait for it."""
        return any(lane.thread.is_alive() for lane in self._lanes)

    def stop(self) -> None:
        """Ask the server to stop; from any thread or signal handler. The second time it waits for nothing."""
        self._stops += 1
        self._wake()

    def run(self) -> None:
        """Let clients find the server, and serve until `stop`.

        Raises:
            BadInput: another server was quicker.
        """
        try:
            write_connection(self.connection_file, self.connection)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        log.info(
            "listening",
            work=self.connection.work,
            control=self.connection.control,
            file=str(self.connection_file),
            pid=self.connection.pid,
            version=__version__,
        )
        poller = zmq.Poller()
        for waited_for in (self._work, self._control, self._wake_out):
            poller.register(waited_for, zmq.POLLIN)
        for lane in self._lanes:
            lane.thread.start()
        try:
            while not self._is_over():
                poller.poll(self._nap())
                self._drain_wake()
                self._hear_worker()
                self._receive(self._control, self._read_control)
                self._receive(self._work, self._read_work)
                for lane in self._lanes:
                    for job in lane.table.expire():
                        self._deliver(job)
                for job_id in list(self._undelivered):
                    self._redeliver(job_id)
                self._start_next()
                self._stop_if_idle()
        finally:
            self._close()

    # ---- the loop's parts --------------------------------------------------------------------------------

    def _stop_if_idle(self) -> None:
        if self._idle is None or self._stops:
            return
        if self._warming or self._waiting() or self._running():
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self._idle:
            log.info("idle", seconds=self._idle)
            self._stops = 1

    def _nap(self) -> int:
        due = [lane.table.seconds_to_next() for lane in self._lanes]
        nap = min([LONGEST_NAP, *(seconds for seconds in due if seconds is not None)])
        if self._undelivered:
            nap = min(nap, 0.05)
        return int(np.ceil(nap * 1000))

    def _is_over(self) -> bool:
        if self._stops == 0:
            return False
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._grace
            log.info("stopping", waiting=self._waiting(), running=self._running())
            for lane in self._lanes:
                for job in lane.table.fail_waiting(_stopped()):
                    self._deliver(job)
        return not self._running() or self._stops > 1 or time.monotonic() >= self._stop_at

    def _running(self) -> str:
        active = [lane.table.active for lane in self._lanes]
        running = [job.id for job in active if job is not None and job.state is State.RUNNING]
        return running[0] if running else ""

    def _waiting(self) -> int:
        return sum(lane.table.waiting for lane in self._lanes)

    def _find(self, job_id: str) -> Job | None:
        return self._jobs.table.find(job_id) or self._previews.table.find(job_id)

    def _lane_of(self, request: Request) -> _Lane:
        return self._previews if isinstance(request, messages.Analyse | messages.Preview) else self._jobs

    def _start_next(self) -> None:
        for lane in self._lanes:
            if self.ready and (job := lane.table.begin()) is not None:
                lane.todo.put(job)

    def _close(self) -> None:
        for lane in self._lanes:
            for job in lane.table.fail_running(_stopped()) + lane.table.fail_waiting(_stopped()):
                self._deliver(job)
            lane.todo.put(None)
        for lane in self._lanes:
            lane.thread.join(0.5)
        remove_connection(self.connection_file, self.connection)
        self._context.destroy(linger=1000)  # the last answers still leave
        self._wake_in.close()
        self._wake_out.close()
        log.info("stopped")

    def _bind(self, host: str, port: int, max_frame: int) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.MAXMSGSIZE, max_frame)
        # Counted in messages, and one may hold several large frames.
        router.setsockopt(zmq.RCVHWM, 4)
        router.setsockopt(zmq.SNDHWM, 32)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an error instead of silence when a client is gone
        # No heartbeat from this side: a client whose pipe is full reads no ping, and would lose what waits for it.
        router.setsockopt(zmq.HANDSHAKE_IVL, 3000)
        try:
            router.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            raise BadInput(
                f"port {port} on {host}: cannot be used ({zmq.strerror(error.errno or 0)})",
                "Choose another port, or 0 for any that is free",
                "port",
            ) from error
        return router

    # ---- worker threads ----------------------------------------------------------------------------------

    def _tell(self, event: _Warming | _Warm | _Stage | _Done) -> None:
        self._told.put(event)
        self._wake()

    def _warm_up_and_do_jobs(self, lane: _Lane) -> None:
        started = time.monotonic()
        try:
            self._pipeline.warm_up(lambda stage: self._tell(_Warming(stage)))
            self._known_weights = self._weights()
        except WalkOnError as error:
            log.error("warm-up failed", code=error.code, error=str(error))
            self._tell(_Warm(error))
            return
        except Exception as error:  # whatever it is, clients are to be told
            log.exception("warm-up failed")
            self._tell(_Warm(_fault("warm-up", error)))
            return
        log.info("ready", seconds=round(time.monotonic() - started, 2))
        self._tell(_Warm(None))
        self._do_jobs(lane)

    def _do_jobs(self, lane: _Lane) -> None:
        while (job := lane.todo.get()) is not None:
            outcome = self._do(job)
            del job  # its pictures
            self._tell(_Done(lane, outcome))
            del outcome

    def _do(self, job: Job) -> Outcome:
        bound = log.bind(job=job.id, request=type(job.request).__name__.lower())
        started = time.monotonic()

        def progress(stage: str, index: int, count: int) -> None:
            if job.given_up.is_set():
                raise Cancelled(f"job {job.id}: was given up", "Send it again if it was a mistake", job.id)
            self._tell(_Stage(job, stage, index, count))

        try:
            answer, pixels = self._pipeline.run(job.request, job.blobs, progress, job.given_up.is_set)
            arrays = [np.ascontiguousarray(array) for array in pixels]
            described = [
                messages.Blob.of(array, f"result blob {index}") for index, array in enumerate(arrays)
            ]
            header = messages.encode(messages.Result(job.id, answer, described))
            # What no client could read is this job's failure.
            messages.decode(messages.work_replies, header)
        except WalkOnError as error:
            bound.info("failed", code=error.code, error=str(error))
            return Outcome(error=error)
        except Exception as error:  # noqa: BLE001 - one bad job must not end the server
            bound.exception("failed")
            return Outcome(error=_fault(f"job {job.id}", error))
        bound.info("done", seconds=round(time.monotonic() - started, 3))
        return Outcome(header, arrays)

    # ---- from the worker ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        # Full: the poller wakes anyway. Closed: nobody is left to wake.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_out.recv(4096):
                pass

    def _hear_worker(self) -> None:
        while not self._told.empty():
            event = self._told.get()
            if isinstance(event, _Warming):
                self._warming = event.stage
            elif isinstance(event, _Warm):
                self._warming = ""
                self.problem = event.problem
                if event.problem is not None:
                    for lane in self._lanes:
                        for job in lane.table.fail_waiting(event.problem):
                            self._deliver(job)
            elif isinstance(event, _Stage):
                job = event.job
                if job.state is State.RUNNING:
                    self._reply(
                        self._work,
                        job.owner,
                        messages.Progress(job.id, job.progress, event.stage, event.index, event.count),
                    )
                    job.progress += 1
            else:
                ended = event.lane.table.worker_done(event.outcome)
                if ended is not None:
                    self._deliver(ended)

    # ---- to clients --------------------------------------------------------------------------------------

    def _reply(
        self,
        router: zmq.Socket[bytes],
        identity: bytes,
        message: messages.WorkReply | messages.ControlReply,
    ) -> bool:
        """As `_send`."""
        return self._send(router, identity, messages.encode(message))

    def _send(
        self, router: zmq.Socket[bytes], identity: bytes, header: bytes, blobs: Sequence[Array] = ()
    ) -> bool:
        """Send, without waiting. False if the client's pipe is full; a client that is gone counts as sent."""
        frames: list[Any] = [identity, messages.MAGIC, header, *blobs]
        try:
            router.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            log.info("client is gone")
        return True

    def _deliver(self, job: Job) -> None:
        outcome = job.outcome
        assert outcome is not None
        if outcome.error is not None:
            header = messages.encode(Failed.of(job.id, outcome.error))
        else:
            header = outcome.header
        if self._send(self._work, job.owner, header, outcome.blobs):
            self._undelivered.discard(job.id)
        else:
            self._undelivered.add(job.id)

    def _redeliver(self, job_id: str) -> None:
        job = self._find(job_id)
        if job is None:
            self._undelivered.discard(job_id)  # kept long enough
        else:
            self._deliver(job)

    # ---- from clients ------------------------------------------------------------------------------------

    def _receive(
        self, router: zmq.Socket[bytes], read: Callable[[bytes, bytes, list[memoryview]], None]
    ) -> None:
        """Read one socket until it is empty. Nothing that arrives may end the server."""
        while router.poll(0):
            identity, *frames = [frame.buffer for frame in router.recv_multipart(copy=False)]
            try:
                header, blobs = self._open(frames)
            except WalkOnError as error:
                log.warning("refused a message", code=error.code, error=error.message)
                # Only who spoke our protocol gets an answer.
                if frames and bytes(frames[0][:7]) == messages.MAGIC[:7]:
                    self._reply(router, bytes(identity), Failed.of("", error))
                continue
            try:
                read(bytes(identity), header, blobs)
            except WalkOnError as error:
                job_id = messages.job_of(header)
                log.warning("refused a message", job=job_id, code=error.code, error=error.message)
                self._reply(router, bytes(identity), Failed.of(job_id, error))
            except Exception as error:  # a fault of ours in one message must not end all jobs
                job_id = messages.job_of(header)
                log.exception("failed to read a message", job=job_id)
                self._reply(router, bytes(identity), Failed.of(job_id, _fault("message", error)))

    def _open(self, frames: list[memoryview]) -> tuple[bytes, list[memoryview]]:
        """Header and blobs of a message from somebody who holds the key."""
        if not frames or bytes(frames[0][:64]) != messages.MAGIC:
            raise VersionMismatch(
                f"the server (Walk-On {__version__}) speaks protocol {messages.PROTOCOL} and takes no other",
                "Install the same version of Walk-On on both sides",
            )
        if len(frames) < 3:
            raise BadInput(
                f"message: has {len(frames)} frames, not at least 3",
                "Send protocol, key and header, then the blobs",
                "message",
            )
        if not hmac.compare_digest(bytes(frames[1][:128]), self._key):
            raise BadInput(
                "key: is not this server's",
                "Read the connection file again: the server was started anew",
                "key",
            )
        if frames[2].nbytes > self.limits.max_header_bytes:
            raise BadInput(
                f"message header: has {frames[2].nbytes} bytes; the server takes {self.limits.max_header_bytes}",
                "Send pixels as frames after the header, not in it",
                "header",
            )
        self._heard = time.monotonic()
        return bytes(frames[2]), frames[3:]

    def _read_control(self, identity: bytes, header: bytes, blobs: list[memoryview]) -> None:
        message = messages.decode(messages.control_requests, header)
        if isinstance(message, messages.Cancel):
            found = self._find(message.job)
            job = None if found is None else self._lane_of(found.request).table.cancel(found.id)
            self._reply(
                self._control, identity, messages.CancelReply(message.ask, message.job, job is not None)
            )
            if job is not None:
                log.info("cancelled", job=job.id)
                self._deliver(job)
        else:
            self._reply(self._control, identity, self._status(message.ask))

    def _read_work(self, identity: bytes, header: bytes, blobs: list[memoryview]) -> None:
        message = messages.decode(messages.work_requests, header)
        if isinstance(message, messages.Submit):
            job = self._admit(identity, message, blobs)
        else:
            found = self._find(message.job)
            if found is None:
                raise BadInput(
                    f"job {message.job}: is not known here",
                    f"Send it again; results are kept for {self._jobs.table.keep_seconds / 60:.0f} minutes",
                    "job",
                )
            job = found
            job.owner = identity
        ahead = self._lane_of(job.request).table.ahead_of(job)
        self._reply(self._work, identity, messages.Accepted(job.id, ahead))
        if job.state is State.OVER:
            self._deliver(job)

    def _admit(self, identity: bytes, message: messages.Submit, blobs: list[memoryview]) -> Job:
        if len(blobs) != len(message.blobs):
            raise BadInput(
                f"blobs: {len(blobs)} frames follow the header, which describes {len(message.blobs)}",
                "Send one frame for each blob",
                "blobs",
            )
        messages.check(message.request, message.blobs, self.limits)
        arrays = [
            messages.array_of(blob, frame, name)
            for blob, frame, name in zip(message.blobs, blobs, message.request.PICTURES, strict=False)
        ]
        known = self._find(message.job)
        if known is None:
            if self._stops:
                raise _stopped()
            if self.problem is not None:
                raise self.problem
        # A known id goes to its own lane, which refuses it where the request is another.
        table = self._lane_of(message.request if known is None else known.request).table
        job = table.submit(message.job, message.request, message.blobs, arrays, identity, message.deadline)
        if isinstance(job.request, messages.Preview):
            for older in table.supersede(job):
                self._deliver(older)
        log.info("accepted", job=job.id, request=type(job.request).__name__.lower(), state=job.state.value)
        return job

    def _status(self, ask: int) -> messages.Status:
        problem = self.problem
        return messages.Status(
            ask=ask,
            ready=self.ready,
            stage=self._warming,
            problem=None if problem is None else messages.Problem(problem.code, problem.message, problem.fix),
            stopping=self._stops > 0,
            version=__version__,
            protocol=messages.PROTOCOL,
            pid=self.connection.pid,
            limits=self.limits,
            waiting=self._waiting(),
            running=self._running(),
            device="cpu",
            memory=self._process.memory_info().rss,
            weights=self._known_weights,
            uptime=time.monotonic() - self._started,
        )


def _stopped() -> ServerUnreachable:
    return ServerUnreachable("the server was stopped", "Start it again and send the job again")


def _fault(where: str, error: Exception) -> ServerFault:
    if isinstance(error, MemoryError):
        return ServerFault(
            f"{where}: the server ran out of memory", "Use smaller pictures, or close other programs"
        )
    return ServerFault(
        f"{where}: the server failed ({type(error).__name__}: {error})", "Report it with the server's log"
    )


def _check_host(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadInput(
            f"host: {host} is not a loopback address (127.0.0.1); connections from elsewhere would not be encrypted",
            "Leave the host out and reach the server from another machine through an SSH tunnel",
            "host",
        )


# ---- the program -----------------------------------------------------------------------------------------


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    connection_file: str | Path | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
    idle: float | None = None,
) -> int:
    """Run the server of the real pipeline until SIGTERM or Ctrl-C. Logs JSON lines to standard error.

    Args:
        host (`str`), port (`int`), connection_file (`Path`, *optional*), limits (`Limits`, *optional*),
        idle (seconds, *optional*): see `Server`.
        threads (`int`, *optional*): for the networks, as of `Pipeline`.

    Returns:
        `int`: exit code: 1 where warm-up failed, 0 otherwise.

    Raises:
        BadInput: see `Server`.
    """
    from server.pipeline import GENERATORS, Pipeline, versions

    pipeline = Pipeline(threads)
    server = Server(
        pipeline,
        connection_file,
        host,
        port,
        limits,
        weights=lambda: pipeline.weights(GENERATORS[0], pipeline.placement),
        idle=idle,
    )
    # This loads the large native libraries. A thread that does so holds all others up, on a slow disk for
    # longer than a client waits for an answer: so it is done before a client can find the server.
    versions()
    return run_until_stopped(server)


def run_until_stopped(server: Server) -> int:
    """Run a server as this process's main work: log to standard error, stop on SIGTERM and Ctrl-C.

    Returns:
        `int`: exit code: 1 where warm-up failed, 0 otherwise.
    """
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    server.run()
    code = 1 if server.problem is not None else 0
    if server.worker_is_busy:
        # Taking the interpreter down under a network that computes can crash; there is nothing left to save.
        sys.stderr.flush()
        os._exit(code)
    return code


def main() -> None:
    """`python -m server.serve`: the same as `walkon serve`."""
    parser = argparse.ArgumentParser(prog="python -m server.serve", description="Run the Walk-On server.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--connection-file", help="where clients look for the server")
    parser.add_argument("--threads", type=int, help="threads for the networks")
    parser.add_argument("--idle", type=float, help="seconds without work or a word after which it stops")
    given = parser.parse_args()
    try:
        code = serve(given.host, given.port, given.connection_file, given.threads, idle=given.idle)
    except WalkOnError as error:
        parser.exit(2, f"error: {error}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
