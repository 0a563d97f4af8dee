# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server is and whether to start it."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty

from .shared.client import default_connection_file
from .worker import ServerCommand


class WalkOnPreferences(bpy.types.AddonPreferences):
    """Shown in Preferences > Add-ons > Walk-On."""

    bl_idname = __package__

    server: StringProperty(
        name="Server",
        description="The walkon program, or the Python that Walk-On's server is installed in",
        subtype="FILE_PATH",
    )
    connection_file: StringProperty(
        name="Connection File",
        description="Where the server says how to reach it. Empty for your own server on this machine",
        subtype="FILE_PATH",
    )
    auto_start: BoolProperty(
        name="Start When Needed",
        description="Start the server when a button needs it. Otherwise press Start first",
        default=True,
    )

    def draw(self, _context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "server")
        layout.prop(self, "connection_file")
        layout.prop(self, "auto_start")

    @property
    def command(self) -> ServerCommand:
        """How the worker reaches the server."""
        connection = bpy.path.abspath(self.connection_file) or str(default_connection_file())
        return ServerCommand(bpy.path.abspath(self.server), connection)


def preferences() -> WalkOnPreferences:
    """The add-on's preferences."""
    return bpy.context.preferences.addons[__package__].preferences


def register() -> None:
    """Called by the package."""
    bpy.utils.register_class(WalkOnPreferences)


def unregister() -> None:
    """Called by the package."""
    bpy.utils.unregister_class(WalkOnPreferences)
