# SPDX-License-Identifier: Apache-2.0
"""Every message on the wire, as types. docs/protocol.md tells the same for other languages.

A header is one msgpack map whose `type` names the message. Pixels are never in it: each blob is a raw frame
(C order, little-endian) after the header, and the header's `blobs` holds its dtype and shape. Skeletons travel
as OpenPose's 54 numbers (x, y, score of the 18 COCO joints, missing joints 0, 0, 0), in pixels of the picture.
What a client sends may hold no unknown field; what a server sends may (a newer server adds some).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import BY_CODE, BadImage, BadInput, WalkOnError
from .limits import Limits
from .skeleton import NUM_JOINTS, Skeleton
from .where import Where as Where

PROTOCOL = 1
"""Version of the wire. Raised when an older client or server would misunderstand a newer one."""

MAGIC = b"walkon/%d" % PROTOCOL
"""First frame of every message, in both directions."""

# `\Z`, not `$`: `$` would also match before a final newline.
JobId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")]
Hash: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Keypoints: TypeAlias = list[float]
"""54 numbers, see `Skeleton.from_openpose`."""
Joint: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=NUM_JOINTS)]
"""Index of a joint in COCO-18 order."""
DType: TypeAlias = Literal["uint8", "float16", "float32"]
Array: TypeAlias = NDArray[Any]


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one raw frame holds: exactly `prod(shape) * itemsize` bytes."""

    dtype: DType
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 24)], ...], msgspec.Meta(min_length=1, max_length=4)
    ]

    @classmethod
    def of(cls, array: Array, subject: str = "array") -> Blob:
        """The description of an array.

        Raises:
            BadImage: of a type that does not travel.
        """
        name = array.dtype.name
        if name not in get_args(DType):
            raise BadImage(f"{subject}: is {name}", "Convert it to uint8 (0 to 255)", subject)
        return cls(name, tuple(array.shape))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Size of the frame."""
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


# ---- what can be asked for -------------------------------------------------------------------------------


class Detect(msgspec.Struct, frozen=True, tag="detect", forbid_unknown_fields=True):
    """Find the people in a picture. Blob: `picture` `(H, W, 3)` or `(H, W, 4)` uint8. Answer: `Detected`."""

    PICTURES: ClassVar[tuple[str, ...]] = ("picture",)


class Place(msgspec.Struct, frozen=True, tag="place", forbid_unknown_fields=True):
    """Propose skeletons for one more person. Blob, if wanted: `scene`. Answer: `Placed`.

    With the scene's pixels, feet are kept on what looks like the ground that the others stand on.

    Args:
        context (`list` of 54-number lists): the people already there.
        width, height (`int`): of the scene, in pixels.
        count (`int`): candidates wanted.
        seed (`int`): same seed, same candidates.
        where (`Where`): wishes for the place and the person, see shared/where.py.
        network (`str`, *optional*): placement network; the server's default if None.
        actor (54 numbers, *optional*): the actor as seen in the photo; candidates are fitted to what it shows.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ("scene",)
    context: list[Keypoints]
    width: Annotated[int, msgspec.Meta(ge=1)]
    height: Annotated[int, msgspec.Meta(ge=1)]
    count: Annotated[int, msgspec.Meta(ge=1)] = 8
    seed: Index = 0
    where: Where = Where()
    network: Name | None = None
    actor: Keypoints | None = None


class Refine(msgspec.Struct, frozen=True, tag="refine", forbid_unknown_fields=True):
    """Make a skeleton anatomically cleaner. No blob. Answer: `Refined`.

    Args:
        skeleton (54 numbers): the skeleton.
        locked (`list[int]`): joints that stay exactly where they are, as those that an artist has put there.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ()
    skeleton: Keypoints
    locked: list[Joint] = []


class Transfer(msgspec.Struct, frozen=True, tag="transfer", forbid_unknown_fields=True):
    """Paint the actor in a pose. Blob: `actor` uint8. Answer: `Transferred` with one blob.

    Args:
        skeleton (54 numbers): the pose wanted, in pixels of the scene.
        actor_person (`int`, *optional*): which person of the actor photo, 0 is the largest; the largest if None.
        generator (`str`): transfer network.
        passes (`bool`): also depth and normals, as two more blobs.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ("actor",)
    skeleton: Keypoints
    actor_person: Index | None = None
    generator: Name = "motion"
    passes: bool = False


