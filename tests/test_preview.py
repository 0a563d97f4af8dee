# SPDX-License-Identifier: Apache-2.0
"""Previews: analysed once, painted at once, the newest wins; over real sockets, and with the real networks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from server_process import REAL, servers, wait_until_running
from tiny_server import bright_person

from models.images import load_picture
from models.transfer import MotionTransfer
from server.preview import KEPT, AnalysedActors, analyse
from shared.errors import ActorUnknown, BadInput, NoActor, Superseded
from shared.messages import (
    Analyse,
    Analysed,
    Insert,
    Preview,
    Previewed,
    Transfer,
    Transferred,
    picture_hash,
)
from shared.skeleton import Skeleton

pytestmark = pytest.mark.timeout(60)

PHOTO = np.zeros((40, 30, 3), np.uint8)
PHOTO[5:35, 10:20] = 200
HASH = picture_hash(PHOTO)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with servers(tmp_path_factory.mktemp("preview")) as start:
        yield start()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def pose(x: float) -> list[float]:
    return [x, 1.0, 1.0] * 18


def test_hash_tells_pictures_apart_and_reads_any_layout():
    assert len(HASH) == 64
    assert picture_hash(PHOTO[::1].copy(order="F")) == HASH
    assert picture_hash(PHOTO.reshape(30, 40, 3)) != HASH
    assert picture_hash(np.roll(PHOTO, 1, axis=0)) != HASH


def test_unknown_actor_is_a_typed_error_and_the_client_sends_the_photo(server):
    with server.client() as client:
        unknown = Preview("0" * 64, pose(3))
        with pytest.raises(ActorUnknown, match="actor: is not analysed"):
            client.run(unknown)
        answer, square = client.preview(Preview(HASH, pose(3), size=40), PHOTO)
        assert (answer, square.shape) == (Previewed(3, 1, 2.0), (40, 40, 4))
        answer, _ = client.preview(Preview(HASH, pose(4), size=40), PHOTO)
        assert answer.x == 4
        analysed = [line for line in server.log() if line.get("request") == "analyse" and "seconds" in line]
        assert len(analysed) == 1


def test_analyse_tells_hash_and_person(client):
    answer, (matte,) = client.run(Analyse(), [PHOTO])
    assert answer == Analysed(HASH, bright_person(PHOTO).to_openpose())
    assert matte.shape == PHOTO.shape[:2]
    with pytest.raises(NoActor, match="actor: shows no person"):
        client.run(Analyse(), [PHOTO * 0])


def test_newest_preview_wins_and_older_ones_are_told(client):
    client.run(Analyse(), [PHOTO])
    jobs = [client.submit(Preview(HASH, pose(1), size=500))]
    wait_until_running(client, jobs[0])
    jobs += [client.submit(Preview(HASH, pose(x), size=32)) for x in range(2, 6)]
    first, _ = client.result(jobs[0], timeout=5)
    assert first.x == 1
    for job in jobs[1:4]:
        with pytest.raises(Superseded, match=f"job {job}: a newer one of its kind came before it began"):
            client.result(job, timeout=1)
    last, _ = client.result(jobs[4], timeout=5)
    assert last.x == 5


def test_previews_of_others_are_not_dropped(server, client):
    client.run(Analyse(), [PHOTO])
    with server.client() as other:
        jobs = [(who, who.submit(Preview(HASH, pose(2), size=100))) for who in (client, other)]
        for who, job in jobs:
            assert who.result(job, timeout=5)[0].x == 2


def test_preview_does_not_wait_for_whole_jobs(client):
    client.run(Analyse(), [PHOTO])
    slow = [client.submit(Insert(seed=700, candidates=1), [PHOTO, PHOTO]) for _ in range(2)]
    began = time.monotonic()
    client.preview(Preview(HASH, pose(2), size=32), PHOTO, timeout=2)
    assert time.monotonic() - began < 0.5
    assert client.status().running == slow[0]
    for job in slow:
        client.result(job, timeout=5)


def test_preview_can_be_cancelled_and_fetched_by_id(server, client):
    client.run(Analyse(), [PHOTO])
    running = client.submit(Preview(HASH, pose(1), size=300))
    wait_until_running(client, running)
    waiting = client.submit(Analyse(), [PHOTO])
    assert client.cancel(waiting)
    done = client.submit(Preview(HASH, pose(9), size=32))
    client.result(done, timeout=5)
    with server.client() as other:
        assert other.result(done, timeout=2)[0].x == 9
    with pytest.raises(BadInput, match="the id belongs to another job"):
        client.result(client.submit(Insert(), [PHOTO, PHOTO], job=done), timeout=2)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Preview("short", pose(1)), r"at `\$.request.actor`"),
        (Preview(HASH, pose(1), size=4096), r"at `\$.request.size`"),
        (Preview(HASH, [0.0] * 54), "skeleton: no joint is known"),
        (Preview(HASH, pose(1e7)), "skeleton: reaches from"),
    ],
)
def test_bad_previews_are_refused_before_they_are_sent(client, request_, reason):
    with pytest.raises(BadInput, match=reason):
        client.submit(request_)


def test_actors_not_used_for_long_are_forgotten():
    standing = Skeleton([(50, 10 + 5 * joint) for joint in range(18)], np.ones(18, bool))
    large = np.full((2000, 2000, 3), 90, np.uint8)
    actor = analyse(
        MotionTransfer("limbs"), large, np.ones((2000, 2000), np.float32), standing.transformed(10.0)
    )
    assert actor.frame.size <= 514  # what is kept is small
    actors = AnalysedActors()
    for number in range(KEPT):
        actors.keep("a" * 64, number, actor)
    actors.get("a" * 64, 0)
    actors.keep("b" * 64, None, actor)
    actors.get("a" * 64, 0)
    with pytest.raises(ActorUnknown, match=r"has not analysed this photo \(aaaaaaaaaaaa...\), or not lately"):
        actors.get("a" * 64, 1)


@pytest.mark.timeout(180)
def test_real_preview_is_a_small_transfer(tmp_path, shared_data):
    photo = load_picture(shared_data / "photos" / "op_COCO_val2014_000000000241.jpg").rgb
    with servers(tmp_path) as start, start(command=REAL).client() as client:
        analysed, _ = client.run(Analyse(), [photo])
        assert isinstance(analysed, Analysed)
        assert analysed.actor == picture_hash(photo)
        # Twice the size and elsewhere: a place in a larger scene.
        wanted = Skeleton.from_openpose(analysed.skeleton).transformed(2.0, (300.0, 100.0)).to_openpose()
        preview, square = client.preview(Preview(analysed.actor, wanted), photo)
        whole, (layer,) = client.run(Transfer(wanted), [photo])
        again, same = client.preview(Preview(analysed.actor, wanted), photo)
        with pytest.raises(NoActor, match="person 9 was asked for"):
            client.preview(Preview(analysed.actor, wanted, actor_person=9), photo)
    assert isinstance(whole, Transferred)
    assert again == preview
    np.testing.assert_array_equal(square, same)
    assert square.shape == (256, 256, 4)
    rows, columns = (np.flatnonzero(square[..., 3].max(axis) > 127) for axis in (1, 0))
    whole_rows, whole_columns = (np.flatnonzero(layer[..., 3].max(axis) > 127) for axis in (1, 0))
    for near, far in (
        (preview.y + rows[[0, -1]] * preview.scale, whole.y + whole_rows[[0, -1]]),
        (preview.x + columns[[0, -1]] * preview.scale, whole.x + whole_columns[[0, -1]]),
    ):
        np.testing.assert_allclose(near, far, atol=4 * preview.scale)
