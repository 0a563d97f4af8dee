# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons do. Thin: pictures, pose and layers have their own modules, waiting is the job engine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import msgspec
import numpy as np
from bpy.props import IntProperty, StringProperty

from . import jobs, layers, skeleton_rig
from .jobs import Job
from .preferences import preferences
from .scene_picture import PICTURE_NAME, actor_picture, make_image, pixels, scene_picture
from .shared.errors import BadInput, WalkOnError
from .shared.messages import Detect, Detected, Insert, Inserted, Place, Placed, Refine, Refined
from .shared.skeleton import Skeleton
from .worker import Session, Work


class WALKON_OT_start_server(Job):
    """Connect to the server, starting it where none runs"""

    bl_idname = "walkon.start_server"
    bl_label = "Start"
    label = "Starting the server"

    def work(self, _scene: bpy.types.Scene) -> Work:
        """See Job."""
        return lambda session: session.connect(may_start=True)

    def apply(self, _scene: bpy.types.Scene, _result: None) -> str:
        """See Job."""
        return "The server is ready"


class WALKON_OT_stop_server(Job):
    """Stop the server that Blender started; only disconnect from another"""

    bl_idname = "walkon.stop_server"
    bl_label = "Stop"
    label = "Stopping the server"

    def work(self, _scene: bpy.types.Scene) -> Work:
        """See Job."""
        return lambda session: session.stop()

    def apply(self, _scene: bpy.types.Scene, _result: None) -> str:
        """See Job."""
        return "The server is stopped"


class WALKON_OT_cancel(bpy.types.Operator):
    """Give up what runs"""

    bl_idname = "walkon.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Blender calls this."""
        return jobs.busy()

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        jobs.cancel()
        return {"FINISHED"}


class WALKON_OT_find_people(Job):
    """Find the people in the picture: those that the new person will stand among"""

    bl_idname = "walkon.find_people"
    bl_label = "Find People"
    bl_options = {"UNDO"}
    label = "Finding people"

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        picture, may_start = scene_picture(scene), preferences().auto_start

        def run(session: Session) -> tuple[np.ndarray, list[Skeleton]]:
            session.connect(may_start)
            answer, _ = session.ask(Detect(), Detected, [picture])
            return picture, [Skeleton.from_openpose(person) for person in answer.people]

        return run

    def apply(self, scene: bpy.types.Scene, result: tuple[np.ndarray, list[Skeleton]]) -> str:
        """See Job."""
        picture, people = result
        work = scene.walkon
        layers.adopt_picture_size(scene, (picture.shape[1], picture.shape[0]))
        work.picture = make_image(PICTURE_NAME, picture, over=work.picture)
        work.people.clear()
        for person in people:
            work.people.add().skeleton = person
        if not people:
            return "No people were found in the picture"
        return f"{len(people)} people found" if len(people) > 1 else "1 person found"


class WALKON_OT_suggest(Job):
    """Suggest where and how one more person would be among the people of the picture"""

    bl_idname = "walkon.suggest"
    bl_label = "Suggest"
    bl_options = {"UNDO"}
    label = "Suggesting places"

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
        width, height = work.picture_size
        context = [person.to_openpose() for person in work.context]
        actor = actor_picture(work.actor) if work.actor else None
        count, seed = work.count, work.seed

        def run(session: Session) -> list[tuple[float, Skeleton]]:
            session.connect(may_start)
            seen = None
            if actor is not None:
                # Poses that the photo can show come first; the largest person is the actor.
                detected, _ = session.ask(Detect(), Detected, [actor], span=(0.0, 0.3))
                seen = detected.people[0] if detected.people else None
            place = Place(context, width, height, count=count, seed=seed, actor=seen)
            answer, _ = session.ask(place, Placed, span=(0.3, 0.6))
            found = []
            for index, candidate in enumerate(answer.candidates):
                done = 0.6 + 0.4 * index / len(answer.candidates)
                refined, _ = session.ask(Refine(candidate.skeleton), Refined, span=(done, done))
                found.append((candidate.score, Skeleton.from_openpose(refined.skeleton)))
            return found

        return run

    def apply(self, scene: bpy.types.Scene, result: list[tuple[float, Skeleton]]) -> str:
        """See Job."""
        work = scene.walkon
        work.candidates.clear()
        for score, skeleton in result:
            candidate = work.candidates.add()
            candidate.suggested.skeleton = candidate.edited.skeleton = skeleton
            candidate.suggested.score = score
        show_candidate(scene, 0)
        return f"{len(result)} places suggested" if len(result) > 1 else "1 place suggested"


