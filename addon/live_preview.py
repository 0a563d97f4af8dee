# SPDX-License-Identifier: GPL-3.0-or-later
"""Live preview: while a pose is edited, a card in the camera view shows the actor in it.

Blender tells of every change of the armature (`observe`), which only hands the pose to the thread in puppeteer.py.
A timer shows what that has painted (`pump`). Both return at once. When the artist lets go, the same card gets the
person at full resolution. The card is never rendered and never saved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import bpy
import numpy as np
from bpy.app.handlers import persistent

from . import camera_plane, jobs, skeleton_rig
from .pose_operators import hide_in_view, hide_posed, show_posed
from .preferences import preferences
from .puppeteer import Frame, Puppeteer, Stage
from .scene_picture import actor_picture, colour_space, reader
from .shared.errors import BadInput, ServerFault
from .shared.skeleton import Skeleton
from .worker import Session, Work

CARD_NAME = "Walk-On Preview"

_TIMER = 1 / 40  # seconds
_LET_GO = 0.2  # seconds without a change before the sharp picture is painted
_COUNTED = 2.0  # seconds over which pictures are counted


@dataclass
class _Live:
    """A preview that runs."""

    puppeteer: Puppeteer
    scene: int
    actor: tuple[str, int]  # the photo and which person of it
    sent: Skeleton | None = None
    sharp: bool = False
    hidden: str = ""  # the layer in whose place the card is
    changed: float = 0.0
    shown: Frame | None = None
    times: list[float] = field(default_factory=list)


_live: _Live | None = None


def running() -> bool:
    """Whether a preview follows the pose."""
    return _live is not None


def rate() -> float:
    """Pictures per second lately."""
    if _live is None:
        return 0.0
    now = time.monotonic()
    return sum(now - shown < _COUNTED for shown in _live.times) / _COUNTED


def shown() -> Frame | None:
    """The picture that the card shows now."""
    return _live.shown if _live is not None else None


def start(scene: bpy.types.Scene, puppeteer: Puppeteer) -> None:
    """Follow the scene's armature from now on."""
    global _live
    stop()
    _live = _Live(puppeteer, scene.session_uid, _actor(scene))
    observe(scene)
    if not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick)


def _actor(scene: bpy.types.Scene) -> tuple[str, int]:
    """Who is painted: a layer has an actor of its own."""
    whose = scene.walkon.posed_layer or scene.walkon
    return whose.actor, whose.actor_person


def _stage(scene: bpy.types.Scene) -> Stage:
    """Where the actor is painted: a layer has a picture of its own.

    Raises:
        BadInput: that picture was taken away.
    """
    work, layer = scene.walkon, scene.walkon.posed_layer
    of = work if layer is None else layer.version
    grow = (work if layer is None else layer).picture_size[0] / work.picture_size[0]
    return Stage(reader(of.picture), [person.skeleton for person in of.people], grow, work.shadow)


def stop() -> None:
    """End the preview and take its card out of the file."""
    global _live
    for scene in bpy.data.scenes:
        _discard(scene)
    if _live is not None:
        _live.puppeteer.close()
        _live = None


def observe(scene: bpy.types.Scene) -> None:
    """The scene has changed: hand the pose to the painter if it is another one. Evaluates nothing, never waits."""
    live = _live
    if live is None or scene.session_uid != live.scene:
        return
    work = scene.walkon
    if work.rig is None or work.posed is None or work.rig_shows == "PERSON":
        return
    try:
        skeleton = skeleton_rig.read(work.rig, work.posed.edited.skeleton, evaluate=False)
    except BadInput:  # a bone was removed: the panel tells when the pose is needed
        return
    if not skeleton.visible.any() or (live.sent is not None and _same(skeleton, live.sent)):
        return
    live.sent, live.sharp, live.changed = skeleton, False, time.monotonic()
    live.puppeteer.show(skeleton)


def _same(a: Skeleton, b: Skeleton) -> bool:
    return np.array_equal(a.visible, b.visible) and np.allclose(a.xy, b.xy, atol=0.02)


