# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about the actor do."""

from __future__ import annotations

import shutil
from pathlib import Path

import bpy
from bpy.props import IntProperty, StringProperty

from . import actors, jobs, portrait
from .jobs import Job, Quick
from .portrait import Look
from .preferences import preferences
from .scene_picture import actor_picture
from .shared.errors import BadInput, NoActor
from .shared.messages import Analyse, Analysed, Detect, Detected
from .shared.skeleton import Skeleton
from .worker import Session, Work


class WALKON_OT_choose_actor(bpy.types.Operator):
    """Choose a photo of the person to put into the picture"""

    bl_idname = "walkon.choose_actor"
    bl_label = "Choose Actor Photo"
    bl_options = {"UNDO"}
    filepath: StringProperty(
        name="Photo", description="Photo of the person, best from head to feet", subtype="FILE_PATH"
    )
    filter_glob: StringProperty(
        name="Filter",
        description="The kinds of files that are listed",
        default=";".join(f"*{suffix}" for suffix in sorted(actors.SUFFIXES)),
        options={"HIDDEN"},
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender calls this."""
        jobs.clear_error()
        context.scene.walkon.actor = self.filepath
        return {"FINISHED"}

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Blender calls this."""
        actor = context.scene.walkon.actor
        self.filepath = str(Path(bpy.path.abspath(actor))) if actor else f"{actors.folder()}/"
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class WALKON_OT_look_at_actor(Job):
    """Show whom the server finds in the actor photo and what it cuts out; choose one where there are several"""

    bl_idname = "walkon.look_at_actor"
    bl_label = "Look at Photo"
    label = "Looking at the photo"
    person: IntProperty(name="Person", description="Which person to take; 0 is the largest", default=0, min=0)

    _path = ""

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        self._path, person, may_start = scene.walkon.actor, self.person, preferences().auto_start
        photo = actor_picture(self._path)

        def run(session: Session) -> Look:
            session.connect(may_start)
            detected, _ = session.ask(Detect(), Detected, [photo], span=(0.0, 0.3))
            people = [Skeleton.from_openpose(found) for found in detected.people]
            if not people:
                raise NoActor("Nobody was found in the photo", "Choose a photo that shows a person", "actor")
            taken = min(person, len(people) - 1)
            analysed, (matte,) = session.ask(Analyse(taken), Analysed, [photo], span=(0.3, 1.0))
            return Look(people, taken, analysed.warnings, portrait.draw(photo, matte, people, taken))

        return run

    def apply(self, scene: bpy.types.Scene, result: Look) -> str:
        """See Job."""
        actors.keep(self._path, result)
        scene.walkon.actor_person = result.person
        count = len(result.people)
        found = f"person {result.person + 1} of {count} is taken" if count > 1 else "1 person found"
        return " ".join([f"In the photo: {found}.", *result.warnings])


class WALKON_OT_add_actor(Quick):
    """Copy the chosen photo into the library of actors"""

    bl_idname = "walkon.add_actor"
    bl_label = "Add to Library"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        photo = Path(bpy.path.abspath(scene.walkon.actor))
        if not scene.walkon.actor or not photo.is_file():
            raise BadInput("No actor photo is chosen", "Choose a photo first", "actor")
        kept = actors.folder() / photo.name
        if kept.exists():
            raise BadInput(f"The library has a photo {photo.name} already", "Rename one of them", "library")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo, kept)
        except OSError as error:
            raise BadInput(
                f"{photo.name} cannot be copied to {kept.parent} ({error.strerror})",
                "Choose a folder that can be written in the add-on's preferences",
                "server",
            ) from error
        scene.walkon.actor, scene.walkon.actor_person = str(kept), scene.walkon.actor_person


register, unregister = bpy.utils.register_classes_factory(
    (WALKON_OT_choose_actor, WALKON_OT_look_at_actor, WALKON_OT_add_actor)
)
