# SPDX-License-Identifier: Apache-2.0
"""Placement: candidates that belong, the same every time, and errors by their words."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from models import anatomy, judgement
from models.coco import Examples, read_coco
from models.placement import Candidate, Placement, WganSampler
from models.wgan import Generator
from shared.errors import BadInput, MissingWeights, NoCandidate, NoContext
from shared.skeleton import FACE, Skeleton
from shared.where import Where

SIZE = (1280, 853)


@pytest.fixture(scope="module")
def placement() -> Placement:
    return Placement("flow")


@pytest.fixture(scope="module")
def val(shared_data: Path) -> Examples:
    return read_coco(shared_data / "coco" / "coco_multi_2to8_ge8kp.npz", val=True)


def standing(x: float, feet: float, stature: float) -> Skeleton:
    """An average person seen from the front whose feet touch the ground at (x, feet)."""
    template = np.array(anatomy.installed().template)
    neck = (x, feet - (1 + judgement.SOLE) * stature)
    return Skeleton(template * stature + neck, np.ones(18))


def row() -> list[Skeleton]:
    """Three people on a flat ground, the nearer the larger."""
    return [standing(300, 600, 300), standing(560, 640, 330), standing(1000, 560, 270)]


def ground_of(skeleton: Skeleton) -> np.ndarray:
    people = np.c_[skeleton.xy, skeleton.visible][None].astype(float)
    return judgement.figures(people, anatomy.installed()).ground[0]


def stature_of(skeleton: Skeleton) -> float:
    return float(anatomy.installed().stature(np.c_[skeleton.xy, skeleton.visible][None].astype(float))[0])


def check_belongs(candidate: Candidate, context: list[Skeleton], size: tuple[int, int]) -> None:
    skeleton = candidate.skeleton
    assert 0 < candidate.score <= 1
    assert skeleton.visible[1:14].all()
    assert skeleton.visible[list(FACE)].any()
    head = skeleton.xy[list(FACE)][skeleton.visible[list(FACE)]].mean(0)
    assert (head >= 0).all()
    assert (head <= size).all()


def test_candidates_belong(placement: Placement) -> None:
    context = row()
    found = placement.place(context, SIZE)
    assert len(found) == 8
    scores = [c.score for c in found]
    assert scores == sorted(scores, reverse=True)
    for candidate in found:
        check_belongs(candidate, context, SIZE)
    # The best stands on the same ground, as tall as people there.
    best = found[0].skeleton
    x, y = ground_of(best)
    assert 0 <= x <= SIZE[0]
    assert 450 <= y <= 760
    assert abs(np.log(stature_of(best) / (300 + 0.75 * (y - 600)))) < 0.25


def test_real_scenes_get_candidates(placement: Placement, val: Examples) -> None:
    refused = 0
    index = np.random.default_rng(0).permutation(len(val))[:12]
    for example in index:
        context, _, size = val.scene(int(example))
        try:
            found = placement.place(context, size, 3)
        except NoCandidate:
            refused += 1
            continue
        for candidate in found:
            check_belongs(candidate, context, size)
    assert refused <= 2


def test_same_input_same_output(placement: Placement) -> None:
    first, second = (placement.place(row(), SIZE, seed=5) for _ in range(2))
    assert [c.skeleton for c in first] == [c.skeleton for c in second]
    assert [c.score for c in first] == [c.score for c in second]
    fewer = placement.place(row(), SIZE, count=3, seed=5)
    assert [c.skeleton for c in fewer] == [c.skeleton for c in first[:3]]
    other = placement.place(row(), SIZE, seed=6)
    assert other[0].skeleton != first[0].skeleton


def test_candidates_are_no_doubles(placement: Placement) -> None:
    found = placement.place(row(), SIZE)
    for i, a in enumerate(found):
        for b in found[:i]:
            distance = np.linalg.norm(a.skeleton.xy[1:14] - b.skeleton.xy[1:14], axis=1).mean()
            assert distance >= 0.2 * stature_of(a.skeleton)


@pytest.mark.parametrize("at", [(790.0, 620.0), (120.0, 700.0)])
def test_feet_go_where_they_are_asked_for(placement: Placement, at: tuple[float, float]) -> None:
    for candidate in placement.place(row(), SIZE, 4, where=Where(feet=at)):
        assert np.allclose(ground_of(candidate.skeleton), at, atol=1.0)
        expected = 300 + 0.75 * (at[1] - 600)
        assert abs(np.log(stature_of(candidate.skeleton) / expected)) < 0.3


def test_a_place_on_a_face_is_refused_and_says_why(placement: Placement) -> None:
    crowd = [standing(x, 720, 420) for x in range(100, 1250, 60)]
    with pytest.raises(NoCandidate, match=r"none of .* drawn people can stand here.*face.*--at.*--pose"):
        placement.place(crowd, SIZE, where=Where(feet=(640, 690)))


def test_one_person_sets_size_and_ground(placement: Placement) -> None:
    found = placement.place([standing(400, 700, 400)], SIZE)
    best = found[0].skeleton
    assert 0.7 < stature_of(best) / 400 < 1.4


def test_ground_line_ignores_a_child(placement: Placement) -> None:
    body = anatomy.installed()
    statures, feet = np.array([300.0, 330, 270, 360, 120]), np.array([600.0, 640, 560, 680, 640])
    people = np.array(
        [np.c_[standing(100, y, s).xy, np.ones(18)] for s, y in zip(statures, feet, strict=True)]
    )
    ground = judgement.fit_ground(judgement.figures(people, body), body)
    expected, _ = ground.at(np.array([600.0, 660.0]))
    assert np.allclose(expected, [300, 345], rtol=0.06)


def test_who_leans_on_nothing_scores_less() -> None:
    body = anatomy.installed()
    upright = standing(780, 620, 300)
    lean = 0.25 * (upright.xy[:, 1].max() - upright.xy[:, 1])
    leaning = Skeleton(upright.xy + np.c_[lean, 0 * lean], upright.visible)
    pool, others = (
        np.array([np.c_[person.xy, np.ones(18)] for person in people])
        for people in ((upright, leaning), row())
    )
    figures = judgement.figures(pool, body)
    assert figures.unbalanced[0] == 0.0
    assert figures.unbalanced[1] > 0.1
    scene = judgement.read_scene(others, np.ones(3, bool), SIZE, body)
    score, refused = judgement.judge(figures, scene, body)
    assert not np.any(list(refused.values()))
    assert score[1] < 0.5 * score[0]


@pytest.mark.parametrize("number", [60, 500])
def test_crowds(placement: Placement, number: int) -> None:
    rng = np.random.default_rng(1)
    crowd = [standing(x, 400 + 200 * d, 80 + 60 * d) for x, d in rng.random((number, 2)) * (1280, 1)]
    with contextlib.suppress(NoCandidate):
        assert len(placement.place(crowd, SIZE, 2)) <= 2


def test_people_who_tell_nothing_are_still_kept_free(placement: Placement) -> None:
    context = row()
    visible = np.zeros(18, bool)
    visible[[2, 5]] = True
    fragment = Skeleton(standing(780, 620, 300).xy, visible)
    nobody = Skeleton(np.zeros((18, 2)), np.zeros(18))
    far = standing(-5000, 600, 300)
    assert len(placement.place([*context, fragment, nobody, far], SIZE, 2)) == 2


def test_no_context_says_what_to_do(placement: Placement) -> None:
    with pytest.raises(NoContext, match=r"scene: shows no people.*--at with --pose still works"):
        placement.place([], SIZE)
    single = np.zeros(18, bool)
    single[0] = True
    with pytest.raises(NoContext, match=r"none of its 2 people shows 8 joints inside the frame"):
        placement.place([Skeleton(standing(400, 600, 300).xy, single), standing(-5000, 0, 300)], SIZE)


def test_bad_input_is_named(placement: Placement) -> None:
    for size in ((0, 100), (100, -3), (float("nan"), 10)):
        with pytest.raises(BadInput, match=r"size: .* is no frame"):
            placement.place(row(), size)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"count: 0 is not within 1\.\.64"):
        placement.place(row(), SIZE, 0)
    for at in ((-1.0, 5.0), (float("nan"), 5.0), (5.0, 900.0)):
        with pytest.raises(
            BadInput, match=r"feet: .* (is not finite|lies outside the scene of 1280 x 853 pixels)"
        ):
            placement.place(row(), SIZE, where=Where(feet=at))
    with pytest.raises(BadInput, match=r"seed: .* is too large"):
        placement.place(row(), SIZE, seed=2**60)
    with pytest.raises(MissingWeights, match="nosuch"):
        Placement("nosuch")


def test_the_papers_network_can_be_chosen(val: Examples) -> None:
    placement = Placement("wgan")
    drawn = placement._sampler.draw(val.batch(np.arange(2)), 0, [-1] * 3)
    assert drawn.shape == (2, 3, 18, 3)
    assert np.isfinite(drawn).all()
    assert np.array_equal(drawn, placement._sampler.draw(val.batch(np.arange(2)), 0, [-1] * 3))
    # Its first weights may find nobody a place; then it says so.
    context, _, size = val.scene(0)
    with contextlib.suppress(NoCandidate):
        placement.place(context, size, 2)


def test_where_no_draw_of_the_papers_network_passes_its_weights_are_suspected() -> None:
    placement = Placement("wgan")
    placement._sampler = WganSampler(Generator().eval())  # untrained
    with pytest.raises(
        NoCandidate, match=r"placement/wgan: of 192 people .* \d+ are whole, and none"
    ) as caught:
        placement.place(row(), SIZE)
    assert "Its installed weights may be at fault" in caught.value.fix
    assert "--placement flow" in caught.value.fix
