# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps of people: those of the picture, those suggested, and what is asked of a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    PointerProperty,
    StringProperty,
)

from . import overlay, skeleton_rig
from .bone_names import MAPPED
from .posing import edited_joints
from .shared.skeleton import JOINTS, NUM_JOINTS, Skeleton

JOINT_ITEMS = tuple((name, name.replace("_", " ").title(), "") for name in JOINTS)
"""The joints as an enum's items."""


def _redraw(_data: object, _context: bpy.types.Context) -> None:
    overlay.refresh()


class WalkOnPose(bpy.types.PropertyGroup):
    """18 keypoints in pixels of the picture."""

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
        overlay.refresh()


class WalkOnPerson(bpy.types.PropertyGroup):
    """A person of the picture, or a suggested one: as found or suggested, and as the artist left it."""

    suggested: PointerProperty(type=WalkOnPose)
    edited: PointerProperty(type=WalkOnPose)
    title: StringProperty(name="Name", description="What the list calls this person")
    enabled: BoolProperty(
        name="Use",
        description="Whether this person counts when places are suggested",
        default=True,
        update=_redraw,
    )
    source: EnumProperty(
        name="Source",
        description="Where this person comes from",
        items=(
            ("PIXELS", "Picture", "Found in the picture's pixels", "IMAGE_DATA", 0),
            ("ARMATURE", "Character", "A character of the scene, seen by the camera", "ARMATURE_DATA", 1),
            ("HAND", "By Hand", "Added by hand", "HAND", 2),
        ),
    )
    armature: PointerProperty(
        type=bpy.types.Object, name="Armature", description="The character's armature in the scene"
    )
    pinned: BoolProperty(
        name="Pin", description="Keep this suggestion when others are asked for", default=False
    )
    warning: StringProperty(name="Warning", description="What the server says about this place")

    @property
    def skeleton(self) -> Skeleton:
        """The person as the artist left it; setting it forgets edits."""
        return self.edited.skeleton

    @skeleton.setter
    def skeleton(self, skeleton: Skeleton) -> None:
        self.suggested.skeleton = self.edited.skeleton = skeleton

    @property
    def locked(self) -> list[int]:
        """The joints that the artist edited, as refinement has to leave them."""
        return edited_joints(self.suggested.skeleton, self.edited.skeleton)


class WalkOnBones(bpy.types.PropertyGroup):
    """Which bones of an armature are which joints, where their names don't tell."""

    __annotations__ = {
        joint: StringProperty(
            name=joint.replace("_", " ").title(),
            description="The bone that begins at this joint. Empty: told by the bones' names",
            update=_redraw,
        )
        for joint in MAPPED
    }


def _joint(work: PosingProperties) -> int:
    return max(0, skeleton_rig.active_joint(work.rig)) if work.rig is not None else 0


def _set_joint(work: PosingProperties, joint: int) -> None:
    if work.rig is not None:
        skeleton_rig.activate(work.rig, joint)


def _joint_at(work: PosingProperties) -> tuple[float, float]:
    return skeleton_rig.joint_at(work.rig, _joint(work)) if work.rig is not None else (0.0, 0.0)


def _set_joint_at(work: PosingProperties, at: tuple[float, float]) -> None:
    if work.rig is not None:
        skeleton_rig.move_joint(work.rig, _joint(work), at)


def _joint_shown(work: PosingProperties) -> bool:
    return work.rig is not None and not skeleton_rig.joint_hidden(work.rig, _joint(work))


def _set_joint_shown(work: PosingProperties, shown: bool) -> None:
    if work.rig is not None:
        skeleton_rig.hide_joint(work.rig, _joint(work), not shown)


def _is_empty(_work: PosingProperties, thing: bpy.types.Object) -> bool:
    return thing.type in ("EMPTY", "MESH", "CURVE", "ARMATURE")


