# SPDX-License-Identifier: Apache-2.0
"""Who would be hidden behind a man who fills the foreground, or behind bystanders."""

from pathlib import Path

import numpy as np
import pytest

from models.anatomy import installed
from models.images import load_picture
from models.judgement import Figures, figures, joined
from models.matte import MatteEstimator
from models.pose import PoseEstimator
from models.sight import Sight
from server.poses import upright


def at(x: float, y: float, height: float) -> Figures:
    person = upright((x, y), height)
    return figures(np.c_[person.xy, person.visible][None], installed())


def test_who_stands_behind_a_cut_off_man_is_hidden(shared_data: Path) -> None:
    rgb = load_picture(shared_data / "photos" / "op_COCO_val2014_000000000395.jpg").rgb
    people = PoseEstimator().detect(rgb)
    sight = Sight(rgb, people, MatteEstimator())
    behind, beside, before = at(250, 330, 170), at(60, 320, 200), at(300, 250, 2500)
    hidden, free, front = sight.belief(joined([behind, beside, before]))
    assert hidden < 0.2
    assert free == pytest.approx(1.0, abs=0.05)
    assert front == 1.0


def test_bystanders_hide_who_stands_behind_them(shared_data: Path) -> None:
    rgb = load_picture(shared_data / "photos" / "op_COCO_val2014_000000000395.jpg").rgb
    bystander = min(
        (p for p in PoseEstimator().detect(rgb) if p.visible.sum() >= 15), key=lambda person: person.box[0]
    )
    middle, top, height = bystander.xy[:, 0].mean(), bystander.box[1], bystander.box[3] - bystander.box[1]
    behind, before = at(middle, top, 0.9 * height), at(middle, top, 1.2 * height)
    sight = Sight(rgb, [bystander], MatteEstimator())
    hidden, front = sight.belief(joined([behind, before]))
    assert hidden < 0.2
    assert front == 1.0
