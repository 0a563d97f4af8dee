# SPDX-License-Identifier: Apache-2.0
"""Training pairs of the transfer networks: rendered while training goes on, or kept in files.

`Pairs` are arrays of equally many rows, a row for each pair; docs/people.md lists them. The people are rendered by
processes of their own, in the environment of `build.py setup --people`, which send their pairs through a pipe.
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput

Pairs = dict[str, NDArray[Any]]
Split = Literal["train", "val"]
Framing = Literal["whole", "head"]
"""What the frame is about: the person, or the head, which fills too little of a person to be learned there."""

KEYS = ("src", "tgt", "ks", "kt", "vs", "vt", "flow", "vis", "depth", "normals")
PER_LOOK = 12  # rendered pairs that show the same person in the same clothes
LOOKS_PER_FILE = 16
WINDOW = 480  # pairs that batches are drawn from
FIRST = 96  # of these at the start, so that training need not wait for all

_ROOT = Path(__file__).resolve().parents[1]


def write(stream: IO[bytes], pairs: Pairs) -> None:
    """Pairs as bytes, for `read`: the length of an `.npz` file in 8 bytes, then the file."""
    file = io.BytesIO()
    np.savez(file, **pairs)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its own
    stream.write(len(file.getbuffer()).to_bytes(8, "little"))
    stream.write(file.getbuffer())
    stream.flush()


def read(stream: IO[bytes]) -> Pairs | None:
    """What `write` wrote; None where the stream ends."""
    length = int.from_bytes(stream.read(8), "little")
    content = stream.read(length)
    if not length or len(content) < length:
        return None
    with np.load(io.BytesIO(content)) as archive:
        return {key: archive[key] for key in archive.files}


def rendered(
    assets: Path,
    seed: int,
    split: Split = "train",
    first: int = 0,
    step: int = 1,
    workers: int = 1,
    framing: Framing = "whole",
) -> Iterator[Pairs]:
    """The pairs of look number `first`, then of every `step`-th one, without end.

    A look is determined by seed, split and number, however many workers there are. Close the iterator to end them.

    Args:
        assets: folder with `makehuman/` and `mocap/`.
        split: `"val"` has looks, skins and motions that `"train"` never shows.
        framing: `"head"` frames head and shoulders, as the training of models/head.py wants them.
        workers: processes that render, one core each.

    Raises:
        BadInput: the renderer or its assets are not there, or it stopped.
    """
    if not (assets / "makehuman").is_dir():
        fix = "Give the folder that has makehuman/ and mocap/ (docs/people.md says what is in them)"
        raise BadInput(f"{assets / 'makehuman'}: is missing", fix, str(assets))
    python = _ROOT / ".venv" / "people" / "bin" / "python"
    if not python.is_file():
        fix = "Run `python3 build.py setup --people`"
        raise BadInput("people: the packages that render them are not installed", fix, "people")
    renderers: list[subprocess.Popen[bytes]] = []
    one_core = os.environ | {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        for worker in range(workers):
            numbers = ["--first", str(first + worker * step), "--step", str(workers * step)]
            command = [str(python), "-m", "models.people", "--seed", str(seed), "--split", split, *numbers]
            command += ["--framing", framing]
            renderers.append(
                subprocess.Popen(
                    [*command, "--data", str(assets.resolve())],
                    stdout=subprocess.PIPE,
                    cwd=_ROOT,
                    env=one_core,
                )
            )
        for renderer in itertools.cycle(renderers):
            assert renderer.stdout is not None
            pairs = read(renderer.stdout)
            if pairs is None:
                said = f"people: the renderer stopped (exit code {renderer.wait()})"
                raise BadInput(said, "See what it printed above", "people")
            yield pairs
    finally:
        for renderer in renderers:
            renderer.kill()
            renderer.communicate()


def store(
    out: Path,
    assets: Path,
    pairs: int,
    seed: int,
    split: Split = "train",
    workers: int = 1,
    framing: Framing = "whole",
) -> Iterator[Path]:
    """Write rendered pairs as `.npz` files of 192 and yield each file's path as it is complete.

    Files that exist are kept, so an interrupted run goes on where it was.

    Args:
        out: folder, made if absent; runs with different seeds can share it.
        pairs: how many, at least 1.
        assets, seed, split, workers, framing: see `rendered`.
    """
    if pairs < 1:
        raise BadInput(f"--pairs: is {pairs}", "Ask for at least one pair", "pairs")
    out.mkdir(parents=True, exist_ok=True)
    size = LOOKS_PER_FILE * PER_LOOK
    files = [out / f"{seed}_{number:05d}.npz" for number in range(-(-pairs // size))]
    done = len(list(itertools.takewhile(Path.exists, files)))
    if done == len(files):
        return
    looks = rendered(assets, seed, split, done * LOOKS_PER_FILE, workers=workers, framing=framing)
    try:
        for number in range(done, len(files)):
            count = min(size, pairs - number * size)
            parts = list(itertools.islice(looks, -(-count // PER_LOOK)))
            arrays = {key: np.concatenate([part[key] for part in parts])[:count] for key in KEYS}
            hidden = files[number].with_name(f".{files[number].stem}.{os.getpid()}.tmp.npz")
            np.savez(hidden, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its own
            hidden.rename(files[number])
            yield files[number]
    finally:
        looks.close()  # type: ignore[attr-defined]  # a generator is typed as what it yields


def read_file(file: Path) -> Pairs:
    """The arrays of a pair file; `depth` and `normals` are all 0 in one that has `vis` but not these."""
    with np.load(file) as archive:
        pairs = {key: archive[key] for key in archive.files}
    if "vis" in pairs:
        shape = pairs["vis"].shape
        pairs.setdefault("depth", np.zeros(shape, np.float16))
        pairs.setdefault("normals", np.zeros((*shape, 3), np.uint8))
    return pairs


@dataclass(frozen=True)
class Rendered:
    """Pairs that are rendered while training goes on; nothing is written.

    Args:
        assets (`Path`): folder with `makehuman/` and `mocap/`.
        workers (`int`): renderers of each training process, one core each.
        uses (`int`): how often a pair is used on average; less is better and asks for more rendering.
        framing (`str`): `whole` or `head`.
    """

    assets: Path
    workers: int = 1
    uses: int = 4
    framing: Framing = "whole"

    def stream(self, seed: int, begin: int, process: int, processes: int) -> Iterator[Pairs]:
        """Endless blocks of pairs for one training process of several, from its pair number `begin` on."""
        look, skip = divmod(begin, PER_LOOK)
        first = process + look * processes
        for pairs in rendered(self.assets, seed, "train", first, processes, self.workers, self.framing):
            yield {key: value[skip:] for key, value in pairs.items()}
            skip = 0

    def held_out(self, seed: int, count: int) -> Pairs:
        """Pairs of people who are never trained on."""
        looks = rendered(self.assets, seed, "val", framing=self.framing)
        try:
            parts = list(itertools.islice(looks, -(-count // PER_LOOK)))
        finally:
            looks.close()  # type: ignore[attr-defined]
        return {key: np.concatenate([part[key] for part in parts])[:count] for key in KEYS}


@dataclass(frozen=True)
class Stored:
    """Pairs of the files in `folder`/train (`walkon data people`, `walkon data deepfashion`).

    Each pass over the files has an order of its own; files that are added are seen in the next pass.
    """

    folder: Path
    uses: int = 1

    def stream(self, seed: int, begin: int, process: int, processes: int) -> Iterator[Pairs]:
        """Endless blocks of pairs for one training process of several, from its pair number `begin` on.

        Raises:
            BadInput: there are none.
        """
        number = 0
        for turn in itertools.count():
            # A hidden file is one that is still being written.
            files = sorted(f for f in (self.folder / "train").glob("*.npz") if not f.name.startswith("."))
            if not files:
                fix = "Run `walkon data people` first"
                raise BadInput(f"{self.folder / 'train'}: holds no pair files (*.npz)", fix, str(self.folder))
            for index in np.random.default_rng((seed, turn)).permutation(len(files)):
                if number % processes == process:
                    with np.load(files[index]) as archive:
                        count = len(archive["ks"])
                    if begin < count:
                        yield {key: value[begin:] for key, value in read_file(files[index]).items()}
                    begin = max(begin - count, 0)
                number += 1

    def held_out(self, seed: int, count: int) -> Pairs | None:
        """The first pairs of `folder`/val; None where there are none."""
        del seed
        files = sorted(f for f in (self.folder / "val").glob("*.npz") if not f.name.startswith("."))
        return {key: value[:count] for key, value in read_file(files[0]).items()} if files else None


def _pose_change(pairs: Pairs) -> NDArray[np.float32]:
    """How much each pair's pose changes, in extents of the person: mean over the joints, place and size apart."""
    poses = []
    for key in ("ks", "kt"):
        joints = pairs[key].astype(np.float32)
        joints = joints - joints.mean(1, keepdims=True)
        poses.append(joints / np.sqrt((joints**2).sum((1, 2), keepdims=True)))
    return np.asarray(np.linalg.norm(poses[0] - poses[1], axis=(1, 2)), np.float32)


