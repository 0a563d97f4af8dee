# SPDX-License-Identifier: Apache-2.0
"""Transfer: the part maps are exact geometry, missing joints are normal input, the weights give a solid person."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import weights
from models.body import complete, far_sides, seen_from_behind, torso_length
from models.grid import pixel_grid, sample
from models.images import LUMA
from models.motion import Motion
from models.outline import distances
from models.parts import MIRRORED_PARTS, PARTS, PartMaps, arm_distances
from models.person import Frame, Person, crop, person_frame
from models.photo import arm_masks, spread_colours
from models.render import occupied
from models.transfer import Analysed, MotionTransfer, missing_parts, with_carried_face
from server.preview import paint
from shared.errors import BadInput, MissingWeights, NoActor
from shared.skeleton import (
    FACE,
    JOINTS,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_WRIST,
    MIRROR,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_WRIST,
    Skeleton,
)

STANDING = np.array(
    [
        (100, 40), (100, 70), (78, 71), (68, 110), (62, 146), (122, 69), (134, 108), (142, 144), (86, 140), (84, 196),
        (82, 250), (114, 140), (118, 196), (120, 250), (95, 34), (105, 34), (88, 37), (112, 37),
    ],
    dtype=np.float64,
)  # fmt: skip
WALKING = np.array(
    [
        (110, 42), (104, 72), (84, 74), (62, 102), (70, 136), (126, 72), (150, 96), (176, 82), (90, 140), (110, 190),
        (84, 240), (114, 140), (96, 194), (130, 246), (107, 35), (115, 36), (96, 38), (116, 40),
    ],
    dtype=np.float64,
)  # fmt: skip
LIMB_JOINTS = [i for i in range(18) if i not in FACE]


def skeleton(xy: np.ndarray, missing: tuple[int, ...] = ()) -> Skeleton:
    return Skeleton(xy, [i not in missing for i in range(18)])


def maps_between(source: np.ndarray, target: np.ndarray, known: np.ndarray | None = None) -> PartMaps:
    every = torch.ones(1, 18, dtype=torch.bool) if known is None else torch.tensor(known)[None]
    a, b = (torch.tensor(xy / 256, dtype=torch.float64)[None] for xy in (source, target))
    return PartMaps(a, every, b, every)


def disc(size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """1 inside, with an edge of a pixel; in frame units."""
    x = (np.arange(size) + 0.5) / size
    distance = np.hypot(x[None] - centre[0], x[:, None] - centre[1])
    return np.clip((radius - distance) * size + 0.5, 0, 1).astype(np.float32)


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A person of blobs and bars in the pose STANDING, with a textured coat, on a loud background."""
    rng = np.random.default_rng(0)
    rgb = np.full((280, 200, 3), (20, 200, 60), np.uint8)
    matte = np.zeros((280, 200), np.uint8)
    joint = [tuple(int(v) for v in p) for p in STANDING]
    for a, b, width, colour in (
        (8, 9, 24, (40, 50, 120)), (9, 10, 20, (40, 50, 130)), (11, 12, 24, (40, 50, 120)), (12, 13, 20, (40, 50, 130)),
        (2, 3, 18, (160, 40, 40)), (3, 4, 15, (200, 150, 120)), (5, 6, 18, (160, 40, 40)), (6, 7, 15, (200, 150, 120)),
    ):  # fmt: skip
        cv2.line(rgb, joint[a], joint[b], colour, width)
        cv2.line(matte, joint[a], joint[b], 255, width)
    trunk = np.array([joint[2], joint[5], (118, 150), (82, 150)])
    cv2.fillPoly(rgb, [trunk], (180, 50, 50))
    cv2.fillPoly(matte, [trunk], 255)
    for centre, axes in (
        ((100, 36), (17, 24)),
        ((140, 152), (9, 9)),
        ((62, 154), (9, 9)),
        ((84, 258), (12, 8)),
        ((122, 258), (12, 8)),
    ):
        cv2.ellipse(rgb, centre, axes, 0, 0, 360, (210, 160, 130), -1)
        cv2.ellipse(matte, centre, axes, 0, 0, 360, 255, -1)
    rgb = np.where(matte[..., None] > 0, np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255), rgb).astype(
        np.uint8
    )
    return rgb, (cv2.GaussianBlur(matte, (3, 3), 0) / 255).astype(np.float32)


def over_grey(person: Person, shape: tuple[int, int]) -> np.ndarray:
    out = np.full((*shape, 3), 0.5, np.float32)
    height, width = person.rgba.shape[:2]
    y0, x0 = max(person.y, 0), max(person.x, 0)
    y1, x1 = min(person.y + height, shape[0]), min(person.x + width, shape[1])
    part = person.rgba[y0 - person.y : y1 - person.y, x0 - person.x : x1 - person.x]
    out[y0:y1, x0:x1] = part[..., :3] + 0.5 * (1 - part[..., 3:])
    return out


@settings(max_examples=25, deadline=None)
@given(
    angle=st.floats(-3.1, 3.1), scale=st.floats(0.3, 3.0), mirror=st.booleans(),
    shift=st.tuples(st.floats(-90, 90), st.floats(-90, 90)),
)  # fmt: skip
def test_maps_undo_a_rotation_scale_and_reflection_exactly(
    angle: float, scale: float, mirror: bool, shift: tuple[float, float]
) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    if mirror:
        turn = turn @ np.diag([-1.0, 1.0])
    target = STANDING @ turn.T + shift
    # A mirrored picture of the person: the same joints keep their names, all parts are reflected.
    maps = maps_between(STANDING, target)
    points = np.random.default_rng(0).uniform(-50, 300, (64, 2))
    found, _ = maps.at(torch.tensor((points @ turn.T + shift) / 256)[None])
    np.testing.assert_allclose(found[0].numpy() * 256, np.broadcast_to(points, (10, 64, 2)), atol=1e-3)


