# SPDX-License-Identifier: Apache-2.0
"""Suggestions from a real server: wishes are met or refused by name, pins stay, more of the same is alike."""

from __future__ import annotations

import importlib
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import MODULE, fails, part, state


@pytest.fixture
def crowd(with_server: None, shot: bpy.types.Scene) -> bpy.types.Scene:
    """The demo's shot with its people found, three suggestions wanted, no actor."""
    shot.walkon.actor, shot.walkon.count = "", 3
    bpy.ops.walkon.find_people()
    return shot


def feet(person) -> tuple[float, float]:
    return part("geometry").feet(person.skeleton)


def test_pins_stay_and_more_like_this_is_alike(crowd: bpy.types.Scene) -> None:
    work, walkon = crowd.walkon, bpy.ops.walkon
    walkon.suggest()
    walkon.choose_candidate(step=1)
    walkon.pin_candidate()
    chosen = work.candidate.skeleton
    work.seed = 7
    walkon.suggest()
    assert [candidate.pinned for candidate in work.candidates] == [True, False, False, False]
    assert work.candidates[0].skeleton == chosen
    assert work.candidate_index == 1, "the first new one is shown"

    def difference(person) -> float:
        """Between the poses, each about its own centre and at its own size."""
        a, b = person.skeleton, chosen
        both = a.visible & b.visible
        a_xy, b_xy = a.xy[both] - a.xy[both].mean(0), b.xy[both] - b.xy[both].mean(0)
        return float(np.abs(a_xy / np.abs(a_xy).max() - b_xy / np.abs(b_xy).max()).mean())

    others = np.mean([difference(person) for person in list(work.candidates)[1:]])
    walkon.choose_candidate(step=-1)
    walkon.suggest(like=True)
    assert work.candidates[0].pinned
    alike = [difference(person) for person in list(work.candidates)[1:]]
    assert np.mean(alike) < others


def test_suggestions_keep_to_box_and_height(crowd: bpy.types.Scene) -> None:
    work, walkon = crowd.walkon, bpy.ops.walkon
    walkon.suggest()
    x, y = feet(work.candidates[0])
    half = 0.12 * work.picture_size[0]
    walkon.new_box(left=x - half, top=y - half, right=x + half, bottom=y + half)
    walkon.suggest()
    x0, y0, x1, y1 = part("place_box").box_of(crowd)
    for candidate in work.candidates:
        at = feet(candidate)
        assert x0 - 2 <= at[0] <= x1 + 2, at
        assert y0 - 0.03 * work.picture_size[1] <= at[1] <= y1 + 2, "soles are below the ankles"


def test_wishes_that_cannot_be_met_are_named(crowd: bpy.types.Scene) -> None:
    work, walkon = crowd.walkon, bpy.ops.walkon
    height = work.picture_size[1]
    walkon.new_box(left=0.0, top=0.0, right=8.0, bottom=4.0)  # in the sky
    with pytest.raises(RuntimeError, match="box"):
        walkon.suggest()
    assert state().error
    assert not work.candidates
    work.place = "OBJECT"
    fails(walkon.suggest, "No object is chosen as the place", "Choose one")
    work.place, work.use_height, work.height = "ANY", True, 5.0 * height
    fails(walkon.suggest, "height", "Give the pixels from the soles to the crown")


def test_people_found_again_keep_what_was_done(crowd: bpy.types.Scene) -> None:
    work, walkon = crowd.walkon, bpy.ops.walkon
    count = len(work.people)
    work.people[1].enabled = False
    work.people[0].title = "The lady in red"
    work.person_index = 0
    walkon.correct_person()
    walkon.drag_joint(joint="right_wrist", x=10.0, y=20.0)
    edited = part("skeleton_rig").read(work.rig, work.people[0].edited.skeleton)
    walkon.find_people()
    assert len(work.people) == count
    assert not work.people[1].enabled
    assert work.people[0].title == "The lady in red"
    assert np.allclose(work.people[0].skeleton.xy, edited.xy, atol=0.02)
    assert work.people[0].locked


# ---- thumbnails ------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(scene: bpy.types.Scene) -> bpy.types.Scene:
    """Three suggestions in a picture that is red on the left and green on the right."""
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:, :160, 0] = picture[:, 160:, 1] = 200
    part("layers").adopt_picture(scene, part("painting").png(picture))
    for x in (60.0, 160.0, 270.0):
        scene.walkon.candidates.add().skeleton = part("posing").standing((x, 200.0), 120.0)
    part("pose_operators").show_candidate(scene, 0)
    return scene


