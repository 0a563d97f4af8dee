# SPDX-License-Identifier: Apache-2.0
"""Runs inside the Blender of the window tests: does what it is told, finds buttons, and measures our calls.

Started with `blender --python agent.py -- FOLDER`. The test writes `FOLDER/ask.py`; the agent runs it on a timer and
writes `FOLDER/answer.json`. Mouse and keys come from outside, through X.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

FOLDER = Path(sys.argv[sys.argv.index("--") + 1])
PACKAGE = "/user_default/walkon/"

calls: list[tuple[str, float, bool, bool]] = []
"""Blender's calls into the add-on on the main thread: function, milliseconds, whether a job ran before and after."""
gaps: list[tuple[float, bool]] = []
"""Milliseconds between two ticks of a timer, and whether a job ran."""


# ---- the probe -------------------------------------------------------------------------------------------


class Probe:
    """Times the outermost calls into the add-on. Time that another process had the core does not count."""

    def __init__(self) -> None:
        self.depth = 0
        self.main = threading.get_ident()
        self.started = self.waited = 0.0
        self.busy = False
        tool, monitoring = 4, sys.monitoring
        events = monitoring.events
        monitoring.use_tool_id(tool, "walkon-probe")
        for event in (events.PY_START, events.PY_RESUME):
            monitoring.register_callback(tool, event, self.enter)
        for event in (events.PY_RETURN, events.PY_YIELD, events.PY_UNWIND):
            monitoring.register_callback(tool, event, self.leave)
        monitoring.set_events(
            tool,
            events.PY_START | events.PY_RESUME | events.PY_RETURN | events.PY_YIELD | events.PY_UNWIND,
        )

    def ours(self, code: object) -> bool:
        return PACKAGE in code.co_filename  # type: ignore[attr-defined]

    def enter(self, code: object, *_: object) -> object:
        if not self.ours(code):
            return sys.monitoring.DISABLE
        if threading.get_ident() == self.main:
            if self.depth == 0:
                self.waited, self.started = queued(), time.perf_counter()
                self.busy = job_runs()
            self.depth += 1
        return None

    def leave(self, code: object, *_: object) -> object:
        if not self.ours(code):
            return None
        if threading.get_ident() == self.main and self.depth:
            self.depth -= 1
            if self.depth == 0:
                took = time.perf_counter() - self.started - (queued() - self.waited)
                name = code.co_qualname  # type: ignore[attr-defined]
                calls.append((name, took * 1000, self.busy, job_runs()))
        return None


def queued() -> float:
    """Seconds that this thread has waited for a core."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def job_runs() -> bool:
    state = getattr(bpy.context.window_manager, "walkon", None)
    return bool(state is not None and state.job)


last = time.perf_counter()


def tick() -> float:
    global last
    now = time.perf_counter()
    gaps.append(((now - last) * 1000, job_runs()))
    last = now
    return 0.01


# ---- what the tests ask for ------------------------------------------------------------------------------


def area_of(kind: str, window: int = 0) -> bpy.types.Area:
    areas = bpy.context.window_manager.windows[window].screen.areas
    return next(area for area in areas if area.ui_type == kind or area.type == kind)


def region_of(kind: str, region: str, window: int = 0) -> bpy.types.Region:
    return next(found for found in area_of(kind, window).regions if found.type == region)


def box(kind: str, region: str, window: int = 0) -> list[int]:
    """x, y, width, height in pixels of the screen, y from the top."""
    found, of = region_of(kind, region, window), bpy.context.window_manager.windows[window]
    # Windows other than the first have a place on the screen, told from its lower left corner.
    left, below = (of.x, of.y) if window else (0, bpy.context.window_manager.windows[0].height - of.height)
    top = bpy.context.window_manager.windows[0].height - below - of.height
    return [left + found.x, top + of.height - found.y - found.height, found.width, found.height]


def under_mouse(kind: str, region: str, window: int = 0) -> str:
    """What the button under the mouse does: an operator's call, or a property's path; empty where there is none."""
    manager = bpy.context.window_manager
    manager.clipboard = ""
    where = {"area": area_of(kind, window), "region": region_of(kind, region, window)}
    with bpy.context.temp_override(window=manager.windows[window], **where):
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
        elif bpy.ops.ui.copy_data_path_button.poll():
            bpy.ops.ui.copy_data_path_button(full_path=False)
    return str(manager.clipboard)


def redraw() -> None:
    """Draw the windows now, so that a screenshot shows what is and not what was."""
    for window in bpy.context.window_manager.windows:
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.redraw_timer(type="DRAW_WIN_SWAP", iterations=1)


def show_tab(name: str, window: int = 0) -> bool:
    """Whether the sidebar shows that tab; Blender lets it be chosen once the sidebar was drawn."""
    area_of("VIEW_3D", window).spaces.active.show_region_ui = True
    region = region_of("VIEW_3D", "UI", window)
    try:
        region.active_panel_category = name
    except AttributeError:
        return False
    return bool(region.active_panel_category == name)


def joint(bone: str) -> list[float]:
    """Where a bone's head is on the screen, in the first window's camera view."""
    rig = bpy.context.scene.walkon.rig
    region, space = region_of("VIEW_3D", "WINDOW"), area_of("VIEW_3D").spaces.active
    head = rig.matrix_world @ rig.pose.bones[bone].head
    point = location_3d_to_region_2d(region, space.region_3d, head)
    x, y, _, height = box("VIEW_3D", "WINDOW")
    return [x + point.x, y + height - point.y]


def work() -> float:
    ask, answer = FOLDER / "ask.py", FOLDER / "answer.json"
    if ask.exists():
        code = ask.read_text(encoding="utf-8")
        ask.unlink()
        scope = dict(globals())
        try:
            exec(code, scope)
            reply = {"result": scope.get("result"), "error": None}
        except BaseException:  # noqa: BLE001 - the test is told
            reply = {"result": None, "error": traceback.format_exc()}
        part = answer.with_suffix(".part")
        part.write_text(json.dumps(reply, default=str), encoding="utf-8")
        os.replace(part, answer)
    return 0.01


bpy.context.preferences.view.show_splash = False
bpy.context.preferences.view.ui_scale = float(os.environ.get("WALKON_UI_SCALE", "1"))
bpy.context.preferences.filepaths.use_auto_save_temporary_files = False
Probe()
bpy.app.timers.register(tick, persistent=True)
bpy.app.timers.register(work, persistent=True)
