# SPDX-License-Identifier: Apache-2.0
"""Characters of the scene as people of the picture: bones by name, projection against a render, occlusion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import part, render
from mathutils import Vector

# A person of 1.75 m in the rest pose, facing -y: right side at negative x. Heads of the bones.
PLACES = {
    "hips": (0.0, 0.0, 0.95),
    "neck": (0.0, 0.0, 1.45),
    "head": (0.0, 0.0, 1.55),
    **{
        f"{side}_{joint}": (sign * x, y, z)
        for side, sign in (("right", -1), ("left", 1))
        for joint, x, y, z in (
            ("shoulder", 0.19, 0.0, 1.42),
            ("elbow", 0.45, 0.02, 1.40),
            ("wrist", 0.68, 0.0, 1.39),
            ("hip", 0.1, 0.0, 0.92),
            ("knee", 0.11, -0.03, 0.5),
            ("ankle", 0.12, 0.02, 0.09),
        )
    },
}

# What each convention calls the bone whose head is there. After the rigs themselves: Mixamo's FBX, MPFB's
# rig.default.json and rig.game_engine.json, Unreal's mannequin, Daz Genesis, VRoid's VRM.
SCHEMES = {
    "mixamo": {
        "hips": "mixamorig:Hips",
        "neck": "mixamorig:Neck",
        "head": "mixamorig:Head",
        "shoulder": "mixamorig:{Side}Arm",
        "elbow": "mixamorig:{Side}ForeArm",
        "wrist": "mixamorig:{Side}Hand",
        "hip": "mixamorig:{Side}UpLeg",
        "knee": "mixamorig:{Side}Leg",
        "ankle": "mixamorig:{Side}Foot",
        "_": ("mixamorig:{Side}Shoulder", "mixamorig:{Side}ToeBase", "mixamorig:{Side}HandIndex1"),
    },
    "mpfb": {
        "hips": "root",
        "neck": "neck01",
        "head": "head",
        "shoulder": "upperarm01.{S}",
        "elbow": "lowerarm01.{S}",
        "wrist": "wrist.{S}",
        "hip": "upperleg01.{S}",
        "knee": "lowerleg01.{S}",
        "ankle": "foot.{S}",
        "_": (
            "clavicle.{S}",
            "shoulder01.{S}",
            "upperarm02.{S}",
            "lowerarm02.{S}",
            "upperleg02.{S}",
            "toe1-1.{S}",
        ),
    },
    "unreal": {
        "hips": "pelvis",
        "neck": "neck_01",
        "head": "head",
        "shoulder": "upperarm_{s}",
        "elbow": "lowerarm_{s}",
        "wrist": "hand_{s}",
        "hip": "thigh_{s}",
        "knee": "calf_{s}",
        "ankle": "foot_{s}",
        "_": ("clavicle_{s}", "upperarm_twist_01_{s}", "ball_{s}", "index_01_{s}"),
    },
    "daz": {
        "hips": "hip",
        "neck": "neckLower",
        "head": "head",
        "shoulder": "{s}ShldrBend",
        "elbow": "{s}ForearmBend",
        "wrist": "{s}Hand",
        "hip": "{s}ThighBend",
        "knee": "{s}Shin",
        "ankle": "{s}Foot",
        "_": ("{s}Collar", "{s}ShldrTwist", "{s}ThighTwist", "{s}Toe"),
    },
    "vrm": {
        "hips": "J_Bip_C_Hips",
        "neck": "J_Bip_C_Neck",
        "head": "J_Bip_C_Head",
        "shoulder": "J_Bip_{S}_UpperArm",
        "elbow": "J_Bip_{S}_LowerArm",
        "wrist": "J_Bip_{S}_Hand",
        "hip": "J_Bip_{S}_UpperLeg",
        "knee": "J_Bip_{S}_LowerLeg",
        "ankle": "J_Bip_{S}_Foot",
        "_": ("J_Bip_{S}_Shoulder",),
    },
    "biped": {
        "hips": "Bip001 Pelvis",
        "neck": "Bip001 Neck",
        "head": "Bip001 Head",
        "shoulder": "Bip001 {S} UpperArm",
        "elbow": "Bip001 {S} Forearm",
        "wrist": "Bip001 {S} Hand",
        "hip": "Bip001 {S} Thigh",
        "knee": "Bip001 {S} Calf",
        "ankle": "Bip001 {S} Foot",
        "_": ("Bip001 {S} Clavicle", "Bip001 {S} Toe0", "Bip001 {S} Finger0"),
    },
    "character creator": {
        "hips": "CC_Base_Hip",
        "neck": "CC_Base_NeckTwist01",
        "head": "CC_Base_Head",
        "shoulder": "CC_Base_{S}_Upperarm",
        "elbow": "CC_Base_{S}_Forearm",
        "wrist": "CC_Base_{S}_Hand",
        "hip": "CC_Base_{S}_Thigh",
        "knee": "CC_Base_{S}_Calf",
        "ankle": "CC_Base_{S}_Foot",
        "_": ("CC_Base_{S}_Clavicle", "CC_Base_{S}_UpperarmTwist01", "CC_Base_{S}_ToeBase"),
    },
    "auto-rig pro": {
        "hips": "root.x",
        "neck": "neck.x",
        "head": "head.x",
        "shoulder": "arm_stretch.{s}",
        "elbow": "forearm_stretch.{s}",
        "wrist": "hand.{s}",
        "hip": "thigh_stretch.{s}",
        "knee": "leg_stretch.{s}",
        "ankle": "foot.{s}",
        "_": ("shoulder.{s}", "c_arm_fk.{s}", "arm_twist.{s}", "forearm_twist.{s}", "toes_01.{s}"),
    },
    "smpl": {
        "hips": "Pelvis",
        "neck": "Neck",
        "head": "Head",
        "shoulder": "{S}_Shoulder",
        "elbow": "{S}_Elbow",
        "wrist": "{S}_Wrist",
        "hip": "{S}_Hip",
        "knee": "{S}_Knee",
        "ankle": "{S}_Ankle",
        "_": ("{S}_Collar", "{S}_Foot", "{S}_Hand"),
    },
    "plain": {
        "hips": "pelvis",
        "neck": "neck",
        "head": "head",
        "shoulder": "arm.{S}",
        "elbow": "elbow.{S}",
        "wrist": "wrist.{S}",
        "hip": "leg.{S}",
        "knee": "knee.{S}",
        "ankle": "ankle.{S}",
        "_": ("shoulder.{S}",),
    },
}


def names(scheme: dict[str, object]) -> tuple[dict[str, str], list[str]]:
    """Place to bone, and the other bones that such a rig has."""

    def sided(text: str, side: str) -> str:
        return text.format(Side=side.title(), S=side[0].upper(), s=side[0])

    bones = {place: scheme[place] for place in ("hips", "neck", "head")}
    for side in ("right", "left"):
        for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
            bones[f"{side}_{joint}"] = sided(scheme[joint], side)
    return bones, [sided(text, side) for text in scheme["_"] for side in ("right", "left")]


def make_character(scene: bpy.types.Scene, scheme: dict[str, object], name: str = "Character"):
    """An armature with these bones' names and a thin body that it deforms."""
    bones, others = names(scheme)
    armature = bpy.data.armatures.new(name)
    rig = bpy.data.objects.new(name, armature)
    scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for place, bone_name in bones.items():
        bone = armature.edit_bones.new(bone_name)
        bone.head = PLACES[place]
        bone.tail = Vector(PLACES[place]) + Vector((0.0, 0.0, 0.1))
    for index, bone_name in enumerate(others):
        bone = armature.edit_bones.new(bone_name)
        bone.head, bone.tail = (0.3, 0.1 * index, 0.2), (0.3, 0.1 * index, 0.3)
    edit = armature.edit_bones
    for side in ("right", "left"):
        for above, below in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            edit[bones[f"{side}_{below}"]].parent = edit[bones[f"{side}_{above}"]]
    bpy.ops.object.mode_set(mode="OBJECT")
    mesh = bpy.data.meshes.new(f"{name} body")
    mesh.from_pydata(
        [(-0.2, -0.1, 0.0), (0.2, -0.1, 0.0), (0.2, -0.1, 1.7), (-0.2, -0.1, 1.7)], [], [(0, 1, 2, 3)]
    )
    body = bpy.data.objects.new(f"{name} body", mesh)
    body.modifiers.new("Armature", "ARMATURE").object = rig
    scene.collection.objects.link(body)
    return rig, bones