def test_own_pose_gives_the_identity_map_and_no_change() -> None:
    maps = maps_between(WALKING, WALKING)
    grid = pixel_grid(16).double()
    found, distance = maps.at(grid)
    torch.testing.assert_close(found, grid[:, None].expand_as(found), atol=1e-6, rtol=0)
    assert maps.change().item() == pytest.approx(0, abs=1e-9)
    assert maps.moved().item() == pytest.approx(0, abs=1e-9)
    assert distance.isfinite().all()


def test_joints_map_onto_joints() -> None:
    maps = maps_between(STANDING, WALKING)
    found, _ = maps.at(torch.tensor(WALKING / 256)[None])
    for part, (a, b) in enumerate(
        ((5, 6), (6, 7), (2, 3), (3, 4), (11, 12), (12, 13), (8, 9), (9, 10)), start=2
    ):
        np.testing.assert_allclose(found[0, part, [a, b]].numpy() * 256, STANDING[[a, b]], atol=1e-6)


def test_left_and_right_are_treated_alike() -> None:
    order, flip = list(MIRROR), np.array([-1.0, 1.0])
    a, b = STANDING[order] * flip + (256, 0), WALKING[order] * flip + (256, 0)
    points = np.random.default_rng(1).uniform(20, 230, (50, 2))
    sides = list(MIRRORED_PARTS)
    maps, image = maps_between(STANDING, WALKING), maps_between(a, b)
    others = [of.other_side(*EVERYWHERE) for of in (maps, image)]
    for here, there in ((maps, image), others):
        plain, distance = here.at(torch.tensor(points / 256)[None])
        mirrored, other = there.at(torch.tensor((points * flip + (256, 0)) / 256)[None])
        mirrored = mirrored[:, sides] * torch.tensor(flip) + torch.tensor([1.0, 0.0])
        torch.testing.assert_close(mirrored, plain, atol=1e-6, rtol=0)
        torch.testing.assert_close(other[:, sides], distance, atol=1e-6, rtol=0)
    share = torch.rand(1, 10, 32, 32, dtype=torch.float64).softmax(1)
    image_share = share[:, sides].flip(3)
    torch.testing.assert_close(image.unmoved(32, image_share).flip(3), maps.unmoved(32, share))


def test_a_limb_missing_in_the_photo_is_taken_from_the_other_side() -> None:
    known = np.ones(18, bool)
    known[[L_ELBOW, L_WRIST]] = False
    every = torch.ones(1, 18, dtype=torch.bool)
    source, target = (torch.tensor(xy / 256)[None] for xy in (STANDING, WALKING))
    maps = PartMaps(source, torch.tensor(known)[None], target, every)
    assert maps.in_source.all()
    found, _ = maps.at(target)
    np.testing.assert_allclose(found[0, 3, [L_ELBOW, L_WRIST]].numpy() * 256, STANDING[[3, 4]], atol=1e-6)
    assert maps.ownership(32)[0, 3].max() > 0.9


EVERYWHERE = torch.full((1, 10, 32, 32), 0.1, dtype=torch.float64), torch.ones(1, 1, 32, 32).double()
"""Shares and matte of somebody who is all over the frame."""


