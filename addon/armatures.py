# SPDX-License-Identifier: GPL-3.0-or-later
"""The characters of the scene as skeletons: their armatures' joints projected through the active camera.

Joints that something else in the scene hides are not visible; a character's own body hides nothing, as in
photos, where people know where an arm behind a back is.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from .bone_names import MAPPED, is_person, joints_of
from .camera_plane import plane_matrix
from .shared.errors import BadInput
from .shared.skeleton import JOINTS, L_HIP, NECK, R_HIP, Skeleton

# The face, in torso lengths (neck to mid-hip) from the base of the skull: to the person's left, up, forward.
# After an average adult: torso 0.50 m, eyes 0.06 m apart, ears 0.15 m.
_FACE = {
    "nose": (0.0, 0.12, 0.25),
    "right_eye": (-0.065, 0.18, 0.18),
    "left_eye": (0.065, 0.18, 0.18),
    "right_ear": (-0.15, 0.14, 0.02),
    "left_ear": (0.15, 0.14, 0.02),
}
_NEAR = 0.2  # torso lengths: what is as near to a joint as this is cloth or skin, no obstacle
_STEP = 1e-4  # of the distance: a ray goes on behind what it may pass
_MOST_HITS = 64
_NOTHING = 1e-9


def characters(scene: bpy.types.Scene) -> dict[bpy.types.Object, set[bpy.types.Object]]:
    """The armatures of the scene that are people and are rendered, each with its body: what it deforms or carries.

    A character is rendered by its meshes, which may be shown without the armature; by itself where it has none.
    """
    bodies: dict[bpy.types.Object, set[bpy.types.Object]] = {
        thing: set() for thing in scene.objects if thing.type == "ARMATURE" and thing != scene.walkon.rig
    }
    for thing in scene.objects if bodies else ():
        if thing.type in ("MESH", "CURVE", "CURVES", "SURFACE", "META"):
            deforming = [m.object for m in thing.modifiers if m.type == "ARMATURE"]
            for armature in (*deforming, *_parents(thing)):
                if armature in bodies:
                    bodies[armature].add(thing)
    return {
        armature: body
        for armature, body in bodies.items()
        if is_person(bones_of(armature)) and not all(thing.hide_render for thing in (body or (armature,)))
    }


def bones_of(armature: bpy.types.Object) -> dict[str, str]:
    """Joint to bone of an armature: as the artist named them, otherwise as the names tell."""
    named = armature.data.walkon_bones
    by_hand = {joint: bone for joint in MAPPED if (bone := getattr(named, joint))}
    return joints_of(armature.data.bones.keys(), by_hand)


def people(scene: bpy.types.Scene, size: tuple[int, int]) -> list[tuple[bpy.types.Object, Skeleton]]:
    """The characters that the camera sees, as they stand in the current frame.

    Args:
        size (`(int, int)`): width and height of the picture, in whose pixels the skeletons are.

    Returns:
        armature and skeleton of those with at least three visible joints.

    Raises:
        BadInput: no camera, or one that is neither perspective nor orthographic.
    """
    depsgraph = bpy.context.evaluated_depsgraph_get()
    seen = [
        (armature, skeleton(scene, depsgraph, armature, body, size))
        for armature, body in characters(scene).items()
    ]
    return [(armature, person) for armature, person in seen if person.visible.sum() >= 3]


def skeleton(
    scene: bpy.types.Scene,
    depsgraph: bpy.types.Depsgraph,
    armature: bpy.types.Object,
    body: set[bpy.types.Object],
    size: tuple[int, int],
) -> Skeleton:
    """One character with its body, in pixels of a picture of that size.

    Joints behind the camera, outside the frame or behind other things are not visible.

    Raises:
        BadInput: as `people`.
    """
    points, known = joints_in_world(armature.evaluated_get(depsgraph), bones_of(armature))
    xy, in_front = to_pixels(scene, points, size)
    known &= in_front & (xy >= 0).all(1) & (xy <= size).all(1)
    torso = float(np.linalg.norm(points[NECK] - (points[R_HIP] + points[L_HIP]) / 2))
    for joint in np.flatnonzero(known):
        known[joint] = not _hidden(scene, depsgraph, Vector(points[joint]), body, _NEAR * torso)
    return Skeleton(xy, known)


def joints_in_world(
    armature: bpy.types.Object, bones: dict[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """`(18, 3)` places of the joints and which of them are known; those of the face are told from the head's
    bone where they have none of their own.

    Args:
        armature (`Object`): evaluated.
        bones: joint to bone, as of `bones_of`.
    """
    matrix, pose = armature.matrix_world, armature.pose.bones
    at = {joint: np.array(matrix @ pose[bone].head) for joint, bone in bones.items()}
    right, left = at.get("right_shoulder"), at.get("left_shoulder")
    hips = [at[joint] for joint in ("right_hip", "left_hip") if joint in at]
    if right is not None and left is not None:
        at["neck"] = (right + left) / 2
        if hips and "head" in at:
            for joint, place in _face(armature, bones["head"], bones, at["head"]).items():
                at.setdefault(joint, place)
    points = np.array([at.get(joint, np.zeros(3)) for joint in JOINTS])
    return points, np.array([joint in at for joint in JOINTS])


def _face(
    armature: bpy.types.Object, head: str, bones: dict[str, str], skull: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Where the face is, by the head's turn from the rest pose, in which a person looks straight ahead."""
    rest = armature.data.bones
    right, left, right_hip, left_hip = (
        np.array(rest[bones[joint]].head_local)
        for joint in ("right_shoulder", "left_shoulder", "right_hip", "left_hip")
    )
    up = (right + left) / 2 - (right_hip + left_hip) / 2
    torso = float(np.linalg.norm(up))
    up = up / max(torso, 1e-9)
    across = left - right
    across = across - up * (across @ up)
    across = across / max(float(np.linalg.norm(across)), 1e-9)
    axes = np.column_stack([across, up, np.cross(across, up)])  # left, up, forward at rest
    bone = armature.pose.bones[head]
    turned = armature.matrix_world.to_3x3() @ (bone.matrix @ rest[head].matrix_local.inverted()).to_3x3()
    frame = np.array(turned) @ axes * torso
    return {joint: skull + frame @ np.array(offset) for joint, offset in _FACE.items()}