@pytest.fixture
def wide(scene: bpy.types.Scene) -> bpy.types.Scene:
    """The camera sees a whole person at the origin, from the front and a little from the side."""
    scene.camera.location, scene.camera.rotation_euler = (1.2, -4.6, 1.6), (1.45, 0.0, 0.25)
    scene.camera.data.lens = 35.0
    bpy.context.view_layer.update()
    return scene


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bones_are_found_by_their_names(wide: bpy.types.Scene, scheme: str) -> None:
    rig, bones = make_character(wide, SCHEMES[scheme])
    found = part("armatures").bones_of(rig)
    assert {joint: found.get(joint) for joint in bones if joint not in ("hips", "neck")} == {
        joint: bone for joint, bone in bones.items() if joint not in ("hips", "neck")
    }
    assert [thing for thing, _ in part("armatures").people(wide, (320, 240))] == [rig]


# Rigify's own human. In another process, which leaves at once: wherever Rigify was enabled, Blender 4.2 crashes
# and 4.5 hangs when it exits.
_METARIG = """
import bpy, addon_utils, os, sys
addon_utils.enable("rigify", default_set=True)
bpy.ops.object.armature_human_metarig_add()
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1])
os._exit(0)
"""


def test_rigify_as_it_ships(wide: bpy.types.Scene, tmp_path: Path) -> None:
    path = tmp_path / "metarig.blend"
    subprocess.run([sys.executable, "-c", _METARIG, path], check=True, timeout=120)
    with bpy.data.libraries.load(str(path)) as (there, here):
        here.objects = [name for name in there.objects if name == "metarig"]
    (metarig,) = here.objects
    wide.collection.objects.link(metarig)
    bpy.context.view_layer.update()
    found = part("armatures").bones_of(metarig)
    expected = {
        "head": "spine.006",
        "right_shoulder": "upper_arm.R",
        "left_elbow": "forearm.L",
        "right_wrist": "hand.R",
        "left_hip": "thigh.L",
        "right_knee": "shin.R",
        "left_ankle": "foot.L",
        "right_eye": "eye.R",
        "left_ear": "ear.L",
    }
    assert {joint: found[joint] for joint in expected} == expected
    # Of a generated rig the deforming bones are taken, not the controls.
    generated = [
        name for bone in metarig.data.bones for name in (bone.name, f"DEF-{bone.name}", f"ORG-{bone.name}")
    ]
    chosen = part("bone_names").joints_of([*generated, "DEF-upper_arm.R.001", "MCH-upper_arm_parent.R"])
    assert chosen["right_shoulder"] == "DEF-upper_arm.R"
    assert chosen["head"] == "DEF-spine.006"
    controls = ["ORG-eye.R", "eye.R", "MCH-eye.R"]
    assert part("bone_names").joints_of(controls) == {"right_eye": "ORG-eye.R"}
    # Its face is where the meta-rig has it; ours, told from the head alone, is near.
    armatures = part("armatures")
    whole, known = armatures.joints_in_world(metarig, found)
    without = {joint: bone for joint, bone in found.items() if "eye" not in joint and "ear" not in joint}
    told, told_known = armatures.joints_in_world(metarig, without)
    assert known.all()
    assert told_known.all()
    assert np.linalg.norm(whole - told, axis=1)[14:].max() < 0.06, "metres"


