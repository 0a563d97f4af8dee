# SPDX-License-Identifier: Apache-2.0
"""`walkon place`: OpenPose JSON in, candidates out, and whatever is wrong with the input said by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_placement import SIZE, row, standing
from typer.testing import CliRunner

from server.cli import app
from shared.errors import BadInput, NoCandidate, NoContext, WalkOnError
from shared.skeleton import Skeleton, people_to_json

FRAME = "1280x853"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.json"
    path.write_bytes(people_to_json(row()))
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["place", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object) -> WalkOnError:
    done = CliRunner().invoke(app, ["place", *map(str, arguments)])
    assert isinstance(done.exception, WalkOnError), done.output
    return done.exception


def people(*values: list[float]) -> str:
    return json.dumps({"people": [{"pose_keypoints_2d": list(v)} for v in values]})


def test_candidates_come_as_openpose_with_scores(scene: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "drawn.png"
    said = run(scene, "--size", FRAME, "--count", 3, "--seed", 4, "--out", out, "--draw", picture)
    assert "3 candidates" in said
    found = json.loads(out.read_text())["people"]
    assert [set(person) for person in found] == [{"pose_keypoints_2d", "score"}] * 3
    scores = [person["score"] for person in found]
    assert scores == sorted(scores, reverse=True)
    assert all(len(person["pose_keypoints_2d"]) == 54 for person in found)
    assert Image.open(picture).size == SIZE
    assert len(np.unique(np.asarray(Image.open(picture)).reshape(-1, 3), axis=0)) > 20
    # Without --out the same is printed, and the same again from what was printed.
    printed = json.loads(run(scene, "--size", FRAME, "--count", 2, "--seed", 4))
    assert printed["people"] == found[:2]


def test_wishes_reach_the_network(scene: Path, tmp_path: Path) -> None:
    like = tmp_path / "like.json"
    like.write_bytes(people_to_json([standing(800, 600, 300)]))
    options = ["--at", "790,620", "--height", 620, "--stance", "standing", "--like", like]
    found = json.loads(run(scene, "--size", FRAME, "--count", 1, *options).splitlines()[-1])["people"]
    assert found[0]["warning"].startswith("height: people who stand there would be some")
    box = json.loads(run(scene, "--size", FRAME, "--box", "640,0,900,853", "--facing", "left", "--count", 2))
    for person in box["people"]:
        ankles = np.reshape(person["pose_keypoints_2d"], (18, 3))[[10, 13], 0]
        assert 640 <= ankles.mean() <= 900


def test_people_who_tell_nothing_are_mentioned(tmp_path: Path) -> None:
    nose = [500.0, 300.0, 1.0] + [0.0] * 51
    path = tmp_path / "scene.json"
    path.write_text(people(*[person.to_openpose() for person in row()], nose))
    said = run(path, "--size", FRAME, "--count", 1)
    assert "of person 3 too little is inside the frame" in said


def test_five_hundred_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    crowd = [standing(x, 400 + 200 * d, 80 + 60 * d) for x, d in rng.random((500, 2)) * (1280, 1)]
    path = tmp_path / "crowd.json"
    path.write_bytes(people_to_json(crowd))
    done = CliRunner().invoke(app, ["place", str(path), "--size", FRAME, "--count", "1"])
    if done.exit_code:
        assert isinstance(done.exception, NoCandidate)
        assert "scene: none of" in str(done.exception)


def off(by: float) -> list[float]:
    return Skeleton(standing(400, 600, 300).xy + by, np.ones(18)).to_openpose()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ('{"people": []}', NoContext, "scene: shows no people, so nothing tells where one more belongs"),
        ("hello", BadInput, "scene.json: is not OpenPose JSON (JSON is malformed"),
        ('{"people": [{"pose": []}]}', BadInput, "missing required field `pose_keypoints_2d`"),
        (people([0.0] * 54), BadInput, "context: person 0: no joint is known"),
        (people([9.0, 9.0, 1.0] + [0.0] * 51), NoContext, "none of its 1 people shows 8 joints inside the frame"),
        (people([1.0] * 53), BadInput, "person 0: has 53 numbers, not 54"),
        ('{"people": [{"pose_keypoints_2d": [NaN' + ", 1" * 53 + "]}]}", BadInput, "is not OpenPose JSON"),
        ('{"people": [{"pose_keypoints_2d": [1e999' + ", 1" * 53 + "]}]}", BadInput, "Number out of range"),
        ('{"people": [{"pose_keypoints_2d": [null' + ", 1" * 53 + "]}]}", BadInput, "Expected `float`, got `null`"),
        (people(off(1e6)), BadInput, "context: person 0: reaches from 1"),
        (people(off(3000)), NoContext, "none of its 1 people shows 8 joints inside the frame"),
    ],
)  # fmt: skip
def test_a_bad_context_is_named(tmp_path: Path, content: str, kind: type[WalkOnError], message: str) -> None:
    path = tmp_path / "scene.json"
    path.write_text(content)
    error = refused(path, "--size", FRAME)
    assert type(error) is kind
    assert message in error.message
    assert error.fix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0x0"], "--size: '0x0' is no frame"),
        (["--size", "640"], "--size: '640' is no frame"),
        (["--size", "-5x9"], "--size: '-5x9' is no frame"),
        (["--size", "99999x5"], "width, height: 99999 x 5 is beyond 16384 pixels"),
        (["--size", FRAME, "--at", "5"], "--at: '5' is not X,Y"),
        (["--size", FRAME, "--at", "nan,5"], "feet: nan,5 is not finite"),
        (["--size", FRAME, "--at", "1281,5"], "feet: 1281,5 lies outside the scene of 1280 x 853 pixels"),
        (["--size", FRAME, "--box", "1,2,3"], "--box: '1,2,3' is not X0,Y0,X1,Y1"),
        (["--size", FRAME, "--box", "5,5,5,9"], "box: 5,5 to 5,9 has no area"),
        (["--size", FRAME, "--box", "2000,5,2100,9"], "box: 2000,5 to 2100,9 lies outside the scene"),
        (["--size", FRAME, "--height", "-4"], "height: -4 is not above 0 and up to 4 times the scene's 853 pixels"),
        (["--size", FRAME, "--height", "inf"], "height: inf is not finite"),
        (["--size", FRAME, "--placement", "nosuch"], "network: there is no 'nosuch'"),
        (["--size", FRAME, "--like", "nosuch.json"], "nosuch.json: cannot be read"),
        (["--size", FRAME, "--out", "/nonexistent/out.json"], "there is no folder /nonexistent"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(scene: Path, options: list[str], message: str) -> None:
    error = refused(scene, *options)
    assert message in error.message
    assert error.fix


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert (
        "none.json: cannot be read (No such file" in refused(tmp_path / "none.json", "--size", FRAME).message
    )
