# SPDX-License-Identifier: GPL-3.0-or-later
"""Skeletons drawn over the camera view and over the picture in the Image Editor.

The people of the picture, each in a colour of its own, grey where switched off; all suggestions faintly; the one
that is edited in thick lines with a handle on each joint. Display only. Batches are in pixels of the picture and
are made anew only after a change: a redraw maps them with one matrix. Drawing needs a window; registering not.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from typing import Any

import bpy
import gpu
import numpy as np
from bpy.app.handlers import persistent
from bpy_extras.view3d_utils import location_3d_to_region_2d
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix, Vector
from numpy.typing import NDArray

from . import candidate_icons, place_box, skeleton_rig
from .camera_plane import plane_matrix
from .geometry import BONE_NAMES, SIDES
from .shared.skeleton import FACE, LIMBS, NUM_JOINTS, Skeleton

Colour = tuple[float, float, float, float]

_UNUSED = (0.6, 0.6, 0.6, 0.5)
_FAINT = (1.0, 1.0, 1.0, 0.28)
_PINNED = (1.0, 0.85, 0.2, 0.5)
_BOX = (1.0, 0.85, 0.2, 0.9)
_SIDE = {"L": (0.25, 0.55, 1.0, 1.0), "": (1.0, 1.0, 1.0, 1.0), "R": (1.0, 0.4, 0.15, 1.0)}
_HANDLE, _ACTIVE, _HIDDEN = (1.0, 1.0, 1.0, 1.0), (1.0, 0.85, 0.1, 1.0), (1.0, 1.0, 1.0, 0.3)

_handles: list[tuple[Any, object]] = []
_cached: dict[tuple[int, bool], gpu.types.GPUBatch | None] = {}  # by scene and `suggests`


def refresh() -> None:
    """Something that is drawn has changed."""
    _cached.clear()
    candidate_icons.refresh()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "IMAGE_EDITOR"):
                area.tag_redraw()


def person_colour(index: int) -> Colour:
    """The colour of a person of the picture: neighbours in the list differ clearly (golden ratio of the hues)."""
    return *colorsys.hsv_to_rgb((0.45 + 0.618034 * index) % 1.0, 0.75, 0.95), 0.9


def region_matrix(context: bpy.types.Context) -> Matrix | None:
    """From pixels of the picture (x, y) to those of the region that is drawn; None where it does not show it."""
    region, space = context.region, context.space_data
    size = tuple(context.scene.walkon.picture_size)
    if 0 in size or region is None or space is None:
        return None
    if space.type == "IMAGE_EDITOR":
        if space.image is None or 0 in space.image.size:
            return None
        corners = [region.view2d.view_to_region(x, y, clip=False) for x, y in ((0, 1), (1, 1), (0, 0))]
    elif space.type == "VIEW_3D":
        view, camera = context.region_data, context.scene.camera
        if view is None or view.view_perspective != "CAMERA" or camera is None:
            return None
        matrix = camera.matrix_world @ plane_matrix(context.scene)
        found = [
            location_3d_to_region_2d(region, view, matrix @ Vector((x, -y, 0.0)))
            for x, y in ((0, 0), (size[0], 0), (0, size[1]))
        ]
        if any(corner is None for corner in found):
            return None
        corners = found
    else:
        return None
    origin, right, down = (Vector(corner) for corner in corners)
    across, along = (right - origin) / size[0], (down - origin) / size[1]
    return Matrix(
        (
            (across.x, along.x, 0.0, origin.x),
            (across.y, along.y, 0.0, origin.y),
            (0.0, 0.0, 1.0, 0.0),
            (0.0, 0.0, 0.0, 1.0),
        )
    )


def posed_points(scene: bpy.types.Scene) -> tuple[NDArray[np.float64], NDArray[np.bool_], int] | None:
    """The joints of the armature that is edited: `(18, 2)` pixels, which are shown, and the active one."""
    rig = scene.walkon.rig
    if rig is None or any(name not in rig.pose.bones for name in BONE_NAMES):
        return None
    points = np.array([skeleton_rig.joint_at(rig, joint) for joint in range(NUM_JOINTS)])
    shown = np.array([not skeleton_rig.joint_hidden(rig, joint) for joint in range(NUM_JOINTS)])
    return points, shown, skeleton_rig.active_joint(rig)


def suggests(scene: bpy.types.Scene) -> bool:
    """Whether all suggestions are drawn: not where the armature is out of sight and a finished layer is looked at."""
    work = scene.walkon
    return work.show_candidates and (work.rig is None or work.rig.visible_get())


def still_lines(scene: bpy.types.Scene) -> tuple[list[tuple[float, float]], list[Colour]]:
    """Ends and colours of the lines that no pose edit changes: people, other suggestions, the box."""
    work = scene.walkon
    points: list[tuple[float, float]] = []
    colours: list[Colour] = []
    for index, person in enumerate(work.people):
        if work.rig is None or work.rig_shows != "PERSON" or work.rig_person != index:
            _add(points, colours, person.skeleton, person_colour(index) if person.enabled else _UNUSED)
    if suggests(scene):
        for index, candidate in enumerate(work.candidates):
            if index != work.candidate_index or work.rig is None or work.rig_shows != "CANDIDATE":
                _add(points, colours, candidate.skeleton, _PINNED if candidate.pinned else _FAINT)
    return points, colours


def box_lines(scene: bpy.types.Scene) -> Iterator[tuple[float, float]]:
    """The ends of the four sides of the box for the feet."""
    box = place_box.box_of(scene)
    if box is not None:
        x0, y0, x1, y1 = box
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            yield start
            yield end


def _add(
    points: list[tuple[float, float]], colours: list[Colour], skeleton: Skeleton, colour: Colour
) -> None:
    for start, end in LIMBS:
        if skeleton.visible[start] and skeleton.visible[end]:
            points += [tuple(skeleton.xy[start]), tuple(skeleton.xy[end])]
            colours += [colour, colour]


def _draw() -> None:
    context = bpy.context
    scene, space = context.scene, context.space_data
    if scene is None or space is None:
        return
    work = scene.walkon
    if not work.show_overlay or (space.type == "VIEW_3D" and not space.overlay.show_overlays):
        return
    if not (work.people or work.candidates or work.rig or work.place == "BOX"):
        return
    matrix = region_matrix(context)
    if matrix is None:
        return
    key = scene.session_uid, suggests(scene)
    if key not in _cached:
        points, colours = still_lines(scene)
        _cached[key] = _batch("POLYLINE_FLAT_COLOR", "LINES", points, colours) if points else None
    scale = context.preferences.system.ui_scale
    with gpu.matrix.push_pop():
        gpu.matrix.multiply_matrix(matrix)
        gpu.state.blend_set("ALPHA")
        if (still := _cached[key]) is not None:
            _draw_lines(still, context.region, 2.0 * scale)
        if work.place == "BOX":
            sides = list(box_lines(scene))
            if sides:
                batch = _batch("POLYLINE_FLAT_COLOR", "LINES", sides, [_BOX] * len(sides))
                _draw_lines(batch, context.region, 1.5 * scale)
        _draw_posed(context, matrix, scale)
        gpu.state.blend_set("NONE")


def _draw_posed(context: bpy.types.Context, matrix: Matrix, scale: float) -> None:
    posed = posed_points(context.scene)
    if posed is None or not context.scene.walkon.rig.visible_get():
        return
    joints, shown, active = posed
    points, colours = [], []
    for start, end in LIMBS:
        if shown[start] and shown[end]:
            points += [tuple(joints[start]), tuple(joints[end])]
            colours += [_SIDE[SIDES[end]]] * 2
    if points:
        _draw_lines(_batch("POLYLINE_FLAT_COLOR", "LINES", points, colours), context.region, 3.5 * scale)
    # Not larger than the person on the screen allows, and smaller in the face, where they are close together.
    extent = float(np.ptp(joints, axis=0).max()) * matrix.col[0].to_3d().length
    large = min(8.0 * scale, max(3.0, 0.03 * extent))
    for face, side in ((False, large), (True, 0.55 * large)):
        chosen = [joint for joint in range(NUM_JOINTS) if (joint in FACE) == face]
        colours = [(_ACTIVE if joint == active else _HANDLE) if shown[joint] else _HIDDEN for joint in chosen]
        gpu.state.point_size_set(side)
        dots = _batch("FLAT_COLOR", "POINTS", [tuple(joints[joint]) for joint in chosen], colours)
        dots.draw(gpu.shader.from_builtin("FLAT_COLOR"))
    gpu.state.point_size_set(1.0)


def _batch(
    shader: str, kind: str, points: list[tuple[float, float]], colours: list[Colour]
) -> gpu.types.GPUBatch:
    places = [(x, y, 0.0) for x, y in points]
    return batch_for_shader(gpu.shader.from_builtin(shader), kind, {"pos": places, "color": colours})


def _draw_lines(batch: gpu.types.GPUBatch, region: bpy.types.Region, width: float) -> None:
    shader = gpu.shader.from_builtin("POLYLINE_FLAT_COLOR")
    shader.bind()
    shader.uniform_float("viewportSize", (region.width, region.height))
    shader.uniform_float("lineWidth", width)
    batch.draw(shader)


@persistent
def _on_undo(_file: object, _more: object = None) -> None:
    refresh()


def register() -> None:
    """Called by the package."""
    for calls in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post):
        calls.append(_on_undo)
    _handles.extend(
        (space, space.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL"))
        for space in (bpy.types.SpaceView3D, bpy.types.SpaceImageEditor)
    )


def unregister() -> None:
    """Called by the package."""
    for calls in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post):
        calls.remove(_on_undo)
    for space, handle in _handles:
        space.draw_handler_remove(handle, "WINDOW")
    _handles.clear()
    _cached.clear()
