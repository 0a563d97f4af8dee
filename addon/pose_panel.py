# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's middle: the picture and its people, suggestions, the pose."""

from __future__ import annotations

import bpy

from . import candidate_icons, live_preview
from .bone_names import MAPPED
from .panel import Panel, characters, lines
from .pose_properties import PosingProperties, WalkOnPerson

_THUMBNAIL_SCALE, _THUMBNAIL_CHARACTERS = 3.7, 10  # its size in buttons, and about in characters of a label
_SOURCE_ICONS = {"PIXELS": "IMAGE_DATA", "ARMATURE": "ARMATURE_DATA", "HAND": "VIEW_PAN"}


class WALKON_UL_people(bpy.types.UIList):
    """The people of the picture"""

    bl_idname = "WALKON_UL_people"

    def draw_item(
        self,
        _context: bpy.types.Context,
        layout: bpy.types.UILayout,
        _data: object,
        person: WalkOnPerson,
        _icon: int,
        _active: object,
        _property: str,
    ) -> None:
        """Blender calls this."""
        row = layout.row(align=True)
        row.active = person.enabled
        row.prop(person, "title", text="", emboss=False, icon=_SOURCE_ICONS[person.source])
        tick = "CHECKBOX_HLT" if person.enabled else "CHECKBOX_DEHLT"
        row.prop(person, "enabled", text="", emboss=False, icon=tick)


class WALKON_PT_insert(Panel, bpy.types.Panel):
    """The picture, and the people in it"""

    bl_idname = "WALKON_PT_insert"
    bl_label = "People"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(work, "source")
        if work.source == "IMAGE":
            layout.template_ID(work, "image", open="image.open")
        elif work.source == "CLIP":
            layout.template_ID(work, "clip", open="clip.open")
        row = layout.row(align=True)
        row.operator("walkon.find_people", icon="VIEWZOOM")
        row.prop(work, "use_armatures", text="", icon="ARMATURE_DATA", toggle=True)
        row.operator("walkon.read_characters", text="", icon="FILE_REFRESH")
        row.prop(work, "show_overlay", text="", icon="OVERLAY")
        row.prop(work, "show_picture", text="", icon="IMAGE_BACKGROUND")
        if work.source != "RENDER" and work.picture is not None:
            layout.operator("walkon.composite_picture", icon="NODE_COMPOSITING")
        row = layout.row()
        row.template_list("WALKON_UL_people", "", work, "people", work, "person_index", rows=3)
        column = row.column(align=True)
        column.operator("walkon.add_person", text="", icon="ADD")
        column.operator("walkon.remove_person", text="", icon="REMOVE")
        correcting = work.rig is not None and work.rig_shows == "PERSON"
        column.operator("walkon.correct_person", text="", icon="POSE_HLT", depress=correcting)