def test_the_other_side_has_each_limb_once_more() -> None:
    maps = maps_between(STANDING, WALKING).other_side(*EVERYWHERE)
    assert maps.in_source[0].tolist() == [False] * 2 + [True] * 8, "trunk and head have no other side"
    found, _ = maps.at(torch.tensor(WALKING / 256)[None])
    for part, joints, others in ((3, [6, 7], [3, 4]), (5, [3, 4], [6, 7]), (7, [12, 13], [9, 10])):
        np.testing.assert_allclose(found[0, part, joints].numpy() * 256, STANDING[others], atol=1e-6)
    known = np.ones(18, bool)
    known[[L_ELBOW, L_WRIST]] = False
    missing = maps_between(STANDING, WALKING, known).other_side(*EVERYWHERE)
    assert missing.in_source[0].tolist() == [False] * 6 + [True] * 4


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_foot_of_the_other_side_points_as_the_one_asked_for(mirrored: bool) -> None:
    def beside(point: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(disc(64, tuple(point / 256), 6 / 256))[None, None].double()

    standing = 0.8 * STANDING
    left, right = standing[[L_ANKLE, R_ANKLE]]
    share = torch.zeros(1, 10, 64, 64).double()
    share[:, 7] = beside(left + (8, 8))[:, 0]
    matte = beside(right + (-8 if mirrored else 8, 8))
    maps = maps_between(standing, standing).other_side(share, matte)
    found, _ = maps.at(torch.tensor((left + (8, 8)) / 256)[None, None])
    assert sample(matte, found[:, 7])[0, 0, 0] > 0.9


def test_parts_that_do_not_move_are_known() -> None:
    raised = STANDING.copy()
    raised[[L_ELBOW, L_WRIST]] = (150, 60), (140, 20)
    arms = [2, 3]
    for scale in (1.0, 2.5):
        still = maps_between(STANDING, raised * scale).still()[0]
        assert still[arms].max() == 0
        assert np.delete(still.numpy(), arms).min() == 1
    turned = STANDING * (-1, 1) + (256, 0)
    assert maps_between(STANDING, turned).still().max() == 0, "seen from behind nothing is as it was"
    assert maps_between(STANDING, STANDING).still(turned=1.0)[0].tolist() == [1, 0] + 8 * [1], (
        "a head that turns"
    )
    known = np.ones(18, bool)
    known[R_ANKLE] = False
    every = torch.ones(1, 18, dtype=torch.bool)
    source, target = (torch.tensor(xy / 256)[None] for xy in (STANDING, raised))
    assert PartMaps(source, torch.tensor(known)[None], target, every).still()[0, [8, 9]].tolist() == [1, 0]


def test_a_guessed_face_does_not_turn_the_head_over() -> None:
    for seed in range(20):
        guessed = STANDING.copy()
        guessed[list(FACE)] = (100, 37) + np.random.default_rng(seed).uniform(-9, 9, (5, 2))
        found, _ = maps_between(guessed, WALKING).at(
            torch.tensor([[[106.0, 10.0], [106.0, 60.0]]]).double() / 256
        )
        assert found[0, 1, 0, 1] < found[0, 1, 1, 1], "the crown is below the chin"


@settings(max_examples=60, deadline=None)
@given(source=st.integers(0, 2**18 - 1), target=st.integers(0, 2**18 - 1))
def test_joints_missing_anywhere_never_give_nan(source: int, target: int) -> None:
    a, b = (torch.tensor([bool(bits >> i & 1) for i in range(18)])[None] for bits in (source, target))
    maps = PartMaps(
        torch.tensor(STANDING / 256)[None] * a[..., None],
        a,
        torch.tensor(WALKING / 256)[None] * b[..., None],
        b,
    )
    points, distance = maps.at(pixel_grid(8).double())
    share = torch.rand(1, 10, 8, 8, dtype=torch.float64).softmax(1)
    other = maps.other_side(share, torch.ones(1, 1, 8, 8).double())
    for values in (
        points, distance, maps.ownership(8), maps.change(), maps.moved(), maps.ratio, maps.still(),
        maps.unmoved(8, share),
        other.at(pixel_grid(8).double())[0], other.ownership(8),
    ):  # fmt: skip
        assert values.isfinite().all()


def test_everything_at_one_point_is_still_finite() -> None:
    maps = maps_between(np.full((18, 2), 100.0), np.full((18, 2), 90.0))
    points, distance = maps.at(pixel_grid(8).double())
    assert points.isfinite().all()
    assert distance.isfinite().all()


def test_the_trunk_is_completed_from_what_is_known() -> None:
    xy = torch.tensor(STANDING)[None]
    known = torch.ones(1, 18, dtype=torch.bool)
    known[0, [R_HIP, L_HIP, R_KNEE, L_KNEE, R_ANKLE, L_ANKLE]] = False
    body = complete(xy, known)
    np.testing.assert_allclose(body.xy[0, [R_HIP, L_HIP]].mean(0), STANDING[[R_HIP, L_HIP]].mean(0), atol=12)
    assert torso_length(xy, known).item() == pytest.approx(70, rel=0.2)


def test_missing_parts_are_named() -> None:
    legs = (R_KNEE, R_ANKLE, L_KNEE, L_ANKLE)
    assert missing_parts(skeleton(STANDING, legs), skeleton(WALKING)) == ["legs"]
    assert missing_parts(skeleton(STANDING, legs), skeleton(WALKING, legs)) == []
    assert missing_parts(skeleton(STANDING), skeleton(WALKING)) == []
    assert missing_parts(skeleton(STANDING, (*FACE, 3, 4, 6, 7)), skeleton(WALKING)) == ["arms", "face"]


def test_the_frame_has_room_for_hair_hands_and_feet() -> None:
    frame = person_frame(skeleton(STANDING))
    assert isinstance(frame, Frame)
    _x0, y0, _x1, y1 = skeleton(STANDING).box
    assert frame.y < y0 - 30
    assert frame.y + frame.size > y1 + 25
    with pytest.raises(BadInput, match=r"would be \d+ px large, not 8 to 6000"):
        person_frame(skeleton(STANDING * 100))
    with pytest.raises(BadInput, match="no joint is visible"):
        person_frame(Skeleton(np.zeros((18, 2)), np.zeros(18, bool)))


def test_colours_at_the_edge_lose_the_background() -> None:
    rgb, matte = picture()
    spread = spread_colours(rgb.astype(np.float32) / 255, matte)
    rim = (matte > 0.05) & (matte < 0.9)
    green = spread[..., 1] - spread[..., [0, 2]].max(-1)
    assert green[rim].max() < 0.1
    inside = matte == 1
    np.testing.assert_allclose(spread[inside], rgb[inside] / 255, atol=1e-6)


@pytest.mark.parametrize("name", ["limbs", "motion"])
def test_a_person_in_a_new_pose(name: str) -> None:
    rgb, matte = picture()
    transfer = MotionTransfer(name)
    target = skeleton(WALKING).transformed(1.5, (-40, 20))
    person = transfer.transfer(rgb, matte, skeleton(STANDING), target)
    assert person.rgba.dtype == np.float32
    assert np.isfinite(person.rgba).all()
    assert (person.rgba[..., :3] <= person.rgba[..., 3:] + 1e-5).all()
    assert person.rgba.min() >= 0
    for i in LIMB_JOINTS:
        x, y = (target.xy[i] - (person.x, person.y)).astype(int)
        assert person.rgba[y - 1 : y + 2, x - 1 : x + 2, 3].mean() > 0.5, f"hole at the {JOINTS[i]}"
    solid = person.rgba[..., 3] > 0.9
    area = solid.sum() / (1.5**2 * (matte > 0.5).sum())
    assert 0.6 < area < 1.5
    colour = person.rgba[solid]
    assert (colour[:, 1] - colour[:, [0, 2]].max(-1) > 0.2).mean() < 0.01, "the photo's background came along"
    again = transfer.transfer(rgb, matte, skeleton(STANDING), target)
    assert np.array_equal(again.rgba, person.rgba)


@pytest.mark.parametrize("name", ["limbs", "motion"])
def test_the_photos_own_pose_comes_back(name: str) -> None:
    rgb, matte = picture()
    person = MotionTransfer(name).transfer(rgb, matte, skeleton(STANDING), skeleton(STANDING))
    wanted = rgb / 255 * matte[..., None] + 0.5 * (1 - matte[..., None])
    error = (over_grey(person, matte.shape) - wanted)[matte > 0.99]
    assert -10 * np.log10((error**2).mean()) > 34


@pytest.mark.parametrize("name", ["limbs", "motion"])
def test_missing_joints_still_give_a_person(name: str) -> None:
    rgb, matte = picture()
    transfer = MotionTransfer(name)
    whole = transfer.transfer(rgb, matte, skeleton(STANDING), skeleton(WALKING))
    no_leg = transfer.transfer(rgb, matte, skeleton(STANDING), skeleton(WALKING, (L_KNEE, L_ANKLE)))
    assert no_leg.rgba[..., 3].sum() < whole.rgba[..., 3].sum() - 800
    half = transfer.transfer(
        rgb[:150], matte[:150], skeleton(STANDING, (R_KNEE, R_ANKLE, L_KNEE, L_ANKLE)), skeleton(WALKING)
    )
    assert half.rgba[..., 3].max() > 0.99
    # The network makes up legs that the photo does not show; part maps alone have nothing to make them from.
    assert (half.y + len(half.rgba) > WALKING[R_ANKLE, 1]) == (name == "motion")
    assert (half.y + len(half.rgba) < WALKING[R_KNEE, 1]) == (name == "limbs")


def test_a_foot_that_the_photo_hides_is_the_other_foot() -> None:
    rgb, matte = picture()
    foot = np.s_[252:, 100:140]
    rgb[250:, :] = np.where(matte[250:, :, None] > 0.5, (250, 250, 250), rgb[250:, :])  # white shoes
    hidden = matte.copy()
    hidden[foot] = 0
    step = STANDING.copy()
    step[[L_KNEE, L_ANKLE]] = (140, 190), (160, 238)
    step[[R_KNEE, R_ANKLE]] = (70, 192), (60, 244)
    transfer = MotionTransfer()

    def shoe(matte: np.ndarray) -> float:
        """How much white there is around the left foot."""
        layer = over_grey(transfer.transfer(rgb, matte, skeleton(STANDING), skeleton(step)), (280, 200))
        return float((layer[238:262, 145:180].min(-1) > 0.8).sum())

    assert shoe(hidden) > 0.5 * shoe(matte) > 50


def test_a_hand_in_a_pocket_is_the_other_hand() -> None:
    rgb, matte = picture()
    pocket = np.s_[136:180, 104:160]
    noise = np.random.default_rng(1).normal(0, 6, (44, 56, 3))
    rgb[pocket], matte[pocket] = np.clip(noise + (40, 50, 120), 0, 255), 1
    waving = STANDING.copy()
    waving[[L_ELBOW, L_WRIST]] = (162, 88), (176, 52)
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    assert actor.hands.hidden.amax((1, 2)).tolist() == [1, 0], "the left one"

    def skin(actor: Analysed) -> float:
        """How much of it there is at the end of the raised arm."""
        there = over_grey(transfer.pose(actor, skeleton(waving)), (280, 200))[30:60, 165:200]
        return float((there[..., 0] > there[..., 2] + 0.15).sum())

    shown = replace(actor, hands=actor.hands._replace(hidden=torch.zeros(2, 64, 64)))
    assert skin(actor) > 100 > 3 * skin(shown)
    near = STANDING.copy()
    near[[L_ELBOW, L_WRIST]] += (6, -4), (10, -8)
    still_in_it, drawn_from_it = (transfer.pose(one, skeleton(near)).rgba for one in (actor, shown))
    np.testing.assert_allclose(still_in_it, drawn_from_it, atol=1e-5)


def test_hands_in_both_pockets_are_painted_in_the_tone_of_the_face() -> None:
    rgb, matte = picture()
    noise = np.random.default_rng(1).normal(0, 6, (44, 56, 3))
    for pocket in (np.s_[136:180, 104:160], np.s_[136:180, 44:100]):
        rgb[pocket], matte[pocket] = np.clip(noise + (40, 50, 120), 0, 255), 1
    waving = STANDING.copy()
    waving[[L_ELBOW, L_WRIST]] = (162, 88), (176, 52)
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    assert actor.hands.hidden.amax((1, 2)).tolist() == [1, 1]
    assert actor.hands.skin.tolist() == [[0, 0, 0, 0]], "no hand shows"
    raised = over_grey(transfer.pose(actor, skeleton(waving)), (280, 200))[26:40, 172:188]
    assert np.abs(np.median(raised, (0, 1)) - np.array((210, 160, 130)) / 255).max() < 0.12
    # Of somebody seen from behind nothing tells the tone.
    behind = skeleton(STANDING, missing=(NOSE, R_EYE, L_EYE))
    assert transfer.analyse(rgb, matte, behind).hands.hidden.max() == 0


@pytest.mark.parametrize("glove", [(30, 30, 30), (60, 160, 60)])
def test_a_glove_is_no_hidden_hand(glove: tuple[int, int, int]) -> None:
    rgb, matte = picture()
    cv2.circle(rgb, (140, 152), 12, glove, -1)
    hands = MotionTransfer("limbs").analyse(rgb, matte, skeleton(STANDING)).hands
    assert hands.hidden.max() == 0
    assert hands.skin[0, 3] == 1, "the other hand is bare"


@pytest.mark.parametrize("tone", [(230, 184, 158), (158, 107, 84), (77, 48, 38)])
def test_skin_is_found_at_the_hands(tone: tuple[int, int, int]) -> None:
    rgb, matte = picture()
    for hand in ((140, 152), (62, 154)):
        cv2.circle(rgb, hand, 12, tone, -1)
    skin = MotionTransfer("limbs").analyse(rgb, matte, skeleton(STANDING)).hands.skin
    torch.testing.assert_close(255 * skin[0], torch.tensor([*tone, 255.0]), atol=3, rtol=0)


def test_gloves_and_hands_out_of_sight_are_no_skin() -> None:
    rgb, matte = picture()
    unseen = skeleton(STANDING, missing=(L_WRIST, R_WRIST))
    assert MotionTransfer("limbs").analyse(rgb, matte, unseen).hands.skin.tolist() == [[0, 0, 0, 0]]
    for hand in ((140, 152), (62, 154)):
        cv2.circle(rgb, hand, 12, (30, 30, 30), -1)
    gloved = MotionTransfer("limbs").analyse(rgb, matte, skeleton(STANDING))
    assert gloved.hands.skin.tolist() == [[0, 0, 0, 0]]


def test_a_pose_without_limbs_is_a_trunk_with_a_head() -> None:
    limbless = skeleton(WALKING, missing=(3, 4, 6, 7, 9, 10, 12, 13))
    layer = MotionTransfer().transfer(*picture(), skeleton(STANDING), limbless)
    assert layer.rgba[..., 3].sum() > 3000


def test_a_preview_is_the_layer_made_small() -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    target = skeleton(WALKING).transformed(4.0, (300, -200))
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    whole, (preview, square) = transfer.pose(actor, target), paint(transfer, actor, target, 128)
    assert max(square.shape) <= 128
    assert preview.scale == pytest.approx(person_frame(target).size / 128)
    rows, columns = (np.flatnonzero(square[..., 3].any(axis)) for axis in (1, 0))
    for a, b in (
        (whole.x, preview.x + columns[0] * preview.scale),
        (whole.y, preview.y + rows[0] * preview.scale),
    ):
        assert abs(a - b) < 2 * preview.scale
    alpha = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 3] / 255
    small = cv2.resize(whole.rgba[..., 3], alpha.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small - alpha).mean() < 0.06


