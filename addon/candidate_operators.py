# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about suggestions do: ask for them, go through them, keep some, say where they may be."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty

from . import overlay, place_box, skeleton_rig
from .jobs import Job, Quick
from .pose_operators import OnCandidate, keep_edits, show_candidate
from .preferences import preferences
from .scene_picture import actor_picture, reader
from .shared.errors import BadInput
from .shared.messages import Detect, Detected, Place, Placed, Refine, Refined
from .shared.skeleton import BODY_JOINTS, Skeleton
from .worker import Session, Work


@dataclass(frozen=True)
class _Suggestion:
    skeleton: Skeleton
    score: float
    warning: str


class WALKON_OT_suggest(Job):
    """Suggest where and how one more person would be among the people of the picture. Pinned suggestions stay"""

    bl_idname = "walkon.suggest"
    bl_label = "Suggest"
    bl_options = {"UNDO"}
    label = "Suggesting places"
    like: BoolProperty(
        name="More Like This",
        description="Suggest places and poses that resemble the suggestion that is shown",
        default=False,
        options={"SKIP_SAVE"},
    )

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        work, may_start = scene.walkon, preferences().auto_start
        if not work.people:
            raise BadInput(
                "No people are known in the picture",
                "Press Find People; placement goes by the people",
                "people",
            )
        if not work.context:
            raise BadInput(
                "All people are switched off", "Switch at least one on in the list of people", "context"
            )
        keep_edits(scene)
        like = None
        if self.like:
            if work.candidate is None:
                raise BadInput("No place is suggested yet", "Press Suggest", "candidates")
            like = work.candidate.skeleton
        width, height = work.picture_size
        where = place_box.where(scene, like)
        context = [person.to_openpose() for person in work.context]
        actor = actor_picture(work.actor) if work.actor else None
        count, seed, chosen = work.count, work.seed, work.actor_person
        read = None if work.picture is None else reader(work.picture)

        def run(session: Session) -> list[_Suggestion]:
            session.connect(may_start)
            seen = None
            if actor is not None:
                # Poses that the photo can show come first.
                detected, _ = session.ask(Detect(), Detected, [actor], span=(0.0, 0.3))
                seen = detected.people[min(chosen, len(detected.people) - 1)] if detected.people else None
            place = Place(context, width, height, count=count, seed=seed, where=where, actor=seen)
            # Feet keep to what looks like the ground; a picture that one of another size has replaced tells nothing.
            pixels = None if read is None else read()
            picture = [] if pixels is None or pixels.shape[:2] != (height, width) else [pixels]
            answer, _ = session.ask(place, Placed, picture, span=(0.3, 0.6))
            # A body that was fitted to the photo has the photo's own proportions.
            kept = [] if seen is None or where.posed else list(BODY_JOINTS)
            found = []
            for index, candidate in enumerate(answer.candidates):
                done = 0.6 + 0.4 * index / len(answer.candidates)
                refined, _ = session.ask(Refine(candidate.skeleton, kept), Refined, span=(done, done))
                skeleton = Skeleton.from_openpose(refined.skeleton)
                found.append(_Suggestion(skeleton, candidate.score, candidate.warning))
            return found

        return run

    def apply(self, scene: bpy.types.Scene, result: list[_Suggestion]) -> str:
        """See Job."""
        work = scene.walkon
        keep_edits(scene)
        if self.like and work.candidate is not None:
            work.candidate.pinned = True  # what others shall resemble stays at hand
        for index in reversed(range(len(work.candidates))):
            if not work.candidates[index].pinned:
                work.candidates.remove(index)
        first = len(work.candidates)
        for suggestion in result:
            candidate = work.candidates.add()
            candidate.skeleton = suggestion.skeleton
            candidate.suggested.score = suggestion.score
            candidate.warning = suggestion.warning
        show_candidate(scene, first)
        return f"{len(result)} places suggested" if len(result) > 1 else "1 place suggested"


class WALKON_OT_choose_candidate(OnCandidate):
    """Show this suggestion; what was edited is kept"""

    bl_idname = "walkon.choose_candidate"
    bl_label = "Choose Suggestion"
    step: IntProperty(name="Step", description="How many suggestions to go on or back", default=1)
    index: IntProperty(
        name="Index",
        description="Which suggestion, counted from 0; -1 goes on from the one that is shown",
        default=-1,
        min=-1,
        options={"SKIP_SAVE"},
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        work = scene.walkon
        count = len(work.candidates)
        if self.index >= count:
            raise BadInput(f"There are only {count} suggestions", "Choose one of them", "index")
        show_candidate(scene, self.index if self.index >= 0 else (work.candidate_index + self.step) % count)


class WALKON_OT_pin_candidate(OnCandidate):
    """Keep this suggestion when others are asked for, or let it go"""

    bl_idname = "walkon.pin_candidate"
    bl_label = "Pin Suggestion"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        candidate = scene.walkon.candidate
        candidate.pinned = not candidate.pinned
        overlay.refresh()


class WALKON_OT_remove_candidate(OnCandidate):
    """Take this suggestion out of the list"""

    bl_idname = "walkon.remove_candidate"
    bl_label = "Remove Suggestion"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        work = scene.walkon
        work.candidates.remove(work.candidate_index)
        if work.candidates:
            show_candidate(scene, min(work.candidate_index, len(work.candidates) - 1))
        else:
            clear(scene)


class WALKON_OT_clear_suggestions(OnCandidate):
    """Take the suggestions and their skeleton out of the file"""

    bl_idname = "walkon.clear_suggestions"
    bl_label = "Clear Suggestions"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        clear(scene)


def clear(scene: bpy.types.Scene) -> None:
    """No suggestion and no armature any more."""
    work = scene.walkon
    skeleton_rig.remove(scene)
    work.candidates.clear()
    work.candidate_index = -1
    overlay.refresh()


class WALKON_OT_new_box(Quick):
    """A box over the camera view for the feet, in place of the render region (Ctrl+B) if there is one"""

    bl_idname = "walkon.new_box"
    bl_label = "New Box"
    left: FloatProperty(name="Left", description="Pixels from the picture's left edge", default=-1.0)
    top: FloatProperty(name="Top", description="Pixels from the picture's top edge", default=-1.0)
    right: FloatProperty(name="Right", description="Pixels from the picture's left edge", default=-1.0)
    bottom: FloatProperty(name="Bottom", description="Pixels from the picture's top edge", default=-1.0)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        work = scene.walkon
        width, height = work.picture_size
        if not width:
            raise BadInput("There is no picture yet", "Press Find People", "people")
        if self.right > self.left and self.bottom > self.top:
            box = self.left, self.top, self.right, self.bottom
        elif (drawn := place_box.render_border(scene)) is not None:
            box = drawn
            scene.render.use_border = False  # the artist wants a place, not a crop
        else:
            box = 0.35 * width, 0.6 * height, 0.65 * width, 0.95 * height
        place_box.make_box(scene, box)
        work.place = "BOX"
        overlay.refresh()


class WALKON_OT_remove_box(Quick):
    """Take the box out of the file"""

    bl_idname = "walkon.remove_box"
    bl_label = "Remove Box"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        place_box.remove_box(scene)
        scene.walkon.place = "ANY"
        overlay.refresh()


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_OT_suggest,
        WALKON_OT_choose_candidate,
        WALKON_OT_pin_candidate,
        WALKON_OT_remove_candidate,
        WALKON_OT_clear_suggestions,
        WALKON_OT_new_box,
        WALKON_OT_remove_box,
    )
)
