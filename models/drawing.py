# SPDX-License-Identifier: Apache-2.0
"""Drawing people with OpenGL: colour with true alpha, keypoints, and what each pixel shows of the body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.cloth import Bytes, Floats
from models.mocap import cross
from models.wardrobe import Body, Ints, Look, face_normals, vertex_normals
from shared.skeleton import JOINTS, L_HIP, NECK, R_HIP

SIZE = 256
SAMPLES = 3  # rendered pixels a side for each pixel kept


@dataclass(frozen=True)
class Camera:
    """`matrix` `(4, 4)`: world to clip space of the square frame; `eye` `(3,)`: position; `axes` `(3, 3)`: world to
    camera, which looks along -z."""

    matrix: NDArray[np.float64]
    eye: NDArray[np.float64]
    axes: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))

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
        surface (`(256, 256, 4)`): what is seen at the whole numbers of pixels, 0 to 255 in x and y: the rest
            position of the point (decimetres) and the number of its piece plus 1; 0 where there is nothing.
        shape (`(128, 128, 4)`): camera-space normal of the point seen (x right, y up, z to the camera) and how much
            nearer it is than the middle of neck and mid-hip, in lengths of the torso; 0 where there is nothing.
    """

    rgba: Bytes
    keypoints: Floats
    seen: Bytes
    surface: Floats
    shape: Floats

    @property
    def small(self) -> Floats:
        """`surface` at the centres of pixels twice as large, `(128, 128, 4)`."""
        return self.surface[1::2, 1::2]


PIECES = 16  # a look has at most

_VERTEX = """#version 330
in vec3 place; in vec3 normal; in vec3 rest; in vec2 uv; in float number;
uniform mat4 matrix; uniform mat4 to_light; uniform vec3 eye; uniform float lift[16]; out vec3 at;
out vec3 n; out vec3 p; out vec3 r; out vec3 t; flat out int piece;
void main() {
    piece = int(number);
    gl_Position = matrix * vec4(place, 1);
    // What is worn outside wins by this depth, so that nothing under it pokes through.
    vec4 nearer = matrix * vec4(place + normalize(eye - place) * lift[piece], 1);
    gl_Position.z = nearer.z / nearer.w * gl_Position.w;
    at = (to_light * vec4(place + normal * 0.12, 1)).xyz * 0.5 + 0.5;
    n = normal; p = place; r = rest; t = vec3(uv.x, 1 - uv.y, number);
}"""

# Squares and roots are much cheaper than powers of 2.2: textures are brought to this form, and _SHRINK brings it back.
_GAMMA = 2.0
_COLOUR = """#version 330
in vec3 n; in vec3 p; in vec3 t; flat in int piece; out vec4 colour;
in vec3 at; uniform sampler2DArray image; uniform sampler2DShadow shadow;
uniform vec3 direction; uniform vec3 opposite;
uniform vec3 key; uniform vec3 sky; uniform vec3 ground; uniform vec3 rim;
uniform vec3 eye; uniform vec4 finish[16];  // tint, gloss
void main() {
    vec4 base = texture(image, t);
    if (base.a < 0.35) discard;
    vec3 view = normalize(eye - p);
    vec3 normal = normalize(n);
    if (dot(normal, view) < 0.0) normal = -normal;
    vec3 albedo = base.rgb * base.rgb * finish[piece].rgb;
    float lit = 0.0;
    for (int i = -1; i <= 1; i += 2) for (int j = -1; j <= 1; j += 2)
        lit += texture(shadow, vec3(at.xy + vec2(i, j) * 0.0016, at.z - 0.002)) / 4.0;
    float wrap = clamp((dot(normal, direction) + 0.15) / 1.15, 0.0, 1.0) * lit;
    float side = max(dot(normal, opposite), 0.0);
    float shine = max(dot(normal, normalize(direction + view)), 0.0);
    shine *= shine; shine *= shine; shine *= shine; shine *= shine; shine *= shine;
    vec3 light = key * wrap + rim * side + mix(ground, sky, normal.y * 0.5 + 0.5);
    vec3 sum = albedo * light + key * lit * finish[piece].a * shine;
    colour = vec4(sqrt(clamp(sum, 0.0, 1.0)), 1);
}"""

_SURFACE = """#version 330
in vec3 r; in vec3 t; layout(location = 0) out vec4 colour; uniform sampler2DArray image;
uniform vec3 eye; uniform mat3 axes; uniform vec3 middle; uniform float torso;
in vec3 n; in vec3 p; flat in int piece; layout(location = 1) out vec4 shape;
void main() {
    if (texture(image, t).a < 0.35) discard;
    colour = vec4(r, piece + 1);
    vec3 normal = normalize(n);
    if (dot(normal, eye - p) < 0.0) normal = -normal;
    shape = vec4(axes * normal, (axes * (p - middle)).z / torso);
}"""

_DEPTH = """#version 330
in vec3 t; uniform sampler2DArray image;
void main() { if (texture(image, t).a < 0.35) discard; }"""

