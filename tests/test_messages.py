# SPDX-License-Identifier: Apache-2.0
"""Messages: what may be sent, what is refused and with which words."""

from __future__ import annotations

import contextlib
import math
import uuid

import hypothesis
import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest

from shared import errors, messages
from shared.errors import BadImage, BadInput
from shared.limits import Limits
from shared.messages import Analyse, Blob, Detect, Insert, Place, Preview, Refine, Submit, Transfer
from shared.where import Where

JOB = "0123456789abcdef" * 2
PICTURE = Blob("uint8", (480, 640, 3))
PERSON = [float(i) for i in range(1, 55)]

numbers = st.floats(-1e4, 1e4, width=32)
people = st.lists(st.builds(lambda x: [x, x, 0.5] * 18, numbers), max_size=3)
names = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")
points = st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1))
wishes = st.builds(
    Where,
    points,
    st.none() | st.just((-3.0, 0.0, 1.0, 2000.0)),
    st.none() | st.floats(0.01, 4),
    st.sampled_from([None, "standing", "sitting"]),
    st.sampled_from([None, "left", "right"]),
    st.none() | st.just(PERSON),
)
seeds = st.integers(0, 2**31 - 1)
requests = st.one_of(
    st.just(Detect()),
    st.builds(
        Place,
        people,
        st.integers(1, 9999),
        st.integers(1, 9999),
        st.integers(1, 64),
        seeds,
        wishes,
        st.none() | names,
    ),
    st.builds(Refine, st.just(PERSON), st.lists(st.integers(0, 17), max_size=18)),
    st.builds(
        Insert,
        st.just(PERSON),
        st.none() | st.lists(st.integers(0, 17), max_size=18),
        st.none() | people,
        st.builds(Where, points),
    ),
    st.builds(Transfer, st.just(PERSON), st.none() | st.integers(0, 9), names),
    st.builds(Analyse, st.none() | st.integers(0, 9)),
    st.builds(Preview, st.just("0123456789abcdef" * 4), st.just(PERSON), st.integers(32, 512)),
    st.builds(
        Insert,
        st.none(),
        st.none(),
        st.none() | people,
        wishes,
        seeds,
        st.integers(1, 64),
        st.none() | st.integers(0, 9),
        names,
        st.none() | names,
        st.none() | st.floats(0, 1),
    ),
)


@hypothesis.given(requests, st.none() | st.floats(0.01, 1000))
def test_what_is_encoded_decodes_to_the_same(request, deadline):
    # A placement's picture may be left out, and has to be as large as the request says.
    blobs = [] if isinstance(request, Place) else [PICTURE] * len(request.PICTURES)
    message = Submit(JOB, request, blobs, deadline)
    assert messages.decode(messages.work_requests, messages.encode(message)) == message
    messages.check(message.request, message.blobs, Limits())


def test_header_is_plain_msgpack():
    header = messages.encode(Submit(JOB, Insert(where=Where(feet=(1.0, 2.0))), [PICTURE, PICTURE]))
    plain = msgpack.unpackb(header)
    assert plain["type"] == "submit"
    assert plain["request"]["type"] == "insert"
    assert plain["blobs"][0] == {"dtype": "uint8", "shape": [480, 640, 3]}


