# SPDX-License-Identifier: Apache-2.0
"""The skeleton that is edited and the layers, on the installed add-on, without a server."""

from __future__ import annotations

import importlib
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import MODULE, render


def part(name: str):
    return importlib.import_module(f"{MODULE}.{name}")


def person(x: float = 100.0, y: float = 60.0, size: float = 120.0, missing: tuple[int, ...] = ()):
    """A standing person with odd, exact coordinates."""
    geometry, skeleton = part("geometry"), part("shared.skeleton")
    xy = geometry._STANDING * (size / 3.0) + (x, y + size * 0.15)
    visible = np.ones(18, bool)
    visible[list(missing)] = False
    return skeleton.Skeleton(xy, visible, np.linspace(0.3, 1.0, 18))


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
            seen = view.x * 320, (1 - view.y) * 240
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


# ---- layers ----------------------------------------------------------------------------------------------


def picture(width: int = 61, height: int = 120) -> np.ndarray:
    """An opaque picture with a colour of its own at every place, and a soft edge at the right."""
    y, x = np.mgrid[:height, :width]
    rgba = np.stack([40 + 2 * x, 200 - y, 60 + (x + y) % 120, np.full_like(x, 255)], -1).astype(np.uint8)
    rgba[:, -6:, 3] = np.array([213, 170, 128, 85, 43, 0])
    return rgba


@pytest.fixture
def layer(scene: bpy.types.Scene):
    return part("layers").add(scene, picture(), 130, 70, 1.0, person(160.0, 75.0, 100.0))


@pytest.mark.parametrize(
    ("transform", "tolerance"), [("Standard", 1.5), ("AgX", 9), ("Filmic", 3), ("Khronos PBR Neutral", 9)]
)
def test_the_render_shows_the_layers_pixels_at_its_place(
    scene: bpy.types.Scene, tmp_path: Path, transform: str, tolerance: float
) -> None:
    scene.view_settings.view_transform = transform
    before = render(scene, tmp_path)
    part("layers").add(scene, picture(), 130, 70, 1.0, person(160.0, 75.0, 100.0))
    after = render(scene, tmp_path)
    rgba = picture()
    there = after[70:190, 130:191]
    opaque = rgba[..., 3] == 255
    error = np.abs(there[opaque].astype(float) - rgba[..., :3][opaque])
    assert error.mean() < tolerance / 2
    assert np.quantile(error, 0.99) < 3 * tolerance
    outside = np.ones((240, 320), bool)
    outside[70:190, 130:191] = False
    assert np.array_equal(after[outside], before[outside]), "the scene around the layer is unchanged"