def test_other_armatures_are_no_people(wide: bpy.types.Scene) -> None:
    armature = bpy.data.armatures.new("Crane")
    crane = bpy.data.objects.new("Crane", armature)
    wide.collection.objects.link(crane)
    bpy.context.view_layer.objects.active = crane
    bpy.ops.object.mode_set(mode="EDIT")
    for index, name in enumerate(("base", "arm", "arm.001", "hook")):
        bone = armature.edit_bones.new(name)
        bone.head, bone.tail = (0, 0, index), (0, 0, index + 1)
    bpy.ops.object.mode_set(mode="OBJECT")
    assert part("armatures").people(wide, (320, 240)) == []


def test_bones_named_by_hand_go_first_and_are_saved(wide: bpy.types.Scene, tmp_path: Path) -> None:
    bones, _ = names(SCHEMES["plain"])
    strange = {
        place: f"bone_{index}" for index, place in enumerate(("hips", "neck", "head", *list(bones)[3:]))
    }
    scheme = {place: strange[place] for place in ("hips", "neck", "head")}
    rig, _ = make_character(wide, {**SCHEMES["plain"], **scheme})
    for place, name in bones.items():  # rename all to names that tell nothing
        if name in rig.data.bones:
            rig.data.bones[name].name = strange[place]
    assert part("armatures").people(wide, (320, 240)) == []
    for place, name in strange.items():
        if hasattr(rig.data.walkon_bones, place):
            setattr(rig.data.walkon_bones, place, name)
    assert len(part("armatures").people(wide, (320, 240))) == 1
    path = str(tmp_path / "named.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    assert scene.objects["Character"].data.walkon_bones.right_elbow == strange["right_elbow"]
    assert len(part("armatures").people(scene, (320, 240))) == 1


CAMERAS = {
    "plain": {},
    "shifted": {"shift_x": 0.1, "shift_y": -0.08},
    "vertical fit": {"sensor_fit": "VERTICAL"},
    "ortho": {"type": "ORTHO", "ortho_scale": 4.0},
    "pixel aspect": {"aspect": (1.0, 1.5)},
    "portrait": {"size": (240, 320), "lens": 24.0},
    "scaled": {"scale": (2.0, 0.5, 3.0)},
}


@pytest.mark.parametrize("camera", CAMERAS)
def test_joints_are_where_a_render_shows_them(wide: bpy.types.Scene, tmp_path: Path, camera: str) -> None:
    settings = dict(CAMERAS[camera])
    wide.render.pixel_aspect_x, wide.render.pixel_aspect_y = settings.pop("aspect", (1.0, 1.0))
    size = settings.pop("size", (320, 240))
    wide.render.resolution_x, wide.render.resolution_y = size
    wide.camera.scale = settings.pop("scale", (1.0, 1.0, 1.0))
    for name, value in settings.items():
        setattr(wide.camera.data, name, value)
    rig, bones = make_character(wide, SCHEMES["mixamo"])
    rig.location = 0.1, 0.2, 0.05
    rig.rotation_euler = 0.0, 0.1, 0.3
    rig.pose.bones[bones["right_shoulder"]].rotation_mode = "XYZ"
    rig.pose.bones[bones["right_shoulder"]].rotation_euler = 0.4, 0.3, 0.5
    bpy.data.objects["Character body"].hide_render = True
    bpy.data.objects["Character body"].visible_camera = False
    rig.hide_render = False
    bpy.context.view_layer.update()

    skeleton_module = part("shared.skeleton")
    depsgraph = bpy.context.evaluated_depsgraph_get()
    skeleton = part("armatures").skeleton(wide, depsgraph, rig, set(), size)
    wide.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0, 0, 0, 1)
    glow = bpy.data.materials.new("Glow")
    if bpy.app.version < (5, 0, 0):
        glow.use_nodes = True
    glow.node_tree.nodes.clear()
    emission = glow.node_tree.nodes.new("ShaderNodeEmission")
    output = glow.node_tree.nodes.new("ShaderNodeOutputMaterial")
    glow.node_tree.links.new(emission.outputs[0], output.inputs[0])
    wide.cycles.samples = 4
    bpy.ops.mesh.primitive_uv_sphere_add(radius=0.06, segments=24, ring_count=12)
    ball = bpy.context.object
    ball.data.materials.append(glow)
    checked = 0
    for joint in ("right_wrist", "left_shoulder", "right_ankle"):
        index = skeleton_module.JOINTS.index(joint)
        ball.location = rig.matrix_world @ rig.pose.bones[bones[joint]].head
        if not skeleton.visible[index]:
            continue
        seen = render(wide, tmp_path).astype(float).sum(-1)
        rows, columns = np.indices(seen.shape)
        centre = (columns * seen).sum() / seen.sum() + 0.5, (rows * seen).sum() / seen.sum() + 0.5
        assert np.allclose(skeleton.xy[index], centre, atol=0.35), (joint, skeleton.xy[index], centre)
        checked += 1
    assert checked >= 2


