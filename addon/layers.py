# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers: a person's picture as a card in the camera view and as one node group in the compositor.

The layer's properties are the truth; card and nodes follow them. A card that the artist drags is read back, so
that moving it in the viewport moves the person in the render. Nothing else of the artist's is rewired: a node
group is inserted before the output, and taken out again without trace.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import bpy
import numpy as np
from numpy.typing import NDArray

from . import camera_plane, compat
from .colour import image_colour_space
from .geometry import LayerPlace, feet
from .scene_picture import make_image
from .shared.skeleton import Skeleton

if TYPE_CHECKING:
    from .properties import WalkOnLayer

_KEY = "walkon_layer"


def add(
    scene: bpy.types.Scene, rgba: NDArray[np.uint8], x: float, y: float, scale: float, skeleton: Skeleton
) -> WalkOnLayer:
    """Put a person into the scene.

    Args:
        rgba (`(h, w, 4)` uint8): sRGB as shown, straight alpha.
        x, y (`float`): pixel of the picture in which its top-left corner lies.
        scale (`float`): picture pixels per layer pixel.
        skeleton (`Skeleton`): the pose that was painted, in pixels of the picture.

    Raises:
        BadInput: no camera.
    """
    parent = camera_plane.plane(scene)
    work = scene.walkon
    layer = work.layers.add()
    work.layer_index = len(work.layers) - 1
    layer.uuid = uuid.uuid4().hex
    layer.title = f"Person {len(work.layers)}"
    name = f"Walk-On {layer.title} {layer.uuid[:6]}"
    layer.view_transform = scene.view_settings.view_transform
    space, _ = image_colour_space(layer.view_transform, compat.colour_spaces())
    # Blender's compositor puts a picture of odd size half a pixel off the grid of an even frame, and blurs it.
    odd = [(size - frame) % 2 for size, frame in zip(rgba.shape[1::-1], work.picture_size, strict=True)]
    rgba = np.pad(rgba, ((0, odd[1]), (0, odd[0]), (0, 0)))
    layer.image = make_image(name, rgba, space)
    layer.image_size = rgba.shape[1], rgba.shape[0]
    layer.skeleton.skeleton = skeleton
    at = feet(skeleton)
    layer.anchor = (at[0] - x) / scale, (at[1] - y) / scale
    layer.predicted = *at, scale
    layer.handle = _make_card(scene, layer, name, parent)
    layer.group = _make_group(layer, name)
    _insert_node(scene, layer)
    reset(layer)
    return layer


def reset(layer: WalkOnLayer) -> None:
    """Back to the place and size that the server gave."""
    x, y, _ = layer.predicted
    layer.x, layer.y, layer.scale, layer.flip, layer.opacity = x, y, 1.0, False, 1.0


def remove(scene: bpy.types.Scene, index: int) -> None:
    """Take a layer out of the file: list, card, nodes and image."""
    work = scene.walkon
    layer = work.layers[index]
    _remove_node(scene, layer)
    image, group, handle = layer.image, layer.group, layer.handle
    work.layers.remove(index)
    work.layer_index = min(work.layer_index, len(work.layers) - 1)
    if handle is not None:
        bpy.data.objects.remove(handle)
    if group is not None:
        bpy.data.node_groups.remove(group)
    # The artist may use the picture elsewhere.
    if image is not None and image.users == 0:
        bpy.data.images.remove(image)
    if not work.layers:
        if work.made_compositor:
            work.made_compositor = False
            if _is_plain(compat.compositor_tree(scene)):
                compat.drop_compositor_tree(scene)
        camera_plane.tidy(scene)


def adopt_picture_size(scene: bpy.types.Scene, size: tuple[int, int]) -> None:
    """All coordinates of the scene now refer to a picture of this size; layers keep their place in it."""
    work = scene.walkon
    old = tuple(work.picture_size)
    work.picture_size = size
    if old != size and 0 not in old:
        grow = size[0] / old[0], size[1] / old[1]
        for layer in work.layers:
            x, y, scale = layer.predicted
            layer.predicted = x * grow[0], y * grow[1], scale * grow[0]
            layer.x, layer.y = layer.x * grow[0], layer.y * grow[1]
    camera_plane.fit(scene)


# ---- from the properties to what is seen -----------------------------------------------------------------


def place(layer: WalkOnLayer) -> LayerPlace:
    """Where the layer lies, as the type that the geometry works with."""
    return LayerPlace(
        layer.x,
        layer.y,
        layer.scale * layer.predicted[2],
        layer.flip,
        tuple(layer.anchor),
        tuple(layer.image_size),
    )


