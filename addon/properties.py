# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps: its work in the scene (saved, undone), its state in the window manager (neither)."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import (
    BoolProperty,
    BoolVectorProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    IntVectorProperty,
    PointerProperty,
    StringProperty,
)

from . import layers
from .shared.skeleton import NUM_JOINTS, Skeleton


class WalkOnPerson(bpy.types.PropertyGroup):
    """One person's 18 keypoints in pixels of the picture."""

    enabled: BoolProperty(
        name="Use", description="Whether this person counts when places are suggested", default=True
    )
    joints: FloatVectorProperty(
        name="Joints", description="x, y and score of the 18 joints", size=(NUM_JOINTS, 3)
    )
    visible: BoolVectorProperty(name="Visible", description="Whether the joint is known", size=NUM_JOINTS)
    score: FloatProperty(name="Score", description="How much the server likes this place", default=0.0)

    @property
    def skeleton(self) -> Skeleton:
        """The person as the type that everything else works with."""
        joints = np.array(self.joints)
        return Skeleton(joints[:, :2], np.array(self.visible), joints[:, 2])

    @skeleton.setter
    def skeleton(self, skeleton: Skeleton) -> None:
        self.joints = np.column_stack([skeleton.xy, skeleton.score]).tolist()
        self.visible = skeleton.visible.tolist()


class WalkOnCandidate(bpy.types.PropertyGroup):
    """A suggested place: as it was suggested, and as the artist left it."""

    suggested: PointerProperty(type=WalkOnPerson)
    edited: PointerProperty(type=WalkOnPerson)


def _layer_changed(layer: WalkOnLayer, _context: bpy.types.Context) -> None:
    layers.sync(layer.id_data, layer)


class WalkOnLayer(bpy.types.PropertyGroup):
    """One inserted person: the picture, where it lies and where it came from."""

    uuid: StringProperty(name="Identity", description="Name of this layer inside Walk-On, never changes")
    title: StringProperty(name="Name", description="What the list calls the layer")
    image: PointerProperty(type=bpy.types.Image, name="Image", description="The person, with alpha, packed")
    group: PointerProperty(
        type=bpy.types.NodeTree, name="Node Group", description="Its compositor node group"
    )
    handle: PointerProperty(type=bpy.types.Object, name="Handle", description="Its card in the camera view")
    skeleton: PointerProperty(type=WalkOnPerson)
    actor: StringProperty(name="Actor", description="The photo that the person was painted from")
    seed: IntProperty(name="Seed", description="The seed of the suggestions it came from")
    provenance: StringProperty(name="Provenance", description="Versions, weights and timings, as JSON")
    view_transform: StringProperty(
        name="View Transform", description="The view transform that the image's color space undoes"
    )
    image_size: IntVectorProperty(name="Size", description="Width and height of the image", size=2)
    anchor: FloatVectorProperty(name="Anchor", description="The feet, in pixels of the image", size=2)
    predicted: FloatVectorProperty(
        name="Predicted", description="x, y and scale that the server gave", size=3
    )
    x: FloatProperty(
        name="X",
        description="Where the feet stand: pixels from the left edge of the picture",
        update=_layer_changed,
    )
    y: FloatProperty(
        name="Y",
        description="Where the feet stand: pixels from the top edge of the picture",
        update=_layer_changed,
    )
    scale: FloatProperty(
        name="Scale",
        description="Size of the person about the feet; 1 is as predicted",
        default=1.0,
        min=0.01,
        max=100.0,
        soft_min=0.1,
        soft_max=4.0,
        step=1,
        precision=3,
        update=_layer_changed,
    )
    flip: BoolProperty(name="Flip", description="Mirror left to right about the feet", update=_layer_changed)
    opacity: FloatProperty(
        name="Opacity",
        description="How much of the person is seen",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        update=_layer_changed,
    )
    show: BoolProperty(
        name="Show", description="Whether the layer is in the picture", default=True, update=_layer_changed
    )


def _overlay_changed(_scene: WalkOnScene, context: bpy.types.Context) -> None:
    for area in context.screen.areas if context.screen else ():
        area.tag_redraw()


