# SPDX-License-Identifier: GPL-3.0-or-later
"""The armature in which a suggested pose is edited: flat, in the camera's plane, its units the picture's pixels.

One bone per joint; a joint is where its bone's head is. Turning a bone turns the limbs behind it, their lengths
kept; moving it moves the joint; hiding it says that the joint is not seen. The rest pose is the suggestion, so
Blender's own "Clear Location" and "Clear Rotation" take edits back, and its undo works throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import bpy
import numpy as np
from mathutils import Vector

from . import compat
from .camera_plane import plane, tidy
from .geometry import BONE_NAMES, PARENT, PARENT_FIRST, SIDES, complete, person_size
from .shared.errors import BadInput
from .shared.skeleton import LIMBS, Skeleton

RIG_NAME = "Walk-On Skeleton"
_MARK_NAME = "Walk-On Joint"
_SIDE = {"L": (0.15, 0.45, 1.0), "": (0.95, 0.95, 0.95), "R": (1.0, 0.35, 0.1)}


def build(scene: bpy.types.Scene, suggested: Skeleton, edited: Skeleton) -> bpy.types.Object:
    """Make the armature anew: the suggestion as its rest pose, the edits as its pose.

    Args:
        scene (`Scene`): gets the armature, as a child of its camera's plane.
        suggested, edited (`Skeleton`): in pixels of the picture.

    Raises:
        BadInput: no camera.
    """
    parent = plane(scene)
    _discard(scene)
    armature = bpy.data.armatures.new(RIG_NAME)
    rig = bpy.data.objects.new(RIG_NAME, armature)
    rig.parent = parent
    rig.show_in_front, rig.hide_render = True, True
    armature.display_type = "STICK"
    scene.collection.objects.link(rig)

    unit = person_size(edited)
    joints = complete(suggested)
    with _editing(rig):
        for joint in PARENT_FIRST:
            bone = armature.edit_bones.new(BONE_NAMES[joint])
            x, y = joints[joint]
            bone.head, bone.tail, bone.roll = (x, -y, 0.0), (x, 0.2 * unit - y, 0.0), 0.0
            if joint in PARENT:
                bone.parent = armature.edit_bones[BONE_NAMES[PARENT[joint]]]
        for start, end in LIMBS:
            bone = armature.edit_bones.new(_limb_name(start, end))
            bone.head, bone.tail = (*(joints[start] * (1, -1)), 0.0), (*(joints[end] * (1, -1)), 0.0)
            if bone.length < 1e-3:
                bone.tail.y += 1.0
    _dress(rig, unit)
    write(rig, edited)
    scene.walkon.rig = rig  # not before: what Blender calls after changes expects all bones
    return rig


@contextmanager
def _editing(rig: bpy.types.Object) -> Iterator[None]:
    """Edit mode on the armature, then back to what the artist was doing: bones can be made in no other way."""
    view_layer = bpy.context.view_layer
    before = view_layer.objects.active
    mode = before.mode if before else "OBJECT"
    selected = list(bpy.context.selected_objects)
    if before and mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        yield
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")
        for thing in bpy.context.selected_objects:
            thing.select_set(thing in selected)
        view_layer.objects.active = before
        if before and mode != "OBJECT":
            bpy.ops.object.mode_set(mode=mode)


def _limb_name(start: int, end: int) -> str:
    return f"limb {BONE_NAMES[start]} {BONE_NAMES[end]}"


def _dress(rig: bpy.types.Object, unit: float) -> None:
    """Marks, colours, locks, and the limbs that follow the joints."""
    mark = _joint_mark()
    for joint, name in enumerate(BONE_NAMES):
        bone = rig.pose.bones[name]
        bone.custom_shape, bone.use_custom_shape_bone_size = mark, False
        bone.custom_shape_scale_xyz = (unit * (0.03 if "eye" in name or "ear" in name else 0.06),) * 3
        bone.lock_location = (False, False, True)
        bone.rotation_mode = "XYZ"
        bone.lock_rotation = (True, True, False)
        bone.lock_scale = (True, True, True)
        _colour(bone, _SIDE[SIDES[joint]])
    for start, end in LIMBS:
        bone = rig.pose.bones[_limb_name(start, end)]
        bone.bone.hide_select = True
        _colour(bone, _SIDE[SIDES[end]])
        follow = bone.constraints.new("COPY_LOCATION")
        follow.target, follow.subtarget = rig, BONE_NAMES[start]
        reach = bone.constraints.new("STRETCH_TO")
        reach.target, reach.subtarget = rig, BONE_NAMES[end]
        reach.volume = "NO_VOLUME"
        # The length as built: left at 0 Blender takes it from the pose of the moment.
        reach.rest_length = bone.bone.length


def _colour(bone: bpy.types.PoseBone, colour: tuple[float, float, float]) -> None:
    bone.color.palette = "CUSTOM"
    bone.color.custom.normal = colour
    bone.color.custom.select = (1.0, 0.85, 0.1)
    bone.color.custom.active = (1.0, 1.0, 0.5)


def _joint_mark() -> bpy.types.Object:
    """The ring that joints are drawn as; in no scene."""
    mark = bpy.data.objects.get(_MARK_NAME)
    if mark is None:
        mesh = bpy.data.meshes.new(_MARK_NAME)
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(16)])
        mesh.from_pydata(ring.tolist(), [(i, (i + 1) % 16) for i in range(16)], [])
        mark = bpy.data.objects.new(_MARK_NAME, mesh)
    return mark


def read(rig: bpy.types.Object, like: Skeleton, evaluate: bool = True) -> Skeleton:
    """The pose as it is now.

    Args:
        rig (`Object`): what `build` made.
        like (`Skeleton`): gives the scores of joints that stay visible.
        evaluate (`bool`): bring the dependency graph up to date first. What Blender calls after it has done so
            may not, and need not.

    Raises:
        BadInput: the artist removed or renamed a bone.
    """
    if evaluate:
        bpy.context.view_layer.update()
    lost = [name for name in BONE_NAMES if name not in rig.pose.bones]
    if lost:
        raise BadInput(
            f"The skeleton has no bone {', '.join(lost)} any more", "Undo, or press Reset Pose", "skeleton"
        )
    bones = [rig.pose.bones[name] for name in BONE_NAMES]
    xy = [(bone.head.x, -bone.head.y) for bone in bones]
    visible = np.array([not compat.joint_hidden(bone) for bone in bones])
    return Skeleton(xy, visible, np.where(like.visible, like.score, 1.0))


def write(rig: bpy.types.Object, skeleton: Skeleton) -> None:
    """Give the armature that pose; missing joints are hidden, at a likely place."""
    joints = complete(skeleton)
    rest = np.array([rig.data.bones[name].head_local[:2] for name in BONE_NAMES])
    moved = joints * (1, -1) - rest
    for joint, name in enumerate(BONE_NAMES):
        bone = rig.pose.bones[name]
        # Without rotations a bone's own move is what it moves beyond its parent.
        own = moved[joint] - (moved[PARENT[joint]] if joint in PARENT else 0.0)
        bone.location, bone.rotation_euler = Vector((*own, 0.0)), (0.0, 0.0, 0.0)
        compat.hide_joint(bone, not skeleton.visible[joint])
    show_limbs(rig)


def active_joint(rig: bpy.types.Object) -> int:
    """The joint whose bone is active, or -1."""
    bone = rig.data.bones.active
    return BONE_NAMES.index(bone.name) if bone is not None and bone.name in BONE_NAMES else -1


def activate(rig: bpy.types.Object, joint: int) -> None:
    """Make a joint's bone the active one, and the only one selected."""
    name = BONE_NAMES[joint]
    if name in rig.pose.bones:
        select(rig, [joint])
        rig.data.bones.active = rig.data.bones[name]


