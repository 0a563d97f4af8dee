# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps of layers. How a layer looks is kept by its handle, where Blender can animate it."""

from __future__ import annotations

import math
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    IntVectorProperty,
    PointerProperty,
    StringProperty,
)

from . import compat, layers
from .layer_place import LayerPlace
from .pose_properties import WalkOnPerson, WalkOnPose


class WalkOnVersion(bpy.types.PropertyGroup):
    """One result of a layer: its pictures, what they were painted from, and where they lay when last shown."""

    made: StringProperty(name="Made", description="When this version was painted")
    image: PointerProperty(type=bpy.types.Image, name="Image", description="The person, with alpha, packed")
    plain: PointerProperty(
        type=bpy.types.Image, name="Own Colors", description="The person before the colors were matched"
    )
    feather: PointerProperty(
        type=bpy.types.Image, name="Feather Map", description="How far inside the person each pixel is"
    )
    depth: PointerProperty(
        type=bpy.types.Image,
        name="Depth",
        description="Meters towards the camera, where the server gave them",
    )
    normal: PointerProperty(
        type=bpy.types.Image,
        name="Normals",
        description="Normal map: x to the right, y up, z to the camera",
    )
    picture: PointerProperty(
        type=bpy.types.Image, name="Picture", description="The picture that the person was painted for"
    )
    people: CollectionProperty(type=WalkOnPerson, name="People", description="Who was in that picture")
    skeleton: PointerProperty(type=WalkOnPose, name="Skeleton", description="The pose that was painted")
    actor: StringProperty(name="Actor", description="The photo that the person was painted from")
    seed: IntProperty(name="Seed", description="The seed of the suggestions it came from")
    provenance: StringProperty(name="Provenance", description="Versions, weights and timings, as JSON")
    image_size: IntVectorProperty(name="Size", description="Width and height of the image", size=2)
    anchor: FloatVectorProperty(name="Anchor", description="The feet, in pixels of the image", size=2)
    sole: FloatProperty(name="Sole", description="Row of the image at which the person ends")
    whole: BoolProperty(name="Whole", description="Whether the feet are in the picture", default=True)
    predicted: FloatVectorProperty(
        name="Predicted", description="x, y and scale that the server gave", size=3
    )
    place: FloatVectorProperty(
        name="Place", description="x, y, scale, rotation and flip when this version was last shown", size=5
    )


def _version_chosen(layer: WalkOnLayer, _context: bpy.types.Context) -> None:
    layers.show_version(layer.id_data, layer)


def _title_changed(layer: WalkOnLayer, _context: bpy.types.Context) -> None:
    layers.rename(layer.id_data, layer)