_WHOLE = """#version 330
void main() { gl_Position = vec4(vec2[](vec2(-1, -1), vec2(3, -1), vec2(-1, 3))[gl_VertexID], 0, 1); }"""

# Alpha is the share of the pixel covered, colour the mean of what is covered. Row 0 becomes the top row.
_SHRINK = """#version 330
uniform sampler2D fine; uniform int factor; uniform int size; uniform float gamma; out vec4 colour;
void main() {
    ivec2 at = ivec2(gl_FragCoord.x, size - 1 - int(gl_FragCoord.y)) * factor;
    vec4 sum = vec4(0);
    for (int i = 0; i < factor; i++) for (int j = 0; j < factor; j++) {
        vec4 sample_ = texelFetch(fine, at + ivec2(i, j), 0);
        sum += vec4(sample_.rgb * sample_.a, sample_.a);
    }
    vec3 mean = pow(sum.rgb / max(sum.a, 1.0), vec3(gamma / 2.2));
    colour = sum.a > 0.0 ? vec4(mean, sum.a / float(factor * factor)) : vec4(0);
}"""


_RECODE = np.repeat(((np.arange(256) / 255) ** (2.2 / _GAMMA) * 255).round().astype(np.uint8)[:, None], 4, 1)
_RECODE[:, 3] = np.arange(256)  # alpha stays


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
        shrink["factor"].value, shrink["size"].value, shrink["gamma"].value = SAMPLES, size, _GAMMA
        self._shrink = self.context.vertex_array(shrink, [])
        self._maps = self._target(size, "f4", pictures=2)
        self._shadow = self.context.depth_texture((512, 512))
        self._shadow.compare_func = "<="
        self._shadow.filter = (moderngl.NEAREST, moderngl.NEAREST)  # finer than the pixels that are kept
        self._shadow_target = self.context.framebuffer(depth_attachment=self._shadow)
        self._look: Look | None = None

    def _target(self, size: int, dtype: str, pictures: int = 1) -> Any:
        colours = [self.context.texture((size, size), 4, dtype=dtype) for _ in range(pictures)]
        return self.context.framebuffer(colours, self.context.depth_renderbuffer((size, size)))

    def _wear(self, look: Look) -> None:
        """Upload what does not change with the pose."""
        if self._look is look:
            return
        if self._look is not None:
            for resource in self._owned:
                resource.release()
        gl = self._gl
        corners = np.concatenate([piece.corners for piece in look.pieces])
        starts = np.cumsum([0, *(len(piece.corners) for piece in look.pieces)])
        number = np.repeat(np.arange(len(look.pieces)), np.diff(starts))
        uv = np.concatenate([piece.uv for piece in look.pieces])
        fixed = np.column_stack([look.vertices[corners], uv, number]).astype("f4")
        self._triangles = np.concatenate(
            [piece.triangles + start for piece, start in zip(look.pieces, starts, strict=False)]
        ).astype("i4")
        self._closed = np.repeat(
            [piece.closed for piece in look.pieces], [len(piece.triangles) for piece in look.pieces]
        )
        self._corners = corners
        self._moving_buffer = self.context.buffer(reserve=len(corners) * 24, dynamic=True)
        self._index = self.context.buffer(reserve=self._triangles.size * 4, dynamic=True)
        still = self.context.buffer(fixed.tobytes())
        texels = np.stack([cv2.LUT(piece.texture, _RECODE[None]) for piece in look.pieces])
        layers, height, width = texels.shape[:3]
        self._texture = self.context.texture_array((width, height, layers), 4, texels.tobytes())
        self._texture.build_mipmaps()
        self._texture.filter = (gl.LINEAR_MIPMAP_LINEAR, gl.LINEAR)
        self._owned: list[Any] = [self._moving_buffer, self._index, still, self._texture]
        self._arrays: dict[str, Any] = {}
        for name, program, moving, kept in (
            ("colour", self._colour, ("3f 3f", "place", "normal"), ("3x4 2f 1f", "uv", "number")),
            ("surface", self._surface, ("3f 3f", "place", "normal"), ("3f 2f 1f", "rest", "uv", "number")),
            ("depth", self._depth, ("3f 3x4", "place"), ("3x4 2f 1f", "uv", "number")),
        ):
            layout = [(self._moving_buffer, *moving), (still, *kept)]
            self._arrays[name] = self.context.vertex_array(program, layout, self._index)
        self._owned += self._arrays.values()
        unused = [(0.0,) * 4] * (PIECES - len(look.pieces))
        self._colour["finish"].value = [
            (*(float(value) for value in piece.tint), piece.gloss) for piece in look.pieces
        ] + unused
        self._lift = [piece.lift for piece in look.pieces] + [0.0] * len(unused)
        self._look = look

    def draw(self, body: Body, look: Look, vertices: Floats, camera: Camera, light: Light) -> Shot:
        """Render posed `vertices` of a look."""
        self._wear(look)
        faces = face_normals(vertices, look.faces)
        normals = vertex_normals(vertices, look.faces, faces)
        moving = np.concatenate([vertices, normals], axis=1)[self._corners].astype("f4")
        self._moving_buffer.write(moving.tobytes())
        to_light = _light_matrix(vertices, light.direction)
        lit = self._triangles[faces @ light.direction > 0]  # what faces away casts no shadow that shows
        self._pass(self._shadow_target, "depth", self._depth, Camera(to_light, camera.eye), lit)
        # The nearest first, so that little is painted twice: what faces the camera, outer clothes before inner ones,
        # then the insides, but for those that nobody sees.
        near = (faces * (camera.eye.astype("f4") - vertices[look.faces[:, 0]])).sum(1) > 0
        shown = np.concatenate([self._triangles[near], self._triangles[~near & ~self._closed]])
        self._shadow.use(1)
        program = self._colour
        program["shadow"].value = 1
        program["to_light"].write(to_light.T.astype("f4").tobytes())
        x, _, z = light.direction
        program["opposite"].value = tuple(np.array([-x, 0.2, -abs(z)]) / np.hypot(np.hypot(x, z), 0.2))
        for name in ("direction", "key", "sky", "ground", "rim"):
            program[name].value = tuple(float(value) for value in getattr(light, name))
        self._pass(self._picture, "colour", program, camera, shown)
        self._shrunk.use()
        self._shrunk.clear(depth=1.0)
        self._picture.color_attachments[0].use(0)
        self._shrink.render(vertices=3)
        rgba = (
            np.frombuffer(self._shrunk.read(components=4), np.uint8).reshape(self.size, self.size, 4).copy()
        )
        joints = body.joints(vertices)
        hip = (joints[R_HIP] + joints[L_HIP]) / 2
        surface = self._surface
        surface["axes"].write(camera.axes.T.astype("f4").tobytes())
        surface["middle"].value = tuple((joints[NECK] + hip) / 2)
        surface["torso"].value = float(np.linalg.norm(joints[NECK] - hip))
        # Half a pixel to the right and down, so that whole numbers of pixels are sampled: every second is the centre of
        # a pixel twice as large, and one drawing gives both maps.
        half = np.eye(4)
        half[:2, 3] = 1 / self.size, -1 / self.size
        self._pass(self._maps, "surface", surface, Camera(half @ camera.matrix, camera.eye), shown)
        seen, shape = (
            np.frombuffer(self._maps.read(components=4, attachment=number, dtype="f4"), np.float32)
            .reshape(self.size, self.size, 4)[::-1]
            .copy()
            for number in (0, 1)
        )
        keypoints = camera.project(joints, self.size).astype(np.float32)
        known = joints_seen(keypoints, body.joints(look.vertices), seen)
        return Shot(rgba, keypoints, known, seen, shape[1::2, 1::2].copy())

    def _pass(self, target: Any, name: str, program: Any, camera: Camera, triangles: Ints) -> None:
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        self._texture.use(0)
        program["image"].value = 0
        program["matrix"].write(camera.matrix.T.astype("f4").tobytes())
        program["eye"].value = tuple(camera.eye)
        program["lift"].value = self._lift if name != "depth" else [0.0] * PIECES
        self._index.write(triangles.tobytes())
        self._arrays[name].render(vertices=triangles.size)


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
        column, row = round(float(x)), round(float(y))
        patch = surface[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 4)
        distance = np.linalg.norm(patch[:, :3] - rest[joint], axis=1)
        seen[joint] = 2 if ((distance < reach) & (patch[:, 3] > 0)).any() else 1
    return seen