def test_what_stands_before_a_joint_hides_it_and_the_own_body_does_not(wide: bpy.types.Scene) -> None:
    rig, _ = make_character(wide, SCHEMES["mpfb"])
    armatures, joints = part("armatures"), part("shared.skeleton").JOINTS

    def hidden() -> set[str]:
        bpy.context.view_layer.update()
        ((_, skeleton),) = armatures.people(wide, (320, 240))
        return {joint for joint, seen in zip(joints, skeleton.visible, strict=True) if not seen}

    assert hidden() == set(), "the body stands before every joint"
    mesh = bpy.data.meshes.new("Wall")
    mesh.from_pydata([(-2, -1, 0), (2, -1, 0), (2, -1, 0.85), (-2, -1, 0.85)], [], [(0, 1, 2, 3)])
    wall = bpy.data.objects.new("Wall", mesh)
    wide.collection.objects.link(wall)
    assert hidden() == {"right_knee", "left_knee", "right_ankle", "left_ankle"}
    wall.hide_render = True
    assert hidden() == set(), "what is not rendered hides nothing"
    wall.hide_render, wall.visible_camera = False, False
    assert hidden() == set(), "what the camera does not see hides nothing"
    wall.visible_camera = True
    wall.location.y = 1.5
    assert hidden() == set(), "what stands behind hides nothing"
    # Another character hides too.
    wall.location.y = 0.0
    wall.parent = rig
    assert hidden() == set(), "what the armature carries is the character's own"
    wide.camera.data.type = "ORTHO"
    wide.camera.data.ortho_scale = 5.0
    wall.parent = None
    assert {"right_ankle", "left_ankle"} <= hidden()


