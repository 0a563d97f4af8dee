# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's part about the actor: the library, the photo, and who was found in it."""

from __future__ import annotations

import bpy

from . import actors
from .panel import Panel, characters, lines


class WALKON_PT_actor(Panel, bpy.types.Panel):
    """Who is put into the picture"""

    bl_idname = "WALKON_PT_actor"
    bl_label = "Actor"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        look = actors.look(work.actor)
        row = layout.row(align=True)
        if actors.photos():
            state = context.window_manager.walkon
            row.template_icon_view(state, "library", show_labels=True, scale=6.0, scale_popup=4.0)
        if look is not None:
            row.template_icon(actors.portrait(work.actor), scale=6.0)
        row = layout.row(align=True)
        row.prop(work, "actor", text="")
        row.operator("walkon.add_actor", text="", icon="ADD")
        if not work.actor:
            return
        layout.operator("walkon.look_at_actor", icon="VIEWZOOM").person = work.actor_person
        if look is None:
            return
        if len(look.people) > 1:
            row = layout.row(align=True)
            row.label(text="Person")
            for person in range(len(look.people)):
                button = row.operator(
                    "walkon.look_at_actor", text=str(person + 1), depress=person == work.actor_person
                )
                button.person = person
        for warning in look.warnings:
            lines(layout.column(align=True), warning, characters(context), "INFO")


register, unregister = bpy.utils.register_classes_factory((WALKON_PT_actor,))