class WALKON_PT_bones(Panel, bpy.types.Panel):
    """Which bones of the chosen character are which joints; for rigs whose names don't tell"""

    bl_idname = "WALKON_PT_bones"
    bl_label = "Bones"
    bl_parent_id = "WALKON_PT_insert"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return _character(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, armature = self.layout, _character(context)
        assert armature is not None  # says poll
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.label(text=armature.name, icon="ARMATURE_DATA")
        column = layout.column(align=True)
        for joint in MAPPED:
            column.prop_search(armature.data.walkon_bones, joint, armature.data, "bones")


def _character(context: bpy.types.Context) -> bpy.types.Object | None:
    """The armature of the chosen person, or the selected one: it may not be known as a person yet."""
    work, selected = context.scene.walkon, context.object
    if selected is not None and selected.type == "ARMATURE" and selected != work.rig:
        return selected
    return work.person.armature if work.person is not None else None


class WALKON_PT_suggestions(Panel, bpy.types.Panel):
    """Where and how one more person could be"""

    bl_idname = "WALKON_PT_suggestions"
    bl_label = "Suggestions"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        row = layout.row(align=True)
        row.scale_y = 1.2
        row.operator("walkon.suggest", icon="OUTLINER_OB_ARMATURE").like = False
        candidate = work.candidate
        if candidate is None:
            return
        row = layout.row(align=True)
        row.operator("walkon.choose_candidate", text="", icon="TRIA_LEFT").step = -1
        row.label(text=f"{work.candidate_index + 1} of {len(work.candidates)}")
        row.operator("walkon.choose_candidate", text="", icon="TRIA_RIGHT").step = 1
        pin = "PINNED" if candidate.pinned else "UNPINNED"
        row.operator("walkon.pin_candidate", text="", icon=pin, depress=candidate.pinned)
        row.prop(work, "show_candidates", text="", icon="GHOST_ENABLED")
        row.operator("walkon.remove_candidate", text="", icon="REMOVE")
        row.operator("walkon.clear_suggestions", text="", icon="X")
        layout.operator("walkon.suggest", text="More Like This", icon="DUPLICATE").like = True
        if candidate.warning:
            lines(layout.column(align=True), candidate.warning, characters(context), "INFO")


class WALKON_PT_choice(Panel, bpy.types.Panel):
    """All suggestions at a glance; a click on a number shows that one"""

    bl_idname = "WALKON_PT_choice"
    bl_label = "Choose"
    bl_parent_id = "WALKON_PT_suggestions"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return bool(context.scene.walkon.candidates)

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        scene, work = context.scene, context.scene.walkon
        columns = max(2, characters(context) // _THUMBNAIL_CHARACTERS)
        grid = self.layout.grid_flow(row_major=True, columns=columns, even_columns=True, align=False)
        for index, candidate in enumerate(work.candidates):
            cell = grid.column(align=True)
            drawn = candidate_icons.thumbnail_of(scene, index)
            cell.template_icon(drawn.icon_id if drawn is not None else 0, scale=_THUMBNAIL_SCALE)
            button = cell.operator(
                "walkon.choose_candidate",
                text=str(index + 1),
                icon="PINNED" if candidate.pinned else "NONE",
                depress=index == work.candidate_index,
            )
            button.index = index


class WALKON_PT_wishes(Panel, bpy.types.Panel):
    """What suggestions have to keep to"""

    bl_idname = "WALKON_PT_wishes"
    bl_label = "Wishes"
    bl_parent_id = "WALKON_PT_suggestions"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(work, "place")
        if work.place == "OBJECT":
            layout.prop(work, "place_object")
        elif work.place == "BOX":
            row = layout.row(align=True)
            row.operator("walkon.new_box", icon="SELECT_SET")
            row.operator("walkon.remove_box", text="", icon="X")
        row = layout.row(align=True, heading="Height")
        row.prop(work, "use_height", text="")
        column = row.column()
        column.active = work.use_height
        column.prop(work, "height", text="")
        layout.prop(work, "stance")
        layout.prop(work, "facing")
        column = layout.column(align=True)
        column.prop(work, "count")
        column.prop(work, "seed")


class WALKON_PT_pose(Panel, bpy.types.Panel):
    """How the person is posed, and the button that paints it"""

    bl_idname = "WALKON_PT_pose"
    bl_label = "Pose"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        layout, work = self.layout, context.scene.walkon
        if work.posed is not None:
            draw_tools(layout, work)
            _draw_preview(layout, work)
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        column.prop(work, "color_strength")
        column.prop(work, "shadow")
        row = layout.row()
        row.scale_y = 1.4
        row.operator("walkon.generate", icon="IMAGE_DATA")


def draw_tools(layout: bpy.types.UILayout, work: PosingProperties) -> None:
    """The buttons that change the pose."""
    posed = work.posed
    if posed is not None and work.rig_shows != "CANDIDATE":
        layout.label(text=f"Posing {posed.title}", icon="INFO")
    row = layout.row(align=True)
    if work.rig_shows != "CANDIDATE":
        row.operator("walkon.edit_pose", text="Back to the Suggestion", icon="LOOP_BACK")
    else:
        row.operator("walkon.edit_pose", icon="POSE_HLT")
    row = layout.row(align=True)
    row.operator("walkon.mirror_pose", text="", icon="MOD_MIRROR")
    row.operator("walkon.turn_round", text="", icon="ARROW_LEFTRIGHT")
    row.operator("walkon.resize_pose", text="", icon="ZOOM_OUT").factor = 1 / 1.05
    row.operator("walkon.resize_pose", text="", icon="ZOOM_IN").factor = 1.05
    row.separator()
    row.operator("walkon.copy_pose", text="", icon="COPYDOWN")
    row.operator("walkon.paste_pose", text="", icon="PASTEDOWN")
    row.separator()
    row.operator("walkon.clean_up_pose", text="", icon="BRUSH_DATA")
    row.operator("walkon.reset_pose", text="", icon="LOOP_BACK")


def _draw_preview(layout: bpy.types.UILayout, work: PosingProperties) -> None:
    row = layout.row(align=True)
    if live_preview.running():
        rate = live_preview.rate()
        text = f"Live: {rate:.0f} pictures a second" if rate >= 1 else "Live"
        row.operator("walkon.stop_preview", text=text, icon="PAUSE", depress=True)
        row.operator("walkon.sharpen_preview", text="", icon="SHADERFX")
    else:
        row.operator("walkon.start_preview", icon="PLAY")
    row.prop(work, "preview_full", text="", icon="SHARPCURVE")


class WALKON_PT_joints(Panel, bpy.types.Panel):
    """Single joints by number, and poses as files"""

    bl_idname = "WALKON_PT_joints"
    bl_label = "Joints"
    bl_parent_id = "WALKON_PT_pose"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return context.scene.walkon.rig is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        draw_joints(self.layout, context.scene.walkon)


_HEAD_TURNS = (
    ("TRIA_LEFT", -15.0, 0.0),
    ("TRIA_RIGHT", 15.0, 0.0),
    ("TRIA_UP", 0.0, -10.0),
    ("TRIA_DOWN", 0.0, 10.0),
)
"""Icon, degrees to the person's own left and down: who faces us turns as the arrow points."""


def draw_joints(layout: bpy.types.UILayout, work: PosingProperties) -> None:
    """Numbers of the active joint, showing and hiding, files."""
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(work, "joint")
    layout.prop(work, "joint_at")
    layout.prop(work, "joint_shown")
    row = layout.row(align=True)
    row.operator("walkon.select_joints", text="Select All")
    row.operator("walkon.hide_joints", text="Hide")
    row.operator("walkon.show_joints", text="Show All")
    row = layout.row(align=True, heading="Head")
    for icon, left, down in _HEAD_TURNS:
        button = row.operator("walkon.turn_head", text="", icon=icon)
        button.left, button.down = left, down
    row = layout.row(align=True)
    row.operator("walkon.load_poses", text="Load", icon="IMPORT")
    row.operator("walkon.save_poses", text="Save", icon="EXPORT")


class WALKON_PT_picture_pose(bpy.types.Panel):
    """The pose, beside the picture in the Image Editor"""

    bl_idname = "WALKON_PT_picture_pose"
    bl_label = "Pose"
    bl_space_type, bl_region_type, bl_category = "IMAGE_EDITOR", "UI", "Walk-On"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return context.scene.walkon.posed is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Blender calls this."""
        work = context.scene.walkon
        draw_tools(self.layout, work)
        self.layout.prop(work, "keep_lengths")
        self.layout.prop(work, "show_overlay")
        if work.rig is not None:
            draw_joints(self.layout, work)


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_UL_people,
        WALKON_PT_insert,
        WALKON_PT_bones,
        WALKON_PT_suggestions,
        WALKON_PT_choice,
        WALKON_PT_wishes,
        WALKON_PT_pose,
        WALKON_PT_joints,
        WALKON_PT_picture_pose,
    )
)
