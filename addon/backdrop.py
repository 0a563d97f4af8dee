# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture behind the camera view, so that the artist sees among whom the new person will stand; and in the render.

It is a background image of the camera: never rendered, and the artist's own background images stay.
"""

from __future__ import annotations

from typing import Any

import bpy

from . import compat
from .scene_picture import PICTURE_NAME, colour_space
from .shared.errors import BadInput


def show(scene: bpy.types.Scene) -> None:
    """Bring the camera's background to what the scene's settings ask for.

    A picture that the camera rendered is not shown: the scene itself is there.
    """
    work = scene.walkon
    if scene.camera is None or scene.camera.type != "CAMERA":
        return
    camera = scene.camera.data
    entry = _entry(scene)
    if not (work.show_picture and work.picture is not None and work.source != "RENDER"):
        if entry is not None:
            camera.background_images.remove(entry)
        return
    if entry is None:
        entry = camera.background_images.new()
        entry.frame_method, entry.display_depth, entry.alpha = "STRETCH", "BACK", 1.0
    entry.image = work.picture
    camera.show_background_images = True


def _entry(scene: bpy.types.Scene) -> Any:
    """Ours among the camera's background images; None where there is none."""
    backgrounds = scene.camera.data.background_images
    return next(
        (one for one in backgrounds if one.image is not None and one.image.name.startswith(PICTURE_NAME)),
        None,
    )


PLATE = "Walk-On Plate"


def composite(scene: bpy.types.Scene) -> None:
    """Lay what the camera renders over the picture, in the compositor: a picture that is no render becomes the render's
    background. What is there already stays.

    Raises:
        BadInput: no picture yet, or no Render Layers node to lay over it.
    """
    picture = scene.walkon.picture
    if picture is None:
        raise BadInput("There is no picture yet", "Press Find People", "people")
    tree = compat.compositor_tree(scene) or compat.make_compositor_tree(scene)
    plate = tree.nodes.get(PLATE)
    if plate is None:
        render = next((node for node in tree.nodes if node.type == "R_LAYERS"), None)
        if render is None:
            raise BadInput(
                "The compositor has no Render Layers node",
                "Add one, or lay the picture under by hand",
                "render_layers",
            )
        rendered = render.outputs["Image"]
        fed = [link.to_socket for link in rendered.links]
        plate, over = tree.nodes.new("CompositorNodeImage"), tree.nodes.new("CompositorNodeAlphaOver")
        plate.name = plate.label = PLATE
        plate.location = render.location.x, render.location.y + 300
        over.location = render.location.x + 250, render.location.y + 150
        background, foreground, _ = compat.alpha_over_sockets(over)
        tree.links.new(plate.outputs["Image"], background)
        tree.links.new(rendered, foreground)
        for socket in fed:
            tree.links.new(over.outputs["Image"], socket)
    _fill(scene, plate)
    scene.render.film_transparent = True


def follow(scene: bpy.types.Scene) -> None:
    """The scene's picture is another one: the one in the compositor, if there is one, too."""
    tree = compat.compositor_tree(scene)
    plate = tree.nodes.get(PLATE) if tree else None
    if plate is not None:
        _fill(scene, plate)


def _fill(scene: bpy.types.Scene, plate: bpy.types.Node) -> None:
    """A copy of the picture into the node: a render wants it without the view transform, the camera view as it is."""
    old = plate.image
    plate.image = scene.walkon.picture.copy()
    plate.image.name = PLATE
    plate.image.colorspace_settings.name, _ = colour_space(scene)
    if old is not None and old.users == 0 and old.name.startswith(PLATE):
        bpy.data.images.remove(old)
