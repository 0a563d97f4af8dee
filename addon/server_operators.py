# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about the server and its jobs do."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from . import jobs
from .jobs import Job, Quick
from .worker import Work


class WALKON_OT_start_server(Job):
    """Connect to the server, starting it where none runs"""

    bl_idname = "walkon.start_server"
    bl_label = "Start"
    label = "Starting the server"

    def work(self, _scene: bpy.types.Scene) -> Work:
        """See Job."""
        return lambda session: session.connect(may_start=True)

    def apply(self, _scene: bpy.types.Scene, _result: None) -> str:
        """See Job."""
        return "The server is ready"


class WALKON_OT_stop_server(Job):
    """Stop the server that Blender started; only disconnect from another"""

    bl_idname = "walkon.stop_server"
    bl_label = "Stop"
    label = "Stopping the server"

    def work(self, _scene: bpy.types.Scene) -> Work:
        """See Job."""
        return lambda session: session.stop()

    def apply(self, _scene: bpy.types.Scene, _result: None) -> str:
        """See Job."""
        return "The server is stopped"


class WALKON_OT_cancel(bpy.types.Operator):
    """Give up what runs"""

    bl_idname = "walkon.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return jobs.busy()

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        jobs.cancel()
        return {"FINISHED"}


class WALKON_OT_forget_job(Quick):
    """Give up the result of the job that ran when this file was closed"""

    bl_idname = "walkon.forget_job"
    bl_label = "Forget"
    job: StringProperty(name="Job", description="Id of the job")

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        jobs.forget(scene, self.job)


class WALKON_OT_preferences(bpy.types.Operator):
    """Say where the server is"""

    bl_idname = "walkon.preferences"
    bl_label = "Open Preferences"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        bpy.ops.screen.userpref_show()
        bpy.ops.preferences.addon_show(module=__package__)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_OT_start_server,
        WALKON_OT_stop_server,
        WALKON_OT_cancel,
        WALKON_OT_forget_job,
        WALKON_OT_preferences,
    )
)
