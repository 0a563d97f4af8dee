# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture's pixels as a place in the scene: an empty before the camera in whose space (x, -y, 0) is a pixel.

The skeleton that is edited and the layers' cards are its children, so their own coordinates are pixels, and
only this one object has to follow when the lens, the render size or the active camera change.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from .geometry import pixel_space
from .shared.errors import BadInput

PLANE_NAME = "Walk-On Plane"


def active_camera(scene: bpy.types.Scene) -> bpy.types.Object:
    """The camera that the picture is seen through.

    Raises:
        BadInput: there is none.
    """
    if scene.camera is None:
        raise BadInput(
            f"Scene '{scene.name}' has no active camera",
            "Add a camera that sees what the picture shows",
            "camera",
        )
    return scene.camera


def plane_matrix(
    scene: bpy.types.Scene, size: tuple[int, int] | None = None, depth: float | None = None
) -> Matrix:
    """From pixels (x, -y, 0) of a picture that the scene's camera took to the space of that camera.

    Where the render has other proportions by now, the picture keeps its scale along the side that the camera fits,
    as what the camera sees does.

    Args:
        size (`(int, int)`, *optional*): of the picture; the scene's present one.
        depth (`float`, *optional*): distance from the camera; just out of the way of the scene's objects.

    Raises:
        BadInput: no camera.
    """
    camera = active_camera(scene).data
    if depth is None:
        # Near enough not to be reached by the scene's objects, far enough not to be clipped.
        depth = min(camera.clip_start * 10, (camera.clip_start + camera.clip_end) / 2)
    size = size or tuple(scene.walkon.picture_size)
    rendered = scene.render.resolution_x, scene.render.resolution_y
    side = {"HORIZONTAL": 0, "VERTICAL": 1}.get(camera.sensor_fit)
    grow = max(rendered) / max(size) if side is None else rendered[side] / size[side]
    frame = np.array([tuple(corner) for corner in camera.view_frame(scene=scene)])
    middle = frame.mean(0)
    frame = middle + (frame - middle) * (*(grow * size[axis] / rendered[axis] for axis in (0, 1)), 1.0)
    matrix = Matrix(pixel_space(frame, size, depth, camera.type != "ORTHO").tolist())
    # Rendering ignores a camera's scale, its children don't.
    undo = Matrix.Diagonal([1 / value for value in scene.camera.matrix_world.to_scale()]).to_4x4()
    return undo @ matrix


def plane(scene: bpy.types.Scene) -> bpy.types.Object:
    """The empty, made where it is missing.

    Raises:
        BadInput: no camera.
    """
    matrix = plane_matrix(scene)
    empty = scene.walkon.plane
    if empty is None:
        empty = scene.walkon.plane = bpy.data.objects.new(PLANE_NAME, None)
        empty.hide_select = empty.hide_render = True
        empty.hide_viewport = True  # otherwise Blender draws a dashed line from it to each of its children
    if scene.collection.objects.get(empty.name) != empty:
        scene.collection.objects.link(empty)
    empty.parent, empty.matrix_basis = scene.camera, matrix
    return empty


def fit(scene: bpy.types.Scene) -> None:
    """Follow the camera, its lens and the render size. Cheap and without effect where nothing has changed."""
    empty = scene.walkon.plane
    if empty is None or scene.camera is None:
        return
    if empty.parent != scene.camera:
        empty.parent = scene.camera
    matrix = plane_matrix(scene)
    # Assigning wakes the dependency graph, which calls this again: only where it matters.
    if not np.allclose(empty.matrix_basis, matrix, rtol=1e-6, atol=1e-9):
        empty.matrix_basis = matrix


def tidy(scene: bpy.types.Scene) -> None:
    """Remove the empty when nothing hangs on it any more."""
    empty = scene.walkon.plane
    if empty is not None and not empty.children:
        bpy.data.objects.remove(empty)