def submit(**changes):
    return {"type": "submit", "job": JOB, "request": {"type": "detect"}, "blobs": []} | changes


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "truncated"),
        (b"\x00", "got `int`"),
        (b"\xc1", "malformed"),
        (b"\x91" * 100_000, "message header"),
        (b"\xdd\xff\xff\xff\xff", "message header"),
        (msgpack.packb({"type": "submit", "job": JOB}) + b"\x00", "message header"),
        (msgpack.packb({"type": "erase"}), "'erase' - at `$.type`"),
        (msgpack.packb({"job": JOB}), "missing required field `type`"),
        (msgpack.packb(submit(job="../../etc")), "at `$.job`"),
        (msgpack.packb(submit(job=JOB + "\n")), "at `$.job`"),
        (msgpack.packb(submit(job=JOB.upper())), "at `$.job`"),
        (msgpack.packb(submit(deadline=0)), "at `$.deadline`"),
        (msgpack.packb(submit(deadline=math.nan)), "at `$.deadline`"),
        (msgpack.packb(submit(deadline=math.inf)), "at `$.deadline`"),
        (msgpack.packb(submit(extra=1)), "unknown field `extra`"),
        (msgpack.packb(submit(request={"type": "insert", "sede": 1})), "unknown field `sede`"),
        (msgpack.packb(submit(request={"type": "insert", "seed": "x"})), "at `$.request.seed`"),
        (msgpack.packb(submit(request={"type": "insert", "seed": -1})), "at `$.request.seed`"),
        (
            msgpack.packb(submit(request={"type": "insert", "where": {"feet": [1]}})),
            "at `$.request.where.feet`",
        ),
        (
            msgpack.packb(submit(request={"type": "insert", "where": {"stance": "lying"}})),
            "at `$.request.where.stance`",
        ),
        (msgpack.packb(submit(request={"type": "insert", "where": {"at": [1, 2]}})), "unknown field `at`"),
        (
            msgpack.packb(submit(request={"type": "refine", "skeleton": PERSON, "locked": [18]})),
            "at `$.request.locked[0]`",
        ),
        (
            msgpack.packb(submit(request={"type": "insert", "color_strength": 1.5})),
            "at `$.request.color_strength`",
        ),
        (msgpack.packb(submit(request={"type": "insert", "shadow": -1})), "at `$.request.shadow`"),
        (msgpack.packb(submit(request={"type": "insert", "generator": "../x"})), "at `$.request.generator`"),
        (msgpack.packb(submit(blobs=[{"dtype": "object", "shape": [1]}])), "at `$.blobs[0].dtype`"),
        (msgpack.packb(submit(blobs=[{"dtype": "uint8", "shape": []}])), "at `$.blobs[0].shape`"),
        (msgpack.packb(submit(blobs=[{"dtype": "uint8", "shape": [-1]}])), "at `$.blobs[0].shape[0]`"),
        (msgpack.packb(submit(blobs=[{"dtype": "uint8", "shape": [2**40]}])), "at `$.blobs[0].shape[0]`"),
        (msgpack.packb(submit(job=b"\xff\xfe")), "at `$.job`"),
        (b"\x81\xa4type\xa2\xff\xfe", "message header"),
    ],
    ids=lambda value: "header" if isinstance(value, bytes) else None,
)
def test_malformed_headers_are_refused_by_field(header, reason):
    with pytest.raises(BadInput) as caught:
        messages.decode(messages.work_requests, header)
    assert reason.lower() in caught.value.message.lower()
    assert caught.value.subject == "header"


@hypothesis.given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(header):
    for decoder in (messages.work_requests, messages.control_requests, messages.work_replies):
        with contextlib.suppress(BadInput):
            messages.decode(decoder, header)
    messages.job_of(header)


def test_nested_bomb_inside_a_message_is_refused():
    bomb = msgpack.packb({"type": "submit", "job": JOB, "request": 0})[:-1] + b"\x81\xa1x" * 100_000 + b"\x00"
    with pytest.raises(BadInput, match="message header"):
        messages.decode(messages.work_requests, bomb)
    assert messages.job_of(bomb) in ("", JOB)


def test_job_id_is_read_from_a_header_that_is_refused():
    assert messages.job_of(msgpack.packb(submit(request={"type": "nonsense"}))) == JOB
    assert messages.job_of(msgpack.packb(submit(job=3))) == ""