@pytest.mark.parametrize("unchanged", [0.0, 1.0])
def test_only_where_somebody_may_be_is_painted(unchanged: float) -> None:
    _, matte = picture()
    frame = person_frame(skeleton(STANDING))
    known = torch.ones(1, 18, dtype=torch.bool)
    joints = torch.tensor((STANDING - (frame.x, frame.y)) / frame.size, dtype=torch.float32)[None]
    mine = crop(matte[..., None], frame)[..., 0]
    changed = torch.full((1, 1, 64, 64), 1 - unchanged)
    pixels = occupied(PartMaps(joints, known, joints, known), mine, None, None, changed, 0.02, frame.size)
    painted = np.zeros(frame.size**2, bool)
    painted[pixels] = True
    assert painted[mine.reshape(-1) > 0].all()
    assert painted.mean() < 0.5


@pytest.mark.parametrize("draft", [False, True])
def test_whoever_moves_an_arm_leaves_the_rest_as_it_is(draft: bool) -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    raised = STANDING.copy()
    raised[[L_ELBOW, L_WRIST]] = (150, 60), (140, 20)
    own, moved = (
        over_grey(transfer.pose(actor, skeleton(xy), draft=draft), (280, 200)) for xy in (STANDING, raised)
    )
    off = np.abs(own - moved).max(-1)
    assert off[175:].max() < 0.03, "legs and feet"
    assert off[100:160, :75].max() < 0.03, "the other arm"
    assert off[80:150, 95:105].max() < 0.03, "the chest"
    assert off[100:160, 132:150].mean() > 0.2, "where the arm was"


