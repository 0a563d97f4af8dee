# SPDX-License-Identifier: Apache-2.0
"""Heads that turn: when the network is asked, what it learns from, and that it changes a head and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import head
from models.body import complete
from models.critic import PatchCritic
from models.grid import pixel_grid, sample
from models.head import Head, head_frames, turn
from models.head_pose import HeadMaps, HeadPose, head_pose
from models.head_training import Batch, judged, losses, prepare, train
from models.images import load_picture
from models.outline import volume_at, volume_of
from models.pairs import read_file
from models.person import tensors
from models.raised_arms import raised_arms
from models.transfer import MotionTransfer
from server.pipeline import Pipeline
from shared.head import turned_head
from shared.skeleton import FACE, L_EAR, L_ELBOW, L_HIP, L_WRIST, NECK, NOSE, R_EAR, R_HIP
from tests.test_motion import STANDING, over_grey, picture, skeleton
from tests.test_motion_training import curve_of_two_stretches, write_pairs

DEMO_ACTOR = Path(__file__).parents[1] / "addon" / "demo" / "actor.png"
PROFILE = STANDING.copy()
PROFILE[list(FACE), 0] = (122, 116, 117, 98, 100)
BEHIND = STANDING.copy()
BEHIND[list(FACE), 0] = 200 - BEHIND[list(FACE), 0]  # right and left exchanged: the back of a head


def network() -> Head:
    torch.manual_seed(0)
    return Head(channels=(8, 8, 8, 8), fine=8).eval()


def batch_of(file: Path, augment: bool = False) -> Batch:
    """Four pairs of a box with a person's joints, who turns to the side."""
    write_pairs(file)
    pairs = read_file(file)
    pairs["ks"][:], pairs["kt"][:] = STANDING + (20, 0), PROFILE + (20, 0)
    return prepare(pairs, augment)


def turn_between(
    source: np.ndarray, target: np.ndarray, source_face: bool = True, target_face: bool = True
) -> float:
    bodies = []
    for pose, face in ((source, source_face), (target, target_face)):
        known = torch.tensor([[face or joint not in FACE for joint in range(18)]])
        bodies.append(complete(torch.tensor(pose, dtype=torch.float32)[None], known))
    return turn(HeadMaps(*map(head_pose, bodies)), bodies[0].known, bodies[1].known).item()


def test_only_a_head_that_turns_asks_for_the_network() -> None:
    moved = 0.8 * STANDING + (30, 10)
    moved[[L_ELBOW, L_WRIST]] += 40
    assert turn_between(STANDING, moved) == 0
    assert turn_between(STANDING, PROFILE) == 1
    assert turn_between(STANDING, BEHIND) == 1
    assert turn_between(BEHIND, BEHIND + 5) == 0
    assert turn_between(STANDING, STANDING, target_face=False) == 1
    assert turn_between(STANDING, STANDING, False, False) == 0


def test_arms_before_the_head_are_found() -> None:
    assert arms_before_head(STANDING) is None
    phone = STANDING.copy()
    phone[L_WRIST] = STANDING[L_EAR] + (6, 8)
    cover = arms_before_head(phone)
    assert cover is not None
    at = (phone[[L_WRIST, R_EAR]] / 280 * 128).astype(int)
    assert cover[0, 0, at[0, 1], at[0, 0]] > 0.9 > 0.1 > cover[0, 0, at[1, 1], at[1, 0]]


def arms_before_head(pose: np.ndarray) -> torch.Tensor | None:
    body = complete(torch.tensor(pose / 280, dtype=torch.float32)[None], torch.ones(1, 18, dtype=torch.bool))
    return head.arms_before_head(body, head_pose(body))


def test_a_head_frame_holds_the_head() -> None:
    xy = torch.tensor(STANDING, dtype=torch.float32)[None]
    (origin, side), (larger, _) = (frame_of(x) for x in (xy, 3 * xy + 7))
    joints = ((xy - origin[:, None]) / side)[0, list(FACE)]
    assert (joints > 0.3).all()
    assert (joints < 0.7).all()
    torch.testing.assert_close(larger, 3 * origin + 7, atol=0.01, rtol=0)
    small_face = xy.clone()
    small_face[:, list(FACE)] = xy[:, list(FACE)].mean(1, keepdim=True).lerp(xy[:, list(FACE)], 0.8)
    assert 0.7 * side < frame_of(small_face)[1] < 0.95 * side, "a small head has a small frame"


