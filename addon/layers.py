# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers: inserted people, each with a handle in the viewport, a node group in the compositor and its history.

The handle is the truth of how a layer looks: an empty that shows the person in the camera view, whose location,
scale and rotation are pixels of the picture, and whose custom properties are opacity and the like. Nodes and cards
are driven by it, so that Blender's own tools, keyframes and undo work throughout.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Matrix

from . import camera_plane, compat, compositor, world_card
from .compositor import KEY
from .geometry import feet
from .layer_place import placed, unplaced
from .painting import FEATHER_MAX, Painting
from .scene_picture import PICTURE_NAME, colour_space, packed_image
from .shared.errors import BadInput
from .shared.skeleton import Skeleton

if TYPE_CHECKING:
    from .layer_properties import WalkOnLayer, WalkOnVersion

LOOKS: dict[str, tuple[object, dict[str, object]]] = {
    "Opacity": (
        1.0,
        {"min": 0.0, "max": 1.0, "subtype": "FACTOR", "description": "How much of the person is seen"},
    ),
    "Feather": (
        0.0,
        {
            "min": 0.0,
            "max": FEATHER_MAX,
            "description": "Softens the outline inwards, over so many pixels of the layer",
        },
    ),
    "Color Match": (
        1.0,
        {
            "min": 0.0,
            "max": 1.0,
            "subtype": "FACTOR",
            "description": "0 has the photo's own colors, 1 those matched to the picture",
        },
    ),
    "Distance": (
        0.0,
        {"min": 0.0, "soft_max": 100.0, "description": "How far from the camera the person stands"},
    ),
    "Show": (True, {"description": "Whether the layer is in the picture"}),
}
"""Custom properties of a handle: their defaults and what their fields show."""


# ---- making and removing ---------------------------------------------------------------------------------


def add(scene: bpy.types.Scene, painting: Painting) -> WalkOnLayer:
    """Put a person into the scene.

    Raises:
        BadInput: no camera.
    """
    parent = camera_plane.plane(scene)
    work = scene.walkon
    layer = work.layers.add()
    layer.uuid = uuid.uuid4().hex
    layer.picture_size = work.picture_size
    layer.title = _free_title(work, f"Person {len(work.layers)}")
    layer.handle = _make_handle(scene, layer)
    layer.handle.parent = parent
    layer.group = compositor.make_group(f"Walk-On {layer.title}", layer.uuid)
    work.layer_index = len(work.layers) - 1
    add_version(scene, layer, painting)
    compositor.insert(scene, layer)
    return layer


def add_version(scene: bpy.types.Scene, layer: WalkOnLayer, painting: Painting) -> WalkOnVersion:
    """Give a layer a new result, shown in the place it was painted for; the earlier ones are kept."""
    keep_place(layer)
    version = layer.versions.add()
    version.made = datetime.datetime.now().isoformat(" ", "seconds")
    name = f"Walk-On {layer.title} {len(layer.versions)}"
    space, _ = colour_space(scene)
    version.image = packed_image(name, painting.person, space)
    version.feather = packed_image(f"{name} Feather", painting.feather, "Non-Color")
    if painting.plain is not None:
        version.plain = packed_image(f"{name} Own Colors", painting.plain, space)
    if painting.depth is not None:
        version.depth = packed_image(f"{name} Depth", painting.depth, "Non-Color")
    if painting.normal is not None:
        version.normal = packed_image(f"{name} Normals", painting.normal, "Non-Color")
    version.image_size = painting.size
    version.skeleton.skeleton = painting.skeleton
    at = feet(painting.skeleton)
    version.anchor = (at[0] - painting.x) / painting.scale, (at[1] - painting.y) / painting.scale
    version.sole, version.whole = painting.sole, painting.whole
    version.predicted = *at, painting.scale
    version.place = *at, 1.0, 0.0, 0.0
    scene.walkon.view_transform = scene.view_settings.view_transform
    layer.version_index = len(layer.versions) - 1  # shows it
    return version


def duplicate(scene: bpy.types.Scene, index: int) -> WalkOnLayer:
    """A layer like that one, right in front of it; its pictures are shared."""
    work = scene.walkon
    work.layers.add()
    original, layer = work.layers[index], work.layers[-1]
    keep_place(original)
    _copy(original, layer)
    layer.uuid = uuid.uuid4().hex
    layer.handle = original.handle.copy()
    if layer.handle.animation_data is not None and layer.handle.animation_data.action is not None:
        layer.handle.animation_data.action = layer.handle.animation_data.action.copy()
    layer.handle[KEY] = layer.uuid
    scene.collection.objects.link(layer.handle)
    layer.title = _free_title(work, original.title)
    if original.card is not None:
        world_card.build(scene, layer)
        layer.station.matrix_basis = original.station.matrix_basis
        layer.handle.matrix_parent_inverse = original.handle.matrix_parent_inverse
    layer.group = compositor.make_group(f"Walk-On {layer.title}", layer.uuid)
    compositor.fill(layer.group, layer.version, tuple(layer.picture_size), False)
    node = compositor.node_of(scene, original)
    hidden = node is not None and compositor.is_occluded(node)
    compositor.insert(scene, layer)
    compositor.occlude(scene, layer, hidden)
    for at in range(len(work.layers) - 1, index + 1, -1):
        move(scene, at, -1)
    work.layer_index = index + 1
    return work.layers[index + 1]


