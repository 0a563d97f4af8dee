# SPDX-License-Identifier: Apache-2.0
"""Skeletons are drawn where they are, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from models.draw import CHOSEN, COLOURS, draw_people
from shared.skeleton import L_WRIST, NECK, NOSE, NUM_JOINTS, Skeleton


def person(offset: float = 0.0, visible: list[int] | None = None) -> Skeleton:
    xy = np.full((NUM_JOINTS, 2), 50.0)
    xy[NOSE], xy[NECK], xy[L_WRIST] = (100 + offset, 40), (100 + offset, 160), (150 + offset, 90)
    shown = np.zeros(NUM_JOINTS, bool)
    shown[visible or [NOSE, NECK]] = True
    return Skeleton(xy, shown)


def test_a_limb_has_its_persons_colour() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    drawn = draw_people(grey, [person(), person(80)], width=5)
    assert tuple(drawn[100, 100]) == COLOURS[0]
    assert tuple(drawn[100, 180]) == COLOURS[1]
    assert (grey == 128).all()
    changed = (drawn != 128).any(2)
    assert not changed[:, :85].any()
    assert not changed[175:].any()


def test_only_visible_joints() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    lonely = draw_people(grey, [person(visible=[L_WRIST])])
    assert tuple(lonely[90, 150]) == COLOURS[0]
    assert (lonely != 128).any(2).sum() < 80
    np.testing.assert_array_equal(draw_people(grey, []), grey)
    nobody = Skeleton(np.zeros((NUM_JOINTS, 2)), np.zeros(NUM_JOINTS, bool))
    np.testing.assert_array_equal(draw_people(grey, [nobody]), grey)


def test_the_first_is_on_top() -> None:
    drawn = draw_people(
        np.zeros((200, 300, 3), np.uint8), [person(), person()], colours=[CHOSEN, COLOURS[2]], width=5
    )
    assert tuple(drawn[100, 100]) == CHOSEN


@pytest.mark.parametrize("size", [64, 400, 3000])
def test_lines_grow_with_the_picture(size: int) -> None:
    drawn = draw_people(np.zeros((size, size, 3), np.uint8), [person().transformed(size / 200)])
    # The red of the person against the black of picture and outline.
    line = (drawn[size // 2, :, 0] > 100).sum()
    assert max(1, size // 300) <= line <= 4 + size // 120


def test_small_people_are_drawn_finer() -> None:
    black = np.zeros((2000, 2000, 3), np.uint8)
    large = draw_people(black, [person().transformed(10)])
    small = draw_people(black, [person()])
    assert (small[100, :, 0] > 100).sum() < 0.8 * (large[1000, :, 0] > 100).sum()


def test_joints_outside_the_frame() -> None:
    drawn = draw_people(
        np.zeros((200, 300, 3), np.uint8), [person(1e5), person(-1e5), person().transformed(50)]
    )
    assert drawn.shape == (200, 300, 3)
