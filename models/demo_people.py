# SPDX-License-Identifier: Apache-2.0
"""The people of the demo: the actor's picture, and the cast of the shot as meshes for addon/demo/make_shot.py.

Run `python -m models.demo_people OUT` in the people environment; it writes OUT/actor.png and OUT/cast_*.npz.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from models import mocap
from models.cloth import Floats
from models.drawing import Camera, Light, Renderer, look_at, perspective
from models.mocap import Pose
from models.poses import Poses
from models.wardrobe import (
    DATA,
    Body,
    Garment,
    Look,
    Wardrobe,
    dress,
    dye,
    dye_hair,
    face_normals,
    posed,
    read_texture,
    vertex_normals,
)

Arm = tuple[tuple[float, float, float], tuple[float, float, float], float]
HANGING: Arm = ((0.2, -1.0, 0.0), (-0.1, 0.0, 1.0), 14)


@dataclass(frozen=True)
class Role:
    """Who, wearing what, standing how. Arms: direction, bend towards, degrees, for the left side."""

    name: str
    skin: str
    shape: dict[str, float]
    suit: str
    shoes: str
    hair: str
    hair_colour: tuple[float, float, float]
    above: tuple[float, float, float] | None = None
    below: tuple[float, float, float] | None = None
    left: Arm = HANGING
    right: Arm = HANGING
    walk: int | None = None  # frame of the CMU walk 02_01
    waist: float = 0.7  # decimetres on the average body: where the upper fabric ends
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # degrees: turn to the left, nod, tilt


ACTOR = Role(
    "actor", "young_caucasian_male",
    {"gender": 0.05, "age": 0.62, "muscle": 0.6, "weight": 0.42, "height": 0.58, "proportions": 0.9},
    "male_casualsuit05", "shoes01", "short02", (0.09, 0.05, 0.03),
    left=((0.22, -1, 0.02), (-0.1, 0, 1), 18), right=((0.26, -1, -0.05), (-0.1, 0, 1), 24), head=(-14, 3, 2),
)  # fmt: skip
CAST = (
    Role(
        "ana", "young_african_female",
        {"gender": 0.97, "age": 0.6, "muscle": 0.5, "weight": 0.42, "height": 0.5, "proportions": 0.9},
        "female_casualsuit01", "shoes05", "afro01", (0.03, 0.02, 0.016), above=(0.62, 0.3, 0.05), waist=0.35,
        left=((0.3, -1, 0.2), (-0.35, 0.4, 1), 82), right=((0.2, -1, 0.05), (-0.1, 0, 1), 22), head=(10, 4, -3),
    ),
    Role(
        "ben", "middleage_asian_male",
        {"gender": 0.04, "age": 0.74, "muscle": 0.55, "weight": 0.5, "height": 0.5, "proportions": 0.8},
        "male_elegantsuit01", "shoes03", "short04", (0.02, 0.018, 0.016),
        left=((0.2, -1, 0.0), (-0.1, 0, 1), 16), right=((0.3, -1, 0.15), (-0.8, 0.2, 0.8), 78), head=(-12, 5, 2),
    ),
    Role(
        "clara", "young_caucasian_female",
        {"gender": 0.97, "age": 0.58, "muscle": 0.5, "weight": 0.4, "height": 0.5, "proportions": 0.9},
        "female_elegantsuit01", "shoes03", "bob02", (0.3, 0.17, 0.08),
        above=(0.55, 0.56, 0.52), below=(0.28, 0.05, 0.05), walk=4, head=(0, 8, 0),
    ),
    Role(
        "dan", "young_african_male",
        {"gender": 0.05, "age": 0.6, "muscle": 0.7, "weight": 0.5, "height": 0.6, "proportions": 0.9},
        "male_casualsuit01", "shoes01", "short01", (0.03, 0.02, 0.016), above=(0.5, 0.55, 0.58), waist=1.15, walk=10,
    ),
)  # fmt: skip


class DemoPeople:
    """Dresses and poses the roles."""

    def __init__(self, data: Path = DATA) -> None:
        self.body = Body(data)
        self.poses = Poses(self.body, "train", data)
        self._data = data
        self._wardrobes = [Wardrobe(self.body, "train", data), Wardrobe(self.body, "val", data)]
        self._skins = {path.parent.name: path for wardrobe in self._wardrobes for path in wardrobe.skins}

    def _garment(self, name: str) -> Garment:
        for wardrobe in self._wardrobes:
            for garment in (
                *wardrobe.suits["female"],
                *wardrobe.suits["male"],
                *wardrobe.shoes,
                *wardrobe.hair["female"],
            ):
                if garment.name == name:
                    return garment
        raise KeyError(name)

    def look(self, role: Role) -> Look:
        """The role, dressed."""
        suit, shoes, hair = (self._garment(name) for name in (role.suit, role.shoes, role.hair))
        wardrobe = self._wardrobes[0]
        brow, lash, eyes = wardrobe.brows[3], wardrobe.lashes[0], wardrobe.eyes[2]
        colour, one = np.array(role.hair_colour, dtype=np.float32), np.ones(3, dtype=np.float32)
        fabrics = [None if c is None else np.array(c, dtype=np.float32) for c in (role.above, role.below)]
        worn = [
            (suit, dye(suit, role.waist, fabrics[0], fabrics[1], 0.25), one, 0.02),
            (shoes, shoes.texture, one, 0.06),
            (hair, dye_hair(hair, colour), one, 0.08),
            (brow, dye_hair(brow, colour * 0.7), one, 0.0),
            (lash, lash.texture, one * 0.3, 0.0),
            (eyes, eyes.texture, one, 0.3),
        ]
        return dress(self.body, role.shape, read_texture(self._skins[role.skin]), one, worn)

    def pose(self, role: Role, look: Look) -> Pose:
        """The role's pose, facing +z."""
        rng = np.random.default_rng(0)
        pose: Pose = {"root": np.eye(3)}
        if role.walk is not None:
            folder = self._data / "mocap"
            frame = mocap.read_amc(folder / "02_01.amc", step=2)[role.walk]
            heads = look.heads.astype(np.float64)
            pose = mocap.retarget(
                self.body.names, self.body.parents, heads, mocap.read_asf(folder / "02.asf"), frame
            )
            forward = pose["root"] @ (0, 0, 1)
            pose["root"] = mocap.rotation("y", -np.rad2deg(np.arctan2(forward[0], forward[2]))) @ pose["root"]
        else:
            sides: tuple[tuple[Literal["L", "R"], Arm, int], ...] = (
                ("L", role.left, 1),
                ("R", role.right, -1),
            )
            for side, arm, sign in sides:
                upper, hint, flex = arm
                mirror = np.array([sign, 1, 1])
                direction = np.array(upper) * mirror
                self.poses.bend_arm(
                    pose, look, side, direction / np.linalg.norm(direction), np.array(hint) * mirror, flex, 6
                )
            # The weight rests on the right leg; the left knee is loose.
            pose["root"] = mocap.rotation("z", 2)
            pose["spine04"] = mocap.rotation("z", -3)
            pose["upperleg01.L"] = mocap.rotation("z", -3) @ mocap.rotation("x", -9) @ mocap.rotation("y", 14)
            pose["lowerleg01.L"] = mocap.rotation("x", 14)
            pose["foot.L"] = mocap.rotation("x", -5)
            pose["upperleg01.R"] = mocap.rotation("z", 5) @ mocap.rotation("y", -8)
        turn, nod, tilt = role.head
        third = mocap.rotation("y", turn / 3) @ mocap.rotation("x", nod / 3) @ mocap.rotation("z", tilt / 3)
        for name in ("neck01", "neck03", "head"):
            pose[name] = pose.get(name, np.eye(3)) @ third
        for hand in "LR":
            self.poses.curl_fingers(pose, look, hand, 26, rng)
        return pose


