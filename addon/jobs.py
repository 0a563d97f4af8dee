# SPDX-License-Identifier: GPL-3.0-or-later
"""The one job engine: an operator's work goes to the worker's thread and comes back, in scripts and in windows.

A script calls an operator and gets it done (`execute` waits). In a window the same operator starts the work
(`invoke`), a timer brings what the worker has to say (`modal`), and Blender stays free.
"""

from __future__ import annotations

import atexit
import queue
import uuid
from typing import Any, ClassVar

import bpy
from bpy.app.handlers import persistent
from bpy.props import StringProperty

from .preferences import preferences
from .shared.errors import BadInput, Cancelled, WalkOnError
from .worker import Ended, Progressed, ServerChanged, Work, Worker

_TIMER = 0.1  # seconds
_IDLE_TIMER = 1.0

_worker: Worker | None = None
_ended: dict[int, Ended] = {}
_running = 0  # the task that the panel's Cancel gives up
# Kept jobs of this Blender, running or over: a file that remembers them has nothing to fetch.
_known: set[str] = set()

# The operator that mends an error: by the input at fault, otherwise by the kind of error.
_MENDED_BY = {
    "camera": "object.camera_add",
    "render": "render.render",
    "server": "walkon.preferences",
    "actor": "walkon.choose_actor",
    "server_unreachable": "walkon.start_server",
    "no_actor": "walkon.choose_actor",
    "partial_actor": "walkon.choose_actor",
    "online": "extensions.userpref_allow_online",
    "people": "walkon.find_people",
    "box": "walkon.new_box",
    "candidates": "walkon.suggest",
}


def worker() -> Worker:
    """The worker; its thread starts when it is first needed."""
    global _worker
    if _worker is None:
        _worker = Worker()
        bpy.app.timers.register(_watch, first_interval=_IDLE_TIMER, persistent=True)
    return _worker


def _watch() -> float | None:
    """Between jobs, too, the panel says how the server is. Blender calls this; in the background it never does."""
    if _worker is None:
        return None
    pump()
    return _IDLE_TIMER


def cancel() -> None:
    """Give up what runs."""
    if _worker is not None:
        _worker.cancel(_running)


def busy() -> bool:
    """Whether a job runs."""
    return bool(bpy.context.window_manager.walkon.job)


def scene_of(session_uid: int) -> bpy.types.Scene | None:
    """The scene that had this id, unless it was removed."""
    return next((scene for scene in bpy.data.scenes if scene.session_uid == session_uid), None)


def unfinished(scene: bpy.types.Scene) -> list[Any]:
    """What the file remembers of jobs that another Blender left to the server."""
    return [left for left in scene.walkon.unfinished if left.name not in _known]


def forget(scene: bpy.types.Scene, job: str) -> None:
    """A kept job is over."""
    found = scene.walkon.unfinished.find(job)
    if found >= 0:
        scene.walkon.unfinished.remove(found)


def state() -> Any:
    """What the panel shows."""
    return bpy.context.window_manager.walkon


def show_error(error: WalkOnError) -> None:
    """One line in the panel, with the fix and the operator that mends it."""
    shown = state()
    shown.error, shown.error_fix = error.message, error.fix
    shown.error_operator = _MENDED_BY.get(error.subject, _MENDED_BY.get(error.code, ""))
    redraw()


def clear_error() -> None:
    """The next try begins."""
    shown = state()
    shown.error = shown.error_fix = shown.error_operator = shown.note = ""


def pump(wait: float = 0.0) -> None:
    """Bring what the worker has said to the panel; never waits unless told to.

    Args:
        wait (seconds): how long to wait for the first event.
    """
    shown = state()
    try:
        while True:
            event = worker().events.get(timeout=wait) if wait else worker().events.get_nowait()
            wait = 0.0
            if isinstance(event, ServerChanged):
                shown.server, shown.server_text = event.state, event.text
            elif isinstance(event, Progressed):
                shown.stage, shown.progress = event.stage, event.fraction
            else:
                _ended[event.task] = event
            redraw()
    except queue.Empty:
        return


def redraw() -> None:
    """Let the panels show what has changed."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


class Kept:
    """Mixed into a `Job` whose work is one long job: the server goes on with it when Blender is closed.

    The file remembers the job. When it is open again, the operator with `fetch` set does not send its work anew, but
    waits for the result of the old one.
    """

    fetch: StringProperty(
        name="Fetch",
        description="Get the result of this job, which was sent before the file was closed, instead of a new one",
        options={"HIDDEN", "SKIP_SAVE"},
    )


class _Button(bpy.types.Operator):
    """Base of the operators that change Walk-On's work: one at a time, and where there is what they work on."""

    needs: ClassVar[tuple[str, str] | None] = None
    """A property of the scene's `walkon` without which there is nothing to do, and what is said then."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this: may the button be pressed?"""
        if busy():
            cls.poll_message_set("Walk-On is busy; wait or cancel")
            return False
        if context.scene is None:
            return False
        if cls.needs is not None and getattr(context.scene.walkon, cls.needs[0]) is None:
            cls.poll_message_set(cls.needs[1])
            return False
        return True


