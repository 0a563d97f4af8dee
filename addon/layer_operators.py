# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about layers do: paint one, paint it again, order it, anchor it, take it away."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import msgspec
from bpy.props import BoolProperty, EnumProperty, IntProperty

from . import layers, live_preview
from .jobs import Job, Kept, Quick
from .layer_properties import WalkOnVersion
from .painting import Painting
from .pose_operators import hide_posed, keep_edits, pose_mode, select_alone, show_posed
from .preferences import preferences
from .scene_picture import actor_picture, reader
from .shared.errors import BadInput
from .shared.messages import Insert, Inserted
from .shared.skeleton import Skeleton
from .worker import Session, Work


@dataclass(frozen=True, eq=False)
class _Painted:
    """What the worker brings back, and what it was painted from."""

    painting: Painting
    context: list[Skeleton]
    picture: str
    actor: str
    actor_person: int
    seed: int
    provenance: str
    warnings: str

    def record(self, version: WalkOnVersion) -> None:
        """Write down where a version came from."""
        version.actor, version.seed, version.provenance = self.actor, self.seed, self.provenance
        version.picture = bpy.data.images.get(self.picture)
        for person in self.context:
            version.people.add().skeleton = person


def _paint(
    picture: bpy.types.Image | None,
    skeleton: Skeleton,
    people: list[Skeleton],
    actor: str,
    actor_person: int,
    seed: int,
    shadow: float,
) -> Work:
    """The work of painting one person for a picture.

    Raises:
        BadInput: no picture, no joint, or an actor that cannot be read.
        BadImage: the actor's photo is none.
    """
    photo, read = actor_picture(actor), reader(picture)
    assert picture is not None  # says reader
    if not skeleton.visible.any():
        raise BadInput("All joints of the skeleton are hidden", "Show some (Alt+H in pose mode)", "skeleton")
    insert = Insert(
        skeleton=skeleton.to_openpose(),
        context=[person.to_openpose() for person in people],
        actor_person=actor_person,
        seed=seed,
        # The layer has a slider between this and the photo's own colors.
        color_strength=1.0,
        shadow=shadow,
        passes=True,
    )
    may_start, name = preferences().auto_start, picture.name

    def run(session: Session) -> _Painted:
        session.connect(may_start)
        scene = read()
        answer, (rgba, *passes) = session.ask(insert, Inserted, [scene, photo])
        painting = Painting.of(
            rgba,
            answer.x,
            answer.y,
            answer.scale,
            Skeleton.from_openpose(answer.skeleton),
            (scene.shape[1], scene.shape[0]),
            passes,
        )
        origin = {"seconds": answer.seconds, "versions": answer.versions, "weights": answer.weights}
        return _Painted(
            painting,
            people,
            name,
            actor,
            actor_person,
            seed,
            msgspec.json.encode(origin).decode(),
            " ".join(answer.warnings),
        )

    return run


class WALKON_OT_generate(Kept, Job):
    """Paint the actor in this pose and lay the person into the picture, as a layer"""

    bl_idname = "walkon.generate"
    bl_label = "Generate"
    bl_options = {"UNDO"}
    label = "Painting the person"

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        work = scene.walkon
        if work.candidate is None:
            raise BadInput("No place is suggested yet", "Press Suggest", "candidates")
        keep_edits(scene)
        return _paint(
            work.picture,
            work.candidate.edited.skeleton,
            # Everybody counts here: who is switched off for suggestions still stands in front or behind.
            [person.skeleton for person in work.people],
            work.actor,
            work.actor_person,
            work.seed,
            work.shadow,
        )

    def apply(self, scene: bpy.types.Scene, result: _Painted) -> str:
        """See Job."""
        live_preview.stop()  # the layer is what its card has shown
        layer = layers.add(scene, result.painting)
        layer.actor, layer.actor_person = result.actor, result.actor_person
        layer.color_match = scene.walkon.color_strength
        result.record(layer.version)
        hide_posed(scene, True)
        return f"{layer.title} is in the picture. {result.warnings}".strip()


