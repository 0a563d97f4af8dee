# SPDX-License-Identifier: Apache-2.0
"""Layers where the add-on is not: in a Blender without it and back, in copies of a scene."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import MODULE, part, render
from test_layers import add, changed, dump, picture


@pytest.fixture
def enabled_again(installed: str) -> Iterator[None]:
    yield
    if MODULE not in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_enable(module=MODULE)


def test_a_file_goes_through_a_blender_without_the_add_on_and_back(
    enabled_again: None, scene: bpy.types.Scene, tmp_path: Path
) -> None:
    add(scene)
    layer = add(scene, picture(), 20)
    layer.opacity, layer.rotation = 0.5, 0.2
    layer.handle.keyframe_insert("location", frame=1)
    layer.handle.location.x += 40
    layer.handle.keyframe_insert("location", frame=10)
    scene.frame_set(1)
    first = render(scene, tmp_path)
    scene.frame_set(10)
    tenth = render(scene, tmp_path)
    kept = [dump(layer) for layer in scene.walkon.layers]
    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)

    bpy.ops.preferences.addon_disable(module=MODULE)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    assert np.array_equal(render(scene, tmp_path), tenth)
    scene.frame_set(1)
    assert np.array_equal(render(scene, tmp_path), first), "keyframes and nodes need no add-on"
    handle = bpy.data.objects["Person 1"]
    handle.location.x += 12
    moved = render(scene, tmp_path)
    assert np.array_equal(moved[70:190, 152:200], first[70:190, 140:188])
    handle.location.x -= 12
    scene.frame_set(10)
    bpy.ops.wm.save_as_mainfile(filepath=path)

    bpy.ops.preferences.addon_enable(module=MODULE)
    bpy.ops.wm.open_mainfile(filepath=path)
    scene = bpy.context.scene
    assert [dump(layer) for layer in scene.walkon.layers] == kept
    assert np.array_equal(render(scene, tmp_path), tenth)
    bpy.ops.walkon.remove_layer()
    bpy.ops.walkon.remove_layer()
    assert not scene.walkon.layers


@pytest.mark.parametrize("kind", ["LINK_COPY", "FULL_COPY"])
def test_layers_of_a_copied_scene_are_removed_without_harm_to_the_original(
    scene: bpy.types.Scene, tmp_path: Path, kind: str
) -> None:
    add(scene)
    plain = render(scene, tmp_path)
    name = scene.name
    bpy.ops.scene.new(type=kind)
    copy = bpy.context.scene
    assert copy.name != name
    while copy.walkon.layers:
        part("layers").remove(copy, 0)
    bpy.data.scenes.remove(copy)
    scene = bpy.data.scenes[name]
    assert len(scene.walkon.layers) == 1
    assert changed(plain).any()
    assert np.array_equal(render(scene, tmp_path), plain)
    assert scene.walkon.layer.handle is not None
    assert scene.walkon.layer.version.image.packed_file is not None


def test_a_scene_with_layers_is_removed(scene: bpy.types.Scene) -> None:
    other = bpy.data.scenes.new("Other")
    other.camera = scene.camera
    other.walkon.picture_size = 320, 240
    add(other)
    bpy.data.scenes.remove(other)
    bpy.context.view_layer.update()
    bpy.ops.outliner.orphans_purge(do_recursive=True)
    assert not [image for image in bpy.data.images if image.name.startswith("Walk-On")]
    assert not [group for group in bpy.data.node_groups if group.name.startswith("Walk-On")]
