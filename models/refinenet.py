# SPDX-License-Identifier: Apache-2.0
"""Stage 2: the paper's RefineNet, which cleans the five facial keypoints of a predicted skeleton (section III-B).

Five facial keypoints, taken from the nose, go through 10-128-128-128-10 with ReLU and tanh: 35,722 parameters.
What the paper leaves open follows the authors' public code for TIPS (prasunroy/tips at 80a71f6, refinenet/):
offsets are divided by 50 px of a 256-px frame that holds the person; a missing joint is 0, 0 on both sides; noise is
whole pixels, uniform in -5..4, none on the nose; the best by validation is kept. Chosen here: the noise is drawn
anew in each epoch, a person is brought to the frame by the stature (models/anatomy.py), which a seated or cut
person has as well, and Adam instead of the paper's SGD at 1e-2: faces of COCO's people are smaller than DeepFashion's
in that frame, their gradients too, and after 100 epochs of SGD every face would still be the mean face.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import anatomy, weights
from models.coco import Examples
from shared.skeleton import FACE, MIRROR, Skeleton

Floats = NDArray[np.float64]

SPAN = 50.0
"""Pixels of the person frame that become 1."""

STATURE = 160.0
"""Pixels from neck to ankles in the 256-px person frame: from sole to crown a standing person fills nine tenths."""

MIN_STATURE = 100.0
"""Pixels; below it COCO's whole-pixel faces are coarser than the noise."""

MIN_JOINTS = 3

OWN_ERROR = 1.7
"""Pixels of the person frame by which the installed network is wrong about exact faces (its card)."""


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

    def refine(self, skeleton: Skeleton) -> Skeleton:
        """The skeleton with its known eyes and ears cleaned; all else, the nose too, is left as it is.

        The network draws every face towards the usual one, exact faces as well. So a correction that is no larger
        than its own error is dropped, and larger ones are shortened (see `guarded`).

        Without a nose, or with no bone to tell the person's size by, the skeleton is returned unchanged.
        """
        person = np.concatenate([skeleton.xy, skeleton.visible[:, None]], 1)[None]
        stature = float(self._body.stature(person)[0])
        index = [joint for joint in FACE[1:] if skeleton.visible[joint]]
        if not skeleton.visible[FACE[0]] or not index or not stature > 0:
            return skeleton
        offsets = faces(person, np.array([stature]))
        refined = guarded(offsets, answer(self.network, offsets))[0]
        nose = skeleton.xy[FACE[0]]
        # The nose is the origin, and whatever the network answers for it the origin stays.
        xy = nose + refined * (SPAN * stature / STATURE)
        return skeleton.with_joints(index, xy[[FACE.index(joint) for joint in index]])


def answer(network: RefineNet, offsets: Floats) -> Floats:
    """The network's faces `(N, 5, 2)` for `(N, 5, 2)` offsets."""
    with torch.inference_mode():
        return network(torch.from_numpy(offsets).float().flatten(1)).view(-1, 5, 2).double().numpy()


def guarded(offsets: Floats, refined: Floats) -> Floats:
    """Corrections from `offsets` to `refined`, both `(N, 5, 2)`, as far as they exceed the network's own error.

    Of a correction of length d the part 1 - (error / d)^2 is kept, none below the error (the positive part of
    James and Stein's estimator).
    """
    way = refined - offsets
    length = np.linalg.norm(way, axis=-1, keepdims=True) * SPAN
    return offsets + way * np.clip(1 - (OWN_ERROR / np.maximum(length, 1e-9)) ** 2, 0.0, 1.0)


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


def evaluate(network: RefineNet, examples: Examples, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean error of eyes and ears in pixels of the person frame: before, by the network alone, and guarded.

    The jitter is whole pixels as in training, uniform in -size..size; `"0"` are exact faces.
    """
    clean, known = known_faces(examples)
    rng = np.random.default_rng(seed)
    counted = known.copy()
    counted[:, 0] = False
    out = {}
    for size in (0, 1, 2, 3, 5, 8):
        noise = rng.integers(-size, size + 1, clean.shape) * known[..., None] / SPAN
        noise[:, 0] = 0
        jittered = np.clip(clean + noise, -1, 1)
        refined = answer(network, jittered)
        errors = {"before": jittered, "network": refined, "guarded": guarded(jittered, refined)}
        out[str(size)] = {
            name: round(float(np.linalg.norm(x - clean, axis=-1)[counted].mean() * SPAN), 2)
            for name, x in errors.items()
        }
    return out


def train(
    train_examples: Path, val_examples: Path, out: Path, epochs: int = 40, rate: float = 2e-3, seed: int = 0
) -> RefineNet:
    """Trains and returns the network that was best on the validation faces; writes `out`/curve.jsonl.

    Args:
        train_examples, val_examples (`Path`): what `walkon data coco` wrote.
        out (`Path`): folder for the curve.
        epochs (`int`): of batches of 512 faces.
        rate (`float`): of Adam at first; a cosine brings it down to zero.
        seed (`int`): of weights, order, flips and noise.
    """
    clean, known = known_faces(Examples.load(train_examples))
    val_clean, val_known = known_faces(Examples.load(val_examples))
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network, best = RefineNet(), RefineNet()
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    rng = np.random.default_rng(seed)
    swap = [FACE.index(MIRROR[joint]) for joint in FACE]

    def noisy(faces_: Floats, known_: NDArray[np.bool_], generator: np.random.Generator) -> Tensor:
        noise = generator.integers(-5, 5, faces_.shape) * known_[..., None] / SPAN
        noise[:, 0] = 0
        return torch.from_numpy(np.clip(faces_ + noise, -1, 1)).float().flatten(1)

    val_in = noisy(val_clean, val_known, np.random.default_rng(seed + 1))
    val_out = torch.from_numpy(val_clean).float().flatten(1)
    least, began = np.inf, time.monotonic()
    for epoch in range(epochs):
        order = rng.permutation(len(clean))
        flip = rng.random(len(clean)) < 0.5
        target, target_known = clean[order].copy(), known[order].copy()
        target[flip] = target[flip][:, swap] * (-1, 1)
        target_known[flip] = target_known[flip][:, swap]
        inputs, outputs = noisy(target, target_known, rng), torch.from_numpy(target).float().flatten(1)
        for first in range(0, len(order), 512):
            loss = F.mse_loss(network(inputs[first : first + 512]), outputs[first : first + 512])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        with torch.no_grad():
            val_loss = F.mse_loss(network(val_in), val_out).item()
        if val_loss < least:
            least = val_loss
            best.load_state_dict(network.state_dict())
        line = {"epoch": epoch, "val": val_loss, "seconds": time.monotonic() - began}
        with (out / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(line) + "\n")
    return best.eval()
