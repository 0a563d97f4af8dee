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


def plane_matrix(scene: bpy.types.Scene) -> Matrix:
    """From pixels (x, -y, 0) of the scene's picture to the space of its camera.

    Raises:
        BadInput: no camera.
    """
    if scene.camera is None:
        raise BadInput(
            f"Scene '{scene.name}' has no active camera",
            "Add a camera that sees what the picture shows",
            "camera",
        )
    camera = scene.camera.data
    # Near enough not to be reached by the scene's objects, far enough not to be clipped.
    depth = min(camera.clip_start * 10, (camera.clip_start + camera.clip_end) / 2)
    frame = [tuple(corner) for corner in camera.view_frame(scene=scene)]
    size = tuple(scene.walkon.picture_size)
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
        empty.empty_display_size = 0.0
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
