# SPDX-License-Identifier: Apache-2.0
"""What transfers are measured by: on held-out rendered pairs, where the truth is known, and on real photos.

Every transfer goes through the whole path that a photo takes, and is compared over mid-grey. docs/transfer.md
defines each number.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray

from shared.errors import BadInput, WalkOnError
from shared.skeleton import FACE, L_HIP, L_KNEE, L_SHOULDER, R_HIP, R_KNEE, R_SHOULDER, Skeleton

from .body import torso_length
from .draw import draw_people
from .finish import overlap, straight_bytes
from .images import LUMA, load_picture, save_png
from .matte import MatteEstimator
from .metrics import Measure, PersonFeatures, frechet_distance, gaussian_window, lpips, pckh, ssim_map
from .msa import MsaTransfer
from .person import Person, crop, person_frame, tensors
from .photo import resized
from .pose import PoseEstimator
from .suitability import shown_of
from .transfer import MotionTransfer

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ROWS = ("motion", "limbs", "msa", "copy")
LAYER = 512
"""Side in pixels of the square in which real actors are painted."""
_BAND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
"""Reaches 5 px to both sides of an outline."""


class Transfer(Protocol):
    """What is measured."""

    def transfer(self, rgb: Bytes, matte: Floats, source: Skeleton, target: Skeleton) -> Person:
        """As `MotionTransfer.transfer`."""


class Copying:
    """The person as it stands in the photo, scaled and moved to the target's frame: what any transfer must beat."""

    def transfer(self, rgb: Bytes, matte: Floats, source: Skeleton, target: Skeleton) -> Person:
        """As `MotionTransfer.transfer`."""
        photo = np.dstack([rgb.astype(np.float32) / 255 * matte[..., None], matte])
        to = person_frame(target)
        return Person(resized(crop(photo, person_frame(source)), to.size), to.x, to.y)


def transfers(names: Sequence[str] = ROWS) -> dict[str, Transfer]:
    """The rows by name."""
    others: dict[str, Callable[[], Transfer]] = {"copy": Copying, "msa": MsaTransfer}
    return {name: others[name]() if name in others else MotionTransfer(name) for name in names}


# -------------------------------------------------------------------------------------- numbers of one result


def pasted(person: Person, size: int) -> Floats:
    """The layer, premultiplied, in the square picture `(size, size, 4)` that its place refers to."""
    out = np.zeros((size, size, 4), np.float32)
    out_of, into = overlap(person.rgba.shape[:2], (person.x, person.y), (size, size))
    out[into] = person.rgba[out_of]
    return out


def over_grey(layer: Floats) -> Floats:
    """`(H, W, 3)` of a premultiplied layer over mid-grey."""
    return np.asarray(layer[..., :3] + 0.5 * (1 - layer[..., 3:]), np.float32)


def _bytes(picture: Floats) -> Bytes:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def psnr(squared_error: float) -> float:
    """Decibels of a mean squared error of values 0..1; at most 60."""
    return min(60.0, -10 * math.log10(squared_error + 1e-9))


def on_person(layer: Floats, truth: Floats, power: int, either: bool = False) -> float:
    """Mean of |difference| ** power over mid-grey, on the true person; with `either` on the layer's person too."""
    difference = np.abs(over_grey(layer) - over_grey(truth))
    alpha = np.maximum(layer[..., 3], truth[..., 3]) if either else truth[..., 3]
    return float((difference[alpha > 0.5] ** power).mean())


def ssim_on_person(layer: Floats, truth: Floats) -> float:
    """SSIM over mid-grey (Gaussian window, sigma 1.5), mean over the true person and 5 px around."""
    similar = ssim_map(over_grey(layer), over_grey(truth), gaussian_window())
    return float(similar[cv2.dilate(truth[..., 3], _BAND) > 0.5].mean())


def edge_error(layer: Floats, truth: Floats) -> float:
    """Mean absolute error of alpha within 5 px of the true outline."""
    edge = (cv2.dilate(truth[..., 3], _BAND) > 0.5) & (cv2.erode(truth[..., 3], _BAND) < 0.5)
    return float(np.abs(layer[..., 3] - truth[..., 3])[edge].mean()) if edge.any() else 0.0


def alpha_iou(layer: Floats, truth: Floats) -> float:
    """Common area over the area of both, at an alpha of one half."""
    a, b = layer[..., 3] > 0.5, truth[..., 3] > 0.5
    return float((a & b).sum() / max((a | b).sum(), 1))