@pytest.mark.parametrize(
    ("request_", "blobs", "kind", "message"),
    [
        (Detect(), [], BadInput, "detect: 0 pictures were given, not 1"),
        (Refine(PERSON), [PICTURE], BadInput, "refine: 1 pictures were given, not 0"),
        (Insert(), [PICTURE], BadInput, "insert: 1 pictures were given, not 2"),
        (Detect(), [Blob("float32", (4, 4, 3))], BadImage, "picture: is 4x4x3 float32"),
        (Detect(), [Blob("uint8", (4, 4))], BadImage, "picture: is 4x4 uint8"),
        (Detect(), [Blob("uint8", (4, 4, 2))], BadImage, "picture: is 4x4x2 uint8"),
        (Detect(), [Blob("uint8", (8001, 8000, 3))], BadImage, "picture: 8000 x 8001 pixels; the server takes 64"),
        (Detect(), [Blob("uint8", (1, 16385, 3))], BadImage, "16384 pixels a side"),
        (Insert(), [PICTURE, Blob("uint8", (4, 4, 5))], BadImage, "actor: is 4x4x5 uint8"),
        (Refine([1.0] * 53), [], BadInput, "skeleton: has 53 numbers, not 54"),
        (Refine([math.nan] * 54), [], BadInput, "skeleton: holds a value that is not finite"),
        (Refine([0.0] * 54), [], BadInput, "skeleton: no joint is known"),
        (Refine([1e308] * 54), [], BadInput, "skeleton: reaches from 1e+308,1e+308 to 1e+308,1e+308"),
        (Transfer([0.0, 0.0, 1.0, 9e3, 9e3, 1.0] * 9), [PICTURE], BadInput, "reaches from 0,0 to 9000,9000, too large"),
        (Place([PERSON], 10, 10, actor=[1.0]), [], BadInput, "actor: has 1 numbers, not 54"),
        (Place([PERSON, [1.0]], 10, 10), [], BadInput, "context: person 1: has 1 numbers, not 54"),
        (Place([PERSON] * 65, 10, 10), [], BadInput, "context: 65 people; the server takes 64"),
        (Place([], 10, 10, 65), [], BadInput, "candidates: 65; the server gives 64 at most"),
        (Place([PERSON], 10, 10), [Blob("uint8", (9, 10, 3))], BadInput, "scene: has 10 x 9 pixels, not 10 x 10"),
        (Place([PERSON], 10, 10), [Blob("uint8", (10, 10, 3))] * 2, BadInput, "place: 2 pictures were given, not 1"),
        (Place([], 10, 99999), [], BadInput, "width, height: 10 x 99999 is beyond 16384 pixels"),
        (Place([], 10, 10, where=Where(feet=(math.nan, 0.0))), [], BadInput, "feet: nan,0 is not finite"),
        (Insert(where=Where(feet=(0.0, math.inf))), [PICTURE] * 2, BadInput, "feet: 0,inf is not finite"),
        (Insert(where=Where(feet=(640.5, 0.0))), [PICTURE] * 2, BadInput, "feet: 640.5,0 lies outside the scene"),
        (Place([], 10, 10, where=Where(box=(1, 2, 1, 4))), [], BadInput, "box: 1,2 to 1,4 has no area"),
        (Place([], 10, 10, where=Where(box=(1, math.nan, 2, 4))), [], BadInput, "box: 1,nan,2,4 is not finite"),
        (Place([], 10, 10, where=Where(box=(11, 2, 12, 4))), [], BadInput, "box: 11,2 to 12,4 lies outside the scene"),
        (Place([], 10, 10, where=Where((1, 1), (2, 2, 5, 5))), [], BadInput, "feet: 1,1 lies outside the box"),
        (Place([], 10, 10, where=Where(height=-3.0)), [], BadInput, "height: -3 is not above 0 and up to 4 times"),
        (Place([], 10, 10, where=Where(height=41.0)), [], BadInput, "height: 41 is not above 0 and up to 4 times"),
        (Place([], 10, 10, where=Where(height=math.nan)), [], BadInput, "height: nan is not finite"),
        (Place([], 10, 10, where=Where(stance="lying")), [], BadInput, "stance: there is no 'lying'"),
        (Place([], 10, 10, where=Where(facing="up")), [], BadInput, "facing: there is no 'up'"),
        (Place([], 10, 10, where=Where(like=[0.0] * 54)), [], BadInput, "like: no joint is known"),
        (Place([], 10, 10, where=Where(like=[1.0] * 5)), [], BadInput, "like: has 5 numbers, not 54"),
        (Insert(PERSON, where=Where(height=9.0)), [PICTURE] * 2, BadInput, "where: only the feet can be asked for"),
        (Insert(locked=[3]), [PICTURE] * 2, BadInput, "locked: there is no skeleton"),
    ],
)  # fmt: skip
def test_requests_beyond_the_limits_are_refused(request_, blobs, kind, message):
    with pytest.raises(kind) as caught:
        messages.check(request_, blobs, Limits())
    assert message in caught.value.message
    assert caught.value.fix


