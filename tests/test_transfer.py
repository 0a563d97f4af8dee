# SPDX-License-Identifier: Apache-2.0
"""`walkon transfer`: what it writes, and what it says to input that cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.images import load_picture, picture_from_array
from models.msa import IMPORTED, REDUCED, installed
from server.cli import app
from server.pipeline import Pipeline, _own_colors, _passes
from shared import messages
from shared.errors import BadImage, BadInput, NoActor, PartialActor, WalkOnError
from shared.skeleton import L_KNEE, L_WRIST, NOSE, NUM_JOINTS, R_KNEE, Skeleton, people_to_json


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture(scope="module")
def photo(shared_data: Path) -> Path:
    return shared_data / "photos" / "op_COCO_val2014_000000000241.jpg"


@pytest.fixture(scope="module")
def person(pipeline: Pipeline, photo: Path) -> Skeleton:
    """The person of the photo."""
    return pipeline.find_actor(load_picture(photo)).skeleton


@pytest.fixture
def pose(person: Skeleton, tmp_path: Path) -> Path:
    """The photo's own pose, half as large and elsewhere."""
    path = tmp_path / "pose.json"
    path.write_bytes(people_to_json([person.transformed(0.5, (1000.0, -30.0))]))
    return path


def transfer(actor: Path, pose: Path, out: Path, *more: object) -> str:
    arguments = ["transfer", "--actor", actor, "--pose", pose, "--out", out, *more]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, WalkOnError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_the_paper_s_generator_comes_reduced_and_says_so(photo, pose, tmp_path):
    if installed() == IMPORTED:
        pytest.skip("the authors' weights are imported here")
    out, report = tmp_path / "person.png", tmp_path / "report.json"
    transfer(photo, pose, out, "--report", report, "--generator", "msa")
    assert np.asarray(Image.open(out))[..., 3].max() > 128
    said = json.loads(report.read_text())
    assert f"transfer/{REDUCED}" in said["weights"]
    assert any("walkon models import netG_260500.pth" in warning for warning in said["warnings"])


@pytest.mark.parametrize("generator", ["motion", "limbs"])
def test_the_person_lies_where_the_report_says(photo, pose, person, tmp_path, generator):
    out, report = tmp_path / "person.png", tmp_path / "report.json"
    said = transfer(photo, pose, out, "--report", report, "--generator", generator)
    picture = Image.open(out)
    assert picture.mode == "RGBA"
    written = json.loads(report.read_text())
    assert set(written) == {"placement", "warnings", "seconds", "versions", "weights"}
    assert set(written["seconds"]) == {"detect", "matte", "transfer"}
    for network in ("transfer/motion", "transfer/head"):
        assert (network in written["weights"]) is (generator == "motion")
    place = written["placement"]
    assert (place["width"], place["height"], place["scale"]) == (*picture.size, 1.0)
    assert f"at {place['x']},{place['y']}" in said
    x0, y0, x1, y1 = person.transformed(0.5, (1000.0, -30.0)).box
    assert place["x"] < x0 + 5 < x1 - 5 < place["x"] + place["width"]
    assert place["y"] < y0 + 5 < y1 - 5 < place["y"] + place["height"] + 10
    assert place["height"] < 1.6 * (y1 - y0)
    again = tmp_path / "again.png"
    transfer(photo, pose, again, "--generator", generator)
    assert out.read_bytes() == again.read_bytes()


def test_passes_fit_the_layer():
    from models.finish import to_layer
    from models.person import Person

    rng = np.random.default_rng(0)
    rgba = np.zeros((9, 8, 4), np.float32)
    rgba[2:7, 3:6] = 0.5
    depth, normals = rng.random((9, 8), np.float32), np.zeros((9, 8, 3), np.float32)
    normals[..., 0] = 1.0
    person = Person(rgba, -4, 20, depth=depth, normals=normals)
    layer = to_layer(person)
    cut, directions = _passes(person, layer)
    assert (cut.dtype, directions.dtype) == (np.float16, np.uint8)
    np.testing.assert_array_equal(cut, depth[2:7, 3:6].astype(np.float16))
    np.testing.assert_array_equal(directions, np.broadcast_to([255, 128, 128], (5, 3, 3)))


def test_own_colours_are_the_painted_ones_and_beyond_the_person_the_layers():
    from models.finish import Layer
    from models.person import Person

    rgba = np.zeros((4, 3, 4), np.float32)
    rgba[1:3, 1] = 0.2, 0.1, 0.05, 0.5
    person = Person(rgba, 10, 20)
    layer = Layer(np.full((6, 5, 4), 9, np.uint8), 9, 19)
    own = _own_colors(person, layer)
    assert (own[2:4, 2] == (102, 51, 26)).all(), "premultiplied light is divided by its cover"
    own[2:4, 2] = 9
    assert (own == 9).all()


def test_passes_are_written_beside_the_person(photo, pose, tmp_path):
    out = tmp_path / "person.png"
    transfer(photo, pose, out, "--passes", tmp_path)
    depth, normals = (
        np.asarray(Image.open(tmp_path / "depth.tif")),
        np.asarray(Image.open(tmp_path / "normals.png")),
    )
    rgba = np.asarray(Image.open(out))
    assert depth.shape == rgba.shape[:2]
    assert depth.dtype == np.float32
    assert normals.shape == (*depth.shape, 3)
    solid = rgba[..., 3] > 250
    assert 0.05 < np.ptp(depth[solid]) < 1.5  # metres
    # Most of a person seen from the front faces the camera.
    assert (normals[solid][:, 2] > 127).mean() > 0.9


