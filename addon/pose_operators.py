# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons about a pose do. They work on whoever the armature shows: a suggestion, or a corrected person."""

from __future__ import annotations

from collections.abc import Callable
from math import radians
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, StringProperty

from . import overlay, posing, skeleton_rig
from .jobs import Job, Quick
from .pose_properties import JOINT_ITEMS
from .preferences import preferences
from .shared.errors import BadInput
from .shared.messages import Refine, Refined
from .shared.skeleton import JOINTS, NUM_JOINTS, Skeleton, people_from_json, people_to_json
from .worker import Session, Work


def keep_edits(scene: bpy.types.Scene) -> None:
    """Take the armature's pose over into the suggestion, or the person, that it shows."""
    work = scene.walkon
    if work.posed is not None and work.rig is not None:
        work.posed.edited.skeleton = skeleton_rig.read(work.rig, work.posed.edited.skeleton)


def show_posed(scene: bpy.types.Scene) -> None:
    """Make the armature anew for whoever it has to show; take it away where there is nobody."""
    work = scene.walkon
    posing_now = work.rig is not None and work.rig.mode == "POSE"
    if work.posed is None:
        skeleton_rig.remove(scene)
    else:
        skeleton_rig.build(scene, work.posed.suggested.skeleton, work.posed.edited.skeleton)
        if posing_now:
            pose_mode(scene)
    overlay.refresh()


def show_candidate(scene: bpy.types.Scene, index: int) -> None:
    """Show that suggestion as the armature."""
    work = scene.walkon
    work.candidate_index = index
    work.rig_shows, work.rig_person = "CANDIDATE", -1
    show_posed(scene)


def hide_posed(scene: bpy.types.Scene, hide: bool) -> None:
    """Put the armature out of sight, and out of pose mode, where a finished layer is to be looked at; or show it."""
    rig = scene.walkon.rig
    if rig is None:
        return
    if hide and rig.mode == "POSE" and bpy.context.view_layer.objects.active == rig:
        bpy.ops.object.mode_set(mode="OBJECT")
    hide_in_view(scene, rig, hide)
    overlay.refresh()


def hide_in_view(scene: bpy.types.Scene, thing: bpy.types.Object, hide: bool) -> bool:
    """What the eye in the outliner does; whether anything changed."""
    changed = False
    for view_layer in scene.view_layers:
        if view_layer.objects.get(thing.name) == thing and thing.hide_get(view_layer=view_layer) != hide:
            thing.hide_set(hide, view_layer=view_layer)
            changed = True
    return changed


def set_pose(scene: bpy.types.Scene, skeleton: Skeleton) -> None:
    """Give whoever the armature shows that pose."""
    work = scene.walkon
    work.posed.edited.skeleton = skeleton
    if work.rig is None:
        show_posed(scene)
    else:
        hide_posed(scene, False)
        skeleton_rig.write(work.rig, skeleton)
        bpy.context.view_layer.update()


def pose_mode(scene: bpy.types.Scene) -> None:
    """Pose mode on the armature, nothing else selected."""
    select_alone(scene.walkon.rig)
    bpy.ops.object.mode_set(mode="POSE")


def select_alone(thing: bpy.types.Object) -> None:
    """Object mode, that object active and nothing else selected."""
    active = bpy.context.view_layer.objects.active
    if active is not None and active.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    for other in bpy.context.selected_objects:
        other.select_set(False)
    thing.hide_set(False)
    thing.select_set(True)
    bpy.context.view_layer.objects.active = thing


def _seen_pose(scene: bpy.types.Scene) -> Skeleton:
    """The pose as it is now, of which something has to be seen."""
    keep_edits(scene)
    skeleton: Skeleton = scene.walkon.posed.edited.skeleton
    if not skeleton.visible.any():
        raise BadInput("All joints of the skeleton are hidden", "Press Show All Joints, or Alt+H", "skeleton")
    return skeleton


