# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel in the 3D View's sidebar: from a photo to a layer, top to bottom."""

from __future__ import annotations

import textwrap

import bpy

from .colour import image_colour_space
from .compat import colour_spaces
from .properties import WalkOnLayer

_STATES = {
    "OFF": ("No server", "RADIOBUT_OFF"),
    "STARTING": ("Server is starting", "SORTTIME"),
    "READY": ("Server is ready", "RADIOBUT_ON"),
    "LOST": ("Server lost", "ERROR"),
}


class _Panel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Walk-On"


def _lines(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """A label does not wrap by itself."""
    for line in textwrap.wrap(text, max(24, width)):
        layout.label(text=line, icon=icon)
        icon = "BLANK1" if icon != "NONE" else "NONE"


def _characters(context: bpy.types.Context) -> int:
    """About how many characters fit into the panel."""
    region = context.region
    return int(region.width / (8 * context.preferences.system.ui_scale)) if region else 40


class WALKON_PT_server(_Panel, bpy.types.Panel):
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
            row.operator("walkon.start_server")
        row.operator("walkon.preferences", text="", icon="PREFERENCES")
        width = _characters(context)
        if state.server_text:
            column = layout.column(align=True)
            column.active = False
            _lines(column, state.server_text, width)
        # Always one line, so that the buttons below stay under the mouse.
        row = layout.row(align=True)
        if state.job:
            row.progress(
                factor=state.progress, text=f"{state.job}: {state.stage}" if state.stage else state.job
            )
            row.operator("walkon.cancel", text="", icon="X")
        elif state.note:
            _lines(row.column(align=True), state.note, width, "INFO")
        else:
            row.label()
        if state.error:
            box = layout.box()
            column = box.column(align=True)
            column.alert = True
            _lines(column, state.error, width - 6, "ERROR")
            _lines(box.column(align=True), state.error_fix, width - 2)
            if state.error_operator:
                box.operator(state.error_operator)


class WALKON_PT_insert(_Panel, bpy.types.Panel):
    """Who, into which picture, where and how"""

    bl_idname = "WALKON_PT_insert"
    bl_label = "Person"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(work, "actor")
        layout.prop(work, "source")
        if work.source == "IMAGE":
            layout.template_ID(work, "image", open="image.open")
        row = layout.row(align=True)
        row.operator("walkon.find_people", icon="VIEWZOOM")
        row.prop(work, "show_overlay", text="", icon="OVERLAY")
        if work.people:
            grid = layout.grid_flow(row_major=True, columns=4, align=True)
            grid.use_property_split = False
            for index, person in enumerate(work.people):
                grid.prop(person, "enabled", text=str(index + 1), toggle=True)
        column = layout.column(align=True)
        column.prop(work, "count")
        column.prop(work, "seed")
        layout.operator("walkon.suggest", icon="OUTLINER_OB_ARMATURE")
        if work.candidate is not None:
            row = layout.row(align=True)
            row.operator("walkon.choose_candidate", text="", icon="TRIA_LEFT").step = -1
            row.label(text=f"{work.candidate_index + 1} of {len(work.candidates)}")
            row.operator("walkon.choose_candidate", text="", icon="TRIA_RIGHT").step = 1
            row.operator("walkon.edit_pose", text="", icon="POSE_HLT")
            row.operator("walkon.mirror_pose", text="", icon="MOD_MIRROR")
            row.operator("walkon.reset_pose", text="", icon="LOOP_BACK")
            row.operator("walkon.clear_suggestions", text="", icon="X")
        layout.prop(work, "color_strength")
        row = layout.row()
        row.scale_y = 1.4
        row.operator("walkon.generate", icon="IMAGE_DATA")


class WALKON_UL_layers(bpy.types.UIList):
    """The people that were put into the picture"""

    bl_idname = "WALKON_UL_layers"

    def draw_item(
        self,
        _context: bpy.types.Context,
        layout: bpy.types.UILayout,
        _data: object,
        layer: WalkOnLayer,
        _icon: int,
        _active: object,
        _property: str,
    ) -> None:
        """Blender calls this."""
        row = layout.row(align=True)
        row.prop(layer, "title", text="", emboss=False, icon="OUTLINER_OB_IMAGE")
        row.prop(layer, "show", text="", emboss=False, icon="HIDE_OFF" if layer.show else "HIDE_ON")


class WALKON_PT_layers(_Panel, bpy.types.Panel):
    """The people that were put into the picture"""

    bl_idname = "WALKON_PT_layers"
    bl_label = "Layers"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return bool(context.scene.walkon.layers)

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, scene = self.layout, context.scene
        work = scene.walkon
        row = layout.row()
        row.template_list("WALKON_UL_layers", "", work, "layers", work, "layer_index", rows=3)
        column = row.column(align=True)
        column.operator("walkon.reset_layer", text="", icon="LOOP_BACK")
        column.operator("walkon.remove_layer", text="", icon="REMOVE")
        layer = work.layer
        if layer is not None:
            layout.use_property_split = True
            column = layout.column(align=True)
            column.prop(layer, "x")
            column.prop(layer, "y")
            column.prop(layer, "scale")
            layout.prop(layer, "flip")
            layout.prop(layer, "opacity")
        view = scene.view_settings
        _, exact = image_colour_space(view.view_transform, colour_spaces())
        if not exact or view.look not in ("", "None") or view.exposure or view.gamma != 1.0:
            _lines(
                layout.column(align=True),
                "The scene's view transform, look, exposure or gamma changes the person's colors in the render.",
                _characters(context),
                "INFO",
            )
        if not scene.render.use_compositing:
            _lines(
                layout.column(align=True),
                "Compositing is off in Output > Post Processing: the render will not show the layers.",
                _characters(context),
                "ERROR",
            )


_CLASSES = (WALKON_PT_server, WALKON_PT_insert, WALKON_UL_layers, WALKON_PT_layers)


def register() -> None:
    """Called by the package."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Called by the package."""
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
