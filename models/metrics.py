# SPDX-License-Identifier: Apache-2.0
"""Numbers that more than one stage is judged by, as the field defines them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.skeleton import FACE, NECK, Skeleton

from .pose import onnx_session
from .weights import path_of

if TYPE_CHECKING:
    import onnxruntime


def pckh(truth: Skeleton, found: Skeleton | None) -> tuple[int, int]:
    """PCKh of one person, as counts: joints found again, joints looked for.

    The head box surrounds the visible ones among nose, neck, eyes and ears; a joint counts as found where it
    lies within half the box's width in x and half its height in y (not a Euclidean distance). From the authors'
    metrics/pckh.py and PATN's tool/calPCKH_fashion.py, which agree. Sum both counts over people and divide.

    Args:
        truth (`Skeleton`): the pose wanted; its visible joints are looked for.
        found (`Skeleton`, *optional*): what the pose estimator sees; None where it sees nobody: all joints miss.

    Returns:
        `(correct, total)`; `(0, 0)` where truth has fewer than two joints of the head box.
    """
    head = [j for j in (NECK, *FACE) if truth.visible[j]]
    if len(head) < 2:
        return 0, 0
    half = np.ptp(truth.xy[head], axis=0) / 2
    total = int(truth.visible.sum())
    if found is None:
        return 0, total
    near: NDArray[np.bool_] = (np.abs(truth.xy - found.xy) < half).all(axis=1)
    return int((near & truth.visible & found.visible).sum()), total


def ssim_map(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    window: NDArray[np.float64],
    sample: bool = False,
) -> NDArray[np.float64]:
    """Structural similarity at every pixel (Wang et al. 2004, constants 0.01 and 0.03, data range 1).

    Args:
        first, second (`(H, W, C)` floating point): 0..1.
        window (`(n,)` float64): the window's weights along one side, which sum to 1.
        sample (`bool`): variances with the sample's n - 1, as scikit-image has them by default.

    Returns:
        `(H, W, C)` float64; within half a window of the border it means little.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)

    def mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.sepFilter2D(x, -1, window, window, borderType=cv2.BORDER_REFLECT))

    count = len(window) ** 2
    correction = count / (count - 1) if sample else 1.0
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = correction * (mean(a * a) - mean_a**2), correction * (mean(b * b) - mean_b**2)
    both = correction * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_a * mean_b + c1) * (2 * both + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )


def gaussian_window() -> NDArray[np.float64]:
    """The 11 weights, sigma 1.5, of Wang et al. and PATN."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    return np.asarray(weights / weights.sum(), np.float64)


def ssim_of_pictures(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """SSIM of two whole pictures `(H, W, 3)` as the authors' metrics/ssim.py has it: scikit-image's defaults.

    A uniform window of 7 pixels, the sample's covariance, the mean over all pixels further than 3 from the border
    and over the channels.
    """
    window = np.full(7, 1 / 7)
    similar = ssim_map(first / np.float32(255), second / np.float32(255), window, sample=True)
    return float(similar[3:-3, 3:-3].mean())


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Frechet distance of two sets of features `(N, D)`, `(M, D)`, each taken for a normal distribution.

    Heusel et al. 2017; the trace of the root by the eigenvalues of a symmetric matrix of the same spectrum. It
    shrinks with fewer samples: compare only numbers of equally many.
    """
    mean_a, mean_b = first.mean(0), second.mean(0)
    cov_a, cov_b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    trace = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace)


def inception_score(probabilities: NDArray[np.float64], splits: int = 1) -> float:
    """exp of the mean divergence of each picture's classes `(N, K)` from their mean (Salimans et al. 2016).

    The authors take one split, PATN ten; the mean over the splits.
    """
    scores = []
    for part in np.array_split(np.clip(probabilities, 1e-12, None), splits):
        divergence = (part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


class PersonFeatures:
    """Features of a picture of one person, for the Frechet distance, from a network that Walk-On has.

    MoveNet thunder, the sum after its twelfth block, averaged over the picture: 168 numbers. Not Inception: figures
    are comparable among themselves only.
    """

    NAME = "MoveNet thunder, block 12, 168 channels"
    _TENSOR = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/model/block_12_add/add:0"

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnx

        model = onnx.load(str(path_of("pose", "movenet-thunder") / "model.onnx"))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._TENSOR))
        return onnx_session(model.SerializeToString(), self.threads)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        """`(168,)` of a picture `(H, W, 3)`."""
        small = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_AREA)
        (features,) = self._session.run([self._TENSOR], {"input:0": small[None].astype(np.int32)})
        return np.asarray(np.asarray(features)[0].mean((1, 2)), np.float64)


class Measure:
    """A network that others provide as an ONNX file, such as LPIPS; docs/transfer.md says how to export it.

    Args:
        path (`Path`): the file.
        inputs (`int`): how many it must take.

    Raises:
        BadInput: unreadable, or of another kind.
    """

    def __init__(self, path: Path, inputs: int = 1, threads: int = 2) -> None:
        try:
            self._session = onnx_session(str(path), threads)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"{path}: cannot be read as ONNX ({reason})", "Export it as docs/transfer.md says", str(path)
            ) from error
        self._names = [value.name for value in self._session.get_inputs()]
        if len(self._names) != inputs:
            raise BadInput(
                f"{path}: takes {len(self._names)} inputs, not {inputs}",
                "Export it as docs/transfer.md says",
                str(path),
            )

    def __call__(self, *batches: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs for `(B, 3, H, W)` float32 inputs."""
        values = [np.ascontiguousarray(batch, np.float32) for batch in batches]
        return [
            np.asarray(output, np.float32)
            for output in self._session.run(None, dict(zip(self._names, values, strict=True)))
        ]


def lpips(measure: Measure, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """LPIPS of two pictures `(H, W, 3)`, whose network takes -1..1."""
    a, b = ((picture.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None] for picture in (first, second))
    return float(measure(a, b)[0].mean())