def gradient_energy(layer: Floats) -> float:
    """Mean squared gradient of the luma well inside a premultiplied layer; nan where it has no inside."""
    inside = cv2.erode((layer[..., 3] > 0.98).astype(np.uint8), _BAND) > 0
    if not inside.any():
        return math.nan
    luma = layer[..., :3] @ LUMA
    energy = np.square(np.diff(luma, axis=1))[:-1] + np.square(np.diff(luma, axis=0))[:, :-1]
    return float(energy[inside[:-1, :-1]].mean())


class Found:
    """PCKh of many pictures, added up."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self.estimator = estimator
        self.correct = self.total = 0

    def add(self, picture: Bytes, truth: Skeleton) -> None:
        """Look for the person of a picture where it should be."""
        correct, total = pckh(truth, self.estimator.estimate(picture, truth.box))
        self.correct += correct
        self.total += total

    @property
    def pckh(self) -> float:
        """Share of joints found."""
        return self.correct / max(self.total, 1)


# --------------------------------------------------------------------------------------------- rendered pairs


@dataclass(frozen=True)
class Pair:
    """One held-out pair in 256 px: the photo with its true matte, and the truth.

    Args:
        rgb (`(256, 256, 3)` uint8), matte (`(256, 256)` float32): the photo.
        photo, truth (`(256, 256, 4)` float32): photo and target, premultiplied.
        source, target (`Skeleton`): of them; joints that the body hides are known.
        seen (`Skeleton`): the target's joints that are in sight.
    """

    rgb: Bytes
    matte: Floats
    photo: Floats
    truth: Floats
    source: Skeleton
    target: Skeleton
    seen: Skeleton


def pairs_of(folder: Path, count: int) -> Iterator[Pair]:
    """Up to `count` pairs, spread evenly over the files of a folder.

    Raises:
        BadInput: it holds no pair files.
    """
    # A hidden file is one that is still being written.
    files = sorted(file for file in folder.glob("*.npz") if not file.name.startswith("."))
    if not files:
        raise BadInput(f"{folder}: holds no pair files", "Run `walkon data people` first", str(folder))
    sizes = []
    for file in files:
        with np.load(file) as archive:
            sizes.append(len(archive["ks"]))
    chosen = np.unique(np.linspace(0, sum(sizes) - 1, min(count, sum(sizes))).astype(int))
    for file, first, size in zip(files, np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        with np.load(file) as archive:
            data = {key: archive[key] for key in ("src", "tgt", "ks", "kt", "vs", "vt")}
        for row in chosen[(chosen >= first) & (chosen < first + size)] - first:
            photo, truth = (data[key][row].astype(np.float32) / 255 for key in ("src", "tgt"))
            matte = photo[..., 3].copy()
            for picture in (photo, truth):
                picture[..., :3] *= picture[..., 3:]
            source = Skeleton(data["ks"][row], data["vs"][row] > 0)
            target = Skeleton(data["kt"][row], data["vt"][row] > 0)
            if min(source.visible.sum(), target.visible.sum()) >= 4:
                seen = Skeleton(data["kt"][row], data["vt"][row] == 2)
                yield Pair(data["src"][row][..., :3], matte, photo, truth, source, target, seen)


def on_pairs(
    rows: Mapping[str, Transfer], folder: Path, count: int, lpips_network: Measure | None = None
) -> dict[str, dict[str, float]]:
    """Numbers of transfers on rendered pairs, by row. The row `truth` says what the measures give to perfection.

    Args:
        rows (mapping): from `transfers`.
        folder (`Path`): of pair files that no network was trained on.
        count (`int`): how many pairs at most.
        lpips_network (`Measure`, *optional*): LPIPS; the column is left out without.

    Returns:
        per row `pckh`, `ssim`, `psnr` (dB), `l1`, `lpips`, `frechet`, `alpha_iou`, `alpha_edge`, `own_pose_psnr`
        (dB), `pairs`.
    """
    estimator, features = PoseEstimator(), PersonFeatures()
    found = {name: Found(estimator) for name in (*rows, "truth")}
    numbers: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    vectors: dict[str, list[NDArray[np.float64]]] = {name: [] for name in found}
    for pair in pairs_of(folder, count):
        true_picture = _bytes(over_grey(pair.truth))
        found["truth"].add(true_picture, pair.seen)
        vectors["truth"].append(features(true_picture))
        for name, row in rows.items():
            layer = pasted(row.transfer(pair.rgb, pair.matte, pair.source, pair.target), 256)
            back = pasted(row.transfer(pair.rgb, pair.matte, pair.source, pair.source), 256)
            picture = _bytes(over_grey(layer))
            found[name].add(picture, pair.seen)
            vectors[name].append(features(picture))
            line = {
                "ssim": ssim_on_person(layer, pair.truth),
                "psnr": psnr(on_person(layer, pair.truth, 2)),
                "l1": on_person(layer, pair.truth, 1),
                "alpha_iou": alpha_iou(layer, pair.truth),
                "alpha_edge": edge_error(layer, pair.truth),
                "own_pose_psnr": psnr(on_person(back, pair.photo, 2)),
            }
            if lpips_network is not None:
                line["lpips"] = lpips(lpips_network, picture, true_picture)
            numbers[name].append(line)
    result: dict[str, dict[str, float]] = {}
    truth = np.stack(vectors["truth"])
    for name, lines in numbers.items():
        means = {key: round(statistics.fmean(line[key] for line in lines), 4) for key in lines[0]}
        distance = frechet_distance(np.stack(vectors[name]), truth)
        result[name] = {
            "pckh": round(found[name].pckh, 4), **means, "frechet": round(distance, 4), "pairs": len(lines)
        }  # fmt: skip
    result["truth"] = {"pckh": round(found["truth"].pckh, 4), "pairs": len(truth)}
    return result


# ------------------------------------------------------------------------------------------------ real photos


@dataclass(frozen=True)
class RealPerson:
    """A person found in a photo."""

    name: str
    rgb: Bytes
    skeleton: Skeleton
    others: tuple[Skeleton, ...]


def people_of(photos: Path, estimator: PoseEstimator) -> tuple[list[RealPerson], list[RealPerson]]:
    """Those who can be actors, and those whose pose can be asked for.

    Actors are the largest person of each photo, where head, trunk and a knee are seen and the person is 64 px tall.
    Poses are those of the two largest people of each photo of whom head, trunk and 12 joints are seen.

    Raises:
        BadInput: the folder shows no two such people.
    """
    actors, poses = [], []
    for path in sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
        rgb = load_picture(path).rgb
        people = estimator.detect(rgb)
        found = [
            RealPerson(path.name, rgb, person, tuple(p for p in people if p is not person))
            for person in people[:2]
        ]
        found = [person for person in found if _shows_head_and_trunk(person.skeleton)]
        actors += [
            person
            for person in found[:1]
            if person.skeleton.visible[[R_KNEE, L_KNEE]].any() and person.skeleton.height >= 64
        ]
        poses += [person for person in found if person.skeleton.visible.sum() >= 12]
    if not actors or len({person.name for person in poses}) < 2:
        raise BadInput(f"{photos}: shows too few people", "Give a folder of photos of people", str(photos))
    return actors, poses


def _shows_head_and_trunk(skeleton: Skeleton) -> bool:
    return all(
        skeleton.visible[list(joints)].any() for joints in (FACE, (R_SHOULDER, L_SHOULDER), (R_HIP, L_HIP))
    )


def in_square(skeleton: Skeleton, size: int = LAYER) -> Skeleton:
    """The skeleton moved and scaled so that its frame is a square picture of that size."""
    frame = person_frame(skeleton)
    scale = size / frame.size
    return skeleton.transformed(scale, (-frame.x * scale, -frame.y * scale))


def on_photos(
    rows: Mapping[str, Transfer], photos: Path, count: int, sheet: Path | None = None
) -> dict[str, dict[str, float]]:
    """Numbers of transfers of real actors into the poses of other real people, by row.

    Limbs that the actor's photo does not show are not asked for (`models.suitability.shown_of`).

    Args:
        rows (mapping): from `transfers`.
        photos (`Path`): folder of photos.
        count (`int`): how many pairs of actor and pose; each actor serves equally often.
        sheet (`Path`, *optional*): write the first 30 as a picture, a PNG: actor, pose, and each row.

    Returns:
        per row `pckh_real`, `round_trip` and `round_trip_either` (dB, `RoundTrip`), `sharpness`, `real_pairs`,
        `refused` (pairs that ended in an error). The row `truth` is the person whose pose is asked for, cut out as the
        actors are.
    """
    estimator, matting = PoseEstimator(), MatteEstimator()
    actors, poses = people_of(photos, estimator)
    found = {name: Found(estimator) for name in (*rows, "truth")}
    trips: dict[str, list[RoundTrip]] = {name: [] for name in rows}
    sharpness: dict[str, list[float]] = {name: [] for name in rows}
    refused = dict.fromkeys(rows, 0)
    tiles = []
    for index in range(count):
        actor = actors[index % len(actors)]
        others = [pose for pose in poses if pose.name != actor.name]
        # The golden ratio: every actor meets poses of all kinds, and the first pairs are as mixed as all.
        pose = others[int(index * 0.618034 * len(others)) % len(others)]
        asked = shown_of(actor.skeleton, pose.skeleton)
        target = in_square(asked)
        matte, own_matte = (matting.matte(one.rgb, one.skeleton, one.others) for one in (actor, pose))
        found["truth"].add(_bytes(over_grey(resized(_cut_out(pose, own_matte, asked), LAYER))), target)
        results = {}
        for name, row in rows.items():
            try:
                person = row.transfer(actor.rgb, matte, actor.skeleton, target)
                layer = pasted(person, LAYER)
                trips[name].append(round_trip(row, actor, matte, layer, target))
            except WalkOnError:
                refused[name] += 1
                continue
            picture = _bytes(over_grey(layer))
            found[name].add(picture, target)
            sharpness[name].append(gradient_energy(layer) / _energy_of_photo(actor, matte, target))
            results[name] = picture
        if sheet is not None and index < 30:
            tiles.append(_tile(actor, matte, target, [results.get(name) for name in rows]))
    if sheet is not None:
        _save_sheet(sheet, tiles)
    result = {}
    for name in rows:
        sharp = [value for value in sharpness[name] if math.isfinite(value)]
        result[name] = {
            "pckh_real": round(found[name].pckh, 4),
            "round_trip": _mean([trip.on_person for trip in trips[name]]),
            "round_trip_either": _mean([trip.on_either for trip in trips[name]]),
            "sharpness": round(statistics.median(sharp), 4) if sharp else math.nan,
            "real_pairs": len(trips[name]),
            "refused": refused[name],
        }
        if name == "copy":
            for trip in ("round_trip", "round_trip_either"):
                del result[name][trip]  # nothing is moved, so everything comes back
    result["truth"] = {"pckh_real": round(found["truth"].pckh, 4), "real_pairs": count}
    return result


def _cut_out(person: RealPerson, matte: Floats, within: Skeleton) -> Floats:
    """The person in the frame of a skeleton, `(n, n, 4)` premultiplied."""
    photo = np.dstack([person.rgb.astype(np.float32) / 255 * matte[..., None], matte])
    return crop(photo, person_frame(within))


def _mean(decibels: Sequence[float]) -> float:
    return round(statistics.fmean(decibels), 2) if decibels else math.nan


class RoundTrip(NamedTuple):
    """PSNR (dB) of a round trip against the actor."""

    on_person: float  # where the actor is: what spills beyond costs nothing
    on_either: float  # where the actor or what came back is


def round_trip(row: Transfer, actor: RealPerson, matte: Floats, layer: Floats, target: Skeleton) -> RoundTrip:
    """Actor -> pose -> the actor's own pose, against the actor, in a square of `LAYER` px."""
    straight = straight_bytes(layer)
    home = in_square(actor.skeleton)
    back = pasted(row.transfer(straight[..., :3], layer[..., 3], target, home), LAYER)
    truth = resized(_cut_out(actor, matte, actor.skeleton), LAYER)
    return RoundTrip(psnr(on_person(back, truth, 2)), psnr(on_person(back, truth, 2, either=True)))


