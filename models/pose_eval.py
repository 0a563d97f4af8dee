# SPDX-License-Identifier: Apache-2.0
"""How well people are found: COCO's average precision on photos whose true keypoints are known."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.images import load_picture
from models.pose import COCO_SIGMAS, PoseEstimator
from shared.skeleton import Skeleton

CLEAR_KEYPOINTS = 8
CLEAR_AREA = 64.0**2
"""A person is clear with at least so many labelled keypoints and a larger area (square pixels) than this."""
_AREA_OF_BOX = 0.53
"""A person's area over that of the box, on average in COCO; the keypoint files carry no segments."""


@dataclass(frozen=True)
class PoseScores:
    """Average precision of detection.

    Args:
        clear (`float`): AP (OKS 0.50 to 0.95) over clear people; the others are neither asked for nor punished.
        clear50 (`float`): the same at OKS 0.50.
        recall50 (`float`): the share of clear people found at OKS 0.50.
        everyone (`float`): AP over all people with a labelled keypoint.
        photos, people (`int`): photos looked at and clear people in them.
        seconds (`float`): median time of a photo.
    """

    clear: float
    clear50: float
    recall50: float
    everyone: float
    photos: int
    people: int
    seconds: float


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo with COCO's labels.

    Args:
        path (`Path`): the picture.
        image_id (`int`): COCO's number of it.
        xy (`(N, 17, 2)` float): keypoints in pixels.
        visibility (`(N, 17)` uint8): 0 not labelled, 1 hidden, 2 visible.
        boxes (`(N, 4)` float): x, y, width, height.
    """

    path: Path
    image_id: int
    xy: NDArray[np.float64]
    visibility: NDArray[np.uint8]
    boxes: NDArray[np.float64]

    @property
    def areas(self) -> NDArray[np.float64]:
        return _AREA_OF_BOX * self.boxes[:, 2] * self.boxes[:, 3]

    @property
    def clear(self) -> NDArray[np.bool_]:
        return ((self.visibility > 0).sum(1) >= CLEAR_KEYPOINTS) & (self.areas > CLEAR_AREA)


def labelled_photos(photos: Path, annotations: Path) -> list[LabelledPhoto]:
    """The pictures of a folder whose names end in a COCO number with known keypoints.

    Args:
        photos (`Path`): a folder of .jpg files.
        annotations (`Path`): COCO's person keypoints as .npz (xy, vis, bbox_cxcywh, count, image_id).
    """
    labels = np.load(annotations)
    ends = np.cumsum(labels["count"])
    index = {int(image_id): i for i, image_id in enumerate(labels["image_id"])}
    result = []
    for path in sorted(photos.glob("*.jpg")):
        number = re.search(r"(\d{12})$", path.stem)
        if number is None or int(number[1]) not in index:
            continue
        i = index[int(number[1])]
        rows = slice(int(ends[i] - labels["count"][i]), int(ends[i]))
        boxes = labels["bbox_cxcywh"][rows].astype(np.float64)
        boxes[:, :2] -= boxes[:, 2:] / 2
        xy = labels["xy"][rows] + 0.5  # COCO names whole pixels; ours is the middle of them.
        result.append(LabelledPhoto(path, int(number[1]), xy, labels["vis"][rows], boxes))
    return result


def evaluate(photos: Path, annotations: Path, estimator: PoseEstimator | None = None) -> PoseScores:
    """Scores of detection on labelled photos.

    Args:
        photos, annotations (`Path`): see `labelled_photos`.
        estimator (`PoseEstimator`, *optional*): what to measure; by default a new one.
    """
    estimator = estimator or PoseEstimator()
    labelled = labelled_photos(photos, annotations)
    found, seconds = [], []
    for photo in labelled:
        rgb = load_picture(photo.path).rgb
        start = time.perf_counter()
        found.append(estimator.detect(rgb))
        seconds.append(time.perf_counter() - start)
    clear = average_precision(labelled, found, only_clear=True)
    everyone = average_precision(labelled, found, only_clear=False)
    people = sum(int(photo.clear.sum()) for photo in labelled)
    return PoseScores(*clear, everyone[0], len(labelled), people, float(np.median(seconds)))


def average_precision(
    labelled: Sequence[LabelledPhoto], found: Sequence[Sequence[Skeleton]], only_clear: bool
) -> tuple[float, float, float]:
    """AP at OKS 0.50 to 0.95, AP at 0.50 and recall at 0.50, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    for photo in labelled:
        for person in range(len(photo.xy)):
            joints = np.column_stack([photo.xy[person], photo.visibility[person]])
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": photo.image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "keypoints": joints.ravel().tolist(),
                    # pycocotools leaves out people without keypoints, and overwrites any "ignore" of ours.
                    "num_keypoints": 0
                    if only_clear and not photo.clear[person]
                    else int((joints[:, 2] > 0).sum()),
                    "bbox": photo.boxes[person].tolist(),
                    "area": float(photo.areas[person]),
                }
            )
    results = [
        {
            "image_id": photo.image_id,
            "category_id": 1,
            "keypoints": _coco_keypoints(skeleton),
            "score": person_score(skeleton),
        }
        for photo, people in zip(labelled, found, strict=True)
        for skeleton in people
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress.
        coco = COCO()
        coco.dataset = {
            "images": [{"id": photo.image_id} for photo in labelled],
            "annotations": truth,
            "categories": [{"id": 1, "name": "person"}],
        }
        coco.createIndex()
        if not results:
            return 0.0, 0.0, 0.0
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = COCO_SIGMAS
        # As for COCO's own size classes: unmatched people smaller than the asked-for ones are not counted.
        evaluation.params.areaRng = [[CLEAR_AREA if only_clear else 0.0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (
        evaluation.eval["precision"],
        evaluation.eval["recall"],
    )  # (T, R, K, A, M), (T, K, A, M)
    return (
        float(precision[:, :, 0, 0, 0].mean()),
        float(precision[0, :, 0, 0, 0].mean()),
        float(recall[0, 0, 0, 0]),
    )


def person_score(skeleton: Skeleton) -> float:
    """Confidence in a person: the mean score of the best 8 joints."""
    return float(np.sort(skeleton.to_coco()[2])[-8:].mean())


def _coco_keypoints(skeleton: Skeleton) -> list[float]:
    """COCO wants every keypoint; where one is not seen, the middle of the person is the least wrong guess."""
    xy, visible, _ = skeleton.to_coco()
    xy = np.where(visible[:, None], xy, xy[visible].mean(0))
    return np.column_stack([xy, np.ones(17)]).ravel().tolist()