class Insert(msgspec.Struct, frozen=True, tag="insert", forbid_unknown_fields=True):
    """The whole job. Blobs: `scene`, `actor`, uint8. Answer: `Inserted` with one blob.

    Args:
        skeleton (54 numbers, *optional*): the pose wanted; then there is no placement, and of `where` only the feet
            count: the skeleton is moved there.
        locked (`list[int]`, *optional*): with a `skeleton`, refine it, but leave these joints exactly where they are;
            without, it is painted as it is.
        context (`list` of 54-number lists, *optional*): the people of the scene; then there is no detection.
        where (`Where`): wishes for the place and the person, see shared/where.py.
        seed (`int`): same seed, same result.
        candidates (`int`): candidates to choose from.
        actor_person (`int`, *optional*): which person of the actor photo, 0 is the largest; the largest if None.
        generator (`str`): transfer network.
        network (`str`, *optional*): placement network; the server's default if None.
        color_strength (`float`, 0..1, *optional*): how far colours move towards the scene's; the default if None.
        shadow (`float`, 0..1, *optional*): how dark the shadows on the ground are, 0 for none; the default if None.
        passes (`bool`): also depth and normals, as two more blobs.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ("scene", "actor")
    skeleton: Keypoints | None = None
    locked: list[Joint] | None = None
    context: list[Keypoints] | None = None
    where: Where = Where()
    seed: Index = 0
    candidates: Annotated[int, msgspec.Meta(ge=1)] = 8
    actor_person: Index | None = None
    generator: Name = "motion"
    network: Name | None = None
    color_strength: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    shadow: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    passes: bool = False


class Analyse(msgspec.Struct, frozen=True, tag="analyse", forbid_unknown_fields=True):
    """Find and cut out an actor, and keep what previews need of it. Blob: `actor` uint8. Answer: `Analysed`.

    Args:
        actor_person (`int`, *optional*): which person of the photo, 0 is the largest; the largest if None.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ("actor",)
    actor_person: Index | None = None


class Preview(msgspec.Struct, frozen=True, tag="preview", forbid_unknown_fields=True):
    """Paint an actor that was analysed before, small and at once. No blob. Answer: `Previewed` with one blob.

    Of one client's previews only the newest waits: an older one that has not begun ends with `superseded`.

    Args:
        actor (64 hex digits): `picture_hash` of the photo.
        skeleton (54 numbers): the pose wanted, in pixels of the scene.
        size (`int`): side of the answer's square, in pixels.
        actor_person (`int`, *optional*): as in `Analyse`.
    """

    PICTURES: ClassVar[tuple[str, ...]] = ()
    actor: Hash
    skeleton: Keypoints
    size: Annotated[int, msgspec.Meta(ge=32, le=512)] = 256
    actor_person: Index | None = None


Request: TypeAlias = Detect | Place | Refine | Transfer | Insert | Analyse | Preview

# ---- what comes back -------------------------------------------------------------------------------------


class Candidate(msgspec.Struct, frozen=True):
    """One proposed skeleton (54 numbers) and its score, 0..1, higher is better; `warning` says what it lacks."""

    skeleton: Keypoints
    score: float
    warning: str = ""


class Detected(msgspec.Struct, frozen=True, tag="detected"):
    """The people of a picture, largest first."""

    people: list[Keypoints]


class Placed(msgspec.Struct, frozen=True, tag="placed"):
    """Candidates, best first."""

    candidates: list[Candidate]


class Refined(msgspec.Struct, frozen=True, tag="refined"):
    """The cleaner skeleton."""

    skeleton: Keypoints


class Transferred(msgspec.Struct, frozen=True, tag="transferred"):
    """A layer, whose pixels are the first blob: `(h, w, 4)` uint8, sRGB, straight alpha.

    Where passes were asked for, two more blobs follow. Depth, `(h, w)` float16: metres towards the camera from the
    middle of the body, for a body whose torso is half a metre. Normals, `(h, w, 3)` uint8: 127.5 + 127.5 times the
    unit vector (x to the right, y up, z towards the camera). Neither means anything where alpha is 0.

    Args:
        x, y (`int`): scene pixel in which the layer's first pixel lies; may be negative.
        scale (`float`): scene pixels per layer pixel.
        warnings (`list[str]`): what the user should know, e.g. that only the upper body was visible.
        seconds (`dict`): stage to seconds.
        versions (`dict`): program to version.
        weights (`dict`): network to SHA-256 of its weights.
    """

    x: int
    y: int
    scale: float = 1.0
    warnings: list[str] = []
    seconds: dict[str, float] = {}
    versions: dict[str, str] = {}
    weights: dict[str, str] = {}


