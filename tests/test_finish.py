# SPDX-License-Identifier: Apache-2.0
"""The finish: colours, order in depth, and the arithmetic of layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.finish import (
    Layer,
    colourless,
    composite,
    flipped,
    from_oklab,
    ground,
    harmonise,
    nearer,
    occlude,
    occlusion,
    peers,
    resampled,
    to_layer,
    to_oklab,
)
from models.person import Person
from shared.errors import BadInput
from shared.skeleton import JOINTS, Skeleton

# A standing person: neck at 0, hips at 1, ankles at 2.7 torso lengths.
STANDING = {
    "nose": (0, -0.4), "neck": (0, 0), "right_shoulder": (-0.35, 0), "left_shoulder": (0.35, 0),
    "right_hip": (-0.2, 1), "left_hip": (0.2, 1), "right_knee": (-0.2, 1.9), "left_knee": (0.2, 1.9),
    "right_ankle": (-0.2, 2.7), "left_ankle": (0.2, 2.7),
    "right_eye": (-0.06, -0.48), "left_eye": (0.06, -0.48),
}  # fmt: skip
LEGS = ("right_knee", "left_knee", "right_ankle", "left_ankle")
HIPS = ("right_hip", "left_hip")


def standing(x: float, feet: float, torso: float, without: tuple[str, ...] = ()) -> Skeleton:
    xy = np.zeros((18, 2))
    visible = np.zeros(18, bool)
    for name, (u, v) in STANDING.items():
        if name not in without:
            xy[JOINTS.index(name)] = (x + u * torso, feet + (v - 2.7) * torso)
            visible[JOINTS.index(name)] = True
    return Skeleton(xy, visible)


def person_of(seed: int, height: int = 60, width: int = 40, x: int = 0, y: int = 0) -> Person:
    rng = np.random.default_rng(seed)
    rgba = np.zeros((height, width, 4), np.float32)
    rgba[4:-4, 4:-4, 3] = 1
    rgba[4:-4, 4:-4, :3] = rng.random((height - 8, width - 8, 3))
    rgba[4:8, 4:-4] *= 0.5  # a soft edge
    return Person(rgba, x, y)


def scene_of(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- colour


def test_oklab_of_known_colours_and_back() -> None:
    # Values from Ottosson's article for sRGB primaries.
    lab = to_oklab(np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1]], np.float32))
    assert np.allclose(lab, [[1, 0, 0], [0.628, 0.225, 0.126], [0.452, -0.032, -0.312]], atol=2e-3)
    colours = np.random.default_rng(0).random((500, 3), dtype=np.float32)
    assert np.abs(from_oklab(to_oklab(colours)) - colours).max() < 1e-3


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_strength_zero_changes_nothing(seed: int) -> None:
    person = person_of(seed)
    same = harmonise(person, scene_of(seed + 1), 0.0)
    assert np.array_equal(same.rgba, person.rgba)
    assert (same.x, same.y) == (person.x, person.y)


def test_full_strength_in_a_grey_scene_makes_the_person_grey() -> None:
    grey = np.repeat(scene_of(1)[..., :1], 3, axis=-1)
    rgba = harmonise(person_of(2), grey).rgba
    assert np.ptp(rgba[..., :3], axis=-1).max() < 0.01


def test_pictures_without_colour_are_known() -> None:
    coloured = scene_of(1)
    grey = np.repeat(coloured[..., :1], 3, axis=-1)
    sepia = (grey * (1.0, 0.86, 0.67)).astype(np.uint8)
    assert [colourless(picture) for picture in (coloured, grey, sepia)] == [False, True, True]


def test_a_toned_scene_gives_its_tone() -> None:
    light = np.random.default_rng(3).random((80, 100, 1))
    sepia = (light * (255, 220, 170)).astype(np.uint8)
    rgba = harmonise(person_of(2), sepia).rgba
    solid = rgba[rgba[..., 3] > 0.99]
    assert (solid[:, 0] - solid[:, 2]).mean() > 0.08
    assert np.abs(solid[:, 0] * 220 / 255 - solid[:, 1]).mean() < 0.03


def test_a_plain_wall_gives_no_colour_to_what_is_darker_than_it() -> None:
    rng = np.random.default_rng(4)
    wall = np.clip((200, 180, 160) + rng.normal(0, 2, (80, 100, 1)) * (3, 1, -2), 0, 255).astype(np.uint8)
    person = person_of(2)
    person.rgba[..., :3] *= 0.3
    rgba = harmonise(person, wall).rgba
    solid = rgba[rgba[..., 3] > 0.99][:, :3]
    assert np.ptp(solid.mean(0)) < 0.15, "no brighter, purer color than the wall's"


def test_a_dark_scene_darkens_and_strength_lies_between() -> None:
    person, dark = person_of(4), scene_of(5) // 4
    levels = [harmonise(person, dark, s).rgba[20:40, 10:30, :3].mean() for s in (0.0, 0.5, 1.0)]
    assert levels[0] > levels[1] + 0.02 > levels[2] + 0.04


def test_scene_like_the_person_leaves_it_almost_unchanged() -> None:
    scene = scene_of(6)
    rgba = np.dstack([scene / 255, np.ones(scene.shape[:2])]).astype(np.float32)
    assert np.abs(harmonise(Person(rgba, 0, 0), scene).rgba - rgba).max() < 0.05


def test_people_are_the_reference_where_mattes_are_given() -> None:
    scene = np.full((80, 100, 3), 250, np.uint8)
    scene[20:60, 20:60] = scene_of(7)[20:60, 20:60] // 4  # dark people before a bright wall
    matte = np.zeros((80, 100), np.float32)
    matte[20:60, 20:60] = 1
    person = person_of(8)
    with_people, without = harmonise(person, scene, mattes=[matte]), harmonise(person, scene)
    assert with_people.rgba[..., :3].sum() < 0.9 * without.rgba[..., :3].sum()


def test_premultiplied_stays_premultiplied() -> None:
    rgba = harmonise(person_of(9), scene_of(10)).rgba
    assert rgba.dtype == np.float32
    assert (rgba[..., :3] <= rgba[..., 3:] + 1e-4).all()
    assert (rgba >= 0).all()


def test_a_sharp_person_takes_the_softness_of_the_scene() -> None:
    import cv2

    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::20] = stripes[:, 1::20] = stripes[:, 2::20] = stripes[:, 3::20] = stripes[:, 4::20] = 255
    person = Person(np.dstack([stripes / 255, np.ones((200, 200))]).astype(np.float32), 0, 0)
    soft = cv2.GaussianBlur(stripes, (0, 0), 2.0)
    result = harmonise(person, soft)
    assert result.x < 0  # room for the blur
    inner = result.rgba[100, -result.x : -result.x + 200, 1]
    assert np.abs(np.diff(inner)).max() < 0.6 * np.abs(np.diff(person.rgba[100, :, 1])).max()
    assert harmonise(person, stripes).x == 0  # sharp in sharp: untouched


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_outside_is_refused(strength: float) -> None:
    with pytest.raises(BadInput, match=r"strength: .* is not between 0 and 1"):
        harmonise(person_of(0), scene_of(0), strength)


# --- order in depth


def test_lower_feet_are_nearer() -> None:
    back, front = standing(50, 300, 60), standing(80, 380, 60)
    assert nearer(front, back, 480)
    assert not nearer(back, front, 480)
    assert not nearer(back, back, 480)


def test_half_length_person_cut_by_the_frame_is_nearer() -> None:
    whole = standing(50, 460, 100)
    half = standing(200, 700, 200, without=LEGS)
    bust = standing(200, 900, 250, without=LEGS + HIPS)
    assert nearer(half, whole, 480)
    assert nearer(bust, whole, 480)
    assert nearer(bust, half, 480)


def test_hidden_feet_are_estimated_in_proportion() -> None:
    for hidden in (LEGS[2:], LEGS, LEGS + HIPS):
        assert ground(standing(50, 300, 60, without=hidden), 480) == pytest.approx(300, abs=25)


def test_a_face_alone_tells_where_the_person_stands() -> None:
    body = tuple(name for name in STANDING if "eye" not in name and name != "nose")
    assert ground(standing(50, 300, 60, without=body), 2000) == pytest.approx(300, abs=60)
    assert ground(standing(50, 300, 60, without=body), 250) >= 250
    with pytest.raises(BadInput, match="no joint is visible"):
        ground(standing(50, 300, 60, without=tuple(STANDING)), 480)


def test_hidden_feet_near_the_bottom_edge_count_as_cut_by_it() -> None:
    assert ground(standing(50, 475, 60, without=LEGS[2:]), 480) >= 480
    assert nearer(standing(50, 475, 60, without=LEGS[2:]), standing(90, 479, 60), 480)


def test_small_distant_bust_behind_a_table_is_not_nearer() -> None:
    assert not nearer(standing(50, 250, 30, without=LEGS), standing(90, 400, 60), 480)


@given(st.floats(1, 4), st.floats(-200, 200))
@settings(max_examples=30, deadline=None)
def test_ground_goes_with_the_picture(scale: float, shift: float) -> None:
    skeleton = standing(50, 300, 40, without=LEGS)
    moved = skeleton.transformed(scale, (shift, shift))
    assert ground(moved, 1e6) == pytest.approx(scale * ground(skeleton, 1e6) + shift)


def test_only_nearer_people_hide_the_person() -> None:
    person = Person(np.ones((40, 20, 4), np.float32), 90, 10)  # reaches 10 pixels beyond the right edge
    target = standing(95, 50, 10)
    left, right = np.zeros((60, 100), np.float32), np.zeros((60, 100), np.float32)
    left[:, :93] = 1
    right[:, 97:] = 0.5
    hidden = occlusion(person, target, [standing(90, 55, 10), standing(99, 45, 10)], [left, right])
    assert hidden.shape == (40, 20)
    assert (hidden[:, :3] == 1).all()
    assert (hidden[:, 3:] == 0).all()
    rgba = occlude(person, hidden).rgba
    assert (rgba[:, :3] == 0).all()
    assert (rgba[:, 3:] == 1).all()


# --- layers


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[rng.random((height, width)) < 0.3, 3] = 0
    return Layer(rgba, draw(st.integers(-80, 60)), draw(st.integers(-80, 60)))


@given(layers())
@settings(max_examples=60, deadline=None)
def test_composite_follows_the_formula_everywhere(layer: Layer) -> None:
    scene = scene_of(11, 40, 50)
    before = scene.copy()
    result = composite(scene, layer)
    assert np.array_equal(scene, before)
    # The same with the layer laid into a large canvas: nothing is clipped there.
    canvas = np.zeros((40 + 320, 50 + 320, 4), int)
    canvas[160 + layer.y :, 160 + layer.x :][: layer.rgba.shape[0], : layer.rgba.shape[1]] = layer.rgba
    cut = canvas[160:200, 160:210]
    alpha = cut[..., 3:]
    assert np.array_equal(result, (alpha * cut[..., :3] + (255 - alpha) * scene.astype(int) + 127) // 255)
    assert np.array_equal(result[cut[..., 3] == 0], scene[cut[..., 3] == 0])
    assert np.array_equal(result[cut[..., 3] == 255], cut[cut[..., 3] == 255][:, :3])


def test_every_scene_value_survives_alpha_zero_and_every_layer_value_alpha_full() -> None:
    values = np.arange(256, dtype=np.uint8)
    scene = np.repeat(values[None, :, None], 3, axis=2)
    none = np.dstack([scene[:, ::-1], np.zeros((1, 256), np.uint8)])
    full = np.dstack([scene[:, ::-1], np.full((1, 256), 255, np.uint8)])
    assert np.array_equal(composite(scene, Layer(none, 0, 0)), scene)
    assert np.array_equal(composite(scene, Layer(full, 0, 0)), scene[:, ::-1])


def test_layer_is_cropped_and_keeps_its_place_beyond_the_frame() -> None:
    person = person_of(12, x=-20, y=-7)
    layer = to_layer(person, {"seed": 5})
    assert layer.rgba.shape == (52, 32, 4)
    assert layer.rgba.dtype == np.uint8
    assert (layer.x, layer.y, layer.scale, layer.provenance) == (-16, -3, 1.0, {"seed": 5})
    assert np.abs(layer.rgba[10, :, :3] / 255 - person.rgba[14, 4:-4, :3]).max() <= 0.5 / 255 + 1e-6
    soft = layer.rgba[0].astype(float)
    assert (soft[:, 3] == 128).all()
    assert np.abs(soft[:, :3] / 255 * 0.5 - person.rgba[4, 4:-4, :3]).max() < 1 / 255


def test_a_person_wholly_hidden_makes_no_layer() -> None:
    person = person_of(13)
    with pytest.raises(BadInput, match="nothing of the person is visible"):
        to_layer(occlude(person, np.ones(person.rgba.shape[:2], np.float32)))
    shadow = np.zeros((20, 20, 4), np.float32)
    shadow[5:15, 5:15, 3] = 0.6
    with pytest.raises(BadInput, match="nothing of the person is visible"):
        to_layer(replace(person, rgba=shadow))


def test_flip_and_scale() -> None:
    layer = to_layer(person_of(14, x=10, y=20))
    assert np.array_equal(flipped(flipped(layer)).rgba, layer.rgba)
    assert resampled(layer) is layer
    double = resampled(Layer(layer.rgba, 10, 20, scale=2.0))
    assert double.rgba.shape == (104, 64, 4)
    assert (double.x, double.y, double.scale) == (10, 20, 1.0)
    scene = scene_of(15)
    assert np.array_equal(composite(scene, Layer(layer.rgba, 10, 20, scale=2.0)), composite(scene, double))


def test_scaling_does_not_draw_in_the_colour_of_transparent_pixels() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., 1] = 255  # green where nothing is
    rgba[:, :10] = (200, 0, 0, 255)
    small = resampled(Layer(rgba, 0, 0, scale=0.37)).rgba
    assert (small[small[..., 3] > 8][:, 1] == 0).all()


def test_peers_are_the_people_of_like_size() -> None:
    context = [standing(50, 90, torso) for torso in (40, 9, 12, 20)]
    face = Skeleton(context[0].xy, [j == 0 for j in range(18)])
    assert peers(standing(10, 80, 10), [*context, face], 2) == [1, 2]
    assert peers(standing(10, 80, 10), [face, context[0]], 3) == [1, 0]
    assert peers(standing(10, 80, 10), [], 3) == []
