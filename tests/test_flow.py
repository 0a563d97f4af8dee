# SPDX-License-Identifier: Apache-2.0
"""The flow over keypoint vectors: codec, sets, conditions, density ratio, training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import anatomy, flow, flow_training, weights
from models.coco import CUT, FULL, Batch, Examples, read_coco
from models.flow import CODE, Flow, add_neck, condition_vector, decode, drop_neck, encode
from models.ratio import losses_of, resampled

COORDINATES = st.lists(st.floats(-0.5, 0.5, width=32), min_size=34, max_size=34)


@pytest.fixture(scope="module")
def val(shared_data: Path) -> Examples:
    return read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)


@pytest.fixture(scope="module")
def network() -> Flow:
    return weights.load(Flow, "placement", "flow")


def tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch.context), torch.from_numpy(batch.present), torch.from_numpy(batch.aspect)


@settings(max_examples=50, deadline=None)
@given(COORDINATES, st.lists(st.booleans(), min_size=17, max_size=17))
def test_codec_round_trip(coordinates: list[float], known: list[bool]) -> None:
    flags = torch.tensor(known, dtype=torch.float32)[:, None]
    people = torch.cat([torch.tensor(coordinates).view(17, 2), torch.ones(17, 1)], 1) * flags
    decoded = decode(encode(people))
    assert torch.equal(decoded[:, 2], people[:, 2])
    assert (decoded - people).abs().max() < 1e-5


def test_the_neck_comes_back(val: Examples) -> None:
    people = torch.from_numpy(val.people[val.target[:50]])
    assert torch.allclose(add_neck(drop_neck(people)), people, atol=1e-6)


def test_order_and_padding_of_the_context_do_not_matter(network: Flow, val: Examples) -> None:
    full = np.flatnonzero((val.context >= 0).sum(1) >= 3)[0]
    batch = val.batch(np.array([full]))
    context, present, aspect = tensors(batch)
    noise, kind = torch.randn(1, 4, CODE), condition_vector(torch.full((1, 4), FULL))
    order = torch.randperm(context.shape[1])
    padded = torch.cat([context[:, order], torch.zeros_like(context)], 1)
    padded_present = torch.cat([present[:, order], torch.zeros_like(present)], 1)
    a = network.sample(context, present, aspect, noise, kind)
    b = network.sample(padded, padded_present, aspect, noise, kind)
    assert torch.allclose(a, b, atol=1e-3)
    with torch.no_grad():
        a, b = (
            network.ratio(a, context, present, aspect),
            network.ratio(a, context[:, order], present, aspect),
        )
        padded_context = torch.cat([context, torch.zeros_like(context)], 1)
        c = network.ratio(
            draws := network.sample(context, present, aspect, noise, kind), context, present, aspect
        )
        d = network.ratio(draws, padded_context, padded_present, aspect)
    assert torch.allclose(a, b, atol=1e-3)
    assert torch.allclose(c, d, atol=1e-3)


def test_a_draw_does_not_depend_on_the_others(network: Flow, val: Examples) -> None:
    batch = val.batch(np.array([0]))
    noise = torch.randn(1, 8, CODE)
    together = network.sample(*tensors(batch), noise, condition_vector(torch.full((1, 8), -1)))
    alone = network.sample(*tensors(batch), noise[:, 3:4], condition_vector(torch.full((1, 1), -1)))
    assert torch.allclose(together[:, 3:4], alone, atol=1e-4)


def test_conditions_are_obeyed(network: Flow, val: Examples) -> None:
    batch = val.batch(np.arange(0, 400, 20))
    noise = torch.randn(20, 16, CODE, generator=torch.Generator().manual_seed(0))
    body = anatomy.installed()

    def people(kind: int = FULL, **asked: torch.Tensor) -> torch.Tensor:
        condition = condition_vector(torch.full((20, 16), kind), **asked)
        return network.sample(*tensors(batch), noise, condition).flatten(0, 1)

    def complete(kind: int) -> float:
        return float((people(kind)[:, 2:14, 2] == 1).all(-1).float().mean())

    assert complete(FULL) > 0.85 > 0.3 > complete(CUT)

    feet = torch.tensor([-0.2, 0.2]).expand(20, 16, 2)

    def feet_off(drawn: torch.Tensor) -> float:
        ankles = torch.from_numpy(flow.lowest_ankle(drawn.numpy()))
        return float((ankles - feet[0, 0]).norm(dim=-1).nanmedian())

    assert feet_off(people(feet=feet)) < 0.06 < 0.3 * feet_off(people())

    def statures(drawn: torch.Tensor) -> np.ndarray:
        return np.log(body.stature(drawn.double().numpy()) / 0.3)

    asked = statures(people(stature=torch.full((20, 16), 0.3)))
    assert np.nanmedian(np.abs(asked)) < 0.4 * np.nanmedian(np.abs(statures(people())))

    for side in (-1.0, 1.0):
        drawn = people(facing=torch.full((20, 16), side)).double().numpy()
        turned = anatomy.facing(drawn, body.stature(drawn))
        assert (turned == side).mean() > 3 * (turned == -side).mean()
    for stance in (-1.0, 1.0):
        stances = body.stance(people(stance=torch.full((20, 16), stance)).double().numpy())
        assert (stances == stance).mean() > 2 * (stances == -stance).mean()


def test_people_are_chosen_by_their_ratio() -> None:
    people = torch.arange(4.0).view(1, 4, 1, 1).expand(5000, 4, 18, 3)
    weights_ = torch.tensor([0.1, 0.2, 0.3, 0.4])
    generator = torch.Generator().manual_seed(0)
    one = resampled(people, weights_.log().expand(5000, 4), 1, generator)[:, 0, 0, 0]
    assert np.allclose(np.bincount(one.long()) / 5000, weights_, atol=0.025)
    all_ = resampled(people, weights_.log().expand(5000, 4), 4, generator)[:, :, 0, 0]
    assert (all_.sort(1).values == torch.arange(4.0)).all()


def test_the_ratio_knows_real_people(network: Flow, val: Examples) -> None:
    batch = val.batch(np.arange(0, 1800, 10))
    real = torch.from_numpy(batch.target)
    elsewhere = torch.roll(real, 7, 0)
    with torch.no_grad():
        logits = network.ratio(torch.stack([real, elsewhere], 1), *tensors(batch))
    assert (logits[:, 0] > logits[:, 1]).float().mean() > 0.6


def test_knows_more_than_an_untrained_network(network: Flow, val: Examples) -> None:
    batch = val.batch(np.arange(128))
    with torch.no_grad():
        losses = [
            flow_training.loss_of(net.eval(), batch, 4, torch.Generator().manual_seed(0)).item()
            for net in (network, Flow())
        ]
    assert losses[0] < 0.4 * losses[1]


def test_training_resumed_is_training_in_one_go(val: Examples, tmp_path: Path) -> None:
    file = tmp_path / "few.npz"
    dataclasses.replace(val, target=val.target[:100], context=val.context[:100]).save(file)
    whole = flow_training.train(file, tmp_path / "whole", steps=3, batch=4, ratio_epochs=0.1)
    flow_training.train(file, tmp_path / "parts", steps=3, batch=4, minutes=0)
    state = {"whole": False}
    while not state["whole"]:  # a step or none at a time
        parts = flow_training.train(file, tmp_path / "parts", 3, 1e-4, batch=4, ratio_epochs=0.1)
        state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_the_loss_reaches_every_parameter(val: Examples) -> None:
    network = Flow(width=32, layers=2)
    for parameter in network.parameters():  # those that begin at zero hide what is behind them
        torch.nn.init.normal_(parameter, std=0.1)
    batch = val.batch(np.arange(0, 400, 20))
    loss = flow_training.loss_of(network, batch, 4, torch.Generator().manual_seed(0))
    loss = loss + losses_of(network.ratio, batch, batch.target[:, None]).mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
