# SPDX-License-Identifier: Apache-2.0
"""The table of jobs: a bounded queue, deadlines, cancelling, kept results. No sockets, no threads of its own.

One thread owns the table. A worker thread only sees a `Job` that `begin` handed out, and of it only what
never changes, and `given_up`. A job ends exactly once; what the worker returns for a job that ended meanwhile
(cancelled, deadline) is dropped.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from shared.errors import BadInput, Cancelled, DeadlineExceeded, Overloaded, Superseded, WalkOnError
from shared.limits import Limits
from shared.messages import Array, Blob, Request

KEEP_SECONDS = 600.0
"""How long a result can be fetched: Blender may have to be restarted meanwhile."""

KEEP_BYTES = 256_000_000
KEEP_JOBS = 256


class State(Enum):
    """Life of a job: waiting, running, over."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a job ended: the header of its result, encoded, with the pixels; or an error."""

    header: bytes = b""
    blobs: Sequence[Array] = ()
    error: WalkOnError | None = None

    @property
    def nbytes(self) -> int:
        """Size of the pixels."""
        return sum(int(blob.nbytes) for blob in self.blobs)


@dataclass(eq=False)
class Job:
    """One job.

    Args:
        id (`str`): made by the client.
        request (`Request`), described (`tuple[Blob, ...]`): what to do; they tell a repeated job from another.
        blobs (sequence of arrays): the pictures; let go when the job ends.
        owner (`bytes`): socket identity of whoever asked last; progress and result go there.
        nbytes (`int`): size of the pictures.
        expires (`float`, *optional*): the clock's time by which it must be done.
    """

    id: str
    request: Request
    described: tuple[Blob, ...]
    blobs: Sequence[Array]
    owner: bytes
    nbytes: int
    expires: float | None
    state: State = State.WAITING
    outcome: Outcome | None = None
    ended: float = 0.0
    progress: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)
    """Set when nobody wants the result any more; the worker looks between stages."""