class OnCandidate(Quick):
    """Base of operators on the suggestion that is shown."""

    needs = ("candidate", "Nothing is suggested yet; press Suggest")


class OnPosed(Quick):
    """Base of operators on whoever the armature shows."""

    needs = ("posed", "Nobody is being posed; press Suggest, or correct a person")

    def change(self, scene: bpy.types.Scene, how: Callable[[Skeleton], Skeleton]) -> None:
        """Replace the pose as it is now by what `how` makes of it."""
        set_pose(scene, how(_seen_pose(scene)))


class WALKON_OT_edit_pose(OnCandidate):
    """Pose mode on the suggestion's skeleton: G moves a joint, R turns it with what follows, H hides it"""

    bl_idname = "walkon.edit_pose"
    bl_label = "Edit Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        work = scene.walkon
        if work.rig is None or work.rig_shows != "CANDIDATE":
            keep_edits(scene)
            show_candidate(scene, work.candidate_index)
        pose_mode(scene)


class WALKON_OT_reset_pose(OnPosed):
    """Back to the pose as it was suggested or found"""

    bl_idname = "walkon.reset_pose"
    bl_label = "Reset Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        posed = scene.walkon.posed
        posed.edited.skeleton = posed.suggested.skeleton
        show_posed(scene)  # also brings back bones that were removed


class WALKON_OT_mirror_pose(OnPosed):
    """Mirror the pose left to right, on the spot"""

    bl_idname = "walkon.mirror_pose"
    bl_label = "Mirror Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        self.change(scene, posing.mirror)


class WALKON_OT_turn_round(OnPosed):
    """The same outline seen from the other side: who faces the camera turns the back to it, and the reverse"""

    bl_idname = "walkon.turn_round"
    bl_label = "Turn Round"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        self.change(scene, posing.turn_round)


class WALKON_OT_resize_pose(OnPosed):
    """Make the person larger or smaller, the feet staying where they are"""

    bl_idname = "walkon.resize_pose"
    bl_label = "Resize"
    factor: FloatProperty(name="Factor", description="Above 1 is larger", default=1.05, min=0.05, max=20.0)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        self.change(scene, lambda skeleton: posing.resized(skeleton, self.factor))


class WALKON_OT_turn_joint(OnPosed):
    """Turn what hangs on a joint about it, the limbs' lengths kept"""

    bl_idname = "walkon.turn_joint"
    bl_label = "Turn Joint"
    joint: EnumProperty(
        name="Joint",
        description="The joint about which is turned",
        items=JOINT_ITEMS,
    )
    degrees: FloatProperty(name="Degrees", description="Clockwise as seen", default=10.0)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        joint, angle = JOINTS.index(self.joint), radians(self.degrees)
        self.change(scene, lambda skeleton: posing.turn(skeleton, joint, angle))


class WALKON_OT_turn_head(OnPosed):
    """Turn the head in space: the actor is painted looking that way, as far as the photo shows it"""

    bl_idname = "walkon.turn_head"
    bl_label = "Turn Head"
    left: FloatProperty(name="Left", description="Degrees to the person's own left", default=0.0)
    down: FloatProperty(name="Down", description="Degrees downwards; at most 60 in all", default=0.0)

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        left, down = radians(self.left), radians(self.down)
        self.change(scene, lambda skeleton: posing.turn_head(skeleton, left, down))


class WALKON_OT_select_joints(OnPosed):
    """Select all joints of the person, also those outside of the frame"""

    bl_idname = "walkon.select_joints"
    bl_label = "Select All Joints"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        if scene.walkon.rig is None:
            show_posed(scene)
        rig = scene.walkon.rig
        if rig.mode != "POSE":
            pose_mode(scene)
        skeleton_rig.select(rig, range(NUM_JOINTS))


