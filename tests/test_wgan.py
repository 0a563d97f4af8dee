# SPDX-License-Identifier: Apache-2.0
"""The paper's placement network: codec, sizes, penalty, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import wgan
from models.coco import Batch, read_coco
from models.wgan import Codec, Critic, Generator, Trainer, gradient_penalty

PLACES = st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)), min_size=18, max_size=18)


@pytest.fixture(scope="module")
def batch(shared_data: Path) -> Batch:
    val = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    return val.batch(np.arange(0, 40, 10))


@settings(max_examples=50, deadline=None)
@given(PLACES, st.lists(st.booleans(), min_size=18, max_size=18))
def test_codec_round_trip(places: list[tuple[float, float]], known: list[bool]) -> None:
    people = torch.tensor([[*xy, 1.0] for xy in places]) * torch.tensor(known)[:, None]
    codec = Codec()
    maps = codec.encode(people[None, None], torch.ones(1, 1, dtype=torch.bool))
    decoded = codec.decode(maps)[0]
    assert torch.equal(decoded[:, 2], people[:, 2])
    assert (decoded - people).abs().max() <= 0.5 / codec.grid + 1e-6
    assert (maps[0][~torch.tensor(known)] == -1).all()


@settings(max_examples=30, deadline=None)
@given(PLACES)
def test_between_the_cells_the_codec_is_exact(places: list[tuple[float, float]]) -> None:
    people = torch.tensor([[*xy, 1.0] for xy in places])
    codec = Codec(subpixel=True)
    decoded = codec.decode(codec.encode(people[None, None], torch.ones(1, 1, dtype=torch.bool)))[0]
    # At the border a cell has no neighbour to go by.
    inside = people[:, :2].abs() < 0.5 - 1 / codec.grid
    away = (decoded - people)[:, :2].abs()
    assert (away * inside).max() < 0.02 / codec.grid
    assert away.max() <= 0.5 / codec.grid + 1e-6


def test_subpixel_keeps_limbs_human(shared_data: Path) -> None:
    val = read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)
    cell, between = (wgan.codec_error(val, subpixel=subpixel, count=300) for subpixel in (False, True))
    assert between["cells"] < 0.02 < 0.3 < cell["cells"]
    assert between["bones"] > cell["bones"] + 0.04


def test_people_are_merged_by_their_maximum(batch: Batch) -> None:
    codec = Codec()
    context, present = torch.from_numpy(batch.context), torch.from_numpy(batch.present)
    merged = codec.encode(context, present)
    singly = torch.stack(
        [codec.encode(context[:, k : k + 1], present[:, k : k + 1]) for k in range(context.shape[1])]
    )
    assert torch.allclose(merged, singly.amax(0), atol=1e-6)
    assert merged.shape == (len(context), 18, 64, 64)
    assert merged.min() >= -1
    assert merged.max() <= 1


def test_a_joint_outside_the_square_is_missing() -> None:
    people = torch.zeros(1, 1, 18, 3)
    people[..., 2] = 1
    people[0, 0, 3, 0] = 0.51
    maps = Codec().encode(people, torch.ones(1, 1, dtype=torch.bool))
    assert (maps[0, 3] == -1).all()
    assert maps[0, 4].max() > 0.8


def test_sizes() -> None:
    generator, critic = Generator(), Critic()
    assert sum(p.numel() for p in generator.decoder.parameters()) == 4_892_608
    maps, condition = generator(torch.zeros(2, 18, 64, 64), torch.zeros(2, 512))
    assert maps.shape == (2, 18, 64, 64)
    assert maps.abs().max() <= 1
    assert condition.shape == (2, 512)
    assert critic(maps, condition).shape == (2,)


def test_penalty_is_that_of_the_gradient_in_the_maps() -> None:
    torch.manual_seed(0)
    critic = Critic().double()
    real, fake = torch.rand(2, 3, 18, 64, 64, dtype=torch.float64)
    condition, alpha = torch.rand(3, 512, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.3]).double()
    penalty = gradient_penalty(critic, real, fake, condition, alpha)
    norms = []
    for i in range(3):
        between = alpha[i] * fake[i] + (1 - alpha[i]) * real[i]
        slope = torch.autograd.functional.jacobian(
            lambda x, i=i: critic(x[None], condition[i : i + 1]), between
        )
        norms.append(slope.norm())
    assert torch.isclose(penalty, (torch.stack(norms) - 1).square().mean())
    # And it can be lowered: its own gradient in the weights agrees with a finite difference.
    weight = critic.out.weight
    (slope,) = torch.autograd.grad(penalty, weight)
    step = torch.zeros_like(weight)
    step.view(-1)[5] = 1e-4
    with torch.no_grad():
        weight += step
    above = gradient_penalty(critic, real, fake, condition, alpha)
    with torch.no_grad():
        weight -= 2 * step
    below = gradient_penalty(critic, real, fake, condition, alpha)
    assert torch.isclose((above - below) / 2e-4, slope.view(-1)[5], rtol=1e-3)


def test_an_iteration_moves_the_critic_and_every_fifth_the_generator(batch: Batch) -> None:
    trainer = Trainer(seed=3)
    random = torch.Generator().manual_seed(0)

    def copy() -> list[torch.Tensor]:
        networks = (trainer.generator.encoder, trainer.generator.decoder, trainer.critic)
        return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]

    before = copy()
    for _ in range(4):
        numbers = trainer.iterate(batch, random)
    after_four = copy()
    trainer.iterate(batch, random)
    after_five = copy()
    assert numbers["penalty"] > 0
    assert [torch.equal(a, b) for a, b in zip(before, after_four, strict=True)] == [True, True, False]
    assert not any(torch.equal(a, b) for a, b in zip(after_four, after_five, strict=True))


def test_training_resumed_is_training_in_one_go(shared_data: Path, tmp_path: Path) -> None:
    read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True).save(tmp_path / "val.npz")
    whole = wgan.train(tmp_path / "val.npz", tmp_path / "whole", steps=5, batch=2)
    wgan.train(tmp_path / "val.npz", tmp_path / "parts", steps=3, batch=2)
    parts = wgan.train(tmp_path / "val.npz", tmp_path / "parts", steps=5, batch=2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
