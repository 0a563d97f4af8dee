# SPDX-License-Identifier: Apache-2.0
"""What the add-on computes without Blender: geometry, photo orientation, colour spaces."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import addon

# build.py copies shared/ into the add-on; here the add-on finds it beside itself.
addon.__path__.append(str(Path(__file__).resolve().parents[1]))

from addon import colour, exif, geometry, layer_place, painting  # noqa: E402
from addon.layer_place import LayerPlace  # noqa: E402
from addon.shared.errors import BadImage  # noqa: E402
from addon.shared.skeleton import JOINTS, MIRROR, NUM_JOINTS, Skeleton  # noqa: E402

# ---- geometry --------------------------------------------------------------------------------------------


def test_bone_names_let_blender_mirror_them() -> None:
    for joint, mirrored in enumerate(MIRROR):
        swapped = geometry.BONE_NAMES[joint].translate(str.maketrans("LR", "RL"))
        assert geometry.BONE_NAMES[mirrored] == swapped
    assert len(set(geometry.BONE_NAMES)) == NUM_JOINTS
    assert geometry.bone_name(JOINTS.index("right_knee")) == "knee.R"


def test_every_joint_comes_after_its_parent() -> None:
    assert sorted(geometry.PARENT_FIRST) == list(range(NUM_JOINTS))
    for place, joint in enumerate(geometry.PARENT_FIRST[1:], 1):
        assert geometry.PARENT[joint] in geometry.PARENT_FIRST[:place]


@given(
    st.floats(5, 400),
    st.tuples(st.floats(-500, 2000), st.floats(-500, 2000)),
    st.sets(st.integers(0, 17), min_size=0, max_size=15),
)
def test_missing_joints_are_offered_where_they_belong(
    size: float, at: tuple[float, float], missing: set[int]
) -> None:
    standing = geometry._STANDING * size + at
    visible = np.ones(NUM_JOINTS, bool)
    visible[list(missing)] = False
    completed = geometry.complete(Skeleton(standing, visible))
    assert np.allclose(completed[visible], standing[visible])
    assert np.allclose(completed, standing, atol=1e-6 * size + 1.1 * (size < 1))


def test_nothing_known_gives_a_person_all_the_same() -> None:
    nobody = Skeleton(np.zeros((18, 2)), np.zeros(18, bool))
    assert geometry.complete(nobody).shape == (18, 2)
    assert geometry.person_size(nobody) == 1.0


@given(
    st.floats(0.2, 5),
    st.floats(-0.4, 0.4),
    st.floats(-0.4, 0.4),
    st.booleans(),
    st.integers(8, 4000),
    st.integers(8, 4000),
)
def test_pixel_space_has_the_pictures_corners_in_the_frames(
    wide: float, shift_x: float, shift_y: float, perspective: bool, width: int, height: int
) -> None:
    x0, x1, y0, y1 = -wide + shift_x, wide + shift_x, -0.5 + shift_y, 0.5 + shift_y
    frame = [(x1, y1, -1.5), (x1, y0, -1.5), (x0, y0, -1.5), (x0, y1, -1.5)]
    matrix = geometry.pixel_space(frame, (width, height), 3.0, perspective)
    grow = 2.0 if perspective else 1.0
    for (x, y), corner in (((width, 0), frame[0]), ((0, height), frame[2]), ((0, 0), frame[3])):
        assert np.allclose((matrix @ (x, -y, 0, 1))[:2], np.array(corner[:2]) * grow)
    assert np.allclose((matrix @ (5, -7, 0, 1))[2], -3.0)


layer_places = st.builds(
    LayerPlace,
    x=st.floats(-500, 2000),
    y=st.floats(-500, 2000),
    scale=st.floats(0.1, 8),
    rotation=st.floats(-4, 4),
    flip=st.booleans(),
    anchor=st.tuples(st.floats(0, 300), st.floats(0, 300)),
    size=st.tuples(st.integers(2, 900), st.integers(2, 900)),
)


@given(layer_places, st.floats(0.1, 8), st.floats(-4, 4))
def test_turning_flipping_and_scaling_keep_the_feet(layer: LayerPlace, scale: float, rotation: float) -> None:
    for flip in (False, True):
        other = LayerPlace(layer.x, layer.y, scale, rotation, flip, layer.anchor, layer.size)
        assert np.allclose(other.matrix @ (*layer.anchor, 1.0), (layer.x, layer.y), atol=1e-6)
        assert np.linalg.det(other.matrix[:, :2]) == pytest.approx(-(scale**2) if flip else scale**2)


def test_a_layers_corners_as_they_are_seen() -> None:
    place = LayerPlace(100.0, 200.0, 2.0, np.pi / 2, False, (10.0, 40.0), (20, 40))
    # A quarter turn counter-clockwise: what was above the feet is left of them.
    assert np.allclose(place.corners, [(20, 220), (20, 180), (100, 180), (100, 220)])
    flipped = LayerPlace(100.0, 200.0, 1.0, 0.0, True, (5.0, 40.0), (20, 40))
    assert np.allclose(flipped.corners[0], (105, 160))


@given(layer_places)
def test_unplaced_is_the_inverse_of_placed(layer: LayerPlace) -> None:
    skeleton = Skeleton(geometry._STANDING * 100 + 300, np.arange(18) != 4)
    there = layer_place.placed(skeleton, (310.0, 555.0), layer, layer.scale)
    back = layer_place.unplaced(there, (310.0, 555.0), layer, layer.scale)
    assert np.allclose(back.xy, skeleton.xy, atol=1e-6)
    assert np.array_equal(back.visible, skeleton.visible)


@pytest.mark.parametrize("shape", [(7, 5), (33, 20, 3), (1, 1, 4), (64, 50, 4)])
def test_png_files_are_read_by_others_and_by_ourselves(shape: tuple[int, ...]) -> None:
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    file = painting.png(array)
    assert painting.is_ours(file)
    assert np.array_equal(painting.from_png(file), array)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), array)
    other = io.BytesIO()
    Image.fromarray(array).save(other, "PNG")
    assert not painting.is_ours(other.getvalue())


def test_a_person_of_whom_nothing_is_seen_is_no_layer() -> None:
    skeleton = Skeleton(geometry._STANDING * 10 + 50, np.ones(18, bool))
    with pytest.raises(BadImage, match="Nothing of the person is seen") as raised:
        painting.Painting.of(np.zeros((9, 9, 4), np.uint8), 0, 0, 1.0, skeleton, (320, 240))
    assert "Move the skeleton" in raised.value.fix


def test_feet_are_the_lower_ankle_between_both_or_the_lowest_that_is_seen() -> None:
    person = Skeleton(geometry._STANDING * 100, np.ones(18, bool))
    assert geometry.feet(person) == pytest.approx((0.0, 255.0))
    raised = person.with_joints([JOINTS.index("left_ankle")], [(60.0, 180.0)])
    assert geometry.feet(raised) == pytest.approx((19.0, 255.0))
    visible = np.ones(18, bool)
    visible[8:14] = False
    assert geometry.feet(Skeleton(person.xy, visible))[1] == pytest.approx(102.0)


# ---- photos and colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", range(1, 9))
def test_photos_are_turned_as_pillow_turns_them(tmp_path: Path, value: int) -> None:
    from PIL import Image, ImageOps

    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :8], picture[8:, 16:] = (250, 10, 10), (10, 10, 250)
    image = Image.fromarray(picture)
    tags = image.getexif()
    tags[0x0112] = value
    path = tmp_path / "photo.jpg"
    image.save(path, exif=tags, quality=95)
    assert exif.orientation(path.read_bytes()) == value
    stored = np.asarray(Image.open(path))
    assert np.array_equal(exif.oriented(stored, value), np.asarray(ImageOps.exif_transpose(Image.open(path))))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0\x08\0\0\0\xff", b"PNG...."]
)
def test_photos_that_do_not_say_are_as_stored(data: bytes) -> None:
    assert exif.orientation(data) == 1


def test_colour_spaces_undo_the_view_transform_where_blender_has_the_inverse() -> None:
    assert colour.image_colour_space("AgX", {"sRGB", "AgX Base sRGB"}) == ("AgX Base sRGB", True)
    assert colour.image_colour_space("AgX", {"sRGB"}) == ("sRGB", False)
    assert colour.image_colour_space("Studio Look", {"sRGB"}) == ("sRGB", False)
