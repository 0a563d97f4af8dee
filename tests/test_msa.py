# SPDX-License-Identifier: Apache-2.0
"""The paper's transfer networks: sizes, codec, a step of training, import of the authors' checkpoints."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn

from models import weights
from models.msa import (
    ATTRIBUTION,
    IMPORTED,
    REDUCED,
    MsaGenerator,
    MsaTransfer,
    PatchGan,
    cut_from_white,
    encode,
    import_checkpoint,
    initialise,
    installed,
    pose_maps,
    window_of,
)
from models.msa_training import EdgeLoss, Options, Trainer, Vgg19Loss, adversarial_loss, prepare, train
from models.pairs import Stored, read_file
from models.transfer_training import Machine
from shared.errors import BadInput
from shared.skeleton import NUM_JOINTS, Skeleton

pytestmark = pytest.mark.usefixtures("one_thread")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small lose more than they gain by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def a_person(x: float = 0.0, y: float = 0.0, scale: float = 1.0) -> Skeleton:
    pose = [
        (100, 40), (100, 60), (85, 60), (80, 90), (78, 120), (115, 60), (120, 90), (122, 120), (92, 115),
        (92, 155), (92, 195), (108, 115), (108, 155), (108, 195), (97, 37), (103, 37), (93, 39), (107, 39),
    ]  # fmt: skip
    return Skeleton(np.array(pose) * scale + (x, y), np.ones(NUM_JOINTS, bool))


def write_shard(folder: Path, count: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    skeleton = a_person()
    rgba = np.zeros((count, 256, 256, 4), np.uint8)
    rgba[:, 30:205, 75:125] = (*rng.integers(0, 200, 3), 255)
    points = np.stack([skeleton.xy] * count).astype(np.float32)
    visible = np.full((count, NUM_JOINTS), 2, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / f"{seed}_0.npz",
        src=rgba,
        tgt=rgba[:, ::-1].copy(),
        ks=points,
        kt=points,
        vs=visible,
        vt=visible,
    )


# --- networks


def test_full_size_counts_names_and_shapes() -> None:
    with torch.device("meta"):
        generator, critic = MsaGenerator(), PatchGan()
    assert parameters(generator) == 90_172_928
    assert parameters(critic) == 2_768_705

    expected = []
    for branch in ("in1", "in2"):
        expected += [f"{branch}_conv1.0.weight", *(f"{branch}_conv1.1.{name}" for name in BATCH_NORM)]
    halves = [f"{branch}_down{level}" for branch in ("in1", "in2") for level in (1, 2, 3, 4)]
    for block in halves + [f"out_up{level}" for level in (1, 2, 3, 4)]:
        expected += [f"{block}.0.weight", *(f"{block}.1.{name}" for name in BATCH_NORM)]
        for convolution, norm in ((0, 1), (3, 4)):
            expected += [f"{block}.3.layers.{convolution}.weight"]
            expected += [f"{block}.3.layers.{norm}.{name}" for name in BATCH_NORM]
    for block in range(4):
        for convolution, norm in ((0, 1), (3, 4)):
            expected += [f"out_conv1.{block}.layers.{convolution}.weight"]
            expected += [f"out_conv1.{block}.layers.{norm}.{name}" for name in BATCH_NORM]
    expected += ["out_conv1.4.weight"]
    state = generator.state_dict()
    assert len(expected) == 277
    assert set(state) == set(expected)
    assert state["in1_conv1.0.weight"].shape == (64, 3, 3, 3)
    assert state["in2_conv1.0.weight"].shape == (64, 36, 3, 3)
    assert state["in2_down4.0.weight"].shape == (1024, 512, 4, 4)
    assert state["out_up1.0.weight"].shape == (1024, 512, 4, 4)
    assert state["out_up4.3.layers.0.weight"].shape == (64, 64, 3, 3)
    assert state["out_conv1.4.weight"].shape == (3, 64, 1, 1)

    expected = ["layers.0.weight", "layers.0.bias", "layers.11.weight", "layers.11.bias"]
    for convolution in (2, 5, 8):
        expected += [f"layers.{convolution}.weight", *(f"layers.{convolution + 1}.{n}" for n in BATCH_NORM)]
    assert set(critic.state_dict()) == set(expected)


def test_sizes_of_what_comes_out() -> None:
    generator, critic = MsaGenerator(ngf=4), PatchGan(ndf=4)
    picture = generator(torch.zeros(2, 3, 256, 256), torch.zeros(2, 36, 256, 256))
    assert picture.shape == (2, 3, 256, 256)
    assert picture.abs().max() <= 1
    assert critic(torch.cat([picture, picture], 1)).shape == (2, 1, 30, 30)


def test_a_logit_sees_seventy_pixels() -> None:
    critic = PatchGan(ndf=4).eval()
    pair = torch.zeros(1, 6, 256, 256, requires_grad=True)
    critic(pair)[0, 0, 15, 15].backward()
    assert pair.grad is not None
    rows = pair.grad.abs().sum((0, 1, 3)).nonzero().ravel()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_pose_gates_the_decoder_and_not_the_encoder_at_levels_above_the_lowest() -> None:
    torch.manual_seed(0)
    generator = MsaGenerator(ngf=4).eval()
    seen: dict[str, torch.Tensor] = {}
    for name in (
        "in1_down4",
        "in2_down1",
        "in2_down2",
        "in2_down3",
        "in2_down4",
        "out_up1",
        "out_up2",
        "out_up3",
    ):
        generator.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out})
        )
    for name in ("out_up1", "out_up2", "out_up3", "out_up4"):
        generator.get_submodule(name).register_forward_pre_hook(
            lambda _m, inputs, name=name: seen.update({name + "_in": inputs[0]})
        )
    with torch.no_grad():
        generator(torch.rand(1, 3, 64, 64), torch.rand(1, 36, 64, 64))
    gated = (
        ("in1_down4", "in2_down4"),
        ("out_up1", "in2_down3"),
        ("out_up2", "in2_down2"),
        ("out_up3", "in2_down1"),
    )
    for level, (feature, pose) in enumerate(gated, 1):
        assert torch.allclose(seen[f"out_up{level}_in"], seen[feature] * torch.sigmoid(seen[pose]))


def test_the_start_is_the_papers() -> None:
    torch.manual_seed(0)
    critic = PatchGan(ndf=16)
    initialise(critic)
    assert critic.layers[5].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert critic.layers[6].weight.mean().item() == pytest.approx(1.0, abs=0.02)
    assert critic.layers[0].bias.abs().max() == 0


# --- codec


def test_pose_maps_hold_one_pixel_per_visible_joint_in_the_frame() -> None:
    xy = np.full((NUM_JOINTS, 2), 10.0)
    xy[0], xy[1], xy[2], xy[3] = (0, 0), (255.999, 128.5), (256, 5), (-0.001, 5)
    visible = np.ones(NUM_JOINTS, bool)
    visible[5:] = False
    maps = pose_maps(xy, visible)
    assert maps.shape == (NUM_JOINTS, 256, 256)
    assert maps.sum((1, 2)).tolist() == [1, 1, 0, 0, 1] + [0] * 13
    assert maps[0, 0, 0] == maps[1, 128, 255] == maps[4, 10, 10] == 1


@given(st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_window_holds_the_person_in_the_middle_columns(
    scale: float, x: float, y: float, wide: float
) -> None:
    skeleton = a_person(scale=scale)
    skeleton = Skeleton(skeleton.xy * (wide, 1) + (x, y), skeleton.visible)
    window = window_of(skeleton)
    inside = (skeleton.xy - (window.x, window.y)) / window.size
    assert (inside[:, 1] > 0).all()
    assert (inside[:, 1] < 1).all()
    assert (inside[:, 0] >= 40 / 256 - 1e-6).all()
    assert (inside[:, 0] <= 216 / 256 + 1e-6).all()


def test_encoded_person_is_on_white_and_its_joints_lie_on_it() -> None:
    person = np.zeros((300, 300, 4), np.float32)
    skeleton = a_person(40, 50)
    for x, y in skeleton.xy.astype(int):
        person[y - 4 : y + 5, x - 4 : x + 5] = (1, 0, 0, 1)
    image, maps = encode(person, skeleton)
    assert image.shape == (3, 256, 256)
    assert image.min() >= -1
    assert (image[:, :, :40] == 1).all()
    assert (image[:, :, 216:] == 1).all()
    assert maps.sum() == NUM_JOINTS
    rows, columns = np.nonzero(maps.any(0))
    assert (image[0, rows, columns] > 0.99).all()
    assert (image[1, rows, columns] < -0.99).all()


def test_cutting_from_white_undoes_painting_on_white() -> None:
    rgba = np.zeros((256, 256, 4), np.float32)
    rgba[40:220, 90:170] = (0.2, 0.4, 0.6, 1)
    rgba[80:120, 110:150] = 1  # a white shirt
    rgba[40:60, 60:64] = (0.1, 0.1, 0.1, 1)  # a stray patch
    rgba[100:110, 20:90] = (0.2, 0.4, 0.6, 1)  # reaches the outer columns
    cut = cut_from_white(rgba[..., :3] + 1 - rgba[..., 3:])
    rgba[40:60, 60:64] = 0
    rgba[:, :40] = 0
    assert np.abs(cut - rgba).max() < 1e-5
    assert (cut_from_white(np.ones((256, 256, 3), np.float32)) == 0).all()


# --- losses and training


def test_adversarial_losses() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    assert adversarial_loss(logits, True, "lsgan").item() == pytest.approx((1 + 1) / 2)
    assert adversarial_loss(logits, False, "lsgan").item() == pytest.approx((0 + 4) / 2)
    assert adversarial_loss(logits, True, "bce").item() == pytest.approx(
        (np.log(2) + np.log1p(np.exp(-2))) / 2
    )


def test_edge_loss_is_zero_for_equal_and_blind_to_a_constant() -> None:
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = EdgeLoss()
    assert loss(picture, picture).item() == 0
    assert loss(picture + 0.25, picture).item() == pytest.approx(0, abs=1e-6)
    assert loss(picture, picture.flip(3)).item() > 0.1


def test_vgg_loss_reads_torchvisions_file_and_names_what_is_missing(tmp_path: Path) -> None:
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128)}
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()
    for layer, (outputs, inputs) in shapes.items():
        state[f"features.{layer}.weight"] = 0.05 * torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{layer}.bias"] = torch.zeros(outputs)
    torch.save(state, tmp_path / "vgg19.pth")
    loss = Vgg19Loss(tmp_path / "vgg19.pth")
    assert not any(p.requires_grad for p in loss.parameters())
    picture = torch.rand(1, 3, 32, 32, generator=generator)
    assert loss(picture, picture).item() == 0
    other = picture.flip(3).requires_grad_()
    loss(other, picture).backward()
    assert other.grad is not None
    assert other.grad.abs().sum() > 0
    del state["features.5.weight"]
    torch.save(state, tmp_path / "vgg19.pth")
    with pytest.raises(BadInput, match=r"vgg19.pth: lacks the tensor features.5.weight"):
        Vgg19Loss(tmp_path / "vgg19.pth")


@pytest.mark.parametrize("kind", ["lsgan", "bce"])
def test_a_step_changes_both_networks_and_losses_are_finite(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    write_shard(tmp_path, 1)
    batch = prepare(read_file(tmp_path / "0_0.npz"))
    assert batch.source.shape == batch.target.shape == (1, 3, 256, 256)
    assert batch.poses.shape == (1, 36, 256, 256)
    generator, critic = MsaGenerator(ngf=4), PatchGan(ndf=4)
    before = [{k: v.clone() for k, v in network.named_parameters()} for network in (generator, critic)]
    fabric = Fabric(accelerator="cpu", devices=1)
    losses = Trainer(fabric, generator, critic, EdgeLoss(), kind).step(batch)  # type: ignore[arg-type]
    assert set(losses) == {"l1", "fooled", "perceptual", "critic"}
    assert np.isfinite(list(losses.values())).all()
    for network, old in zip((generator, critic), before, strict=True):
        assert all(not torch.equal(value, old[key]) for key, value in network.named_parameters())


def test_training_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write_shard(tmp_path / "pairs" / "train", 2)
    options = Options(Stored(tmp_path / "pairs"), tmp_path / "run", 1, batch=1, ngf=4)
    train(options)
    train(replace(options, steps=5, machine=Machine(precision="bf16-mixed")))
    curve = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    first, last = (json.loads(line) for line in curve)
    assert (first["step"], last["step"]) == (1, 5)
    assert last["l1"] < first["l1"]
    assert last["seconds"] > first["seconds"]
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 5
    assert saved["trainer"]["generator_optimiser"]["state"][0]["step"] == 5
    assert json.loads((tmp_path / "run" / "weights" / "config.json").read_text())["ngf"] == 4
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.mark.timeout(180)
def test_two_processes_hold_the_same_networks(tmp_path: Path) -> None:
    for seed in range(2):
        write_shard(tmp_path / "pairs" / "train", 1, seed)
    options = Options(
        Stored(tmp_path / "pairs"), tmp_path / "run", 3, batch=1, ngf=4, machine=Machine(devices=2)
    )
    train(options)
    two = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert two["step"] == 3
    train(replace(options, out=tmp_path / "alone", machine=Machine()))
    one = torch.load(tmp_path / "alone" / "checkpoint.pt", weights_only=True)
    key = "in1_conv1.0.weight"
    # Two processes average the gradients of two pairs, which differ in the third step; one goes by its own.
    assert not torch.equal(two["trainer"]["generator"][key], one["trainer"]["generator"][key])
    assert len((tmp_path / "run" / "curve.jsonl").read_text().splitlines()) == 1


# --- import and use


def authors_checkpoint(path: Path) -> OrderedDict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = OrderedDict((key, value.clone()) for key, value in MsaGenerator(ngf=4).state_dict().items())
    torch.save(state, path)
    return state


def test_import_keeps_every_value_and_says_whose_they_are(tmp_path: Path) -> None:
    state = authors_checkpoint(tmp_path / "netG_260500.pth")
    folder = import_checkpoint(tmp_path / "netG_260500.pth", tmp_path / "transfer" / "msa", ngf=4)
    from safetensors.torch import load_file

    installed = load_file(folder / "model.safetensors")
    assert set(installed) == set(state)
    assert all(torch.equal(installed[key], value) for key, value in state.items())
    card = (folder / "card.md").read_text()
    assert "CC BY 4.0" in card
    assert "netG_260500.pth" in card
    assert ATTRIBUTION in card
    again = import_checkpoint(tmp_path / "netG_260500.pth", tmp_path / "transfer" / "msa", ngf=4)
    assert sorted(file.name for file in again.iterdir()) == ["card.md", "config.json", "model.safetensors"]
    assert [entry.name for entry in again.parent.iterdir()] == ["msa"]


def test_import_names_the_first_tensor_that_does_not_fit(tmp_path: Path) -> None:
    path, folder = tmp_path / "netG.pth", tmp_path / "out" / "msa"

    def refused(state: object, message: str) -> None:
        torch.save(state, path)
        with pytest.raises(BadInput, match=message):
            import_checkpoint(path, folder, ngf=4)
        assert not folder.exists()

    state = authors_checkpoint(path)
    refused(OrderedDict((k, v) for k, v in state.items() if k != "in2_down3.3.layers.0.weight"),
            r"netG.pth: lacks the tensor in2_down3.3.layers.0.weight")  # fmt: skip
    refused(state | {"extra.weight": torch.zeros(1)}, r"has an extra tensor extra.weight")
    refused(state | {"out_conv1.4.weight": torch.zeros(3, 4, 3, 3)},
            r"out_conv1.4.weight has the shape \(3, 4, 3, 3\), not \(3, 4, 1, 1\)")  # fmt: skip
    refused(
        state | {"out_up2.0.weight": state["out_up2.0.weight"].half()}, r"out_up2.0.weight is torch.float16"
    )
    refused(state | {"out_up2.0.weight": state["out_up2.0.weight"] / 0}, r"out_up2.0.weight holds values")
    refused(OrderedDict(("module." + k, v) for k, v in state.items()), "lacks the tensor in1_conv1.0.weight")
    refused(PatchGan(ndf=4).state_dict(), "lacks the tensor in1_conv1.0.weight")
    refused(torch.zeros(3), "holds a Tensor, not named tensors")
    refused({"iteration": 5}, "iteration is a int, not a tensor")
    refused(MsaGenerator(ngf=4), "is not a PyTorch file of plain tensors")  # a pickled object is never run


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_import_refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "netG.pth").write_bytes(content)
    with pytest.raises(BadInput, match=r"netG.pth: is not a PyTorch file of plain tensors"):
        import_checkpoint(tmp_path / "netG.pth", tmp_path / "msa")
    with pytest.raises(BadInput, match=r"none.pth: cannot be read \(No such file"):
        import_checkpoint(tmp_path / "none.pth", tmp_path / "msa")


def test_transfer_with_imported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "ROOT", tmp_path)
    assert installed() == REDUCED
    authors_checkpoint(tmp_path / "netG.pth")
    import_checkpoint(tmp_path / "netG.pth", ngf=4)
    assert installed() == IMPORTED
    transfer = MsaTransfer()
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)
    matte = np.zeros((300, 200), np.float32)
    matte[60:260, 90:190] = 1
    target = a_person(-80, 300, 2.5)
    person = transfer.transfer(photo, matte, a_person(40, 50), target)
    window = window_of(target)
    assert (person.x, person.y) == (window.x, window.y)
    assert person.rgba.shape == (window.size, window.size, 4)
    assert person.rgba.dtype == np.float32
    assert (person.rgba >= 0).all()
    assert (person.rgba[..., :3] <= person.rgba[..., 3:]).all()
    assert person.rgba[..., 3].max() > 0.5
    again = transfer.transfer(photo, matte, a_person(40, 50), target)
    assert np.array_equal(person.rgba, again.rgba)
