# SPDX-License-Identifier: Apache-2.0
"""The whole job in one process, with the real networks, on every photo there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.finish import composite
from models.images import Picture, load_picture
from server.evaluate import evaluate_inserts, fit_actors
from server.pipeline import STAGES, Pipeline
from server.poses import lacking
from shared import messages
from shared.errors import Cancelled, NoActor, WalkOnError
from shared.skeleton import FACE, L_ANKLE, L_KNEE, R_ANKLE, R_KNEE, Skeleton


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def scene(shared_data: Path) -> Picture:
    return load_picture(shared_data / "photos" / "ccby_000000442450.jpg")


@pytest.fixture(scope="module")
def actor(shared_data: Path) -> Picture:
    return load_picture(shared_data / "photos" / "op_COCO_val2014_000000000241.jpg")


def test_same_seed_same_bytes(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    first = pipeline.insert(scene, actor, seed=5)
    second = Pipeline().insert(scene, actor, seed=5)
    assert np.array_equal(first.layer.rgba, second.layer.rgba)
    assert (first.layer.x, first.layer.y) == (second.layer.x, second.layer.y)
    assert first.skeleton == second.skeleton


def test_the_wire_gives_the_same(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    here = pipeline.insert(scene, actor, seed=1)
    stages: list[tuple[str, int, int]] = []
    answer, blobs = pipeline.run(
        messages.Insert(seed=1), [scene.rgb, actor.rgb], lambda *stage: stages.append(stage), lambda: False
    )
    assert isinstance(answer, messages.Inserted)
    assert np.array_equal(blobs[0], here.layer.rgba)
    assert [name for name, _, _ in stages] == list(STAGES)
    assert all(index == i and count == len(STAGES) for i, (_, index, count) in enumerate(stages))


def test_stages_alone_over_the_wire(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    found, _ = pipeline.run(messages.Detect(), [scene.rgb])
    assert isinstance(found, messages.Detected)
    height, width = scene.rgb.shape[:2]
    placed, _ = pipeline.run(messages.Place(found.people, width, height, 3), [])
    assert isinstance(placed, messages.Placed)
    seen, _ = pipeline.run(messages.Place(found.people, width, height, 3), [scene.rgb])
    assert isinstance(seen, messages.Placed)
    assert seen.candidates != placed.candidates  # the picture has a say
    refined, _ = pipeline.run(messages.Refine(placed.candidates[0].skeleton), [])
    assert isinstance(refined, messages.Refined)
    painted, (rgba,) = pipeline.run(messages.Transfer(refined.skeleton), [actor.rgb])
    assert isinstance(painted, messages.Transferred)
    assert rgba.dtype == np.uint8
    assert rgba[..., 3].max() == 255


def test_untouched_pixels_are_identical(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    done = pipeline.insert(scene, actor)
    result = composite(scene.rgb, done.layer)
    white = done.layer.rgba.copy()
    white[..., :3] = 255
    covered = (
        composite(np.zeros_like(scene.rgb), type(done.layer)(white, done.layer.x, done.layer.y))[..., 0] > 0
    )
    assert np.array_equal(result[~covered], scene.rgb[~covered])
    assert (result[covered] != scene.rgb[covered]).any()


def test_the_shadow_lies_under_the_feet_and_can_be_left_out(
    pipeline: Pipeline, scene: Picture, actor: Picture
) -> None:
    shaded, plain = (pipeline.insert(scene, actor, shadow=strength) for strength in (1.0, 0.0))
    assert shaded.skeleton == plain.skeleton
    difference = np.ptp(
        np.stack([composite(scene.rgb, done.layer).astype(int) for done in (shaded, plain)]), axis=0
    ).max(axis=-1)
    feet = float(plain.skeleton.xy[[R_ANKLE, L_ANKLE], 1].max())
    rows = difference.max(axis=1).nonzero()[0]
    assert rows.size
    assert rows.min() > feet - 0.3 * plain.skeleton.height
    assert rows.max() > feet


def test_doubts_are_told(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    grey = Picture(np.repeat(actor.rgb[..., 1:2], 3, axis=-1))
    assert any("black and white" in warning for warning in pipeline.insert(scene, grey).warnings)
    whole = pipeline.find_actor(actor)
    assert whole.fit
    thighs = Picture(np.ascontiguousarray(actor.rgb[: int(whole.skeleton.xy[[R_KNEE, L_KNEE], 1].min())]))
    half = pipeline.find_actor(thighs)
    assert not half.fit
    assert any("does not show the" in warning for warning in half.warnings)


def test_cancel_between_stages(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    reached: list[str] = []
    with pytest.raises(Cancelled, match="cancelled before transfer"):
        pipeline.insert(
            scene,
            actor,
            progress=lambda name, index, count: reached.append(name),
            cancelled=lambda: "matte" in reached,
        )


def test_half_an_actor_is_warned_about_and_only_its_half_is_painted(
    pipeline: Pipeline, scene: Picture, actor: Picture
) -> None:
    whole = pipeline.find_actor(actor)
    knee = whole.skeleton.xy[[R_KNEE, L_KNEE], 1].min()
    hips = whole.skeleton.xy[[8, 11], 1].max()
    half = Picture(np.ascontiguousarray(actor.rgb[: int((2 * hips + knee) / 3)]))
    done = pipeline.insert(scene, half)
    assert any("does not show the" in warning and "ankles" in warning for warning in done.warnings)
    assert not done.skeleton.visible[[R_ANKLE, L_ANKLE]].any()


def test_a_face_that_the_photo_lacks_is_warned_about(
    pipeline: Pipeline, scene: Picture, actor: Picture
) -> None:
    who = pipeline.find_actor(actor)
    pose = pipeline.insert(scene, actor).skeleton
    from_behind = Skeleton(who.skeleton.xy, [j not in FACE for j in range(18)])
    assert pose.visible[list(FACE)].any()
    assert any("the face" in warning for warning in lacking(from_behind, pose))
    assert lacking(who.skeleton, pose) == []


def test_the_largest_of_several_actors_is_taken_and_said(pipeline: Pipeline, shared_data: Path) -> None:
    several = load_picture(shared_data / "photos" / "ccby_000000442450.jpg")
    people = pipeline.detect(several.rgb)
    assert len(people) > 1
    found = pipeline.find_actor(several)
    assert found.skeleton == people[0]
    assert any("the largest was taken" in warning for warning in found.warnings)
    with pytest.raises(NoActor, match="person 99 was asked for"):
        pipeline.find_actor(several, 99)


def test_a_cut_out_brings_its_own_matte(pipeline: Pipeline, actor: Picture) -> None:
    who = pipeline.find_actor(actor)
    alpha = (pipeline.cut_out(who) > 0.5).astype(np.float32)
    cut = Picture(actor.rgb, alpha)
    with_alpha = pipeline.find_actor(cut)
    matte = pipeline.cut_out(with_alpha)
    assert (matte <= alpha + 1e-6).all()
    if not with_alpha.others:
        assert np.array_equal(matte, alpha)


def test_every_photo_as_scene_and_as_actor(pipeline: Pipeline, photos: list[Path]) -> None:
    """Each ends in a picture or in an error that a user can act on."""
    said = evaluate_inserts(photos, photos, len(photos), pipeline)
    assert said["pairs"] == len(photos)
    assert said["all"]["inserted"] >= len(photos) * 2 // 3
    assert all("actor: " in error or "scene: " in error for error in said["errors"])


def test_inserted_people_are_found_again(pipeline: Pipeline, photos: list[Path], tmp_path: Path) -> None:
    actors = fit_actors(photos, pipeline)
    assert len(actors) >= 4
    said = evaluate_inserts(photos[::4], actors, len(photos[::4]), pipeline, tmp_path / "sheet.png")
    assert said["all"]["pckh"] >= 0.7
    assert (tmp_path / "sheet.png").stat().st_size > 100_000


@pytest.mark.parametrize("size", [(64, 64), (64, 2000), (2000, 64)])
def test_small_and_odd_pictures(pipeline: Pipeline, actor: Picture, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    with pytest.raises(WalkOnError):
        pipeline.insert(Picture(noise), actor)


def test_an_edited_pose_is_kept(pipeline: Pipeline, scene: Picture, actor: Picture) -> None:
    pose = pipeline.insert(scene, actor).skeleton
    raised = pose.with_joints([4], [pose.xy[3] + (0, -40)])
    done = pipeline.insert(scene, actor, skeleton=raised)
    assert done.skeleton == Skeleton(raised.xy, raised.visible & done.skeleton.visible, raised.score)
    assert done.skeleton.visible[4]
