# SPDX-License-Identifier: Apache-2.0
"""The skeleton that is edited, on the installed add-on, without a server."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from conftest import part
from test_layers import person


@pytest.mark.parametrize(
    "camera",
    [
        {},
        {"lens": 18.0, "shift_x": 0.2, "shift_y": -0.1},
        {"type": "ORTHO", "ortho_scale": 3.0},
        {"sensor_fit": "VERTICAL", "clip_start": 0.01},
    ],
    ids=["plain", "shifted", "ortho", "vertical"],
)
def test_pose_is_read_back_exactly(scene: bpy.types.Scene, camera: dict[str, object]) -> None:
    for name, value in camera.items():
        setattr(scene.camera.data, name, value)
    rig, skeleton = part("skeleton_rig"), person(missing=(4, 16))
    armature = rig.build(scene, skeleton, skeleton)
    back = rig.read(armature, skeleton)
    assert np.array_equal(back.visible, skeleton.visible)
    assert np.abs(back.xy - skeleton.xy).max() < 3e-3
    assert np.allclose(back.score, skeleton.score)


def test_joints_lie_at_their_pixels_in_the_camera(scene: bpy.types.Scene) -> None:
    from bpy_extras.object_utils import world_to_camera_view

    rig, skeleton = part("skeleton_rig"), person()
    armature = rig.build(scene, skeleton, skeleton)
    for width, lens in ((320, 50.0), (640, 24.0)):
        scene.render.resolution_x, scene.camera.data.lens = width, lens
        scene.camera.data.update_tag()
        bpy.context.view_layer.update()  # the handler makes the plane follow
        bpy.context.view_layer.update()
        for joint, name in enumerate(part("geometry").BONE_NAMES):
            head = armature.matrix_world @ armature.pose.bones[name].head
            view = world_to_camera_view(scene, scene.camera, head)
            # The camera fits the frame's width; of the picture a part above and below is outside a wide frame.
            seen = view.x * 320, (1 - view.y) * 240 * 320 / width + (120 - 120 * 320 / width)
            assert np.allclose(seen, skeleton.xy[joint], atol=0.02), (name, width)


def test_moving_turning_and_hiding_joints(scene: bpy.types.Scene) -> None:
    rig, skeleton = part("skeleton_rig"), person()
    armature = rig.build(scene, skeleton, skeleton)
    bones = armature.pose.bones
    bones["knee.L"].location.x += 7.5
    bones["shoulder.R"].rotation_euler.z = 0.8
    part("compat").hide_joint(bones["ear.L"], True)
    back = rig.read(armature, skeleton)
    moved = back.xy - skeleton.xy
    knee, ankle, shoulder, elbow, wrist = 12, 13, 2, 3, 4
    assert np.allclose(moved[[knee, ankle]], (7.5, 0.0), atol=3e-3), "the ankle hangs on the knee"
    assert np.allclose(moved[shoulder], 0.0, atol=3e-3)
    for a, b in ((shoulder, elbow), (elbow, wrist)):
        before, after = (np.linalg.norm(p.xy[a] - p.xy[b]) for p in (skeleton, back))
        assert after == pytest.approx(before, abs=3e-3), "turning keeps lengths"
    assert np.linalg.norm(moved[wrist]) > 10
    assert not back.visible[17]
    assert back.visible.sum() == 17
    rig.show_limbs(armature)
    assert part("compat").joint_hidden(bones["limb eye.L ear.L"])


def test_edits_are_kept_over_the_suggestion(scene: bpy.types.Scene) -> None:
    rig, skeleton = part("skeleton_rig"), person()
    edited = skeleton.with_joints((4, 7), [(11.0, 22.0), (33.0, 44.0)])
    armature = rig.build(scene, skeleton, edited)
    assert np.abs(rig.read(armature, edited).xy - edited.xy).max() < 3e-3
    for bone in armature.pose.bones:  # what Alt+G and Alt+R do
        bone.location, bone.rotation_euler = (0, 0, 0), (0, 0, 0)
    assert np.abs(rig.read(armature, edited).xy - skeleton.xy).max() < 3e-3


def test_building_leaves_the_artists_mode_and_selection(scene: bpy.types.Scene) -> None:
    mesh = bpy.data.objects.new("Mine", bpy.data.meshes.new("Mine"))
    scene.collection.objects.link(mesh)
    bpy.context.view_layer.objects.active = mesh
    mesh.select_set(True)
    bpy.ops.object.mode_set(mode="EDIT")
    skeleton = person()
    part("skeleton_rig").build(scene, skeleton, skeleton)
    assert bpy.context.view_layer.objects.active == mesh
    assert mesh.mode == "EDIT"
    assert mesh.select_get()
    assert not scene.walkon.rig.select_get()
    bpy.ops.object.mode_set(mode="OBJECT")
    part("skeleton_rig").remove(scene)
    assert [thing.name for thing in bpy.data.objects] == ["Camera", "Mine"]
    assert not bpy.data.armatures
    assert len(bpy.data.meshes) == 1
