# SPDX-License-Identifier: Apache-2.0
"""Stage 2: the paper's RefineNet, which cleans the five facial keypoints of a predicted skeleton (section III-B).

Five facial keypoints, taken from the nose, go through 10-128-128-128-10 with ReLU and tanh: 35,722 parameters.
What the paper leaves open follows the authors' public code for TIPS (prasunroy/tips at 80a71f6, refinenet/):
offsets are divided by 50 px of a 256-px frame that holds the person; a missing joint is 0, 0 on both sides; the best
by validation is kept. A person is brought to the frame by the stature (models/anatomy.py), which a seated or cut
person has as well.

Two ways to train it. `train_as_the_paper`: squared error, SGD at 1e-2 without momentum, batches of 128, noise of
whole pixels, uniform in -5..4, none on the nose, drawn once. It draws every face towards the usual one, exact faces
too, since to it all faces are equally noisy. `train`: noise of a size that differs from face to face, some exact,
and the distance as the loss, not its square. What the noise of a face is shows in the face itself, so this network
leaves good faces alone and cleans bad ones more. The installed weights are of the second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import anatomy, weights
from models.coco import Examples
from models.training import write_line
from shared.skeleton import FACE, MIRROR, Skeleton

Floats = NDArray[np.float64]

SPAN = 50.0
"""Pixels of the person frame that become 1."""

STATURE = 160.0
"""Pixels from neck to ankles in the 256-px person frame: from sole to crown a standing person fills nine tenths."""

MIN_STATURE = 100.0
"""Pixels in the photo; below it COCO's whole pixels are coarser than the noise."""

MIN_JOINTS = 3

NOISE, EXACT = 9.0, 0.15
"""The largest noise of `train` in pixels of the person frame, and the share of faces without any."""


class RefineNet(nn.Module):
    """Offsets of the five facial keypoints from the nose, `(B, 10)` in -1..1 (x, y interleaved), cleaned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(10, 128)
        self.linear2 = nn.Linear(128, 128)
        self.linear3 = nn.Linear(128, 128)
        self.linear4 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear1(x))
        x = F.relu(self.linear2(x))
        x = F.relu(self.linear3(x))
        return torch.tanh(self.linear4(x))


class Refiner:
    """Cleans the faces of skeletons with the installed weights.

    Args:
        name (`str`): weights in models/weights/refine.

    Raises:
        MissingWeights: not installed.
    """

    def __init__(self, name: str = "refinenet") -> None:
        self.network = weights.load(RefineNet, "refine", name)
        self._body = anatomy.installed()

    def refine(self, skeleton: Skeleton, locked: Sequence[int] = ()) -> Skeleton:
        """The skeleton with its known eyes and ears cleaned; all else, the nose too, is left as it is.

        Args:
            skeleton (`Skeleton`): a person in pixels of any frame.
            locked (sequence of `int`): joints that stay exactly as they are.

        Without a nose, or with no bone to tell the person's size by, the skeleton is returned unchanged.
        """
        person = np.concatenate([skeleton.xy, skeleton.visible[:, None]], 1)[None]
        stature = float(self._body.stature(person)[0])
        index = [joint for joint in FACE[1:] if skeleton.visible[joint] and joint not in locked]
        if not skeleton.visible[FACE[0]] or not index or not stature > 0:
            return skeleton
        offsets = faces(person, np.array([stature]))
        refined = answer(self.network, offsets)[0]
        nose = skeleton.xy[FACE[0]]
        # The nose is the origin, and whatever the network answers for it the origin stays.
        xy = nose + refined * (SPAN * stature / STATURE)
        return skeleton.with_joints(index, xy[[FACE.index(joint) for joint in index]])


def answer(network: RefineNet, offsets: Floats) -> Floats:
    """The network's faces `(N, 5, 2)` for `(N, 5, 2)` offsets."""
    with torch.inference_mode():
        return network(torch.from_numpy(offsets).float().flatten(1)).view(-1, 5, 2).double().numpy()


def faces(people: Floats, stature: Floats) -> Floats:
    """Offsets `(N, 5, 2)` from the nose in units of `SPAN` of the person frame; missing joints are zero.

    Args:
        people (`(N, 18, 3)` float): pixels and known, the nose known.
        stature (`(N,)` float): pixels.
    """
    face = people[:, list(FACE)]
    offsets = (face[..., :2] - face[:, :1, :2]) * (STATURE / SPAN / stature[:, None, None])
    return np.clip(offsets * face[..., 2:], -1.0, 1.0)


def known_faces(examples: Examples) -> tuple[Floats, NDArray[np.bool_]]:
    """Offsets `(N, 5, 2)` of the real faces that are large enough, and which joints are known `(N, 5)`."""
    people = examples.people.astype(np.float64)
    people[..., :2] *= examples.size.max(1)[:, None, None]
    face = people[:, list(FACE), 2] > 0
    stature = anatomy.installed().stature(people)
    chosen = face[:, 0] & (face.sum(1) >= MIN_JOINTS) & (stature >= MIN_STATURE)
    return faces(people[chosen], stature[chosen]), face[chosen]


