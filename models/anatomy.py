# SPDX-License-Identifier: Apache-2.0
"""What people are like, measured on COCO's train2017: bone lengths, how they grow towards the camera, posture.

Lengths are told in statures. A stature is the length of the upright body from neck to ankles, in pixels,
whatever the pose: it is estimated from all bones, so that a seated or cut person has the stature of the same
person standing.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.coco import FULL, Examples
from models.weights import ROOT

Floats = NDArray[np.float64]
PATH = ROOT / "placement" / "anatomy.json"

BONES = (
    (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13),
    (2, 5), (8, 11), (2, 8), (5, 11), (1, 0), (0, 14), (0, 15), (14, 16), (15, 17),
)  # fmt: skip
"""Pairs of joints whose lengths make limbs human: arms, legs, shoulders, hips, sides, neck, face."""

STATURE_BONES = 12
"""The first of `BONES` tell the stature; those of the head turn too much."""

_A, _B = np.array(BONES).T
_PARENT = {3: 2, 4: 3, 6: 5, 7: 6, 9: 8, 10: 9, 12: 11, 13: 12}
_OTHER = {2: 5, 3: 6, 4: 7, 5: 2, 6: 3, 7: 4, 8: 11, 9: 12, 10: 13, 11: 8, 12: 9, 13: 10}


class Anatomy(msgspec.Struct, frozen=True):
    """Measured numbers; `measure` makes them.

    Args:
        median, low, high (`tuple` of 17 floats): each bone's length in statures: median of standing people,
            1st and 99th percentile of all fully known people.
        template (18 pairs of floats): a standing person's joints from the neck, in statures (median).
        slope, slope_spread (`float`): by how much the stature grows per pixel that the feet are lower in the
            frame: median over pairs of standing people, and its robust standard deviation.
        size_spread (`float`): robust standard deviation of log(stature) between standing people side by side.
    """

    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    template: tuple[tuple[float, float], ...]
    slope: float
    slope_spread: float
    size_spread: float

    def stature(self, people: Floats) -> Floats:
        """`(N,)` statures of `(N, 18, 3)` people; NaN where no bone is known.

        A bone seen at an angle is short, never long, so the upper quarter of the bones' answers is taken.
        """
        length, known = bones(people)
        each = np.where(known, length / np.array(self.median), np.nan)[:, :STATURE_BONES]
        each.sort(axis=1)  # NaN last
        rank = 0.75 * np.maximum(known[:, :STATURE_BONES].sum(1) - 1, 0)
        low, rows = np.floor(rank).astype(int), np.arange(len(each))
        lower, upper = each[rows, low], each[rows, np.ceil(rank).astype(int)]
        out: Floats = lower + (rank - low) * (upper - lower)
        return out

    def valid_bones(self, people: Floats, stature: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which bones `(N, 17)` have a human length, and which are known."""
        length, known = bones(people)
        ratio = length / np.maximum(stature, 1e-9)[:, None]
        return (ratio >= np.array(self.low)) & (ratio <= np.array(self.high)) & known, known

    def stance(self, people: Floats) -> Floats:
        """`(N,)` of `(N, 18, 3)` people: 1 standing, -1 sitting, 0 neither or not to be told.

        What `models.flow` was told of COCO's people, seen in part or not, when it was trained: it cannot be changed
        without training anew. `models.wishes.stances` judges what was drawn, and is the stricter.

        Told by hips and knees: plumb thighs and shins stand; thighs that drop by less than half their length under
        a trunk that is upright sit (or crouch).
        """
        known = people[..., 2] > 0
        stature = np.maximum(self.stature(people), 1e-9)
        seen = known[:, [8, 11]] & known[:, [9, 12]]
        drop = (people[:, [9, 12], 1] - people[:, [8, 11], 1]) / (self.median[4] * stature[:, None])
        lower = (people[:, [10, 13], 1] - people[:, [9, 12], 1]) / (self.median[5] * stature[:, None])
        shins = known[:, [10, 13]]
        hips = np.where(known[:, [8, 11]], people[:, [8, 11], 1], np.nan)
        trunk = np.where(
            known[:, 1], (np.nan_to_num(hips, nan=-np.inf).max(1) - people[:, 1, 1]) / stature, 0.0
        )
        stands = seen.any(1) & ((drop > 0.75) | ~seen).all(1) & ((lower > 0.7) | ~shins | ~seen).all(1)
        sits = seen.any(1) & ((drop < 0.5) | ~seen).all(1)
        return (trunk > 0.3) * (stands * 1.0 - sits * 1.0)

    def completed(self, person: Floats, stature: float) -> Floats:
        """A copy of `(18, 3)` in which neck, shoulders, hips, arms and legs are all known.

        A missing limb takes the direction of the other side's, else that of a standing person.
        """
        out = person.copy()
        template = np.array(self.template) * stature

        def known(joint: int) -> bool:
            return bool(out[joint, 2] > 0)

        def put(joint: int, xy: Floats) -> None:
            out[joint] = xy[0], xy[1], 1.0

        if not known(1):
            anchors = [j for j in (2, 5, 0, 8, 11, 14, 15, 16, 17) if known(j)] or [
                j for j in range(18) if known(j)
            ]
            if known(2) and known(5):
                put(1, (out[2, :2] + out[5, :2]) / 2)
            else:
                put(1, out[anchors[0], :2] - template[anchors[0]])
        for joint in (2, 5, 8, 11):
            if not known(joint):
                other = _OTHER[joint]
                if known(other) and joint in (2, 5):
                    put(joint, 2 * out[1, :2] - out[other, :2])
                elif known(other):
                    put(joint, out[other, :2] + template[joint] - template[other])
                else:
                    put(joint, out[1, :2] + template[joint])
        facing = abs(out[2, 0] - out[5, 0]) > 0.5 * abs(template[2, 0] - template[5, 0])
        for joint, parent in _PARENT.items():
            if not known(joint):
                other = _OTHER[joint]
                if person[other, 2] > 0 and person[_OTHER[parent], 2] > 0:
                    # Arms and legs mirror each other seen from the front and go together from the side.
                    bone = (person[other, :2] - person[_OTHER[parent], :2]) * ((-1, 1) if facing else (1, 1))
                else:
                    bone = template[joint] - template[parent]
                put(joint, out[parent, :2] + bone)
        return out