class WALKON_OT_hide_joints(OnPosed):
    """Hide the selected joints: they are not seen, and the person is painted without them"""

    bl_idname = "walkon.hide_joints"
    bl_label = "Hide Joints"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        rig = scene.walkon.rig
        joints = skeleton_rig.selected(rig) if rig is not None else []
        if not joints:
            raise BadInput("No joint is selected", "Select some in pose mode", "joints")
        for joint in joints:
            skeleton_rig.hide_joint(rig, joint, True)


class WALKON_OT_show_joints(OnPosed):
    """Show all hidden joints, each at a likely place"""

    bl_idname = "walkon.show_joints"
    bl_label = "Show All Joints"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        if scene.walkon.rig is None:
            show_posed(scene)
        for joint in range(NUM_JOINTS):
            skeleton_rig.hide_joint(scene.walkon.rig, joint, False)


class WALKON_OT_copy_pose(OnPosed):
    """Copy the pose as OpenPose JSON, for this or another file or program"""

    bl_idname = "walkon.copy_pose"
    bl_label = "Copy Pose"

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        text = people_to_json([scene.walkon.posed.edited.skeleton]).decode()
        windows = bpy.context.window_manager
        windows.clipboard = windows.walkon.copied_pose = text


class WALKON_OT_paste_pose(OnPosed):
    """Paste a pose that was copied, here or as OpenPose JSON anywhere"""

    bl_idname = "walkon.paste_pose"
    bl_label = "Paste Pose"
    keep_place: BoolProperty(
        name="Keep Place",
        description="On the feet and at the size of this person; otherwise exactly where it was copied",
        default=True,
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        windows = bpy.context.window_manager
        # Without a window there is no clipboard but our own.
        text = windows.clipboard or windows.walkon.copied_pose
        if not text:
            raise BadInput("No pose was copied", "Copy one first", "clipboard")
        people = [person for person in people_from_json(text.encode(), "clipboard") if person.visible.any()]
        if not people:
            raise BadInput("clipboard: holds no person", "Copy a pose first", "clipboard")
        pasted = people[0]
        if self.keep_place:
            self.change(scene, lambda skeleton: posing.put_in_place_of(pasted, skeleton))
        else:
            set_pose(scene, pasted)


class WALKON_OT_clean_up_pose(Job):
    """Let the server make the pose anatomically cleaner; joints that you edited stay exactly where they are"""

    bl_idname = "walkon.clean_up_pose"
    bl_label = "Clean Up Pose"
    bl_options = {"UNDO"}
    label = "Cleaning up the pose"
    needs = OnPosed.needs

    def work(self, scene: bpy.types.Scene) -> Work:
        """See Job."""
        may_start = preferences().auto_start
        request = Refine(_seen_pose(scene).to_openpose(), locked=scene.walkon.posed.locked)

        def run(session: Session) -> Skeleton:
            session.connect(may_start)
            answer, _ = session.ask(request, Refined)
            return Skeleton.from_openpose(answer.skeleton)

        return run

    def apply(self, scene: bpy.types.Scene, result: Skeleton) -> str:
        """See Job."""
        posed = scene.walkon.posed
        if posed is None:
            raise BadInput("The person is gone that was cleaned up", "Choose another", "skeleton")
        # What the server changed is no edit of the artist's: it becomes part of the suggestion.
        locked, edited = posed.locked, posed.edited.skeleton
        suggested = posed.suggested.skeleton
        kept = [joint for joint in range(NUM_JOINTS) if joint not in locked]
        xy, visible = suggested.xy.copy(), suggested.visible.copy()
        xy[kept], visible[kept] = result.xy[kept], result.visible[kept]
        posed.suggested.skeleton = Skeleton(xy, visible)
        xy[locked], visible[locked] = edited.xy[locked], edited.visible[locked]
        posed.edited.skeleton = Skeleton(xy, visible)
        show_posed(scene)
        return f"Cleaned up; {len(locked)} edited joints stayed" if locked else "Cleaned up"


class _PoseFile(bpy.types.Operator):
    """Base of the operators that ask for an OpenPose JSON file."""

    bl_options = {"UNDO"}
    filepath: StringProperty(
        name="File", description="OpenPose JSON file of the pose", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    check_existing: BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Blender calls this."""
        if not self.filepath:
            self.filepath = "pose.json"
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class WALKON_OT_save_poses(_PoseFile, Quick):
    """Save poses as OpenPose JSON: x, y and score of 18 joints for each person, in pixels of the picture"""

    bl_idname = "walkon.save_poses"
    bl_label = "Save Poses"
    who: EnumProperty(
        name="Who",
        description="Whose poses are saved",
        items=(
            ("POSED", "Edited Person", "Whoever is being posed"),
            ("CANDIDATES", "Suggestions", "All suggestions"),
            ("PEOPLE", "People", "The people of the picture"),
        ),
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        keep_edits(scene)
        work = scene.walkon
        chosen = {
            "POSED": [work.posed] if work.posed is not None else [],
            "CANDIDATES": work.candidates,
            "PEOPLE": work.people,
        }[self.who]
        if not len(chosen):
            raise BadInput("There is nobody to save", "Press Find People or Suggest", "people")
        path = Path(bpy.path.abspath(self.filepath))
        try:
            path.write_bytes(people_to_json([person.skeleton for person in chosen]))
        except OSError as error:
            raise BadInput(
                f"{path} cannot be written ({error.strerror})", "Choose another folder", "filepath"
            ) from error


class WALKON_OT_load_poses(_PoseFile, Quick):
    """Load poses from OpenPose JSON, in pixels of the picture"""

    bl_idname = "walkon.load_poses"
    bl_label = "Load Poses"
    who: EnumProperty(
        name="As",
        description="What the loaded people become",
        items=(
            ("POSED", "Edited Person", "The first person's pose goes to whoever is being posed"),
            ("CANDIDATES", "Suggestions", "Further suggestions"),
            ("PEOPLE", "People", "Further people of the picture"),
        ),
        default="CANDIDATES",
    )

    def do(self, scene: bpy.types.Scene) -> None:
        """See Quick."""
        path, work = Path(bpy.path.abspath(self.filepath)), scene.walkon
        try:
            people = people_from_json(path.read_bytes(), path.name)
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read ({error.strerror})", "Choose another file", "filepath"
            ) from error
        people = [person for person in people if person.visible.any()]
        if not people:
            raise BadInput(f"{path.name} holds nobody", "Choose another file", "filepath")
        if 0 in tuple(work.picture_size):
            raise BadInput("There is no picture yet", "Press Find People", "people")
        keep_edits(scene)
        if self.who == "POSED":
            if work.posed is None:
                raise BadInput("Nobody is being posed", "Load the file as suggestions", "candidates")
            set_pose(scene, people[0])
        elif self.who == "CANDIDATES":
            for person in people:
                candidate = work.candidates.add()
                candidate.skeleton, candidate.pinned = person, True
            show_candidate(scene, len(work.candidates) - len(people))
        else:
            for skeleton in people:
                person = work.people.add()
                person.skeleton, person.source = skeleton, "HAND"
                person.title = f"Person {len(work.people)}"


register, unregister = bpy.utils.register_classes_factory(
    (
        WALKON_OT_edit_pose,
        WALKON_OT_reset_pose,
        WALKON_OT_mirror_pose,
        WALKON_OT_turn_round,
        WALKON_OT_resize_pose,
        WALKON_OT_turn_joint,
        WALKON_OT_turn_head,
        WALKON_OT_select_joints,
        WALKON_OT_hide_joints,
        WALKON_OT_show_joints,
        WALKON_OT_copy_pose,
        WALKON_OT_paste_pose,
        WALKON_OT_clean_up_pose,
        WALKON_OT_save_poses,
        WALKON_OT_load_poses,
    )
)