def sync(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Make card and nodes follow the layer's properties."""
    at = place(layer)
    card = layer.handle
    if card is not None:
        location, size = (at.x, -at.y, 0.0), (-at.scale if at.flip else at.scale, at.scale, 1.0)
        if not np.allclose(card.location, location, atol=1e-4):
            card.location = location
        if not np.allclose(card.scale, size, atol=1e-6):
            card.scale = size
        card.color[3] = layer.opacity
        card.hide_viewport = not layer.show
    node = _node(scene, layer)
    if node is not None:
        render = scene.render
        rendered = tuple(
            max(1, value * render.resolution_percentage // 100)
            for value in (render.resolution_x, render.resolution_y)
        )
        x, y, scale = at.compositor(tuple(scene.walkon.picture_size), rendered)
        opacity = layer.opacity if layer.show else 0.0
        for name, value in (("X", x), ("Y", y), ("Scale", scale), ("Opacity", opacity)):
            if node.inputs[name].default_value != value:
                node.inputs[name].default_value = value
    if layer.group is not None:
        flip = layer.group.nodes["Flip"]
        if flip.mute == layer.flip:
            flip.mute = not layer.flip


def sync_all(scene: bpy.types.Scene) -> None:
    """`sync` every layer of the scene, also with its view transform."""
    transform = scene.view_settings.view_transform
    for layer in scene.walkon.layers:
        if layer.view_transform != transform:
            layer.view_transform = transform
            layer.image.colorspace_settings.name = image_colour_space(transform, compat.colour_spaces())[0]
        sync(scene, layer)


def read_cards(scene: bpy.types.Scene) -> None:
    """Take over what the artist did to the cards in the viewport."""
    for layer in scene.walkon.layers:
        card = layer.handle
        if card is None:
            continue
        # Read all first: every property that is set writes the card.
        at, x, y, scale = place(layer), card.location.x, -card.location.y, abs(card.scale.y)
        if abs(x - at.x) > 1e-3:
            layer.x = x
        if abs(y - at.y) > 1e-3:
            layer.y = y
        if abs(scale - at.scale) > 1e-5 * at.scale:
            layer.scale = scale / layer.predicted[2]


# ---- the card --------------------------------------------------------------------------------------------


def _make_card(
    scene: bpy.types.Scene, layer: WalkOnLayer, name: str, parent: bpy.types.Object
) -> bpy.types.Object:
    """An image empty: seen in every shading of the viewport, never rendered, moved with Blender's own tools."""
    card = bpy.data.objects.new(name, None)
    card.empty_display_type = "IMAGE"
    card.data = layer.image
    width, height = layer.image_size
    # In the plane's space a unit is a pixel; the origin of the card is the layer's anchor, the feet.
    card.empty_display_size = max(width, height)
    card.empty_image_offset = -layer.anchor[0] / width, layer.anchor[1] / height - 1.0
    card.empty_image_depth = "FRONT"
    card.use_empty_image_alpha = True
    card.parent = parent
    card.lock_location = False, False, True
    card.lock_rotation = True, True, True
    card.hide_render = True
    card[_KEY] = layer.uuid
    scene.collection.objects.link(card)
    return card


# ---- the nodes -------------------------------------------------------------------------------------------


def _make_group(layer: WalkOnLayer, name: str) -> bpy.types.NodeTree:
    group = bpy.data.node_groups.new(name, "CompositorNodeTree")
    group[_KEY] = layer.uuid
    for socket, kind in (
        ("Image", "NodeSocketColor"),
        ("X", "NodeSocketFloat"),
        ("Y", "NodeSocketFloat"),
        ("Scale", "NodeSocketFloat"),
        ("Opacity", "NodeSocketFloat"),
    ):
        group.interface.new_socket(socket, in_out="INPUT", socket_type=kind)
    group.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    nodes = [
        group.nodes.new(kind)
        for kind in (
            "NodeGroupInput",
            "CompositorNodeImage",
            "CompositorNodeFlip",
            "CompositorNodeTransform",
            "CompositorNodeAlphaOver",
            "NodeGroupOutput",
        )
    ]
    for column, node in enumerate(nodes):
        node.location = 220 * column, 0
    source, image, flip, move, over, output = nodes
    image.image = layer.image
    flip.name = "Flip"
    compat.set_flip_axis(flip)
    compat.set_bilinear(move)
    background, foreground, factor = compat.alpha_over_sockets(over)
    link = group.links.new
    link(image.outputs["Image"], flip.inputs["Image"])
    link(flip.outputs["Image"], move.inputs["Image"])
    for socket in ("X", "Y", "Scale"):
        link(source.outputs[socket], move.inputs[socket])
    link(source.outputs["Image"], background)
    link(move.outputs["Image"], foreground)
    link(source.outputs["Opacity"], factor)
    link(over.outputs["Image"], output.inputs["Image"])
    return group


def _insert_node(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Between the output and what fed it."""
    tree = compat.compositor_tree(scene)
    if tree is None:
        tree = compat.make_compositor_tree(scene)
        scene.walkon.made_compositor = True
    output = compat.ensure_output(tree)
    node = tree.nodes.new("CompositorNodeGroup")
    node.node_tree = layer.group
    node.name = node.label = layer.title
    node[_KEY] = layer.uuid
    node.location = output.location.x - 180, output.location.y - 160 * len(scene.walkon.layers)
    socket = output.inputs[0]
    if socket.is_linked:
        tree.links.new(socket.links[0].from_socket, node.inputs["Image"])
    tree.links.new(node.outputs["Image"], socket)


def _node(scene: bpy.types.Scene, layer: WalkOnLayer) -> bpy.types.Node | None:
    tree = compat.compositor_tree(scene)
    return next((node for node in tree.nodes if node.get(_KEY) == layer.uuid), None) if tree else None


def _remove_node(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """What fed the node now feeds what the node fed."""
    tree, node = compat.compositor_tree(scene), _node(scene, layer)
    if tree is None or node is None:
        return
    source = node.inputs["Image"]
    fed = [link.to_socket for link in node.outputs["Image"].links]
    if source.is_linked:
        for socket in fed:
            tree.links.new(source.links[0].from_socket, socket)
    tree.nodes.remove(node)


def _is_plain(tree: bpy.types.NodeTree | None) -> bool:
    """Whether the artist left a tree that we made as it was: only render layers and output."""
    kinds = {"R_LAYERS", "COMPOSITE", "GROUP_OUTPUT", "VIEWER", "REROUTE"}
    return tree is not None and all(node.type in kinds for node in tree.nodes)
