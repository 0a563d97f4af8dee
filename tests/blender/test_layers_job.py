# SPDX-License-Identifier: Apache-2.0
"""Layers with a real server: painted, painted again after an edit, and what happens when things go away meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from conftest import fails, part, render, state
from test_layers import painting, person


def pixels(image: bpy.types.Image) -> np.ndarray:
    return part("scene_picture").pixels(image)


@pytest.fixture
def inserted(with_server: None, shot: bpy.types.Scene) -> bpy.types.Scene:
    """The shot with one layer."""
    shot.walkon.count, shot.walkon.color_strength = 1, 0.75
    bpy.ops.walkon.find_people()
    bpy.ops.walkon.suggest()
    bpy.ops.walkon.generate()
    return shot


def test_the_shadow_under_the_feet_can_be_left_out(inserted: bpy.types.Scene) -> None:
    work = inserted.walkon
    assert work.shadow == 1.0
    work.shadow = 0.0
    assert bpy.ops.walkon.regenerate() == {"FINISHED"}
    assert bpy.ops.walkon.generate() == {"FINISHED"}
    shaded, plain, another = (
        pixels(version.image)[..., 3].astype(int).sum() for layer in work.layers for version in layer.versions
    )
    assert plain < 0.99 * shaded
    assert another < 0.99 * shaded


def test_the_skeleton_is_out_of_the_way_of_a_finished_layer(inserted: bpy.types.Scene) -> None:
    work, walkon = inserted.walkon, bpy.ops.walkon
    assert work.rig.hide_get()
    walkon.edit_pose()
    assert not work.rig.hide_get()
    assert work.rig.mode == "POSE"
    walkon.generate()
    assert work.rig.hide_get()
    assert bpy.context.mode == "OBJECT"
    walkon.mirror_pose()
    assert not work.rig.hide_get(), "what is changed is seen"
    walkon.pose_layer()
    walkon.regenerate()
    assert (work.rig_shows, work.rig.hide_get(), bpy.context.mode) == ("LAYER", True, "OBJECT")
    walkon.choose_candidate(step=1)
    assert not work.rig.hide_get()


def test_regenerate_paints_the_edited_pose_where_the_layer_is(
    inserted: bpy.types.Scene, tmp_path: Path
) -> None:
    work, walkon = inserted.walkon, bpy.ops.walkon
    layer = work.layer
    first = layer.version
    assert layer.color_match == pytest.approx(0.75)
    assert first.picture == work.picture
    assert [image.packed_file is not None for image in (first.plain, first.depth, first.normal)] == [True] * 3
    person_seen = pixels(first.image)[..., 3] > 200
    own, matched = (pixels(image)[..., :3][person_seen].astype(int) for image in (first.plain, first.image))
    assert 1 < np.abs(own - matched).mean() < 60, "the same person in other colors"
    assert tuple(first.depth.size) == tuple(first.normal.size) == tuple(first.image.size)

    # The artist moves the person, turns the arm, and looks for other people in another picture meanwhile.
    layer.x += 25
    layer.scale = 0.8
    layer.feather = 2.0
    walkon.pose_layer()
    assert work.rig.mode == "POSE"
    shown = layer.pose.edited.skeleton
    wrist = next(joint for joint in (4, 7) if shown.visible[joint])
    work.rig.pose.bones[part("geometry").BONE_NAMES[wrist]].location.x += 9.0
    bpy.ops.object.mode_set(mode="OBJECT")
    work.picture = None
    assert walkon.regenerate() == {"FINISHED"}
    assert "Person 1 is version 2 now" in state().note
    layer = work.layer
    assert len(layer.versions) == 2
    assert layer.scale == 1.0
    assert layer.feather == 2.0
    painted = layer.version.skeleton.skeleton
    assert np.allclose(painted.xy[wrist], shown.xy[wrist] + (9.0, 0.0), atol=0.02)
    still = [joint for joint in range(8, 14) if shown.visible[joint] and painted.visible[joint]]
    assert np.allclose(painted.xy[still], shown.xy[still], atol=0.02)
    assert layer.version.picture == layer.versions[0].picture
    assert len(layer.version.people) == len(work.people)
    second = render(inserted, tmp_path)
    rows, columns = np.nonzero(np.abs(second.astype(int) - second[0, 0]).max(-1) > 8)
    x0, _, x1, y1 = painted.box
    assert columns.min() < (x0 + x1) / 2 < columns.max()
    assert abs(rows.max() - y1) < 0.2 * painted.height + 3

    walkon.compare_versions()
    assert layer.scale == pytest.approx(0.8), "the first lies where it lay"
    walkon.compare_versions()

    # A layer whose place is keyframed keeps its keyframes.
    layer.handle.keyframe_insert("location", frame=1)
    layer.handle.location.x += 30
    layer.handle.keyframe_insert("location", frame=10)
    inserted.frame_set(5)
    x = layer.x
    walkon.regenerate()
    assert layer.x == x
    assert np.allclose(layer.version.skeleton.skeleton.xy[still], painted.xy[still], atol=0.02)


def test_what_regenerate_needs_may_be_gone(inserted: bpy.types.Scene, tmp_path: Path) -> None:
    layer, regenerate = inserted.walkon.layer, bpy.ops.walkon.regenerate
    layer.actor = str(tmp_path / "gone.png")
    fails(regenerate, "gone.png does not exist", "Choose another photo", "walkon.choose_actor")
    layer.actor = inserted.walkon.actor
    layer.version.picture = None
    fails(regenerate, "The picture that was sent is gone", "Press Find People", "walkon.find_people")
    assert len(layer.versions) == 1
    bpy.ops.walkon.remove_layer()
    with pytest.raises(RuntimeError, match="There is no layer; press Generate"):
        regenerate()


def test_a_layer_that_is_removed_while_it_is_painted_again_is_not_lost(scene: bpy.types.Scene) -> None:
    operators = part("layer_operators")
    result = operators._Painted(painting(), [person()], "no such picture", "", 0, 3, "{}", "A warning.")
    job = SimpleNamespace(_layer="removed")
    said = operators.WALKON_OT_regenerate.apply(job, scene, result)
    assert said == "The layer was removed meanwhile; the person is the new layer 'Person 1'. A warning."
    assert scene.walkon.layer.version.seed == 3
    assert scene.walkon.layer.version.picture is None


def test_nothing_of_the_person_in_the_picture(inserted: bpy.types.Scene) -> None:
    layer = inserted.walkon.layer
    layer.x = -2000.0
    message = None
    try:
        bpy.ops.walkon.regenerate()
    except RuntimeError:
        message = state().error
    # Outside the frame there may still be a whole person to paint, or nothing: told, and nothing lost.
    assert len(layer.versions) == (2 if message is None else 1)
    assert inserted.walkon.layer.handle is not None