class PosingProperties:
    """The part of the scene's properties that is about people and poses; a mix-in of `WalkOnScene`, beside
    `LayerProperties`, which has `posed_layer`.
    """

    if TYPE_CHECKING:
        posed_layer: Any

    people: CollectionProperty(type=WalkOnPerson)
    person_index: IntProperty(
        name="Person", description="The person that is chosen in the list", update=_redraw
    )
    use_armatures: BoolProperty(
        name="Characters",
        description="Armatures that the camera sees are people of the picture too, their joints taken from the scene",
        default=True,
    )
    candidates: CollectionProperty(type=WalkOnPerson)
    candidate_index: IntProperty(
        name="Candidate", description="The suggestion that is shown", default=-1, update=_redraw
    )
    rig: PointerProperty(
        type=bpy.types.Object, name="Skeleton", description="The armature in which the pose is edited"
    )
    rig_shows: EnumProperty(
        name="Edited",
        description="Whose pose is edited",
        items=(
            ("CANDIDATE", "Suggestion", "The suggestion that is shown"),
            ("PERSON", "Person", "A person of the picture"),
            ("LAYER", "Layer", "The person of a layer"),
        ),
    )
    rig_person: IntProperty(
        name="Edited Person", description="Which person of the picture is edited", default=-1
    )
    count: IntProperty(name="Suggestions", description="How many places to suggest", default=8, min=1, max=64)
    seed: IntProperty(
        name="Seed", description="Another number gives other suggestions", default=0, min=0, max=2**31 - 1
    )
    place: EnumProperty(
        name="Place",
        description="Where the new person shall be",
        items=(
            ("ANY", "Anywhere", "Wherever a person fits among the others"),
            ("OBJECT", "At Object", "With the feet where the camera sees the origin of an object"),
            ("BOX", "In Box", "With the feet inside a box that is drawn over the camera view"),
        ),
    )
    place_object: PointerProperty(
        type=bpy.types.Object,
        name="Object",
        description="The feet go where the camera sees this object's origin, for example an empty on the floor",
        poll=_is_empty,
    )
    place_box: PointerProperty(
        type=bpy.types.Object,
        name="Box",
        description="The box over the camera view in which the feet go; move and scale it with G and S",
    )
    use_height: BoolProperty(
        name="Set Height", description="Ask for a person of a certain height in the picture", default=False
    )
    height: FloatProperty(
        name="Height",
        description="Pixels from the soles to the crown of the head, as when standing upright",
        default=400.0,
        min=1.0,
        soft_max=4000.0,
        subtype="PIXEL",
    )
    stance: EnumProperty(
        name="Stance",
        description="How the new person shall be",
        items=(
            ("ANY", "Any", "Standing or sitting"),
            ("standing", "Standing", "Standing or walking"),
            ("sitting", "Sitting", "Sitting"),
        ),
    )
    facing: EnumProperty(
        name="Facing",
        description="Where the new person shall look",
        items=(
            ("ANY", "Any", "To any side"),
            ("left", "Left", "To the left side of the picture"),
            ("right", "Right", "To the right side of the picture"),
        ),
    )
    keep_lengths: BoolProperty(
        name="Keep Lengths",
        description="Dragging a joint keeps the limbs' lengths; otherwise it moves that joint alone",
        default=True,
    )
    joint: EnumProperty(
        name="Joint",
        description="The joint that the numbers below are about",
        items=JOINT_ITEMS,
        get=_joint,
        set=_set_joint,
    )
    joint_at: FloatVectorProperty(
        name="At",
        description="Where the joint is, in pixels from the picture's top-left corner; what hangs on it follows",
        size=2,
        subtype="XYZ",
        get=_joint_at,
        set=_set_joint_at,
    )
    joint_shown: BoolProperty(
        name="Shown", description="Whether the joint is seen", get=_joint_shown, set=_set_joint_shown
    )
    show_overlay: BoolProperty(
        name="Show Skeletons",
        description="Draw the people of the picture over the camera view",
        default=True,
        update=_redraw,
    )
    show_candidates: BoolProperty(
        name="Show All Suggestions",
        description="Draw the other suggestions too, fainter than the one that is chosen, until a layer is made",
        default=True,
        update=_redraw,
    )
    preview: PointerProperty(
        type=bpy.types.Object,
        name="Preview",
        description="The card that shows the person while the pose is edited",
    )
    preview_full: BoolProperty(
        name="Sharp When Let Go",
        description="Paint the person at full resolution as soon as a joint is let go",
        default=True,
    )

    @property
    def candidate(self) -> WalkOnPerson | None:
        """The suggestion that is shown."""
        if 0 <= self.candidate_index < len(self.candidates):
            return self.candidates[self.candidate_index]
        return None

    @property
    def posed(self) -> WalkOnPerson | None:
        """The person whose pose the armature shows: a suggestion, somebody of the picture or a layer."""
        if self.rig_shows == "PERSON":
            return self.people[self.rig_person] if 0 <= self.rig_person < len(self.people) else None
        if self.rig_shows == "LAYER":
            return self.posed_layer.pose if self.posed_layer is not None else None
        return self.candidate

    @property
    def person(self) -> WalkOnPerson | None:
        """The person of the picture that is chosen in the list."""
        return self.people[self.person_index] if 0 <= self.person_index < len(self.people) else None

    @property
    def context(self) -> list[Skeleton]:
        """The people who count."""
        return [person.skeleton for person in self.people if person.enabled]


CLASSES = (WalkOnPose, WalkOnPerson, WalkOnBones)


def register() -> None:
    """Called by `properties`, before the scene's."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Armature.walkon_bones = PointerProperty(type=WalkOnBones)


def unregister() -> None:
    """Called by `properties`, after the scene's."""
    del bpy.types.Armature.walkon_bones
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
