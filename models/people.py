# SPDX-License-Identifier: Apache-2.0
"""Dressed people, rendered: the training pairs of the transfer networks.

A dressed body (models/wardrobe.py) takes poses (models/poses.py) and is drawn (models/drawing.py). One look in two
poses is a pair: two pictures with true alpha, their keypoints with occlusion, and for every pixel of the second the
place in the first that shows the same point of the person.

`python -m models.people` writes looks to its standard output; models/pairs.py runs it and reads them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models import mocap, pairs
from models.cloth import Bytes, Floats
from models.drawing import Camera, Light, Renderer, Shot, look_at, perspective
from models.mocap import Pose
from models.pairs import Framing
from models.poses import Poses
from models.wardrobe import DATA, Body, Ints, Look, Split, Wardrobe, make_look, posed
from shared.errors import BadInput
from shared.skeleton import FACE

SOURCES, TARGETS = 3, 4  # of a look, each source against each target


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


def make_camera(
    body: Body, vertices: Floats, shown: Ints, rng: np.random.Generator, cut: bool, framing: Framing = "whole"
) -> Camera:
    """A camera as people hold one, framed on the person: whole, or cut by the frame's edge; or on the head alone.

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
    to_camera = look_at(eye, centre, np.deg2rad(rng.normal(0, 2.5)))
    view = perspective(fov) @ to_camera
    if framing == "head":
        middle_of_face = body.joints(vertices)[list(FACE)].mean(0)
        around = rng.uniform(*_AROUND_HEAD) * np.array([[-1, -1], [1, 1]]) @ to_camera[:2, :3]
        points = middle_of_face + around
    at = Camera(view, eye).project(points, 2) - 1  # -1..1, y down
    low, high = np.ascontiguousarray(at.T).min(1), np.ascontiguousarray(at.T).max(1)
    margin = rng.uniform(1.04, 1.25)
    if cut:
        joints = Camera(view, eye).project(body.joints(vertices), 2) - 1
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
    return Camera(crop @ view, eye, to_camera[:3, :3])


_AROUND_HEAD = (3.2, 4.6)
"""Decimetres from the middle of the face to the edge of a frame around the head: it holds hair, chin and shoulders."""

_EACH = np.array([1, 1, 1, 30], dtype=np.float32)  # pieces never mix while the piece is in the picture
# For what is not seen: depth counts less (through the body), the mirrored side counts as 6 cm farther.
_THROUGH = np.array([1, 1, 0.25, 30], dtype=np.float32)
_MIRRORED = np.array([-1, 1, 1, 1], dtype=np.float32)


class Correspondence:
    """Finds places of a person in a picture.

    Args:
        surface (`(S, S, 4)`): what the picture shows (`Shot.surface`).
    """

    def __init__(self, surface: Floats) -> None:
        rows, columns = np.nonzero(surface[..., 3] > 0)
        known = surface[rows, columns]
        self._place = np.stack([columns, rows], axis=1) / surface.shape[0]
        # Every second pixel will do where nothing exact is asked.
        some = np.flatnonzero((rows % 2 == 0) & (columns % 2 == 0))
        self._some = some if len(some) else np.arange(len(known))
        away = np.repeat([0.0, 0.6], len(self._some))
        both = np.concatenate([known[self._some], known[self._some] * _MIRRORED]) * _THROUGH
        self._exact = cKDTree(known * _EACH, balanced_tree=False, compact_nodes=False)
        self._other = cKDTree(np.c_[both, away])

    def find(self, wanted: Floats) -> tuple[NDArray[np.float16], Bytes]:
        """Where each point of another picture of the person is seen.

        Args:
            wanted (`(T, T, 4)`): rest positions and piece numbers, 0 where there is nothing (`Shot.small`).

        Returns:
            position `(T, T, 2)` in 0..1 of the frame, and `(T, T)`: 0 background, 1 visible here, 2 not (then the
            position is of the nearest seen surface on the mirrored side or through the body).
        """
        flow = np.zeros((*wanted.shape[:2], 2), dtype=np.float16)
        visible = np.zeros(wanted.shape[:2], dtype=np.uint8)
        there = wanted[..., 3] > 0
        if len(self._place) == 0 or not there.any():
            return flow, visible
        points = wanted[there]
        distance, nearest = self._exact.query(points * _EACH, distance_upper_bound=0.25)
        exact = np.isfinite(distance)
        rest = points[~exact] * _THROUGH
        if len(rest):
            found = self._other.query(np.c_[rest, np.zeros(len(rest))])[1]
            nearest[~exact] = self._some[found % len(self._some)]
        flow[there] = self._place[nearest]
        visible[there] = np.where(exact, 1, 2)
        return flow, visible