def pump() -> bool:
    """Show what was painted; ask for the sharp picture when the artist has let go.

    Returns:
        `bool`: whether a new picture is shown.
    """
    live = _live
    if live is None:
        return False
    scene = jobs.scene_of(live.scene)
    if scene is None or live.puppeteer.error is not None:
        error = live.puppeteer.error
        stop()
        if error is not None:
            jobs.show_error(error)
        return False
    if _actor(scene) != live.actor:
        stop()
        jobs.state().note = "The preview has ended: now it would be another actor"
        jobs.redraw()
        return False
    if (
        scene.walkon.preview_full
        and live.sent is not None
        and not live.sharp
        and time.monotonic() - live.changed > _LET_GO
        and not _dragging()
    ):
        sharpen()
    frame = live.puppeteer.take()
    if frame is None:
        return False
    _show(scene, frame)
    live.shown = frame
    now = time.monotonic()
    live.times = [shown for shown in live.times if now - shown < _COUNTED] + [now]
    return True


def sharpen() -> None:
    """Paint the pose that is shown at full resolution."""
    if _live is not None and _live.sent is not None:
        _live.sharp = True
        _live.puppeteer.show(_live.sent, sharp=True)


def _dragging() -> bool:
    """Whether the artist holds something in a window: moves, turns or scales it."""
    return any(
        operator.bl_idname.startswith(("TRANSFORM_OT", "WALKON_OT_drag"))
        for window in bpy.context.window_manager.windows
        for operator in window.modal_operators
    )


def _tick() -> float | None:
    if _live is None:
        return None
    if bpy.app.is_job_running("RENDER"):  # it reads the scene in another thread
        return _TIMER
    try:
        pump()
    except Exception as fault:  # noqa: BLE001  (Blender drops a timer that raises, and tells only the terminal)
        stop()
        jobs.show_error(ServerFault(f"The live preview failed: {fault!r}", "Start it again, and report it"))
        return None
    return _TIMER


# ---- the card --------------------------------------------------------------------------------------------


def _show(scene: bpy.types.Scene, frame: Frame) -> None:
    card = scene.walkon.preview
    if card is None or card.data is None or scene.objects.get(card.name) != card:
        _discard(scene)
        card = _make_card(scene)
    space, _ = colour_space(scene)
    image = card.data
    if image.colorspace_settings.name != space:
        image.colorspace_settings.name = space  # drops the pixels; new ones follow
    if tuple(image.size) != (frame.width, frame.height):
        image = _resize(card, frame.width, frame.height, space)
    _hide_layer(scene)
    image.pixels.foreach_set(frame.pixels)
    image.update()
    card.location = frame.x, -frame.y, 0.0
    card.scale = frame.scale, frame.scale, 1.0
    jobs.redraw()


def _resize(card: bpy.types.Object, width: int, height: int, space: str) -> bpy.types.Image:
    """A new image for the card: a scaled one falls back to the size it was made with when anything reloads it."""
    old = card.data
    card.data = image = bpy.data.images.new(CARD_NAME, width, height, alpha=True)
    bpy.data.images.remove(old)
    image.name, image.alpha_mode, image.colorspace_settings.name = CARD_NAME, "STRAIGHT", space
    card.empty_display_size = max(width, height)
    return image


def _make_card(scene: bpy.types.Scene) -> bpy.types.Object:
    card = scene.walkon.preview = bpy.data.objects.new(CARD_NAME, None)
    card.empty_display_type, card.data = "IMAGE", bpy.data.images.new(CARD_NAME, 1, 1, alpha=True)
    card.empty_image_offset = 0.0, -1.0  # its origin is the top-left corner
    card.empty_image_depth, card.use_empty_image_alpha = "FRONT", True
    card.parent = camera_plane.plane(scene)
    card.hide_render = card.hide_select = True
    scene.collection.objects.link(card)
    return card