class JobTable:
    """All jobs of one server.

    Args:
        limits (`Limits`): how many jobs and bytes may wait.
        clock (*optional*): seconds that only grow; tests bring their own.
        keep_seconds (`float`), keep_bytes (`int`), keep_jobs (`int`): how long results can be fetched, and how
            much of them is kept; the newest always is.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        keep_seconds: float = KEEP_SECONDS,
        keep_bytes: int = KEEP_BYTES,
        keep_jobs: int = KEEP_JOBS,
    ) -> None:
        self.limits = limits
        self.keep_seconds = keep_seconds
        self.keep_bytes = keep_bytes
        self.keep_jobs = keep_jobs
        self._clock = clock
        self._waiting: OrderedDict[str, Job] = OrderedDict()
        self._active: Job | None = None  # what the worker is on, even if it is over for everybody else
        self._over: OrderedDict[str, Job] = OrderedDict()  # in the order in which they ended
        self._over_bytes = 0

    @property
    def waiting(self) -> int:
        """Jobs in the queue, without the running one."""
        return len(self._waiting)

    @property
    def active(self) -> Job | None:
        """The job that the worker is on."""
        return self._active

    @property
    def nbytes(self) -> int:
        """Bytes of pictures that jobs hold, waiting or with the worker."""
        held = sum(job.nbytes for job in self._waiting.values())
        return held + (self._active.nbytes if self._active is not None else 0)

    @property
    def kept_bytes(self) -> int:
        """Bytes of results that are kept."""
        return self._over_bytes

    def find(self, job_id: str) -> Job | None:
        """The job of that id, in whatever state, if it is known."""
        if self._active is not None and self._active.id == job_id:
            return self._active
        return self._waiting.get(job_id) or self._over.get(job_id)

    def ahead_of(self, job: Job) -> int:
        """Jobs that will be done before this one."""
        if job.state is not State.WAITING:
            return 0
        return list(self._waiting).index(job.id) + (self._active is not None)

    def submit(
        self,
        job_id: str,
        request: Request,
        described: Sequence[Blob],
        blobs: Sequence[Array],
        owner: bytes,
        deadline: float | None = None,
    ) -> Job:
        """Put a job in the queue. One that is known already is given back as it is, with the new owner.

        Args:
            deadline (seconds from now, *optional*): by when it must be done.

        Raises:
            Overloaded: the queue is full, in jobs or in bytes.
            BadInput: the id belongs to another job.
        """
        known = self.find(job_id)
        if known is not None:
            if (known.request, known.described) != (request, tuple(described)):
                raise BadInput(
                    f"job {job_id}: the id belongs to another job", "Make a new id for each job", "job"
                )
            known.owner = owner
            return known
        nbytes = sum(int(blob.nbytes) for blob in blobs)
        # The job the worker is on counts although it may be over: its pictures are still in memory.
        held = len(self._waiting) + (self._active is not None)
        if held >= self.limits.max_queue or self.nbytes + nbytes > self.limits.max_queue_bytes:
            raise Overloaded(
                f"the server's queue is full: {held} jobs, {self.nbytes / 1e6:.0f} MB",
                "Try again when one of them is done",
                "job",
            )
        expires = None if deadline is None else self._clock() + deadline
        job = Job(job_id, request, tuple(described), blobs, owner, nbytes, expires)
        self._waiting[job_id] = job
        return job

    def begin(self) -> Job | None:
        """Take the next job for the worker; None when there is none or the worker is busy."""
        if self._active is not None or not self._waiting:
            return None
        _, job = self._waiting.popitem(last=False)
        job.state = State.RUNNING
        self._active = job
        return job

    def worker_done(self, outcome: Outcome) -> Job | None:
        """The worker is through with the active job.

        Returns:
            `Job`, if this ended it; None if it was over before.
        """
        job = self._active
        assert job is not None, "the worker had no job"
        self._active = None
        job.blobs = ()
        if job.state is State.OVER:
            return None
        self._end(job, outcome)
        return job

    def cancel(self, job_id: str) -> Job | None:
        """Give a job up.

        Returns:
            `Job`, if this ended it; None if it was over before, or is unknown.
        """
        job = self.find(job_id)
        if job is None or job.state is State.OVER:
            return None
        self._give_up(
            job, Cancelled(f"job {job_id}: was cancelled", "Send it again if it was a mistake", job_id)
        )
        return job

    def supersede(self, newest: Job) -> list[Job]:
        """End the waiting jobs that the same client asked for before, of the same kind of request.

        Returns:
            the jobs that this ended.
        """
        older = [
            job
            for job in self._waiting.values()
            if job is not newest and job.owner == newest.owner and type(job.request) is type(newest.request)
        ]
        for job in older:
            error = Superseded(
                f"job {job.id}: a newer one of its kind came before it began",
                "Wait for the newer one",
                job.id,
            )
            self._give_up(job, error)
        return older

    def expire(self) -> list[Job]:
        """End the jobs whose deadline has come, and forget results that were kept long enough.

        Returns:
            the jobs that this ended.
        """
        now = self._clock()
        active = [self._active] if self._active is not None else []
        late = [
            job
            for job in (*active, *self._waiting.values())
            if job.state is not State.OVER and job.expires is not None and job.expires <= now
        ]
        for job in late:
            what = "running" if job.state is State.RUNNING else f"waiting behind {self.ahead_of(job)}"
            error = DeadlineExceeded(
                f"job {job.id}: was not done by its deadline (it was {what})",
                "Give it more time, or try again when the server is less busy",
                job.id,
            )
            self._give_up(job, error)
        self._forget(now)
        return late

    def seconds_to_next(self) -> float | None:
        """Until `expire` has something to do; None when nothing is due."""
        active = [self._active] if self._active is not None else []
        due = [
            job.expires
            for job in (*active, *self._waiting.values())
            if job.state is not State.OVER and job.expires is not None
        ]
        due += [job.ended + self.keep_seconds for job in list(self._over.values())[:1]]
        return max(0.0, min(due) - self._clock()) if due else None

    def fail_waiting(self, error: WalkOnError) -> list[Job]:
        """End all waiting jobs with that error.

        Returns:
            the jobs that this ended.
        """
        jobs = list(self._waiting.values())
        for job in jobs:
            self._give_up(job, error)
        return jobs

    def fail_running(self, error: WalkOnError) -> list[Job]:
        """End the running job, if there is one, with that error; the worker may still be on it.

        Returns:
            the jobs that this ended, at most one.
        """
        job = self._active
        if job is None or job.state is State.OVER:
            return []
        self._give_up(job, error)
        return [job]

    def _give_up(self, job: Job, error: WalkOnError) -> None:
        job.given_up.set()
        self._waiting.pop(job.id, None)
        self._end(job, Outcome(error=error))

    def _end(self, job: Job, outcome: Outcome) -> None:
        job.state = State.OVER
        job.outcome = outcome
        job.ended = self._clock()
        if job is not self._active:
            job.blobs = ()
        self._over[job.id] = job
        self._over_bytes += outcome.nbytes
        self._forget(job.ended)

    def _forget(self, now: float) -> None:
        while self._over:
            oldest = next(iter(self._over.values()))
            assert oldest.outcome is not None
            too_much = self._over_bytes > self.keep_bytes or len(self._over) > self.keep_jobs
            if oldest.ended + self.keep_seconds > now and not (too_much and len(self._over) > 1):
                return
            del self._over[oldest.id]
            self._over_bytes -= oldest.outcome.nbytes
