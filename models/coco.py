# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out examples from the COCO 2017 person keypoints: the others are the context, one person the target.

Coordinates are normalised by padding the frame to a square: `(pixel - size / 2) / max(size)`, so the frame's
centre is (0, 0), its longer side spans -0.5..0.5, aspect ratio is kept and `to_frame` inverts `from_frame`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import BadInput
from shared.skeleton import FACE, MIRROR, NECK, NUM_JOINTS, Skeleton

BODY = tuple(range(2, 14))
"""Shoulders, elbows, wrists, hips, knees, ankles."""

FULL, CUT, HIDDEN = range(3)
"""Kinds of people: all of `BODY` and a face joint known; else cut by the frame's edge; else hidden by something."""

MIN_CONTEXT_JOINTS = 8
MIN_TARGET_JOINTS = 12  # of COCO's 17
MIN_TARGET_HEIGHT = 0.15  # of the frame's height; below it a 64-cell map holds under ten cells of a person
FLIP = np.array([-1, 1, 1], np.float32)
EDGE = 3.0  # pixels; COCO's boxes of people who are cut end this near the edge (image sizes are known to +-1)


def from_frame(xy: ArrayLike, size: Sequence[float]) -> NDArray[np.float64]:
    """Pixels `(..., 2)` of a frame `(width, height)` to normalised coordinates."""
    size_ = np.asarray(size, dtype=np.float64)
    return (np.asarray(xy, dtype=np.float64) - size_ / 2) / size_.max()


def to_frame(xy: ArrayLike, size: Sequence[float]) -> NDArray[np.float64]:
    """Normalised coordinates `(..., 2)` to pixels of a frame `(width, height)`; inverse of `from_frame`."""
    size_ = np.asarray(size, dtype=np.float64)
    return np.asarray(xy, dtype=np.float64) * size_.max() + size_ / 2


def aspect(size: Sequence[float]) -> NDArray[np.float64]:
    """`(2,)` width and height of the frame in normalised units; the longer is 1."""
    size_ = np.asarray(size, dtype=np.float64)
    return size_ / size_.max()


@dataclass(frozen=True)
class Batch:
    """Examples as arrays; the third channel of a joint is 1 where it is known, else all three are 0.

    Args:
        context (`(B, K, 18, 3)` float32): the others, normalised.
        present (`(B, K)` bool): which rows of the context hold a person.
        target (`(B, 18, 3)` float32): the person left out, normalised.
        aspect (`(B, 2)` float32): the frame's width and height in the same units.
        kind (`(B,)` int64): `FULL`, `CUT` or `HIDDEN`, of the target.
    """

    context: NDArray[np.float32]
    present: NDArray[np.bool_]
    target: NDArray[np.float32]
    aspect: NDArray[np.float32]
    kind: NDArray[np.int64]

    def mirrored(self, which: NDArray[np.bool_]) -> Batch:
        """The batch with the examples `which (B,)` flipped left to right, joints renamed accordingly."""
        context, target = self.context.copy(), self.target.copy()
        context[which] = self.context[which][..., list(MIRROR), :] * FLIP
        target[which] = self.target[which][..., list(MIRROR), :] * FLIP
        return Batch(context, self.present, target, self.aspect, self.kind)

    def zoomed(self, factor: NDArray[np.float32]) -> Batch:
        """Every example enlarged about the frame's centre by `factor (B,)`, its frame too."""
        scale = np.ones((len(factor), 3), np.float32)
        scale[:, :2] = factor[:, None]
        return Batch(
            self.context * scale[:, None, None],
            self.present,
            self.target * scale[:, None],
            self.aspect * factor[:, None],
            self.kind,
        )