def test_networks_without_passes_say_so(photo, pose, tmp_path):
    with pytest.raises(BadInput, match="passes: the transfer network 'limbs' gives no depth and normals"):
        transfer(photo, pose, tmp_path / "out.png", "--generator", "limbs", "--passes", tmp_path)


def test_photos_that_cannot_be_used(photo, pose, person, tmp_path):
    out = tmp_path / "out.png"
    pixels = Image.open(photo).convert("RGB")
    path = tmp_path / "photo.png"

    Image.fromarray(np.full((300, 200, 3), 128, np.uint8)).save(path)
    with pytest.raises(NoActor, match="actor: no person was found in the photo"):
        transfer(path, pose, out)

    hips = int(person.xy[[8, 11], 1].min())
    x0, y0, x1, _ = (int(v) for v in person.box)
    above = pixels.crop((x0 - 40, 0, x1 + 40, y0 + (hips - y0) // 2))
    above.save(path)
    with pytest.raises((PartialActor, NoActor), match=r"does not show the .*hips|no person was found"):
        transfer(path, pose, out)
    with pytest.raises(NoActor, match="actor: person 7 was asked for, and the photo has"):
        transfer(photo, pose, out, "--actor-person", 7)
    assert not out.exists()


def test_a_tiny_person_is_refused(pipeline, photo, person):
    pixels = Image.open(photo).convert("RGB")
    scale = 50 / person.height
    small = pixels.resize((round(pixels.width * scale), round(pixels.height * scale)), Image.Resampling.BOX)
    with pytest.raises(
        BadImage, match=r"the person in the photo is only about \d\d px tall, not at least 64"
    ):
        pipeline.find_actor(picture_from_array(np.asarray(small), "actor", 64.0))


def test_poses_that_cannot_be_meant(pipeline, photo, person):
    rgb = load_picture(photo).rgb

    def refused(target: Skeleton) -> str:
        with pytest.raises(BadInput) as caught:
            pipeline.run(messages.Transfer(target.to_openpose()), [rgb])
        return str(caught.value)

    few = np.zeros(NUM_JOINTS, bool)
    few[[0, 1, 2, 5]] = True
    assert "skeleton: only 4 of its 18 joints are known, not at least 6" in refused(Skeleton(person.xy, few))
    assert "skeleton: is 50 times as large as the person in the actor photo" in refused(
        person.transformed(50.0)
    )
    assert "skeleton: the person would be" in refused(person.transformed(15.0))
    dot = Skeleton(
        np.full((NUM_JOINTS, 2), 100.0) + np.arange(NUM_JOINTS)[:, None] / 10, np.ones(NUM_JOINTS, bool)
    )
    assert "skeleton: the person would be" in refused(dot)


def test_missing_joints_are_normal(pipeline, photo, person):
    visible = person.visible.copy()
    visible[[R_KNEE, L_KNEE, 14, 15, 16, 17]] = False
    _, (rgba,) = pipeline.run(
        messages.Transfer(Skeleton(person.xy, visible).to_openpose()), [load_picture(photo).rgb]
    )
    assert rgba[..., 3].max() == 255


def test_which_person_of_a_pose_file(photo, pose, person, tmp_path):
    path, out, alone = tmp_path / "both.json", tmp_path / "out.png", tmp_path / "alone.png"
    path.write_bytes(people_to_json([person.transformed(0.5, (300.0, 0.0)), person]))
    transfer(photo, path, out, "--pose-person", 1)
    pose.write_bytes(people_to_json([person]))
    transfer(photo, pose, alone)
    assert out.read_bytes() == alone.read_bytes()
    with pytest.raises(BadInput, match=r"holds 2 people, not one.*or say which with --pose-person, 0 to 1"):
        transfer(photo, path, out)
    with pytest.raises(BadInput, match=r"person 2 was asked for, and it holds 2 \(numbered from 0\)"):
        transfer(photo, path, out, "--pose-person", 2)


def test_a_pose_that_lacks_an_end_is_told(pipeline, photo, person):
    def warnings(lost: list[int]) -> list[str]:
        visible = person.visible.copy()
        visible[lost] = False
        request = messages.Transfer(Skeleton(person.xy, visible).to_openpose())
        done, _ = pipeline.run(request, [load_picture(photo).rgb])
        return [said for said in done.warnings if said.startswith("The pose does not say")]

    assert warnings([]) == warnings([NOSE]) == []
    assert warnings([R_KNEE, L_WRIST]) == [
        "The pose does not say where these are: left wrist, right knee; no limb is drawn to or from there"
    ]


def test_pose_files_that_are_none(photo, person, tmp_path):
    out, path = tmp_path / "out.png", tmp_path / "pose.json"
    two = people_to_json([person, person])
    for content, reason in (
        (b"\x89PNG", "is not OpenPose JSON"),
        (b"[1, 2, 3]", "is not OpenPose JSON"),
        (b'{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "has 3 numbers, not 54"),
        (b'{"people": []}', "holds 0 people, not one"),
        (two, "holds 2 people, not one"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=f"{path}.*{reason}"):
            transfer(photo, path, out)
    with pytest.raises(BadInput, match=r"none.json: cannot be read \(No such file or directory\)"):
        transfer(photo, tmp_path / "none.json", out)
    with pytest.raises(BadInput, match="there is no folder"):
        transfer(photo, path, out, "--passes", tmp_path / "no")