def select(rig: bpy.types.Object, joints: Collection[int]) -> None:
    """Select these joints' bones and no others; hidden ones cannot be selected."""
    for joint, name in enumerate(BONE_NAMES):
        if name in rig.pose.bones:
            compat.select_joint(rig.pose.bones[name], joint in joints)


def selected(rig: bpy.types.Object) -> list[int]:
    """The joints whose bones are selected and seen."""
    bones = [rig.pose.bones.get(name) for name in BONE_NAMES]
    return [
        joint
        for joint, bone in enumerate(bones)
        if bone is not None and compat.joint_selected(bone) and not compat.joint_hidden(bone)
    ]


def joint_at(rig: bpy.types.Object, joint: int) -> tuple[float, float]:
    """Where a joint is, in pixels."""
    bone = rig.pose.bones.get(BONE_NAMES[joint])
    return (bone.head.x, -bone.head.y) if bone is not None else (0.0, 0.0)


def move_joint(rig: bpy.types.Object, joint: int, at: Sequence[float]) -> None:
    """Put a joint to a pixel; what hangs on it goes along."""
    bone = rig.pose.bones.get(BONE_NAMES[joint])
    if bone is not None:
        bpy.context.view_layer.update()
        matrix = bone.matrix.copy()
        matrix.translation = at[0], -at[1], 0.0
        bone.matrix = matrix
        bpy.context.view_layer.update()


def joint_hidden(rig: bpy.types.Object, joint: int) -> bool:
    """Whether a joint is hidden, or its bone gone."""
    bone = rig.pose.bones.get(BONE_NAMES[joint])
    return bone is None or compat.joint_hidden(bone)


def hide_joint(rig: bpy.types.Object, joint: int, hide: bool) -> None:
    """Hide or show a joint and the limbs that need it."""
    bone = rig.pose.bones.get(BONE_NAMES[joint])
    if bone is not None:
        compat.hide_joint(bone, hide)
        show_limbs(rig)


def show_limbs(rig: bpy.types.Object) -> None:
    """A limb is seen where both its joints are."""
    bones = rig.pose.bones
    for start, end in LIMBS:
        limb = bones.get(_limb_name(start, end))
        joints = bones.get(BONE_NAMES[start]), bones.get(BONE_NAMES[end])
        if limb is not None:
            hide = any(joint is None or compat.joint_hidden(joint) for joint in joints)
            if compat.joint_hidden(limb) != hide:
                compat.hide_joint(limb, hide)


def remove(scene: bpy.types.Scene) -> None:
    """Take the armature out of the file."""
    _discard(scene)
    mark = bpy.data.objects.get(_MARK_NAME)
    if mark is not None and mark.users == 0:
        mesh = mark.data
        bpy.data.objects.remove(mark)
        bpy.data.meshes.remove(mesh)
    tidy(scene)


def _discard(scene: bpy.types.Scene) -> None:
    rig = scene.walkon.rig
    if rig is not None:
        armature = rig.data
        bpy.data.objects.remove(rig)
        bpy.data.armatures.remove(armature)
