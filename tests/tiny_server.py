# SPDX-License-Identifier: Apache-2.0
"""A server process with a small pipeline: no network, but every answer is computed from the request's pixels.

How long it takes is in the request: `insert` runs `candidates` stages of `seed` milliseconds each, `preview` takes
`size` milliseconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from server.serve import Server, run_until_stopped
from shared import messages
from shared.errors import ActorUnknown, MissingWeights, NoActor, NoContext
from shared.limits import Limits
from shared.messages import Answer, Array, Request
from shared.skeleton import NUM_JOINTS, Skeleton


def bright_person(picture: Array) -> Skeleton | None:
    """A skeleton along the diagonal of the box of the bright pixels."""
    rows, columns = np.nonzero(picture[..., :3].min(axis=2) > 127)
    if not len(rows):
        return None
    steps = np.linspace(0.0, 1.0, NUM_JOINTS)[:, None]
    first = np.array([columns.min(), rows.min()]) + 0.5
    last = np.array([columns.max(), rows.max()]) + 0.5
    return Skeleton(first + (last - first) * steps, np.ones(NUM_JOINTS, bool))


def cut_out(picture: Array) -> Array:
    """The picture as RGBA, opaque where it is bright."""
    alpha = np.where(picture[..., :3].min(axis=2) > 127, 255, 0).astype(np.uint8)
    return np.dstack([picture[..., :3], alpha])


class TinyPipeline:
    """People are bright rectangles."""

    def __init__(self, warm_up_seconds: float = 0.0, broken: bool = False) -> None:
        self.warm_up_seconds = warm_up_seconds
        self.broken = broken
        self.analysed: set[str] = set()

    def warm_up(self, progress: Callable[[str], None]) -> None:
        progress("detect")
        bright_person(np.zeros((8, 8, 3), np.uint8))
        if self.broken:
            raise MissingWeights("transfer/motion: no weights are installed", "Run `walkon models import`")
        progress("transfer")
        cut_out(np.zeros((8, 8, 3), np.uint8))
        time.sleep(self.warm_up_seconds)

    def run(
        self,
        request: Request,
        blobs: Sequence[Array],
        progress: Callable[[str, int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[Answer, list[Array]]:
        match request:
            case messages.Detect():
                progress("detect", 0, 1)
                person = bright_person(blobs[0])
                return messages.Detected([] if person is None else [person.to_openpose()]), []
            case messages.Place():
                progress("place", 0, 1)
                if not request.context:
                    raise NoContext("scene: shows no people", "Use a picture with people", "scene")
                rng = np.random.default_rng(request.seed)
                person = Skeleton.from_openpose(request.context[0])
                moved = [
                    person.transformed(1.0, (rng.uniform(0, request.width), 0)) for _ in range(request.count)
                ]
                return messages.Placed([messages.Candidate(one.to_openpose(), 1.0) for one in moved]), []
            case messages.Refine():
                return messages.Refined(Skeleton.from_openpose(request.skeleton).to_openpose()), []
            case messages.Transfer():
                return messages.Transferred(3, 4), [cut_out(blobs[0])]
            case messages.Insert():
                return self.insert(request, *blobs, progress)
            case messages.Analyse():
                photo, person = messages.picture_hash(blobs[0]), bright_person(blobs[0])
                if person is None:
                    raise NoActor("actor: shows no person", "Choose a photo of a person", "actor")
                self.analysed.add(photo)
                return messages.Analysed(photo, person.to_openpose()), [cut_out(blobs[0])[..., 3]]
            case messages.Preview():
                if request.actor not in self.analysed:
                    raise ActorUnknown("actor: is not analysed", "Send `analyse` first", "actor")
                time.sleep(request.size / 1000)
                x, y = (int(value) for value in request.skeleton[:2])
                return messages.Previewed(x, y, 2.0), [np.full((request.size, request.size, 4), 7, np.uint8)]

    def insert(
        self, request: messages.Insert, scene: Array, actor: Array, progress: Callable[[str, int, int], None]
    ) -> tuple[Answer, list[Array]]:
        seconds = {}
        for index in range(request.candidates):
            progress(f"stage {index}", index, request.candidates)
            time.sleep(request.seed / 1000)
            seconds[f"stage {index}"] = request.seed / 1000
        person = bright_person(actor)
        if person is None:
            raise NoActor("actor: shows no person", "Choose a photo of a person", "actor")
        if request.generator == "crash":
            raise ZeroDivisionError("a fault of ours")
        x, y = request.where.feet or (0.0, 0.0)
        if request.generator == "float64":
            return messages.Transferred(0, 0), [np.zeros((4, 4, 4))]
        if request.generator == "numpy":
            return messages.Transferred(np.int64(0), 0), []
        answer = messages.Inserted(
            int(x), int(y), 1.0, person.to_openpose(), [], [], request.seed, seconds, {"walkon": "test"}, {}
        )
        return answer, [cut_out(actor)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", required=True)
    parser.add_argument("--warm-up", type=float, default=0.0)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--idle", type=float)
    parser.add_argument("--limits", default="{}", help="JSON")
    parser.add_argument("--host", default="127.0.0.1")
    given = parser.parse_args()
    code = run_until_stopped(
        Server(
            TinyPipeline(given.warm_up, given.broken),
            given.file,
            given.host,
            limits=msgspec.json.decode(given.limits, type=Limits),
            weights=lambda: {"transfer/tiny": "0" * 64},
            grace=given.grace,
            idle=given.idle,
        )
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