def _hide_layer(scene: bpy.types.Scene) -> None:
    """The card stands in for the layer whose pose is edited."""
    layer = scene.walkon.posed_layer
    if _live is not None and layer is not None and layer.uuid != _live.hidden and layer.handle is not None:
        _show_layer(scene)
        if hide_in_view(scene, layer.handle, True):
            _live.hidden = layer.uuid


def _show_layer(scene: bpy.types.Scene) -> None:
    if _live is not None and _live.hidden and _live.scene == scene.session_uid:
        for layer in scene.walkon.layers:
            if layer.uuid == _live.hidden and layer.handle is not None:
                hide_in_view(scene, layer.handle, False)
        _live.hidden = ""


def _discard(scene: bpy.types.Scene) -> None:
    _show_layer(scene)
    card = scene.walkon.preview
    if card is not None:
        image = card.data
        bpy.data.objects.remove(card)
        if image is not None:
            bpy.data.images.remove(image)
        camera_plane.tidy(scene)


# ---- the buttons -----------------------------------------------------------------------------------------


class WALKON_OT_start_preview(jobs.Job):
    """Show the actor in the pose while you edit it; the card in the camera view follows every joint"""

    bl_idname = "walkon.start_preview"
    bl_label = "Live Preview"
    label = "Starting the preview"

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        work, settings = scene.walkon, preferences()
        if work.posed is None:
            raise BadInput("No place is suggested yet", "Press Suggest", "candidates")
        if work.rig_shows == "PERSON":
            raise BadInput(
                f"{work.posed.title} is in the picture already", "Press Edit Pose to go back", "candidates"
            )
        actor, person = _actor(scene)
        photo, stage = actor_picture(actor), _stage(scene)
        may_start, command = settings.auto_start, settings.command

        def run(session: Session) -> Puppeteer:
            session.connect(may_start)
            return Puppeteer(command.connection_file, photo, person, stage)

        return run

    def apply(self, scene: bpy.types.Scene, result: Puppeteer) -> str:
        """See Job."""
        if scene.walkon.rig is None:
            show_posed(scene)
        hide_posed(scene, False)
        start(scene, result)
        return "The preview follows the pose"


class WALKON_OT_stop_preview(jobs.Quick):
    """End the live preview and take its card away"""

    bl_idname = "walkon.stop_preview"
    bl_label = "Stop Preview"

    def do(self, _scene: bpy.types.Scene) -> None:
        """See Quick."""
        stop()


class WALKON_OT_sharpen_preview(jobs.Quick):
    """Paint the previewed person at full resolution now"""

    bl_idname = "walkon.sharpen_preview"
    bl_label = "Sharp Preview"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        if not running():
            cls.poll_message_set("No preview runs")
            return False
        return super().poll(context)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        observe(scene)
        sharpen()


# ---- Blender's own events --------------------------------------------------------------------------------


@persistent
def _on_change(scene: bpy.types.Scene, _depsgraph: object = None) -> None:
    observe(scene)


@persistent
def _before_save(_file: object) -> None:
    for scene in bpy.data.scenes:
        _discard(scene)  # the next picture makes it anew


@persistent
def _after_save(_file: object) -> None:
    if _live is not None and _live.shown is not None:
        scene = jobs.scene_of(_live.scene)
        if scene is not None:
            _show(scene, _live.shown)


@persistent
def _on_load(_file: object) -> None:
    stop()


_CLASSES = bpy.utils.register_classes_factory(
    (WALKON_OT_start_preview, WALKON_OT_stop_preview, WALKON_OT_sharpen_preview)
)


def _handlers() -> tuple[tuple[list[object], object], ...]:
    calls = bpy.app.handlers
    return (
        (calls.depsgraph_update_post, _on_change),
        (calls.save_pre, _before_save),
        (calls.save_post, _after_save),
        (calls.load_pre, _on_load),
    )


def register() -> None:
    """Called by the package."""
    _CLASSES[0]()
    for calls, function in _handlers():
        calls.append(function)


def unregister() -> None:
    """Called by the package."""
    stop()
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    for calls, function in _handlers():
        calls.remove(function)
    _CLASSES[1]()
