# SPDX-License-Identifier: Apache-2.0
"""Server and client over real sockets, the server in a process of its own."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid

import msgpack
import numpy as np
import pytest
import zmq
from server_process import REAL, TINY, servers, wait_until_running
from tiny_server import bright_person, cut_out

from shared import messages
from shared.client import Client, Connection, default_connection_file
from shared.errors import (
    BadImage,
    BadInput,
    Cancelled,
    DeadlineExceeded,
    MissingWeights,
    NoActor,
    NoContext,
    Overloaded,
    ServerFault,
    ServerUnreachable,
    VersionMismatch,
)
from shared.messages import Detect, Failed, Insert, Place, Progress, Refine, Transfer
from shared.skeleton import Skeleton
from shared.where import Where

pytestmark = pytest.mark.timeout(60)
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and file modes")

SCENE = np.zeros((48, 64, 3), np.uint8)
ACTOR = np.zeros((40, 30, 3), np.uint8)
ACTOR[5:35, 10:20] = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with servers(tmp_path_factory.mktemp("server")) as start:
        yield start()


@pytest.fixture
def start(tmp_path):
    with servers(tmp_path) as start:
        yield start


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def raw(endpoint):
    """A bare socket, for messages that the client would not send."""
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(endpoint)
    return dealer


def answer_to(dealer, frames, seconds=5.0):
    dealer.send_multipart(frames)
    assert dealer.poll(seconds * 1000), "no answer"
    magic, header, *_ = dealer.recv_multipart()
    assert magic == messages.MAGIC
    return msgpack.unpackb(header)


# ---- every request ---------------------------------------------------------------------------------------


def test_detect(client):
    answer, blobs = client.run(Detect(), [ACTOR])
    assert [Skeleton.from_openpose(p) for p in answer.people] == [
        Skeleton.from_openpose(bright_person(ACTOR).to_openpose())
    ]
    assert blobs == []


def test_place_is_the_same_for_the_same_seed(client):
    person = bright_person(ACTOR).to_openpose()
    first, second, third = (client.run(Place([person], 640, 480, 3, seed))[0] for seed in (1, 1, 2))
    assert len(first.candidates) == 3
    assert first == second != third


def test_refine(client):
    person = bright_person(ACTOR).to_openpose()
    assert client.run(Refine(person))[0].skeleton == person


def test_transfer_brings_back_the_layers_pixels(client):
    answer, (layer,) = client.run(Transfer([1.0] * 54), [ACTOR])
    assert (answer.x, answer.y, answer.scale) == (3, 4, 1.0)
    np.testing.assert_array_equal(layer, cut_out(ACTOR))


def test_insert_reports_its_stages_in_order(client):
    seen: list[Progress] = []
    answer, (layer,) = client.run(
        Insert(where=Where(feet=(7.0, 8.0)), seed=5, candidates=4),
        [SCENE, ACTOR[:, ::1]],
        on_progress=seen.append,
    )
    assert (answer.x, answer.y, answer.seed) == (7, 8, 5)
    assert [(p.seq, p.stage, p.index, p.count) for p in seen] == [(i, f"stage {i}", i, 4) for i in range(4)]
    np.testing.assert_array_equal(layer, cut_out(ACTOR))


def test_pictures_need_not_be_contiguous(client):
    _, (layer,) = client.run(Transfer([1.0] * 54), [ACTOR[::-1, ::-1]])
    np.testing.assert_array_equal(layer, cut_out(ACTOR)[::-1, ::-1])


def test_large_picture_goes_both_ways(client):
    large = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), dtype=np.uint8)
    _, (layer,) = client.run(Transfer([1.0] * 54), [large], timeout=30)
    np.testing.assert_array_equal(layer, cut_out(large))


# ---- errors of the job -----------------------------------------------------------------------------------


def test_errors_of_the_pipeline_arrive_in_their_class(client):
    with pytest.raises(NoActor, match="actor: shows no person") as caught:
        client.run(Insert(), [SCENE, SCENE])
    assert (caught.value.fix, caught.value.subject) == ("Choose a photo of a person", "actor")
    with pytest.raises(NoContext, match="scene: shows no people"):
        client.run(Place([], 10, 10))


def test_fault_in_the_pipeline_fails_that_job_alone(client):
    with pytest.raises(ServerFault, match=r"the server failed \(ZeroDivisionError: a fault of ours\)"):
        client.run(Insert(generator="crash"), [SCENE, ACTOR])
    with pytest.raises(BadImage, match="result blob 0: is float64"):
        client.run(Insert(generator="float64"), [SCENE, ACTOR])
    with pytest.raises(ServerFault, match=r"the server failed \(TypeError: .*numpy.int64"):
        client.run(Insert(generator="numpy"), [SCENE, ACTOR])
    client.run(Detect(), [ACTOR])


def test_client_refuses_before_it_sends(client):
    with pytest.raises(BadImage, match="picture: is 48x64 uint8, not height x width x 3 or 4"):
        client.submit(Detect(), [SCENE[..., 0]])
    with pytest.raises(BadImage, match="picture: 8000 x 8001 pixels; the server takes 64 megapixels"):
        client.submit(Detect(), [np.broadcast_to(np.uint8(0), (8001, 8000, 3))])
    with pytest.raises(BadImage, match="actor: is float64"):
        client.submit(Insert(), [SCENE, ACTOR / 255])
    with pytest.raises(BadInput, match="insert: 3 pictures were given, not 2"):
        client.submit(Insert(), [SCENE] * 3)
    with pytest.raises(BadInput, match="insert: 1 pictures were given, not 2"):
        client.submit(Insert(), [SCENE])
    with pytest.raises(BadInput, match=r"at `\$.request.seed`"):
        client.submit(Insert(seed="one"), [SCENE, ACTOR])
    with pytest.raises(BadInput, match=r"at `\$.request.color_strength`"):
        client.submit(Insert(color_strength=2.0), [SCENE, ACTOR])
    with pytest.raises(BadInput, match=r"at `\$.job`"):
        client.submit(Refine([1.0] * 54), job="mine")
    assert client.poll(0.1) == []


# ---- queue, cancel, deadline -----------------------------------------------------------------------------


def test_running_job_is_cancelled_between_stages(client):
    job = client.submit(Insert(seed=50, candidates=60), [SCENE, ACTOR])
    wait_until_running(client, job)
    began = time.monotonic()
    assert client.cancel(job)
    with pytest.raises(Cancelled, match=f"job {job}: was cancelled"):
        client.result(job, timeout=1)
    client.run(Detect(), [ACTOR])  # the worker is free again
    assert time.monotonic() - began < 1.5
    assert not client.cancel(job)


def test_waiting_job_is_cancelled_and_the_running_one_is_not_touched(client):
    running = client.submit(Insert(seed=100, candidates=5), [SCENE, ACTOR])
    waiting = client.submit(Insert(seed=100, candidates=5), [SCENE, ACTOR])
    assert client.cancel(waiting)
    assert not client.cancel(waiting)
    with pytest.raises(Cancelled):
        client.result(waiting, timeout=1)
    assert client.result(running, timeout=5)[0].seed == 100


def test_cancel_of_a_finished_or_unknown_job_does_nothing(client):
    job = client.submit(Detect(), [ACTOR])
    client.result(job)
    assert not client.cancel(job)
    assert not client.cancel(uuid.uuid4().hex)


def test_no_progress_after_the_end(client):
    job = client.submit(Insert(seed=30, candidates=20), [SCENE, ACTOR])
    wait_until_running(client, job)
    client.cancel(job)
    end, events = time.monotonic() + 0.3, []
    while time.monotonic() < end:
        events += client.poll(0.05)
    kinds = [type(event) for event in events if event.job == job]
    assert kinds[-1] is Failed
    assert kinds.count(Failed) == 1
    assert [event.seq for event in events if isinstance(event, Progress)] == list(range(len(kinds) - 1))


def test_deadline_of_a_waiting_job_comes_while_another_runs(client):
    running = client.submit(Insert(seed=2000, candidates=1), [SCENE, ACTOR])
    began = time.monotonic()
    late = client.submit(Detect(), [ACTOR], deadline=0.5)
    with pytest.raises(DeadlineExceeded, match=r"was not done by its deadline \(it was waiting behind 1"):
        client.result(late, timeout=5)
    assert 0.4 < time.monotonic() - began < 1.2
    client.result(running, timeout=5)


def test_deadline_of_the_running_job(client):
    with pytest.raises(DeadlineExceeded, match="it was running"):
        client.run(Insert(seed=100, candidates=30), [SCENE, ACTOR], timeout=0.4)
    client.run(Detect(), [ACTOR], timeout=2)


def test_waiting_too_short_leaves_the_job_alone(client):
    job = client.submit(Insert(seed=400, candidates=1), [SCENE, ACTOR])
    with pytest.raises(DeadlineExceeded, match=r"no result within 0.1 seconds"):
        client.result(job, timeout=0.1)
    assert client.result(job, timeout=5)[0].seed == 400


def test_status_is_answered_while_the_worker_computes_and_pictures_travel(client):
    large = np.zeros((2000, 2000, 3), np.uint8)
    slow = client.submit(Insert(seed=1500, candidates=1), [SCENE, ACTOR])
    jobs = [client.submit(Detect(), [large]) for _ in range(3)]
    began = time.monotonic()
    status = client.status()
    assert time.monotonic() - began < 0.7
    assert status.ready
    assert status.memory > 10_000_000
    assert status.weights == {"transfer/tiny": "0" * 64}
    assert status.pid == client.connection.pid
    for job in [slow, *jobs]:
        client.result(job, timeout=20)


def test_full_queue_says_so_at_once(start):
    server = start("--limits", '{"max_queue": 3}')
    with server.client() as client:
        assert client.limits.max_queue == 3
        jobs = [client.submit(Insert(seed=300, candidates=1), [SCENE, ACTOR]) for _ in range(5)]
        for job in jobs[3:]:
            with pytest.raises(Overloaded, match="the server's queue is full: 3 jobs"):
                client.result(job, timeout=0.5)
        for job in jobs[:3]:
            client.result(job, timeout=5)
        again = client.submit(Insert(seed=0, candidates=1), [SCENE, ACTOR], job=jobs[4])
        assert client.result(again, timeout=5)[0].seed == 0  # a refused job can be sent again


def test_queue_is_bounded_in_bytes(start):
    server = start("--limits", '{"max_queue_bytes": 100000}')
    with server.client() as client:
        first = client.submit(Insert(seed=300, candidates=1), [SCENE, ACTOR])
        second = client.submit(Detect(), [np.zeros((200, 200, 3), np.uint8)])
        with pytest.raises(Overloaded, match="queue is full"):
            client.result(second, timeout=2)
        client.result(first, timeout=5)


def test_client_that_does_not_poll_gets_every_result_later(start):
    server = start("--limits", '{"max_queue": 200}')
    with server.client() as client:
        picture = np.full((300, 300, 3), 200, np.uint8)
        jobs = [client.submit(Transfer([1.0] * 54), [picture]) for _ in range(120)]
        assert [client.result(job, timeout=20)[1][0].shape for job in jobs] == [(300, 300, 4)] * 120


def test_results_wait_in_the_server_while_a_pipe_is_full(start):
    server = start("--limits", '{"max_queue": 60}')
    with server.client() as client:
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.linger = 0
        dealer.rcvhwm = 1
        dealer.setsockopt(zmq.RCVBUF, 10_000)
        dealer.connect(client.connection.work)
        request = {"type": "transfer", "skeleton": [1.0] * 54}
        described = {"dtype": "uint8", "shape": [500, 500, 3]}
        jobs = [f"{n:032x}" for n in range(60)]
        for job in jobs:
            frames = good(server, job=job, request=request, blobs=[described])
            dealer.send_multipart([*frames, bytes(750_000)])
        while sum(line["event"] == "done" for line in server.log()) < len(jobs):
            time.sleep(0.05)
        finished = []
        while len(finished) < len(jobs):
            assert dealer.poll(20_000), f"{len(finished)} results came"
            _, header, *blobs = dealer.recv_multipart()
            message = msgpack.unpackb(header)
            assert message["type"] in ("accepted", "progress", "result"), message
            if message["type"] == "result":
                assert len(blobs[0]) == 1_000_000
                finished.append(message["job"])
        assert sorted(finished) == jobs
        dealer.close()


# ---- one job, one answer ---------------------------------------------------------------------------------


def test_same_job_twice_runs_once(server, client):
    job = uuid.uuid4().hex
    request = Insert(seed=200, candidates=2)
    for _ in range(3):
        client.submit(request, [SCENE, ACTOR], job=job)
    first, _ = client.result(job, timeout=5)
    client.submit(request, [SCENE, ACTOR], job=job)
    again, (layer,) = client.result(job, timeout=5)
    assert first == again
    np.testing.assert_array_equal(layer, cut_out(ACTOR))
    ran = [line for line in server.log() if line.get("job") == job and line["event"] == "done"]
    assert len(ran) == 1


def test_job_id_cannot_be_used_for_something_else(client):
    job = client.submit(Detect(), [ACTOR])
    client.result(job)
    client.submit(Refine([1.0] * 54), job=job)
    with pytest.raises(BadInput, match="the id belongs to another job"):
        client.result(job, timeout=2)


def test_result_is_fetched_by_another_client(server):
    with server.client() as first:
        job = first.submit(Insert(seed=300, candidates=3), [SCENE, ACTOR])
        wait_until_running(first, job)
    with server.client() as second:  # while it runs: progress comes here now
        seen: list[Progress] = []
        answer, (layer,) = second.result(job, timeout=5, on_progress=seen.append)
        assert answer.seed == 300
        assert seen
    with server.client() as third:  # when it is over
        np.testing.assert_array_equal(third.result(job, timeout=5)[1][0], layer)
        with pytest.raises(BadInput, match=r"is not known here.*results are kept for 10 minutes"):
            third.result(uuid.uuid4().hex, timeout=5)


def test_two_clients_get_their_own(server):
    with server.client() as one, server.client() as two:
        jobs = [
            (client, client.submit(Insert(seed=seed), [SCENE, ACTOR]))
            for seed, client in enumerate([one, two, one])
        ]
        assert [client.result(job, timeout=5)[0].seed for client, job in jobs] == [0, 1, 2]
        assert one.poll(0.1) == []


# ---- messages that do not fit ----------------------------------------------------------------------------


def good(server, **changes):
    header = {
        "type": "submit",
        "job": uuid.uuid4().hex,
        "request": {"type": "refine", "skeleton": [1.0] * 54},
        "blobs": [],
    }
    return [messages.MAGIC, server_connection(server).key.encode(), msgpack.packb(header | changes)]


def server_connection(server):
    return Connection(**json.loads(server.file.read_text()))


def test_malformed_messages_are_answered_and_do_no_harm(server, client):
    dealer = raw(server_connection(server).work)
    described = {"dtype": "uint8", "shape": [4, 4, 3]}
    detect = {"request": {"type": "detect"}, "blobs": [described]}
    job = "ab" * 16
    cases = [
        ([*good(server)[:2], b"\xff"], "", "message header"),
        ([*good(server)[:2], b"\x91" * 5000], "", "message header"),
        ([*good(server)[:2], b"\x81\xa1a" * 60_000], "", "message header"),
        ([*good(server)[:2], b"\0" * (1 << 20) + b"\0"], "", "has 1048577 bytes"),
        (good(server)[:2], "", "has 2 frames, not at least 3"),
        (good(server)[:1], "", "has 1 frames, not at least 3"),
        (good(server, job="x"), "", "at `$.job`"),
        (good(server, job=job, request={"type": "dance"}), job, "at `$.request.type`"),
        (good(server, job=job, request={"type": "refine", "skeleton": [1.0]}), job, "has 1 numbers, not 54"),
        ([*good(server, job=job), b"more"], job, "1 frames follow the header, which describes 0"),
        (good(server, job=job, **detect), job, "0 frames follow the header, which describes 1"),
        ([*good(server, job=job, **detect), bytes(47)], job, "picture: the frame has 47 bytes, not 48"),
        ([*good(server, job=job, **detect), *[b""] * 1000], job, "1000 frames follow the header"),
        (good(server, type="status", ask=1, job=job), job, "at `$.type`"),
    ]  # fmt: skip
    for frames, job_id, reason in cases:
        reply = answer_to(dealer, frames)
        assert reply["type"] == "failed"
        assert reply["job"] == job_id
        assert reply["code"] in ("bad_input", "bad_image")
        assert reason in reply["message"]
        assert reply["fix"]
    dealer.close()
    control = raw(server_connection(server).control)
    reply = answer_to(control, [*good(server)[:2], msgpack.packb({"type": "status", "ask": "?"})])
    assert reply["type"] == "failed"
    assert "at `$.ask`" in reply["message"]
    control.close()
    client.run(Detect(), [ACTOR])


def test_random_bytes_do_no_harm(server, client):
    rng = np.random.default_rng(0)
    dealers = [raw(server_connection(server).work), raw(server_connection(server).control)]
    prefix = good(server)
    for i in range(300):
        frames = [
            *prefix[: i % 4],
            *[rng.bytes(int(rng.integers(0, 60))) for _ in range(int(rng.integers(1, 5)))],
        ]
        dealers[i % 2].send_multipart(frames)
    client.run(Detect(), [ACTOR], timeout=5)
    for dealer in dealers:
        dealer.close()


def test_wrong_key_gets_nothing(server, client):
    dealer = raw(server_connection(server).work)
    frames = good(server)
    for key in (b"", b"0" * 64, frames[1][:-1], frames[1] + b"0", frames[1].upper() + b"!"):
        reply = answer_to(dealer, [frames[0], key, frames[2]])
        assert (reply["type"], reply["code"], reply["subject"]) == ("failed", "bad_input", "key")
    dealer.close()
    assert server_connection(server).key not in server.log_file.read_text()


def test_client_with_a_wrong_key_says_so(server):
    connection = server_connection(server)
    wrong = Connection(1, connection.version, connection.pid, connection.work, connection.control, "0" * 64)
    with pytest.raises(BadInput, match=r"key: is not this server's. Read the connection file again"):
        Client(wrong)


def test_another_protocol_is_answered_by_version(server):
    dealer = raw(server_connection(server).work)
    reply = answer_to(dealer, [b"walkon/2", *good(server)[1:]])
    assert (reply["code"], reply["job"]) == ("version_mismatch", "")
    assert "speaks protocol 1" in reply["message"]
    dealer.send_multipart([b"GET / HTTP/1.1", b"", b""])
    assert not dealer.poll(200)  # a stranger gets no answer
    dealer.close()


def test_connection_file_of_another_protocol(server, tmp_path):
    newer = json.loads(server.file.read_text()) | {"protocol": 2, "version": "9.9.9"}
    path = tmp_path / "newer.json"
    path.write_text(json.dumps(newer))
    with pytest.raises(
        VersionMismatch, match=r"Walk-On 9.9.9, process \d+. speaks protocol 2, this client 1"
    ) as caught:
        Client.connect(path)
    assert "same version" in caught.value.fix


def test_frame_beyond_the_limit_ends_that_connection_only(start):
    server = start("--limits", '{"max_blob_bytes": 100000}')
    with server.client() as client:
        dealer = raw(client.connection.work)
        described = {"dtype": "uint8", "shape": [1000, 1000, 3]}
        dealer.send_multipart(
            [*good(server, request={"type": "detect"}, blobs=[described]), bytes(3_000_000)]
        )
        assert not dealer.poll(300)
        dealer.close()
        client.run(Detect(), [ACTOR])


# ---- a server that is not there, starts, stops, dies -----------------------------------------------------


def test_no_connection_file(tmp_path):
    with pytest.raises(
        ServerUnreachable, match=r"no server: .*nothing.json does not exist. Start it with `walkon serve`"
    ):
        Client.connect(tmp_path / "nothing.json")
    (tmp_path / "half.json").write_text('{"proto')
    with pytest.raises(ServerUnreachable, match=r"half.json: is no connection file"):
        Client.connect(tmp_path / "half.json")


def test_connection_file_that_a_killed_server_left(start):
    server = start()
    server.stop(signal.SIGKILL)
    assert server.file.exists()
    began = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"the server \(process \d+\) does not run any more"):
        server.client()
    assert time.monotonic() - began < 2
    again = start()  # the file that was left is no obstacle
    with again.client() as client:
        assert client.connection.pid == again.process.pid
        client.run(Detect(), [ACTOR])


def test_server_killed_in_the_middle_of_a_job(start):
    server = start()
    with server.client() as client:
        job = client.submit(Insert(seed=10_000, candidates=1), [SCENE, ACTOR])
        wait_until_running(client, job)
        server.process.kill()
        began = time.monotonic()
        with pytest.raises(
            ServerUnreachable, match=f"died or closed the connection during job {job}"
        ) as caught:
            client.result(job)
        assert time.monotonic() - began < 3
        assert "walkon serve" in caught.value.fix
        assert caught.value.subject == job
        with pytest.raises(ServerUnreachable):
            client.status()
    with start().client() as client:  # the same id goes to the new server
        client.submit(Insert(seed=1, candidates=1), [SCENE, ACTOR], job=job)
        assert client.result(job, timeout=5)[0].seed == 1


@posix
def test_server_that_hangs_is_noticed_in_the_middle_of_a_job(start):
    server = start()
    with server.client() as client:
        job = client.submit(Insert(seed=10_000, candidates=1), [SCENE, ACTOR])
        wait_until_running(client, job)
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ServerUnreachable, match=job):
            client.result(job)
        assert time.monotonic() - began < 4.5
    server.process.send_signal(signal.SIGCONT)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_the_running_job_finish_and_fails_the_waiting(start, number):
    server = start()
    with server.client() as client:
        running = client.submit(Insert(seed=600, candidates=1), [SCENE, ACTOR])
        waiting = client.submit(Insert(seed=600, candidates=1), [SCENE, ACTOR])
        wait_until_running(client, running)
        server.process.send_signal(number)
        with pytest.raises(
            ServerUnreachable, match=r"the server was stopped. Start it again and send the job again"
        ):
            client.result(waiting, timeout=3)
        assert client.result(running, timeout=3)[0].seed == 600
    assert server.process.wait(5) == 0
    assert not server.file.exists()
    assert list(server.file.parent.iterdir()) == []
    assert [line["event"] for line in server.log()][-1] == "stopped"


@posix
def test_a_large_result_still_arrives_when_the_server_stops(start):
    """The server closes both of its sockets at once, in any order, while the result is on its way."""
    actor = np.zeros((3000, 3000, 3), np.uint8)
    actor[500:2500, 1000:2000] = 200
    for _ in range(3):
        server = start()
        with server.client() as client:
            job = client.submit(Insert(seed=400, candidates=1), [SCENE, actor])
            wait_until_running(client, job)
            server.process.send_signal(signal.SIGTERM)
            _, (layer,) = client.result(job, timeout=10)
            assert layer.shape == (3000, 3000, 4)
            with pytest.raises(ServerUnreachable, match="died or closed the connection"):
                client.status()
        assert server.process.wait(5) == 0


@posix
def test_stop_does_not_wait_for_ever(start):
    server = start("--grace", "0.3")
    with server.client() as client:
        job = client.submit(Insert(seed=20_000, candidates=1), [SCENE, ACTOR])
        wait_until_running(client, job)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ServerUnreachable, match="the server was stopped"):
            client.result(job, timeout=5)
        assert server.process.wait(5) == 0
        assert time.monotonic() - began < 4
    assert not server.file.exists()


@posix
def test_second_interrupt_stops_at_once(start):
    server = start("--grace", "30")
    with server.client() as client:
        job = client.submit(Insert(seed=20_000, candidates=1), [SCENE, ACTOR])
        wait_until_running(client, job)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        with pytest.raises(ServerUnreachable, match="the server was stopped"):
            client.run(Detect(), [ACTOR])
        assert server.stop(signal.SIGINT) == 0


@posix
def test_connection_file_is_the_users_alone(server):
    assert stat.S_IMODE(server.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.file.parent.stat().st_mode) == 0o700
    connection = server_connection(server)
    assert connection.pid == server.process.pid
    assert len(connection.key) == 64
    assert connection.work.startswith("tcp://127.0.0.1:")


def run_to_end(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_second_server_for_the_same_file_is_refused(server):
    before = server.file.read_bytes()
    done = run_to_end(*TINY, str(server.file))
    assert done.returncode != 0
    assert (
        f"a server already runs as process {server.process.pid} (connection file {server.file})"
        in done.stderr
    )
    assert server.file.read_bytes() == before
    with server.client() as client:
        client.run(Detect(), [ACTOR])


def test_file_that_is_no_connection_file_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    done = run_to_end(*TINY, str(path))
    assert "notes.txt: is no connection file of a server" in done.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org"])
def test_only_loopback(tmp_path, host):
    done = run_to_end(*REAL, str(tmp_path / "s.json"), "--host", host)
    assert done.returncode == 2
    assert f"host: {host} is not a loopback address" in done.stderr
    assert "SSH tunnel" in done.stderr
    assert not (tmp_path / "s.json").exists()


def test_port_that_is_taken(server, tmp_path):
    port = server_connection(server).work.rpartition(":")[2]
    done = run_to_end(*REAL, str(tmp_path / "s.json"), "--port", port)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1: cannot be used (Address already in use)" in done.stderr


def test_jobs_sent_during_warm_up_wait_for_it(start):
    server = start("--warm-up", "1.0")
    with server.client() as client:
        assert not client.status_at_connect.ready
        assert client.status_at_connect.stage in ("start", "detect", "transfer")
        job = client.submit(Insert(seed=1), [SCENE, ACTOR])
        late = client.submit(Detect(), [ACTOR], deadline=0.2)
        with pytest.raises(DeadlineExceeded):
            client.result(late, timeout=0.7)
        assert client.result(job, timeout=5)[0].seed == 1
        assert client.status().ready


def test_failed_warm_up_is_told_and_fails_jobs(start):
    server = start("--broken")
    with server.client() as client:
        end = time.monotonic() + 5
        while (status := client.status()).problem is None:
            assert time.monotonic() < end
        assert not status.ready
        assert (status.problem.code, status.problem.fix) == ("missing_weights", "Run `walkon models import`")
        with pytest.raises(MissingWeights, match="transfer/motion: no weights are installed"):
            client.run(Detect(), [ACTOR])
    assert server.stop(signal.SIGTERM) == 1


# ---- client ----------------------------------------------------------------------------------------------


def test_interrupted_caller_cancels_its_job(client):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.run(Insert(seed=100, candidates=50), [SCENE, ACTOR], on_progress=interrupt)
    client.run(Detect(), [ACTOR], timeout=2)


def test_client_belongs_to_its_thread(client):
    caught = []

    def use():
        try:
            client.status()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert caught == ["a Client belongs to the thread that made it"]


def test_closing_twice_is_harmless(server):
    client = server.client()
    client.close()
    client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the rule for Linux")
def test_default_connection_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_connection_file() == tmp_path / "walkon" / "server.json"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_connection_file() == tmp_path / ".local" / "state" / "walkon" / "server.json"


def test_memory_stays_flat_under_overload(start):
    server = start("--limits", '{"max_queue": 4}')
    picture = np.zeros((1000, 1000, 3), np.uint8)
    with server.client() as client:
        before = client.status().memory
        client.submit(Insert(seed=3000, candidates=1), [SCENE, ACTOR])
        for _ in range(100):  # 300 MB, of which 9 MB may stay
            client.submit(Detect(), [picture])
        refused = 0
        while refused < 97:
            refused += sum(isinstance(event, Failed) for event in client.poll(5.0))
        assert client.status().memory - before < 100_000_000


# ---- the real pipeline -----------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_real_pipeline_gives_over_the_wire_what_it_gives_here(start, shared_data):
    from models.images import load_picture
    from server.pipeline import STAGES, Pipeline

    scene = load_picture(shared_data / "photos" / "ccby_000000442450.jpg")
    actor = load_picture(shared_data / "photos" / "op_COCO_val2014_000000000241.jpg")
    server = start(command=REAL)
    with server.client() as client:
        slowest = 0.0
        while not (status := client.status()).ready:
            assert status.problem is None
            time.sleep(0.1)
        people = client.run(Detect(), [scene.rgb])[0].people
        assert people
        seen: list[Progress] = []
        job = client.submit(Insert(seed=3), [scene.rgb, actor.rgb])
        while not any(event.job == job and not isinstance(event, Progress) for event in seen):
            seen += client.poll(0.05)
            asked = time.monotonic()
            status = client.status()
            slowest = max(slowest, time.monotonic() - asked)
        finished = seen.pop()
        assert [(event.stage, event.index, event.count) for event in seen] == [
            (stage, index, len(STAGES)) for index, stage in enumerate(STAGES)
        ]
        assert finished.answer.context == people
        assert set(finished.answer.weights) == set(status.weights)
        assert slowest < 2.0  # networks do not keep the socket thread from answering
        with pytest.raises(NoActor):
            client.run(Insert(), [scene.rgb, SCENE])
    assert server.stop() == 0

    here = Pipeline().insert(scene, actor, seed=3)
    np.testing.assert_array_equal(finished.blobs[0], here.layer.rgba)
    assert finished.answer.skeleton == here.skeleton.to_openpose()
    assert [c.skeleton for c in finished.answer.candidates] == [
        c.skeleton.to_openpose() for c in here.candidates
    ]