def picture(people: DemoPeople, role: Role, width: int = 900, height: int = 1200, turn: float = 24) -> Floats:
    """The role on a plain backdrop in soft studio light: `(height, width, 3)` in 0..255."""
    look = people.look(role)
    pose = people.pose(role, look)
    pose["root"] = mocap.rotation("y", turn) @ pose["root"]
    vertices = posed(people.body, look, pose)
    low, high = vertices[:, 1].min(), vertices[: people.body.mesh.vertex.max() + 1, 1].max()
    centre = np.array([vertices[:, 0].mean(), (low + high) / 2, 0.0])
    eye = centre + (0.0, 2.0, 52.0)
    fov = 2 * np.arctan((high - low) * 0.56 / 52)
    camera = Camera(perspective(float(fov)) @ look_at(eye, centre), eye)
    direction = np.array([-0.55, 0.62, 0.62], dtype=np.float32)
    light = Light(
        direction / np.linalg.norm(direction),
        np.array([0.95, 0.91, 0.85], dtype=np.float32),
        np.array([0.42, 0.45, 0.5], dtype=np.float32),
        np.array([0.2, 0.18, 0.17], dtype=np.float32),
        np.array([0.2, 0.22, 0.28], dtype=np.float32),
    )
    shot = Renderer(height).draw(people.body, look, vertices, camera, light)
    side = (height - width) // 2
    rgba = shot.rgba[:, side : side + width].astype(np.float32)
    alpha = rgba[..., 3:] / 255
    # A paper backdrop: lighter behind the head, a soft contact shadow under the feet.
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    glow = np.exp(-(((x - width * 0.5) / (0.75 * width)) ** 2 + ((y - height * 0.38) / (0.7 * height)) ** 2))
    backdrop = np.array([150, 158, 166], dtype=np.float32) + 52 * glow[..., None]
    feet = np.flatnonzero(shot.rgba[..., 3].max(1))[-1]
    shadow = np.exp(-(((x - width * 0.52) / (0.2 * width)) ** 2 + ((y - feet + 22) / (0.022 * height)) ** 2))
    backdrop = backdrop * (1 - 0.55 * shadow[..., None])
    return np.asarray(rgba[..., :3] * alpha + backdrop * (1 - alpha), dtype=np.float32)


