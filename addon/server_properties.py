# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps of the server and its jobs: those it had when the file was saved, and what the panel shows."""

from __future__ import annotations

import bpy
from bpy.props import CollectionProperty, EnumProperty, FloatProperty, StringProperty

from .actor_properties import LibraryProperties


class WalkOnUnfinished(bpy.types.PropertyGroup):
    """A job that the server had when this file was saved; its name is the job's id."""

    operator: StringProperty(
        name="Operator", description="The operator that asked for it and takes its result"
    )
    label: StringProperty(name="Label", description="What it was doing")


class ServerProperties:
    """Mixed into the scene's properties."""

    unfinished: CollectionProperty(
        type=WalkOnUnfinished,
        name="Unfinished",
        description="Jobs whose results can be fetched from the server",
    )


class WalkOnState(LibraryProperties, bpy.types.PropertyGroup):
    """What the panel shows of the server and of the job that runs. Never saved."""

    server: EnumProperty(
        name="Server",
        description="Whether the server can work",
        items=(
            ("OFF", "Not running", "No server is connected"),
            ("STARTING", "Starting", "The server loads its models"),
            ("READY", "Ready", "The server waits for work"),
            ("LOST", "Lost", "The server went away"),
        ),
        default="OFF",
    )
    server_text: StringProperty(
        name="Server Details", description="What the server computes on and with, and how busy it is"
    )
    job: StringProperty(name="Job", description="What runs now; empty when nothing does")
    stage: StringProperty(name="Stage", description="What the server is doing")
    progress: FloatProperty(name="Progress", description="How far the job is", min=0.0, max=1.0)
    error: StringProperty(name="Error", description="What went wrong last")
    error_fix: StringProperty(name="Fix", description="What to do about it")
    error_operator: StringProperty(name="Mend", description="The operator that mends it")
    note: StringProperty(name="Note", description="What the last job has to say")
    copied_pose: StringProperty(name="Copied Pose", description="OpenPose JSON of the pose copied last")


register, unregister = bpy.utils.register_classes_factory((WalkOnUnfinished, WalkOnState))
