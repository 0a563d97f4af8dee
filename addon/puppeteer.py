# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread behind the live preview: it has the actor painted in the newest pose, again and again. No bpy here.

The main thread puts poses in and takes pictures out, and never waits. Only the newest of each counts: a pose that
comes while another is painted replaces the one that waited. The sharp picture is the layer as it will be; what that
does to the person's colours is done to the small ones too, so that nothing jumps when the artist lets go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .colour_match import ColourMatch
from .shared.client import Client, Finished, read_connection
from .shared.errors import BadInput, ServerFault, WalkOnError
from .shared.messages import Failed, Insert, Inserted, Preview, picture_hash
from .shared.skeleton import Skeleton

SIZE = 256
"""Side of the small picture in pixels: what two cores paint in a tenth of a second."""

_TICK = 0.02


@dataclass(frozen=True, eq=False)
class Stage:
    """Where the actor is shown.

    Args:
        read (callable): gives the picture `(H, W, 3)` uint8, in any thread.
        people (`list[Skeleton]`): who is in the picture already, in its pixels.
        grow (`float`): pixels of that picture per pixel of the poses that are asked for.
        shadow (`float`, 0..1): how dark the shadows on the ground are.
    """

    read: Callable[[], NDArray[np.uint8]]
    people: list[Skeleton]
    grow: float
    shadow: float


@dataclass(frozen=True, eq=False)
class Frame:
    """A painted person, ready to be shown.

    Args:
        pixels (`(height * width * 4,)` float32, 0..1): as Blender's images hold them, bottom row first.
        width, height (`int`): in pixels.
        x, y (`float`): where the top-left corner lies, pixels of the scene's picture.
        scale (`float`): scene pixels per pixel.
        skeleton (`Skeleton`): the pose that was asked for.
        sharp (`bool`): at full resolution.
        seconds (`float`): from taking the pose up to having the picture.
    """

    pixels: NDArray[np.float32]
    width: int
    height: int
    x: float
    y: float
    scale: float
    skeleton: Skeleton
    sharp: bool
    seconds: float


class Puppeteer:
    """Paints one actor in pose after pose.

    Args:
        connection_file (`str`): where the server says how to reach it; it has to run already.
        photo (`(H, W, 3 or 4)` uint8): the actor photo; sent to the server when that does not know it.
        actor_person (`int`): which person of the photo; 0 is the largest.
        stage (`Stage`): where the actor is shown.

    `error` is what ended the thread, if something did.
    """

    def __init__(
        self, connection_file: str, photo: NDArray[np.uint8], actor_person: int, stage: Stage
    ) -> None:
        self._connection_file, self._photo, self._number = connection_file, photo, actor_person
        self._stage = stage
        self._match: ColourMatch | None = None
        self._news = threading.Condition()
        self._wanted: tuple[Skeleton, bool] | None = None
        self._frame: Frame | None = None
        self._closed = False
        self.error: WalkOnError | None = None
        self._thread = threading.Thread(target=self._run, name="Walk-On preview", daemon=True)
        self._thread.start()

    # ---- the main thread ---------------------------------------------------------------------------------

    def show(self, skeleton: Skeleton, sharp: bool = False) -> None:
        """Paint this pose next, whatever waited before.

        Args:
            sharp (`bool`): at full resolution; given up as soon as another pose comes.
        """
        with self._news:
            self._wanted = skeleton, sharp
            self._news.notify()

    def take(self) -> Frame | None:
        """The newest picture, once."""
        with self._news:
            frame, self._frame = self._frame, None
        return frame

    def close(self, wait: float = 0.0) -> None:
        """End the thread, after what it is at; waits for that at most so many seconds."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(wait)

    # ---- its own thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with Client(read_connection(Path(self._connection_file))) as client:
                photo_hash, picture, first = picture_hash(self._photo), self._stage.read(), True
                while True:
                    with self._news:
                        while self._wanted is None and not self._closed:
                            self._news.wait()
                        if self._closed or self._wanted is None:
                            return
                        (skeleton, sharp), self._wanted = self._wanted, None
                    # The first one tells the colours, and is waited for.
                    frame = self._paint(client, skeleton, picture, first) if sharp or first else None
                    if frame is None and not sharp:
                        frame = self._preview(client, skeleton, photo_hash)
                    first = False
                    with self._news:
                        if frame is not None:
                            self._frame = frame
        except WalkOnError as error:
            self.error = error
        except Exception as fault:  # noqa: BLE001  (a thread that dies silently is what users hate most)
            self.error = ServerFault(f"The live preview failed: {fault!r}", "Report it")

    def _preview(self, client: Client, skeleton: Skeleton, photo_hash: str) -> Frame:
        start = time.monotonic()
        request = Preview(photo_hash, skeleton.to_openpose(), SIZE, self._number)
        answer, rgba = client.preview(request, self._photo)
        if self._match is not None:
            rgba = self._match.matched(rgba)
        return _frame(rgba, answer.x, answer.y, answer.scale, skeleton, False, start)

    def _paint(
        self, client: Client, skeleton: Skeleton, picture: NDArray[np.uint8], wait: bool
    ) -> Frame | None:
        """The layer that this pose would give; None where another pose came first, or nothing of it is seen."""
        start, stage = time.monotonic(), self._stage
        request = Insert(
            skeleton=skeleton.transformed(stage.grow).to_openpose(),
            context=[person.to_openpose() for person in stage.people],
            actor_person=self._number,
            color_strength=1.0,
            shadow=stage.shadow,
            passes=True,
        )
        job = client.submit(request, [picture, self._photo])
        while True:
            for event in client.poll(_TICK):
                if event.job != job:
                    continue
                if isinstance(event, Failed):
                    error = event.error()
                    if isinstance(error, BadInput) and error.subject == "layer":
                        return None  # hidden behind others: what was painted small is the best there is
                    raise error
                if isinstance(event, Finished) and isinstance(event.answer, Inserted):
                    answer, (rgba, _, _, own) = event.answer, event.blobs
                    self._match = ColourMatch.learned(own, rgba) or self._match
                    x, y, scale = (value / stage.grow for value in (answer.x, answer.y, answer.scale))
                    return _frame(rgba, x, y, scale, skeleton, True, start)
            if self._closed or (self._wanted is not None and not wait):  # the artist goes on: give it up
                client.cancel(job)
                return None


def _frame(
    rgba: NDArray[np.uint8], x: float, y: float, scale: float, skeleton: Skeleton, sharp: bool, start: float
) -> Frame:
    height, width = rgba.shape[:2]
    pixels = rgba[::-1].astype(np.float32).ravel()
    pixels /= 255.0
    return Frame(pixels, width, height, x, y, scale, skeleton, sharp, time.monotonic() - start)