class Inserted(msgspec.Struct, frozen=True, tag="inserted"):
    """A finished layer, whose pixels are the first blob: `(h, w, 4)` uint8, sRGB, straight alpha.

    Where passes were asked for, depth and normals follow as in `Transferred`, and then the person's own colours,
    `(h, w, 3)` uint8: sRGB before it was matched to the scene's.

    Args:
        x, y (`int`): scene pixel in which the layer's first pixel lies; may be negative.
        scale (`float`): scene pixels per layer pixel.
        skeleton (54 numbers): the skeleton that was painted, in pixels of the scene.
        candidates (`list[Candidate]`): all that were proposed, best first; empty where a skeleton was given.
        context (`list` of 54-number lists): the people found or given.
        seed (`int`): as asked.
        seconds (`dict`): stage to seconds.
        versions (`dict`): program to version.
        weights (`dict`): network to SHA-256 of its weights.
        warnings (`list[str]`): what the user should know.
    """

    x: int
    y: int
    scale: float
    skeleton: Keypoints
    candidates: list[Candidate]
    context: list[Keypoints]
    seed: int
    seconds: dict[str, float]
    versions: dict[str, str]
    weights: dict[str, str]
    warnings: list[str] = []


class Analysed(msgspec.Struct, frozen=True, tag="analysed"):
    """An actor that previews can be asked of. Blob: the matte, uint8 of the photo's form, longer side at most 512.

    Args:
        actor (64 hex digits): hash of the photo, for `Preview`.
        skeleton (54 numbers): the person, in pixels of the photo.
        warnings (`list[str]`): what the user should know.
    """

    actor: str
    skeleton: Keypoints
    warnings: list[str] = []


class Previewed(msgspec.Struct, frozen=True, tag="previewed"):
    """A small layer, whose pixels are the only blob: `(size, size, 4)` uint8, sRGB, straight alpha.

    Args:
        x, y (`int`): scene pixel in which the square's top-left corner lies; may be negative.
        scale (`float`): scene pixels per pixel of the square.
    """

    x: int
    y: int
    scale: float


Answer: TypeAlias = Detected | Placed | Refined | Transferred | Inserted | Analysed | Previewed

# ---- client to server ------------------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag="submit", forbid_unknown_fields=True):
    """Work socket: do this. The same id twice is one job; the second gets the first one's answer.

    Args:
        job (32 hex digits): made by the client (uuid4).
        request (`Request`): what to do.
        blobs (`list[Blob]`): one for each raw frame that follows.
        deadline (seconds, *optional*): the job fails when it is not done by then, waiting included.
    """

    job: JobId
    request: Request
    blobs: list[Blob] = []
    deadline: Annotated[float, msgspec.Meta(gt=0.0, le=86400.0)] | None = None


class Fetch(msgspec.Struct, frozen=True, tag="fetch", forbid_unknown_fields=True):
    """Work socket: send the result of that job here, now or when it is done."""

    job: JobId


class Cancel(msgspec.Struct, frozen=True, tag="cancel", forbid_unknown_fields=True):
    """Control socket: give the job up. Harmless when it is done, cancelled or unknown."""

    ask: Index
    job: JobId


class StatusRequest(msgspec.Struct, frozen=True, tag="status", forbid_unknown_fields=True):
    """Control socket: how are you? `ask` is echoed in the reply."""

    ask: Index


WorkRequest: TypeAlias = Submit | Fetch
ControlRequest: TypeAlias = Cancel | StatusRequest

# ---- server to client ------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The job is in the queue or running; `ahead` jobs come before it."""

    job: str
    ahead: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The job has begun a stage: number `index` of `count`, from 0. `seq` only grows."""

    job: str
    seq: int
    stage: str
    index: int
    count: int


class Result(msgspec.Struct, frozen=True, tag="result"):
    """The job is done; nothing follows about it. `blobs` describes the raw frames after the header."""

    job: str
    answer: Answer
    blobs: list[Blob] = []


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The job ended without a result, or a message was refused (`job` is empty where it named none)."""

    job: str
    code: str
    message: str
    fix: str
    subject: str = ""

    @classmethod
    def of(cls, job: str, error: WalkOnError) -> Failed:
        """The message that carries an error."""
        return cls(job, error.code, error.message, error.fix, error.subject)

    def error(self) -> WalkOnError:
        """The error to raise: of the class that `code` names in shared.errors."""
        return BY_CODE.get(self.code, WalkOnError)(self.message, self.fix, self.subject)