def frame_of(xy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    body = complete(xy, torch.ones(1, 18, dtype=torch.bool))
    return head_frames(body, head_pose(body))


def test_gradients_reach_every_parameter_and_steps_lower_the_loss(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    made = network().train()
    optimiser = torch.optim.AdamW(made.parameters(), 5e-3)
    totals = []
    for _ in range(6):
        total = losses(made(*batch.given), batch)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    # A residual block's first layers feel something once its last layer is no longer zero.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    assert totals[-1] < 0.9 * totals[0]


def test_what_aim_says_moves_the_head(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    made, places = network(), []
    for shift in (0.0, 10.0):
        made.aim.say[-1].bias.data[4] = shift  # of the source, to the right
        with torch.no_grad():
            places.append(made(*batch.given).guess)
    moved = places[1] - places[0]
    torch.testing.assert_close(moved.mean((0, 1, 2)), torch.tensor([Head.MAX_MOVE, 0.0]), atol=1e-4, rtol=0)


def test_a_head_that_turns_has_one_size(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    made, poses = network(), []
    for larger in (0.0, 10.0):
        made.aim.say[-1].bias.data[0] = larger
        with torch.no_grad():
            maps = made(*batch.given).maps
        poses.append(torch.stack([maps.source.tilt, maps.target.tilt]).abs())
    torch.testing.assert_close(poses[1] / poses[0], torch.full_like(poses[0], math.exp(Head.MAX_SIZE)))


def test_a_painting_need_not_agree_to_the_pixel(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    with torch.no_grad():
        out = network()(*batch.given)
    stripes = (torch.arange(Head.FINE) // 2 % 2).float().expand_as(out.colour)
    striped = batch._replace(target=torch.cat([stripes, torch.ones_like(stripes[:, :1])], 1))
    beside, darker = (
        losses(out._replace(colour=colour), striped)["painted"] for colour in (1 - stripes, 0.5 * stripes)
    )
    assert beside < 0.02 < 0.2 < darker


@pytest.mark.parametrize("state", [1, 2], ids=["seen", "unseen"])
def test_what_is_most_alike_is_to_be_chosen(tmp_path: Path, state: int) -> None:
    batch = batch_of(tmp_path / "a.npz")
    truth = torch.cat([batch.target[:, :3], torch.ones_like(batch.target[:, 3:])], 1)
    grey = torch.cat([torch.full_like(truth[:, :3], 0.5), truth[:, 3:]], 1)
    batch = batch._replace(target=truth, state=torch.full_like(batch.state, state))
    with torch.no_grad():
        out = network()(*batch.given)
    for best in range(3):
        sources = [truth if best == number else grey for number in range(3)]
        made = out._replace(carried=torch.cat(sources[:2], 1), colour=sources[2][:, :3])
        errors = [
            losses(made._replace(choice=6.0 * chosen[:, None, None].expand(4, -1, 48, 48)), batch)["choice"]
            for chosen in torch.eye(3)
        ]
        assert errors.index(min(errors)) == best
        assert min(errors) < 0.02 < 0.1 < sorted(errors)[1]


def test_a_batch_does_not_mix_its_heads(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz", augment=True)
    made = network()
    with torch.no_grad():
        together = made(*batch.given)
        alone = made(*(value[1:2] for value in batch.given))
    torch.testing.assert_close(together.colour[1:2], alone.colour, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.flow[1:2], alone.flow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("colour", [(0.7, 0.4, 0.3), (0.1, 0.15, 0.1)])
def test_it_paints_in_the_photo_s_colours(tmp_path: Path, colour: tuple[float, float, float]) -> None:
    batch = batch_of(tmp_path / "a.npz")
    batch.source[:, :3] = torch.tensor(colour)[:, None, None] * batch.source[:, 3:]
    skins = torch.tensor([*colour, 1.0]).expand(4, -1), torch.tensor([0.9, 0.9, 0.0, 0.0]).expand(4, -1)
    for skin in skins:  # the last is none, whatever its colour
        with torch.no_grad():
            out = network()(*batch._replace(skin=skin).given)
        wanted = torch.tensor(colour)[:, None, None].expand_as(out.colour)
        # Each pixel may differ by what a network that has not learned adds, all together not.
        torch.testing.assert_close(out.colour, wanted, atol=0.2, rtol=0)
        torch.testing.assert_close(out.colour.mean((2, 3)), wanted.mean((2, 3)), atol=0.05, rtol=0)


def test_places_keep_their_bits_in_mixed_precision(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    made, places = network(), []
    for mixed in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            out = made(*batch.given)
        places.append(out.flow - out.correction.permute(0, 2, 3, 1))
    torch.testing.assert_close(*places, atol=1e-6, rtol=0)


def test_painted_arms_reach_a_face() -> None:
    skin, sleeve = (
        torch.tensor([[0.8, 0.6, 0.5]]).repeat(64, 1),
        torch.tensor([[0.1, 0.2, 0.6]]).repeat(64, 1),
    )
    torch.manual_seed(0)
    arms = raised_arms(skin, sleeve, 96)
    torch.manual_seed(0)
    assert torch.equal(arms.picture, raised_arms(skin, sleeve, 96).picture)
    alpha = arms.picture[:, 3]
    assert arms.picture.min() >= 0
    assert (arms.picture[:, :3] <= alpha[:, None]).all(), "premultiplied"
    assert (alpha[:, 30:78, 24:72].flatten(1).sum(1) > 60).float().mean() > 0.9, "most cover some of the face"
    rim = torch.cat([alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], 1).amax(1)
    assert (rim > 0.9).float().mean() > 0.9, "most come from below or aside"
    bare = (arms.picture[:, 0] > arms.picture[:, 2]) & (alpha > 0.9)
    assert (bare.flatten(1).sum(1) > 100).all(), "each has a hand"
    known = arms.known.flatten(1).amax(1) > 0.9
    assert 0.6 < known.float().mean() < 0.9, "of some nobody knows"
    agrees = (arms.known[known, 0] * alpha[known]).sum() / arms.known[known].sum()
    assert agrees > 0.6


def test_what_a_painted_arm_hides_is_unseen(tmp_path: Path) -> None:
    torch.manual_seed(1)
    batches = [batch_of(tmp_path / "a.npz", augment) for augment in (False, *[True] * 8)]
    assert batches[0].hidden.max() == 0
    hidden, seen = 0, 0
    for batch in batches[1:]:
        there = sample(batch.hidden, batch.flow)[:, 0] > 0.5
        assert (batch.state[there] != 1).all()
        hidden += int((there & (batch.state == 2)).sum())
        seen += int((batch.state == 1).sum())
    assert 0 < hidden < seen, "some heads have an arm before them"


def test_what_an_arm_hides_of_a_face_is_painted() -> None:
    """A green sleeve lies across the face; it goes down and the head turns, or stays."""
    rgb, matte = picture()
    arm = STANDING.copy()
    arm[[L_ELBOW, L_WRIST]] = (142, 62), (96, 42)
    for start, end in ((122, 69), (142, 62)), ((142, 62), (92, 41)):
        cv2.line(rgb, start, end, (20, 170, 40), 15)
        cv2.line(matte, start, end, 1.0, 15)
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(arm))
    assert actor.before_head is not None
    for pose in (STANDING, PROFILE):
        layer = over_grey(transfer.pose(actor, skeleton(pose)), matte.shape)
        face = layer[36:48, 94:112]
        assert (face[..., 1] > face[..., 0]).mean() < 0.05, "the sleeve is still there"
        np.testing.assert_allclose(
            layer[24:44, 74:81], 0.5, atol=0.1
        )  # nor does the hand stand off the cheek


def test_the_critic_sees_the_face(tmp_path: Path) -> None:
    batch = batch_of(tmp_path / "a.npz")
    batch.target[:, 3] = 1
    out = network()(*batch.given)
    spots = head.face_spots(complete(batch.target_xy, batch.target_known), Head.FINE)
    assert spots.amax((2, 3)).min() > 0.9, "every joint of a face in sight leaves a spot"
    made, real, counts = judged(out, batch)
    assert counts.shape == (4, 1, 12, 12)
    torch.testing.assert_close(made[:, 4:], spots)
    assert not torch.equal(made[:, :4], real[:, :4])
    assert counts[:, :, 5:7, 5].min() > 0.9
    assert counts[:, :, 0].max() == 0, "it judges what is no head"
    assert PatchCritic(9, width=8)(made).shape == (4, 1, 12, 12)


def test_training_goes_on(tmp_path: Path) -> None:
    assert any("critic" in line for line in curve_of_two_stretches(train, tmp_path, "head"))


@pytest.mark.parametrize("pose", [PROFILE, BEHIND], ids=["profile", "behind"])
def test_turning_the_head_changes_the_head_alone(pose: np.ndarray) -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    target = pose.copy()
    target[[L_ELBOW, L_WRIST]] += (20, -20)
    # Drafts: what retouches looks at the whole layer.
    turned = over_grey(transfer.pose(actor, skeleton(target), draft=True), matte.shape)
    transfer.head = None
    kept = over_grey(transfer.pose(actor, skeleton(target), draft=True), matte.shape)
    difference = np.abs(turned - kept).max(-1)
    assert difference[10:60, 75:130].max() > 0.2, "the head is as the photo has it"
    assert difference[110:].max() < 1e-4


def test_a_face_that_the_photo_does_not_show_has_the_colour_of_the_hands() -> None:
    rgb, matte = picture()
    head_of_hair = np.s_[10:64, 80:122]
    rgb[head_of_hair] = np.where(matte[head_of_hair][..., None] > 0.5, (40, 30, 25), rgb[head_of_hair])
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(BEHIND))
    faces = []
    for tone in ((0.9, 0.72, 0.62), (0.3, 0.19, 0.15)):
        known = replace(actor, hands=actor.hands._replace(skin=torch.tensor([[*tone, 1.0]])))
        layer = over_grey(transfer.pose(known, skeleton(STANDING)), matte.shape)
        faces.append(layer[34:46, 94:107].reshape(-1, 3).mean(0))
    assert (faces[0] > faces[1] + 0.05).all(), faces


def test_a_head_that_turns_a_little_is_opaque() -> None:
    pipeline = Pipeline()
    actor = pipeline.find_actor(load_picture(DEMO_ACTOR))
    person = actor.skeleton
    analysed = pipeline.motion.analyse(actor.rgb, pipeline.cut_out(actor), person)
    body = complete(*tensors(person))
    neck, hips = body.xy[0, NECK].numpy(), body.xy[0, [R_HIP, L_HIP]].mean(0).numpy()
    for yaw in (12, 14, 16, 18, 22):
        target = turned_head(person, neck, hips, float(body.torso), math.radians(yaw))
        layer = pipeline.motion.pose(analysed, target, draft=True)
        x, y = (target.xy[NOSE] - (layer.x, layer.y)).astype(int)
        assert layer.rgba[y - 40 : y + 10, x - 10 : x + 10, 3].min() > 0.99, f"turned by {yaw} degrees"


@pytest.mark.parametrize("yaw", [30, -30, 60])
def test_a_head_that_turns_is_no_taller(yaw: int) -> None:
    pipeline = Pipeline()
    actor = pipeline.find_actor(load_picture(DEMO_ACTOR))
    person = actor.skeleton
    analysed = pipeline.motion.analyse(actor.rgb, pipeline.cut_out(actor), person)
    body = complete(*tensors(person))
    neck, hips, torso = (
        body.xy[0, NECK].numpy(),
        body.xy[0, [R_HIP, L_HIP]].mean(0).numpy(),
        float(body.torso),
    )
    left, right = (int(neck[0] + 0.35 * side * torso) for side in (-1, 1))
    crowns = []
    for pose in (person, turned_head(person, neck, hips, torso, math.radians(yaw))):
        layer = pipeline.motion.pose(analysed, pose, draft=True)
        head = layer.rgba[:, left - layer.x : right - layer.x, 3] > 0.5
        crowns.append((neck[1] - layer.y - np.flatnonzero(head.any(1))[0]) / torso)
    assert crowns[1] == pytest.approx(crowns[0], abs=0.02), "torsos above the neck"


@pytest.mark.parametrize("top", [6, 10])
def test_a_hat_is_as_tall_when_the_head_turns(top: int) -> None:
    rgb, matte = picture()
    cv2.rectangle(rgb, (84, top), (116, 26), (250, 220, 10), -1)
    cv2.rectangle(matte, (84, top), (116, 26), 1.0, -1)
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    tall, average = (
        over_grey(transfer.pose(of, skeleton(PROFILE)), matte.shape)
        for of in (actor, replace(actor, volume=lambda: torch.zeros(36)))
    )
    above = np.s_[top + 1 : 10, 94:108] if top < 10 else np.s_[8:11, 94:108]
    yellow = np.array((250, 220, 10)) / 255
    assert np.abs(tall[above] - yellow).mean() < 0.6 * np.abs(average[above] - yellow).mean()


def discs(*radii: float) -> list[torch.Tensor]:
    """Distances from the edge of discs around the middle of a frame, `(1, 1, 96, 96)`."""
    distance = (pixel_grid(96)[0] - 0.5).norm(dim=-1).reshape(1, 1, 96, 96)
    return [radius - distance for radius in radii]


def test_what_a_photo_has_more_of_a_head_is_told_by_direction() -> None:
    # Tilted to the right of the picture by 30 degrees, 0.8 frames a torso.
    tilt = torch.polar(torch.tensor([0.8]), torch.tensor([math.radians(30)]))
    pose = HeadPose(torch.eye(3)[None], tilt, torch.tensor([0.5 + 0.5j]))
    drawn, larger, smaller = discs(0.2, 0.24, 0.16)
    everywhere = torch.ones_like(drawn)
    for photo, more in ((larger, 0.04), (smaller, -0.04), (drawn, 0.0)):
        volume = volume_of(drawn, (photo > 0).float(), everywhere, pose)
        assert torch.allclose(volume[:9], torch.full((9,), more / 0.8), atol=0.01)
        assert volume[18].abs() < 1e-3, "below is the neck"
    # A tuft over the left ear: both sides have half of it, and the way up none.
    tuft = (larger > 0) & (pixel_grid(96)[0, :, 0].reshape(96, 96) > 0.68)
    volume = volume_of(drawn, ((drawn > 0) | tuft).float(), everywhere, pose)
    assert volume[6] > 0.01
    assert torch.equal(volume, volume.flip(0).roll(1))
    assert volume[0] < 0.2 * volume[6]
    # What the photo does not show tells nothing.
    assert volume_of(drawn, (smaller > 0).float(), 0 * everywhere, pose).abs().max() == 0
    at = volume_at(torch.linspace(0, 0.35, 36), pose, 96)[0, 0]
    up = math.radians(30)
    for angle, wanted in ((0, 0.0), (90, 0.09), (180, 0.18), (260, 0.26)):
        x, y = (48 + 30 * f(up + math.radians(angle)) for f in (math.sin, lambda a: -math.cos(a)))
        assert abs(at[int(y), int(x)].item() - 0.8 * wanted) < 0.01


def test_a_head_that_the_photo_cuts_is_not_taken_for_a_flat_one() -> None:
    rgb, matte = picture()
    flat = matte.copy()
    flat[:24] = 0
    transfer = MotionTransfer()
    assert transfer.analyse(rgb, flat, skeleton(STANDING)).volume()[0] < -0.01
    cut_off = transfer.analyse(rgb[24:], matte[24:], skeleton(STANDING - (0, 24)))
    assert cut_off.volume()[0].abs() < 0.003


@pytest.mark.parametrize("yaw", [30, -40])
def test_an_arm_that_nobody_knows_of_takes_nothing_of_a_head(yaw: int) -> None:
    rgb, matte = picture()
    person = skeleton(STANDING, (L_ELBOW, L_WRIST))
    body = complete(*tensors(person))
    neck, hips = body.xy[0, NECK].numpy(), body.xy[0, [R_HIP, L_HIP]].mean(0).numpy()
    target = turned_head(person, neck, hips, float(body.torso), math.radians(yaw))
    transfer = MotionTransfer()
    layer = transfer.pose(transfer.analyse(rgb, matte, person), target, draft=True)
    head = layer.rgba[24 - layer.y : 56 - layer.y, 91 - layer.x : 109 - layer.x, 3]
    assert head.mean() > 0.98


def test_a_head_that_turns_leaves_the_shoulders_alone() -> None:
    pipeline = Pipeline()
    actor = pipeline.find_actor(load_picture(DEMO_ACTOR))
    person, matte = actor.skeleton, pipeline.cut_out(actor)
    analysed = pipeline.motion.analyse(actor.rgb, matte, person)
    body = complete(*tensors(person))
    neck, hips = body.xy[0, NECK].numpy(), body.xy[0, [R_HIP, L_HIP]].mean(0).numpy()
    torso = float(body.torso)
    own = over_grey(pipeline.motion.pose(analysed, person), matte.shape)
    below = np.s_[int(neck[1] - 0.05 * torso) : int(hips[1])]
    for yaw in (-60, 30):
        target = turned_head(person, neck, hips, torso, math.radians(yaw))
        turned = over_grey(pipeline.motion.pose(analysed, target), matte.shape)
        changed = np.abs(turned - own).max(-1)
        beside = np.abs(np.arange(matte.shape[1]) - neck[0]) > 0.3 * torso
        assert (changed[below][:, beside] > 0.1).sum() < 0.001 * torso**2, f"turned by {yaw} degrees"
