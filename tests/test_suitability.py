# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from models.suitability import suitability
from server.pipeline import _upright
from shared.skeleton import FACE, L_ANKLE, L_KNEE, R_ANKLE, R_KNEE, Skeleton

SIZE = (1000, 1000)


@pytest.fixture
def standing() -> Skeleton:
    return _upright((500.0, 100.0), 600.0)


def test_its_own_view_is_perfect_at_any_size(standing: Skeleton) -> None:
    assert suitability(standing, standing, SIZE) == pytest.approx(1.0)
    assert suitability(standing.transformed(0.3, (5, 9)), standing, SIZE) == pytest.approx(1.0)


def test_turning_round_foreshortening_and_missing_parts_lower_it(standing: Skeleton) -> None:
    behind = Skeleton(
        standing.mirrored(1000).xy[[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]],
        [i not in FACE for i in range(18)],
    )
    assert suitability(standing, behind, SIZE) < 0.3
    knees = standing.xy[[R_KNEE, L_KNEE]] - (0, 120)
    seated = standing.with_joints([R_KNEE, L_KNEE], knees).with_joints([R_ANKLE, L_ANKLE], knees + (0, 160))
    assert suitability(seated, standing, SIZE) < suitability(standing, seated, SIZE) < 1.0
    half = Skeleton(standing.xy, [i not in (R_KNEE, L_KNEE, R_ANKLE, L_ANKLE) for i in range(18)])
    assert suitability(half, standing, SIZE) < 0.5
    # Cut by the frame's lower edge, the same pose needs no legs.
    cut = standing.transformed(1.0, (0, SIZE[1] - standing.xy[8, 1] - 1))
    assert suitability(half, cut, SIZE) > 0.9


def test_nothing_visible_is_unsuitable(standing: Skeleton) -> None:
    assert suitability(Skeleton(np.zeros((18, 2)), np.zeros(18, bool)), standing, SIZE) == 0.0
