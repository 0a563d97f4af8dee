# SPDX-License-Identifier: Apache-2.0
"""Dressed people, rendered: the training pairs of `motion`, and the pictures the demo is made of.

A dressed body (models/wardrobe.py) takes poses of motion capture or made ones and is drawn with OpenGL. One look in
two poses is a pair: two pictures with true alpha, their keypoints with occlusion, and for every pixel of the second
the place in the first that shows the same point of the person.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import mocap
from models.mocap import Pose
from models.wardrobe import (
    DATA,
    Body,
    Bytes,
    Floats,
    Ints,
    Look,
    Piece,
    Split,
    Wardrobe,
    make_look,
    posed,
    vertex_normals,
)
from shared.errors import BadInput
from shared.skeleton import JOINTS

SIZE = 256
FLOW_SIZE = 128
SAMPLES = 3  # rendered pixels a side for each pixel kept
PAIRS_PER_FILE = 200

# What the validation people do is never seen in training.
HELD_OUT_CLIPS = ("01_07", "01_13", "02_02", "02_07", "03_03")


def _unit(vector: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(vector, dtype=np.float64)
    return array / np.linalg.norm(array)


class Poses:
    """Poses of motion capture, of MakeHuman's pose files, and made ones.

    All face +z; only the turn about the vertical is taken out, leaning stays.
    """

    def __init__(self, body: Body, split: Split, data: Path = DATA) -> None:
        self._body = body
        self._index = {name: i for i, name in enumerate(body.names)}
        folder = data / "mocap"
        held_out = split == "val"
        self._skeletons = {
            subject: mocap.read_asf(folder / f"{subject}.asf") for subject in ("01", "02", "03")
        }
        clips = [path for path in sorted(folder.glob("*.amc")) if (path.stem in HELD_OUT_CLIPS) == held_out]
        self._clips = [(path.stem[:2], mocap.read_amc(path, step=4)) for path in clips]  # 5 a second
        self._files = {
            path.stem: mocap.read_bvh(path) for path in sorted((data / "makehuman/poses").glob("*.bvh"))
        }

    def sample(self, look: Look, rng: np.random.Generator) -> Pose:
        """A random pose for that body."""
        kind = rng.choice(["capture", "made", "file"], p=[0.5, 0.42, 0.08])
        if kind == "capture":
            subject, frames = self._clips[rng.integers(len(self._clips))]
            frame = frames[rng.integers(len(frames))]
            bones = self._skeletons[subject]
            pose = mocap.retarget(
                self._body.names, self._body.parents, look.heads.astype(np.float64), bones, frame
            )
            if rng.random() < 0.3:
                self._arms(pose, look, rng)
        elif kind == "file":
            # Most of these are acrobatic; sitting and standing are what a film needs.
            names = list(self._files)
            likely = np.array([3.0 if name.startswith(("sit", "standing")) else 1.0 for name in names])
            pose = dict(self._files[names[rng.choice(len(names), p=likely / likely.sum())]])
        else:
            pose = self._made(look, rng)
        self._head_and_hands(pose, look, rng)
        forward = pose.get("root", np.eye(3)) @ (0, 0, 1)
        pose["root"] = mocap.rotation("y", -np.rad2deg(np.arctan2(forward[0], forward[2]))) @ pose.get(
            "root", np.eye(3)
        )
        return pose

    def near(self, pose: Pose, rng: np.random.Generator) -> Pose:
        """A pose a little different from the given one."""
        changed = dict(pose)
        for side in "LR":
            for bone, most in (("upperarm01", 22), ("lowerarm01", 18), ("upperleg01", 10), ("lowerleg01", 8)):
                name = f"{bone}.{side}"
                changed[name] = changed.get(name, np.eye(3)) @ mocap.rotation_about(
                    rng.normal(size=3), rng.normal(0, most / 2)
                )
        changed["head"] = changed.get("head", np.eye(3)) @ mocap.rotation_about(
            rng.normal(size=3), rng.normal(0, 12)
        )
        return changed

    def _rest_direction(self, look: Look, start: str, end: str) -> NDArray[np.float64]:
        return _unit(look.heads[self._index[end]] - look.heads[self._index[start]])

    def _made(self, look: Look, rng: np.random.Generator) -> Pose:
        pose: Pose = {}
        kind = rng.choice(
            ["stand", "step", "sit", "lean", "squat", "kneel"], p=[0.48, 0.2, 0.16, 0.08, 0.04, 0.04]
        )
        lean = {"lean": rng.uniform(15, 70), "sit": rng.uniform(-12, 30), "squat": rng.uniform(10, 45)}.get(
            kind, rng.normal(2, 4)
        )
        twist, side_lean = rng.normal(0, 9), rng.normal(0, 4)
        bend = (
            mocap.rotation("y", twist / 4)
            @ mocap.rotation("x", lean / 4)
            @ mocap.rotation("z", side_lean / 4)
        )
        pose.update({f"spine0{i}": bend for i in (4, 3, 2, 1)})
        pose["root"] = mocap.rotation("x", lean * 0.25 if kind != "sit" else -rng.uniform(0, 15))
        pose["root"] = pose["root"] @ mocap.rotation("z", rng.normal(0, 3))
        stride = rng.uniform(12, 38) * rng.choice([-1, 1])
        crossed = kind == "sit" and rng.random() < 0.2
        for side, sign in (("L", 1), ("R", -1)):
            out = rng.uniform(-8, 7)  # the rest pose stands astride already
            if kind == "sit":
                flex, knee, out = rng.uniform(65, 100), rng.uniform(55, 105), rng.uniform(-4, 20)
                if crossed and sign == 1:
                    flex, out = 105, -14
            elif kind == "squat":
                flex, knee, out = rng.uniform(80, 120), rng.uniform(90, 130), rng.uniform(5, 25)
            elif kind == "kneel":
                flex, knee = (
                    (rng.uniform(80, 95), rng.uniform(85, 100)) if sign == 1 else (rng.uniform(0, 10), 95)
                )
            elif kind == "step":
                flex = stride * sign + rng.normal(0, 4)
                knee = rng.uniform(0, 15) if flex > 0 else rng.uniform(5, 50)
            else:
                flex, knee = rng.normal(2, 4), abs(rng.normal(0, 6))
                if rng.random() < 0.2:
                    flex, knee = rng.uniform(5, 18), rng.uniform(12, 35)  # the leg without weight
                flex += lean * 0.25 if kind == "lean" else 0
            turn = mocap.rotation("y", sign * rng.uniform(-5, 22))
            leg = mocap.rotation("z", sign * out) @ mocap.rotation("x", -flex) @ turn
            pose[f"upperleg01.{side}"] = leg
            pose[f"lowerleg01.{side}"] = mocap.rotation("x", knee)
            pose[f"foot.{side}"] = mocap.rotation("x", (flex - knee) * 0.85 if kind != "kneel" else 10)
        self._arms(pose, look, rng, sitting=kind in ("sit", "squat", "kneel"))
        return pose

    def _arms(self, pose: Pose, look: Look, rng: np.random.Generator, sitting: bool = False) -> None:
        kinds = ["hang", "hips", "folded", "raised", "talk", "point", "lap", "phone", "behind"]
        likely = (
            [0.12, 0.1, 0.12, 0.17, 0.16, 0.08, 0.15, 0.06, 0.04]
            if sitting
            else [0.36, 0.1, 0.1, 0.16, 0.13, 0.05, 0, 0.06, 0.04]
        )
        both = rng.choice(kinds, p=likely)
        sides: tuple[tuple[Literal["L", "R"], int], ...] = (("L", 1), ("R", -1))
        for side, sign in sides:
            kind = both if rng.random() < 0.6 else rng.choice(kinds, p=likely)
            # Direction of the upper arm and where the forearm bends to, for the left arm.
            around, up = np.deg2rad(rng.uniform(-15, 100)), np.deg2rad(rng.uniform(-15, 80))
            raised = (np.cos(up) * np.cos(around), np.sin(up), np.cos(up) * np.sin(around))
            upper, hint, flex = {
                "hang": (
                    (rng.uniform(0.1, 0.3), -1, rng.uniform(-0.2, 0.2)),
                    (-0.1, 0, 1),
                    rng.uniform(3, 35),
                ),
                "hips": ((0.75, -0.8, rng.uniform(-0.5, 0.0)), (-1, -0.1, 0.5), rng.uniform(85, 110)),
                "folded": ((0.25, -1, rng.uniform(0.3, 0.5)), (-1, 0.3, 0.55), rng.uniform(80, 105)),
                "raised": (raised, (-0.6, 1, 0.4), rng.uniform(0, 110)),
                "talk": (
                    (rng.uniform(0.1, 0.5), -1, rng.uniform(-0.1, 0.5)),
                    (rng.uniform(-0.7, 0.4), 0.3, 1),
                    rng.uniform(45, 120),
                ),
                "point": ((rng.uniform(-0.1, 0.9), rng.uniform(-0.3, 0.4), 1), (0, 1, 0), rng.uniform(0, 25)),
                "lap": (
                    (rng.uniform(0.1, 0.3), -1, rng.uniform(0.3, 0.7)),
                    (-0.25, -0.1, 1),
                    rng.uniform(30, 75),
                ),
                "phone": ((0.6, rng.uniform(-0.9, -0.4), 0.5), (-0.5, 1, 0), rng.uniform(125, 140)),
                "behind": ((0.3, -1, -0.5), (-1, 0, -0.6), rng.uniform(30, 70)),
            }[kind]
            mirror = np.array([sign, 1, 1])
            self.bend_arm(
                pose, look, side, _unit(upper) * mirror, _unit(hint) * mirror, flex, rng.uniform(-30, 45)
            )
            pose[f"wrist.{side}"] = pose[f"wrist.{side}"] @ mocap.rotation_about(
                rng.normal(size=3), rng.normal(0, 14)
            )

    def bend_arm(
        self,
        pose: Pose,
        look: Look,
        side: Literal["L", "R"],
        arm: NDArray[np.float64],
        toward: NDArray[np.float64],
        flex: float,
        twist: float,
    ) -> None:
        """Point an upper arm along `arm` (unit, chest's axes) and bend the elbow by `flex` degrees towards `toward`.

        `twist` (degrees) turns the hand about the forearm; 0 is relaxed, positive turns the thumb towards the body.
        """
        sign = 1 if side == "L" else -1
        shoulder, elbow, wrist = f"upperarm01.{side}", f"lowerarm01.{side}", f"wrist.{side}"
        lift = max(0.0, float(arm[1]) + 0.2) * 22
        pose[f"clavicle.{side}"] = mocap.rotation("z", sign * lift)
        inner = mocap.rotation("z", -sign * lift)  # the upper arm hangs on the clavicle
        turn = inner @ mocap.shortest_rotation(self._rest_direction(look, shoulder, elbow), arm)
        axis = np.cross(arm, toward)
        if np.linalg.norm(axis) < 1e-3:
            axis = np.array([sign, 0.0, 0.0])
        forearm = inner @ mocap.rotation_about(axis, flex) @ arm
        pose[shoulder] = turn
        pose[elbow] = mocap.shortest_rotation(self._rest_direction(look, elbow, wrist), turn.T @ forearm)
        along = self._rest_direction(look, elbow, wrist)
        pose.pop(f"upperarm02.{side}", None)
        pose[f"lowerarm02.{side}"] = pose[wrist] = mocap.rotation_about(along, sign * twist / 2)

    def _head_and_hands(self, pose: Pose, look: Look, rng: np.random.Generator) -> None:
        yaw, pitch, roll = rng.normal(0, 18), rng.normal(0, 9), rng.normal(0, 5)
        third = mocap.rotation("y", yaw / 3) @ mocap.rotation("x", pitch / 3) @ mocap.rotation("z", roll / 3)
        for name in ("neck01", "neck03", "head"):
            pose[name] = pose.get(name, np.eye(3)) @ third
        for side in "LR":
            curl = rng.choice([rng.uniform(5, 25), rng.uniform(25, 70)], p=[0.7, 0.3])
            self.curl_fingers(pose, look, side, curl, rng)

    def curl_fingers(
        self, pose: Pose, look: Look, side: str, degrees: float, rng: np.random.Generator
    ) -> None:
        """Bend every joint of the four fingers by about that angle."""
        for finger in (2, 3, 4, 5):
            along = self._rest_direction(look, f"finger{finger}-1.{side}", f"finger{finger}-3.{side}")
            axis = np.cross(along, (0, -1, 0))
            for joint in (1, 2, 3):
                pose[f"finger{finger}-{joint}.{side}"] = mocap.rotation_about(
                    axis, degrees * rng.uniform(0.8, 1.2)
                )


@dataclass(frozen=True)
class Camera:
    """`matrix` `(4, 4)`: world to clip space of the square frame; `eye` `(3,)`: position."""

    matrix: NDArray[np.float64]
    eye: NDArray[np.float64]

    def project(self, points: NDArray[Any], size: int = SIZE) -> NDArray[np.float64]:
        """Pixels `(N, 2)` of world points `(N, 3)`."""
        clip = np.c_[points, np.ones(len(points))] @ self.matrix.T
        return (clip[:, :2] / clip[:, 3:] * (0.5, -0.5) + 0.5) * size


@dataclass(frozen=True)
class Light:
    """A key light (direction towards it and colour), a fill from the other side, and sky and ground glow; linear."""

    direction: Floats
    key: Floats
    sky: Floats
    ground: Floats
    rim: Floats


@dataclass(frozen=True)
class Shot:
    """One rendered person.

    Args:
        rgba (`(256, 256, 4)`): straight alpha, black where alpha is 0.
        keypoints (`(18, 2)`): pixels.
        seen (`(18,)`): 0 outside the frame, 1 occluded by another part of the person, 2 seen.
        surface (`(256, 256, 4)`), small (`(128, 128, 4)`): for each pixel the rest position of the point seen there
            (decimetres) and the number of its piece plus 1; 0 where there is nothing.
    """

    rgba: Bytes
    keypoints: Floats
    seen: Bytes
    surface: Floats
    small: Floats


_VERTEX = """#version 330
in vec3 place; in vec3 normal; in vec3 rest; in vec2 uv;
uniform mat4 matrix; uniform vec3 eye; uniform float lift; out vec3 n; out vec3 p; out vec3 r; out vec2 t;
void main() {
    gl_Position = matrix * vec4(place, 1);
    // What is worn outside wins by this depth, so that nothing under it pokes through.
    vec4 nearer = matrix * vec4(place + normalize(eye - place) * lift, 1);
    gl_Position.z = nearer.z / nearer.w * gl_Position.w;
    n = normal; p = place; r = rest; t = vec2(uv.x, 1 - uv.y);
}"""

_COLOUR = """#version 330
in vec3 n; in vec3 p; in vec2 t; out vec4 colour;
uniform sampler2D image; uniform sampler2DShadow shadow; uniform mat4 to_light;
uniform vec3 direction; uniform vec3 key; uniform vec3 sky; uniform vec3 ground; uniform vec3 rim;
uniform vec3 eye; uniform vec3 tint; uniform float gloss;
void main() {
    vec4 base = texture(image, t);
    if (base.a < 0.35) discard;
    vec3 view = normalize(eye - p);
    vec3 normal = normalize(n);
    if (dot(normal, view) < 0.0) normal = -normal;
    vec3 albedo = pow(base.rgb, vec3(2.2)) * tint;
    vec3 at = (to_light * vec4(p + normal * 0.12, 1)).xyz * 0.5 + 0.5;
    float lit = 0.0;
    for (int i = -1; i <= 1; i += 2) for (int j = -1; j <= 1; j += 2)
        lit += texture(shadow, vec3(at.xy + vec2(i, j) * 0.0016, at.z - 0.002)) / 4.0;
    float wrap = clamp((dot(normal, direction) + 0.15) / 1.15, 0.0, 1.0) * lit;
    float side = clamp(dot(normal, normalize(vec3(-direction.x, 0.2, -abs(direction.z)))), 0.0, 1.0);
    vec3 half_way = normalize(direction + view);
    vec3 light = key * wrap + rim * side + mix(ground, sky, normal.y * 0.5 + 0.5);
    vec3 sum = albedo * light + key * lit * gloss * pow(max(dot(normal, half_way), 0.0), 30.0);
    colour = vec4(pow(clamp(sum, 0.0, 1.0), vec3(1.0 / 2.2)), 1);
}"""

_SURFACE = """#version 330
in vec3 r; in vec2 t; out vec4 colour; uniform sampler2D image; uniform float number;
void main() { if (texture(image, t).a < 0.35) discard; colour = vec4(r, number); }"""

_DEPTH = """#version 330
in vec2 t; uniform sampler2D image;
void main() { if (texture(image, t).a < 0.35) discard; }"""

_WHOLE = """#version 330
void main() { gl_Position = vec4(vec2[](vec2(-1, -1), vec2(3, -1), vec2(-1, 3))[gl_VertexID], 0, 1); }"""

# Alpha is the share of the pixel covered, colour the mean of what is covered. Row 0 becomes the top row.
_SHRINK = """#version 330
uniform sampler2D fine; uniform int factor; uniform int size; out vec4 colour;
void main() {
    ivec2 at = ivec2(gl_FragCoord.x, size - 1 - int(gl_FragCoord.y)) * factor;
    vec4 sum = vec4(0);
    for (int i = 0; i < factor; i++) for (int j = 0; j < factor; j++) {
        vec4 sample_ = texelFetch(fine, at + ivec2(i, j), 0);
        sum += vec4(sample_.rgb * sample_.a, sample_.a);
    }
    colour = sum.a > 0.0 ? vec4(sum.rgb / sum.a, sum.a / float(factor * factor)) : vec4(0);
}"""


class Renderer:
    """Draws people with OpenGL in memory (EGL; software rendering is enough)."""

    def __init__(self, size: int = SIZE) -> None:
        import moderngl

        self._gl = moderngl
        self.context = moderngl.create_context(standalone=True, backend="egl", require=330)
        self.context.enable(moderngl.DEPTH_TEST)
        self.size = size
        self._colour = self.context.program(vertex_shader=_VERTEX, fragment_shader=_COLOUR)
        self._surface = self.context.program(vertex_shader=_VERTEX, fragment_shader=_SURFACE)
        self._depth = self.context.program(vertex_shader=_VERTEX, fragment_shader=_DEPTH)
        self._picture = self._target(size * SAMPLES, "f1")
        self._shrunk = self._target(size, "f1")
        shrink = self.context.program(vertex_shader=_WHOLE, fragment_shader=_SHRINK)
        shrink["factor"].value, shrink["size"].value = SAMPLES, size
        self._shrink = self.context.vertex_array(shrink, [])
        self._maps = {n: self._target(n, "f4") for n in (size, size // 2)}
        self._shadow = self.context.depth_texture((512, 512))
        self._shadow.compare_func = "<="
        self._shadow_target = self.context.framebuffer(depth_attachment=self._shadow)
        self._look: Look | None = None

    def _target(self, size: int, dtype: str) -> Any:
        colour = self.context.texture((size, size), 4, dtype=dtype)
        return self.context.framebuffer([colour], self.context.depth_renderbuffer((size, size)))

    def _wear(self, look: Look) -> None:
        """Upload what does not change with the pose."""
        if self._look is look:
            return
        if self._look is not None:
            for resource in self._owned:
                resource.release()
        gl = self._gl
        corners = np.concatenate([piece.corners for piece in look.pieces])
        self._corners = corners
        fixed = np.concatenate(
            [look.vertices[corners], np.concatenate([piece.uv for piece in look.pieces])], axis=1
        )
        self._moving_buffer = self.context.buffer(reserve=len(corners) * 24, dynamic=True)
        fixed_buffer = self.context.buffer(fixed.astype("f4").tobytes())
        self._owned: list[Any] = [self._moving_buffer, fixed_buffer]
        self._draws: list[tuple[Any, dict[str, Any], Piece]] = []
        start = 0
        for piece in look.pieces:
            texture = self.context.texture(
                piece.texture.shape[1::-1], 4, np.ascontiguousarray(piece.texture).tobytes()
            )
            texture.build_mipmaps()
            texture.filter = (gl.LINEAR_MIPMAP_LINEAR, gl.LINEAR)
            index = self.context.buffer((piece.triangles + start).astype("i4").tobytes())
            arrays = {}
            for name, program, moving, still in (
                ("colour", self._colour, ("3f 3f", "place", "normal"), ("3x4 2f", "uv")),
                ("surface", self._surface, ("3f 3x4", "place"), ("3f 2f", "rest", "uv")),
                ("depth", self._depth, ("3f 3x4", "place"), ("3x4 2f", "uv")),
            ):
                layout = [(self._moving_buffer, *moving), (fixed_buffer, *still)]
                arrays[name] = self.context.vertex_array(program, layout, index)
            self._draws.append((texture, arrays, piece))
            self._owned += [texture, index, *arrays.values()]
            start += len(piece.corners)
        self._look = look

    def draw(self, body: Body, look: Look, vertices: Floats, camera: Camera, light: Light) -> Shot:
        """Render posed `vertices` of a look."""
        self._wear(look)
        normals = vertex_normals(vertices, look.faces)
        self._moving_buffer.write(
            np.concatenate([vertices, normals], axis=1)[self._corners].astype("f4").tobytes()
        )
        to_light = _light_matrix(vertices, light.direction)
        self._pass(self._shadow_target, "depth", self._depth, Camera(to_light, camera.eye))
        self._shadow.use(1)
        program = self._colour
        program["shadow"].value = 1
        program["to_light"].write(to_light.T.astype("f4").tobytes())
        for name in ("direction", "key", "sky", "ground", "rim"):
            program[name].value = tuple(float(value) for value in getattr(light, name))
        self._pass(self._picture, "colour", program, camera)
        self._shrunk.use()
        self._shrunk.clear(depth=1.0)
        self._picture.color_attachments[0].use(0)
        self._shrink.render(vertices=3)
        rgba = (
            np.frombuffer(self._shrunk.read(components=4), np.uint8).reshape(self.size, self.size, 4).copy()
        )
        maps = []
        for size, target in self._maps.items():
            self._pass(target, "surface", self._surface, camera)
            pixels = np.frombuffer(target.read(components=4, dtype="f4"), np.float32)
            maps.append(pixels.reshape(size, size, 4)[::-1].copy())
        joints = body.joints @ vertices[: body.joints.shape[1]]
        keypoints = camera.project(joints, self.size).astype(np.float32)
        rest = body.joints @ look.vertices[: body.joints.shape[1]]
        return Shot(rgba, keypoints, joints_seen(keypoints, rest, maps[0]), maps[0], maps[1])

    def _pass(self, target: Any, name: str, program: Any, camera: Camera) -> None:
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        program["matrix"].write(camera.matrix.T.astype("f4").tobytes())
        program["eye"].value = tuple(camera.eye)
        for number, (texture, arrays, piece) in enumerate(self._draws):
            texture.use(0)
            program["image"].value = 0
            program["lift"].value = piece.lift if name != "depth" else 0.0
            if name == "colour":
                program["tint"].value = tuple(float(value) for value in piece.tint)
                program["gloss"].value = piece.gloss
            elif name == "surface":
                program["number"].value = number + 1.0
            arrays[name].render()


# How far (decimetres, at rest) the surface seen at a joint's pixel may lie from the joint: about half the limb's
# thickness and the cloth on it. Farther means that another part of the person is in front.
_REACH = {
    "shoulder": 1.5,
    "elbow": 1.1,
    "wrist": 0.9,
    "hip": 2.0,
    "knee": 1.4,
    "ankle": 1.2,
    "eye": 0.45,
    "ear": 0.6,
}


def joints_seen(keypoints: Floats, rest: Floats, surface: Floats) -> Bytes:
    """Which joints show: `(18,)` 0 outside the frame, 1 hidden by another part of the person, 2 seen.

    The nearest surface at the joint's pixel (or beside it) is looked up in the depth-tested map of rest positions:
    it must belong to the same place of the body.
    """
    size = surface.shape[0]
    seen = np.zeros(len(keypoints), dtype=np.uint8)
    for joint, (x, y) in enumerate(keypoints):
        if not (0 <= x < size and 0 <= y < size):
            continue
        part = JOINTS[joint].rpartition("_")[2]
        reach = _REACH.get(part, {"nose": 0.5, "neck": 1.6}.get(part, 1.0))
        patch = surface[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2].reshape(-1, 4)
        distance = np.linalg.norm(patch[:, :3] - rest[joint], axis=1)
        seen[joint] = 2 if ((distance < reach) & (patch[:, 3] > 0)).any() else 1
    return seen


def _light_matrix(vertices: Floats, direction: Floats) -> NDArray[np.float64]:
    """An orthographic view of the person from the light."""
    back = direction / np.linalg.norm(direction)
    side = np.cross((0.0, 1.0, 0.0), back)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(back, side), -back]).astype(np.float64)
    inside = vertices @ axes.T
    low, high = inside.min(0) - 0.2, inside.max(0) + 0.2
    matrix = np.eye(4)
    matrix[:3, :3] = axes * (2 / (high - low))[:, None]
    matrix[:3, 3] = -(high + low) / (high - low)
    return matrix


def make_light(rng: np.random.Generator) -> Light:
    """Sun, overcast, evening, lamp: a random light."""
    azimuth, height = np.deg2rad(rng.uniform(-110, 110)), np.deg2rad(rng.uniform(8, 75))
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    softness = rng.random()
    warm = rng.normal(0, 0.12)

    def tone(strength: float, shift: float) -> Floats:
        return np.array([1 + shift, 1, 1 - shift], dtype=np.float32) * np.float32(strength)

    exposure = np.exp(rng.normal(0, 0.22))
    return Light(
        direction.astype(np.float32),
        tone(exposure * (1.25 - 0.95 * softness), warm),
        tone(exposure * (0.3 + 0.45 * softness), -0.6 * warm + rng.normal(0, 0.04)),
        tone(exposure * (0.12 + 0.25 * softness * rng.random()), rng.normal(0.05, 0.06)),
        tone(exposure * rng.uniform(0, 0.35), -warm),
    )


def look_at(eye: NDArray[np.float64], centre: NDArray[np.float64], roll: float = 0.0) -> NDArray[np.float64]:
    """World to camera `(4, 4)`; the camera looks along -z; `roll` in radians."""
    back = (eye - centre) / np.linalg.norm(eye - centre)
    side = np.cross((np.sin(roll), np.cos(roll), 0.0), back)
    side /= np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([side, np.cross(back, side), back])
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def perspective(fov: float, near: float = 0.5, far: float = 400.0) -> NDArray[np.float64]:
    """Camera to clip space of a square frame; `fov` in radians."""
    scale = 1 / np.tan(fov / 2)
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = scale
    matrix[2, 2], matrix[2, 3], matrix[3, 2] = (far + near) / (near - far), 2 * far * near / (near - far), -1
    return matrix


def make_camera(body: Body, vertices: Floats, shown: Ints, rng: np.random.Generator, cut: bool) -> Camera:
    """A camera as people hold one, framed on the person: whole, or cut by the frame's edge.

    The person fills a part of a wider picture, as in a photo, and the square frame is a crop of it, so that
    perspective is that of a phone or film lens at its true distance.
    """
    fov = np.deg2rad(rng.uniform(25, 65))
    points = vertices[shown]
    floor, top = points[:, 1].min(), points[:, 1].max()
    reach = 17.5 / (2 * np.tan(fov / 2) * rng.uniform(0.35, 0.95))
    distance = max(reach, 14.0 + float(points[:, 2].max()))
    height = floor + rng.choice(
        [rng.normal(15.5, 1.5), rng.uniform(5, 12), rng.uniform(18, 27)], p=[0.6, 0.3, 0.1]
    )
    centre = np.array([points[:, 0].mean(), (floor + top) / 2 + rng.uniform(-3, 3), 0.0])
    eye = np.array([centre[0] + rng.uniform(-0.25, 0.25) * distance, height, distance])
    view = perspective(fov) @ look_at(eye, centre, np.deg2rad(rng.normal(0, 2.5)))
    at = Camera(view, eye).project(points, 2) - 1  # -1..1, y down
    low, high = at.min(0), at.max(0)
    margin = rng.uniform(1.04, 1.25)
    if cut:
        joints = Camera(view, eye).project(body.joints @ vertices[: body.joints.shape[1]], 2) - 1
        hip, knee, ankle, neck = (joints[[a, b], 1].mean() for a, b in ((8, 11), (9, 12), (10, 13), (1, 1)))
        # A head-and-shoulders portrait has too little of the person for any of our uses; start below the chest.
        stops = [neck + 0.55 * (hip - neck), hip, hip + 0.5 * (knee - hip), knee, knee + 0.6 * (ankle - knee)]
        place = rng.uniform(0, len(stops) - 1)
        edge = float(np.interp(place, range(len(stops)), stops))
        if edge > low[1] + 0.3 * (high[1] - low[1]):
            high[1] = edge
        if rng.random() < 0.15:
            side = rng.integers(2)
            shift = rng.uniform(0.1, 0.35) * (high[0] - low[0])
            low[0] += shift * (side == 0)
            high[0] -= shift * (side == 1)
    half = max(float((high - low).max()) / 2 * margin, 1e-3)
    middle = (low + high) / 2
    slack = np.maximum(half - (high - low) / 2, 0)
    middle = middle + rng.uniform(-0.7, 0.7, 2) * slack
    if cut:
        middle[1] = high[1] - half  # the cut is the frame's lower edge
    crop = np.eye(4)
    crop[0, 0] = crop[1, 1] = 1 / half
    crop[0, 3], crop[1, 3] = -middle[0] / half, middle[1] / half
    return Camera(crop @ view, eye)


def correspondence(source: Floats, target: Floats) -> tuple[NDArray[np.float16], Bytes]:
    """Where in the source each point of the target is seen.

    Args:
        source (`(S, S, 4)`), target (`(T, T, 4)`): maps of rest positions and piece numbers (`Shot.surface`).

    Returns:
        Source position `(T, T, 2)` in 0..1 of the frame, and `(T, T)`: 0 background, 1 visible in the source, 2 not
        (then the position is of the nearest seen surface on the mirrored side or through the body).
    """
    from scipy.spatial import cKDTree

    size = source.shape[0]
    ys, xs = np.nonzero(source[..., 3] > 0)
    known = source[ys, xs]
    yt, xt = np.nonzero(target[..., 3] > 0)
    wanted = target[yt, xt]
    flow = np.zeros((*target.shape[:2], 2), dtype=np.float16)
    visible = np.zeros(target.shape[:2], dtype=np.uint8)
    if len(known) == 0 or len(wanted) == 0:
        return flow, visible
    apart = np.array([1, 1, 1, 30], dtype=np.float32)  # pieces never mix while the piece is in the picture
    quick = {"balanced_tree": False, "compact_nodes": False}  # one use each
    distance, nearest = cKDTree(known * apart, **quick).query(wanted * apart, distance_upper_bound=0.25)
    exact = np.isfinite(distance)
    if not exact.all():
        # Depth counts less (through the body), the mirrored side counts as 6 cm farther. Every second pixel will do.
        some = np.flatnonzero((xs % 2 == 0) & (ys % 2 == 0))
        if len(some) == 0:
            some = np.arange(len(known))
        soft = np.array([1, 1, 0.25, 30], dtype=np.float32)
        mirrored = known[some] * np.array([-1, 1, 1, 1], dtype=np.float32)
        away = np.r_[np.zeros(len(some)), np.full(len(some), 0.6)]
        tree = cKDTree(np.c_[np.r_[known[some] * soft, mirrored * soft], away], **quick)
        rest = wanted[~exact]
        nearest[~exact] = some[tree.query(np.c_[rest * soft, np.zeros(len(rest))])[1] % len(some)]
    flow[yt, xt] = np.c_[xs[nearest] + 0.5, ys[nearest] + 0.5] / size
    visible[yt, xt] = np.where(exact, 1, 2)
    return flow, visible


class People:
    """A stream of pairs. Deterministic: the same seed and split give the same people."""

    def __init__(self, split: Split = "train", data: Path = DATA) -> None:
        self.body = Body(data)
        self.wardrobe = Wardrobe(self.body, split, data)
        self.poses = Poses(self.body, split, data)
        self.renderer = Renderer()

    def shot(
        self, look: Look, pose: Pose, light: Light, turn: float, rng: np.random.Generator, cut: bool
    ) -> Shot:
        """Render a look in a pose, turned by `turn` degrees from the camera."""
        pose = pose | {"root": mocap.rotation("y", turn) @ pose["root"]}
        vertices = posed(self.body, look, pose)
        shown = np.concatenate([piece.corners[np.unique(piece.triangles)] for piece in look.pieces])
        camera = make_camera(self.body, vertices, shown, rng, cut)
        return self.renderer.draw(self.body, look, vertices, camera, light)

    def pairs(self, rng: np.random.Generator) -> Iterator[tuple[Shot, Shot]]:
        """One look: three sources, mostly from the front, each against four targets."""
        look = make_look(self.body, self.wardrobe, rng)
        light = make_light(rng)
        sources, poses = [], []
        for _ in range(3):
            turn = rng.choice(
                [rng.normal(0, 22), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.62, 0.23, 0.15]
            )
            poses.append((self.poses.sample(look, rng), float(turn)))
            sources.append(self.shot(look, *poses[-1][:1], light, turn, rng, cut=rng.random() < 0.2))
        targets = []
        for i in range(4):
            pose = self.poses.sample(look, rng)
            turn = rng.choice(
                [rng.normal(0, 25), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.45, 0.3, 0.25]
            )
            if i == 0 and rng.random() < 0.4:
                pose, turn = self.poses.near(poses[0][0], rng), poses[0][1] + rng.normal(0, 12)
            targets.append(self.shot(look, pose, light, float(turn), rng, cut=rng.random() < 0.05))
        for source in sources:
            for target in targets:
                yield source, target


def generate(out: Path, pairs: int, seed: int, split: Split = "train", data: Path = DATA) -> Iterator[Path]:
    """Write pairs as `.npz` files of 200 and yield each file's path as it is complete.

    Keys: `src`, `tgt` `(N, 256, 256, 4)` uint8 straight RGBA; `ks`, `kt` `(N, 18, 2)` float32 pixels; `vs`, `vt`
    `(N, 18)` uint8 (0 outside the frame, 1 occluded, 2 seen); `flow` `(N, 128, 128, 2)` float16, `vis`
    `(N, 128, 128)` uint8 (see `correspondence`). Files that exist are kept, so an interrupted run goes on where it was.

    Args:
        out: folder, made if absent.
        pairs: how many, at least 1.
        seed: which people; runs with different seeds can share a folder.
        split: `"val"` has looks, skins and motions that `"train"` never shows.
        data: folder with `makehuman/` and `mocap/`.
    """
    if pairs < 1:
        raise BadInput(f"--pairs: is {pairs}", "Ask for at least one pair", "pairs")
    out.mkdir(parents=True, exist_ok=True)
    people: People | None = None
    for number, start in enumerate(range(0, pairs, PAIRS_PER_FILE)):
        path = out / f"{seed}_{number:05d}.npz"
        if path.exists():
            continue
        people = people or People(split, data)
        rng = np.random.default_rng([seed, number, split == "val"])
        batch: list[dict[str, NDArray[Any]]] = []
        while len(batch) < min(PAIRS_PER_FILE, pairs - start):
            for source, target in people.pairs(rng):
                flow, visible = correspondence(source.surface, target.small)
                batch.append(
                    {
                        "src": source.rgba, "tgt": target.rgba, "ks": source.keypoints, "kt": target.keypoints,
                        "vs": source.seen, "vt": target.seen, "flow": flow, "vis": visible,
                    }
                )  # fmt: skip
        batch = batch[: min(PAIRS_PER_FILE, pairs - start)]
        hidden = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
        arrays: dict[str, Any] = {key: np.stack([pair[key] for pair in batch]) for key in batch[0]}
        np.savez(hidden, **arrays)
        hidden.rename(path)
        yield path


def main() -> None:
    """`python -m models.people --out DIR --pairs N --seed S`, in the environment that has the people packages."""
    parser = argparse.ArgumentParser(description="Render training pairs of dressed people.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the .npz files")
    parser.add_argument("--pairs", type=int, default=PAIRS_PER_FILE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with makehuman/ and mocap/")
    options = parser.parse_args()
    try:
        for path in generate(options.out, options.pairs, options.seed, options.split, options.data):
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    except BadInput as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