class _OnLayer(Quick):
    """Operators on the layer that is chosen in the list."""

    needs = ("layer", "There is no layer; press Generate")


class WALKON_OT_regenerate(Kept, Job):
    """Paint this layer again, in its edited pose and where it now stands; earlier versions are kept"""

    bl_idname = "walkon.regenerate"
    bl_label = "Regenerate"
    bl_options = {"UNDO"}
    label = "Painting the person again"
    needs = _OnLayer.needs

    _layer = ""

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        work = scene.walkon
        layer = work.layer
        self._layer = layer.uuid
        version = layer.version
        shown = layers.shown_skeleton(scene, layer)
        if work.posed_layer == layer:
            keep_edits(scene)
            shown = layers.posed_skeleton(scene, layer)
        return _paint(
            version.picture,
            layers.skeleton_to_paint(scene, layer, shown),
            [person.skeleton for person in version.people],
            layer.actor,
            layer.actor_person,
            version.seed,
            work.shadow,
        )

    def apply(self, scene: bpy.types.Scene, result: _Painted) -> str:
        """See Job."""
        work = scene.walkon
        layer = next((layer for layer in work.layers if layer.uuid == self._layer), None)
        if layer is None:
            layer = layers.add(scene, result.painting)
            layer.actor, layer.actor_person = result.actor, result.actor_person
            said = f"The layer was removed meanwhile; the person is the new layer '{layer.title}'."
        else:
            if work.posed_layer == layer:
                live_preview.stop()  # the layer is what its card has shown
            layers.add_version(scene, layer, result.painting)
            said = f"{layer.title} is version {len(layer.versions)} now."
            if work.posed_layer == layer:
                layers.begin_pose(scene, layer)
                show_posed(scene)
                hide_posed(scene, True)
        result.record(layer.version)
        return f"{said} {result.warnings}".strip()


class WALKON_OT_pose_layer(_OnLayer):
    """Change this layer's pose: its skeleton appears where the person stands. Then press Regenerate"""

    bl_idname = "walkon.pose_layer"
    bl_label = "Edit Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        work, layer = scene.walkon, scene.walkon.layer
        layers.begin_pose(scene, layer)
        work.rig_shows, work.rig_layer = "LAYER", layer.uuid
        show_posed(scene)
        pose_mode(scene)


class WALKON_OT_select_layer(_OnLayer):
    """Select the layer's handle: then G moves the person, S scales, R turns, I sets keyframes"""

    bl_idname = "walkon.select_layer"
    bl_label = "Select Handle"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        handle = scene.walkon.layer.handle
        _in_view(handle)
        select_alone(handle)


def _in_view(handle: bpy.types.Object) -> None:
    if handle.name not in bpy.context.view_layer.objects:
        raise BadInput(
            f"The handle of '{handle.name}' was removed from the scene",
            "Press Bring Back in the layer's panel",
            "handle",
        )


class WALKON_OT_mend_layer(_OnLayer):
    """Bring back the handle or the compositor node that was removed"""

    bl_idname = "walkon.mend_layer"
    bl_label = "Bring Back"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.mend(scene, scene.walkon.layer)


class WALKON_OT_reset_layer(_OnLayer):
    """Back to the predicted place and size, opaque, with hard edges and matched colors"""

    bl_idname = "walkon.reset_layer"
    bl_label = "Reset Layer"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.reset(scene.walkon.layer)


class WALKON_OT_flip_layer(_OnLayer):
    """Mirror the layer left to right about the feet"""

    bl_idname = "walkon.flip_layer"
    bl_label = "Flip"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layer = scene.walkon.layer
        layer.flip = not layer.flip


class WALKON_OT_remove_layer(_OnLayer):
    """Take the layer out of the list, the camera view and the compositor"""

    bl_idname = "walkon.remove_layer"
    bl_label = "Remove Layer"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        work = scene.walkon
        posed = work.posed_layer == work.layer
        layers.remove(scene, work.layer_index)
        if posed:
            work.rig_shows = "CANDIDATE"
            show_posed(scene)


