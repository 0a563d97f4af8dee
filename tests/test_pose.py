# SPDX-License-Identifier: Apache-2.0
"""People are found where they are: on real photos, at any size, in crowds and at the border."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from models.convert_onnx import VENDORED, halve
from models.images import load_picture
from models.pose import PoseEstimator, open_onnx
from models.pose_eval import evaluate
from models.weights import path_of
from shared.skeleton import L_ANKLE, L_KNEE, L_SHOULDER, NECK, R_ANKLE, R_KNEE, R_SHOULDER, Skeleton


@pytest.fixture(scope="module")
def estimator() -> PoseEstimator:
    return PoseEstimator()


def photo(shared_data: Path, name: str) -> NDArray[np.uint8]:
    return load_picture(shared_data / "photos" / name).rgb


THREE_MEN = "op_COCO_val2014_000000000328.jpg"


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_vendored_networks_are_the_originals(shared_data: Path, name: str) -> None:
    original = shared_data.parent / "onnx" / f"{Path(name).name}.onnx"
    stage, network = name.split("/")
    vendored = path_of(stage, network) / "model.onnx"
    assert halve(onnx.load(original)).SerializeToString() == vendored.read_bytes()
    assert vendored.stat().st_size < 0.52 * original.stat().st_size
    inputs: dict[str, NDArray[np.generic]] = {}
    rng = np.random.default_rng(0)
    if stage == "pose":
        inputs["input:0"] = rng.integers(0, 256, (1, 256, 256, 3)).astype(np.int32)
    else:
        inputs["input_1:0"] = rng.random((1, 256, 256, 3), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(str(original), options, providers=["CPUExecutionProvider"]).run(
        None, inputs
    )
    for mine, theirs in zip(open_onnx(stage, network, 2).run(None, inputs), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_vendored_networks_carry_their_notices(name: str) -> None:
    folder = path_of(*name.split("/"))
    assert "Apache-2.0" in (folder / "card.md").read_text(encoding="utf-8")
    assert "Apache License" in (folder / "NOTICE").read_text(encoding="utf-8")


def test_halving_leaves_what_half_floats_cannot_hold() -> None:
    from onnx import TensorProto, helper, numpy_helper

    exact = np.arange(100, dtype=np.float32)
    inexact = np.full(100, 0.1, np.float32)
    large = np.full(100, 1e6, np.float32)
    names = ("exact", "inexact", "large")
    graph = helper.make_graph(
        [helper.make_node("Sum", ["x", *names], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [100])],
        [numpy_helper.from_array(v, n) for v, n in zip((exact, inexact, large), names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    halved = halve(model)
    stored = {w.name: w.data_type for w in halved.graph.initializer}
    assert stored == {
        "exact/half": TensorProto.FLOAT16,
        "inexact": TensorProto.FLOAT,
        "large": TensorProto.FLOAT,
    }
    session = onnxruntime.InferenceSession(halved.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.zeros(100, np.float32)})
    np.testing.assert_array_equal(result, exact + inexact + large)


def test_average_precision_on_real_photos(shared_data: Path, estimator: PoseEstimator) -> None:
    annotations = shared_data / "coco" / "coco_person_keypoints_2017_compact.npz"
    scores = evaluate(shared_data / "photos", annotations, estimator)
    assert scores.photos == 23
    assert scores.people == 37
    assert scores.clear >= 0.60
    assert scores.recall50 >= 0.85


def test_half_length_man_in_front_is_the_largest(shared_data: Path, estimator: PoseEstimator) -> None:
    people = estimator.detect(photo(shared_data, "op_COCO_val2014_000000000395.jpg"))
    # His cap and hand in the photo; the people behind him are a quarter of his size.
    x0, y0, x1, y1 = people[0].box
    assert 100 < (x0 + x1) / 2 < 500
    assert y1 - y0 > 180


def test_order_necks_and_determinism(shared_data: Path, estimator: PoseEstimator) -> None:
    rgb = photo(shared_data, THREE_MEN)
    people = estimator.detect(rgb)
    assert len(people) == 3
    sizes = [np.prod(p.box[2:] - p.box[:2]) for p in people]
    assert sizes == sorted(sizes, reverse=True)
    for person in people:
        if person.visible[NECK]:
            np.testing.assert_allclose(person.xy[NECK], (person.xy[R_SHOULDER] + person.xy[L_SHOULDER]) / 2)
    assert people == estimator.detect(rgb) == PoseEstimator(threads=1).detect(rgb)


@pytest.mark.parametrize("width", [200, 1600, 7680])
def test_the_same_people_at_every_size(shared_data: Path, estimator: PoseEstimator, width: int) -> None:
    rgb = photo(shared_data, THREE_MEN)
    scale = width / rgb.shape[1]
    scaled = cv2.resize(
        rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    expected, found = estimator.detect(rgb), estimator.detect(np.asarray(scaled, np.uint8))
    assert len(found) == len(expected)
    for person in expected:
        assert min(distance(person, other.transformed(1 / scale)) for other in found) < 0.06


def distance(first: Skeleton, second: Skeleton) -> float:
    """Median distance of the joints that both show, over the person's height."""
    both = first.visible & second.visible
    if both.sum() < 6:
        return np.inf
    return float(np.median(np.linalg.norm(first.xy - second.xy, axis=1)[both]) / first.height)