class Job(_Button):
    """Base of the operators that need the server; they give `work` and `apply`."""

    label: ClassVar[str]
    """What the panel says while it runs."""
    _task = 0
    _job = ""
    _scene = 0
    _timer: bpy.types.Timer | None = None

    def work(self, scene: bpy.types.Scene) -> Work:
        """Gathers what is needed from Blender and returns what the worker's thread shall do.

        Raises:
            WalkOnError: something is missing.
        """
        raise NotImplementedError

    def apply(self, scene: bpy.types.Scene, result: Any) -> str:
        """Puts the result into the scene; returns a line for the panel."""
        raise NotImplementedError

    # ---- both ways ---------------------------------------------------------------------------------------

    def _begin(self, context: bpy.types.Context) -> None:
        global _running
        clear_error()
        work = self.work(context.scene)
        self._scene = context.scene.session_uid
        kept = isinstance(self, Kept)
        self._job = (self.fetch or uuid.uuid4().hex) if kept else ""
        fetch = kept and bool(self.fetch)
        self._task = _running = worker().submit(work, preferences().command, self._job, fetch)
        if kept:
            _known.add(self._job)
            if not fetch:
                left = context.scene.walkon.unfinished.add()
                left.name, left.operator, left.label = self._job, self.bl_idname, self.label
        shown = state()
        shown.job, shown.stage, shown.progress = self.label, "", 0.0

    def _finish(self) -> None:
        ended = _ended.pop(self._task)
        state().job = ""
        # Undo and loading replace what Python holds of the scene: look it up again.
        scene = scene_of(self._scene)
        if ended.error is not None:
            if scene is not None and self._job:
                forget(scene, self._job)
            if self._job and ended.error.subject == "job":
                raise BadInput(
                    f"{self.label}: the server does not have the result any more",
                    f"Press {self.bl_label} again",
                )
            raise ended.error
        if scene is None:
            raise BadInput(
                f"{self.label}: the scene was removed meanwhile", "Do it again in another scene", "scene"
            )
        try:
            state().note = self.apply(scene, ended.result)
        except WalkOnError:
            _known.discard(self._job)  # the server still has it, for when that is mended
            raise
        if self._job:
            forget(scene, self._job)
        redraw()

    # ---- scripts and background --------------------------------------------------------------------------

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Does it all; returns when it is done."""
        try:
            self._begin(context)
            try:
                while self._task not in _ended:
                    pump(wait=_TIMER)
            except BaseException:  # Ctrl-C in a script: the server need not go on
                cancel()
                state().job = ""
                raise
            self._finish()
        except WalkOnError as error:
            show_error(error)
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if state().note:
            self.report({"INFO"}, state().note)
        return {"FINISHED"}

    # ---- windows -----------------------------------------------------------------------------------------

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Starts it and returns at once."""
        try:
            self._begin(context)
        except WalkOnError as error:
            show_error(error)
            return {"CANCELLED"}
        self._timer = context.window_manager.event_timer_add(_TIMER, window=context.window)
        context.window_manager.modal_handler_add(self)
        redraw()
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender calls this with every event; only the timer's are ours."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        pump()
        if self._task not in _ended:
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        try:
            self._finish()
        except Cancelled:
            state().note = "Cancelled"
            redraw()
            return {"CANCELLED"}
        except WalkOnError as error:
            # The panel shows it. A report of type ERROR would open a popup under the mouse.
            show_error(error)
            return {"CANCELLED"}
        return {"FINISHED"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender calls this when it takes the operator away: another file is loaded, the window is closed."""
        context.window_manager.event_timer_remove(self._timer)
        worker().leave(self._task)
        # Another file may be open, in which nobody knows the job; this one may be opened again.
        _known.discard(self._job)
        state().job = ""


class Quick(_Button):
    """Base of the operators that need no server: errors go to the panel and to the caller."""

    bl_options = {"UNDO"}

    def do(self, scene: bpy.types.Scene) -> None:
        """What the operator does.

        Raises:
            WalkOnError: for the panel.
        """
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        clear_error()
        try:
            self.do(context.scene)
        except WalkOnError as error:
            show_error(error)
            # In a window a report of type ERROR opens a popup; the panel has said it already.
            self.report({"ERROR" if bpy.app.background else "WARNING"}, str(error))
            return {"CANCELLED"}
        redraw()
        return {"FINISHED"}


@persistent
def _forget(_file: object) -> None:
    """Another file was loaded: nothing of ours runs any more, but the server does."""
    shown = state()
    shown.job = ""
    clear_error()
    pump()


def _close() -> None:
    global _worker
    if bpy.app.timers.is_registered(_watch):
        bpy.app.timers.unregister(_watch)
    if _worker is not None:
        _worker.close()
        _worker = None
    _ended.clear()
    _known.clear()


def register() -> None:
    """Called by the package."""
    bpy.app.handlers.load_post.append(_forget)
    atexit.register(_close)


def unregister() -> None:
    """Called by the package."""
    bpy.app.handlers.load_post.remove(_forget)
    atexit.unregister(_close)
    _close()
