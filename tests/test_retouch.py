# SPDX-License-Identifier: Apache-2.0
"""Retouch: what stays is the photo's, what does not is painted, at any size; its layers are made and learned from."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from models.images import load_picture
from models.pairs import Rendered, Stored, read_file
from models.photo import resized
from models.retouch import Retouch, Retouched, paint_over, planes_of
from models.retouch_training import (
    compared,
    layers_of,
    losses,
    make_layers,
    prepare,
    shown,
    train,
    with_things,
)
from models.transfer import MotionTransfer
from models.transfer_training import Options
from shared.errors import BadImage, BadInput
from shared.skeleton import MIRROR
from tests.test_motion import STANDING, WALKING, disc, picture, skeleton
from tests.test_motion_training import curve_of_two_stretches, write_pairs

TINY = {"channels": (8, 8, 8, 8, 8), "fine": 8}


ALL, NONE = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)


def said(keep: np.ndarray, colour: tuple[float, float, float], alpha: np.ndarray) -> Retouched:
    """What a network would say that keeps and covers these places of 256 px."""
    logits = torch.logit(torch.from_numpy(np.stack([keep, alpha])).clamp(0.02, 0.98))
    painted = torch.tensor(colour)[None, :, None, None].expand(1, 3, 256, 256)
    return Retouched(torch.nn.functional.avg_pool2d(logits[:1, None], 2), painted, logits[1:, None])


def done(layer: np.ndarray, out: Retouched, share: torch.Tensor) -> np.ndarray:
    """The layer retouched."""
    new = layer.copy()
    paint_over(new, resized(layer, 256), out, share, 1.6 / len(layer))
    return new


@pytest.mark.parametrize("size", [97, 256, 700])
def test_what_is_right_stays_and_the_rest_is_painted(size: int) -> None:
    rng = np.random.default_rng(0)
    alpha = disc(size, (0.5, 0.5), 0.35)
    straight = rng.uniform(0.2, 0.8, (size, size, 3)).astype(np.float32)
    layer = np.dstack([straight * alpha[..., None], alpha])
    wrong = disc(256, (0.5, 0.35), 0.1)
    out = said(1 - wrong, (1.0, 0.0, 0.0), disc(256, (0.5, 0.5), 0.35))
    new = done(layer, out, ALL)
    there = disc(size, (0.5, 0.35), 0.075) == 1
    assert np.abs(new[there] - (1, 0, 0, 1)).max() < 0.02
    far = (disc(size, (0.5, 0.35), 0.13) == 0) & (disc(size, (0.5, 0.5), 0.33) == 1)
    np.testing.assert_allclose(new[far], layer[far], atol=1e-5)
    assert np.abs(new[..., 3] - alpha).max() < 0.35, "an outline within the tolerance stays"
    np.testing.assert_allclose(done(layer, out, NONE), layer, atol=1e-6)


def test_an_outline_that_is_wrong_is_drawn_anew_and_sharp() -> None:
    alpha = disc(512, (0.5, 0.5), 0.2)
    layer = np.dstack([np.full((512, 512, 3), 0.5, np.float32) * alpha[..., None], alpha])

    def drawn(radius: float) -> np.ndarray:
        out = said(np.ones((256, 256), np.float32), (0.1, 0.9, 0.1), disc(256, (0.5, 0.5), radius))
        return done(layer, out, ALL)

    new = drawn(0.225)
    wanted = disc(512, (0.5, 0.5), 0.225)
    assert np.abs(new[..., 3] - wanted)[wanted == 1].mean() < 0.03
    assert new[..., 3][disc(512, (0.5, 0.5), 0.24) == 0].max() == 0
    soft = (new[..., 3] > 0.05) & (new[..., 3] < 0.95)
    assert soft.sum() < 2 * np.pi * 0.225 * 512 * 4, "an edge of more than four pixels"
    grown = (disc(512, (0.5, 0.5), 0.215) == 1) & (disc(512, (0.5, 0.5), 0.21) == 0)
    # Near the layer its own colours go on.
    np.testing.assert_allclose(new[grown][:, :3].mean(0), [0.5, 0.5, 0.5], atol=0.05)
    far = drawn(0.45)
    assert far[..., 3][disc(512, (0.5, 0.5), 0.24) == 0].max() < 0.1, "grown out of all reason"
    less = drawn(0.1)
    assert less[..., 3][disc(512, (0.5, 0.5), 0.12) == 0].max() < 0.01


def test_the_photo_s_own_pose_is_not_retouched() -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    own = transfer.pose(actor, skeleton(STANDING))
    transfer.retouch = None
    np.testing.assert_array_equal(own.rgba, transfer.pose(actor, skeleton(STANDING)).rgba)


def test_a_layer_is_retouched_alike_at_any_size() -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    actor = transfer.analyse(rgb, matte, skeleton(STANDING))
    small, large = (transfer.pose(actor, skeleton(WALKING * scale)).rgba for scale in (1, 3))
    assert small[..., 3].sum() == pytest.approx(large[..., 3].sum() / 9, rel=0.04)


def test_a_layer_and_its_mirror_image_are_told_the_same() -> None:
    torch.manual_seed(0)
    network = Retouch(**TINY).eval()  # type: ignore[arg-type]
    rgb, matte = picture()
    width = rgb.shape[1]
    walking = WALKING + (0.5, 0)  # so that the frame of the mirrored pose is the pose's frame, mirrored
    mirrored = [skeleton((xy * (-1, 1) + (width, 0))[list(MIRROR)]) for xy in (STANDING, walking)]
    transfer = MotionTransfer()
    transfer.head = None
    moved = transfer.move(transfer.analyse(rgb, matte, skeleton(STANDING)), skeleton(walking))
    flipped = (np.ascontiguousarray(of[:, ::-1]) for of in (rgb, matte))
    image = transfer.move(transfer.analyse(*flipped, mirrored[0]), mirrored[1])  # type: ignore[arg-type]
    assert moved.prediction is not None
    assert image.prediction is not None
    planes = planes_of(moved.prediction)
    layer = torch.from_numpy(resized(moved.rgba, 256)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        here = network.both_ways(layer, planes)
        there = network.both_ways(layer.flip(3), planes_of(image.prediction))
        once = network(layer.flip(3), planes_of(image.prediction))
    for one, other, alone in zip(here, there, once, strict=True):
        off = (one - other.flip(3)).abs().mean()
        assert off < 0.1 * (one - alone.flip(3)).abs().mean(), "planes are mirrored wrongly"


def layers(file: Path) -> dict[str, np.ndarray]:
    """Of the pairs that `write_pairs` writes."""
    write_pairs(file)
    return layers_of(read_file(file), MotionTransfer(), augment=False)


def test_a_layer_that_is_right_is_known_to_be_and_one_that_is_not_too() -> None:
    layer = torch.zeros(1, 4, 64, 64)
    layer[:, :, 10:50, 10:50] = torch.tensor([0.2, 0.4, 0.6, 1.0])[:, None, None]
    truth = layer.clone()
    truth[:, :3, 10:50, 10:50] += 0.06  # another light
    truth[:, :, 30:40, 20:34] = torch.tensor([0.9, 0.1, 0.1, 1.0])[:, None, None]
    lit, right = compared(layer, truth)
    assert right[0, 0, 33:37, 25:29].max() < 0.1
    assert right[0, 0, 14:22, 14:46].min() > 0.9
    torch.testing.assert_close(lit[..., 12:20, 12:20], layer[..., 12:20, 12:20], atol=0.02, rtol=0)


def test_things_lie_before_some_people() -> None:
    torch.manual_seed(0)
    source = torch.zeros(60, 4, 256, 256)
    source[:, :, 40:220, 90:160] = torch.tensor([0.1, 0.1, 0.1, 1.0])[:, None, None]
    xy = torch.from_numpy(STANDING).float().expand(60, -1, -1) / 280
    covered = with_things(source, xy, torch.ones(60, 18, dtype=torch.bool))
    changed = (covered != source).flatten(1).any(1)
    assert 5 <= changed.sum() <= 20, "a fifth of them"
    assert (covered[:, :3] <= covered[:, 3:] + 1e-4).all(), "not premultiplied"
    assert (covered[:, 3] >= source[:, 3] - 1e-4).all(), "a thing is taken for a part of the person"
    # Never the head.
    torch.testing.assert_close(covered[:, :, :30], source[:, :, :30])


def test_what_is_wrong_is_shown_painted_and_the_rest_as_it_should_be(tmp_path: Path) -> None:
    batch = prepare(layers(tmp_path / "a.npz"), augment=False)
    right = torch.zeros_like(batch.right)
    right[..., :128] = 1
    none = batch.right
    out = Retouched(none, torch.full_like(batch.truth[:, :3], 0.25), none)
    picture = shown(out, batch._replace(right=right))
    torch.testing.assert_close(picture[..., :128], batch.truth[..., :128])
    torch.testing.assert_close(
        picture[:, :3, :, 128:], 0.25 * batch.truth[:, 3:, :, 128:].expand(-1, 3, -1, -1)
    )


def test_gradients_reach_every_parameter_and_steps_lower_the_loss(tmp_path: Path) -> None:
    batch = prepare(layers(tmp_path / "a.npz"), augment=True)
    torch.manual_seed(0)
    network = Retouch(**TINY)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    totals = []
    for _ in range(6):
        total = losses(network(batch.layer, batch.planes), batch)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert totals[-1] < 0.95 * totals[0]


def test_a_network_that_has_learned_nothing_paints_the_layer() -> None:
    rgb, matte = picture()
    transfer = MotionTransfer()
    moved = transfer.move(transfer.analyse(rgb, matte, skeleton(STANDING)), skeleton(WALKING))
    assert moved.prediction is not None
    layer = torch.rand(1, 4, 256, 256)
    layer[:, :3] *= layer[:, 3:]
    network = Retouch(**TINY)
    torch.nn.init.zeros_(network.head[1].weight)
    torch.nn.init.zeros_(network.head[1].bias)
    with torch.no_grad():
        out = network(layer, planes_of(moved.prediction))
    opaque = layer[:, 3:].expand(-1, 3, -1, -1) > 0.999
    torch.testing.assert_close(out.colour[opaque], layer[:, :3][opaque], atol=2e-3, rtol=0)


def test_layers_are_made_once_and_alike(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs" / "train" / "a.npz")
    first, second = (make_layers(Stored(tmp_path / "pairs"), tmp_path / name, 3, 1) for name in ("a", "b"))
    made = [read_file(source.folder / "train" / "a.npz") for source in (first, second)]
    assert len(made[0]["layer"]) == 4
    for key, value in made[0].items():
        np.testing.assert_array_equal(value, made[1][key], err_msg=key)
    written = (first.folder / "train" / "a.npz").stat().st_mtime_ns
    make_layers(Stored(tmp_path / "pairs"), tmp_path / "a", 3, 1)
    assert (first.folder / "train" / "a.npz").stat().st_mtime_ns == written


@pytest.mark.timeout(60)
def test_an_error_in_a_worker_reaches_whoever_waits_for_it(tmp_path: Path) -> None:
    with (
        get_context("spawn").Pool(1) as pool,
        pytest.raises(BadImage, match=r"none\.jpg: .*\. ") as caught,
    ):
        pool.apply(load_picture, (tmp_path / "none.jpg",))
    assert caught.value.fix


def test_photos_of_which_nothing_is_left_are_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.npz")
    read = read_file(tmp_path / "a.npz")
    read["src"][1, ..., 3] = 0
    read["vt"][2] = 0
    assert len(layers_of(read, MotionTransfer(), augment=False)["layer"]) == len(read["src"]) - 2


@pytest.mark.timeout(300)
def test_training_goes_on(tmp_path: Path) -> None:
    assert any("painted" in line for line in curve_of_two_stretches(train, tmp_path, "retouch"))


def test_training_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--assets: the layers that retouch learns from are made once"):
        train(Options(Rendered(tmp_path), tmp_path / "run"))
    with pytest.raises(BadInput, match=r"train: holds no pair files"):
        train(Options(Stored(tmp_path), tmp_path / "run"))