class WalkOnScene(bpy.types.PropertyGroup):
    """Walk-On's work in one scene."""

    actor: StringProperty(
        name="Actor", description="Photo of the person to put into the picture", subtype="FILE_PATH"
    )
    source: EnumProperty(
        name="Picture",
        description="The picture that the person is put into",
        items=(
            ("RENDER", "Camera's Render", "What the active camera rendered last"),
            ("IMAGE", "Image", "An image of this file; it is taken to fill the camera's frame"),
        ),
    )
    image: PointerProperty(
        type=bpy.types.Image, name="Image", description="The picture that the person is put into"
    )
    picture: PointerProperty(
        type=bpy.types.Image, name="Sent Picture", description="The picture as it was sent, packed"
    )
    picture_size: IntVectorProperty(
        name="Picture Size",
        description="Width and height of the picture that all coordinates refer to",
        size=2,
    )
    plane: PointerProperty(
        type=bpy.types.Object, name="Plane", description="The empty in whose space the picture's pixels lie"
    )
    people: CollectionProperty(type=WalkOnPerson)
    candidates: CollectionProperty(type=WalkOnCandidate)
    candidate_index: IntProperty(name="Candidate", description="The suggestion that is shown", default=-1)
    rig: PointerProperty(
        type=bpy.types.Object, name="Skeleton", description="The armature in which the pose is edited"
    )
    count: IntProperty(name="Suggestions", description="How many places to suggest", default=8, min=1, max=64)
    seed: IntProperty(
        name="Seed", description="Another number gives other suggestions", default=0, min=0, max=2**31 - 1
    )
    color_strength: FloatProperty(
        name="Match Colors",
        description="How far the person's colors move towards the picture's",
        default=0.5,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    layers: CollectionProperty(type=WalkOnLayer)
    layer_index: IntProperty(name="Layer", description="The layer that is edited")
    made_compositor: BoolProperty(
        name="Made Compositor", description="Whether Walk-On switched the compositor on", default=False
    )
    show_overlay: BoolProperty(
        name="Show Skeletons",
        description="Draw the people of the picture over the camera view",
        default=True,
        update=_overlay_changed,
    )

    @property
    def candidate(self) -> WalkOnCandidate | None:
        """The suggestion that is shown."""
        if 0 <= self.candidate_index < len(self.candidates):
            return self.candidates[self.candidate_index]
        return None

    @property
    def layer(self) -> WalkOnLayer | None:
        """The layer that is edited."""
        return self.layers[self.layer_index] if 0 <= self.layer_index < len(self.layers) else None

    @property
    def context(self) -> list[Skeleton]:
        """The people who count."""
        return [person.skeleton for person in self.people if person.enabled]


class WalkOnState(bpy.types.PropertyGroup):
    """What the panel shows of the server and of the job that runs. Never saved."""

    server: EnumProperty(
        name="Server",
        items=(
            ("OFF", "Not running", "No server is connected"),
            ("STARTING", "Starting", "The server loads its models"),
            ("READY", "Ready", "The server waits for work"),
            ("LOST", "Lost", "The server went away"),
        ),
        default="OFF",
    )
    server_text: StringProperty(name="Server Details")
    job: StringProperty(name="Job", description="What runs now; empty when nothing does")
    stage: StringProperty(name="Stage", description="What the server is doing")
    progress: FloatProperty(name="Progress", min=0.0, max=1.0)
    error: StringProperty(name="Error", description="What went wrong last")
    error_fix: StringProperty(name="Fix", description="What to do about it")
    error_operator: StringProperty(name="Mend", description="The operator that mends it")
    note: StringProperty(name="Note", description="What the last job has to say")


_CLASSES = (WalkOnPerson, WalkOnCandidate, WalkOnLayer, WalkOnScene, WalkOnState)


def register() -> None:
    """Called by the package."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.walkon = PointerProperty(type=WalkOnScene)
    bpy.types.WindowManager.walkon = PointerProperty(type=WalkOnState, options={"SKIP_SAVE"})


def unregister() -> None:
    """Called by the package."""
    del bpy.types.WindowManager.walkon
    del bpy.types.Scene.walkon
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