def save_mesh(path: Path, look: Look, vertices: Floats) -> None:
    """The posed person for Blender: metres, z up, feet at z = 0, facing -y. Textures are JPEG or PNG bytes.

    For piece i: `vertices_i` `(V, 3)`, `triangles_i` `(T, 3)`, `uv_i` `(T, 3, 2)`, `texture_i` bytes, `opaque_i`,
    `gloss_i`.
    """
    arrays: dict[str, Any] = {"pieces": np.array(len(look.pieces))}
    floor = vertices[:, 1].min()
    normals = vertex_normals(vertices, look.faces, face_normals(vertices, look.faces))
    for i, piece in enumerate(look.pieces):
        corners, used = np.unique(piece.corners[piece.triangles], return_inverse=True)
        # What is worn outside stands off a little, so that nothing under it pokes through.
        place = vertices[corners] + normals[corners] * piece.lift * 0.5 - (0, floor, 0)
        rgb = ((piece.texture[..., :3] / 255) ** 2.2 * piece.tint).clip(0, 1) ** (1 / 2.2) * 255
        bgr = rgb[..., ::-1].round().astype(np.uint8)
        opaque = bool((piece.texture[..., 3] > 90).all())
        coded = (
            cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, 87))
            if opaque
            else cv2.imencode(".png", np.dstack([bgr, piece.texture[..., 3]]))
        )[1]
        arrays[f"vertices_{i}"] = (np.stack([place[:, 0], -place[:, 2], place[:, 1]], axis=1) / 10).astype(
            np.float32
        )
        arrays[f"triangles_{i}"] = used.reshape(-1, 3).astype(np.int32)
        arrays[f"uv_{i}"] = piece.uv[piece.triangles].astype(np.float32)
        arrays[f"texture_{i}"] = coded.ravel()
        arrays[f"opaque_{i}"] = np.array(opaque)
        arrays[f"gloss_{i}"] = np.array(piece.gloss, dtype=np.float32)
    np.savez(path, **arrays)


def main(out: Path) -> None:
    """Write everything."""
    out.mkdir(parents=True, exist_ok=True)
    people = DemoPeople()
    for role in CAST:
        look = people.look(role)
        save_mesh(out / f"cast_{role.name}.npz", look, posed(people.body, look, people.pose(role, look)))
    cv2.imwrite(str(out / "actor.png"), picture(people, ACTOR)[..., ::-1].round().astype(np.uint8))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
