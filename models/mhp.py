# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out examples from MHP-v1, the data of the paper's first stage, for whoever has it.

MHP-v1 (Li et al. 2017, "Multiple-Human Parsing in the Wild", arXiv 1705.07206) holds 4,980 pictures with a mask of
each person's parts and no keypoints; the paper takes those from OpenPose, this from our own pose estimator. A person
that no mask covers is dropped (a poster, a statue, a double). The layout is that of the archive LV-MHP-v1:

    images/0001.jpg ...
    annotations/0001_02_01.png, 0001_02_02.png ...   picture, number of people in it, person; 0 is background
    train_list.txt, test_list.txt                    names of pictures, one a line
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.coco import Examples, from_frame, kinds, leave_one_out
from models.images import load_picture
from models.pose import PoseEstimator
from shared.errors import BadImage, BadInput
from shared.skeleton import NUM_JOINTS, Skeleton

COVERED = 0.5
"""Share of a person's joints that lie in the mask of the person."""

SPLITS = (("train", "train_list.txt"), ("val", "test_list.txt"))


class Poses(msgspec.Struct, frozen=True):
    """What was found in one picture: a line of poses.jsonl.

    Args:
        name (`str`): of the picture.
        size (`(int, int)`): width and height in pixels.
        people (`list` of 54 numbers): skeletons, see `Skeleton.to_openpose`.
        boxes (`list` of 4 floats): cx, cy, width, height of each person's mask, in pixels.
        masks (`int`): people in the annotation.
    """

    name: str
    size: tuple[int, int]
    people: list[list[float]]
    boxes: list[tuple[float, float, float, float]]
    masks: int


def prepare(
    root: Path, out: Path, threads: int = 2, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """Writes `out`/train.npz and `out`/val.npz (the published test list); says in words what each holds.

    The poses are kept in `out`/poses.jsonl: a run that was stopped goes on behind the last of them.

    Args:
        root (`Path`): folder of MHP-v1.
        out (`Path`): folder for the examples; made if need be.
        threads (`int`): for the pose estimator.
        progress (*optional*): called after each picture with its number and how many there are.

    Raises:
        BadInput: the folder is not laid out like MHP-v1, or holds no two people in one picture.
        BadImage: a picture or a mask cannot be read.
    """
    lists = {split: _names(root, file) for split, file in SPLITS}
    names = [name for split in lists.values() for name in split]
    masks = _masks(root, names)
    out.mkdir(parents=True, exist_ok=True)
    done = _read(out / "poses.jsonl")
    estimator = PoseEstimator(threads)
    with (out / "poses.jsonl").open("ab") as file:
        for number, name in enumerate(names):
            if name not in done:
                done[name] = _look_at(root / "images" / name, masks[name], estimator)
                file.write(msgspec.json.encode(done[name]) + b"\n")
                file.flush()
            if progress is not None:
                progress(number + 1, len(names))
    said = {}
    for split, chosen in lists.items():
        found = [done[name] for name in chosen]
        examples = _examples(found)
        if not len(examples):
            raise BadInput(
                f"{root}: no picture of its {split} list shows two people well enough",
                "Check that images/ holds the pictures of MHP-v1",
                str(root),
            )
        examples.save(out / f"{split}.npz")
        said[split] = (
            f"{len(examples)} examples from {len(found)} pictures; {sum(len(p.people) for p in found)} of"
            f" {sum(p.masks for p in found)} annotated people were found"
        )
    return said


def _names(root: Path, file: str) -> list[str]:
    path = root / file
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file",
            "Give the folder of MHP-v1 that holds images/, annotations/ and the lists",
            str(root),
        )
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in names:
        if Path(name).name != name:
            raise BadInput(f"{path}: {name!r} is no file name", "Use the list as published", str(path))
        if not (root / "images" / name).is_file():
            raise BadInput(
                f"{root / 'images' / name}: no such file, but {file} names it",
                "Unpack all pictures of MHP-v1",
                str(path),
            )
    return names


