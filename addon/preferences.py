# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server is and whether to start it."""

from __future__ import annotations

import bpy
import rna_keymap_ui
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
    actors: StringProperty(
        name="Actors",
        description="Folder of actor photos that the panel offers. Empty for a folder of the add-on's own",
        subtype="DIR_PATH",
    )
    auto_start: BoolProperty(
        name="Start When Needed",
        description="Start the server when a button needs it. Otherwise press Start first",
        default=True,
    )

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "server")
        layout.prop(self, "connection_file")
        layout.prop(self, "auto_start")
        layout.prop(self, "actors")
        _draw_keymap(layout, context)

    @property
    def command(self) -> ServerCommand:
        """How the worker reaches the server."""
        connection = bpy.path.abspath(self.connection_file) or str(default_connection_file())
        return ServerCommand(bpy.path.abspath(self.server), connection, bpy.app.online_access)


def _draw_keymap(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The keys that the add-on sets, as Blender's own preferences show them: they can be changed here."""
    configurations = context.window_manager.keyconfigs
    if configurations.addon is None or configurations.user is None:  # without a window there are none
        return
    for keymap in configurations.addon.keymaps:
        ours = {item.idname for item in keymap.keymap_items if _is_ours(item)}
        shown = configurations.user.keymaps.get(keymap.name)
        if not ours or shown is None:
            continue
        column = layout.column()
        column.use_property_split = False
        column.label(text=keymap.name, icon="KEYINGSET")
        for item in shown.keymap_items:
            if _is_ours(item):
                rna_keymap_ui.draw_kmi([], configurations.user, shown, item, column, 0)


def _is_ours(item: bpy.types.KeyMapItem) -> bool:
    name = getattr(item.properties, "name", "") if item.properties is not None else ""
    return item.idname.startswith("walkon.") or str(name).startswith("walkon.")


def preferences() -> WalkOnPreferences:
    """The add-on's preferences."""
    return bpy.context.preferences.addons[__package__].preferences


def register() -> None:
    """Called by the package."""
    bpy.utils.register_class(WalkOnPreferences)


def unregister() -> None:
    """Called by the package."""
    bpy.utils.unregister_class(WalkOnPreferences)