def test_an_arm_before_the_chest_does_not_stay_there() -> None:
    rgb, matte = picture()
    folded = STANDING.copy()
    folded[[R_ELBOW, R_WRIST]] = (68, 110), (122, 104)
    rgb, matte = rgb.copy(), matte.copy()
    for place, colour in ((rgb, (200, 150, 120)), (matte, 1.0)):  # the forearm lies across the coat
        cv2.line(place, (68, 110), (122, 104), colour, 15)
    source = skeleton(folded)
    transfer = MotionTransfer("limbs")
    person = transfer.transfer(rgb, matte, source, skeleton(STANDING))
    chest = over_grey(person, matte.shape)[95:118, 90:112]
    assert np.abs(chest - np.array((180, 50, 50)) / 255).mean() < 0.06, "the sleeve stayed"
    back = over_grey(transfer.transfer(rgb, matte, source, source), matte.shape)
    assert np.abs(back - rgb / 255)[matte > 0.99].mean() < 0.02, "the photo's own pose lost its arm"


@pytest.mark.parametrize("plain", [False, True])
def test_cloth_behind_arms_is_as_uneven_as_what_is_seen_of_it(plain: bool) -> None:
    rgb, matte = (of.copy() for of in picture())
    if plain:
        rgb[np.abs(rgb.astype(int) - (180, 50, 50)).max(-1) < 50] = 180, 50, 50
    folded = STANDING.copy()
    folded[[R_ELBOW, R_WRIST, L_ELBOW, L_WRIST]] = (68, 107), (122, 107), (132, 107), (78, 107)
    for place, colour in (
        (rgb, (200, 150, 120)),
        (matte, 1.0),
    ):  # across all of the coat: no other side shows it
        cv2.line(place, (68, 107), (132, 107), colour, 15)
    person = MotionTransfer("limbs").transfer(rgb, matte, skeleton(folded), skeleton(STANDING))
    luma = over_grey(person, matte.shape) @ LUMA
    behind, beside = luma[104:111, 92:108].std(), luma[78:92, 92:108].std()
    if plain:
        assert behind < 0.005
    else:
        assert 0.4 < behind / beside < 1.2


@pytest.mark.parametrize("shift", [-7, 7])
def test_a_knee_that_moves_a_little_leaves_no_ghost(shift: int) -> None:
    rgb, matte = picture()
    bent = STANDING.copy()
    bent[L_KNEE, 0] += shift
    maps = maps_between(STANDING, bent)
    assert maps.change() < 0.5
    assert maps.moved() > 0.95
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    own, moved = (transfer.pose(actor, skeleton(xy)).rgba[..., 3] for xy in (STANDING, bent))
    own_soft, soft = (((alpha > 0.15) & (alpha < 0.85)).sum() for alpha in (own, moved))
    assert soft < own_soft


