# SPDX-License-Identifier: Apache-2.0
"""Layers among the scene's objects: covered by what is nearer, and fixed to the place where they stand."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from conftest import part, render
from mathutils import Vector
from mathutils.bvhtree import BVHTree
from test_layers import add, node_of, person


def box(
    scene: bpy.types.Scene, name: str, at: tuple[float, ...], size: tuple[float, ...]
) -> bpy.types.Object:
    """A box in the scene, its material as grey as paper."""
    mesh = bpy.data.meshes.new(name)
    corners = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh.from_pydata(corners, [], faces)
    made = bpy.data.objects.new(name, mesh)
    made.location, made.scale = at, size
    scene.collection.objects.link(made)
    return made


@pytest.fixture
def street(scene: bpy.types.Scene) -> bpy.types.Scene:
    """A floor seen from eye height, and a post 4 m away. Where the camera looks is y."""
    camera = scene.camera
    camera.location, camera.rotation_euler = (0.0, 0.0, 1.6), (np.pi / 2 - 0.12, 0.0, 0.0)
    camera.data.lens = 35.0
    box(scene, "Floor", (0, 20, -0.05), (60, 60, 0.1))
    box(scene, "Post", (0.0, 4.0, 1.0), (0.15, 0.15, 2.0))
    bpy.context.view_layer.update()
    return scene


def pixel_of(scene: bpy.types.Scene, point: tuple[float, ...]) -> tuple[float, float]:
    view = world_to_camera_view(scene, scene.camera, Vector(point))
    return view.x * 320, (1 - view.y) * 240


def man(scene: bpy.types.Scene, feet: tuple[float, float, float], alpha: int = 255):
    """A layer that is 1.7 m tall where it stands: red, as wide as a door, soles at `feet`."""
    x, y = pixel_of(scene, feet)
    _, top = pixel_of(scene, (*feet[:2], feet[2] + 1.7))
    height = round(y - top)
    rgba = np.zeros((height, height // 2, 4), np.uint8)
    rgba[...] = 200, 20, 20, alpha
    left, head = round(x - height / 4), round(y) - height
    skeleton = person(x, head + 0.09 * height, size=height * 3 / 3.4)
    return add(scene, rgba, left, head, skeleton=skeleton)


@pytest.mark.parametrize("feet", [(0.0, 6.0, 0.0), (1.2, 9.0, 0.0), (-1.0, 4.5, 0.0)])
def test_people_stand_where_the_ground_is(street: bpy.types.Scene, feet: tuple[float, float, float]) -> None:
    layer = man(street, feet)
    along = street.camera.matrix_world.inverted() @ Vector(feet)
    bpy.ops.walkon.measure_distance()
    assert layer.distance == pytest.approx(-along.z, rel=0.06)


def test_behind_a_table_the_ground_is_meant_and_not_the_table(street: bpy.types.Scene) -> None:
    layer = man(street, (1.0, 7.0, 0.0))
    near = Vector((1.0, 7.0, 0.0)).lerp(street.camera.location, 0.6)
    box(street, "Table", tuple(near), (1.0, 0.8, 0.04))
    bpy.ops.walkon.measure_distance()
    assert layer.distance == pytest.approx(7.0, rel=0.08)


def test_a_person_cut_by_the_frame_stands_where_the_size_says(street: bpy.types.Scene) -> None:
    layer = man(street, (0.5, 3.0, 0.0))
    skeleton = layer.version.skeleton.skeleton
    visible = skeleton.visible.copy()
    visible[[10, 13]] = False  # the ankles
    layer.version.skeleton.skeleton = type(skeleton)(skeleton.xy, visible)
    layer.version.whole = False
    bpy.ops.walkon.measure_distance()
    assert layer.distance == pytest.approx(3.0, rel=0.15)


def test_nothing_to_stand_on(street: bpy.types.Scene) -> None:
    for thing in ("Floor", "Post"):
        bpy.data.objects.remove(bpy.data.objects[thing])
    layer = man(street, (0.0, 6.0, 0.0))
    for operator, arguments in (("anchor_layer", {"to": "WORLD"}), ("occlude_layer", {"on": True})):
        with pytest.raises(
            RuntimeError, match=r"Nothing of the scene is under the feet of 'Person 1'.*type the dist"
        ):
            getattr(bpy.ops.walkon, operator)(**arguments)
    assert layer.card is None
    layer.distance = 6.0
    bpy.ops.walkon.anchor_layer(to="WORLD")
    assert layer.card is not None


def red(rendered: np.ndarray) -> np.ndarray:
    return (rendered[..., 0] > 150) & (rendered[..., 1] < 90)


def test_what_is_nearer_covers_the_layer(street: bpy.types.Scene, tmp_path: Path) -> None:
    layer = man(street, (0.0, 6.0, 0.0))
    plain = red(render(street, tmp_path))
    post = [int(value) for value in pixel_of(street, (0.0, 4.0, 1.0))]
    assert plain[post[1], post[0]]
    bpy.ops.walkon.occlude_layer(on=True)
    assert node_of(street, layer).inputs["Scene Depth"].is_linked
    covered = red(render(street, tmp_path))
    assert not covered[post[1], post[0]], "the post is in front"
    assert (covered & ~plain).sum() == 0
    assert covered.sum() > 0.7 * plain.sum(), "and nothing else"
    layer.distance = 3.0
    assert red(render(street, tmp_path))[post[1], post[0]], "nearer than the post"
    bpy.ops.walkon.occlude_layer(on=False)
    assert not street.view_layers[0].use_pass_z, "as it was"


def hugging(scene: bpy.types.Scene) -> np.ndarray:
    """`distances` of a person 6 m away whose right arm reaches round the post from behind."""
    parts = (  # from, to: legs, torso, head, upper arm behind the post, forearm beside it, hand before it
        ((0.35, 5.9, 0.0), (0.5, 6.1, 0.85)), ((0.6, 5.9, 0.0), (0.75, 6.1, 0.85)),
        ((0.3, 5.9, 0.85), (0.8, 6.1, 1.4)), ((0.45, 5.9, 1.4), (0.65, 6.1, 1.7)),
        ((-0.35, 5.95, 1.28), (0.3, 6.05, 1.38)), ((-0.35, 5.3, 1.2), (-0.25, 6.05, 1.38)),
        ((-0.35, 5.3, 1.1), (0.25, 5.4, 1.2)),
    )  # fmt: skip
    corners, faces = [], []
    for low, high in parts:
        first = len(corners)
        corners += [
            (x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])
        ]
        sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
        faces += [tuple(first + corner for corner in side) for side in sides]
    return distances(scene, BVHTree.FromPolygons(corners, faces).ray_cast)


def distances(scene: bpy.types.Scene, cast) -> np.ndarray:
    """`(240, 320)`: how far from the camera's plane a ray through each pixel's centre meets something, if at all."""
    camera = scene.camera
    to_world, away = camera.matrix_world, np.full((240, 320), np.inf)
    grid = part("camera_plane").plane_matrix(scene, (320, 240), 1.0)
    for y, x in np.ndindex(240, 320):
        through = to_world.to_3x3() @ (grid @ Vector((x + 0.5, -y - 0.5, 0.0)))
        place = cast(to_world.translation, through)[0]
        if place is not None:
            away[y, x] = -(to_world.inverted() @ place).z
    return away


@pytest.mark.parametrize("flip", [False, True])
def test_an_arm_reaches_round_a_post(
    street: bpy.types.Scene, tmp_path: Path, flip: bool, record_testsuite_property
) -> None:
    post = bpy.data.objects["Post"]
    post.location, post.scale = (0.0, 5.65, 1.0), (0.1, 0.1, 2.0)
    bpy.context.view_layer.update()
    person_at = hugging(street)
    depsgraph = bpy.context.evaluated_depsgraph_get()

    def met(origin: Vector, direction: Vector):
        hit, place, *_ = street.ray_cast(depsgraph, origin, direction)
        return (place if hit else None,)

    scene_at = distances(street, met)
    seen = person_at < scene_at - 1e-3
    # What the server would send of that person: where it is, and how much nearer than its middle, in metres.
    distance = float(-(street.camera.matrix_world.inverted() @ Vector((0.55, 6.0, 0.0))).z)
    there = np.isfinite(person_at)
    rows, columns = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rgba = np.zeros((*there[cut].shape, 4), np.uint8)
    rgba[there[cut]] = 200, 20, 20, 255
    metres = np.where(there, distance - person_at, 0.0)[cut].astype(np.float16)
    normals = np.where(there[cut][..., None], 200, 128).astype(np.uint8) * np.ones(3, np.uint8)
    x, y = pixel_of(street, (0.55, 6.0, 0.0))
    torso = pixel_of(street, (0.55, 6.0, 0.9))[1] - pixel_of(street, (0.55, 6.0, 1.4))[1]
    skeleton = person(x, y - 2.55 * torso - 0.15 * 3 * torso, size=3 * torso)
    if flip:  # as if it had been painted the other way round: the artist mirrors it
        rgba, metres, normals = (np.ascontiguousarray(array[:, ::-1]) for array in (rgba, metres, normals))
        left = 2 * x - columns[-1] - 1
    else:
        left = columns[0]
    layer = add(street, rgba, left, rows[0], skeleton=skeleton, passes=[metres, normals, rgba[..., :3]])
    layer.flip, layer.distance = flip, distance
    bpy.ops.walkon.occlude_layer(on=True)
    shown = red(render(street, tmp_path))
    wrong = (shown ^ seen).sum()
    hand = [int(value) for value in pixel_of(street, (0.0, 5.3, 1.15))]
    upper = [int(value) for value in pixel_of(street, (0.0, 5.95, 1.33))]
    assert shown[hand[1], hand[0]], "the hand is before the post"
    assert not shown[upper[1], upper[0]], "the upper arm is behind it"
    # The same person as a flat card.
    layer.version.depth = None
    part("compositor").fill(layer.group, layer.version, (320, 240), True)
    flat = red(render(street, tmp_path))
    wrong_flat = (flat ^ seen).sum()
    record_testsuite_property(f"pixels wrong of {seen.sum()}: by depth, as a card", (wrong, wrong_flat))
    assert not flat[hand[1], hand[0]]
    assert wrong <= 4
    assert wrong_flat > 40, "the hand, which is before the post"


@pytest.mark.parametrize("kind", ["PERSP", "ORTHO"])
def test_in_the_world_it_looks_the_same_and_stays_in_its_place(
    street: bpy.types.Scene, tmp_path: Path, kind: str
) -> None:
    street.cycles.samples = 4
    camera = street.camera
    camera.data.type, camera.data.ortho_scale = kind, 6.0
    bpy.context.view_layer.update()
    layer = man(street, (0.6, 6.0, 0.0))
    on_screen = red(render(street, tmp_path))
    bpy.ops.walkon.anchor_layer(to="WORLD")
    assert layer.card is not None
    assert node_of(street, layer).mute
    in_world = red(render(street, tmp_path))
    assert (on_screen ^ in_world)[:, 170:].sum() < 0.08 * on_screen.sum(), "the same place and size"
    # The camera moves sideways: near things move more. The feet stay on their spot of the floor.
    bpy.context.view_layer.update()
    spot = layer.handle.matrix_world.translation.copy()
    before = pixel_of(street, spot)
    camera.location.x += 0.5
    bpy.context.view_layer.update()
    shift = pixel_of(street, spot)[0] - before[0]
    moved = red(render(street, tmp_path))
    columns = [np.nonzero(mask)[1].max() for mask in (in_world, moved)]
    assert columns[1] - columns[0] == pytest.approx(shift, abs=1.5)
    post = [int(value) for value in pixel_of(street, (0.0, 4.0, 1.0))]
    assert not moved[post[1], post[0]]
    bpy.ops.walkon.anchor_layer(to="SCREEN")
    assert layer.card is None
    assert layer.station is None
    assert (red(render(street, tmp_path)) ^ on_screen).sum() == 0
    assert not [mesh for mesh in bpy.data.meshes if "Card" in mesh.name]


def test_in_the_world_colours_and_looks_are_the_layers(street: bpy.types.Scene, tmp_path: Path) -> None:
    street.cycles.samples = 4
    street.view_settings.view_transform = "AgX"
    layer = man(street, (1.0, 6.0, 0.0))
    bpy.ops.walkon.anchor_layer(to="WORLD")
    shown = render(street, tmp_path)
    inside = np.argwhere(red(shown))
    middle = inside[len(inside) // 2]
    assert np.abs(shown[tuple(middle)].astype(int) - (200, 20, 20)).max() < 26, "AgX has no exact inverse"
    layer.opacity = 0.0
    assert not red(render(street, tmp_path)).any()
    layer.opacity, layer.show = 1.0, False
    assert not red(render(street, tmp_path)).any()
    layer.show, layer.feather = True, 20.0
    assert 0 < red(render(street, tmp_path)).sum() < 0.6 * len(inside)
    layer.feather = 0.0
    layer.distance *= 0.5  # nearer, and seen from here just as large
    assert red(render(street, tmp_path)).sum() == pytest.approx(len(inside), rel=0.05)


def test_a_new_version_changes_the_card_too(street: bpy.types.Scene, tmp_path: Path) -> None:
    layer = man(street, (1.0, 6.0, 0.0))
    bpy.ops.walkon.anchor_layer(to="WORLD")
    x, y = layer.x, layer.y
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[...] = 20, 200, 20, 255
    made = part("painting").Painting.of(rgba, x - 20, y - 30, 1.0, person(x, y - 28, 30), (320, 240))
    part("layers").add_version(street, layer, made)
    shown = render(street, tmp_path)
    assert not red(shown).any()
    green = (shown[..., 1] > 150) & (shown[..., 0] < 90)
    rows, columns = np.nonzero(green)
    assert abs(rows.max() + 1 - y) <= 2
    assert abs(columns.min() - (x - 20)) <= 2
    bpy.ops.walkon.remove_layer()
    assert not [thing.name for thing in bpy.data.objects if "Person" in thing.name]
