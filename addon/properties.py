# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps: its work in the scene (saved, undone), its state in the window manager (neither)."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    IntVectorProperty,
    PointerProperty,
)

from . import backdrop, layer_properties, pose_properties, server_properties
from .actor_properties import ActorProperties
from .layer_properties import LayerProperties
from .pose_properties import PosingProperties
from .server_properties import ServerProperties, WalkOnState


def _backdrop(_work: WalkOnScene, context: bpy.types.Context) -> None:
    backdrop.show(context.scene)


class WalkOnScene(
    ServerProperties, ActorProperties, PosingProperties, LayerProperties, bpy.types.PropertyGroup
):
    """Walk-On's work in one scene."""

    source: EnumProperty(
        name="Picture",
        description="The picture that the person is put into",
        items=(
            ("RENDER", "Camera's Render", "What the active camera rendered last"),
            (
                "IMAGE",
                "Image",
                "An image, a sequence or a movie at this frame; it is taken to fill the camera's frame",
            ),
            (
                "CLIP",
                "Movie Clip",
                "A clip at this frame, as its editor shows it; it fills the camera's frame",
            ),
            ("EDITOR", "Image Editor", "The image that the Image Editor shows"),
        ),
    )
    image: PointerProperty(
        type=bpy.types.Image, name="Image", description="The picture that the person is put into"
    )
    clip: PointerProperty(
        type=bpy.types.MovieClip, name="Clip", description="The clip whose frame the person is put into"
    )
    picture: PointerProperty(
        type=bpy.types.Image, name="Sent Picture", description="The picture as it was sent, packed"
    )
    show_picture: BoolProperty(
        name="Show Picture",
        description="Show the picture behind the camera view; it is not rendered",
        default=True,
        update=_backdrop,
    )
    picture_size: IntVectorProperty(
        name="Picture Size",
        description="Width and height of the picture that all coordinates refer to",
        size=2,
    )
    plane: PointerProperty(
        type=bpy.types.Object, name="Plane", description="The empty in whose space the picture's pixels lie"
    )
    color_strength: FloatProperty(
        name="Match Colors",
        description="How far a new person's colors move towards the picture's; every layer can be changed later",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    shadow: FloatProperty(
        name="Shadow",
        description="How dark the shadows on the ground are when a person is painted; 0 for none",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )


def register() -> None:
    """Called by the package."""
    pose_properties.register()
    layer_properties.register()
    server_properties.register()
    bpy.utils.register_class(WalkOnScene)
    bpy.types.Scene.walkon = PointerProperty(type=WalkOnScene)
    bpy.types.WindowManager.walkon = PointerProperty(type=WalkOnState, options={"SKIP_SAVE"})


def unregister() -> None:
    """Called by the package."""
    del bpy.types.WindowManager.walkon
    del bpy.types.Scene.walkon
    bpy.utils.unregister_class(WalkOnScene)
    server_properties.unregister()
    layer_properties.unregister()
    pose_properties.unregister()