def hand_on_a_skirt() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`picture` with a wide skirt, a bare forearm and a hand on it, and its joints."""
    rgb, matte = (of.copy() for of in picture())
    joints = STANDING.copy()
    joints[[R_ELBOW, R_WRIST]] = (66, 112), (96, 165)
    skirt = np.array([(70, 130), (130, 130), (160, 245), (40, 245)])
    for place, cloth, skin in ((rgb, SKIRT, SKIN), (matte, 1.0, 1.0)):
        cv2.fillPoly(place, [skirt], cloth)
        cv2.line(place, (66, 112), (96, 165), skin, 12)
        cv2.ellipse(place, (101, 174), (8, 13), -30, 0, 360, skin, -1)
    return rgb, matte, joints


SKIRT, SKIN = (90, 30, 110), (200, 150, 120)


def test_what_lies_around_an_arm_does_not_come_along() -> None:
    rgb, matte, joints = hand_on_a_skirt()
    raised = joints.copy()
    raised[[R_ELBOW, R_WRIST]] = (44, 96), (4, 140)
    person = MotionTransfer().transfer(rgb, matte, skeleton(joints), skeleton(raised))
    forearm = cv2.line(np.zeros(matte.shape, np.uint8), (36, 105), (10, 133), 1, 16) > 0
    colours = over_grey(person, matte.shape)[forearm]
    skin, cloth = (np.abs(colours - np.array(of) / 255).mean(1) for of in (SKIN, SKIRT))
    assert (skin < 0.1).sum() > 200
    assert (cloth < skin).mean() < 0.04


def test_a_limb_that_moves_leaves_nothing_where_nobody_was() -> None:
    rgb, matte, joints = hand_on_a_skirt()
    akimbo = joints.copy()
    akimbo[[R_ELBOW, R_WRIST]] = (45, 100), (70, 140)
    person = MotionTransfer().transfer(rgb, matte, skeleton(joints), skeleton(akimbo))
    body = complete(
        torch.tensor(akimbo / 280, dtype=torch.float32)[None], torch.ones(1, 18, dtype=torch.bool)
    )
    near = arm_distances(body, 280)[0].amin(0).numpy()[:, :200] < 2
    nobody = ~near & (cv2.dilate(matte, np.ones((9, 9))) == 0)
    assert np.abs(over_grey(person, matte.shape) - 0.5)[nobody].max() < 0.02, "cloth came along with the hand"


def test_arms_are_told_from_the_body_by_their_colours() -> None:
    rgb, matte = picture()
    rgb = rgb.copy()
    cv2.line(rgb, (68, 110), (122, 104), (200, 150, 120), 9)  # a forearm across the coat
    photo = np.dstack([rgb / 255, matte]).astype(np.float32)[:200, :200]
    folded = STANDING.copy()
    folded[[R_ELBOW, R_WRIST]] = (68, 110), (122, 104)
    body = complete(
        torch.tensor(folded / 200, dtype=torch.float32)[None], torch.ones(1, 18, dtype=torch.bool)
    )
    distance = arm_distances(body, 200)[0].numpy()
    arms, before, around = arm_masks(photo, distance, 0.0)
    assert arms[105:109, 85:110].min() > 0.9
    assert arms[[96, 117], 90:105].max() < 0.3, "beside it"
    assert around[105:109, 85:110].max() < 0.1
    assert np.median(around[[93, 120], 90:105]) > 0.9
    np.testing.assert_array_equal(arms, before)
    assert arm_masks(photo, distance, 1.0).before[105:109, 85:110].min() > 0.9, "it is seen, on a back, too"
    photo[95:120, 78:118, :3] = np.array((180, 50, 50)) / 255  # now it is not
    hidden = arm_masks(photo, distance, 1.0).before
    assert hidden[100:114, 88:108].max() < 0.2, "from behind, an arm that looks like the back is behind it"


def test_a_black_and_white_photo_gives_a_black_and_white_layer() -> None:
    rgb, matte = picture()
    grey = np.repeat(np.rint(rgb @ LUMA).astype(np.uint8)[..., None], 3, 2)
    turned = STANDING.copy()
    turned[list(FACE)] += (6, 0)
    transfer = MotionTransfer()
    for draft in (False, True):
        person = transfer.pose(
            transfer.analyse(grey, matte, skeleton(STANDING)), skeleton(WALKING), draft=draft
        )
        assert np.ptp(person.rgba[..., :3], axis=-1).max() < 1e-5
    person = transfer.transfer(rgb, matte, skeleton(STANDING), skeleton(WALKING))
    assert np.ptp(person.rgba[..., :3], axis=-1).max() > 0.3


def test_an_arm_brought_before_the_chest_is_seen() -> None:
    rgb, matte = picture()
    folded = STANDING.copy()
    folded[[R_ELBOW, R_WRIST]] = (66, 108), (106, 112)
    person = MotionTransfer().transfer(rgb, matte, skeleton(STANDING), skeleton(folded))
    forearm = over_grey(person, matte.shape)[109:113, 84:104]
    assert np.abs(forearm - np.array((200, 150, 120)) / 255).mean() < 0.1, "the coat lies over the forearm"


def test_an_arm_before_somebody_seen_from_behind_is_hidden() -> None:
    rgb, matte = picture()
    behind = STANDING[list(MIRROR)]
    seen = maps_between(STANDING, behind)
    assert seen_from_behind(seen.source) == 0
    assert seen_from_behind(seen.target) == 1
    behind[[L_ELBOW, L_WRIST]] = (66, 108), (106, 112)
    person = MotionTransfer().transfer(rgb, matte, skeleton(STANDING), skeleton(behind))
    back = over_grey(person, matte.shape)[109:113, 88:104]
    assert np.abs(back - np.array((180, 50, 50)) / 255).mean() < 0.1, "a forearm lies on the back"


def profile(way: float) -> np.ndarray:
    """STANDING from the side, facing the picture's left at -1 and its right at 1; hands hang down."""
    xy = STANDING.copy()
    xy[:, 0] = 100 + 0.4 * (xy[:, 0] - 100)
    xy[[NOSE, R_EYE, L_EYE, R_EAR, L_EAR], 0] = 100 + way * np.array([16, 13, 13, -2, -2])
    return xy