def _light_matrix(vertices: Floats, direction: Floats) -> NDArray[np.float64]:
    """An orthographic view of the person from the light."""
    back = direction / np.linalg.norm(direction)
    side = cross((0.0, 1.0, 0.0), back)
    side /= np.linalg.norm(side)
    axes = np.stack([side, cross(back, side), -back])
    inside = axes @ vertices.T
    low, high = inside.min(1) - 0.2, inside.max(1) + 0.2
    matrix = np.eye(4)
    matrix[:3, :3] = axes * (2 / (high - low))[:, None]
    matrix[:3, 3] = -(high + low) / (high - low)
    return matrix


def look_at(eye: NDArray[np.float64], centre: NDArray[np.float64], roll: float = 0.0) -> NDArray[np.float64]:
    """World to camera `(4, 4)`; the camera looks along -z; `roll` in radians."""
    back = (eye - centre) / np.linalg.norm(eye - centre)
    side = cross((np.sin(roll), np.cos(roll), 0.0), back)
    side /= np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([side, cross(back, side), back])
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def perspective(fov: float, near: float = 0.5, far: float = 400.0) -> NDArray[np.float64]:
    """Camera to clip space of a square frame; `fov` in radians."""
    scale = 1 / np.tan(fov / 2)
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = scale
    matrix[2, 2], matrix[2, 3], matrix[3, 2] = (far + near) / (near - far), 2 * far * near / (near - far), -1
    return matrix
