# SPDX-License-Identifier: Apache-2.0
"""Editing poses and asking for places, on the installed add-on: every operator, undo, files, other sizes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import part
from mathutils import Matrix, Vector

R_SHOULDER, R_ELBOW, R_WRIST, R_KNEE, R_ANKLE, L_ANKLE = 2, 3, 4, 9, 10, 13


def lengths(skeleton) -> np.ndarray:
    limbs = part("shared.skeleton").LIMBS
    return np.array([np.linalg.norm(skeleton.xy[a] - skeleton.xy[b]) for a, b in limbs])


@pytest.fixture
def posed(scene: bpy.types.Scene) -> bpy.types.Scene:
    """A scene with two suggestions and two people, the first suggestion shown."""
    work, standing = scene.walkon, part("posing").standing
    for x in (120.0, 200.0):
        work.candidates.add().skeleton = standing((x, 210.0), 150.0)
    for number, x in enumerate((50.0, 270.0), 1):
        person = work.people.add()
        person.skeleton, person.title = standing((x, 205.0), 140.0), f"Person {number}"
    part("pose_operators").show_candidate(scene, 0)
    return scene


def pose_of(scene: bpy.types.Scene):
    part("pose_operators").keep_edits(scene)
    return scene.walkon.posed.edited.skeleton


# ---- the functions -----------------------------------------------------------------------------------------


def test_a_hand_pulls_the_arm_along_and_nothing_gets_longer(installed: str) -> None:
    posing = part("posing")
    before = posing.standing((100.0, 200.0), 150.0)
    target = before.xy[R_SHOULDER] + (-20.0, 15.0)
    after = posing.drag(before, R_WRIST, target)
    assert np.allclose(after.xy[R_WRIST], target)
    assert np.allclose(lengths(after), lengths(before))
    assert np.allclose(
        np.delete(after.xy, (R_ELBOW, R_WRIST), 0), np.delete(before.xy, (R_ELBOW, R_WRIST), 0)
    )
    far = posing.drag(before, R_WRIST, (-500.0, 0.0))
    assert np.allclose(lengths(far), lengths(before)), "out of reach: stretched towards it"
    # Bends to the side it bent to.
    cross = lambda s: np.cross(  # noqa: E731
        np.append(s.xy[R_ELBOW] - s.xy[R_SHOULDER], 0), np.append(s.xy[R_WRIST] - s.xy[R_SHOULDER], 0)
    )[2]
    assert np.sign(cross(after)) == np.sign(cross(before))


@pytest.mark.parametrize("joint", range(18))
def test_any_joint_can_be_dragged_with_lengths_kept_or_alone(installed: str, joint: int) -> None:
    posing = part("posing")
    before = posing.standing((100.0, 200.0), 150.0)
    target = before.xy[joint] + (7.0, -5.0)
    alone = posing.drag(before, joint, target, keep_lengths=False)
    assert np.allclose(alone.xy[joint], target)
    assert (np.abs(alone.xy - before.xy).max(1) > 0).sum() == 1
    kept = posing.drag(before, joint, target)
    # Arms, legs and the neck keep their lengths; shoulders, hips, eyes and ears are set by their own drag alone.
    loose = (2, 5, 8, 11, 14, 15, 16, 17)
    for (_, end), old, new in zip(part("shared.skeleton").LIMBS, lengths(before), lengths(kept), strict=True):
        if not (end == joint and joint in loose):
            assert new == pytest.approx(old), end
    assert np.linalg.norm(kept.xy[joint] - before.xy[joint]) > 3


def test_dragging_a_hidden_joint_shows_it(installed: str) -> None:
    posing, skeletons = part("posing"), part("shared.skeleton")
    whole = posing.standing((100.0, 200.0), 150.0)
    visible = whole.visible.copy()
    visible[R_WRIST] = False
    after = posing.drag(skeletons.Skeleton(whole.xy, visible), R_WRIST, (60.0, 100.0))
    assert after.visible.all()
    assert after.score[R_WRIST] == 1.0


def test_turning_mirroring_and_turning_round(installed: str) -> None:
    posing = part("posing")
    before = posing.drag(posing.standing((100.0, 200.0), 150.0), R_WRIST, (60.0, 80.0))
    turned = posing.turn(before, R_SHOULDER, np.pi / 2)
    arm = before.xy[R_ELBOW] - before.xy[R_SHOULDER]
    assert np.allclose(turned.xy[R_ELBOW] - turned.xy[R_SHOULDER], (-arm[1], arm[0])), "clockwise as seen"
    assert np.allclose(lengths(turned), lengths(before))
    mirrored = posing.mirror(before)
    assert np.allclose(mirrored.box, before.box)
    assert posing.mirror(mirrored) == before or np.allclose(posing.mirror(mirrored).xy, before.xy)
    back = posing.turn_round(before)
    assert np.allclose(back.xy[5], before.xy[R_SHOULDER]), "the outline stays, the names change"
    assert not back.visible[[0, 14, 15]].any()
    assert back.visible[[16, 17]].all()
    front = posing.turn_round(back)
    assert front.visible.all()
    assert np.allclose(np.delete(front.xy, (0, 14, 15), 0), np.delete(before.xy, (0, 14, 15), 0))


def test_a_turned_head_shows_its_side_and_comes_back(installed: str) -> None:
    posing = part("posing")
    before = posing.standing((100.0, 200.0), 150.0)
    left = posing.turn_head(before, np.radians(40), 0.0)
    assert left.xy[0, 0] > before.xy[0, 0] + 2, "its left is our right"
    assert not left.visible[17]
    assert left.visible[[0, 14, 15, 16]].all()
    assert np.allclose(left.xy[1:14], before.xy[1:14])
    down = posing.turn_head(before, 0.0, np.radians(20))
    assert down.xy[0, 1] > before.xy[0, 1] + 1
    away = before
    for _ in range(12):
        away = posing.turn_head(away, np.radians(15), 0.0)
    assert not away.visible[[0, 14, 15]].any(), "the back of the head"


# ---- operators -----------------------------------------------------------------------------------------------


def test_every_pose_operator(posed: bpy.types.Scene) -> None:
    walkon, work = bpy.ops.walkon, posed.walkon
    first = pose_of(posed)
    assert walkon.drag_joint(joint="right_wrist", x=100.0, y=90.0) == {"FINISHED"}
    dragged = pose_of(posed)
    assert np.allclose(lengths(dragged), lengths(first), atol=0.01)
    assert work.candidate.locked == [R_ELBOW, R_WRIST]
    assert walkon.drag_joint(joint="left_ankle", x=130.0, y=230.0, keep_lengths=False) == {"FINISHED"}
    assert np.allclose(pose_of(posed).xy[L_ANKLE], (130, 230), atol=0.01)
    assert walkon.turn_joint(joint="right_hip", degrees=20.0) == {"FINISHED"}
    assert work.candidate.locked == [R_ELBOW, R_WRIST, R_KNEE, R_ANKLE, L_ANKLE]
    facing = pose_of(posed)
    assert walkon.turn_head(left=30.0) == {"FINISHED"}
    assert pose_of(posed).xy[0, 0] > facing.xy[0, 0] + 1
    assert walkon.turn_head(left=-30.0) == {"FINISHED"}
    assert np.abs(pose_of(posed).xy[0] - facing.xy[0]).max() < 3
    assert walkon.mirror_pose() == {"FINISHED"}
    assert walkon.mirror_pose() == {"FINISHED"}
    assert np.allclose(pose_of(posed).xy[L_ANKLE], (130, 230), atol=0.02)
    before = pose_of(posed)
    assert walkon.resize_pose(factor=1.5) == {"FINISHED"}
    assert np.allclose(lengths(pose_of(posed)), 1.5 * lengths(before), atol=0.02)
    assert walkon.turn_round() == {"FINISHED"}
    assert not pose_of(posed).visible[0]
    assert walkon.reset_pose() == {"FINISHED"}
    assert np.allclose(pose_of(posed).xy, first.xy, atol=0.01)
    assert work.candidate.locked == []
    assert work.candidates[1].locked == [], "the other suggestion is another person"


def test_numbers_select_hide_and_show(posed: bpy.types.Scene) -> None:
    walkon, work, rig = bpy.ops.walkon, posed.walkon, part("skeleton_rig")
    work.joint = "right_knee"
    assert work.joint == "right_knee"
    ankle = pose_of(posed).xy[R_ANKLE].copy()
    knee = np.array(work.joint_at)
    assert np.allclose(knee, pose_of(posed).xy[R_KNEE], atol=0.01)
    work.joint_at = knee + (5.0, -3.0)
    assert np.allclose(work.joint_at, knee + (5, -3), atol=0.01)
    assert np.allclose(pose_of(posed).xy[R_ANKLE], ankle + (5, -3), atol=0.01), "the foot follows"
    work.joint_shown = False
    assert not work.joint_shown
    assert not pose_of(posed).visible[R_KNEE]
    assert walkon.show_joints() == {"FINISHED"}
    assert pose_of(posed).visible.all()

    work.joint = "nose"
    work.joint_at = (-40.0, -500.0)  # far outside of the frame
    assert walkon.select_joints() == {"FINISHED"}
    assert work.rig.mode == "POSE"
    assert rig.selected(work.rig) == list(range(18))
    rig.select(work.rig, [4, 7])
    assert walkon.hide_joints() == {"FINISHED"}
    assert list(np.flatnonzero(~pose_of(posed).visible)) == [4, 7]
    rig.select(work.rig, [])
    with pytest.raises(RuntimeError, match="No joint is selected"):
        walkon.hide_joints()


def test_dragging_in_pose_mode_by_bones_works_on_turned_limbs(posed: bpy.types.Scene) -> None:
    work = posed.walkon
    bpy.ops.walkon.edit_pose()
    work.rig.pose.bones["shoulder.R"].rotation_euler.z = 0.7
    work.joint = "right_wrist"
    work.joint_at = (77.0, 88.0)
    assert np.allclose(pose_of(posed).xy[R_WRIST], (77, 88), atol=0.01)
    assert bpy.ops.walkon.reset_pose() == {"FINISHED"}
    assert work.rig.mode == "POSE", "still in pose mode"


def test_copy_and_paste(posed: bpy.types.Scene) -> None:
    walkon, work = bpy.ops.walkon, posed.walkon
    walkon.drag_joint(joint="right_wrist", x=100.0, y=90.0)
    copied = pose_of(posed)
    assert walkon.copy_pose() == {"FINISHED"}
    walkon.choose_candidate(step=1)
    there = pose_of(posed)
    feet = part("geometry").feet
    assert walkon.paste_pose() == {"FINISHED"}
    pasted = pose_of(posed)
    assert np.allclose(feet(pasted), feet(there), atol=0.02)
    grown = lengths(pasted) / lengths(copied)
    assert np.allclose(grown, grown[0], atol=0.01), "the same pose"
    assert walkon.paste_pose(keep_place=False) == {"FINISHED"}
    assert np.allclose(pose_of(posed).xy, copied.xy, atol=0.02)
    bpy.context.window_manager.walkon.copied_pose = "scribble"
    with pytest.raises(RuntimeError, match="clipboard: is not OpenPose JSON"):
        walkon.paste_pose()
    bpy.context.window_manager.walkon.copied_pose = '{"people": []}'
    with pytest.raises(RuntimeError, match="clipboard: holds no person"):
        walkon.paste_pose()
    bpy.context.window_manager.walkon.copied_pose = ""
    with pytest.raises(RuntimeError, match="No pose was copied"):
        walkon.paste_pose()
    assert work.candidate is not None


def test_poses_as_openpose_files(posed: bpy.types.Scene, tmp_path: Path) -> None:
    walkon, work = bpy.ops.walkon, posed.walkon
    path = str(tmp_path / "poses.json")
    walkon.drag_joint(joint="right_wrist", x=100.0, y=90.0)
    edited = pose_of(posed)
    assert walkon.save_poses(filepath=path, who="CANDIDATES") == {"FINISHED"}
    people = json.loads(Path(path).read_text())["people"]
    assert [len(person["pose_keypoints_2d"]) for person in people] == [54, 54]
    assert walkon.load_poses(filepath=path, who="CANDIDATES") == {"FINISHED"}
    assert len(work.candidates) == 4
    assert work.candidate_index == 2
    assert work.candidate.pinned
    assert np.allclose(work.candidate.skeleton.xy, edited.xy, atol=0.01)
    assert walkon.load_poses(filepath=path, who="PEOPLE") == {"FINISHED"}
    assert [person.source for person in work.people] == ["PIXELS", "PIXELS", "HAND", "HAND"]
    assert walkon.save_poses(filepath=path, who="PEOPLE") == {"FINISHED"}
    assert len(json.loads(Path(path).read_text())["people"]) == 4
    walkon.choose_candidate(step=-2)
    assert walkon.reset_pose() == {"FINISHED"}
    assert walkon.save_poses(filepath=path) == {"FINISHED"}
    walkon.mirror_pose()
    assert walkon.load_poses(filepath=path, who="POSED") == {"FINISHED"}
    assert np.allclose(pose_of(posed).xy, work.candidate.suggested.skeleton.xy, atol=0.01)
    with pytest.raises(RuntimeError, match=r"nowhere.json cannot be read \(No such file"):
        walkon.load_poses(filepath=str(tmp_path / "nowhere.json"))
    with pytest.raises(RuntimeError, match="cannot be written"):
        walkon.save_poses(filepath=str(tmp_path / "no" / "folder.json"))
    Path(path).write_text("[]")
    with pytest.raises(RuntimeError, match=r"poses.json: is not OpenPose JSON"):
        walkon.load_poses(filepath=path)


def test_undo_and_redo_over_each_edit(posed: bpy.types.Scene) -> None:
    bpy.context.preferences.edit.use_global_undo = True
    walkon = bpy.ops.walkon
    steps = (
        lambda: walkon.drag_joint(joint="right_wrist", x=100.0, y=90.0),
        lambda: walkon.mirror_pose(),
        lambda: walkon.turn_round(),
        lambda: walkon.choose_candidate(step=1),
        lambda: walkon.pin_candidate(),
        lambda: walkon.correct_person(),
        lambda: walkon.turn_joint(joint="left_shoulder", degrees=30.0),
        lambda: walkon.turn_head(left=20.0, down=5.0),
        lambda: walkon.add_person(x=150.0, y=200.0),
        lambda: walkon.new_box(left=10.0, top=20.0, right=110.0, bottom=120.0),
        lambda: walkon.remove_box(),
        lambda: walkon.remove_person(),
    )

    def all_of_it() -> str:
        scene = bpy.context.scene
        bpy.context.view_layer.update()
        part("pose_operators").keep_edits(scene)
        work = scene.walkon
        poses = [
            (np.round(p.edited.skeleton.xy, 1) + 0.0).tolist() + p.edited.skeleton.visible.tolist()
            for p in (*work.candidates, *work.people)
        ]
        box = part("place_box").box_of(scene)
        return json.dumps(
            [
                poses,
                work.candidate_index,
                [c.pinned for c in work.candidates],
                work.rig_shows,
                work.rig_person,
            ]
            + [None if box is None else np.round(box, 2).tolist(), work.place]
        )

    bpy.ops.ed.undo_push(message="before")
    states = [all_of_it()]
    for step in steps:
        assert step() == {"FINISHED"}
        bpy.ops.ed.undo_push(message="step")  # operators called by scripts push nothing
        states.append(all_of_it())
        assert states[-1] != states[-2]
    for state in reversed(states[:-1]):
        bpy.ops.ed.undo()
        assert all_of_it() == state
    for state in states[1:]:
        bpy.ops.ed.redo()
        assert all_of_it() == state


def test_edits_survive_files_and_other_lenses_and_sizes(posed: bpy.types.Scene, tmp_path: Path) -> None:
    walkon, work = bpy.ops.walkon, posed.walkon
    walkon.drag_joint(joint="right_wrist", x=100.0, y=90.0)
    work.rig.pose.bones["hip.L"].rotation_euler.z = 0.3
    walkon.pin_candidate()
    walkon.new_box(left=10.0, top=20.0, right=110.0, bottom=120.0)
    work.use_height, work.height, work.stance, work.facing = True, 222.0, "sitting", "left"
    work.shadow = 0.25
    expected = pose_of(posed)
    posed.camera.data.lens, posed.camera.data.shift_x = 28.0, 0.1
    posed.render.resolution_percentage = 50
    bpy.context.view_layer.update()
    assert np.allclose(pose_of(posed).xy, expected.xy, atol=0.01)
    path = str(tmp_path / "posed.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    work = scene.walkon
    assert np.allclose(pose_of(scene).xy, expected.xy, atol=0.01)
    assert work.candidate.pinned
    assert np.allclose(part("place_box").box_of(scene), (10, 20, 110, 120), atol=1e-3)
    assert (work.height, work.stance, work.facing, work.shadow) == (222.0, "sitting", "left", 0.25)
    assert [person.title for person in work.people] == ["Person 1", "Person 2"]


# ---- where -----------------------------------------------------------------------------------------------------


def test_wishes_for_the_place(posed: bpy.types.Scene) -> None:
    where, work = part("place_box").where, posed.walkon
    assert where(posed).open
    # An empty on the floor: where the camera sees it, held against Blender's own projection.
    from bpy_extras.object_utils import world_to_camera_view

    empty = bpy.data.objects.new("Here", None)
    posed.collection.objects.link(empty)
    empty.location = 0.4, 2.0, 0.2
    bpy.context.view_layer.update()
    work.place, work.place_object = "OBJECT", empty
    view = world_to_camera_view(posed, posed.camera, empty.matrix_world.translation)
    assert np.allclose(where(posed).feet, (view.x * 320, (1 - view.y) * 240), atol=0.01)
    empty.location.y = -50.0
    bpy.context.view_layer.update()
    errors = part("shared.errors")
    with pytest.raises(errors.BadInput, match="The camera does not see the origin of 'Here'"):
        where(posed)
    work.place_object = None
    with pytest.raises(errors.BadInput, match="No object is chosen as the place"):
        where(posed)
    work.place = "BOX"
    with pytest.raises(errors.BadInput, match="There is no box"):
        where(posed)

    posed.render.use_border = True
    posed.render.border_min_x, posed.render.border_max_x = 0.25, 0.5
    posed.render.border_min_y, posed.render.border_max_y = 0.0, 0.5
    assert bpy.ops.walkon.new_box() == {"FINISHED"}
    assert not posed.render.use_border
    assert np.allclose(where(posed).box, (80, 120, 160, 240), atol=1e-3)
    box = work.place_box
    box.location.x += 12.0  # dragged with G, scaled with S
    box.scale *= 0.5
    assert np.allclose(where(posed).box, (112, 150, 152, 210), atol=1e-3)
    work.use_height, work.height, work.stance, work.facing = True, 99.0, "standing", "right"
    asked = where(posed, work.candidate.skeleton)
    assert (asked.height, asked.stance, asked.facing) == (99.0, "standing", "right")
    assert len(asked.like) == 54
    asked.check(320, 240)
    assert bpy.ops.walkon.remove_box() == {"FINISHED"}
    assert work.place == "ANY"
    assert work.place_box is None


def test_removing_and_clearing_suggestions(posed: bpy.types.Scene) -> None:
    walkon, work = bpy.ops.walkon, posed.walkon
    walkon.choose_candidate(step=1)
    assert walkon.remove_candidate() == {"FINISHED"}
    assert (len(work.candidates), work.candidate_index) == (1, 0)
    assert walkon.remove_candidate() == {"FINISHED"}
    assert (len(work.candidates), work.candidate_index, work.rig) == (0, -1, None)
    assert not walkon.remove_candidate.poll()
    assert not walkon.mirror_pose.poll()
    assert not [thing.name for thing in bpy.data.objects if thing.name.startswith("Walk-On")]


# ---- drawing and the mouse -------------------------------------------------------------------------------------


def test_what_is_drawn_is_in_pixels_and_made_once(posed: bpy.types.Scene) -> None:
    overlay, work = part("overlay"), posed.walkon
    points, colours = overlay.still_lines(posed)
    assert len(points) == len(colours) == 2 * 17 * 3, "two people and the other suggestion"
    assert np.allclose(points[0], work.people[0].skeleton.xy[1])
    work.show_candidates = False
    assert len(overlay.still_lines(posed)[0]) == 2 * 17 * 2
    work.show_candidates = True
    part("pose_operators").hide_posed(posed, True)
    assert len(overlay.still_lines(posed)[0]) == 2 * 17 * 2, (
        "a finished layer is looked at without suggestions"
    )
    assert part("drag_tool")._choose_at(posed, Vector(work.candidates[1].skeleton.xy[0]), 5.0) == {
        "PASS_THROUGH"
    }
    part("pose_operators").hide_posed(posed, False)
    joints, shown, _ = overlay.posed_points(posed)
    assert np.allclose(joints, work.candidate.skeleton.xy, atol=0.01)
    assert shown.all()
    assert len({overlay.person_colour(index) for index in range(12)}) == 12


def test_the_mouse_in_pixels(posed: bpy.types.Scene) -> None:
    tool = part("drag_tool")
    # A region that shows the picture at half size with its top-left corner at 30, 200 (y up).
    matrix = Matrix(((0.5, 0, 0, 30), (0, -0.5, 0, 200), (0, 0, 1, 0), (0, 0, 0, 1)))
    event = SimpleNamespace(mouse_region_x=30 + 60, mouse_region_y=200 - 50)
    assert np.allclose(tool._pixel(matrix, event), (120, 100))
    near = part("posing").nearest_joint(posed.walkon.candidate.skeleton, (120.0, 100.0), 1e9)
    assert near is not None
    assert tool._choose_at(posed, Vector(posed.walkon.candidates[1].skeleton.xy[0]), 5.0) == {"FINISHED"}
    assert posed.walkon.candidate_index == 1
    assert tool._choose_at(posed, Vector((5.0, 5.0)), 5.0) == {"PASS_THROUGH"}
