# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's end: the layers."""

from __future__ import annotations

import bpy

from . import layers
from .compat import compositor_tree
from .compositor import is_occluded, node_of
from .layer_properties import WalkOnLayer
from .panel import Panel, characters, lines
from .scene_picture import colour_space


class WALKON_UL_layers(bpy.types.UIList):
    """The people that were put into the picture; the last is in front"""

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
        icon = "OUTLINER_OB_IMAGE" if layer.card is None else "WORLD"
        row.prop(layer, "title", text="", emboss=False, icon=icon)
        eye = "HIDE_OFF" if layer.show else "HIDE_ON"
        row.prop(layer.handle, '["Show"]', text="", emboss=False, icon=eye)


class WALKON_PT_layers(Panel, bpy.types.Panel):
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
        row.template_list("WALKON_UL_layers", "", work, "layers", work, "layer_index", rows=5)
        column = row.column(align=True)
        column.operator("walkon.move_layer", text="", icon="TRIA_UP").step = -1
        column.operator("walkon.move_layer", text="", icon="TRIA_DOWN").step = 1
        column.separator()
        column.operator("walkon.duplicate_layer", text="", icon="DUPLICATE")
        column.operator("walkon.remove_layer", text="", icon="REMOVE")
        layer = work.layer
        if layer is not None:
            _draw_state(layout, context, layer)
            row = layout.row(align=True)
            row.scale_y = 1.3
            row.operator("walkon.regenerate", icon="FILE_REFRESH")
            row.operator("walkon.pose_layer", text="", icon="POSE_HLT")
            _draw_versions(layout, layer)
        view = scene.view_settings
        _, exact = colour_space(scene)
        if not exact or view.look not in ("", "None") or view.exposure or view.gamma != 1.0:
            lines(
                layout.column(align=True),
                "The scene's view transform, look, exposure or gamma changes the person's colors in the render.",
                characters(context),
                "INFO",
            )
        if not scene.render.use_compositing or compositor_tree(scene) is None:
            lines(
                layout.column(align=True),
                "Compositing is off in Output > Post Processing: the render will not show the layers.",
                characters(context),
                "ERROR",
            )


def _draw_state(layout: bpy.types.UILayout, context: bpy.types.Context, layer: WalkOnLayer) -> None:
    lacks = layers.missing(context.scene, layer)
    if lacks:
        box = layout.box()
        text = f"The layer's {' and its '.join(lacks)} was removed."
        lines(box.column(align=True), text, characters(context) - 6, "ERROR")
        box.operator("walkon.mend_layer", icon="LOOP_BACK")


def _draw_versions(layout: bpy.types.UILayout, layer: WalkOnLayer) -> None:
    row = layout.row(align=True)
    row.operator("walkon.choose_version", text="", icon="TRIA_LEFT").step = -1
    row.label(text=f"Version {layer.version_index + 1} of {len(layer.versions)}, {layer.version.made}")
    row.operator("walkon.choose_version", text="", icon="TRIA_RIGHT").step = 1
    row.operator("walkon.compare_versions", text="", icon="UV_SYNC_SELECT")
    row.operator("walkon.remove_version", text="", icon="X")


class _LayerPanel(Panel):
    """Parts of the layers' panel about the one that is chosen."""

    bl_parent_id = "WALKON_PT_layers"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return context.scene.walkon.layer is not None


class WALKON_PT_layer_look(_LayerPanel, bpy.types.Panel):
    """Where the layer is and how it looks; everything here can be keyframed"""

    bl_idname = "WALKON_PT_layer_look"
    bl_label = "Place and Look"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, layer = self.layout, context.scene.walkon.layer
        handle = layer.handle
        layout.use_property_split = True
        row = layout.row(align=True)
        row.operator("walkon.select_layer", icon="RESTRICT_SELECT_OFF")
        row.operator("walkon.flip_layer", text="", icon="MOD_MIRROR", depress=layer.flip)
        row.operator("walkon.reset_layer", text="", icon="LOOP_BACK")
        column = layout.column(align=True)
        column.prop(handle, "location", index=0, text="X")
        column.prop(handle, "location", index=1, text="Y")
        column.prop(handle, "scale", index=1, text="Scale")
        column.prop(handle, "rotation_euler", index=2, text="Rotation")
        layout.prop(handle, '["Opacity"]')
        layout.prop(handle, '["Feather"]')
        row = layout.row()
        row.active = layer.version.plain is not None
        row.prop(handle, '["Color Match"]')


class WALKON_PT_layer_depth(_LayerPanel, bpy.types.Panel):
    """What is in front of the layer, and what it stays with"""

    bl_idname = "WALKON_PT_layer_depth"
    bl_label = "Depth"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, scene = self.layout, context.scene
        layer = scene.walkon.layer
        world, node = layer.card is not None, node_of(scene, layer)
        layout.use_property_split = True
        row = layout.row(align=True)
        row.operator("walkon.anchor_layer", text="Screen", depress=not world).to = "SCREEN"
        row.operator("walkon.anchor_layer", text="World", depress=world).to = "WORLD"
        hidden = node is not None and is_occluded(node)
        row = layout.row()
        row.enabled = not world
        row.operator("walkon.occlude_layer", depress=hidden).on = not hidden
        row = layout.row(align=True)
        row.prop(layer.handle, '["Distance"]')
        row.operator("walkon.measure_distance", text="", icon="EMPTY_SINGLE_ARROW")


class WALKON_PT_layer_source(_LayerPanel, bpy.types.Panel):
    """What the layer is painted from"""

    bl_idname = "WALKON_PT_layer_source"
    bl_label = "Source"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, layer = self.layout, context.scene.walkon.layer
        layout.use_property_split = True
        version = layer.version
        layout.prop(layer, "actor")
        column = layout.column()
        column.enabled = False
        column.prop(version, "seed")
        for name in ("picture", "image", "plain", "depth", "normal"):
            if getattr(version, name) is not None:
                column.prop(version, name)


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_UL_layers,
        WALKON_PT_layers,
        WALKON_PT_layer_look,
        WALKON_PT_layer_depth,
        WALKON_PT_layer_source,
    )
)