_OWN = ("rna_type", "title", "handle", "group", "station", "card")
"""What a duplicate must not share."""


def _copy(source: bpy.types.PropertyGroup, target: bpy.types.PropertyGroup) -> None:
    """All properties, those inside it too; names of things in the file stay names of the same things."""
    for prop in source.bl_rna.properties:
        name = prop.identifier
        if name in _OWN:
            continue
        if prop.type == "COLLECTION":
            for item in getattr(source, name):
                _copy(item, getattr(target, name).add())
        elif isinstance(getattr(source, name), bpy.types.PropertyGroup):
            _copy(getattr(source, name), getattr(target, name))
        elif not prop.is_readonly:
            setattr(target, name, getattr(source, name))


def remove(scene: bpy.types.Scene, index: int) -> None:
    """Take a layer out of the file: list, handle, card, nodes, and the pictures that nothing else uses.

    A copy of the scene may have the same layer; what it needs of it stays.
    """
    work = scene.walkon
    layer = work.layers[index]
    twins = [
        (other, twin)
        for other in bpy.data.scenes
        for twin in other.walkon.layers
        if other != scene and twin.uuid == layer.uuid
    ]
    tree = compat.compositor_tree(scene)
    if not any(compat.compositor_tree(other) == tree for other, _ in twins):
        compositor.remove(scene, layer)
    if not any(twin.card == layer.card for _, twin in twins):
        world_card.remove(layer)
    images = [image for version in layer.versions for image in _images(version)]
    group, handle = layer.group, layer.handle
    keep_handle = any(twin.handle == handle for _, twin in twins)
    keep_group = any(twin.group == group for _, twin in twins)
    work.layers.remove(index)
    work.layer_index = max(0, min(work.layer_index, len(work.layers) - 1))
    if handle is not None and not keep_handle:
        action = handle.animation_data.action if handle.animation_data is not None else None
        bpy.data.objects.remove(handle)
        if action is not None and action.users == 0:
            bpy.data.actions.remove(action)
    if group is not None and not keep_group:
        bpy.data.node_groups.remove(group)
    _drop(images)
    if not work.layers and not twins:
        if work.made_compositor:
            work.made_compositor = False
            if compositor.is_plain(compat.compositor_tree(scene)):
                compat.drop_compositor_tree(scene)
        camera_plane.tidy(scene)


def remove_version(scene: bpy.types.Scene, layer: WalkOnLayer, index: int) -> None:
    """Forget one result of a layer; the last one cannot be forgotten.

    Raises:
        BadInput: it is the only one.
    """
    if len(layer.versions) == 1:
        raise BadInput(f"'{layer.title}' has only this version", "Remove the layer instead", "layer")
    keep_place(layer)
    shown = layer.version_index
    images = _images(layer.versions[index])
    layer.versions.remove(index)
    layer.shown_index = -1
    layer.compared_index = min(layer.compared_index, len(layer.versions) - 1)
    layer.version_index = min(shown - (index < shown), len(layer.versions) - 1)
    _drop(images)


def _images(version: WalkOnVersion) -> list[bpy.types.Image]:
    images = (getattr(version, name) for name in ("image", "plain", "feather", "depth", "normal", "picture"))
    return [image for image in images if image is not None]


def _drop(images: list[bpy.types.Image]) -> None:
    """The artist, or another layer, may use a picture elsewhere."""
    for image in set(images):
        if image.users == 0:
            bpy.data.images.remove(image)


def _free_title(work: bpy.types.PropertyGroup, wanted: str) -> str:
    taken = {layer.title for layer in work.layers}
    if wanted not in taken:
        return wanted
    stem = wanted.rstrip("0123456789").rstrip()
    return next(f"{stem} {number}" for number in range(2, len(taken) + 3) if f"{stem} {number}" not in taken)


