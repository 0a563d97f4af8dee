# SPDX-License-Identifier: Apache-2.0
"""The job table, under any order of events: a simple model beside it tells what must be true."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.jobs import JobTable, Outcome, State
from shared.errors import BadInput, Cancelled, DeadlineExceeded, Overloaded, ServerFault
from shared.limits import Limits
from shared.messages import Blob, Detect, Insert

LIMITS = Limits(max_queue=3, max_queue_bytes=1000)
IDS = [f"{n:032x}" for n in range(6)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(table, job_id, nbytes=100, owner=b"a", deadline=None, request=None):
    blob = np.zeros(nbytes, np.uint8)
    return table.submit(job_id, request or Detect(), [Blob.of(blob)], [blob], owner, deadline)


def done(nbytes=0):
    return Outcome(b"result", [np.zeros(nbytes, np.uint8)])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(clock):
    return JobTable(LIMITS, clock)


def test_jobs_are_done_in_the_order_in_which_they_came(table):
    for job_id in IDS[:3]:
        put(table, job_id)
    order = []
    while (job := table.begin()) is not None:
        assert table.begin() is None  # one at a time
        order.append(job.id)
        assert table.worker_done(done()) is job
    assert order == IDS[:3]


def test_same_job_twice_is_one_job_with_the_newest_owner(table):
    first = put(table, IDS[0], owner=b"a")
    assert put(table, IDS[0], owner=b"b") is first
    assert first.owner == b"b"
    assert table.waiting == 1
    table.begin()
    assert put(table, IDS[0]) is first
    table.worker_done(done())
    assert put(table, IDS[0]) is first
    assert first.outcome is not None
    assert first.state is State.OVER


def test_id_of_another_job_is_refused(table):
    put(table, IDS[0])
    with pytest.raises(BadInput, match="the id belongs to another job"):
        put(table, IDS[0], request=Insert())
    with pytest.raises(BadInput, match="the id belongs to another job"):
        put(table, IDS[0], nbytes=101)


def test_full_queue_refuses_by_number_and_leaves_no_trace(table):
    for job_id in IDS[:3]:
        put(table, job_id)
    with pytest.raises(Overloaded, match="queue is full: 3 jobs, 0 MB"):
        put(table, IDS[3])
    assert table.find(IDS[3]) is None
    table.begin()
    table.worker_done(done())
    put(table, IDS[3])


def test_full_queue_refuses_by_bytes(table):
    put(table, IDS[0], nbytes=600)
    with pytest.raises(Overloaded, match="queue is full"):
        put(table, IDS[1], nbytes=401)
    put(table, IDS[1], nbytes=400)


def test_pictures_of_a_cancelled_job_count_while_the_worker_holds_them(table):
    job = put(table, IDS[0], nbytes=800)
    table.begin()
    table.cancel(IDS[0])
    assert table.nbytes == 800
    with pytest.raises(Overloaded):
        put(table, IDS[1], nbytes=300)
    assert len(job.blobs) == 1
    table.worker_done(done())
    assert table.nbytes == 0
    assert len(job.blobs) == 0
    put(table, IDS[1], nbytes=300)


def test_deadline_of_a_waiting_job_comes_while_another_runs(table, clock):
    put(table, IDS[0])
    table.begin()
    late = put(table, IDS[1], deadline=1.0)
    assert table.seconds_to_next() == pytest.approx(1.0)
    clock.now += 0.9
    assert table.expire() == []
    clock.now += 0.1
    assert table.expire() == [late]
    assert isinstance(late.outcome.error, DeadlineExceeded)
    assert "waiting behind 1" in late.outcome.error.message
    assert table.waiting == 0
    assert table.active.id == IDS[0]


def test_deadline_of_the_running_job_gives_it_up_and_drops_its_late_result(table, clock):
    job = put(table, IDS[0], deadline=1.0)
    table.begin()
    clock.now += 2
    assert table.expire() == [job]
    assert job.given_up.is_set()
    assert "it was running" in job.outcome.error.message
    assert table.begin() is None  # the worker is still on it
    assert table.worker_done(done()) is None
    assert isinstance(job.outcome.error, DeadlineExceeded)


def test_cancel_ends_a_job_once_and_touches_no_other(table):
    first, second = put(table, IDS[0]), put(table, IDS[1])
    assert table.cancel(IDS[5]) is None
    assert table.cancel(IDS[1]) is second
    assert table.cancel(IDS[1]) is None
    assert isinstance(second.outcome.error, Cancelled)
    assert not first.given_up.is_set()
    table.begin()
    assert table.cancel(IDS[0]) is first
    assert table.worker_done(done()) is None
    assert isinstance(first.outcome.error, Cancelled)
    assert table.cancel(IDS[0]) is None


def test_results_are_kept_for_a_while(table, clock):
    put(table, IDS[0])
    table.begin()
    table.worker_done(done())
    clock.now += table.keep_seconds - 1
    table.expire()
    assert table.find(IDS[0]) is not None
    clock.now += 1
    assert table.seconds_to_next() == 0.0
    table.expire()
    assert table.find(IDS[0]) is None
    assert table.seconds_to_next() is None


def test_results_are_kept_up_to_a_size_and_the_newest_always(clock):
    table = JobTable(LIMITS, clock, keep_bytes=100)
    for job_id, size in zip(IDS, [60, 60, 30, 500], strict=False):
        put(table, job_id)
        table.begin()
        table.worker_done(done(size))
        assert table.find(job_id) is not None
        if job_id == IDS[2]:
            assert table.find(IDS[0]) is None
            assert table.find(IDS[1]) is not None
            assert table.kept_bytes == 90
    assert table.kept_bytes == 500


def test_number_of_kept_results_is_bounded(clock):
    table = JobTable(LIMITS, clock, keep_jobs=2)
    for job_id in IDS:
        put(table, job_id)
        table.cancel(job_id)
    assert [table.find(job_id) is not None for job_id in IDS] == [False] * 4 + [True] * 2


def test_all_jobs_can_be_failed_when_the_server_stops(table):
    running, waiting = put(table, IDS[0]), put(table, IDS[1])
    table.begin()
    error = ServerFault("the server was stopped", "Start it again")
    assert table.fail_waiting(error) == [waiting]
    assert table.fail_running(error) == [running]
    assert table.fail_running(error) == []
    assert running.given_up.is_set()
    assert waiting.outcome.error is error


class JobsInAnyOrder(RuleBasedStateMachine):
    """Submit, begin, finish, cancel, time: whatever the order, each job ends once and nothing leaks."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.table = JobTable(LIMITS, self.clock, keep_seconds=50, keep_bytes=300, keep_jobs=4)
        self.queue: list[str] = []  # what must be waiting, in order
        self.active: str | None = None
        self.active_over = False
        self.ended: dict[int, object] = {}  # id of the job object -> its outcome
        self.jobs: list[object] = []
        self.expires: dict[str, float] = {}

    def has_ended(self, job) -> None:
        assert id(job) not in self.ended, "ended twice"
        assert job.state is State.OVER
        self.ended[id(job)] = job.outcome
        self.expires.pop(job.id, None)
        if job.id in self.queue:
            self.queue.remove(job.id)
        if job.id == self.active:
            self.active_over = True

    @rule(job_id=st.sampled_from(IDS), nbytes=st.integers(0, 600), deadline=st.none() | st.floats(0.1, 20))
    def submit(self, job_id, nbytes, deadline) -> None:
        known = self.table.find(job_id)
        held = self.table.nbytes
        count = len(self.queue) + (self.active is not None)
        try:
            job = put(self.table, job_id, nbytes, deadline=deadline)
        except Overloaded:
            assert known is None
            assert count >= LIMITS.max_queue or held + nbytes > LIMITS.max_queue_bytes
            return
        except BadInput:
            assert known is not None
            return
        if known is not None:
            assert job is known
            return
        assert count < LIMITS.max_queue
        self.jobs.append(job)
        self.queue.append(job_id)
        if deadline is not None:
            self.expires[job_id] = self.clock.now + deadline

    @rule()
    def begin(self) -> None:
        job = self.table.begin()
        if self.active is not None or not self.queue:
            assert job is None
            return
        assert job.id == self.queue.pop(0)
        assert not job.given_up.is_set()
        self.active, self.active_over = job.id, False

    @rule(nbytes=st.integers(0, 200), fails=st.booleans())
    def worker_is_done(self, nbytes, fails) -> None:
        if self.active is None:
            return
        over, self.active_over = self.active_over, False
        self.active = None
        outcome = Outcome(error=ServerFault("it broke", "Report it")) if fails else done(nbytes)
        job = self.table.worker_done(outcome)
        assert (job is None) == over
        if job is not None:
            assert job.outcome is outcome
            self.has_ended(job)

    @rule(job_id=st.sampled_from(IDS))
    def cancel(self, job_id) -> None:
        alive = job_id in self.queue or (job_id == self.active and not self.active_over)
        job = self.table.cancel(job_id)
        assert (job is not None) == alive
        if job is not None:
            assert job.given_up.is_set()
            self.has_ended(job)

    @rule(seconds=st.floats(0, 30))
    def time_goes_by(self, seconds) -> None:
        self.clock.now += seconds
        due = {job_id for job_id, at in self.expires.items() if at <= self.clock.now}
        late = self.table.expire()
        assert {job.id for job in late} == due
        for job in late:
            self.has_ended(job)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.waiting == len(self.queue)
        assert self.table.waiting + (self.active is not None) <= LIMITS.max_queue
        assert self.table.nbytes <= LIMITS.max_queue_bytes
        assert (self.table.active.id if self.table.active else None) == self.active
        for job in self.jobs:
            if id(job) in self.ended:
                assert job.outcome is self.ended[id(job)], "an outcome changed"
                assert job.id == self.active or len(job.blobs) == 0, "pictures of a job that is over"
            else:
                assert job.state is not State.OVER
                assert self.table.find(job.id) is job, "a living job was lost"
        kept = [self.table.find(job_id) for job_id in IDS]
        kept = [job for job in kept if job is not None and job.state is State.OVER]
        assert sum(job.outcome.nbytes for job in kept) <= max(300, *(job.outcome.nbytes for job in kept), 0)
        next_ = self.table.seconds_to_next()
        assert next_ is None or next_ >= 0
        if self.expires:
            assert next_ <= max(0.0, min(self.expires.values()) - self.clock.now) + 1e-9


TestJobsInAnyOrder = JobsInAnyOrder.TestCase
TestJobsInAnyOrder.settings = hypothesis.settings(max_examples=80, stateful_step_count=40, deadline=None)