def _masks(root: Path, names: list[str]) -> dict[str, list[Path]]:
    """The masks of each picture."""
    of: dict[str, list[Path]] = {Path(name).stem: [] for name in names}
    for path in sorted((root / "annotations").glob("*_*_*.png")):
        of.get(path.stem.split("_")[0], []).append(path)
    for name in names:
        if not of[Path(name).stem]:
            raise BadInput(
                f"{root / 'annotations'}: has no mask {Path(name).stem}_*_*.png of the picture {name}",
                "Unpack all annotations of MHP-v1",
                str(root / "annotations"),
            )
    return {name: of[Path(name).stem] for name in names}


def _read(path: Path) -> dict[str, Poses]:
    """The poses found before; a last line that was cut off is dropped."""
    done: dict[str, Poses] = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        path.write_bytes(b"".join(whole))
    for line in whole:
        try:
            poses = msgspec.json.decode(line, type=Poses)
        except msgspec.DecodeError as error:
            raise BadInput(f"{path}: is damaged ({error})", "Remove it and start again", str(path)) from error
        done[poses.name] = poses
    return done


def _look_at(path: Path, masks: list[Path], estimator: PoseEstimator) -> Poses:
    """The people of one picture, each with the mask that covers most of them; a mask has one person."""
    rgb = load_picture(path).rgb
    height, width = rgb.shape[:2]
    areas = [_area(mask, (width, height)) for mask in masks]
    people = estimator.detect(rgb)
    covered = np.array([[_share(person, area) for area in areas] for person in people])
    kept: list[list[float]] = []
    boxes: list[tuple[float, float, float, float]] = []
    while covered.size and covered.max() >= COVERED:
        person, mask = np.unravel_index(int(covered.argmax()), covered.shape)
        rows, columns = (np.flatnonzero(areas[mask].any(axis)) for axis in (1, 0))
        x0, x1, y0, y1 = (int(v) for v in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
        kept.append(people[person].to_openpose())
        boxes.append(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0))
        covered[person], covered[:, mask] = 0, 0
    return Poses(path.name, (width, height), kept, boxes, len(masks))


def _area(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a mask `(H, W)` is not background."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.shape[1::-1] != size:
        found = (
            "cannot be read"
            if labels is None
            else f"is {labels.shape[1]} x {labels.shape[0]}, not {size[0]} x {size[1]}"
        )
        raise BadImage(f"{path}: {found}", "Unpack the annotations of MHP-v1 again", str(path))
    return np.any(labels.reshape(*labels.shape[:2], -1) > 0, axis=-1)


def _share(person: Skeleton, area: NDArray[np.bool_]) -> float:
    """Share of the person's known joints that lie in the mask."""
    height, width = area.shape
    x, y = np.floor(person.xy[person.visible]).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(area[y[inside], x[inside]].sum() / len(x))


def _examples(found: list[Poses]) -> Examples:
    people = np.zeros((sum(len(poses.people) for poses in found), NUM_JOINTS, 3), np.float32)
    owner = np.repeat(np.arange(len(found)), [len(poses.people) for poses in found])
    size = np.array([found[i].size for i in owner], np.int32).reshape(-1, 2)
    box = np.array([box for poses in found for box in poses.boxes], np.float64).reshape(-1, 4)
    skeletons = [Skeleton.from_openpose(values) for poses in found for values in poses.people]
    for row, skeleton, frame in zip(people, skeletons, size.tolist(), strict=True):
        row[:, :2] = from_frame(skeleton.xy, frame) * skeleton.visible[:, None]
        row[:, 2] = skeleton.visible
    number = np.array([int("".join(c for c in poses.name if c.isdigit()) or 0) for poses in found], np.int64)
    return leave_one_out(people, owner, size, kinds(people, box, size), number[owner])