def rename(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Everything that belongs to the layer is called as the artist calls it."""
    if layer.handle is None or layer.group is None:
        return  # it is just being made
    layer.handle.name = layer.title
    layer.group.name = f"Walk-On {layer.title}"
    node = compositor.node_of(scene, layer)
    if node is not None:
        compositor.name_node(node, layer)


# ---- what is shown ---------------------------------------------------------------------------------------


def keep_place(layer: WalkOnLayer) -> None:
    """Note where the version lies that is shown, for when it is shown again."""
    if 0 <= layer.shown_index < len(layer.versions):
        layer.versions[layer.shown_index].place = layer.x, layer.y, layer.scale, layer.rotation, layer.flip


def is_animated(layer: WalkOnLayer) -> bool:
    """Whether keyframes say where the layer is."""
    animation = layer.handle.animation_data
    return animation is not None and animation.action is not None


def show_version(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Let handle, nodes and card show the chosen version, in the place where it lay when it was last shown."""
    index = min(layer.version_index, len(layer.versions) - 1)
    if index != layer.version_index:
        layer.version_index = index  # comes back here
        return
    if index == layer.shown_index or layer.group is None:
        return
    keep_place(layer)
    layer.compared_index, layer.shown_index = max(0, layer.shown_index), index
    version, handle = layer.versions[index], layer.handle
    handle.data = version.image
    width, height = version.image_size
    # In the handle's space a unit is a pixel of the picture; its origin is the layer's anchor, the feet.
    scale = version.predicted[2]
    handle.empty_display_size = max(width, height) * scale
    handle.empty_image_offset = -version.anchor[0] / width, version.anchor[1] / height - 1.0
    if not is_animated(layer):
        layer.x, layer.y, layer.scale, layer.rotation, layer.flip = version.place
    node = compositor.node_of(scene, layer)
    hidden = node is not None and compositor.is_occluded(node)
    compositor.fill(layer.group, version, tuple(layer.picture_size), hidden)
    world_card.refresh(layer)


def reset(layer: WalkOnLayer) -> None:
    """Back to the place and size that the server gave, and to a full, hard-edged layer."""
    layer.x, layer.y, _ = layer.version.predicted
    layer.flip, layer.scale, layer.rotation = False, 1.0, 0.0
    layer.opacity, layer.feather, layer.color_match = 1.0, 0.0, 1.0


def follow_view(scene: bpy.types.Scene) -> None:
    """Another view transform needs another colour space, so that the people keep their colours."""
    work, transform = scene.walkon, scene.view_settings.view_transform
    if work.layers and work.view_transform != transform:
        work.view_transform = transform
        space, _ = colour_space(scene)
        for layer in work.layers:
            for version in layer.versions:
                for image in (version.image, version.plain):
                    if image is not None:
                        image.colorspace_settings.name = space


def adopt_picture(scene: bpy.types.Scene, file: bytes) -> None:
    """The scene's picture, a PNG file, is another one now. Layers keep the one that they were painted for."""
    work = scene.walkon
    old = work.picture
    kept = any(version.picture == old for layer in work.layers for version in layer.versions)
    work.picture = packed_image(PICTURE_NAME, file, "sRGB", over=None if kept else old)


def adopt_picture_size(scene: bpy.types.Scene, size: tuple[int, int]) -> None:
    """All coordinates of the scene now refer to a picture of this size; layers keep their place in it.

    A layer stays in pixels of its own picture, so that keyframes stay true: only what it hangs on grows.
    """
    scene.walkon.picture_size = size
    camera_plane.fit(scene)
    for layer in scene.walkon.layers:
        if layer.card is None:
            _hang(scene, layer)


def _hang(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """On the plane before the camera."""
    grow = np.divide(scene.walkon.picture_size, layer.picture_size)
    layer.handle.parent = camera_plane.plane(scene)
    layer.handle.matrix_parent_inverse = Matrix.Diagonal((*grow, grow[0], 1.0))
    layer.handle.empty_image_depth = "FRONT"


def _make_handle(scene: bpy.types.Scene, layer: WalkOnLayer) -> bpy.types.Object:
    """An image empty: seen in every shading of the viewport, never rendered, moved with Blender's own tools."""
    handle = bpy.data.objects.new(layer.title, None)
    handle[KEY] = layer.uuid
    handle.empty_display_type = "IMAGE"
    handle.empty_image_depth = "FRONT"
    handle.use_empty_image_alpha = True
    handle.lock_location = False, False, True
    handle.lock_rotation = True, True, False
    handle.hide_render = True
    for name, (default, shown) in LOOKS.items():
        handle[name] = default
        handle.id_properties_ui(name).update(default=default, **shown)
    compositor.drive(handle, "color", "o", handle, {"o": '["Opacity"]'}, 3)
    compositor.drive(handle, "hide_viewport", "s < 1", handle, {"s": '["Show"]'})
    scene.collection.objects.link(handle)
    return handle


# ---- order -----------------------------------------------------------------------------------------------


def move(scene: bpy.types.Scene, index: int, step: int) -> None:
    """Farther back (-1) or to the front (1) by one; at the end of the list nothing happens."""
    work, other = scene.walkon, index + step
    if not 0 <= other < len(work.layers):
        return
    compositor.swap(scene, work.layers[index], work.layers[other])
    work.layers.move(index, other)
    if work.layer_index == index:
        work.layer_index = other


def set_occluded(scene: bpy.types.Scene, layer: WalkOnLayer, on: bool) -> None:
    """Let the scene's objects that are nearer than the person cover the layer.

    Raises:
        BadInput: nothing to stand on that would tell the distance.
    """
    if on and layer.distance == 0:
        layer.distance = world_card.standing_distance(scene, layer)
    compositor.occlude(scene, layer, on)


def set_world(scene: bpy.types.Scene, layer: WalkOnLayer, on: bool) -> None:
    """Fix the layer to the place in the scene where its feet are, or to the screen again.

    Raises:
        BadInput: no camera, or nothing to stand on that would tell the distance.
    """
    if on == (layer.card is not None):
        return
    if on:
        if layer.distance == 0:
            layer.distance = world_card.standing_distance(scene, layer)
        world_card.build(scene, layer)
    else:
        world_card.remove(layer)
        _hang(scene, layer)
    node = compositor.node_of(scene, layer)
    if node is not None:
        node.mute = on


def measure(scene: bpy.types.Scene, layer: WalkOnLayer) -> float:
    """Find the distance anew, after the layer or the scene has changed; see `world_card.standing_distance`.

    Raises:
        BadInput: no camera, or nothing to stand on.
    """
    layer.distance = world_card.standing_distance(scene, layer)
    return float(layer.distance)


# ---- mending ---------------------------------------------------------------------------------------------


def missing(scene: bpy.types.Scene, layer: WalkOnLayer) -> list[str]:
    """What the artist took away of what shows the layer: its handle, its node."""
    lacks = []
    if layer.handle.name not in scene.objects:
        lacks.append("handle")
    if compositor.node_of(scene, layer) is None:
        lacks.append("compositor node")
    return lacks


def mend(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Bring back what `missing` names, where it was."""
    lacks = missing(scene, layer)
    if "handle" in lacks:
        scene.collection.objects.link(layer.handle)
        if layer.card is None:
            _hang(scene, layer)
    if "compositor node" in lacks:
        compositor.insert(scene, layer)


# ---- poses -----------------------------------------------------------------------------------------------


def shown_skeleton(scene: bpy.types.Scene, layer: WalkOnLayer) -> Skeleton:
    """The layer's pose where the layer lies now, in pixels of the scene's picture."""
    version = layer.version
    seen = placed(version.skeleton.skeleton, tuple(version.predicted[:2]), layer.place, layer.scale)
    return resized(seen, layer.picture_size, scene.walkon.picture_size)


def begin_pose(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """What is posed from now on is the layer as it is shown now."""
    layer.pose.title = layer.title
    layer.pose.skeleton = shown_skeleton(scene, layer)
    layer.posed_at = layer.x, layer.y, layer.scale, layer.rotation, layer.flip


def posed_skeleton(scene: bpy.types.Scene, layer: WalkOnLayer) -> Skeleton:
    """The edited pose, in pixels of the scene's picture; when the layer was moved since, it has come along."""
    x, y, scale, rotation, flip = layer.posed_at
    painted_at = tuple(layer.version.predicted[:2])
    before = replace(layer.place, x=x, y=y, rotation=rotation, flip=flip > 0)
    own = resized(layer.pose.edited.skeleton, scene.walkon.picture_size, layer.picture_size)
    now = placed(unplaced(own, painted_at, before, scale), painted_at, layer.place, layer.scale)
    return resized(now, layer.picture_size, scene.walkon.picture_size)


def resized(skeleton: Skeleton, size: Sequence[int], to: Sequence[int]) -> Skeleton:
    """A pose in pixels of a picture, in those of the picture at another size."""
    return Skeleton(skeleton.xy * np.divide(to, size), skeleton.visible, skeleton.score)


def skeleton_to_paint(scene: bpy.types.Scene, layer: WalkOnLayer, shown: Skeleton) -> Skeleton:
    """The pose to ask for, in pixels of the layer's picture, so that it is seen as `shown`.

    A layer whose place is keyframed keeps its keyframes: it is painted where it was painted before.
    """
    own = resized(shown, scene.walkon.picture_size, layer.picture_size)
    if is_animated(layer):
        return unplaced(own, tuple(layer.version.predicted[:2]), layer.place, layer.scale)
    return own