def show_candidate(scene: bpy.types.Scene, index: int) -> None:
    """Show that suggestion as the armature."""
    work = scene.walkon
    work.candidate_index = index
    candidate = work.candidate
    if candidate is not None:
        skeleton_rig.build(scene, candidate.suggested.skeleton, candidate.edited.skeleton)


def keep_edits(scene: bpy.types.Scene) -> None:
    """Take the armature's pose over into the suggestion that it shows."""
    work = scene.walkon
    if work.candidate is not None and work.rig is not None:
        work.candidate.edited.skeleton = skeleton_rig.read(work.rig, work.candidate.edited.skeleton)


class _Quick(bpy.types.Operator):
    """What operators that need no server share: errors go to the panel and to the caller."""

    bl_options = {"UNDO"}

    def do(self, scene: bpy.types.Scene) -> None:
        """What the operator does.

        Raises:
            WalkOnError: for the panel.
        """
        raise NotImplementedError

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        if jobs.busy():
            cls.poll_message_set("Walk-On is busy; wait or cancel")
            return False
        return context.scene is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        jobs.clear_error()
        try:
            self.do(context.scene)
        except WalkOnError as error:
            jobs.show_error(error)
            # In a window a report of type ERROR opens a popup; the panel has said it already.
            self.report({"ERROR" if bpy.app.background else "WARNING"}, str(error))
            return {"CANCELLED"}
        jobs.redraw()
        return {"FINISHED"}


class _OnCandidate(_Quick):
    """Operators on the suggestion that is shown."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        if not super().poll(context):
            return False
        if context.scene.walkon.candidate is None:
            cls.poll_message_set("Nothing is suggested yet; press Suggest")
            return False
        return True


class WALKON_OT_choose_candidate(_OnCandidate):
    """Show the next or the previous suggestion; what was edited is kept"""

    bl_idname = "walkon.choose_candidate"
    bl_label = "Next Suggestion"
    step: IntProperty(name="Step", description="How many suggestions to go on or back", default=1)

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        keep_edits(scene)
        work = scene.walkon
        show_candidate(scene, (work.candidate_index + self.step) % len(work.candidates))


class WALKON_OT_edit_pose(_OnCandidate):
    """Pose mode on the skeleton: G moves a joint, R turns it with what follows, H hides it"""

    bl_idname = "walkon.edit_pose"
    bl_label = "Edit Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        active = bpy.context.view_layer.objects.active
        if active is not None and active.mode != "OBJECT":
            bpy.ops.object.mode_set(mode="OBJECT")
        if scene.walkon.rig is None:
            show_candidate(scene, scene.walkon.candidate_index)
        rig = scene.walkon.rig
        for thing in bpy.context.selected_objects:
            thing.select_set(False)
        rig.select_set(True)
        bpy.context.view_layer.objects.active = rig
        bpy.ops.object.mode_set(mode="POSE")


class WALKON_OT_reset_pose(_OnCandidate):
    """Back to the pose as it was suggested"""

    bl_idname = "walkon.reset_pose"
    bl_label = "Reset Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        candidate = scene.walkon.candidate
        candidate.edited.skeleton = candidate.suggested.skeleton
        show_candidate(scene, scene.walkon.candidate_index)


class WALKON_OT_mirror_pose(_OnCandidate):
    """Turn the pose left to right on the spot"""

    bl_idname = "walkon.mirror_pose"
    bl_label = "Mirror Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        keep_edits(scene)
        person = scene.walkon.candidate.edited
        x0, _, x1, _ = person.skeleton.box
        person.skeleton = person.skeleton.mirrored(float(x0 + x1))
        show_candidate(scene, scene.walkon.candidate_index)


class WALKON_OT_generate(Job):
    """Paint the actor in this pose and lay the person into the picture, as a layer"""

    bl_idname = "walkon.generate"
    bl_label = "Generate"
    bl_options = {"UNDO"}
    label = "Painting the person"

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        work, may_start = scene.walkon, preferences().auto_start
        if work.candidate is None:
            raise BadInput("No place is suggested yet", "Press Suggest", "candidates")
        actor = actor_picture(work.actor)
        if work.picture is None:
            raise BadInput("The picture that was sent is gone", "Press Find People", "people")
        keep_edits(scene)
        skeleton = work.candidate.edited.skeleton
        if not skeleton.visible.any():
            raise BadInput(
                "All joints of the skeleton are hidden", "Show some (Alt+H in pose mode)", "skeleton"
            )
        picture = pixels(work.picture)[..., :3]
        insert = Insert(
            skeleton=skeleton.to_openpose(),
            # Everybody counts here: who is switched off for suggestions still stands in front or behind.
            context=[person.skeleton.to_openpose() for person in work.people],
            seed=work.seed,
            color_strength=work.color_strength,
        )

        def run(session: Session) -> Any:
            session.connect(may_start)
            return session.ask(insert, Inserted, [picture, actor])

        return run

    def apply(self, scene: bpy.types.Scene, result: Any) -> str:
        """See Job."""
        answer, (rgba,) = result
        work = scene.walkon
        layer = layers.add(
            scene, rgba, answer.x, answer.y, answer.scale, Skeleton.from_openpose(answer.skeleton)
        )
        layer.actor, layer.seed = work.actor, work.seed
        origin = {"seconds": answer.seconds, "versions": answer.versions, "weights": answer.weights}
        layer.provenance = msgspec.json.encode(origin).decode()
        said = " ".join(answer.warnings)
        return f"{layer.title} is in the picture. {said}".strip()


class WALKON_OT_choose_actor(bpy.types.Operator):
    """Choose a photo of the person to put into the picture"""

    bl_idname = "walkon.choose_actor"
    bl_label = "Choose Actor Photo"
    bl_options = {"UNDO"}
    filepath: StringProperty(subtype="FILE_PATH")
    filter_glob: StringProperty(default="*.jpg;*.jpeg;*.png;*.tif;*.tiff;*.webp;*.bmp", options={"HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        jobs.clear_error()
        context.scene.walkon.actor = self.filepath
        return {"FINISHED"}

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Blender calls this."""
        if context.scene.walkon.actor:
            self.filepath = str(Path(bpy.path.abspath(context.scene.walkon.actor)))
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class WALKON_OT_preferences(bpy.types.Operator):
    """Say where the server is"""

    bl_idname = "walkon.preferences"
    bl_label = "Open Preferences"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        bpy.ops.screen.userpref_show()
        bpy.ops.preferences.addon_show(module=__package__)
        return {"FINISHED"}


