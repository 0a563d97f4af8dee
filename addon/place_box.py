# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a new person's place: a box over the camera view, an object's foot point, a height, a look.

The box is an empty in the picture's own space (see camera_plane): Blender's move and scale tools change it, undo
and files keep it, and it follows lens and render size.
"""

from __future__ import annotations

import bpy
import numpy as np

from . import armatures
from .camera_plane import plane, tidy
from .shared.errors import BadInput
from .shared.messages import Where
from .shared.skeleton import Skeleton

BOX_NAME = "Walk-On Box"

Box = tuple[float, float, float, float]


def where(scene: bpy.types.Scene, like: Skeleton | None = None) -> Where:
    """What the panel asks for, as it goes to the server.

    Args:
        like (`Skeleton`, *optional*): the person that suggestions shall resemble.

    Raises:
        BadInput: the object is not chosen, or the camera does not see it; there is no box.
    """
    work = scene.walkon
    feet, box = None, None
    if work.place == "OBJECT":
        feet = _foot_point(scene)
    elif work.place == "BOX":
        box = box_of(scene)
        if box is None:
            raise BadInput("There is no box to put the feet in", "Press New Box, or choose Anywhere", "box")
    return Where(
        feet=feet,
        box=box,
        height=work.height if work.use_height else None,
        stance=None if work.stance == "ANY" else work.stance,
        facing=None if work.facing == "ANY" else work.facing,
        like=like.to_openpose() if like is not None else None,
    )


def _foot_point(scene: bpy.types.Scene) -> tuple[float, float]:
    work = scene.walkon
    thing = work.place_object
    if thing is None:
        raise BadInput(
            "No object is chosen as the place",
            "Choose one, for example an empty on the floor",
            "place_object",
        )
    size = tuple(work.picture_size)
    point = np.array([thing.matrix_world.translation])
    (xy,), (in_front,) = armatures.to_pixels(scene, point, size)
    if not in_front or not (0 <= xy[0] <= size[0] and 0 <= xy[1] <= size[1]):
        raise BadInput(
            f"The camera does not see the origin of '{thing.name}'",
            "Move it into the picture, or choose another place",
            "place_object",
        )
    return float(xy[0]), float(xy[1])


def box_of(scene: bpy.types.Scene) -> Box | None:
    """Left, top, right and bottom in pixels of the picture; None where there is no box."""
    thing = scene.walkon.place_box
    if thing is None or scene.objects.get(thing.name) != thing:
        return None
    x, y = thing.location.x, -thing.location.y
    half_width, half_height = abs(thing.scale.x), abs(thing.scale.y)
    return x - half_width, y - half_height, x + half_width, y + half_height


def make_box(scene: bpy.types.Scene, box: Box) -> bpy.types.Object:
    """Put the box there, made where it is missing.

    Raises:
        BadInput: no camera.
    """
    parent, work = plane(scene), scene.walkon
    thing = work.place_box
    if thing is None:
        thing = work.place_box = bpy.data.objects.new(BOX_NAME, None)
        thing.empty_display_type, thing.empty_display_size = "CUBE", 1.0
        thing.lock_location, thing.lock_rotation = (False, False, True), (True, True, True)
        thing.lock_scale = (False, False, True)
        thing.hide_render = thing.show_in_front = True
    if scene.objects.get(thing.name) != thing:
        scene.collection.objects.link(thing)
    x0, y0, x1, y1 = box
    thing.parent = parent
    thing.location = (x0 + x1) / 2, -(y0 + y1) / 2, 0.0
    thing.scale = max(1.0, (x1 - x0) / 2), max(1.0, (y1 - y0) / 2), 1e-3
    return thing


def render_border(scene: bpy.types.Scene) -> Box | None:
    """The render region that the artist drew with Ctrl+B, in pixels of the picture."""
    render = scene.render
    if not render.use_border:
        return None
    width, height = scene.walkon.picture_size
    return (
        render.border_min_x * width,
        (1.0 - render.border_max_y) * height,
        render.border_max_x * width,
        (1.0 - render.border_min_y) * height,
    )


def remove_box(scene: bpy.types.Scene) -> None:
    """Take the box out of the file."""
    thing = scene.walkon.place_box
    if thing is not None:
        bpy.data.objects.remove(thing)
        tidy(scene)