@dataclass(frozen=True)
class Examples:
    """All leave-one-out examples of a split.

    Args:
        people (`(P, 18, 3)` float32): x, y normalised, known; see `Batch`.
        size (`(P, 2)` int32): width and height in pixels of the frame that the person is in.
        kind (`(P,)` uint8): `FULL`, `CUT` or `HIDDEN`.
        image (`(P,)` int64): COCO's image id of the person.
        target (`(E,)` int32): index into the people.
        context (`(E, K)` int32): indices into the people, -1 for none.
    """

    people: NDArray[np.float32]
    size: NDArray[np.int32]
    kind: NDArray[np.uint8]
    image: NDArray[np.int64]
    target: NDArray[np.int32]
    context: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.target)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The examples `index (B,)`; the context is as wide as the fullest of them."""
        rows = self.context[index]
        rows = rows[:, : max(1, int((rows >= 0).sum(1).max()))]
        present = rows >= 0
        target = self.target[index]
        size = self.size[target].astype(np.float32)
        return Batch(
            self.people[rows] * present[..., None, None],
            present,
            self.people[target],
            size / size.max(1, keepdims=True),
            self.kind[target].astype(np.int64),
        )

    def skeleton(self, person: int) -> Skeleton:
        """A person in pixels of his frame."""
        joints = self.people[person]
        return Skeleton(to_frame(joints[:, :2], self.size[person].tolist()), joints[:, 2] > 0)

    def scene(self, example: int) -> tuple[list[Skeleton], Skeleton, tuple[int, int]]:
        """Context, target and frame size of one example, in pixels."""
        target = int(self.target[example])
        context = [self.skeleton(int(i)) for i in self.context[example] if i >= 0]
        return context, self.skeleton(target), (int(self.size[target, 0]), int(self.size[target, 1]))

    def save(self, path: Path) -> None:
        """Writes the arrays as .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Reads what `save` wrote.

        Raises:
            BadInput: there is no such file.
        """
        if not path.is_file():
            raise BadInput(f"{path}: no such file", "Make the examples with: walkon data coco", str(path))
        with np.load(path) as arrays:
            return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def kinds(
    people: NDArray[np.float32], box: NDArray[np.float64], size: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """`(P,)` kind of each person by the known joints and the box (cx, cy, width, height in pixels) `(P, 4)`."""
    known = people[..., 2] > 0
    full = known[:, list(BODY)].all(1) & known[:, list(FACE)].any(1)
    low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
    at_edge = ((low <= EDGE) | (high >= size - EDGE)).any(1)
    return np.where(full, FULL, np.where(at_edge, CUT, HIDDEN)).astype(np.uint8)


def read_coco(path: Path, *, val: bool) -> Examples:
    """Leave-one-out examples of one split.

    A context person has at least 8 known joints (of COCO's 17); a target at least 12 and 15 % of the frame's
    height. Every image with a target and a context person counts, crowds as well.

    Args:
        path (`Path`): .npz with xy `(N, 17, 2)` integer pixels, vis `(N, 17)` 0/1/2, bbox_cxcywh, count (people
            per image, in order), image_id, wh, is_val.
        val (`bool`): val2017 instead of train2017.

    Raises:
        BadInput: the file cannot be read or lacks an array.
    """
    names = ("xy", "vis", "bbox_cxcywh", "count", "image_id", "wh", "is_val")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{path}: is no COCO keypoint archive ({error})",
            f"Give an .npz with {', '.join(names)}",
            str(path),
        ) from error
    count = arrays["count"].astype(np.int64)
    owner = np.repeat(np.arange(len(count)), count)
    chosen = arrays["is_val"][owner] == val
    owner = owner[chosen]
    # COCO's integers name pixels; their centres lie half a pixel further.
    xy17, known17 = arrays["xy"][chosen] + 0.5, arrays["vis"][chosen] > 0
    size = arrays["wh"][owner].astype(np.int32)

    people = np.zeros((len(owner), NUM_JOINTS, 3), np.float32)
    normalised = (xy17 - size[:, None] / 2) / size.max(1)[:, None, None]
    order = [i for i in range(NUM_JOINTS) if i != 1]
    source = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    people[:, order, :2], people[:, order, 2] = normalised[:, source], known17[:, source]
    people[:, 1, :2] = normalised[:, [5, 6]].mean(1)
    people[:, 1, 2] = known17[:, [5, 6]].all(1)
    people[..., :2] *= people[..., 2:]

    kind = kinds(people, arrays["bbox_cxcywh"][chosen].astype(np.float64), size)
    return leave_one_out(people, owner, size, kind, arrays["image_id"][owner].astype(np.int64))


def leave_one_out(
    people: NDArray[np.float32],
    owner: NDArray[np.int64],
    size: NDArray[np.int32],
    kind: NDArray[np.uint8],
    image: NDArray[np.int64],
) -> Examples:
    """Every person who can be a target with the others of the picture.

    Args:
        people (`(P, 18, 3)` float32), size, kind, image (`(P, ...)`): see `Examples`.
        owner (`(P,)` int64): number of the picture that the person is in; equal numbers lie side by side.
    """
    known = people[..., 2] > 0
    joints = known.sum(1) - known[:, NECK]
    top = np.where(known, people[..., 1], np.inf).min(1)
    bottom = np.where(known, people[..., 1], -np.inf).max(1)
    # Half a thousandth of a pixel: the coordinates went through float32.
    tall = (bottom - top) * size.max(1) >= MIN_TARGET_HEIGHT * size[:, 1] - 5e-4
    is_target, is_context = (joints >= MIN_TARGET_JOINTS) & tall, joints >= MIN_CONTEXT_JOINTS

    targets: list[int] = []
    contexts: list[NDArray[np.int64]] = []
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    for first, last in zip(starts, np.r_[starts[1:], len(owner)], strict=True):
        others = first + np.flatnonzero(is_context[first:last])
        if len(others) < 2:
            continue
        for person in first + np.flatnonzero(is_target[first:last]):
            targets.append(int(person))
            contexts.append(others[others != person])
    context = np.full((len(targets), max((len(c) for c in contexts), default=1)), -1, np.int32)
    for row, indices in zip(context, contexts, strict=True):
        row[: len(indices)] = indices
    return Examples(people, size, kind, image, np.array(targets, np.int32), context)


def prepare(path: Path, out: Path) -> dict[str, int]:
    """Writes `out`/train.npz and `out`/val.npz from the annotations at `path`; returns the examples in each."""
    counts = {}
    for name, val in (("train", False), ("val", True)):
        examples = read_coco(path, val=val)
        examples.save(out / f"{name}.npz")
        counts[name] = len(examples)
    return counts