def thumbnails(scene: bpy.types.Scene) -> list[np.ndarray]:
    """What the panel shows: `(SIDE, SIDE, 4)` each, top row first."""
    icons, side = part("candidate_icons"), part("thumbnail").SIDE
    assert not icons.update(wait=True)
    shown = []
    for index in range(len(scene.walkon.candidates)):
        preview = icons.thumbnail_of(scene, index)
        assert tuple(preview.image_size) == (side, side)
        values = np.empty(side * side * 4, np.float32)
        preview.image_pixels_float.foreach_get(values)
        shown.append(values.reshape(side, side, 4)[::-1])
    return shown


def test_thumbnails_show_each_pose_where_it_is(chosen: bpy.types.Scene) -> None:
    left, middle, right = thumbnails(chosen)
    corner = [thumbnail[4, 4, :3] for thumbnail in (left, middle, right)]
    assert corner[0].argmax() == corner[1].argmax() == 0, "red"
    assert corner[2].argmax() == 1, "green"
    assert middle[4, -4, :3].argmax() == 1, "both colors meet in the middle"
    for thumbnail in (left, middle, right):
        blue, white = thumbnail[..., 2] > 0.5, thumbnail[..., :3].min(-1) > 0.8
        rows = np.nonzero(blue.any(1))[0]
        assert np.ptp(rows) > 0.5 * len(thumbnail), "from the head to the feet"
        assert white.any()
        assert (thumbnail[..., 3] == 1).all()


def test_a_click_on_a_number_chooses_and_edits_are_kept(chosen: bpy.types.Scene) -> None:
    work, icons = chosen.walkon, part("candidate_icons")
    thumbnails(chosen)
    before = list(icons._shown[chosen.session_uid])
    work.rig.pose.bones["wrist.R"].location.x += 20.0
    assert bpy.ops.walkon.choose_candidate(index=2) == {"FINISHED"}
    assert work.candidate_index == 2
    thumbnails(chosen)
    after = icons._shown[chosen.session_uid]
    assert after[0] != before[0], "the edited pose is shown"
    assert after[1:] == before[1:], "the others are not drawn again"
    assert bpy.ops.walkon.choose_candidate() == {"FINISHED"}
    assert work.candidate_index == 0
    fails(bpy.ops.walkon.choose_candidate, "There are only 3 suggestions", "Choose one of them", index=3)


def test_thumbnails_after_undo_redo_and_loading(chosen: bpy.types.Scene, tmp_path: Path) -> None:
    bpy.context.preferences.edit.use_global_undo = True
    icons = part("candidate_icons")
    shown = thumbnails(chosen)
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.walkon.remove_candidate()
    bpy.ops.walkon.choose_candidate(index=1)
    bpy.ops.ed.undo_push(message="removed")
    assert np.array_equal(thumbnails(bpy.context.scene), shown[1:])
    bpy.ops.ed.undo()
    assert np.array_equal(thumbnails(bpy.context.scene), shown)
    assert bpy.context.scene.walkon.candidate_index == 0
    bpy.ops.ed.redo()
    assert np.array_equal(thumbnails(bpy.context.scene), shown[1:])
    assert bpy.context.scene.walkon.candidate_index == 1
    path = str(tmp_path / "chosen.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_empty=True)
    assert not icons.update(wait=True)
    assert not icons._previews, "let go with the file"
    bpy.ops.wm.open_mainfile(filepath=path)
    assert np.array_equal(thumbnails(bpy.context.scene), shown[1:])
    bpy.context.scene.walkon.picture = None
    assert all(np.ptp(thumbnail[..., :3]) > 0.5 for thumbnail in thumbnails(bpy.context.scene))
    bpy.ops.walkon.clear_suggestions()
    assert not icons.update(wait=True)
    assert not icons._previews


def test_thumbnails_leave_nothing_when_the_add_on_is_switched_off(chosen: bpy.types.Scene) -> None:
    icons, package = part("candidate_icons"), importlib.import_module(MODULE)
    thumbnails(chosen)
    chosen.walkon.candidates[1].skeleton = part("posing").standing((100.0, 200.0), 90.0)
    assert icons.update(), "one is being drawn"
    package.unregister()
    assert (icons._previews, icons._thread, icons._drawing, icons._shown) == (None, None, None, {})
    assert not bpy.app.timers.is_registered(icons._tick)
    package.register()
    assert len(thumbnails(bpy.context.scene)) == 3


def test_people_partly_beyond_the_picture_have_thumbnails(scene: bpy.types.Scene) -> None:
    picture = np.full((240, 320, 3), 200, np.uint8)
    thumbnail = part("thumbnail")
    for x, y, height in ((5.0, 230.0, 300.0), (400.0, 500.0, 100.0), (160.0, 120.0, 6.0)):
        drawn = thumbnail.draw(picture, part("posing").standing((x, y), height))
        assert drawn.shape == (thumbnail.SIDE, thumbnail.SIDE, 4)
        assert np.isfinite(drawn).all()
        assert np.ptp(drawn[..., 2]) > 0.3
