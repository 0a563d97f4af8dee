# SPDX-License-Identifier: Apache-2.0
"""The published layout on a small made-up folder, and the paper's Table I from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from models import msa_training
from models.deepfashion import (
    COLUMNS_OF_TABLE,
    DeepFashion,
    Networks,
    in_frame,
    prepare,
    published_name,
    table,
)
from models.images import load_picture
from models.metrics import Measure
from models.pairs import Stored, batches
from models.pose import PoseEstimator
from models.transfer_eval import transfers
from shared.errors import BadInput

pytestmark = pytest.mark.timeout(120)

FRONT, SIDE = "fashionMENDenimid0000000101_1front.jpg", "fashionMENDenimid0000000101_2side.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """One pair, of one man: a 176-px picture under the published name, a 256-px one in DeepFashion's own folders."""
    root = tmp_path_factory.mktemp("fashion")
    rgb = load_picture(shared_data / "photos" / "op_COCO_val2014_000000000241.jpg").rgb
    (person, *_) = PoseEstimator().detect(rgb)
    x0, y0, x1, y1 = person.box
    height = 1.25 * (y1 - y0)
    width = height * 176 / 256
    left, top = (x0 + x1 - width) / 2, y0 - 0.12 * (y1 - y0)
    box = (round(left), round(top), round(left + width), round(top + height))
    picture = Image.fromarray(rgb).crop(box).resize((176, 256), Image.Resampling.BOX)
    (root / "test").mkdir()
    picture.save(root / "test" / FRONT, quality=95)
    padded = Image.new("RGB", (256, 256), "white")
    padded.paste(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (40, 0))
    own = root / "img" / "MEN" / "Denim" / "id_00000001"
    own.mkdir(parents=True)
    padded.save(own / "01_2_side.jpg", quality=95)
    for split in ("train", "test"):
        (root / f"fasion-resize-pairs-{split}.csv").write_text(f"from,to\n{FRONT},{SIDE}\n")
    return root


def test_names_are_those_of_the_lists():
    assert published_name(Path("MEN/Denim/id_00000001/01_2_side.jpg")) == SIDE
    assert (
        published_name(Path("WOMEN/Tees_Tanks/id_1/02_7_additional.jpg"))
        == "fashionWOMENTeesTanksid102_7additional.jpg"
    )


def test_pairs_are_prepared_for_training(folder: Path, tmp_path: Path):
    (file,) = prepare(folder, tmp_path, "train")
    assert list(prepare(folder, tmp_path, "train")) == []  # what is there stays
    with np.load(file) as pairs:
        assert pairs["src"].shape == pairs["tgt"].shape == (1, 256, 256, 4)
        assert pairs["vs"].dtype == np.uint8
        assert (pairs["vs"] == 2).sum() >= 12
        assert (pairs["src"][0, :, :40, :3] == 255).all()  # white bars
        alpha = pairs["src"][0, ..., 3]
        assert alpha.max() == 255
        assert 0.05 < (alpha > 127).mean() < 0.6
    batch = msa_training.prepare(next(batches(Stored(tmp_path), 1, seed=0)))
    assert batch.source.shape == (1, 3, 256, 256)


def network(path: Path, inputs: int, outputs: dict[str, tuple[int, ...]]) -> Path:
    """An ONNX file that gives the mean of its first input, spread over outputs of these shapes."""
    names = [f"in{i}" for i in range(inputs)]
    nodes = [helper.make_node("ReduceMean", [names[0]], ["mean"], keepdims=0)]
    for name, shape in outputs.items():
        nodes.append(helper.make_node("Constant", [], [f"{name}_shape"], value_ints=list(shape)))
        nodes.append(helper.make_node("Expand", ["mean", f"{name}_shape"], [name]))
    graph = helper.make_graph(
        nodes,
        "made_up",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, None, None]) for n in names],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_table_one(folder: Path, tmp_path: Path):
    rows = transfers(["limbs", "copy"])
    said = table(folder, rows, Networks())
    assert set(said["limbs"]) == {*COLUMNS_OF_TABLE, "pictures"}
    assert said["limbs"]["pictures"] == 2  # both directions
    assert said["limbs"]["IS"] == "--inception inception_v3.onnx"  # the cell says what it wants
    assert said["the paper (published)"]["SSIM"] == 0.769
    assert said["Deform (published)"]["LPIPS (VGG)"] == ""
    real = said["real data"]
    assert real["SSIM"] == 1.0
    assert real["PCKh"] > 0.9
    assert 0.3 < said["limbs"]["SSIM"] < 1.0
    assert said["limbs"]["PCKh"] > said["copy"]["PCKh"]

    networks = Networks(
        network(tmp_path / "inception.onnx", 1, {"logits": (1, 1000)}),
        network(tmp_path / "ssd.onnx", 1, {"where": (1, 4, 8732), "what": (1, 81, 8732)}),
        network(tmp_path / "vgg.onnx", 2, {"distance": (1, 1, 1, 1)}),
    )
    full = table(folder, {}, networks, limit=1)["real data"]
    assert full["IS"] == pytest.approx(1.0)
    assert full["DS"] == pytest.approx(1 / 81, abs=1e-4)
    assert isinstance(full["LPIPS (VGG)"], float)
    assert full["LPIPS (SqzNet)"] == "--lpips-squeeze lpips_squeeze.onnx"


def test_folders_and_files_that_do_not_fit(folder: Path, tmp_path: Path):
    with pytest.raises(BadInput, match=r"fasion-resize-pairs-test.csv: cannot be read \(No such file"):
        DeepFashion(tmp_path, "test")
    pairs = tmp_path / "fasion-resize-pairs-test.csv"
    pairs.write_text("a,b\nc,d\n")
    with pytest.raises(BadInput, match=r"pairs-test.csv: is no list of pairs"):
        DeepFashion(tmp_path, "test")
    pairs.write_text("from,to\n")
    with pytest.raises(BadInput, match=r"pairs-test.csv: holds no pair"):
        DeepFashion(tmp_path, "test")
    pairs.write_text(f"from,to\n{FRONT},{SIDE}\n")
    with pytest.raises(BadInput, match=f"lacks 2 of 2 pictures of the list, the first of them {FRONT}"):
        DeepFashion(tmp_path, "test")
    with pytest.raises(BadInput, match=r"x.jpg: is 300 x 256 pixels, not 176 x 256 or 256 x 256"):
        in_frame(np.zeros((256, 300, 3), np.uint8), "x.jpg")
    with pytest.raises(BadInput, match=r"pairs-test.csv: cannot be read as ONNX"):
        Measure(pairs)
    with pytest.raises(BadInput, match="takes 2 inputs, not 1"):
        Measure(network(tmp_path / "two.onnx", 2, {"out": (1,)}))