class WALKON_OT_duplicate_layer(_OnLayer):
    """Another layer like this one, in front of it"""

    bl_idname = "walkon.duplicate_layer"
    bl_label = "Duplicate Layer"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.duplicate(scene, scene.walkon.layer_index)


class WALKON_OT_move_layer(_OnLayer):
    """Bring the layer to the front, or farther back, by one"""

    bl_idname = "walkon.move_layer"
    bl_label = "Move Layer"
    step: IntProperty(name="Step", description="1 to the front, -1 to the back", default=1, min=-1, max=1)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.move(scene, scene.walkon.layer_index, self.step)


class WALKON_OT_occlude_layer(_OnLayer):
    """Let objects of the scene that are nearer than the person cover the layer, by the render's depth pass"""

    bl_idname = "walkon.occlude_layer"
    bl_label = "Behind Objects"
    on: BoolProperty(name="On", description="Whether objects cover the layer", default=True)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.set_occluded(scene, scene.walkon.layer, self.on)


class WALKON_OT_anchor_layer(_OnLayer):
    """Fix the layer to the screen, or to the place in the scene where the feet are"""

    bl_idname = "walkon.anchor_layer"
    bl_label = "Anchor"
    to: EnumProperty(
        name="To",
        description="What the layer stays with when the camera moves",
        items=(
            ("SCREEN", "Screen", "The layer stays where it is in the picture"),
            (
                "WORLD",
                "World",
                "A card in the scene, rendered with it: it moves in perspective, objects in front cover it",
            ),
        ),
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.set_world(scene, scene.walkon.layer, self.to == "WORLD")


class WALKON_OT_measure_distance(_OnLayer):
    """Find the distance at which the feet touch the scene"""

    bl_idname = "walkon.measure_distance"
    bl_label = "Stand on Ground"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layers.measure(scene, scene.walkon.layer)


class _OnVersions(_OnLayer):
    """Operators that need more than one version."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender calls this."""
        if not super().poll(context):
            return False
        if len(context.scene.walkon.layer.versions) < 2:
            cls.poll_message_set("The layer has only one version; press Regenerate for another")
            return False
        return True


class WALKON_OT_choose_version(_OnVersions):
    """Show the next or the previous version of this layer"""

    bl_idname = "walkon.choose_version"
    bl_label = "Next Version"
    step: IntProperty(name="Step", description="How many versions to go on or back", default=1)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layer = scene.walkon.layer
        layer.version_index = (layer.version_index + self.step) % len(layer.versions)


class WALKON_OT_compare_versions(_OnVersions):
    """Swap between this version and the one that was shown before"""

    bl_idname = "walkon.compare_versions"
    bl_label = "Compare"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layer = scene.walkon.layer
        if layer.compared_index == layer.version_index:
            layer.compared_index = (layer.version_index - 1) % len(layer.versions)
        layer.version_index = layer.compared_index


class WALKON_OT_remove_version(_OnVersions):
    """Forget this version of the layer"""

    bl_idname = "walkon.remove_version"
    bl_label = "Remove Version"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        layer = scene.walkon.layer
        layers.remove_version(scene, layer, layer.version_index)


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_OT_generate,
        WALKON_OT_regenerate,
        WALKON_OT_pose_layer,
        WALKON_OT_select_layer,
        WALKON_OT_mend_layer,
        WALKON_OT_reset_layer,
        WALKON_OT_flip_layer,
        WALKON_OT_remove_layer,
        WALKON_OT_duplicate_layer,
        WALKON_OT_move_layer,
        WALKON_OT_occlude_layer,
        WALKON_OT_anchor_layer,
        WALKON_OT_measure_distance,
        WALKON_OT_choose_version,
        WALKON_OT_compare_versions,
        WALKON_OT_remove_version,
    )
)