def _energy_of_photo(actor: RealPerson, matte: Floats, target: Skeleton) -> float:
    """Gradient energy of the actor in the photo, brought to the size that the target has."""
    larger = float(torso_length(*tensors(target))[0] / torso_length(*tensors(actor.skeleton))[0])
    photo = _cut_out(actor, matte, actor.skeleton)
    if larger > 1:  # a layer cannot be sharper than its photo enlarged
        enlarged = cv2.resize(photo, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
        return gradient_energy(np.asarray(enlarged, np.float32))
    return gradient_energy(resized(photo, max(16, round(len(photo) * larger))))


def _tile(actor: RealPerson, matte: Floats, target: Skeleton, results: Sequence[Bytes | None]) -> Bytes:
    side = LAYER // 2
    frame = person_frame(actor.skeleton)
    photo = crop(np.dstack([actor.rgb.astype(np.float32) / 255, matte]), frame)
    cut_out = np.dstack([photo[..., :3] * photo[..., 3:], photo[..., 3]])
    grey = np.full((LAYER, LAYER, 3), 128, np.uint8)
    pictures = [_bytes(photo[..., :3]), _bytes(over_grey(cut_out)), draw_people(grey, [target])]
    pictures += [grey if picture is None else picture for picture in results]
    return np.hstack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures])