class People:
    """A stream of pairs. Deterministic: the same seed, split and framing give the same people."""

    def __init__(self, split: Split = "train", data: Path = DATA, framing: Framing = "whole") -> None:
        self.framing = framing
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
        camera = make_camera(self.body, vertices, look.drawn, rng, cut, self.framing)
        return self.renderer.draw(self.body, look, vertices, camera, light)

    def shots(self, rng: np.random.Generator) -> tuple[list[Shot], list[Shot]]:
        """One look: sources, mostly from the front, and targets."""
        look = make_look(self.body, self.wardrobe, rng)
        light = make_light(rng)
        whole = self.framing == "whole"
        sources, poses = [], []
        for _ in range(SOURCES):
            turn = rng.choice(
                [rng.normal(0, 22), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.62, 0.23, 0.15]
            )
            poses.append((self.poses.sample(look, rng), float(turn)))
            sources.append(
                self.shot(look, *poses[-1][:1], light, turn, rng, cut=rng.random() < 0.2 and whole)
            )
        targets = []
        for i in range(TARGETS):
            pose = self.poses.sample(look, rng)
            turn = rng.choice(
                [rng.normal(0, 25), rng.uniform(-100, 100), rng.uniform(-180, 180)], p=[0.45, 0.3, 0.25]
            )
            if i < 2 and rng.random() < 0.6:
                pose, turn = self.poses.near(poses[i][0], rng), poses[i][1] + rng.normal(0, 12)
            targets.append(self.shot(look, pose, light, float(turn), rng, cut=rng.random() < 0.05 and whole))
        return sources, targets

    def pairs(self, rng: np.random.Generator) -> pairs.Pairs:
        """Every source of one look with every target, `pairs.PER_LOOK` in all."""
        sources, targets = self.shots(rng)
        rows: list[pairs.Pairs] = []
        for source in sources:
            places = Correspondence(source.surface)
            for target in targets:
                flow, visible = places.find(target.small)
                rows.append(
                    {
                        "src": source.rgba, "tgt": target.rgba, "ks": source.keypoints, "kt": target.keypoints,
                        "vs": source.seen, "vt": target.seen, "flow": flow, "vis": visible,
                        "depth": target.shape[..., 3].astype(np.float16),
                        "normals": np.round(target.shape[..., :3] * 127 + 128).astype(np.uint8),
                    }
                )  # fmt: skip
        return {key: np.stack([row[key] for row in rows]) for key in pairs.KEYS}


def looks(
    seed: int,
    split: Split = "train",
    data: Path = DATA,
    first: int = 0,
    step: int = 1,
    framing: Framing = "whole",
) -> Iterator[pairs.Pairs]:
    """The pairs of look number `first`, then of every `step`-th one, without end. The arguments say it all."""
    people = People(split, data, framing)
    while True:
        yield people.pairs(np.random.default_rng([seed, first, split == "val"]))
        first += step


def main() -> None:
    """Write looks to the standard output until nobody reads them."""
    parser = argparse.ArgumentParser(
        description="Render training pairs of dressed people to the standard output."
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--split", choices=("train", "val"), required=True)
    parser.add_argument("--framing", choices=("whole", "head"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with makehuman/ and mocap/")
    parser.add_argument("--first", type=int, required=True, help="number of the first look")
    parser.add_argument("--step", type=int, required=True, help="from one look's number to the next one's")
    options = parser.parse_args()
    # Whatever the packages print must not come between the pairs.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        for look in looks(
            options.seed, options.split, options.data, options.first, options.step, options.framing
        ):
            pairs.write(out, look)
    except BadInput as error:
        parser.error(str(error))
    except BrokenPipeError:
        os._exit(0)  # the reader has enough; closing `out` would only fail again


if __name__ == "__main__":
    main()