def test_job_may_not_be_larger_than_the_server_takes():
    blobs = [Blob("uint8", (1000, 1000, 3))] * 2
    messages.check(Insert(), blobs, Limits(max_job_bytes=6_000_000))
    with pytest.raises(BadImage, match="insert: 6 MB of pictures, the server takes 6 MB"):
        messages.check(Insert(), blobs, Limits(max_job_bytes=5_999_999))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_array_comes_back_from_its_frame(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    blob = Blob.of(array)
    assert blob.nbytes == array.nbytes
    back = messages.array_of(blob, array.tobytes(), "picture")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    with pytest.raises(ValueError, match="read-only"):
        back[0, 0, 0] = 1


def test_frame_of_another_size_is_refused():
    with pytest.raises(BadInput, match=r"scene: the frame has 23 bytes, not 24 \(2x3x4 uint8\)"):
        messages.array_of(Blob("uint8", (2, 3, 4)), bytes(23), "scene")


@pytest.mark.parametrize("kind", errors.BY_CODE.values())
def test_errors_cross_the_wire(kind):
    sent = messages.Failed.of(uuid.uuid4().hex, kind("actor.png: shows no person", "Choose another", "actor"))
    received = messages.decode(messages.work_replies, messages.encode(sent))
    error = received.error()
    assert type(error) is kind
    assert (error.message, error.fix, error.subject) == (
        "actor.png: shows no person",
        "Choose another",
        "actor",
    )


def test_code_of_a_newer_server_is_still_an_error():
    assert str(messages.Failed(JOB, "new_kind", "it broke", "Do this").error()) == "it broke. Do this"


def test_fields_of_a_newer_server_are_ignored():
    header = msgpack.packb(
        {"type": "progress", "job": JOB, "seq": 0, "stage": "place", "index": 0, "count": 3, "x": 1}
    )
    assert messages.decode(messages.work_replies, header) == messages.Progress(JOB, 0, "place", 0, 3)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["context", "skeleton", "where", "locked", "seed", "width", "height", "count", "candidates", "network"]
)


@hypothesis.given(
    st.sampled_from(["detect", "place", "refine", "transfer", "insert"]),
    st.dictionaries(fields, anything | st.just([1e308] * 54) | st.just([PERSON]), max_size=4),
    anything,
)
def test_any_fields_are_taken_or_refused(kind, values, blobs):
    header = msgpack.packb(submit(request={"type": kind} | values, blobs=blobs))
    with contextlib.suppress(BadInput, BadImage):
        message = messages.decode(messages.work_requests, header)
        messages.check(message.request, message.blobs, Limits())


def test_limits_grow_with_the_size_of_pictures():
    assert Limits.for_megapixels(64) == Limits()
    large = Limits.for_megapixels(200)
    blob = Blob("uint8", (14000, 14000, 4))
    messages.check(Insert(), [blob, blob], large)
    with pytest.raises(BadImage, match="the server takes 64 megapixels"):
        messages.check(Insert(), [blob, blob], Limits())
    small = Limits.for_megapixels(1)
    with pytest.raises(BadImage, match="1001 x 1000 pixels; the server takes 1 megapixels"):
        messages.check(Detect(), [Blob("uint8", (1000, 1001, 3))], small)
