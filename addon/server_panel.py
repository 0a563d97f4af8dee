# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's top: state of the server, of the job, and what went wrong."""

from __future__ import annotations

import bpy

from . import jobs
from .panel import Panel, characters, lines
from .preferences import preferences

_STATES = {
    "OFF": ("No server", "RADIOBUT_OFF"),
    "STARTING": ("Server is starting", "SORTTIME"),
    "READY": ("Server is ready", "RADIOBUT_ON"),
    "LOST": ("Server lost", "ERROR"),
}


class WALKON_PT_server(Panel, bpy.types.Panel):
    """State of the server, of the job, and what went wrong"""

    bl_idname = "WALKON_PT_server"
    bl_label = "Walk-On"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, state = self.layout, context.window_manager.walkon
        text, icon = _STATES[state.server]
        row = layout.row()
        row.label(text=text, icon=icon)
        if state.server == "READY":
            row.operator("walkon.stop_server", text="", icon="QUIT")
        else:
            row.operator(
                "walkon.start_server", text="Connect" if preferences().command.seems_to_run else "Start"
            )
        row.operator("walkon.preferences", text="", icon="PREFERENCES")
        width = characters(context)
        if state.server_text:
            column = layout.column(align=True)
            column.active = False
            lines(column, state.server_text, width)
        # Always one line, so that the buttons below stay under the mouse.
        row = layout.row(align=True)
        if state.job:
            row.progress(
                factor=state.progress, text=f"{state.job}: {state.stage}" if state.stage else state.job
            )
            row.operator("walkon.cancel", text="", icon="X")
        elif state.note:
            lines(row.column(align=True), state.note, width, "INFO")
        else:
            row.label()
        for left in jobs.unfinished(context.scene):
            box = layout.box()
            lines(box.column(align=True), f"{left.label}: the file was closed meanwhile", width - 6, "TIME")
            row = box.row(align=True)
            row.operator(left.operator, text="Get the Result", icon="IMPORT").fetch = left.name
            row.operator("walkon.forget_job", text="", icon="X").job = left.name
        if state.error:
            box = layout.box()
            column = box.column(align=True)
            column.alert = True
            lines(column, state.error, width - 6, "ERROR")
            lines(box.column(align=True), state.error_fix, width - 2)
            if state.error_operator:
                box.operator(state.error_operator)


register, unregister = bpy.utils.register_classes_factory((WALKON_PT_server,))
