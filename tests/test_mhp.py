# SPDX-License-Identifier: Apache-2.0
"""MHP-v1 from its published layout: here a small copy of that layout made of photos, masks being boxes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import mhp
from models.coco import Examples
from models.images import load_picture
from models.pose import PoseEstimator
from shared.errors import BadImage, BadInput

PHOTOS = ("ccby_000000349860.jpg", "op_COCO_val2014_000000000241.jpg", "ccby_000000174375.jpg")


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, the last in the test list; of the second one person has no mask."""
    root = tmp_path_factory.mktemp("LV-MHP-v1")
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    estimator = PoseEstimator()
    for number, photo in enumerate(PHOTOS, 1):
        picture = Image.open(shared_data / "photos" / photo).convert("RGB")
        picture.thumbnail((800, 800))
        picture.save(root / "images" / f"{number:04}.jpg", quality=92)
        people = estimator.detect(load_picture(root / "images" / f"{number:04}.jpg").rgb)
        people = people[: -1 if number == 2 else None]
        for index, person in enumerate(people, 1):
            mask = np.zeros((picture.height, picture.width), np.uint8)
            x0, y0, x1, y1 = np.maximum(person.box - (6, 6, -6, -6), 0).astype(int)
            mask[y0:y1, x0:x1] = 4  # upper clothes, as MHP numbers the parts
            Image.fromarray(mask).save(root / "annotations" / f"{number:04}_{len(people):02}_{index:02}.png")
    (root / "train_list.txt").write_text("0001.jpg\n0002.jpg\n")
    (root / "test_list.txt").write_text("0003.jpg\n")
    return root


def test_the_published_layout_becomes_examples(published: Path, tmp_path: Path) -> None:
    seen = []
    said = mhp.prepare(published, tmp_path, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    train, val = (Examples.load(tmp_path / f"{name}.npz") for name in ("train", "val"))
    assert len(train) >= 2
    assert len(val) >= 1
    assert set(train.image.tolist()) <= {1, 2}
    assert set(val.image.tolist()) == {3}
    assert "from 2 pictures" in said["train"]
    masks = len(list((published / "annotations").glob("000[12]_*.png")))
    assert f"of {masks} annotated people were found" in said["train"]
    # Whoever has no mask is not there; the others lie in theirs.
    assert len(train.people) <= masks
    context, target, size = train.scene(0)
    assert size == Image.open(published / "images" / f"{train.image[train.target[0]]:04}.jpg").size
    assert len(context) >= 1
    assert 0 <= target.box[0] < target.box[2] <= size[0]

    # Stopped in the middle of a line: it goes on, and the result is the same.
    lines = (tmp_path / "poses.jsonl").read_bytes()
    (tmp_path / "poses.jsonl").write_bytes(lines[: len(lines) - 40])
    mhp.prepare(published, tmp_path)
    assert (tmp_path / "poses.jsonl").read_bytes() == lines
    again = Examples.load(tmp_path / "train.npz")
    assert np.array_equal(again.people, train.people)


def test_what_is_missing_is_named(published: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train_list.txt: no such file"):
        mhp.prepare(tmp_path, tmp_path / "out")
    root = tmp_path / "mhp"
    shutil.copytree(published, root)
    (root / "test_list.txt").write_text("../0003.jpg\n")
    with pytest.raises(BadInput, match=r"'../0003.jpg' is no file name"):
        mhp.prepare(root, tmp_path / "out")
    (root / "test_list.txt").write_text("0007.jpg\n")
    with pytest.raises(BadInput, match=r"0007.jpg: no such file, but test_list.txt names it"):
        mhp.prepare(root, tmp_path / "out")
    (root / "test_list.txt").write_text("0003.jpg\n")
    mask = next((root / "annotations").glob("0001_*.png"))
    Image.new("L", (5, 5)).save(mask)
    with pytest.raises(BadImage, match=r"0001_.*png: is 5 x 5, not"):
        mhp.prepare(root, tmp_path / "out")
    for path in (root / "annotations").glob("0001_*.png"):
        path.unlink()
    with pytest.raises(BadInput, match=r"annotations: has no mask 0001_\*_\*.png of the picture 0001.jpg"):
        mhp.prepare(root, tmp_path / "out")
    assert not (tmp_path / "out" / "train.npz").exists()
