# SPDX-License-Identifier: GPL-3.0-or-later
"""Thumbnails of the suggestions for the panel: drawn by a thread, never saved, made anew from what the file holds.

A thumbnail is known by what it shows, the pose and the picture, so undo, redo and loading need no code of their own:
after any change what is missing is drawn, and what nobody shows any more is let go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import bpy
import bpy.utils.previews
import numpy as np
from numpy.typing import NDArray

from . import jobs, thumbnail
from .scene_picture import reader
from .shared.skeleton import Skeleton

_SOON = 0.1  # seconds: what changes at once is drawn at once
_TIMER = 0.05

_Wanted = dict[str, tuple[Skeleton, Callable[[], NDArray[np.uint8]]]]
_Icons = dict[str, NDArray[np.float32]]

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
_shown: dict[int, list[str]] = {}  # by scene: the previews' names, in the order of the suggestions
_thread: ThreadPoolExecutor | None = None
_drawing: Future[_Icons] | None = None


def thumbnail_of(scene: bpy.types.Scene, index: int) -> bpy.types.ImagePreview | None:
    """The thumbnail of that suggestion; None until it is drawn."""
    names = _shown.get(scene.session_uid, [])
    return _previews.get(names[index]) if _previews is not None and index < len(names) else None


def refresh() -> None:
    """Suggestions may have changed: look in a moment, after all that changes with them."""
    if _previews is not None and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_SOON, persistent=True)


def update(wait: bool = False) -> bool:
    """Take over what was drawn, let go what is not needed, have drawn what is missing.

    Args:
        wait (`bool`): until all is drawn.

    Returns:
        `bool`: whether something is still being drawn.
    """
    global _drawing
    if _previews is None or _thread is None:
        return False
    if _drawing is not None:
        if not (wait or _drawing.done()):
            return True
        for name, pixels in _drawing.result().items():
            preview = _previews.get(name) or _previews.new(name)
            preview.image_size = thumbnail.SIDE, thumbnail.SIDE
            preview.image_pixels_float.foreach_set(pixels.ravel())
        _drawing = None
        jobs.redraw()
    wanted = _wanted()
    for name in [name for name in _previews if name not in wanted]:
        del _previews[name]
    missing = {name: what for name, what in wanted.items() if name not in _previews}
    if missing:
        _drawing = _thread.submit(_draw, missing)
        return update(wait=True) if wait else True
    return False


def _wanted() -> _Wanted:
    """What the suggestions of all scenes show, by the names of their previews; notes them as shown."""
    wanted: _Wanted = {}
    _shown.clear()
    for scene in bpy.data.scenes:
        work = scene.walkon
        if not work.candidates:
            continue
        picture, size = work.picture, tuple(work.picture_size)
        whose = (picture.session_uid if picture is not None else 0, size)
        read: Callable[[], NDArray[np.uint8]] | None = None
        names = _shown[scene.session_uid] = []
        for candidate in work.candidates:
            skeleton = candidate.skeleton
            name = hashlib.sha256(
                repr(whose).encode() + skeleton.xy.tobytes() + skeleton.visible.tobytes()
            ).hexdigest()
            names.append(name)
            if _previews is not None and name not in _previews and read is None:
                read = reader(picture) if picture is not None else _nothing(size)
            wanted[name] = skeleton, read or _nothing(size)
    return wanted


def _nothing(size: tuple[int, int]) -> Callable[[], NDArray[np.uint8]]:
    """In place of a picture that the artist took away."""
    return lambda: np.full((max(1, size[1]), max(1, size[0]), 3), 60, np.uint8)


def _draw(wanted: _Wanted) -> _Icons:
    """In the thread: the pixels of those thumbnails."""
    pictures: dict[Callable[[], NDArray[np.uint8]], NDArray[np.uint8]] = {}
    icons = {}
    for name, (skeleton, read) in wanted.items():
        if read not in pictures:
            pictures[read] = read()
        icons[name] = thumbnail.draw(pictures[read], skeleton)
    return icons


def _tick() -> float | None:
    return _TIMER if update() else None


def register() -> None:
    """Called by the package."""
    global _previews, _thread
    _previews = bpy.utils.previews.new()
    _thread = ThreadPoolExecutor(1, "Walk-On thumbnails")


def unregister() -> None:
    """Called by the package."""
    global _previews, _thread, _drawing
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _thread is not None:
        _thread.shutdown(cancel_futures=True)
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
    _previews = _thread = _drawing = None
    _shown.clear()