@pytest.mark.parametrize(("way", "far"), [(-1, "right"), (1, "left")])
def test_the_far_side_of_a_profile(way: int, far: str) -> None:
    seen = maps_between(profile(way), STANDING)
    assert far_sides(seen.source).tolist() == [[float(far == "left"), float(far == "right")]]
    assert far_sides(seen.target).tolist() == [[0, 0]], "seen from the front none is far"
    faceless = np.array([joint not in FACE for joint in range(18)])
    assert far_sides(maps_between(profile(way), STANDING, faceless).source).tolist() == [[0, 0]]


@pytest.mark.parametrize(("way", "far"), [(-1, "right"), (1, "left")])
def test_a_far_arm_takes_no_face_along(way: int, far: str) -> None:
    near = {"left": "right", "right": "left"}[far]
    for side, wanted in ((near, 1), (far, 0)):
        raised = profile(way)
        elbow, wrist = (R_ELBOW, R_WRIST) if side == "right" else (L_ELBOW, L_WRIST)
        raised[elbow], raised[wrist] = (100 + way * 12, 60), (100 + way * 12, 20)
        own = maps_between(raised, STANDING).ownership(64)[0, PARTS.index(f"{side} forearm")]
        assert own[round(64 * 38 / 256), round(64 * (100 + way * 12) / 256)] == pytest.approx(
            wanted, abs=0.05
        )


@pytest.mark.parametrize("way", [-1, 1])
def test_from_the_side_the_near_forearm_lies_before_the_body(way: int) -> None:
    rgb, matte = picture()
    skin, coat = np.array((200, 150, 120)) / 255, np.array((180, 50, 50)) / 255
    for near in (True, False):
        aside = profile(way)
        right = (way == 1) == near
        elbow, wrist = (R_ELBOW, R_WRIST) if right else (L_ELBOW, L_WRIST)
        # Drawn back, so that the forearm crosses the trunk.
        aside[elbow], aside[wrist] = (100 - way * 22, 112), (100 + way * 20, 116)
        person = MotionTransfer().transfer(rgb, matte, skeleton(STANDING), skeleton(aside))
        forearm = over_grey(person, matte.shape)[111:117, 94:106]
        closer = np.abs(forearm - skin).mean() < np.abs(forearm - coat).mean()
        assert closer == near


def test_a_hat_comes_along_where_the_head_does_not_turn() -> None:
    rgb, matte = picture()
    cv2.rectangle(rgb, (84, 2), (116, 16), (250, 220, 10), -1)
    cv2.rectangle(matte, (84, 2), (116, 16), 1.0, -1)
    arms_raised = STANDING.copy()
    arms_raised[[R_WRIST, L_WRIST]] = (40, 80), (160, 80)
    person = MotionTransfer().transfer(rgb, matte, skeleton(STANDING), skeleton(arms_raised))
    hat = over_grey(person, matte.shape)[4:14, 88:112]
    assert np.abs(hat - np.array((250, 220, 10)) / 255).mean() < 0.05


def test_a_face_fits_unless_the_head_turns() -> None:
    moved = 0.8 * STANDING + (30, 10)
    moved[R_WRIST] += 40
    assert maps_between(STANDING, moved).face_fit().item() == 1
    profile = STANDING.copy()
    profile[list(FACE), 0] = (122, 116, 117, 98, 100)
    assert maps_between(STANDING, profile).face_fit().item() == 0


def test_cloth_is_as_sharp_as_the_photo_made_small() -> None:
    """In a layer smaller than the photo, at places between its pixels."""
    rgb, matte = (cv2.resize(of, (600, 840), interpolation=cv2.INTER_CUBIC) for of in picture())
    weave = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 1, rgb.shape), (0, 0), 1.2)
    rgb = np.clip(rgb + 40 * weave / weave.std(), 0, 255).astype(np.uint8)
    waving = STANDING.copy()
    waving[[L_ELBOW, L_WRIST]] = (150, 90), (185, 90)
    person = MotionTransfer().transfer(
        rgb, matte.clip(0, 1), skeleton(3 * STANDING), skeleton(waving / 1.4 + (0.3, 0.4))
    )
    small = cv2.resize(
        rgb.astype(np.float32) / 255, None, fx=1 / 4.2, fy=1 / 4.2, interpolation=cv2.INTER_AREA
    )
    steps = [
        sum(np.square(np.diff(of[58:98, 62:82], axis=axis)).mean() for axis in (0, 1))
        for of in (over_grey(person, (200, 150)), small)
    ]
    assert 0.85 < steps[0] / steps[1] < 1.2


def test_outlines_are_sharp_at_any_size() -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    actor = transfer.analyse(*(cv2.resize(p, None, fx=4, fy=4) for p in (rgb, matte)), skeleton(STANDING * 4))
    for scale in (1, 4):
        alpha = transfer.pose(actor, skeleton(WALKING * scale)).rgba[..., 3]
        soft = (alpha > 0.02) & (alpha < 0.98)
        outline = cv2.morphologyEx(
            (alpha > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)
        )
        assert soft.sum() < 3 * outline.sum()  # an outline drawn this way is two pixels wide


def test_depth_and_normals_come_with_the_layer() -> None:
    torch.manual_seed(0)
    transfer = MotionTransfer("limbs")
    transfer.network = Motion().eval()
    rgb, matte = picture()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    person = transfer.pose(actor, skeleton(WALKING), passes=True)
    assert person.depth is not None
    assert person.normals is not None
    inside = person.rgba[..., 3] > 0
    assert person.depth.shape == inside.shape
    np.testing.assert_allclose(np.linalg.norm(person.normals[inside], axis=-1), 1, atol=1e-4)
    assert not person.depth[~inside].any()
    assert not person.normals[~inside].any()
    assert transfer.pose(actor, skeleton(WALKING)).depth is None


