# SPDX-License-Identifier: Apache-2.0
"""Wishes for the new person: obeyed, or said to be impossible with what was found instead."""

from __future__ import annotations

import numpy as np
import pytest
from test_placement import SIZE, ground_of, row, standing, stature_of

from models import anatomy, judgement, wishes
from models.placement import Candidate, Placement
from shared.errors import BadInput, NoCandidate
from shared.skeleton import MIRROR, Skeleton
from shared.where import Where


@pytest.fixture(scope="module")
def placement() -> Placement:
    return Placement("flow")


def figure(skeleton: Skeleton) -> judgement.Figures:
    people = np.c_[skeleton.xy, skeleton.visible][None].astype(float)
    return judgement.figures(people, anatomy.installed())


def seated() -> Skeleton:
    """Seen from the side on a chair, facing the left of the picture."""
    body = standing(500, 700, 300)
    thigh, shin = 0.31 * 300, 0.29 * 300
    xy = body.xy.copy()
    for hip, knee, ankle in ((8, 9, 10), (11, 12, 13)):
        xy[knee] = xy[hip] + (-thigh, 10)
        xy[ankle] = xy[knee] + (0, shin)
    xy[[0, 14, 15]] += (-20, 0)
    return Skeleton(xy, np.ones(18))


def test_stance_and_facing_are_read() -> None:
    for skeleton, stands, sits, facing in (
        (standing(500, 700, 300), True, False, 0),
        (seated(), False, True, -1),
    ):
        found = wishes.stances(figure(skeleton))
        assert (bool(found[0][0]), bool(found[1][0])) == (stands, sits)
        assert wishes.facings(figure(skeleton))[0] == facing
    flipped = wishes.mirrored(figure(seated()), np.ones(1, bool))
    assert wishes.facings(flipped)[0] == 1
    # Left and right are renamed, and the place stays.
    assert flipped.ground == pytest.approx(figure(seated()).ground)
    assert flipped.people[0, 4, 1] == pytest.approx(seated().xy[MIRROR[4], 1])


def test_feet_lie_in_the_box_and_on_the_ground(placement: Placement) -> None:
    found = placement.place(row(), SIZE, 6, where=Where(box=(640, 0, 900, 853)))
    assert len(found) >= 4
    for candidate in found:
        x, y = ground_of(candidate.skeleton)
        assert 640 <= x <= 900
        # The box reaches up into the sky; the people's feet do not.
        assert 400 <= y <= 853


@pytest.mark.parametrize("height", [330.0, 440.0, 520.0])
def test_height_is_kept_and_chooses_the_place(placement: Placement, height: float) -> None:
    found = placement.place(row(), SIZE, 4, where=Where(height=height))
    for candidate in found:
        assert stature_of(candidate.skeleton) * judgement.TALL == pytest.approx(height, rel=0.01)
        # On that ground larger people stand lower in the frame.
        assert ground_of(candidate.skeleton)[1] == pytest.approx(
            600 + (height / judgement.TALL - 300) / 0.75, abs=40
        )
        assert not candidate.warning


def test_height_of_no_one_here_is_refused_with_what_there_is(placement: Placement) -> None:
    flat = [standing(x, 600, 300) for x in (200, 500, 900)]
    with pytest.raises(
        NoCandidate, match=r"height: (nobody of 60 px fits the scene|none of \d+ drawn people)"
    ):
        placement.place(flat, SIZE, where=Where(height=60))


def test_an_odd_height_at_a_place_is_obeyed_with_a_warning(placement: Placement) -> None:
    found = placement.place(row(), SIZE, 2, where=Where(feet=(790, 620), height=620))
    for candidate in found:
        assert ground_of(candidate.skeleton) == pytest.approx((790, 620), abs=1)
        assert stature_of(candidate.skeleton) * judgement.TALL == pytest.approx(620, rel=0.01)
        assert "height: people who stand there would be some 4" in candidate.warning
        assert candidate.warning.endswith("px tall, not 620")


@pytest.mark.parametrize("stance", ["standing", "sitting"])
@pytest.mark.parametrize("facing", ["left", "right"])
def test_stance_and_facing_are_obeyed(placement: Placement, stance: str, facing: str) -> None:
    found = placement.place(row(), SIZE, 4, where=Where(stance=stance, facing=facing))  # type: ignore[arg-type]
    assert found
    for candidate in found:
        people = figure(candidate.skeleton)
        stands, sits = wishes.stances(people)
        assert (sits if stance == "sitting" else stands)[0]
        assert wishes.facings(people)[0] == (-1 if facing == "left" else 1)


def test_candidates_resemble_the_skeleton_given(placement: Placement) -> None:
    model = placement.place(row(), SIZE, 1)[0].skeleton
    found = placement.place(row(), SIZE, 6, where=Where(like=model.to_openpose()))
    assert len(found) >= 4
    other = placement.place(row(), SIZE, 6)[1:]

    def away(candidates: list[Candidate]) -> float:
        distances = [np.linalg.norm(c.skeleton.xy[1:14] - model.xy[1:14], axis=1).mean() for c in candidates]
        return float(np.mean(distances)) / stature_of(model)

    assert wishes.SAME < away(found) < wishes.ALIKE < away(other)
    # At another place: the same pose.
    moved = placement.place(row(), SIZE, 4, where=Where(like=model.to_openpose(), feet=(790, 620)))
    for candidate in moved:
        assert ground_of(candidate.skeleton) == pytest.approx((790, 620), abs=1)
        assert stature_of(candidate.skeleton) == pytest.approx(stature_of(model), rel=0.5)


def test_wishes_keep_the_seed(placement: Placement) -> None:
    where = Where(box=(600, 400, 900, 800), facing="left")
    first = placement.place(row(), SIZE, 6, 3, where)
    again = placement.place(row(), SIZE, 2, 3, where)
    assert [c.skeleton for c in again] == [c.skeleton for c in first[:2]]


def test_what_cannot_be_met_is_named(placement: Placement) -> None:
    crowd = [standing(x, 720, 420) for x in range(100, 1250, 60)]
    with pytest.raises(
        NoCandidate, match=r"box: none of \d+ drawn people can stand here \(of them .*cover"
    ) as e:
        placement.place(crowd, SIZE, where=Where(box=(600, 690, 640, 700)))
    assert e.value.subject == "where.box"
    with pytest.raises(BadInput, match="like: no arm, leg, shoulders or hips are known"):
        nose = [500.0, 300.0, 1.0] + [0.0] * 51
        placement.place(row(), SIZE, where=Where(like=nose))
    body = anatomy.installed()
    people = np.array([np.c_[s.xy, s.visible] for s in row()], dtype=float)
    scene = judgement.read_scene(people, np.ones(3, bool), SIZE, body)
    asked = wishes.Wishes(Where(stance="sitting", facing="left"), scene, body)
    error = asked.nobody(scene.people, 3, "")
    assert error is not None
    assert error.message == (
        "stance, facing: of 3 people who fit here none is sitting and facing left"
        " (3 standing, 0 sitting, 0 neither; 0 facing left, 0 right, 3 neither)"
    )
    assert error.subject == "where.stance"