class _OnLayer(_Quick):
    """Operators on the layer that is chosen in the list."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        if not super().poll(context):
            return False
        if context.scene.walkon.layer is None:
            cls.poll_message_set("There is no layer; press Generate")
            return False
        return True


class WALKON_OT_reset_layer(_OnLayer):
    """Back to the predicted place and size"""

    bl_idname = "walkon.reset_layer"
    bl_label = "Reset Layer"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        layers.reset(scene.walkon.layer)


class WALKON_OT_remove_layer(_OnLayer):
    """Take the layer out of the list, the camera view and the compositor"""

    bl_idname = "walkon.remove_layer"
    bl_label = "Remove Layer"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        layers.remove(scene, scene.walkon.layer_index)


class WALKON_OT_clear_suggestions(_OnCandidate):
    """Take the suggestions and their skeleton out of the file"""

    bl_idname = "walkon.clear_suggestions"
    bl_label = "Clear Suggestions"

    def do(self, scene: bpy.types.Scene) -> None:
        """See _Quick."""
        work = scene.walkon
        skeleton_rig.remove(scene)
        work.candidates.clear()
        work.candidate_index = -1


_CLASSES = (
    WALKON_OT_start_server,
    WALKON_OT_stop_server,
    WALKON_OT_cancel,
    WALKON_OT_find_people,
    WALKON_OT_suggest,
    WALKON_OT_choose_candidate,
    WALKON_OT_edit_pose,
    WALKON_OT_reset_pose,
    WALKON_OT_mirror_pose,
    WALKON_OT_clear_suggestions,
    WALKON_OT_generate,
    WALKON_OT_choose_actor,
    WALKON_OT_preferences,
    WALKON_OT_reset_layer,
    WALKON_OT_remove_layer,
)


def register() -> None:
    """Called by the package."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Called by the package."""
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
