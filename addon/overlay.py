# SPDX-License-Identifier: GPL-3.0-or-later
"""Skeletons drawn over the camera view: the people of the picture, and the suggestion in thicker lines.

Display only: the pose is edited on the armature. Drawing needs a window; registering does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import gpu
from bpy_extras.view3d_utils import location_3d_to_region_2d
from gpu_extras.batch import batch_for_shader
from mathutils import Vector

from .camera_plane import plane_matrix
from .compat import joint_hidden
from .geometry import BONE_NAMES
from .shared.skeleton import LIMBS, NUM_JOINTS

_USED, _UNUSED = (0.2, 0.9, 0.75, 0.9), (0.6, 0.6, 0.6, 0.45)
_LEFT, _MIDDLE, _RIGHT = (0.25, 0.55, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0), (1.0, 0.4, 0.15, 1.0)

_handle: object = None

Line = tuple[Vector, Vector, tuple[float, float, float, float]]


def _people(scene: bpy.types.Scene) -> Iterator[Line]:
    matrix = scene.camera.matrix_world @ plane_matrix(scene)
    for person in scene.walkon.people:
        joints, visible = person.joints, person.visible
        colour = _USED if person.enabled else _UNUSED
        for start, end in LIMBS:
            if visible[start] and visible[end]:
                yield (
                    matrix @ Vector((joints[start][0], -joints[start][1], 0.0)),
                    matrix @ Vector((joints[end][0], -joints[end][1], 0.0)),
                    colour,
                )


def _candidate(scene: bpy.types.Scene) -> Iterator[Line]:
    rig = scene.walkon.rig
    bones = [rig.pose.bones[BONE_NAMES[joint]] for joint in range(NUM_JOINTS)]
    for start, end in LIMBS:
        if not joint_hidden(bones[start]) and not joint_hidden(bones[end]):
            name = BONE_NAMES[end]
            colour = _RIGHT if name.endswith(".R") else _LEFT if name.endswith(".L") else _MIDDLE
            yield rig.matrix_world @ bones[start].head, rig.matrix_world @ bones[end].head, colour


def _draw() -> None:
    context = bpy.context
    scene, region, view = context.scene, context.region, context.region_data
    if scene is None or view is None or view.view_perspective != "CAMERA":
        return
    work = scene.walkon
    if not work.show_overlay or not context.space_data.overlay.show_overlays:
        return
    if work.people and scene.camera is not None:
        _lines(region, view, _people(scene), 2.0)
    if work.rig is not None and work.rig.visible_get():
        _lines(region, view, _candidate(scene), 3.0)


def _lines(
    region: bpy.types.Region, view: bpy.types.RegionView3D, lines: Iterator[Line], width: float
) -> None:
    points, colours = [], []
    for start, end, colour in lines:
        a, b = (location_3d_to_region_2d(region, view, point) for point in (start, end))
        if a is not None and b is not None:
            points += [(*a, 0.0), (*b, 0.0)]
            colours += [colour, colour]
    if not points:
        return
    shader = gpu.shader.from_builtin("POLYLINE_FLAT_COLOR")
    batch = batch_for_shader(shader, "LINES", {"pos": points, "color": colours})
    gpu.state.blend_set("ALPHA")
    shader.uniform_float("viewportSize", (region.width, region.height))
    shader.uniform_float("lineWidth", width * bpy.context.preferences.system.ui_scale)
    batch.draw(shader)
    gpu.state.blend_set("NONE")


def register() -> None:
    """Called by the package."""
    global _handle
    _handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL")


def unregister() -> None:
    """Called by the package."""
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
