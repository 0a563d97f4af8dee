# SPDX-License-Identifier: Apache-2.0
"""DeepFashion's In-shop pictures in the layout in which the field publishes its pairs, and the paper's Table I.

The layout is PATN's (tengteng95/Pose-Transfer, README): `fasion-resize-pairs-<split>.csv` (sic; `from,to` and a line
per pair), and the pictures under the names of that file in `<split>/`, `img/` or below: 176x256, or as they come from
DeepFashion, 256x256 with white to both sides, in their own folders (`img/WOMEN/Dresses/id_00000002/02_1_front.jpg`).
Published keypoints, made by OpenPose, are not used: poses and mattes are our estimators'. The pictures are for
non-commercial research; none is part of Walk-On.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput, WalkOnError
from shared.skeleton import Skeleton

from .images import load_picture
from .matte import MatteEstimator
from .metrics import Measure, inception_score, lpips, pckh, ssim_of_pictures
from .pose import PoseEstimator
from .transfer_eval import Transfer, pasted

Bytes = NDArray[np.uint8]
Split = Literal["train", "test"]

SIZE = 256
COLUMNS = 176
_LEFT = (SIZE - COLUMNS) // 2
_SHARD = 256  # pairs in a file
_PICTURES = (".jpg", ".jpeg", ".png")

PUBLISHED = {
    "PG2 (published)": (0.773, 3.163, 0.951, 0.89, 0.523, 0.416),
    "Deform (published)": (0.760, 3.362, 0.967, 0.94, None, None),
    "VUNet (published)": (0.763, 3.440, 0.972, 0.93, None, None),
    "PATN (published)": (0.773, 3.209, 0.976, 0.96, 0.299, 0.170),
    "the paper (published)": (0.769, 3.379, 0.976, 0.98, 0.200, 0.111),
    "real data (published)": (1.000, 3.864, 0.974, 1.00, 0.000, 0.000),
}
"""Table I of the paper, in the order of `COLUMNS_OF_TABLE`."""

COLUMNS_OF_TABLE = ("SSIM", "IS", "DS", "PCKh", "LPIPS (VGG)", "LPIPS (SqzNet)")


@dataclass(frozen=True)
class Pictured:
    """One person of DeepFashion in the authors' frame.

    Args:
        rgb (`(256, 256, 3)` uint8): on white, the middle 176 columns used.
        matte (`(256, 256)` float32): our estimate.
        skeleton (`Skeleton`): our estimate.
    """

    rgb: Bytes
    matte: NDArray[np.float32]
    skeleton: Skeleton


def published_name(path: Path) -> str:
    """The name in PATN's lists of a picture in DeepFashion's own folders, `WOMEN/Dresses/id_.../02_1_front.jpg`."""
    *folders, file = path.parts
    number, *rest = file.split("_")
    joined = number + ("_" if rest else "") + "".join(rest)
    return "fashion" + "".join(part.replace("_", "") for part in folders) + joined


class DeepFashion:
    """The pictures and pairs of a folder.

    Args:
        folder (`Path`): in the layout above.
        split (`str`): `"train"` or `"test"`.

    Raises:
        BadInput: no list of pairs, or pictures of it are missing.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.pairs = _read_pairs(folder / f"fasion-resize-pairs-{split}.csv")
        self.paths = _find(folder, {name for pair in self.pairs for name in pair})
        self.pose, self.matting = PoseEstimator(), MatteEstimator()
        # Pairs with the same picture follow each other in the published lists.
        self.picture = functools.lru_cache(512)(self._picture)

    def _picture(self, name: str) -> Pictured | None:
        """The person of that name; None where our estimator sees nobody with four joints."""
        rgb = in_frame(load_picture(self.paths[name]).rgb, str(self.paths[name]))
        people = self.pose.detect(rgb)
        if not people or people[0].visible.sum() < 4:
            return None
        return Pictured(rgb, self.matting.matte(rgb, people[0], people[1:]), people[0])

    def __iter__(self) -> Iterator[tuple[Pictured, Pictured]]:
        """Source and target of each pair in which both are seen."""
        for source_name, target_name in self.pairs:
            source, target = self.picture(source_name), self.picture(target_name)
            if source is not None and target is not None:
                yield source, target


def _read_pairs(file: Path) -> list[tuple[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))
    except OSError as error:
        raise BadInput(
            f"{file}: cannot be read ({error.strerror})",
            "Give the folder that holds PATN's lists of pairs (docs/transfer.md)",
            str(file),
        ) from error
    if not rows or rows[0] != ["from", "to"] or any(len(row) != 2 for row in rows):
        raise BadInput(
            f"{file}: is no list of pairs", "Its first line is from,to and each further names two", str(file)
        )
    if len(rows) == 1:
        raise BadInput(f"{file}: holds no pair", "Use the list as PATN publishes it", str(file))
    return [(source, target) for source, target in rows[1:]]


