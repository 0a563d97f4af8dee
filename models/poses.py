# SPDX-License-Identifier: Apache-2.0
"""Poses of rendered people: captured, from files, and made; all for MakeHuman's bones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models import mocap
from models.mocap import Pose
from models.wardrobe import DATA, Body, Look, Split

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
        """A random pose for that body; standing and stepping, which films ask for most, make up half."""
        kind = rng.choice(["capture", "made", "file"], p=[0.36, 0.58, 0.06])
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
            ["stand", "step", "sit", "lean", "squat", "kneel"], p=[0.52, 0.26, 0.11, 0.05, 0.03, 0.03]
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
        axis = mocap.cross(arm, toward)
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
            axis = mocap.cross(along, (0, -1, 0))
            for joint in (1, 2, 3):
                pose[f"finger{finger}-{joint}.{side}"] = mocap.rotation_about(
                    axis, degrees * rng.uniform(0.8, 1.2)
                )
