# SPDX-License-Identifier: Apache-2.0
"""How long Blender's main thread is held: a 1080p render to the request, a layer to a packed image, fifty layers.

`pytest --log-cli-level=INFO` prints the figures of docs/blender.md. What is asserted are the thread's own CPU
seconds, which a busy machine changes least; they are about half of the goals, since a test machine may be slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import part
from test_layers import person


def seconds(what: str, do: Callable[[], object], times: int = 5) -> float:
    """CPU milliseconds of this thread, the best of some tries."""
    own, clock = [], []
    for _ in range(times):
        start, wall = time.thread_time(), time.perf_counter()
        do()
        own.append(1000 * (time.thread_time() - start))
        clock.append(1000 * (time.perf_counter() - wall))
    logging.getLogger(__name__).info(
        "%s: %.1f ms of the main thread, %.1f ms by the clock", what, min(own), min(clock)
    )
    return min(own)


def painted(height: int = 800, width: int = 360):
    """A person as large as a 1080p frame takes, with all passes, as the worker's thread hands it over."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(90, 110, (height, width, 4)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 < 1
    rgba[..., 3] = 255 * inside
    passes = [np.zeros((height, width), np.float16), rgba[..., :3], rgba[..., :3]]
    skeleton = person(700.0, 110.0, 700.0)
    return part("painting").Painting.of(rgba, 520, 100, 1.0, skeleton, (1920, 1080), passes=passes)


@pytest.fixture
def full(scene: bpy.types.Scene) -> bpy.types.Scene:
    """A 1080p frame, in AgX as new files are."""
    scene.render.resolution_x, scene.render.resolution_y = 1920, 1080
    scene.walkon.picture_size = 1920, 1080
    scene.view_settings.view_transform = "AgX"
    return scene


def test_a_render_is_on_its_way_soon(full: bpy.types.Scene) -> None:
    bpy.ops.render.render()
    assert part("scene_picture").scene_picture(full).read().shape == (1080, 1920, 3)
    assert (
        seconds("1080p Render Result to the request", lambda: part("scene_picture").scene_picture(full)) < 80
    )


def test_a_layer_is_there_at_once(full: bpy.types.Scene) -> None:
    layers, made = part("layers"), painted()
    assert (
        seconds("the server's answer to a packed layer with handle and nodes", lambda: layers.add(full, made))
        < 60
    )
    assert seconds("... and as a new version", lambda: layers.add_version(full, full.walkon.layer, made)) < 60


def test_fifty_layers(full: bpy.types.Scene, tmp_path: Path) -> None:
    layers, made = part("layers"), painted(80, 36)
    for _ in range(49):
        layers.add(full, made)
    assert seconds("the fiftieth layer", lambda: layers.add(full, made), times=1) < 60
    first = full.walkon.layers[0]

    def drag() -> None:
        first.x += 1
        bpy.context.view_layer.update()

    assert seconds("dragging one of fifty", drag) < 50
    assert (
        seconds(
            "hiding it", lambda: (setattr(first, "show", not first.show), bpy.context.view_layer.update())
        )
        < 50
    )
    assert seconds("to the front of fifty", lambda: layers.move(full, 0, 1)) < 100
    panel = part("layer_panel")
    assert (
        seconds(
            "what the panel asks of a layer",
            lambda: (layers.missing(full, first), panel.node_of(full, first)),
        )
        < 5
    )
    titles = [layer.title for layer in full.walkon.layers]
    assert len(set(titles)) == 50
    path = str(tmp_path / "fifty.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    full = bpy.context.scene
    assert [layer.title for layer in full.walkon.layers] == titles
    assert not any(layers.missing(full, layer) for layer in full.walkon.layers)
    while full.walkon.layers:
        layers.remove(full, 0)
    assert not [thing for thing in bpy.data.objects if thing.name.startswith("Person")]