def test_distances_are_the_same_to_the_last_bit_wherever_a_mask_lies_in_memory() -> None:
    rng = np.random.default_rng(0)
    blobs = cv2.GaussianBlur(rng.normal(size=(96, 96)).astype(np.float32), (0, 0), 6)
    mask = (blobs > 0.01).astype(np.uint8)
    zeros, ones = np.argwhere(mask == 0), np.argwhere(mask == 1)
    squared = np.zeros(mask.shape, np.float32)
    squared[tuple(ones.T)] = np.square(ones[:, None] - zeros).sum(-1).min(1)
    memory = np.zeros(mask.size + 64, np.uint8)
    for offset in range(0, 64, 7):
        moved = memory[offset : offset + mask.size].reshape(mask.shape)
        moved[:] = mask
        assert np.array_equal(distances(moved), np.sqrt(squared))


def test_the_outline_of_the_mirror_image_is_the_outline_s_mirror_image() -> None:
    rgb, matte = picture()
    width = rgb.shape[1]

    def mirrored(joints: np.ndarray) -> np.ndarray:
        return (joints * (-1, 1) + (width, 0))[list(MIRROR)]

    walking = WALKING + (0.5, 0)  # so that the frame of the mirrored pose is the pose's frame, mirrored
    transfer = MotionTransfer()
    transfer.head = None  # which is not asked both ways

    def difference(draft: bool) -> float:
        here = transfer.move(transfer.analyse(rgb, matte, skeleton(STANDING)), skeleton(walking), draft)
        flipped = (np.ascontiguousarray(of[:, ::-1]) for of in (rgb, matte))
        actor = transfer.analyse(*flipped, skeleton(mirrored(STANDING)))  # type: ignore[arg-type]
        there = transfer.move(actor, skeleton(mirrored(walking)), draft)
        return float(np.abs(here.rgba[..., 3] - there.rgba[:, ::-1, 3]).mean())

    assert difference(draft=False) < 1e-5 < 1e-3 < difference(draft=True)


def test_depth_and_normals_turn_in_the_mirror_too() -> None:
    torch.manual_seed(0)
    network = Motion(channels=(8, 8, 8, 8), alpha_channels=8).eval()
    torch.nn.init.normal_(network.head.weight, std=0.2)
    joints = [torch.tensor(xy / 280, dtype=torch.float32)[None] for xy in (STANDING, WALKING)]
    known = torch.ones(1, 18, dtype=torch.bool)
    known[0, L_WRIST] = False
    photo = torch.rand(1, 4, 256, 256)
    image = [torch.stack([1 - xy[..., 0], xy[..., 1]], -1)[:, list(MIRROR)] for xy in joints]
    with torch.inference_mode():
        here = network.both_ways(photo, joints[0], known, joints[1], known)
        there = network.both_ways(
            photo.flip(3), image[0], known[:, list(MIRROR)], image[1], known[:, list(MIRROR)]
        )
    sign = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    for found, wanted in (
        (there.alpha.flip(3), here.alpha),
        (there.depth.flip(3), here.depth),
        (there.normals.flip(3) * sign, here.normals),
        (there.correction.flip(3) * sign[:2], here.correction),
        (1 - there.flow.flip(2)[..., 0], here.flow[..., 0]),
        (there.share.flip(3)[:, MIRRORED_PARTS], here.share),
    ):
        assert wanted.std() > 1e-4, "nothing to compare"
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_an_empty_matte_is_an_error() -> None:
    rgb, matte = picture()
    with pytest.raises(NoActor, match="matte shows no person"):
        MotionTransfer("limbs").transfer(rgb, matte * 0, skeleton(STANDING), skeleton(WALKING))


def test_unknown_weights_are_an_error() -> None:
    with pytest.raises(MissingWeights, match="transfer/nobody: no such weights"):
        MotionTransfer("nobody")


def test_a_result_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = weights.load(Motion, "transfer", "motion")
    source = torch.rand(2, 4, 256, 256)
    known = torch.ones(2, 18, dtype=torch.bool)
    a, b = (torch.tensor(xy / 280, dtype=torch.float32).expand(2, -1, -1) for xy in (STANDING, WALKING))
    with torch.inference_mode():
        both = network(source, a, known, b, known)
        alone = network(source[1:], a[1:], known[1:], b[1:], known[1:])
    torch.testing.assert_close(both.alpha[1:], alone.alpha, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.flow[1:], alone.flow, atol=1e-5, rtol=1e-4)


def test_the_face_is_the_photos_view_of_it() -> None:
    photo = skeleton(STANDING)
    there = photo.transformed(0.5, (40, 30))
    assert np.allclose(with_carried_face(photo, there).xy, there.xy, atol=1e-3)
    # The pose looks elsewhere: eyes and ears keep the photo's distances, at the pose's size and place.
    turned = there.with_joints(FACE, there.xy[list(FACE)] * (0.5, 1.0) + (0.5 * there.xy[NOSE, 0], 0.0))
    carried = with_carried_face(photo, turned)
    ears = [R_EAR, L_EAR]
    before, after = (float(np.linalg.norm(np.diff(s.xy[ears], axis=0))) for s in (photo, carried))
    scale = after / before
    for a, b in itertools.combinations(FACE, 2):
        expected = scale * np.linalg.norm(photo.xy[a] - photo.xy[b])
        assert np.linalg.norm(carried.xy[a] - carried.xy[b]) == pytest.approx(expected, rel=1e-3)
    assert 0.35 < scale < 0.7
    assert np.linalg.norm(carried.xy[list(FACE)].mean(0) - turned.xy[list(FACE)].mean(0)) < 5
    assert np.array_equal(carried.xy[LIMB_JOINTS], turned.xy[LIMB_JOINTS])
    no_face = skeleton(STANDING, FACE)
    assert with_carried_face(no_face, turned) is turned