class CancelReply(msgspec.Struct, frozen=True, tag="cancel_reply"):
    """Whether this request ended the job: False when it was already over or is unknown."""

    ask: int
    job: str
    cancelled: bool


class Problem(msgspec.Struct, frozen=True):
    """Why a server cannot work, as in `Failed`."""

    code: str
    message: str
    fix: str


class Status(msgspec.Struct, frozen=True, tag="status_reply"):
    """State of the server.

    Args:
        ask (`int`): of the request.
        ready (`bool`): warmed up through all stages; jobs sent earlier wait.
        stage (`str`): what warm-up is doing; empty afterwards.
        problem (`Problem`, *optional*): why warm-up failed; jobs then fail with the same.
        stopping (`bool`): takes no more jobs.
        version (`str`), protocol (`int`), pid (`int`): of the server.
        limits (`Limits`): what it takes at most.
        waiting (`int`): jobs in the queue, without the running one.
        running (`str`): id of the running job; empty when idle.
        device (`str`): what computes, e.g. `cpu`.
        memory (`int`): resident bytes of the server process.
        weights (`dict`): network to SHA-256 of its weights.
        uptime (`float`): seconds since the start.
    """

    ask: int
    ready: bool
    stage: str
    problem: Problem | None
    stopping: bool
    version: str
    protocol: int
    pid: int
    limits: Limits
    waiting: int
    running: str
    device: str
    memory: int
    weights: dict[str, str]
    uptime: float


WorkReply: TypeAlias = Accepted | Progress | Result | Failed
ControlReply: TypeAlias = CancelReply | Status | Failed

# ---- bytes -----------------------------------------------------------------------------------------------

encode = msgspec.msgpack.Encoder().encode
work_requests = msgspec.msgpack.Decoder(WorkRequest)
control_requests = msgspec.msgpack.Decoder(ControlRequest)
work_replies = msgspec.msgpack.Decoder(WorkReply)
control_replies = msgspec.msgpack.Decoder(ControlReply)

T = TypeVar("T")


def decode(decoder: msgspec.msgpack.Decoder[T], header: bytes) -> T:
    """The message in a header.

    Raises:
        BadInput: not msgpack, or not a message of the decoder's type; names the field.
    """
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # Deeply nested arrays end in a RecursionError, which is no DecodeError.
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput(
            f"message header: {reason}", "Send what docs/protocol.md describes", "header"
        ) from error


class _JobOnly(msgspec.Struct):
    job: JobId


_job_only = msgspec.msgpack.Decoder(_JobOnly)


def job_of(header: bytes) -> str:
    """The job id of a header that is otherwise refused; empty where it cannot be read."""
    try:
        return _job_only.decode(header).job
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""


def array_of(blob: Blob, frame: memoryview | bytes, subject: str) -> Array:
    """A read-only view of a raw frame.

    Raises:
        BadInput: the frame's size does not fit.
    """
    size = frame.nbytes if isinstance(frame, memoryview) else len(frame)
    if size != blob.nbytes:
        raise BadInput(
            f"{subject}: the frame has {size} bytes, not {blob.nbytes} ({'x'.join(map(str, blob.shape))} {blob.dtype})",
            "Send each blob whole, in C order",
            subject,
        )
    array: Array = np.frombuffer(frame, dtype=np.dtype(blob.dtype).newbyteorder("<")).reshape(blob.shape)
    array.setflags(write=False)
    return array