def _find(folder: Path, names: set[str]) -> dict[str, Path]:
    """Where the pictures of these names lie."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _PICTURES:
            continue
        inside = path.relative_to(folder)
        # DeepFashion's own folders may lie in img/ or the like.
        for name in (path.name, *(published_name(Path(*inside.parts[skip:])) for skip in range(2))):
            if name in names:
                found.setdefault(name, path)
    missing = sorted(names - found.keys())
    if missing:
        raise BadInput(
            f"{folder}: lacks {len(missing)} of {len(names)} pictures of the list, the first of them {missing[0]}",
            "Put DeepFashion's In-shop pictures (img/) into the folder",
            str(folder),
        )
    return found


def in_frame(rgb: Bytes, subject: str) -> Bytes:
    """The picture in the authors' 256-px frame on white.

    Raises:
        BadInput: neither 176x256 nor 256x256.
    """
    height, width = rgb.shape[:2]
    if height != SIZE or width not in (SIZE, COLUMNS):
        raise BadInput(
            f"{subject}: is {width} x {height} pixels, not {COLUMNS} x {SIZE} or {SIZE} x {SIZE}",
            "Use the 256-px pictures of the In-shop benchmark",
            subject,
        )
    middle = rgb if width == COLUMNS else rgb[:, _LEFT : _LEFT + COLUMNS]
    frame = np.full((SIZE, SIZE, 3), 255, np.uint8)
    frame[:, _LEFT : _LEFT + COLUMNS] = middle
    return frame


def prepare(folder: Path, out: Path, split: Split, limit: int | None = None) -> Iterator[Path]:
    """Writes the pairs as `walkon train transfer --generator msa` reads them: `out`/<split>/NNNNN.npz.

    Each file holds up to 256 pairs: `src`, `tgt` `(N, 256, 256, 4)` uint8, straight RGBA with our matte; `ks`, `kt`
    `(N, 18, 2)` float32 pixels; `vs`, `vt` `(N, 18)` uint8, 2 where the joint is seen. Files that are there stay.

    Args:
        limit (`int`, *optional*): how many pairs at most.

    Yields:
        each file that was written.
    """
    data = DeepFashion(folder, split)
    (out / split).mkdir(parents=True, exist_ok=True)
    pairs = data.pairs[:limit]
    for start in range(0, len(pairs), _SHARD):
        file = out / split / f"{start // _SHARD:05d}.npz"
        if file.exists():
            continue
        data.pairs = pairs[start : start + _SHARD]
        seen = list(data)
        if not seen:
            continue
        arrays: dict[str, NDArray[np.generic]] = {}
        for side, picture, xy, state in ((0, "src", "ks", "vs"), (1, "tgt", "kt", "vt")):
            people = [pair[side] for pair in seen]
            alpha = [np.rint(person.matte * 255).astype(np.uint8) for person in people]
            arrays[picture] = np.stack([np.dstack([p.rgb, a]) for p, a in zip(people, alpha, strict=True)])
            arrays[xy] = np.stack([person.skeleton.xy for person in people]).astype(np.float32)
            arrays[state] = np.stack([2 * person.skeleton.visible.astype(np.uint8) for person in people])
        hidden = file.with_name("." + file.name)
        np.savez_compressed(hidden, **arrays)  # type: ignore[arg-type]
        hidden.replace(file)
        yield file


# -------------------------------------------------------------------------------- the paper's Table I


@dataclass(frozen=True)
class Networks:
    """Networks that others provide, as ONNX files (docs/transfer.md says how); a column stays empty without.

    Args:
        inception (`Path`, *optional*): Inception v3, 299 px, values -1..1 to 1,000 logits.
        ssd (`Path`, *optional*): SSD300 of NVIDIA's hub, 300 px: locations, and logits `(1, 81, 8732)`.
        lpips_vgg, lpips_squeeze (`Path`, *optional*): LPIPS with that backbone, two pictures of -1..1.
    """

    inception: Path | None = None
    ssd: Path | None = None
    lpips_vgg: Path | None = None
    lpips_squeeze: Path | None = None


_WANTED = {
    "IS": "--inception inception_v3.onnx",
    "DS": "--ssd ssd300.onnx",
    "LPIPS (VGG)": "--lpips-vgg lpips_vgg.onnx",
    "LPIPS (SqzNet)": "--lpips-squeeze lpips_squeeze.onnx",
}

Cell = float | str


class _Row:
    """Sums of one row of the table."""

    def __init__(self, networks: Mapping[str, Measure]) -> None:
        self.networks = networks
        self.ssim: list[float] = []
        self.correct = self.total = 0
        self.classes: list[NDArray[np.float64]] = []
        self.detections: list[float] = []
        self.lpips: dict[str, list[float]] = {name: [] for name in networks if name.startswith("LPIPS")}

    def add(self, picture: Bytes, truth: Pictured, found: Skeleton | None) -> None:
        self.ssim.append(ssim_of_pictures(picture, truth.rgb))
        correct, total = pckh(truth.skeleton, found)
        self.correct += correct
        self.total += total
        for name, values in self.lpips.items():
            values.append(lpips(self.networks[name], picture, truth.rgb))
        if "IS" in self.networks:
            logits = self.networks["IS"](_sized(picture, 299))[0][0].astype(np.float64)
            exponents = np.exp(logits - logits.max())
            self.classes.append(exponents / exponents.sum())
        if "DS" in self.networks:
            # Confidence that the best of the boxes holds a person, class 1 of COCO.
            logits = self.networks["DS"](_sized(picture, 300))[1][0].astype(np.float64)
            exponents = np.exp(logits - logits.max(0))
            self.detections.append(float((exponents[1] / exponents.sum(0)).max()))

    def cells(self) -> dict[str, Cell]:
        said: dict[str, Cell] = {
            "SSIM": float(np.mean(self.ssim)),
            "PCKh": self.correct / max(self.total, 1),
            **{name: float(np.mean(values)) for name, values in self.lpips.items()},
        }
        if self.classes:
            said["IS"] = inception_score(np.stack(self.classes))
        if self.detections:
            said["DS"] = float(np.mean(self.detections))
        return {
            name: round(cell, 4) if isinstance(cell := said.get(name, _WANTED.get(name, "")), float) else cell
            for name in COLUMNS_OF_TABLE
        }


def _sized(picture: Bytes, size: int) -> NDArray[np.float32]:
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    return (np.asarray(small, np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]


def table(
    folder: Path, rows: Mapping[str, Transfer], networks: Networks, limit: int | None = None
) -> dict[str, dict[str, Cell]]:
    """The paper's Table I on the test pairs of a folder, in both directions as its authors do, published rows first.

    Args:
        folder (`Path`): DeepFashion in the published layout.
        rows (mapping): transfers, by name (`models.transfer_eval.transfers`).
        networks (`Networks`): for the columns that need one; the cell names the file where it is not given.
        limit (`int`, *optional*): how many pairs at most.

    Returns:
        per row the cells of `COLUMNS_OF_TABLE`; an empty text where nothing is published. Ours have `pictures` too.
    """
    files = {
        "IS": (networks.inception, 1), "DS": (networks.ssd, 1),
        "LPIPS (VGG)": (networks.lpips_vgg, 2), "LPIPS (SqzNet)": (networks.lpips_squeeze, 2),
    }  # fmt: skip
    measures = {name: Measure(path, inputs) for name, (path, inputs) in files.items() if path is not None}
    data = DeepFashion(folder, "test")
    data.pairs = data.pairs[:limit]
    sums = {name: _Row(measures) for name in (*rows, "real data")}
    for pair in data:
        for source, target in (pair, pair[::-1]):
            sums["real data"].add(target.rgb, target, data.pose.estimate(target.rgb, target.skeleton.box))
            for name, row in rows.items():
                picture = _painted(row, source, target)
                sums[name].add(picture, target, data.pose.estimate(picture, target.skeleton.box))
    if not sums["real data"].ssim:
        raise BadInput(
            f"{folder}: our estimator sees nobody in its pictures", "Use photos of people", str(folder)
        )
    said: dict[str, dict[str, Cell]] = {
        name: dict(zip(COLUMNS_OF_TABLE, ["" if cell is None else cell for cell in cells], strict=True))
        for name, cells in PUBLISHED.items()
    }
    for name, summed in sums.items():
        said[name] = {**summed.cells(), "pictures": len(summed.ssim)}
    return said


def _painted(row: Transfer, source: Pictured, target: Pictured) -> Bytes:
    """The source in the target's pose over white, white bars included; white alone where the transfer refuses."""
    try:
        layer = pasted(row.transfer(source.rgb, source.matte, source.skeleton, target.skeleton), SIZE)
    except WalkOnError:
        return np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture = layer[..., :3] + (1 - layer[..., 3:])
    picture[:, :_LEFT] = picture[:, _LEFT + COLUMNS :] = 1.0
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
