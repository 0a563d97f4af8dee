# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about the people of the picture do: find them, add, correct and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from bpy.props import FloatProperty

from . import armatures, backdrop, layers, overlay, place_box
from .jobs import Job, Quick
from .painting import png
from .pose_operators import keep_edits, pose_mode, show_posed
from .pose_properties import WalkOnPerson
from .posing import same_person, standing
from .preferences import preferences
from .scene_picture import scene_picture
from .shared.messages import Detect, Detected
from .shared.skeleton import Skeleton
from .worker import Session, Work

_STILL = 2.0  # pixels: a person found again as near as this stands where he stood


@dataclass
class _Kept:
    """A person of the list, outside of Blender's data."""

    source: str
    suggested: Skeleton
    edited: Skeleton
    enabled: bool = True
    armature: bpy.types.Object | None = None
    title: str = ""

    @classmethod
    def of(cls, person: WalkOnPerson) -> _Kept:
        return cls(
            person.source,
            person.suggested.skeleton,
            person.edited.skeleton,
            person.enabled,
            person.armature,
            person.title,
        )


class WALKON_OT_composite_picture(Quick):
    """Lay the render over the picture in the compositor, so that the render has the picture as its background"""

    bl_idname = "walkon.composite_picture"
    bl_label = "Render over Picture"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        backdrop.composite(scene)


class WALKON_OT_find_people(Job):
    """Find the people in the picture, and the characters: those that the new person will stand among"""

    bl_idname = "walkon.find_people"
    bl_label = "Find People"
    bl_options = {"UNDO"}
    label = "Finding people"

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        picture, may_start = scene_picture(scene), preferences().auto_start
        if scene.walkon.use_armatures:
            # Its errors come before the waiting.
            armatures.people(scene, picture.size)

        def run(session: Session) -> tuple[tuple[int, int], bytes, list[Skeleton]]:
            session.connect(may_start)
            pixels = picture.read()
            answer, _ = session.ask(Detect(), Detected, [pixels])
            people = [Skeleton.from_openpose(person) for person in answer.people]
            return picture.size, png(pixels), people

        return run

    def apply(self, scene: bpy.types.Scene, result: tuple[tuple[int, int], bytes, list[Skeleton]]) -> str:
        """See Job."""
        size, file, found = result
        work = scene.walkon
        adopt_picture_size(scene, size)
        layers.adopt_picture(scene, file)
        backdrop.show(scene)
        backdrop.follow(scene)
        fill(scene, found)
        count = len(work.people)
        if not count:
            return "No people were found in the picture"
        seen = sum(person.source == "ARMATURE" for person in work.people)
        also = f", {seen} of them by their armatures" if seen else ""
        return (f"{count} people found" if count > 1 else "1 person found") + also


def fill(scene: bpy.types.Scene, found: Sequence[Skeleton] | None = None) -> None:
    """Make the list of people anew: those found, the characters seen now, those added by hand.

    A person who stands where he stood keeps what the artist did: switched off, corrected. A character found in
    the pixels too is one person, whose joints are those of the armature.

    Args:
        found (`list[Skeleton]`, *optional*): from the pixels; those of the list stay where None.
    """
    work = scene.walkon
    keep_edits(scene)
    before = [_Kept.of(person) for person in work.people]
    people = [_Kept("PIXELS", person, person) for person in found or ()]
    if found is None:
        people = [person for person in before if person.source == "PIXELS"]
    if work.use_armatures:
        for armature, skeleton in armatures.people(scene, tuple(work.picture_size)):
            people = [person for person in people if not same_person(person.suggested, skeleton)]
            people.append(_Kept("ARMATURE", skeleton, skeleton, armature=armature, title=armature.name))
    for person in people:
        for old in before:
            if old.armature == person.armature and _stays(old.suggested, person.suggested):
                person.enabled, person.edited, person.title = old.enabled, old.edited, old.title
    people += [person for person in before if person.source == "HAND"]
    _stop_correcting(scene)
    work.people.clear()
    for number, kept in enumerate(people, 1):
        person = work.people.add()
        person.source, person.enabled, person.armature = kept.source, kept.enabled, kept.armature
        person.suggested.skeleton, person.edited.skeleton = kept.suggested, kept.edited
        person.title = kept.title or f"Person {number}"
    work.person_index = min(work.person_index, max(0, len(work.people) - 1))
    overlay.refresh()


