# SPDX-License-Identifier: Apache-2.0
"""Layers on the installed add-on, without a server: what is seen, history, order, anchors, saving, undo."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import part, render


def person(x: float = 160.0, y: float = 75.0, size: float = 100.0, missing: tuple[int, ...] = ()):
    """A standing person with odd, exact coordinates."""
    geometry, skeleton = part("geometry"), part("shared.skeleton")
    xy = geometry._STANDING * (size / 3.0) + (x, y + size * 0.15)
    visible = np.ones(18, bool)
    visible[list(missing)] = False
    return skeleton.Skeleton(xy, visible, np.linspace(0.3, 1.0, 18))


def picture(width: int = 61, height: int = 120) -> np.ndarray:
    """An opaque picture with a colour of its own at every place, and a soft edge at the right."""
    y, x = np.mgrid[:height, :width]
    rgba = np.stack([40 + 2 * x, 200 - y, 60 + (x + y) % 120, np.full_like(x, 255)], -1).astype(np.uint8)
    rgba[:, -6:, 3] = np.array([213, 170, 128, 85, 43, 0])
    return rgba


def painting(rgba: np.ndarray | None = None, x: float = 130, y: float = 70, scale: float = 1.0, **more):
    rgba = picture() if rgba is None else rgba
    skeleton = more.pop("skeleton", None) or person(x + 30.0, y + 5.0)
    return part("painting").Painting.of(rgba, x, y, scale, skeleton, (320, 240), **more)


def add(scene: bpy.types.Scene, *given: object, **more: object):
    return part("layers").add(scene, painting(*given, **more))


@pytest.fixture
def layer(scene: bpy.types.Scene):
    return add(scene)


def passes(height: int, width: int, colour: int) -> list[np.ndarray]:
    """Depth, normals and own colours as the server sends them."""
    depth = np.linspace(-1, 1, height * width).reshape(height, width).astype(np.float16)
    normals = np.indices((height, width)).sum(0)[..., None] % (100, 101, 102)
    return [depth, normals.astype(np.uint8), np.full((height, width, 3), colour, np.uint8)]


def test_a_long_shadow_is_no_part_of_the_person(scene: bpy.types.Scene) -> None:
    rgba = np.pad(picture(60, 120), ((0, 80), (0, 0), (0, 0)))
    rgba[120:180, 20:40] = 0, 0, 0, 160
    made = painting(rgba)
    assert made.sole == painting(picture(60, 120)).sole
    metres, normals, _ = passes(120, 60, 0)
    metres, normals = np.pad(metres, ((0, 80), (0, 0))), np.pad(normals, ((0, 80), (0, 0), (0, 0)))
    normals[120:] = 128
    depth = part("painting")._whole_depth(metres, normals, rgba[..., 3], np.arange(120))
    below = depth[135:175:10, 30]
    assert (np.diff(below) > 0).all(), "the farther below the feet, the nearer"


def node_of(scene: bpy.types.Scene, layer):
    return part("compositor").node_of(scene, layer)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def composed(
    background: np.ndarray,
    rgba: np.ndarray,
    place,
    grow: float = 1.0,
    cover: np.ndarray | float = 1.0,
    opacity: float = 1.0,
) -> np.ndarray:
    """What the layer says: the picture laid over the background by its matrix, sampled bilinearly in linear light.

    `cover` (like the layer, 0..1) multiplies its alpha; `grow` is render pixels per picture pixel.
    """
    height, width = background.shape[:2]
    values = linear(rgba.astype(float)[..., :3] / 255)
    alpha = rgba[..., 3].astype(float) / 255 * cover
    layer = np.dstack([values * alpha[..., None], alpha])
    back = np.linalg.inv(np.vstack([place.matrix, (0, 0, 1)]))
    y, x = np.mgrid[:height, :width] + 0.5
    points = np.stack([x / grow, y / grow, np.ones_like(x)], -1) @ back.T
    u, v = points[..., 0] - 0.5, points[..., 1] - 0.5
    padded = np.pad(layer, ((1, 1), (1, 1), (0, 0)))
    u, v = np.clip(u + 1, 0, layer.shape[1] + 0.999), np.clip(v + 1, 0, layer.shape[0] + 0.999)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = (u - i)[..., None], (v - j)[..., None]
    padded = np.pad(padded, ((0, 1), (0, 1), (0, 0)))
    sampled = (
        (padded[j, i] * (1 - fu) + padded[j, i + 1] * fu) * (1 - fv)
        + (padded[j + 1, i] * (1 - fu) + padded[j + 1, i + 1] * fu) * fv
    ) * opacity
    light = sampled[..., :3] + (1 - sampled[..., 3:]) * linear(background / 255.0)
    return encoded(light) * 255


# ---- what is seen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "tolerance"), [("Standard", 1.5), ("AgX", 9), ("Filmic", 3), ("Khronos PBR Neutral", 9)]
)
def test_the_render_shows_the_layers_pixels_at_its_place(
    scene: bpy.types.Scene, tmp_path: Path, transform: str, tolerance: float
) -> None:
    scene.view_settings.view_transform = transform
    before = render(scene, tmp_path)
    add(scene)
    after = render(scene, tmp_path)
    rgba = picture()
    there = after[70:190, 130:191]
    opaque = rgba[..., 3] == 255
    error = np.abs(there[opaque].astype(float) - rgba[..., :3][opaque])
    assert error.mean() < tolerance / 2
    assert np.quantile(error, 0.99) < 3 * tolerance
    outside = np.ones((240, 320), bool)
    outside[70:190, 130:191] = False
    assert np.array_equal(after[outside], before[outside]), "the scene around the layer is unchanged"


def test_another_view_transform_later_keeps_the_persons_colours(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    standard = render(scene, tmp_path)
    scene.view_settings.view_transform = "Filmic"
    filmic = render(scene, tmp_path)
    assert (filmic[0, 0] != standard[0, 0]).any()
    assert np.abs(filmic[80:180, 140:180].astype(int) - standard[80:180, 140:180]).mean() < 3


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"x": 40.0, "y": -25.0},
        {"flip": True},
        {"opacity": 0.6},
        {"rotation": 0.4},
        {"rotation": -1.1, "flip": True, "scale": 0.7, "x": -30.0},
        {"scale": 1.6, "rotation": math.pi},
        {"x": 0.25, "y": 0.5},
    ],
    ids=["as painted", "moved", "flipped", "faded", "turned", "all", "upside down", "between pixels"],
)
def test_the_composite_is_what_the_layer_says(
    scene: bpy.types.Scene, layer, tmp_path: Path, place: dict[str, float]
) -> None:
    layer.show = False
    background = render(scene, tmp_path)
    layer.show = True
    for name, value in place.items():
        setattr(layer, name, value + (getattr(layer, name) if name in "xy" else 0))
    seen = render(scene, tmp_path)
    rgba = part("scene_picture").pixels(layer.version.image)
    wanted = composed(background, rgba, layer.place, opacity=layer.opacity)
    error = np.abs(seen - wanted).max(-1)
    if bpy.app.version < (4, 5, 0) and {"scale", "rotation"} & place.keys():
        # 4.2's own compositor is up to half a pixel off with what is scaled or turned.
        assert error.mean() < 0.6
    else:
        assert error.max() < 2


def test_feather_and_colour_match(scene: bpy.types.Scene, tmp_path: Path) -> None:
    rgba = np.full((101, 80, 4), 200, np.uint8)
    rgba[..., 3] = 0
    rgba[20:80, 20:60, 3] = 255
    layer = add(scene, rgba, 100, 60, passes=passes(101, 80, 90))
    node = node_of(scene, layer)
    layer.show = False
    background = render(scene, tmp_path)
    layer.show = True
    layer.feather = 10.0
    seen = render(scene, tmp_path).astype(float)
    shown = part("scene_picture").pixels(layer.version.image)
    y, x = np.mgrid[: shown.shape[0], : shown.shape[1]]
    y, x = y - 1, x - 1  # the layer has a clear margin
    inside = np.minimum(np.minimum(y - 19, 80 - y), np.minimum(x - 19, 60 - x))
    wanted = composed(background, shown, layer.place, cover=np.clip(inside / 10.0, 0, 1))
    assert np.abs(seen - wanted).max() < 3
    layer.feather, layer.color_match = 0.0, 0.0
    assert abs(int(render(scene, tmp_path)[110, 140, 0]) - 90) <= 1
    assert node.inputs["Color Match"].default_value == 0.0
    layer.color_match = 1.0
    assert abs(int(render(scene, tmp_path)[110, 140, 0]) - 200) <= 1


def test_a_person_cut_by_the_frame_is_not_feathered_there(scene: bpy.types.Scene) -> None:
    feather_map = part("painting").feather_map
    alpha = np.full((30, 40), 255, np.uint8)
    closed = feather_map(alpha, (False,) * 4)
    assert closed[0, 20] == 4
    assert closed[15, 20] == 15 * 4
    assert closed[14, 20] == 15 * 4
    open_below = feather_map(alpha, (False, False, False, True))
    assert open_below[29, 20] == 20 * 4
    assert open_below[29, 0] == 4
    assert (feather_map(alpha, (True,) * 4) == 255).all()
    hole = alpha.copy()
    hole[10, 10] = 0
    assert feather_map(hole, (True,) * 4)[13, 14] == 5 * 4


def test_the_layer_keeps_its_place_at_another_render_size(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    scene.render.resolution_percentage = 200
    rows, columns = np.nonzero(changed(render(scene, tmp_path)))
    assert abs(rows.min() - 140) <= 2
    assert abs(columns.min() - 260) <= 2
    assert abs(rows.max() + 1 - 380) <= 2


def changed(rendered: np.ndarray) -> np.ndarray:
    return np.abs(rendered.astype(int) - rendered[0, 0]).max(-1) > 8


def test_in_a_frame_of_other_proportions_people_stay_in_proportion(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    from bpy_extras.object_utils import world_to_camera_view

    scene.render.resolution_y = 320  # the camera sees more above and below; 240 rows of it are the picture
    rows, columns = np.nonzero(changed(render(scene, tmp_path)))
    assert (rows.min(), rows.max() + 1) == (70 + 40, 190 + 40)
    assert columns.min() == 130
    bpy.context.view_layer.update()
    bpy.context.view_layer.update()
    view = world_to_camera_view(scene, scene.camera, layer.handle.matrix_world.translation)
    assert (view.x * 320, (1 - view.y) * 320 - 40) == (
        pytest.approx(layer.x, abs=0.02),
        pytest.approx(layer.y, abs=0.02),
    )


def test_a_larger_picture_of_the_same_shot_keeps_layers_in_place(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    before, x = render(scene, tmp_path), layer.x
    bpy.context.view_layer.update()
    matrix = layer.handle.matrix_world.copy()
    part("layers").adopt_picture_size(scene, (640, 480))
    bpy.context.view_layer.update()
    assert layer.x == x
    assert np.allclose(layer.handle.matrix_world.translation, matrix.translation, atol=1e-5)
    assert np.allclose(layer.handle.matrix_world.to_scale(), matrix.to_scale(), rtol=1e-4)
    assert np.array_equal(render(scene, tmp_path), before)


# ---- the handle ------------------------------------------------------------------------------------------


def test_the_handle_moves_the_person_in_the_render(scene: bpy.types.Scene, layer, tmp_path: Path) -> None:
    from bpy_extras.object_utils import world_to_camera_view

    plain = render(scene, tmp_path)
    bpy.context.view_layer.update()
    view = world_to_camera_view(scene, scene.camera, layer.handle.matrix_world.translation)
    assert (view.x * 320, (1 - view.y) * 240) == (
        pytest.approx(layer.x, abs=0.02),
        pytest.approx(layer.y, abs=0.02),
    )
    x, y = layer.x, layer.y
    layer.handle.location.x += 12
    layer.handle.location.y += 5
    assert (layer.x, layer.y) == (pytest.approx(x + 12), pytest.approx(y - 5))
    moved = render(scene, tmp_path)
    assert np.array_equal(moved[65:185, 142:200], plain[70:190, 130:188])
    layer.handle.scale = (-1.2, 1.2, 1.0)
    assert (layer.flip, layer.scale) == (True, pytest.approx(1.2))
    bpy.ops.walkon.reset_layer()
    assert (layer.x, layer.y, layer.scale, layer.flip) == (pytest.approx(x), pytest.approx(y), 1.0, False)
    bpy.ops.walkon.flip_layer()
    assert layer.flip


def test_keyframes_on_the_handle_move_and_fade_the_person(
    scene: bpy.types.Scene, layer, tmp_path: Path
) -> None:
    plain = render(scene, tmp_path)
    handle = layer.handle
    handle.keyframe_insert("location", frame=1)
    handle.keyframe_insert('["Opacity"]', frame=1)
    handle.location.x += 50
    handle["Opacity"] = 0.0
    handle.keyframe_insert("location", frame=11)
    handle.keyframe_insert('["Opacity"]', frame=21)
    handle["Opacity"] = 1.0
    handle.keyframe_insert('["Opacity"]', frame=11)
    scene.frame_set(11)
    assert np.array_equal(render(scene, tmp_path)[70:190, 180:238], plain[70:190, 130:188])
    scene.frame_set(21)
    assert not changed(render(scene, tmp_path)).any()
    scene.frame_set(1)
    assert np.array_equal(render(scene, tmp_path), plain)


def test_hiding(scene: bpy.types.Scene, layer, tmp_path: Path) -> None:
    plain = render(scene, tmp_path)
    layer.show = False
    assert not changed(render(scene, tmp_path)).any()
    bpy.context.view_layer.update()
    assert layer.handle.hide_viewport
    layer.show = True
    assert np.array_equal(render(scene, tmp_path), plain)
    assert not layer.handle.hide_viewport


def test_the_nodes_inputs_are_labelled(scene: bpy.types.Scene, layer) -> None:
    node = node_of(scene, layer)
    names = [socket.name for socket in node.inputs]
    assert names == ["Image", *(name for name, *_ in part("compositor")._INPUTS)]
    sockets = [item for item in layer.group.interface.items_tree if item.in_out == "INPUT"]
    assert all(item.description for item in sockets[1:])
    assert node.label == layer.title == "Person 1"
    drivers = part("compat").compositor_tree(scene).animation_data.drivers
    assert all(curve.driver.is_valid and curve.driver.is_simple_expression for curve in drivers), (
        "no Python in drivers: they run where scripts are forbidden"
    )


# ---- the list --------------------------------------------------------------------------------------------


def wiring(scene: bpy.types.Scene) -> list[tuple[str, str, str, str]]:
    tree = part("compat").compositor_tree(scene)
    return sorted(
        (link.from_node.name, link.from_socket.name, link.to_node.name, link.to_socket.name)
        for link in tree.links
    )


def names() -> list[str]:
    kinds = ("objects", "images", "node_groups", "meshes", "materials", "actions", "textures")
    return sorted(f"{kind}/{thing.name}" for kind in kinds for thing in getattr(bpy.data, kind))


def test_layers_leave_the_artists_nodes_alone_and_no_trace(scene: bpy.types.Scene, tmp_path: Path) -> None:
    compat = part("compat")
    tree = compat.make_compositor_tree(scene)
    output = compat.ensure_output(tree)
    blur = tree.nodes.new("CompositorNodeBlur")
    tree.links.new(output.inputs[0].links[0].from_socket, blur.inputs["Image"])
    tree.links.new(blur.outputs["Image"], output.inputs[0])
    picture_before = render(scene, tmp_path)
    mine, things = wiring(scene), names()
    for x in (30, 200):
        add(scene, picture(), x, 70)
    both = render(scene, tmp_path)
    assert (both[100, 60] != picture_before[100, 60]).any()
    assert (both[100, 230] != picture_before[100, 230]).any()
    bpy.ops.walkon.duplicate_layer()
    layer = scene.walkon.layer
    layer.distance = 3.0
    bpy.ops.walkon.occlude_layer(on=True)
    bpy.ops.walkon.anchor_layer(to="WORLD")
    layer.handle.keyframe_insert("location", frame=1)
    scene.walkon.layer_index = 0
    bpy.ops.walkon.remove_layer()
    assert (render(scene, tmp_path)[100, 60] == picture_before[100, 60]).all()
    bpy.ops.walkon.remove_layer()
    bpy.ops.walkon.remove_layer()
    assert wiring(scene) == mine
    assert np.array_equal(render(scene, tmp_path), picture_before)
    assert names() == things
    animation = tree.animation_data
    assert animation is None or not animation.drivers
    assert not scene.view_layers[0].use_pass_z
    with pytest.raises(RuntimeError, match="There is no layer; press Generate"):
        bpy.ops.walkon.remove_layer()


def test_removing_the_last_layer_switches_a_compositor_of_ours_off(scene: bpy.types.Scene, layer) -> None:
    compat = part("compat")
    assert compat.compositor_tree(scene) is not None
    assert scene.walkon.made_compositor
    bpy.ops.walkon.remove_layer()
    assert compat.compositor_tree(scene) is None
    assert not scene.walkon.made_compositor


def test_order_duplicate_and_rename(scene: bpy.types.Scene, tmp_path: Path) -> None:
    red, green = picture(), picture()
    red[..., :3], green[..., :3] = (200, 10, 10), (10, 200, 10)
    red[..., 3] = green[..., 3] = 255
    add(scene, red)
    add(scene, green, 150)
    work = scene.walkon
    links = wiring(scene)
    assert tuple(render(scene, tmp_path)[100, 170]) == (10, 200, 10), "the last is in front"
    work.layer_index = 0
    bpy.ops.walkon.move_layer(step=1)
    assert [layer.title for layer in work.layers] == ["Person 2", "Person 1"]
    assert work.layer_index == 1
    assert tuple(render(scene, tmp_path)[100, 170]) == (200, 10, 10)
    assert len(wiring(scene)) == len(links)
    bpy.ops.walkon.move_layer(step=1)  # it is the first already
    assert work.layer.title == "Person 1"
    bpy.ops.walkon.move_layer(step=-1)
    assert tuple(render(scene, tmp_path)[100, 170]) == (10, 200, 10)

    work.layer_index = 0
    bpy.ops.walkon.duplicate_layer()
    assert [layer.title for layer in work.layers] == ["Person 1", "Person 3", "Person 2"]
    copy = work.layer
    assert copy.title == "Person 3"
    assert len({layer.uuid for layer in work.layers}) == 3
    assert copy.version.image == work.layers[0].version.image, "pictures are shared"
    copy.x += 40
    shown = render(scene, tmp_path)
    assert tuple(shown[100, 230]) == (200, 10, 10), "only the copy has moved"
    assert tuple(shown[100, 140]) == (200, 10, 10)
    assert tuple(shown[100, 200]) == (10, 200, 10), "the copy is behind what was in front of the original"

    copy.title = "Ada"
    assert copy.handle.name == "Ada"
    assert node_of(scene, copy).label == "Ada"
    bpy.ops.walkon.remove_layer()
    assert work.layers[0].version.image.size[0] > 0, "the original keeps the shared picture"
    assert tuple(render(scene, tmp_path)[100, 140]) == (200, 10, 10)


def test_what_the_artist_removes_can_be_brought_back(scene: bpy.types.Scene, tmp_path: Path) -> None:
    add(scene)
    add(scene, picture(), 150)
    plain = render(scene, tmp_path)
    first = scene.walkon.layers[0]
    tree = part("compat").compositor_tree(scene)
    node = node_of(scene, first)
    source, after = node.inputs["Image"].links[0].from_socket, node.outputs["Image"].links[0].to_socket
    tree.nodes.remove(node)
    tree.links.new(source, after)
    bpy.data.scenes[0].collection.objects.unlink(first.handle)
    scene.walkon.layer_index = 0
    assert part("layers").missing(scene, first) == ["handle", "compositor node"]
    with pytest.raises(RuntimeError, match=r"The handle of 'Person 1' was removed.*Bring Back"):
        bpy.ops.walkon.select_layer()
    bpy.ops.walkon.mend_layer()
    assert not part("layers").missing(scene, first)
    assert np.array_equal(render(scene, tmp_path), plain)
    bpy.ops.walkon.select_layer()
    assert bpy.context.view_layer.objects.active == first.handle


# ---- versions --------------------------------------------------------------------------------------------


def test_versions_are_kept_compared_and_forgotten(scene: bpy.types.Scene, layer, tmp_path: Path) -> None:
    layers = part("layers")
    layer.x += 20
    layer.scale = 0.9
    first = render(scene, tmp_path)
    other = picture(45, 90)[:, ::-1]
    layers.add_version(scene, layer, painting(other, 100, 60))
    assert (layer.version_index, len(layer.versions)) == (1, 2)
    assert layer.scale == 1.0
    second = render(scene, tmp_path)
    assert (second[65, 110] != first[65, 110]).any()
    assert not (second == first).all()
    bpy.ops.walkon.compare_versions()
    assert layer.version_index == 0
    assert np.array_equal(render(scene, tmp_path), first), "in the place where it lay"
    bpy.ops.walkon.compare_versions()
    assert np.array_equal(render(scene, tmp_path), second)
    bpy.ops.walkon.choose_version(step=1)
    assert layer.version_index == 0
    bpy.ops.walkon.remove_version()
    assert np.array_equal(render(scene, tmp_path), second)
    assert len([image for image in bpy.data.images if "Feather" in image.name]) == 1
    with pytest.raises(RuntimeError, match="only one version"):
        bpy.ops.walkon.remove_version()


def test_a_pose_follows_its_layer_and_back(scene: bpy.types.Scene, layer) -> None:
    layers = part("layers")
    layer.x, layer.y, layer.scale, layer.rotation, layer.flip = 100.0, 170.0, 1.3, 0.4, True
    shown = layers.shown_skeleton(scene, layer)
    painted = layer.version.skeleton.skeleton
    # A joint lies on the same pixel of the person, wherever the layer lies. The sides have changed names.
    scale, x, y = layer.version.predicted[2], 130, 70
    joint, mirrored = 4, 7
    on_layer = (painted.xy[joint] - (x - scale, y - scale)) / scale  # the layer has a clear margin
    assert np.allclose(layer.place.matrix @ (*on_layer, 1.0), shown.xy[mirrored], atol=1e-3)
    assert np.allclose(layers.skeleton_to_paint(scene, layer, shown).xy, shown.xy)
    # A pose that is being edited comes along when the layer is moved, turned and mirrored.
    layers.begin_pose(scene, layer)
    layer.x, layer.y, layer.scale, layer.rotation, layer.flip = 160.0, 150.0, 0.9, -0.2, False
    assert np.allclose(
        layers.posed_skeleton(scene, layer).xy, layers.shown_skeleton(scene, layer).xy, atol=1e-3
    )
    layer.handle.keyframe_insert("location", frame=1)
    shown = layers.shown_skeleton(scene, layer)
    assert np.allclose(layers.skeleton_to_paint(scene, layer, shown).xy, painted.xy, atol=1e-3)


# ---- saved and undone ------------------------------------------------------------------------------------


def test_layers_survive_save_and_load(scene: bpy.types.Scene, tmp_path: Path) -> None:
    given = passes(120, 61, 77)
    layer = add(scene, passes=given)
    work = scene.walkon
    part("layers").adopt_picture(scene, part("painting").png(np.full((240, 320, 3), 9, np.uint8)))
    layer.version.picture = work.picture
    layer.version.people.add().skeleton = person(20.0)
    layer.version.provenance, layer.version.seed, layer.actor = '{"a": 1}', 7, "//ada.jpg"
    part("layers").add_version(scene, layer, painting(picture(45, 90), 100, 60))
    layer.opacity, layer.feather, layer.color_match, layer.distance = 0.25, 3.0, 0.5, 4.5
    layer.rotation, layer.flip, layer.scale = 0.3, True, 1.25
    layer.title = "Ada"
    bpy.ops.walkon.duplicate_layer()
    bpy.ops.walkon.occlude_layer(on=True)
    bpy.ops.walkon.duplicate_layer()
    bpy.ops.walkon.anchor_layer(to="WORLD")
    rendered, links = render(scene, tmp_path), wiring(scene)
    kept = [dump(layer) for layer in work.layers]
    path = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    work = scene.walkon
    assert [dump(layer) for layer in work.layers] == kept
    assert wiring(scene) == links
    for image in bpy.data.images:
        if image.name.startswith("Walk-On"):
            assert image.packed_file is not None, image.name
    pixels = part("scene_picture").pixels
    first = work.layers[0].versions[0]
    back = pixels(first.image)
    assert np.array_equal(back[1:121, 1:62], picture())
    assert back[..., 3].sum() == picture()[..., 3].sum(), "a clear margin"
    assert (pixels(first.plain)[1:121, 1:62, :3] == 77).all()
    depth = np.empty(first.depth.size[0] * first.depth.size[1] * first.depth.channels, np.float32)
    first.depth.pixels.foreach_get(depth)
    depth = depth.reshape(first.depth.size[1], first.depth.size[0], -1)[::-1][1:121, 1:62, 0]
    assert np.allclose((depth - 0.5) * part("painting").DEPTH_RANGE, given[0], atol=1e-3)
    assert (pixels(first.normal)[1:121, 1:62, :3] == given[1]).all()
    assert (pixels(first.picture)[..., :3] == 9).all()
    assert np.array_equal(render(scene, tmp_path), rendered)
    work.layers[0].x += 10  # nodes still follow
    assert not np.array_equal(render(scene, tmp_path), rendered)


def dump(group: bpy.types.PropertyGroup) -> dict[str, object]:
    """All that a property group holds, those inside it too; a layer also with what its handle holds."""
    held: dict[str, object] = {}
    for prop in group.bl_rna.properties:
        name, value = prop.identifier, getattr(group, prop.identifier)
        if name == "rna_type":
            continue
        if prop.type == "COLLECTION":
            held[name] = [dump(item) for item in value]
        elif isinstance(value, bpy.types.PropertyGroup):
            held[name] = dump(value)
        elif isinstance(value, bpy.types.ID):
            held[name] = value.name
        elif hasattr(value, "__len__") and not isinstance(value, str):
            held[name] = np.ravel(value).tolist()
        else:
            held[name] = value
    if "handle" in held:
        names = (
            "x",
            "y",
            "scale",
            "rotation",
            "flip",
            "opacity",
            "feather",
            "color_match",
            "show",
            "distance",
        )
        held["looks"] = [getattr(group, name) for name in names]
    return held


def test_every_step_is_undone_and_redone(scene: bpy.types.Scene, tmp_path: Path) -> None:
    bpy.context.preferences.edit.use_global_undo = True

    def step(name: str, do) -> None:
        do()
        bpy.context.view_layer.update()
        bpy.ops.ed.undo_push(message=name)
        states.append(([dump(layer) for layer in work().layers], compositing()))

    def work():
        return bpy.context.scene.walkon

    def compositing():
        return wiring(bpy.context.scene) if part("compat").compositor_tree(bpy.context.scene) else None

    states: list[object] = []
    walkon = bpy.ops.walkon
    step("nothing", lambda: None)
    step("add", lambda: add(bpy.context.scene))
    step("another", lambda: add(bpy.context.scene, picture(), 20))
    step("move", lambda: setattr(work().layer, "x", 77.0))
    step("fade", lambda: setattr(work().layer, "opacity", 0.5))
    step("flip", walkon.flip_layer)
    step(
        "version",
        lambda: part("layers").add_version(bpy.context.scene, work().layer, painting(picture(45, 90))),
    )
    step("compare", walkon.compare_versions)
    step("forget", walkon.remove_version)
    step("order", lambda: walkon.move_layer(step=-1))
    step("rename", lambda: setattr(work().layer, "title", "Ada"))
    step("distance", lambda: setattr(work().layer, "distance", 4.0))
    step("occlude", lambda: walkon.occlude_layer(on=True))
    step("world", lambda: walkon.anchor_layer(to="WORLD"))
    step("screen", lambda: walkon.anchor_layer(to="SCREEN"))
    step("duplicate", walkon.duplicate_layer)
    step("reset", walkon.reset_layer)
    step("remove", walkon.remove_layer)
    step("remove all", lambda: [walkon.remove_layer(), walkon.remove_layer()])
    for expected in reversed(states[:-1]):
        bpy.ops.ed.undo()
        assert ([dump(layer) for layer in work().layers], compositing()) == expected
    for expected in states[1:]:
        bpy.ops.ed.redo()
        assert ([dump(layer) for layer in work().layers], compositing()) == expected
    bpy.ops.ed.undo()
    bpy.ops.ed.undo()
    work().layer.x += 5
    render(bpy.context.scene, tmp_path)