def bones(people: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Lengths of `BONES` `(N, 17)` of `(N, 18, 3)` people, and which are known."""
    known = (people[:, _A, 2] > 0) & (people[:, _B, 2] > 0)
    return np.linalg.norm(people[:, _A, :2] - people[:, _B, :2], axis=-1), known


def upright(people: Floats, stature: Floats) -> Floats:
    """How far `(N, 18, 3)` completed people stand: height from neck to ankles in statures, 0..1."""
    ankles = people[:, [10, 13], 1].mean(1)
    return np.clip((ankles - people[:, 1, 1]) / np.maximum(stature, 1e-9), 0.0, 1.0)


def facing(people: Floats, stature: Floats) -> Floats:
    """`(N,)` of `(N, 18, 3)` people: -1 looking to the left of the picture, 1 to the right, 0 neither or not told.

    What `models.flow` was trained with, see `Anatomy.stance`; `models.wishes.facings` judges what was drawn.

    Told by the nose, which lies to one side of the ears (of the one that is seen) by more than 0.04 statures.
    """
    ears = people[:, [16, 17]]
    number = ears[..., 2].sum(1)
    middle = (ears[..., 0] * ears[..., 2]).sum(1) / np.maximum(number, 1)
    off = (people[:, 0, 0] - middle) / np.maximum(stature, 1e-9)
    told = (number > 0) & (people[:, 0, 2] > 0) & (np.abs(off) > 0.04)
    return np.where(told, np.sign(off), 0.0)


def _robust(values: Floats) -> tuple[float, float]:
    middle = float(np.median(values))
    return middle, float(1.4826 * np.median(np.abs(values - middle)))


def measure(examples: Examples) -> Anatomy:
    """The numbers from the people of `examples` (train2017)."""
    people = examples.people.astype(np.float64)
    people[..., :2] *= examples.size.max(1)[:, None, None]  # pixels, from the frame's centre
    full = np.flatnonzero(examples.kind == FULL)
    whole = people[full]
    # Standing, by the limbs' own directions: thighs, shins and trunk nearly plumb.
    drop = whole[:, [9, 12, 10, 13], 1] - whole[:, [8, 11, 9, 12], 1]
    limb = np.linalg.norm(whole[:, [9, 12, 10, 13], :2] - whole[:, [8, 11, 9, 12], :2], axis=-1)
    hips, ankles = whole[:, [8, 11], :2].mean(1), whole[:, [10, 13], :2].mean(1)
    trunk = hips - whole[:, 1, :2]
    height = ankles[:, 1] - whole[:, 1, 1]
    stands = (drop > 0.9 * limb).all(1) & (trunk[:, 1] > 0.9 * np.linalg.norm(trunk, axis=1)) & (height > 40)
    length, known = bones(whole[stands])
    ratio = np.where(known, length / height[stands, None], np.nan)
    median = np.nanmedian(ratio, axis=0)
    relative = (whole[stands, :, :2] - whole[stands, 1:2, :2]) / height[stands, None, None]
    # People seen from the front and from behind cancel out: the template is a person seen from the front.
    facing = relative[:, 5, 0] > relative[:, 2, 0] + 0.1
    template = np.nanmedian(np.where(whole[stands, :, 2:] > 0, relative, np.nan)[facing], axis=0)
    mirror = template[[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]] * (-1, 1)
    template = (template + mirror) / 2

    draft = Anatomy(tuple(median), (0.0,) * 17, (9.0,) * 17, tuple(map(tuple, template)), 0.0, 0.0, 0.0)
    stature = draft.stature(whole)
    big = stature > 40
    length, known = bones(whole[big])
    ratio = np.where(known, length / stature[big, None], np.nan)
    low, high = np.nanpercentile(ratio, (1, 99), axis=0)

    index, tall, feet, place = full[stands], stature[stands], ankles[stands], examples.image[full[stands]]
    slopes: list[float] = []
    beside: list[float] = []
    for first in range(len(index)):
        second = first + 1
        while second < len(index) and place[second] == place[first]:
            mean = (tall[first] + tall[second]) / 2
            down = feet[second, 1] - feet[first, 1]
            if abs(down) > 0.3 * mean:
                slopes.append((tall[second] - tall[first]) / down)
            elif abs(down) < 0.05 * mean:
                beside.append(float(np.log(tall[second] / tall[first])))
            second += 1
    slope, slope_spread = _robust(np.array(slopes))
    # A difference of two people has twice the variance of one.
    size_spread = _robust(np.array(beside + [-b for b in beside]))[1] / np.sqrt(2)
    return Anatomy(
        tuple(np.round(median, 4).tolist()),
        tuple(np.round(low, 4).tolist()),
        tuple(np.round(high, 4).tolist()),
        tuple((round(float(x), 4), round(float(y), 4)) for x, y in template),
        round(slope, 4),
        round(slope_spread, 4),
        round(float(size_spread), 4),
    )


@functools.cache
def installed(path: Path = PATH) -> Anatomy:
    """The numbers that come with the weights."""
    return msgspec.json.decode(path.read_bytes(), type=Anatomy)


def write(examples: Examples, path: Path = PATH) -> Anatomy:
    """Measures and stores the numbers."""
    anatomy = measure(examples)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(anatomy), indent=1) + b"\n")
    return anatomy