def test_joints_outside_the_frame_or_behind_the_camera_are_not_visible(wide: bpy.types.Scene) -> None:
    rig, _ = make_character(wide, SCHEMES["mixamo"])
    wide.camera.data.lens = 110.0
    bpy.context.view_layer.update()
    ((_, skeleton),) = part("armatures").people(wide, (320, 240))
    assert 3 <= skeleton.visible.sum() < 18
    assert (skeleton.xy[skeleton.visible] >= 0).all()
    rig.location.y = -20.0
    bpy.context.view_layer.update()
    assert part("armatures").people(wide, (320, 240)) == []


def test_panoramic_cameras_are_refused_with_a_way_out(wide: bpy.types.Scene) -> None:
    make_character(wide, SCHEMES["mixamo"])
    wide.camera.data.type = "PANO"
    with pytest.raises(RuntimeError, match="Camera 'Camera' is panoramic"):
        bpy.ops.walkon.read_characters()
    assert "switch Characters off" in bpy.context.window_manager.walkon.error_fix
    wide.walkon.use_armatures = False
    assert bpy.ops.walkon.read_characters() == {"FINISHED"}


def test_the_list_of_people(wide: bpy.types.Scene) -> None:
    """Found, seen by their armature, added by hand: each kept, corrected and removed."""
    work, walkon = wide.walkon, bpy.ops.walkon
    rig, _ = make_character(wide, SCHEMES["mixamo"])
    people = part("people_operators")
    ((_, seen),) = part("armatures").people(wide, (320, 240))
    posing = part("posing")
    other = posing.standing((60.0, 200.0), 90.0)
    blurred = seen.transformed(1.0, (2.5, -1.5))
    people.fill(wide, [blurred, other])
    assert [person.source for person in work.people] == ["PIXELS", "ARMATURE"]
    assert work.people[1].armature == rig
    assert work.people[1].skeleton == seen or np.allclose(work.people[1].skeleton.xy, seen.xy, atol=1e-3)

    assert walkon.add_person(x=250.0, y=220.0, height=100.0) == {"FINISHED"}
    assert (work.people[2].source, work.rig_shows, work.rig_person) == ("HAND", "PERSON", 2)
    assert work.rig.mode == "POSE"
    work.rig.pose.bones["wrist.L"].location.x += 9.0
    work.people[0].enabled = False
    people.fill(wide, [other])  # found again
    assert [person.source for person in work.people] == ["PIXELS", "ARMATURE", "HAND"]
    assert not work.people[0].enabled, "who was switched off stays off"
    by_hand = work.people[2]
    assert by_hand.edited.skeleton.xy[7][0] - by_hand.suggested.skeleton.xy[7][0] == pytest.approx(
        9, abs=0.01
    )
    assert by_hand.locked == [7]
    assert len(work.context) == 2
    assert work.rig is None, "the list was made anew: nobody is being corrected"

    # The character moves on; the others stay.
    rig.location.x += 0.5
    bpy.context.view_layer.update()
    before = work.people[1].skeleton.xy[0][0]
    assert walkon.read_characters() == {"FINISHED"}
    assert work.people[1].skeleton.xy[0][0] > before + 5
    assert [person.source for person in work.people] == ["PIXELS", "ARMATURE", "HAND"]

    work.person_index = 0
    assert walkon.correct_person() == {"FINISHED"}
    work.rig.pose.bones["ankle.R"].location.y -= 6.0
    assert walkon.correct_person() == {"FINISHED"}
    assert work.people[0].locked == [10]
    assert walkon.remove_person() == {"FINISHED"}
    assert [person.source for person in work.people] == ["ARMATURE", "HAND"]
    assert work.rig is None
    work.use_armatures = False
    assert walkon.read_characters() == {"FINISHED"}
    assert [person.source for person in work.people] == ["HAND"]


def test_people_keep_their_place_in_a_picture_of_another_size(wide: bpy.types.Scene) -> None:
    work, people, posing = wide.walkon, part("people_operators"), part("posing")
    work.people.add().skeleton = posing.standing((60.0, 200.0), 90.0)
    work.candidates.add().skeleton = posing.standing((200.0, 210.0), 120.0)
    part("pose_operators").show_candidate(wide, 0)
    work.rig.pose.bones["wrist.L"].location.x += 10.0
    bpy.ops.walkon.new_box(left=40.0, top=100.0, right=120.0, bottom=200.0)
    people.adopt_picture_size(wide, (640, 480))
    assert np.allclose(
        work.people[0].skeleton.box[2:] + work.people[0].skeleton.box[:2], (240, 2 * 400 - 180)
    )
    assert np.allclose(part("place_box").box_of(wide), (80, 200, 240, 400), atol=1e-3)
    part("pose_operators").keep_edits(wide)
    moved = work.candidate.edited.skeleton.xy[7] - work.candidate.suggested.skeleton.xy[7]
    assert np.allclose(moved, (20, 0), atol=0.01)
