# SPDX-License-Identifier: Apache-2.0
"""Poses from motion capture: Acclaim (ASF skeleton, AMC motion) and BVH files, and their transfer to a rigged body.

Rotations are 3x3 float64 matrices that act on column vectors. A body's pose is a dictionary from bone name to the
rotation of that bone against its parent, expressed in the world axes of the rest pose, so that identity
everywhere is the rest pose whatever the bones' own axes are.

The Acclaim conventions follow https://research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/ASF-AMC.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Pose = dict[str, Array]


def rotation(axis: str, degrees: float) -> Array:
    """Right-handed rotation about a coordinate axis, `"x"`, `"y"` or `"z"`."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    angle = np.deg2rad(degrees)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def euler(degrees: ArrayLike) -> Array:
    """Rotation by x, then y, then z about fixed axes (Acclaim's order)."""
    x, y, z = np.asarray(degrees, dtype=np.float64)
    return rotation("z", z) @ rotation("y", y) @ rotation("x", x)


def cross(a: Sequence[float] | Array, b: Sequence[float] | Array) -> Array:
    """The cross product of two vectors `(3,)`; numpy's is made for many and slow for two."""
    (ax, ay, az), (bx, by, bz) = (float(v) for v in a), (float(v) for v in b)
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def rotation_about(axis: ArrayLike, degrees: float) -> Array:
    """Right-handed rotation about any axis `(3,)` of nonzero length (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * turn + (1 - np.cos(angle)) * turn @ turn


def shortest_rotation(start: ArrayLike, end: ArrayLike) -> Array:
    """The smallest rotation that turns the direction `start` into the direction `end`, both `(3,)`."""
    a = np.asarray(start, dtype=np.float64) / np.linalg.norm(start)
    b = np.asarray(end, dtype=np.float64) / np.linalg.norm(end)
    axis = cross(a, b)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-9:
        if a @ b > 0:
            return np.eye(3)
        axis = cross(a, np.eye(3)[np.argmin(np.abs(a))])  # opposite: any axis across will do
    return rotation_about(axis, float(np.rad2deg(np.arctan2(sine, a @ b))))


@dataclass(frozen=True)
class AcclaimBone:
    """One bone of an ASF file: its rest direction, its own axes and the angles it has."""

    parent: str | None = None
    direction: Array = field(default_factory=lambda: np.zeros(3))
    axes: Array = field(default_factory=lambda: np.eye(3))
    angles: tuple[str, ...] = ()


def read_asf(path: Path) -> dict[str, AcclaimBone]:
    """The bones of an Acclaim skeleton file by name, parents before children, `"root"` first."""
    parents: dict[str, str] = {}
    fields: dict[str, dict[str, list[str]]] = {}
    section = ""
    bone: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0].startswith(":"):
            section = words[0]
        elif section == ":bonedata":
            if words[0] == "begin":
                bone = {}
            elif words[0] == "end":
                fields[bone["name"][0]] = bone
            else:
                bone[words[0]] = words[1:]
        elif section == ":hierarchy" and words[0] not in ("begin", "end"):
            parents.update(dict.fromkeys(words[1:], words[0]))
    bones = {"root": AcclaimBone()}
    for name in parents:  # the file lists every parent before its children
        values = fields[name]
        bones[name] = AcclaimBone(
            parents[name],
            np.array(values["direction"], dtype=np.float64),
            euler(np.array(values["axis"][:3], dtype=np.float64)),
            tuple(values.get("dof", ())),
        )
    return bones


def read_amc(path: Path, step: int = 1) -> list[dict[str, Array]]:
    """Every `step`-th frame of an Acclaim motion file: angles in degrees by bone; root has 3 lengths, then 3 angles."""
    frames: list[dict[str, Array]] = []
    count, keep = 0, False
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 1 and words[0].isdigit():
            keep = count % step == 0
            count += 1
            if keep:
                frames.append({})
        elif keep and len(words) > 1:
            frames[-1][words[0]] = np.array(words[1:], dtype=np.float64)
    return frames


def acclaim_rotations(bones: Mapping[str, AcclaimBone], frame: Mapping[str, Array]) -> Pose:
    """World rotation of every bone against the ASF rest pose."""
    world: Pose = {}
    for name, bone in bones.items():
        if bone.parent is None:
            world[name] = euler(frame["root"][3:6])
            continue
        angles = dict(zip(bone.angles, frame.get(name, ()), strict=False))
        local = euler([angles.get(key, 0.0) for key in ("rx", "ry", "rz")])
        world[name] = world[bone.parent] @ bone.axes @ local @ bone.axes.T
    return world


_SPINE = {
    "root": "root", "spine05": "root", "spine04": "lowerback", "spine03": "lowerback", "spine02": "upperback",
    "spine01": "thorax", "neck01": "lowerneck", "neck02": "upperneck", "head": "head",
}  # fmt: skip
_LIMBS = {
    "clavicle": "clavicle", "upperarm01": "humerus", "upperarm02": "humerus", "lowerarm01": "radius",
    "lowerarm02": "wrist", "wrist": "hand", "upperleg01": "femur", "upperleg02": "femur",
    "lowerleg01": "tibia", "lowerleg02": "tibia", "foot": "foot",
}  # fmt: skip
_TO_ACCLAIM = _SPINE | {f"{a}.{s}": s.lower() + b for a, b in _LIMBS.items() for s in "LR"}
# The two rest poses differ in the limbs' directions: (MakeHuman bone, the next one), Acclaim bone.
_ALIGNED = (
    ("upperarm01", "lowerarm01", "humerus"), ("lowerarm01", "wrist", "radius"),
    ("upperleg01", "lowerleg01", "femur"), ("lowerleg01", "foot", "tibia"),
)  # fmt: skip


def retarget(
    names: Sequence[str],
    parents: Sequence[int],
    heads: Array,
    bones: Mapping[str, AcclaimBone],
    frame: Mapping[str, Array],
) -> Pose:
    """The pose of a body with MakeHuman's bones that matches an Acclaim frame.

    Args:
        names: bone names, parents before children.
        parents: index of each bone's parent, -1 for the root.
        heads (`(len(names), 3)`): bone heads of the rest pose, y up, facing +z.
        bones, frame: from `read_asf` and `read_amc`.
    """
    world = acclaim_rotations(bones, frame)
    index = {name: i for i, name in enumerate(names)}
    align: Pose = {}
    for side in "LR":
        for start, end, bone in _ALIGNED:
            direction = heads[index[f"{end}.{side}"]] - heads[index[f"{start}.{side}"]]
            align[side.lower() + bone] = shortest_rotation(direction, bones[side.lower() + bone].direction)
        align[side.lower() + "wrist"] = align[side.lower() + "hand"] = align[side.lower() + "radius"]
    turned: list[Array] = []
    pose: Pose = {}
    for name, parent in zip(names, parents, strict=True):
        above = turned[parent] if parent >= 0 else np.eye(3)
        bone = _TO_ACCLAIM.get(name, "")
        turned.append(world[bone] @ align.get(bone, np.eye(3)) if bone in world else above)
        pose[name] = above.T @ turned[-1]
    return pose


def read_bvh(path: Path, frame: int = 0) -> Pose:
    """The pose of one frame of a BVH file whose bones have the world's axes, as MakeHuman's have."""
    channels: list[tuple[str, list[str]]] = []
    values: list[list[float]] = []
    in_motion = False
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] in ("ROOT", "JOINT"):
            channels.append((words[1], []))
        elif words[0] == "CHANNELS":
            channels[-1] = (channels[-1][0], words[2:])
        elif words[0] == "MOTION":
            in_motion = True
        elif in_motion and words[0][0] in "-.0123456789":
            values.append([float(word) for word in words])
    numbers = iter(values[frame])
    pose: Pose = {}
    for name, kinds in channels:
        matrix = np.eye(3)
        for kind in kinds:
            number = next(numbers)
            if kind.endswith("rotation"):
                matrix = matrix @ rotation(kind[0].lower(), number)
        pose[name] = matrix
    return pose