def test_tiny_and_empty_pictures(estimator: PoseEstimator) -> None:
    for height, width in ((64, 64), (16, 200), (300, 40)):
        assert estimator.detect(np.full((height, width, 3), 120, np.uint8)) == []


def test_more_than_six_people(shared_data: Path, estimator: PoseEstimator) -> None:
    names = [
        "op_COCO_val2014_000000000488.jpg", "op_COCO_val2014_000000000536.jpg", THREE_MEN, "ccby_000000442450.jpg",
        "op_COCO_val2014_000000000241.jpg", "ccby_000000000790.jpg",
    ]  # fmt: skip
    cells = [cv2.resize(photo(shared_data, name), (480, 360), interpolation=cv2.INTER_AREA) for name in names]
    crowd = np.vstack([np.hstack(cells[:3]), np.hstack(cells[3:])])
    people = estimator.detect(np.asarray(crowd, np.uint8))
    # 3 + 3 + 3 + 2 + 3 + 4 are clear in the single photos.
    assert len(people) >= 15
    boxes = np.array([p.box for p in people])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 // (480, 360)
    assert len({tuple(c) for c in centres}) == 6


def test_one_person_in_a_box(shared_data: Path, estimator: PoseEstimator) -> None:
    rgb = photo(shared_data, "ccby_000000234748.jpg")
    (found, *_) = estimator.detect(rgb)
    x0, y0, x1, y1 = found.box
    assert distance(found, estimator.estimate(rgb, (x0 - 20, y0 - 20, x1 + 20, y1 + 20))) < 0.05
    # Cut by the border, with a box that reaches over it: the rest of the person stays where it was.
    cut = np.ascontiguousarray(rgb[:, int((x0 + x1) / 2) - 15 :])
    half = estimator.estimate(cut, (-40, y0, x1 - (x0 + x1) / 2 + 15, y1))
    assert half.visible.sum() >= 5
    moved = half.transformed(offset=(int((x0 + x1) / 2) - 15, 0))
    assert distance(found, moved) < 0.12


def test_legs_are_looked_for_below_an_upper_body(estimator: PoseEstimator, shared_data: Path) -> None:
    """The man in front stands upright to his feet; the multipose network sees him only down to the hips."""
    man = estimator.detect(photo(shared_data, "op_COCO_val2014_000000000241.jpg"))[0]
    assert man.visible[[R_KNEE, R_ANKLE, L_KNEE, L_ANKLE]].all()
    assert man.xy[[R_ANKLE, L_ANKLE], 1].min() > 560