def _save_sheet(path: Path, tiles: Sequence[Bytes], columns: int = 2) -> None:
    blank = np.zeros_like(tiles[0])
    full = [*tiles, *[blank] * (-len(tiles) % columns)]
    lines = [np.hstack(full[start : start + columns]) for start in range(0, len(full), columns)]
    save_png(path, np.vstack(lines))


# ------------------------------------------------------------------------------------------------------- cost


def cost(name: str, threads: int = 2, heights: tuple[int, ...] = (512, 1500)) -> dict[str, float]:
    """Seconds and memory of one transfer, in a process of its own.

    Returns:
        `seconds_512`, `seconds_1500`: medians of three transfers of a person of these heights, photo and layer alike;
        `memory` (bytes at the peak, the process included); and for networks that analyse a photo once, `preview_ms`:
        median milliseconds of a new pose at 256 px.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_cost, (name, threads, heights))


# A person walking, in units of the height, about the nose: x, y of the joints.
_WALKING = (
    (0.02, 0.0), (0.0, 0.11), (-0.1, 0.12), (-0.17, 0.28), (-0.08, 0.42), (0.1, 0.11), (0.14, 0.29), (0.22, 0.43),
    (-0.06, 0.45), (-0.12, 0.7), (-0.22, 0.93), (0.06, 0.45), (0.16, 0.69), (0.13, 0.96),
    (0.0, -0.02), (0.04, -0.02), (-0.04, -0.01), (0.05, -0.01),
)  # fmt: skip
_STANDING = (
    (0.0, 0.0), (0.0, 0.11), (-0.12, 0.11), (-0.15, 0.3), (-0.16, 0.47), (0.12, 0.11), (0.15, 0.3), (0.16, 0.47),
    (-0.07, 0.45), (-0.07, 0.72), (-0.07, 1.0), (0.07, 0.45), (0.07, 0.72), (0.07, 1.0),
    (-0.02, -0.02), (0.02, -0.02), (-0.05, -0.01), (0.05, -0.01),
)  # fmt: skip


def _cost(name: str, threads: int, heights: tuple[int, ...]) -> dict[str, float]:
    torch.set_num_threads(threads)
    (row,) = transfers([name]).values()
    said: dict[str, float] = {}
    for height in heights:
        joints = [
            Skeleton(np.array(p) * height / 1.12 + (height / 2, 0.1 * height), np.ones(18, bool))
            for p in (_STANDING, _WALKING)
        ]
        noise = np.random.default_rng(0).integers(
            0, 255, (height // 4 + 1, height // 4 + 1, 3), dtype=np.uint8
        )
        rgb = np.asarray(cv2.resize(noise, (height, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        matte = np.zeros((height, height), np.float32)
        for a, b in ((1, 0), (1, 8), (1, 11), (1, 4), (1, 7), (8, 10), (11, 13)):
            start, end = (tuple(int(v) for v in joints[0].xy[j]) for j in (a, b))
            cv2.line(matte, start, end, 1.0, height // 9, cv2.LINE_AA)
        seconds = []
        for _ in range(3):
            start_time = time.perf_counter()
            row.transfer(rgb, matte, *joints)
            seconds.append(time.perf_counter() - start_time)
        said[f"seconds_{height}"] = round(statistics.median(seconds), 3)
        if isinstance(row, MotionTransfer) and height == heights[0]:  # the server's previews reduce the photo
            analysed = row.analyse(rgb, matte, joints[0])
            small = in_square(joints[1], 256)
            milliseconds = []
            for _ in range(10):
                start_time = time.perf_counter()
                row.pose(analysed, small, draft=True)
                milliseconds.append(1000 * (time.perf_counter() - start_time))
            said["preview_ms"] = round(statistics.median(milliseconds), 1)
    said["memory"] = _peak_bytes()
    return said


def _peak_bytes() -> int:
    """The largest resident size of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage counts what the process was before it began this program: its parent.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