def train(
    train_examples: Path, val_examples: Path, out: Path, epochs: int = 600, rate: float = 2e-3, seed: int = 0
) -> RefineNet:
    """Trains for noise of unknown size and returns the network best on the validation faces.

    Args:
        train_examples, val_examples (`Path`): what `walkon data coco` wrote.
        out (`Path`): folder for curve.jsonl.
        epochs (`int`): of batches of 1,024 faces.
        rate (`float`): of Adam at first; a cosine brings it down to zero.
        seed (`int`): of weights, order, flips and noise.
    """
    clean, known = _faces_of(train_examples)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = RefineNet()
    optimiser = torch.optim.Adam(network.parameters(), rate)
    swap = [FACE.index(MIRROR[joint]) for joint in FACE]

    def noisy(faces_: Tensor, known_: Tensor, generator: torch.Generator) -> Tensor:
        size = torch.rand(len(faces_), 1, 1, generator=generator) * NOISE
        size = size * (torch.rand(len(faces_), 1, 1, generator=generator) >= EXACT)
        noise = (torch.rand(faces_.shape, generator=generator) * 2 - 1) * size / SPAN * known_[..., None]
        noise[:, 0] = 0
        return (faces_ + noise).clamp(-1, 1)

    def distance(faces_: Tensor, known_: Tensor, inputs: Tensor) -> Tensor:
        away = (network(inputs.flatten(1)).view(-1, 5, 2) - faces_).square().sum(-1)
        return (away + 1e-8).sqrt()[:, 1:][known_[:, 1:]].mean()

    def epoch(number: int) -> None:
        order = torch.randperm(len(clean), generator=random)
        for step, index in enumerate(order.split(1024)):
            part = (number + step * 1024 / len(order)) / epochs
            optimiser.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * part))
            flip = torch.rand(len(index), 1, generator=random) < 0.5
            faces_ = clean[index]
            faces_ = torch.where(flip[..., None], faces_[:, swap] * torch.tensor([-1.0, 1.0]), faces_)
            known_ = torch.where(flip, known[index][:, swap], known[index])
            _step(optimiser, distance(faces_, known_, noisy(faces_, known_, random)))

    val_clean, val_known = _faces_of(val_examples)
    val_noisy = noisy(val_clean, val_known, torch.Generator().manual_seed(seed + 1))
    return _best(network, epochs, epoch, lambda: distance(val_clean, val_known, val_noisy).item() * SPAN, out)


def train_as_the_paper(
    train_examples: Path, val_examples: Path, out: Path, epochs: int = 100, rate: float = 1e-2, seed: int = 0
) -> RefineNet:
    """Trains as the paper and its authors' code do; returns the network best on the validation faces.

    Faces of COCO's people are smaller in the frame than DeepFashion's, their gradients too: 100 epochs are not enough
    here, see docs/placement.md.

    Args:
        train_examples, val_examples, out, seed: see `train`.
        epochs (`int`): of batches of 128 faces.
        rate (`float`): of SGD.
    """
    clean, known = _faces_of(train_examples)
    val_clean, val_known = _faces_of(val_examples)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = RefineNet()
    optimiser = torch.optim.SGD(network.parameters(), rate)

    def noisy(faces_: Tensor, known_: Tensor) -> Tensor:
        noise = torch.randint(-5, 5, faces_.shape, generator=random) / SPAN * known_[..., None]
        noise[:, 0] = 0
        return (faces_ + noise).clamp(-1, 1).flatten(1)

    inputs, val_inputs = noisy(clean, known), noisy(val_clean, val_known)
    targets, val_targets = clean.flatten(1), val_clean.flatten(1)

    def epoch(number: int) -> None:
        order = torch.randperm(len(inputs), generator=random)
        for given, wanted in zip(inputs[order].split(128), targets[order].split(128), strict=True):
            _step(optimiser, F.mse_loss(network(given), wanted))

    return _best(network, epochs, epoch, lambda: F.mse_loss(network(val_inputs), val_targets).item(), out)


def _faces_of(examples: Path) -> tuple[Tensor, Tensor]:
    clean, known = known_faces(Examples.load(examples))
    return torch.from_numpy(clean).float(), torch.from_numpy(known)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _best(
    network: RefineNet, epochs: int, epoch: Callable[[int], None], measure: Callable[[], float], out: Path
) -> RefineNet:
    """Runs the epochs, writes `out`/curve.jsonl, and gives back the network as it was when it measured best."""
    out.mkdir(parents=True, exist_ok=True)
    best, least, began = RefineNet(), math.inf, time.process_time()
    for number in range(epochs):
        epoch(number)
        with torch.no_grad():
            now = measure()
        if now < least:
            least = now
            best.load_state_dict(network.state_dict())
        write_line(out, {"epoch": number, "val": now, "seconds": time.process_time() - began})
    return best.eval()