class WalkOnLayer(bpy.types.PropertyGroup):
    """One inserted person: its versions and the things in the file that show it.

    `x`, `y`, `scale`, `rotation`, `flip`, `opacity`, `feather`, `color_match`, `show` and `distance` are for scripts:
    they are the handle's location, scale, rotation and custom properties.
    """

    uuid: StringProperty(name="Identity", description="Name of this layer inside Walk-On, never changes")
    title: StringProperty(name="Name", description="What the list calls the layer", update=_title_changed)
    handle: PointerProperty(
        type=bpy.types.Object, name="Handle", description="The empty that moves the layer in render and view"
    )
    group: PointerProperty(
        type=bpy.types.NodeTree, name="Node Group", description="Its compositor node group"
    )
    station: PointerProperty(
        type=bpy.types.Object, name="Station", description="Where the camera was; only of layers in the world"
    )
    card: PointerProperty(
        type=bpy.types.Object, name="Card", description="What is rendered of a layer in the world"
    )
    actor: StringProperty(
        name="Actor",
        description="The photo that Regenerate paints the person from",
        subtype="FILE_PATH",
        options=compat.BLEND_RELATIVE,
    )
    actor_person: IntProperty(
        name="Person", description="Which person of the actor photo; 0 is the largest", default=0, min=0
    )
    pose: PointerProperty(type=WalkOnPerson, name="Pose", description="The pose while it is edited")
    posed_at: FloatVectorProperty(
        name="Posed At", description="x, y, scale, rotation and flip when its pose began to be edited", size=5
    )
    picture_size: IntVectorProperty(
        name="Picture Size", description="Size of the picture that the layer's pixels refer to", size=2
    )
    versions: CollectionProperty(type=WalkOnVersion)
    version_index: IntProperty(
        name="Version", description="The result that is shown", min=0, update=_version_chosen
    )
    shown_index: IntProperty(name="Shown", description="The version that the nodes show now", default=-1)
    compared_index: IntProperty(name="Compared", description="The version that was shown before", default=0)

    @property
    def version(self) -> WalkOnVersion:
        """The result that is shown."""
        return self.versions[min(self.version_index, len(self.versions) - 1)]

    @property
    def place(self) -> LayerPlace:
        """Where the layer lies now, as the type that the geometry works with."""
        version = self.version
        return LayerPlace(
            self.x,
            self.y,
            self.scale * version.predicted[2],
            self.rotation,
            self.flip,
            tuple(version.anchor),
            tuple(version.image_size),
        )

    @property
    def x(self) -> float:
        """Where the feet stand: pixels of the picture from its left edge."""
        return self.handle.location.x

    @x.setter
    def x(self, value: float) -> None:
        self.handle.location.x = value

    @property
    def y(self) -> float:
        """Where the feet stand: pixels of the picture from its top edge."""
        return -self.handle.location.y

    @y.setter
    def y(self, value: float) -> None:
        self.handle.location.y = -value

    @property
    def scale(self) -> float:
        """Size about the feet; 1 is as painted."""
        return abs(self.handle.scale.y)

    @scale.setter
    def scale(self, value: float) -> None:
        self.handle.scale = -value if self.flip else value, value, 1.0

    @property
    def flip(self) -> bool:
        """Whether it is mirrored left to right about the feet."""
        return self.handle.scale.x < 0

    @flip.setter
    def flip(self, value: bool) -> None:
        self.handle.scale.x = -self.scale if value else self.scale

    @property
    def rotation(self) -> float:
        """Radians about the feet, counter-clockwise."""
        return self.handle.rotation_euler.z

    @rotation.setter
    def rotation(self, value: float) -> None:
        self.handle.rotation_euler.z = math.remainder(value, math.tau)


def _on_handle(name: str) -> property:
    """A property of the layer that is a custom property of its handle."""

    def get(layer: WalkOnLayer) -> Any:
        return layer.handle[name]

    def put(layer: WalkOnLayer, value: Any) -> None:
        layer.handle[name] = type(layer.handle[name])(value)
        layer.handle.update_tag()  # Python's writes to custom properties go unnoticed

    return property(get, put, doc=f"The handle's {name}.")


for _name in layers.LOOKS:
    setattr(WalkOnLayer, _name.lower().replace(" ", "_"), _on_handle(_name))


class LayerProperties:
    """The part of the scene's properties that is about layers; a mix-in of `WalkOnScene`."""

    layers: CollectionProperty(type=WalkOnLayer)
    layer_index: IntProperty(name="Layer", description="The layer that is edited")
    made_compositor: BoolProperty(
        name="Made Compositor", description="Whether Walk-On switched the compositor on", default=False
    )
    made_depth_pass: StringProperty(
        name="Made Depth Pass", description="The view layer whose depth pass Walk-On switched on"
    )
    view_transform: StringProperty(
        name="View Transform", description="The view transform that the layers' color spaces undo"
    )

    rig_layer: StringProperty(name="Edited Layer", description="The layer whose pose is edited")

    @property
    def layer(self) -> WalkOnLayer | None:
        """The layer that is edited."""
        return self.layers[self.layer_index] if 0 <= self.layer_index < len(self.layers) else None

    rig_shows: str  # of PosingProperties

    @property
    def posed_layer(self) -> WalkOnLayer | None:
        """The layer whose pose the armature shows."""
        if self.rig_shows != "LAYER":
            return None
        return next((layer for layer in self.layers if layer.uuid == self.rig_layer), None)


CLASSES = (WalkOnVersion, WalkOnLayer)


def register() -> None:
    """Called by `properties`, before the scene's."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Called by `properties`, after the scene's."""
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
