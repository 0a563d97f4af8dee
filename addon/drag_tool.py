# SPDX-License-Identifier: GPL-3.0-or-later
"""The tool that drags joints with the mouse, over the camera view and over the picture in the Image Editor.

Unlike Blender's own G and R it keeps the limbs' lengths by itself: a hand pulls the arm along. A click beside the
person on another suggestion chooses that one.
"""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty
from mathutils import Matrix, Vector

from . import overlay, posing, skeleton_rig
from .geometry import complete
from .pose_operators import OnPosed, hide_posed, keep_edits, set_pose, show_candidate
from .pose_properties import JOINT_ITEMS
from .shared.skeleton import JOINTS, Skeleton

_REACH = 14.0  # pixels of the screen: how near a click has to be


class WALKON_OT_drag_joint(OnPosed):
    """Drag a joint; hands and feet pull their limb along. Shift: this joint alone. Ctrl: hide or show it"""

    bl_idname = "walkon.drag_joint"
    bl_label = "Drag Joint"
    bl_options = {"REGISTER", "UNDO", "BLOCKING"}
    joint: EnumProperty(
        name="Joint",
        description="Which joint is dragged",
        items=JOINT_ITEMS,
    )
    x: FloatProperty(name="X", description="Where it goes, pixels from the picture's left edge")
    y: FloatProperty(name="Y", description="Where it goes, pixels from the picture's top edge")
    keep_lengths: BoolProperty(
        name="Keep Lengths",
        description="The limbs keep their lengths; otherwise this joint moves alone",
        default=True,
    )

    _before: Skeleton | None = None
    _grip: Vector

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        joint = JOINTS.index(self.joint)
        self.change(scene, lambda skeleton: posing.drag(skeleton, joint, (self.x, self.y), self.keep_lengths))
        skeleton_rig.activate(scene.walkon.rig, joint)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender calls this when the mouse is pressed."""
        scene = context.scene
        matrix = overlay.region_matrix(context)
        if matrix is None:
            return {"PASS_THROUGH"}
        at = _pixel(matrix, event)
        reach = _REACH * context.preferences.system.ui_scale / max(1e-6, matrix.col[0].to_3d().length)
        keep_edits(scene)
        hide_posed(scene, False)
        skeleton = scene.walkon.posed.edited.skeleton
        if event.ctrl:
            return self._toggle(scene, skeleton, at, reach)
        joint = posing.nearest_joint(skeleton, at, reach)
        if joint is None:
            return _choose_at(scene, at, reach)
        self.joint, self.keep_lengths = JOINTS[joint], scene.walkon.keep_lengths
        self._before, self._grip = skeleton, Vector(skeleton.xy[joint]) - at
        skeleton_rig.activate(scene.walkon.rig, joint)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender calls this while the mouse is held."""
        scene = context.scene
        if self._before is None or scene.walkon.posed is None or scene.walkon.rig is None:
            return {"CANCELLED"}
        if event.type in ("ESC", "RIGHTMOUSE"):
            set_pose(scene, self._before)
            overlay.refresh()
            return {"CANCELLED"}
        if event.type == "MOUSEMOVE":
            matrix = overlay.region_matrix(context)
            if matrix is not None:
                self.x, self.y = _pixel(matrix, event) + self._grip
                self.keep_lengths = scene.walkon.keep_lengths != event.shift
                dragged = posing.drag(
                    self._before, JOINTS.index(self.joint), (self.x, self.y), self.keep_lengths
                )
                skeleton_rig.write(scene.walkon.rig, dragged)
                context.area.tag_redraw()
        if event.type == "LEFTMOUSE" and event.value == "RELEASE":
            keep_edits(scene)
            overlay.refresh()
            return {"FINISHED"}
        return {"RUNNING_MODAL"}

    def _toggle(self, scene: bpy.types.Scene, skeleton: Skeleton, at: Vector, reach: float) -> set[str]:
        everywhere = Skeleton(complete(skeleton), np.ones(len(JOINTS), bool))
        joint = posing.nearest_joint(everywhere, at, reach)
        if joint is None:
            return {"CANCELLED"}
        skeleton_rig.hide_joint(scene.walkon.rig, joint, bool(skeleton.visible[joint]))
        keep_edits(scene)
        overlay.refresh()
        return {"FINISHED"}


def _pixel(matrix: Matrix, event: bpy.types.Event) -> Vector:
    return (matrix.inverted() @ Vector((event.mouse_region_x, event.mouse_region_y, 0.0))).to_2d()


def _choose_at(scene: bpy.types.Scene, at: Vector, reach: float) -> set[str]:
    """A click on another suggestion chooses it; a click on nothing is left to Blender."""
    work = scene.walkon
    if not overlay.suggests(scene) or not work.show_overlay:
        return {"PASS_THROUGH"}
    for index, candidate in enumerate(work.candidates):
        if index != work.candidate_index and posing.nearest_joint(candidate.skeleton, at, reach) is not None:
            show_candidate(scene, index)
            return {"FINISHED"}
    return {"PASS_THROUGH"}


_KEYS = (
    ("walkon.drag_joint", {"type": "LEFTMOUSE", "value": "PRESS"}, None),
    ("walkon.drag_joint", {"type": "LEFTMOUSE", "value": "PRESS", "shift": True}, None),
    ("walkon.drag_joint", {"type": "LEFTMOUSE", "value": "PRESS", "ctrl": True}, None),
)


def _draw_settings(context: bpy.types.Context, layout: bpy.types.UILayout, _tool: object) -> None:
    layout.prop(context.scene.walkon, "keep_lengths")


class _Tool:
    """What the tool is in both editors."""

    bl_label = "Drag Joints"
    bl_description = (
        "Drag the joints of the person that is being posed. Shift: this joint alone. Ctrl: hide or show"
    )
    bl_icon = "ops.pose.relax"
    bl_keymap = _KEYS
    draw_settings = _draw_settings


class WALKON_WT_drag_in_picture(_Tool, bpy.types.WorkSpaceTool):
    """In the Image Editor."""

    bl_space_type, bl_context_mode = "IMAGE_EDITOR", "VIEW"
    bl_idname = "walkon.drag_in_picture"


class WALKON_WT_drag_in_view(_Tool, bpy.types.WorkSpaceTool):
    """In the 3D View, in pose mode."""

    bl_space_type, bl_context_mode = "VIEW_3D", "POSE"
    bl_idname = "walkon.drag_in_view"


_TOOLS = (WALKON_WT_drag_in_picture, WALKON_WT_drag_in_view)


def register() -> None:
    """Called by the package."""
    bpy.utils.register_class(WALKON_OT_drag_joint)
    for tool in _TOOLS:
        bpy.utils.register_tool(tool, separator=True)


def unregister() -> None:
    """Called by the package."""
    for tool in reversed(_TOOLS):
        bpy.utils.unregister_tool(tool)
    bpy.utils.unregister_class(WALKON_OT_drag_joint)