def to_pixels(
    scene: bpy.types.Scene, points: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the active camera sees points of the world: `(n, 2)` pixels, and which are in front of it.

    Raises:
        BadInput: as `people`.
    """
    to_world = plane_matrix(scene, size, 1.0)  # of the picture's pixels, one unit before the camera
    camera = scene.camera
    if camera.data.type not in ("PERSP", "ORTHO"):
        raise BadInput(
            f"Camera '{camera.name}' is panoramic",
            "Make it perspective or orthographic, or switch Characters off",
            "lens",
        )
    place = np.array(camera.matrix_world.translation)
    ahead = np.array(camera.matrix_world.to_quaternion() @ Vector((0.0, 0.0, -1.0)))
    depth = (points - place) @ ahead
    if camera.data.type == "PERSP":
        points = place + (points - place) / np.maximum(depth, _NOTHING)[:, None]
    to_pixel = np.array((camera.matrix_world @ to_world).inverted())
    return (points @ to_pixel[:2, :3].T + to_pixel[:2, 3]) * (1.0, -1.0), depth > 0


def _parents(thing: bpy.types.Object) -> Iterator[bpy.types.Object]:
    while thing.parent is not None:
        thing = thing.parent
        yield thing


def _hidden(
    scene: bpy.types.Scene,
    depsgraph: bpy.types.Depsgraph,
    joint: Vector,
    own: set[bpy.types.Object],
    near: float,
) -> bool:
    """Whether something that is rendered and is not the character's own stands before a joint."""
    camera = scene.camera
    start = camera.matrix_world.translation.copy()
    if camera.data.type == "ORTHO":
        ahead = camera.matrix_world.to_quaternion() @ Vector((0.0, 0.0, -1.0))
        start = joint - ahead * (joint - start).dot(ahead)
    way = joint - start
    direction, whole = way.normalized(), way.length
    gone = camera.data.clip_start
    for _ in range(_MOST_HITS):
        if gone >= whole - near:
            return False
        hit, place, _, _, thing, _ = scene.ray_cast(
            depsgraph, start + direction * gone, direction, distance=whole - near - gone
        )
        if not hit:
            return False
        thing = thing.original
        if thing not in own and not thing.hide_render and thing.visible_camera:
            return True
        gone = (place - start).length + _STEP * whole
    return True