def _stays(old: Skeleton, new: Skeleton) -> bool:
    both = old.visible & new.visible
    return bool(both.any()) and bool(np.abs(old.xy[both] - new.xy[both]).max() < _STILL)


def adopt_picture_size(scene: bpy.types.Scene, size: tuple[int, int]) -> None:
    """All coordinates of the scene now refer to a picture of this size; everything keeps its place in it."""
    work = scene.walkon
    old = tuple(work.picture_size)
    if old != size and 0 not in old:
        keep_edits(scene)
        grow = np.divide(size, old)
        layers_pose = [work.posed] if work.posed_layer is not None else []
        for person in (*work.people, *work.candidates, *layers_pose):
            for pose in (person.suggested, person.edited):
                pose.skeleton = layers.resized(pose.skeleton, old, size)
        work.height *= grow[1]
        box = place_box.box_of(scene)
        layers.adopt_picture_size(scene, size)
        if box is not None:
            place_box.make_box(scene, tuple(np.multiply(box, np.tile(grow, 2)).tolist()))
        if work.rig is not None:
            show_posed(scene)
    else:
        layers.adopt_picture_size(scene, size)


def _stop_correcting(scene: bpy.types.Scene) -> None:
    """The armature shows a suggestion again, or is gone: the list of people is about to change."""
    work = scene.walkon
    if work.rig_shows == "PERSON":
        work.rig_shows, work.rig_person = "CANDIDATE", -1
        show_posed(scene)


def _need_size(scene: bpy.types.Scene) -> None:
    """Without a picture yet the camera's render size is what pixels refer to."""
    if 0 in tuple(scene.walkon.picture_size):
        render = scene.render
        part = render.resolution_percentage
        layers.adopt_picture_size(
            scene, (max(1, render.resolution_x * part // 100), max(1, render.resolution_y * part // 100))
        )


class WALKON_OT_read_characters(Quick):
    """Read the characters' armatures as they stand in this frame, without looking for people in the pixels again"""

    bl_idname = "walkon.read_characters"
    bl_label = "Read Characters"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        _need_size(scene)
        fill(scene)


class WALKON_OT_add_person(Quick):
    """Add a standing person to those of the picture, to be posed by hand; for people that were not found"""

    bl_idname = "walkon.add_person"
    bl_label = "Add Person by Hand"
    x: FloatProperty(name="X", description="Where the feet stand, pixels from the left edge", default=-1.0)
    y: FloatProperty(name="Y", description="Where the feet stand, pixels from the top edge", default=-1.0)
    height: FloatProperty(
        name="Height", description="Pixels from nose to feet; 0: like the others", default=0.0, min=0.0
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        _need_size(scene)
        keep_edits(scene)
        work = scene.walkon
        others = [person.skeleton for person in work.people if person.skeleton.visible.sum() > 8]
        width, height = work.picture_size
        tall = self.height or (np.median([other.height for other in others]) if others else 0.6 * height)
        x = self.x if self.x >= 0 else width / 2
        y = self.y if self.y >= 0 else (np.median([o.box[3] for o in others]) if others else 0.85 * height)
        person = work.people.add()
        person.source, person.title = "HAND", f"Person {len(work.people)}"
        person.skeleton = standing((float(x), float(y)), float(tall))
        work.person_index = len(work.people) - 1
        _correct(scene)


class _OnPerson(Quick):
    """Operators on the person that is chosen in the list."""

    needs = ("person", "No person is chosen; press Find People or add one by hand")


class WALKON_OT_correct_person(_OnPerson):
    """Correct the joints of the chosen person of the picture; Edit Pose goes back to the suggestion"""

    bl_idname = "walkon.correct_person"
    bl_label = "Correct Person"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        _correct(scene)


def _correct(scene: bpy.types.Scene) -> None:
    work = scene.walkon
    work.rig_shows, work.rig_person = "PERSON", work.person_index
    show_posed(scene)
    pose_mode(scene)


class WALKON_OT_remove_person(_OnPerson):
    """Take the chosen person out of the list; the picture stays as it is"""

    bl_idname = "walkon.remove_person"
    bl_label = "Remove Person"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        _stop_correcting(scene)
        work = scene.walkon
        work.people.remove(work.person_index)
        work.person_index = max(0, min(work.person_index, len(work.people) - 1))
        overlay.refresh()


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_OT_composite_picture,
        WALKON_OT_find_people,
        WALKON_OT_read_characters,
        WALKON_OT_add_person,
        WALKON_OT_correct_person,
        WALKON_OT_remove_person,
    )
)