def test_another_view_transform_later_keeps_the_persons_colours(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    standard = render(scene, tmp_path)
    scene.view_settings.view_transform = "Filmic"
    filmic = render(scene, tmp_path)
    assert (filmic[0, 0] != standard[0, 0]).any()
    assert np.abs(filmic[80:180, 140:180].astype(int) - standard[80:180, 140:180]).mean() < 3


def test_two_scenes_have_pictures_of_their_own(scene: bpy.types.Scene) -> None:
    make_image, pixels = part("scene_picture").make_image, part("scene_picture").pixels
    first = make_image("Walk-On Picture", np.full((4, 4, 3), 10, np.uint8))
    second = make_image("Walk-On Picture", np.full((4, 4, 3), 20, np.uint8))
    assert (first.name, second.name) == ("Walk-On Picture", "Walk-On Picture.001")
    scene.walkon.picture = first
    third = make_image("Walk-On Picture", np.full((8, 6, 3), 30, np.uint8), over=first)
    assert scene.walkon.picture == third
    assert (pixels(third)[..., 0] == 30).all()
    assert (pixels(second)[..., 0] == 20).all()
    assert third.name == "Walk-On Picture"


def test_photos_of_16_bits_are_read_as_those_of_8(scene: bpy.types.Scene, tmp_path: Path) -> None:
    values = np.linspace(0, 255, 16 * 12 * 3).astype(np.uint8).reshape(12, 16, 3)
    image = part("scene_picture").make_image("photo", values)
    settings = scene.render.image_settings
    for depth in ("8", "16"):
        settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", depth
        image.save_render(str(tmp_path / f"{depth}.png"), scene=scene)
        read = part("scene_picture").actor_picture(str(tmp_path / f"{depth}.png"))
        assert np.abs(read[..., :3].astype(int) - values).max() <= 1, depth


def test_place_scale_flip_fade_and_hide(scene: bpy.types.Scene, layer, tmp_path: Path) -> None:
    before_x, before_y = layer.x, layer.y
    plain = render(scene, tmp_path)
    layer.x, layer.y = before_x + 40, before_y - 25
    moved = render(scene, tmp_path)
    assert np.array_equal(moved[45:165, 170:226], plain[70:190, 130:186])
    layer.x, layer.y = before_x, before_y

    layer.flip = True
    flipped = render(scene, tmp_path)
    # The feet stay: the picture is mirrored about them.
    left = round(2 * before_x - 130 - 61)
    difference = np.abs(
        flipped[70:190, left + 6 : left + 61].astype(int) - plain[70:190, 130:185][:, ::-1].astype(int)
    )
    assert np.quantile(difference, 0.99) <= 4, "mirrored about the feet"
    layer.flip = False

    layer.scale = 0.5
    small = render(scene, tmp_path)
    changed = np.abs(small.astype(int) - small[0, 0]).max(-1) > 8
    rows, columns = np.nonzero(changed)
    expected_top, expected_left = before_y - (before_y - 70) / 2, before_x - (before_x - 130) / 2
    assert abs(rows.min() - expected_top) <= 1
    assert abs(columns.min() - expected_left) <= 1
    assert abs(rows.max() + 1 - (expected_top + 60)) <= 1
    layer.scale = 1.0

    layer.opacity = 0.0
    assert len(np.unique(render(scene, tmp_path).reshape(-1, 3), axis=0)) == 1
    layer.opacity, layer.show = 1.0, False
    assert len(np.unique(render(scene, tmp_path).reshape(-1, 3), axis=0)) == 1
    assert layer.handle.hide_viewport
    layer.show = True
    assert np.array_equal(render(scene, tmp_path), plain)


def test_the_layer_keeps_its_place_at_another_render_size(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    scene.render.resolution_percentage = 200
    large = render(scene, tmp_path)
    rows, columns = np.nonzero(np.abs(large.astype(int) - large[0, 0]).max(-1) > 8)
    # Twice enlarged, so one pixel of the layer's are two.
    assert abs(rows.min() - 140) <= 2
    assert abs(columns.min() - 260) <= 2
    assert abs(rows.max() + 1 - 380) <= 2


def test_a_larger_picture_of_the_same_shot_keeps_layers_in_place(scene: bpy.types.Scene, layer) -> None:
    x, y = layer.x, layer.y
    node = scene_node(scene)
    placed = [node.inputs[name].default_value for name in ("X", "Y", "Scale")]
    part("layers").adopt_picture_size(scene, (640, 480))
    assert (layer.x, layer.y) == (pytest.approx(2 * x), pytest.approx(2 * y))
    assert [node.inputs[name].default_value for name in ("X", "Y", "Scale")] == pytest.approx(placed)


def scene_node(scene: bpy.types.Scene):
    tree = part("compat").compositor_tree(scene)
    return next(node for node in tree.nodes if node.type == "GROUP")


def test_dragging_the_card_moves_the_person_in_the_render(scene: bpy.types.Scene, layer) -> None:
    from bpy_extras.object_utils import world_to_camera_view

    bpy.context.view_layer.update()
    view = world_to_camera_view(scene, scene.camera, layer.handle.matrix_world.translation)
    assert (view.x * 320, (1 - view.y) * 240) == (
        pytest.approx(layer.x, abs=0.02),
        pytest.approx(layer.y, abs=0.02),
    )
    node, (x, y) = scene_node(scene), (layer.x, layer.y)
    placed = node.inputs["X"].default_value
    layer.handle.location.x += 12
    layer.handle.location.y += 5
    layer.handle.scale = (1.2, 1.2, 1.0)
    bpy.context.view_layer.update()
    assert (layer.x, layer.y) == (pytest.approx(x + 12), pytest.approx(y - 5))
    assert layer.scale == pytest.approx(1.2)
    assert node.inputs["Scale"].default_value == pytest.approx(1.2)
    assert node.inputs["X"].default_value != placed
    bpy.ops.walkon.reset_layer()
    assert (layer.x, layer.y, layer.scale) == (pytest.approx(x), pytest.approx(y), 1.0)
    assert layer.handle.location.x == pytest.approx(x)


def test_keyframed_layers_move_in_the_render(scene: bpy.types.Scene, layer) -> None:
    node = scene_node(scene)
    x = layer.x
    layer.keyframe_insert("x", frame=1)
    layer.x = x + 50
    layer.keyframe_insert("x", frame=11)
    scene.frame_set(1)
    first = node.inputs["X"].default_value
    scene.frame_set(11)
    assert node.inputs["X"].default_value - first == pytest.approx(50, abs=1e-3)


def test_two_layers_and_their_removal_leave_the_artists_nodes_alone(
    scene: bpy.types.Scene, tmp_path: Path
) -> None:
    compat, layers = part("compat"), part("layers")
    tree = compat.make_compositor_tree(scene)
    output = compat.ensure_output(tree)
    blur = tree.nodes.new("CompositorNodeBlur")
    tree.links.new(output.inputs[0].links[0].from_socket, blur.inputs["Image"])
    tree.links.new(blur.outputs["Image"], output.inputs[0])

    def wiring():
        return sorted((link.from_node.name, link.to_node.name) for link in tree.links)

    mine, picture_before = wiring(), render(scene, tmp_path)
    for x in (30, 200):
        layers.add(scene, picture(), x, 70, 1.0, person(x + 30.0, 75.0, 100.0))
    assert len([node for node in tree.nodes if node.type == "GROUP"]) == 2
    both = render(scene, tmp_path)
    assert (both[100, 60] != picture_before[100, 60]).any()
    assert (both[100, 230] != picture_before[100, 230]).any()
    scene.walkon.layer_index = 0
    bpy.ops.walkon.remove_layer()
    one = render(scene, tmp_path)
    assert (one[100, 60] == picture_before[100, 60]).all()
    assert (one[100, 230] != picture_before[100, 230]).any()
    bpy.ops.walkon.remove_layer()
    assert wiring() == mine
    assert np.array_equal(render(scene, tmp_path), picture_before)
    assert not [group.name for group in bpy.data.node_groups if group.name.startswith("Walk-On")]
    assert not [thing.name for thing in bpy.data.objects if thing.name.startswith("Walk-On")]
    assert not [image.name for image in bpy.data.images if image.name.startswith("Walk-On")]


def test_removing_the_last_layer_switches_a_compositor_of_ours_off(scene: bpy.types.Scene, layer) -> None:
    compat = part("compat")
    assert compat.compositor_tree(scene) is not None
    assert scene.walkon.made_compositor
    bpy.ops.walkon.remove_layer()
    assert compat.compositor_tree(scene) is None
    assert not scene.walkon.made_compositor


def test_layers_and_suggestions_survive_save_and_load(scene: bpy.types.Scene, layer, tmp_path: Path) -> None:
    work, skeleton = scene.walkon, person(missing=(16,))
    work.people.add().skeleton = skeleton
    candidate = work.candidates.add()
    candidate.suggested.skeleton = candidate.edited.skeleton = skeleton
    work.candidate_index = 0
    part("skeleton_rig").build(scene, skeleton, skeleton)
    layer.opacity = 0.25
    x = layer.x
    rendered = render(scene, tmp_path)
    path = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    work = scene.walkon
    assert work.layer.image.packed_file is not None
    assert (work.layer.opacity, work.layer.x) == (0.25, pytest.approx(x))
    kept = part("scene_picture").pixels(work.layer.image)
    assert np.array_equal(kept[:120, :61], picture())
    assert not kept[:, 61:, 3].any()
    back = part("skeleton_rig").read(work.rig, work.candidate.edited.skeleton)
    assert np.abs(back.xy - skeleton.xy)[skeleton.visible].max() < 3e-3
    assert not back.visible[16]
    assert np.allclose(work.people[0].skeleton.xy, skeleton.xy, atol=1e-4)
    assert np.array_equal(render(scene, tmp_path), rendered)
    work.layer.x += 10  # card and nodes still follow
    assert work.layer.handle.location.x == pytest.approx(x + 10)


def test_undo_takes_a_layer_back(scene: bpy.types.Scene) -> None:
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    part("layers").add(scene, picture(), 130, 70, 1.0, person())
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert not scene.walkon.layers
    assert part("compat").compositor_tree(scene) is None
    bpy.ops.ed.redo()
    scene = bpy.context.scene
    assert scene.walkon.layer is not None
    assert scene.walkon.layer.image.size[1] == 120
    scene.walkon.layer.x += 5
