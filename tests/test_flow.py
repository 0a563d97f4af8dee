# SPDX-License-Identifier: Apache-2.0
"""The flow over keypoint vectors: codec, sets, conditions, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import flow, weights
from models.coco import CUT, FULL, Batch, Examples, read_coco
from models.flow import CODE, Flow, add_neck, decode, drop_neck, encode

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
    noise, kind = torch.randn(1, 4, CODE), torch.full((1, 4), FULL)
    order = torch.randperm(context.shape[1])
    padded = torch.cat([context[:, order], torch.zeros_like(context)], 1)
    padded_present = torch.cat([present[:, order], torch.zeros_like(present)], 1)
    a = network.sample(context, present, aspect, noise, kind)
    b = network.sample(padded, padded_present, aspect, noise, kind)
    assert torch.allclose(a, b, atol=1e-3)


def test_a_draw_does_not_depend_on_the_others(network: Flow, val: Examples) -> None:
    batch = val.batch(np.array([0]))
    noise = torch.randn(1, 8, CODE)
    together = network.sample(*tensors(batch), noise, torch.full((1, 8), -1))
    alone = network.sample(*tensors(batch), noise[:, 3:4], torch.full((1, 1), -1))
    assert torch.allclose(together[:, 3:4], alone, atol=1e-4)


def test_conditions_are_obeyed(network: Flow, val: Examples) -> None:
    batch = val.batch(np.arange(0, 400, 20))
    noise = torch.randn(20, 16, CODE, generator=torch.Generator().manual_seed(0))

    def complete(kind: int) -> float:
        people = network.sample(*tensors(batch), noise, torch.full((20, 16), kind))
        return float((people[..., 2:14, 2] == 1).all(-1).float().mean())

    assert complete(FULL) > 0.85 > 0.3 > complete(CUT)

    feet = torch.tensor([-0.2, 0.2]).expand(20, 16, 2)

    def feet_off(asked: torch.Tensor | None) -> float:
        people = network.sample(*tensors(batch), noise, torch.full((20, 16), FULL), asked)
        ankles = torch.from_numpy(flow.lowest_ankle(people.flatten(0, 1).numpy())).view(20, 16, 2)
        return float((ankles - feet).norm(dim=-1).nanmedian())

    assert feet_off(feet) < 0.12 < 0.5 * feet_off(None)


def test_knows_more_than_an_untrained_network(network: Flow, val: Examples) -> None:
    batch = val.batch(np.arange(128))
    with torch.no_grad():
        losses = [
            flow.loss_of(net.eval(), batch, 4, torch.Generator().manual_seed(0)).item()
            for net in (network, Flow())
        ]
    assert losses[0] < 0.4 * losses[1]


def test_training_resumed_is_training_in_one_go(val: Examples, tmp_path: Path) -> None:
    val.save(tmp_path / "val.npz")
    whole = flow.train(tmp_path / "val.npz", tmp_path / "whole", steps=3, batch=4)
    flow.train(tmp_path / "val.npz", tmp_path / "parts", steps=3, batch=4, minutes=0)
    for _ in range(3):
        parts = flow.train(tmp_path / "val.npz", tmp_path / "parts", steps=3, batch=4, minutes=1e-4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
