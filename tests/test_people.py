# SPDX-License-Identifier: Apache-2.0
"""The people renderer's parts that need numpy alone: file formats, fitting, cameras, correspondence."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import mocap
from models.drawing import Camera, joints_seen, look_at, perspective
from models.people import Correspondence
from models.wardrobe import Body, read_mhclo, read_obj
from shared.errors import BadInput
from shared.skeleton import L_SHOULDER, NOSE, R_SHOULDER

directions = st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(directions, directions)
def test_shortest_rotation_turns_one_direction_into_the_other(start: list[float], end: list[float]) -> None:
    matrix = mocap.shortest_rotation(start, end)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) > 0
    np.testing.assert_allclose(
        matrix @ start / np.linalg.norm(start), np.array(end) / np.linalg.norm(end), atol=1e-6
    )


def test_euler_turns_about_x_first() -> None:
    np.testing.assert_allclose(mocap.euler((90, 0, 90)) @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(mocap.euler((90, 90, 0)) @ (0, 1, 0), (1, 0, 0), atol=1e-12)


ASF = """:units
  angle deg
:root
   order TX TY TZ RX RY RZ
:bonedata
  begin
     id 1
     name thigh
     direction 0 -1 0
     length 2
     axis 0 0 90  XYZ
     dof rx rz
     limits (-10 10)
            (-20 20)
  end
  begin
     id 2
     name shin
     direction 0 -1 0
     length 2
     axis 0 0 0  XYZ
     dof rx
  end
:hierarchy
  begin
    root thigh
    thigh shin
  end
"""


def test_acclaim_files(tmp_path: Path) -> None:
    (tmp_path / "a.asf").write_text(ASF)
    (tmp_path / "a.amc").write_text(
        ":DEGREES\n1\nroot 1 2 3 0 0 0\nthigh 90 0\nshin 0\n2\nroot 0 0 0 0 0 0\n3\nroot 9 9 9 0 90 0\nshin 90\n"
    )
    bones = mocap.read_asf(tmp_path / "a.asf")
    assert list(bones) == ["root", "thigh", "shin"]
    assert bones["shin"].parent == "thigh"
    assert bones["thigh"].angles == ("rx", "rz")
    frames = mocap.read_amc(tmp_path / "a.amc", step=2)
    assert [frame["root"][0] for frame in frames] == [1, 9]
    # The thigh's own x axis lies along the world's y: a turn by 90 degrees about it carries z to x.
    world = mocap.acclaim_rotations(bones, frames[0])
    np.testing.assert_allclose(world["shin"] @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    world = mocap.acclaim_rotations(bones, frames[1])
    np.testing.assert_allclose(world["shin"] @ (0, 1, 0), (1, 0, 0), atol=1e-12)


def test_bvh_file(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(
        "HIERARCHY\nROOT root\n{\nOFFSET 0 0 0\n"
        "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
        "JOINT arm\n{\nOFFSET 0 1 0\nCHANNELS 3 Zrotation Xrotation Yrotation\nEnd Site\n{\nOFFSET 0 1 0\n}\n}\n}\n"
        "MOTION\nFrames: 1\nFrame Time: 0.04\n5 6 7 0 0 90 90 0 0\n"
    )
    pose = mocap.read_bvh(tmp_path / "a.bvh")
    np.testing.assert_allclose(pose["root"] @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(pose["arm"] @ (1, 0, 0), (0, 1, 0), atol=1e-12)


def test_obj_file_keeps_one_corner_for_each_vertex_and_coordinate(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "g skin\nf 1/1 2/2 3/3 4/4\ng other\nf 1 2 3\n"
    )
    mesh = read_obj(tmp_path / "a.obj", "skin")
    assert mesh.triangles.shape == (2, 3)
    assert len(mesh.vertex) == 4
    np.testing.assert_array_equal(mesh.uv, mesh.vertices[mesh.vertex][:, :2])
    assert len(read_obj(tmp_path / "a.obj").triangles) == 3


def test_mhclo_file_fits_the_body(tmp_path: Path) -> None:
    (tmp_path / "a.mhclo").write_text(
        "# comment\nname a\nobj_file a.obj\nx_scale 0 1 2.0\nverts 0\nmaterial a.mhmat\n"
        "0 1 2 0.5 0.5 0 0.1 0 0.2\n2\ndelete_verts\n3 - 5 8\n9-10\n"
    )
    fit = read_mhclo(tmp_path / "a.mhclo")
    assert fit.mesh_file == "a.obj"
    np.testing.assert_array_equal(fit.hidden, [3, 4, 5, 8, 9, 10])
    body = np.array([[0, 0, 0], [4, 0, 0], [0, 3, 1]], dtype=np.float32)
    # The body is twice as wide as the garment's maker had it, so the offset doubles in x only.
    np.testing.assert_allclose(fit.apply(body), [[2.2, 0, 0.2], [0, 3, 1]], atol=1e-6)


def test_camera_projects_to_pixels_from_the_top_left() -> None:
    eye = np.array([0.0, 0.0, 10.0])
    camera = Camera(perspective(np.pi / 2) @ look_at(eye, np.zeros(3)), eye)
    pixels = camera.project(np.array([[0, 0, 0], [10, 10, 0], [-10, 0, 0]]))
    np.testing.assert_allclose(pixels, [[128, 128], [256, 0], [0, 128]], atol=1e-9)


def test_a_joint_behind_another_limb_is_occluded() -> None:
    rest = np.zeros((18, 3), dtype=np.float32)
    rest[:, 0] = np.arange(18) * 10
    keypoints = np.full((18, 2), -5, dtype=np.float32)
    keypoints[NOSE] = keypoints[L_SHOULDER] = (20.5, 30.5)
    surface = np.zeros((64, 64, 4), dtype=np.float32)
    surface[28:33, 18:23] = (*rest[NOSE], 1)
    seen = joints_seen(keypoints, rest, surface)
    assert seen[NOSE] == 2
    assert seen[L_SHOULDER] == 1
    assert seen[R_SHOULDER] == 0


def test_correspondence_finds_seen_surface_and_marks_the_rest() -> None:
    rows, columns = np.mgrid[0:64, 0:64].astype(np.float32)
    source = np.stack([columns * 0.1, rows * 0.1, np.zeros_like(rows), np.ones_like(rows)], axis=2)
    target = np.zeros((32, 32, 4), dtype=np.float32)
    target[4, 5] = (1.0, 2.0, 0.0, 1)  # seen at column 10, row 20
    target[6, 7] = (-3.0, 4.0, 0.0, 1)  # only the mirrored place is seen
    flow, visible = Correspondence(source).find(target)
    np.testing.assert_allclose(flow[4, 5].astype(float) * 64, (10, 20), atol=0.05)
    np.testing.assert_allclose(flow[6, 7].astype(float) * 64, (30, 40), atol=1)
    assert (visible[4, 5], visible[6, 7], visible.sum()) == (1, 2, 3)
    nobody = Correspondence(np.zeros((64, 64, 4), dtype=np.float32)).find(target)
    assert not nobody[0].any()
    assert not nobody[1].any()


def test_missing_people_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="makehuman: is missing") as error:
        Body(tmp_path)
    assert "docs/people.md" in error.value.fix


@pytest.mark.skipif(find_spec("anny") is not None, reason="the people packages are installed here")
def test_missing_people_packages_are_named(shared_data: Path) -> None:
    with pytest.raises(BadInput, match="not installed here") as error:
        Body(shared_data)
    assert "setup --people" in error.value.fix