def batches(
    source: Rendered | Stored,
    size: int,
    seed: int,
    step: int = 0,
    process: int = 0,
    processes: int = 1,
    alike: float = 0.0,
) -> Iterator[Pairs]:
    """The batches of steps `step`, `step + 1`, ... of one training process of several.

    Each is drawn from a window of `WINDOW` pairs that moves on by `size / source.uses` a step; at the start it grows
    by `size` more. A batch depends on source, seed, step and process alone: a run that was interrupted sees what it
    would have seen.

    Args:
        size: pairs of a batch.
        alike: share of the pairs that are the more alike of two drawn ones; if negative, of those that are the less
            alike. People ask for poses near the photo's more often than for any.
    """

    def end(step: int) -> int:
        return step * size // source.uses + min(FIRST + step * size, WINDOW)

    begin = max(end(step) - WINDOW, 0)
    window: deque[tuple[Pairs, int, np.float32]] = deque(maxlen=WINDOW)
    stream = source.stream(seed, begin, process, processes)
    coming: Iterator[tuple[Pairs, int, np.float32]] = (
        (block, row, change) for block in stream for row, change in enumerate(_pose_change(block))
    )
    while True:
        window.extend(itertools.islice(coming, end(step) - begin))
        begin = end(step)
        rng = np.random.default_rng((seed, process, step))
        rows = []
        for _ in range(size):
            one, other = (window[i] for i in rng.integers(len(window), size=2))
            nearer = (other[2] < one[2]) == (alike > 0)
            rows.append(other if rng.random() < abs(alike) and nearer else one)
        yield {key: np.stack([pairs[key][row] for pairs, row, _ in rows]) for key in rows[0][0]}
        step += 1