def picture_hash(picture: Array) -> str:
    """SHA-256 of a picture's shape and pixels: what a server knows an analysed photo by."""
    digest = hashlib.sha256(repr(tuple(picture.shape)).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def check(request: Request, blobs: Sequence[Blob], limits: Limits) -> None:
    """Hold a request against the limits. Both ends do so: the client before it sends, the server always.

    Raises:
        BadImage: a picture of the wrong form, or too large.
        BadInput: anything else out of range.
    """
    names = request.PICTURES
    kind = type(request).__name__.lower()
    if isinstance(request, Place) and not blobs:
        names = ()
    if len(blobs) != len(names):
        raise BadInput(
            f"{kind}: {len(blobs)} pictures were given, not {len(names)}",
            f"Give {' and '.join(names)}" if names else "Give no picture",
            "blobs",
        )
    for name, blob in zip(names, blobs, strict=True):
        _check_picture(name, blob, limits)
    if isinstance(request, Place) and blobs and blobs[0].shape[:2] != (request.height, request.width):
        raise BadInput(
            f"scene: has {blobs[0].shape[1]} x {blobs[0].shape[0]} pixels, not {request.width} x {request.height}",
            "Give the picture that the context is of",
            "scene",
        )
    total = sum(blob.nbytes for blob in blobs)
    if total > limits.max_job_bytes:
        raise BadImage(
            f"{kind}: {total / 1e6:.0f} MB of pictures, the server takes {limits.max_job_bytes / 1e6:.0f} MB",
            "Use smaller pictures",
            "blobs",
        )
    if isinstance(request, Place | Insert):
        _check_context(request.context or [], limits)
        _check_count(request.count if isinstance(request, Place) else request.candidates, limits)
        _check_where(request, blobs, limits)
    if isinstance(request, Place) and request.actor is not None:
        _check_skeleton("actor", request.actor, limits)
    if isinstance(request, Place) and max(request.width, request.height) > limits.max_side:
        raise BadInput(
            f"width, height: {request.width} x {request.height} is beyond {limits.max_side} pixels",
            "Give the size of the scene in pixels",
            "width",
        )
    if isinstance(request, Refine | Transfer | Insert | Preview) and request.skeleton is not None:
        _check_skeleton("skeleton", request.skeleton, limits)


def _check_picture(name: str, blob: Blob, limits: Limits) -> None:
    if blob.dtype != "uint8" or len(blob.shape) != 3 or blob.shape[2] not in (3, 4):
        raise BadImage(
            f"{name}: is {'x'.join(map(str, blob.shape))} {blob.dtype}, not height x width x 3 or 4 uint8",
            "Convert it to 8-bit RGB or RGBA",
            name,
        )
    height, width = blob.shape[:2]
    too_large = width * height > limits.max_megapixels * 1e6 or blob.nbytes > limits.max_blob_bytes
    if too_large or max(width, height) > limits.max_side:
        raise BadImage(
            f"{name}: {width} x {height} pixels; the server takes {limits.max_megapixels:g} megapixels"
            f" and {limits.max_side} pixels a side",
            "Scale the picture down, or raise the server's limit",
            name,
        )


def _check_skeleton(subject: str, values: Keypoints, limits: Limits) -> None:
    skeleton = Skeleton.from_openpose(values, subject)
    if not skeleton.visible.any():
        raise BadInput(
            f"{subject}: no joint is known", "Give at least one joint with a score above 0", subject
        )
    # A person partly or wholly outside the frame is fine, but what is painted has to fit into memory.
    x0, y0, x1, y1 = (float(value) for value in skeleton.box)
    too_large = (x1 - x0) * (y1 - y0) > limits.max_megapixels * 1e6
    if too_large or max(-x0, -y0, x1, y1) > 2 * limits.max_side:
        raise BadInput(
            f"{subject}: reaches from {x0:.4g},{y0:.4g} to {x1:.4g},{y1:.4g}, too large or too far off",
            "Give the joints in pixels of the scene",
            subject,
        )


def _check_where(request: Place | Insert, blobs: Sequence[Blob], limits: Limits) -> None:
    width, height = (request.width, request.height) if isinstance(request, Place) else blobs[0].shape[1::-1]
    where = request.where
    where.check(width, height)
    if where.like is not None:
        _check_skeleton("like", where.like, limits)
    if isinstance(request, Insert) and request.skeleton is not None and where != Where(feet=where.feet):
        raise BadInput(
            "where: only the feet can be asked for together with a skeleton",
            "Change the skeleton itself, or leave it out",
            "where",
        )
    if isinstance(request, Insert) and request.skeleton is None and request.locked is not None:
        raise BadInput(
            "locked: there is no skeleton whose joints could be locked", "Give the skeleton as well", "locked"
        )


def _check_context(context: Sequence[Keypoints], limits: Limits) -> None:
    if len(context) > limits.max_people:
        raise BadInput(
            f"context: {len(context)} people; the server takes {limits.max_people}",
            "Leave out the people that are far from where the new one goes",
            "context",
        )
    for index, person in enumerate(context):
        _check_skeleton(f"context: person {index}", person, limits)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_candidates:
        raise BadInput(
            f"candidates: {count}; the server gives {limits.max_candidates} at most",
            "Ask for fewer",
            "candidates",
        )
