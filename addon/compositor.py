# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers in the artist's compositor: one node group each, in the link that feeds the output.

The nodes of the layers form a chain in the order of the list: the first is the farthest back. What the artist has
between them stays there: to change the order, neighbours swap what they show, and no link is touched. The inputs of
a node are driven by the layer's handle (an empty in the viewport), so that dragging, keyframing and sliding need no
code of ours, also in a Blender without the add-on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import bpy

from . import camera_plane, compat
from .geometry import person_size
from .painting import DEPTH_RANGE, FEATHER_MAX

if TYPE_CHECKING:
    from .layer_properties import WalkOnLayer, WalkOnVersion

KEY = "walkon_layer"
"""Custom property that names the layer which a node, group or object belongs to."""

FAR = 1e10
"""What Blender's depth pass says where there is nothing."""

_TORSO = 0.5  # metres: the depth pass is of a body whose torso is so long
_TOLERANCE = 0.05  # metres of that body: ground is no nearer than the shoe that stands on it

# Name, default, lowest, highest, what the artist reads. The order is that of the node's sockets.
_INPUTS = (
    ("X", 0.0, None, None, "Where the feet stand: pixels of the picture from its left edge"),
    ("Y", 0.0, None, None, "Where the feet stand: pixels of the picture from its top edge"),
    ("Scale", 1.0, 0.0, None, "Size of the person about the feet; 1 is as painted"),
    ("Rotation", 0.0, None, None, "Turn about the feet, counter-clockwise"),
    ("Flip", 0.0, 0.0, 1.0, "1 mirrors left to right about the feet"),
    ("Opacity", 1.0, 0.0, 1.0, "How much of the person is seen"),
    ("Feather", 0.0, 0.0, None, "Softens the outline inwards, over so many pixels of the layer"),
    ("Color Match", 1.0, 0.0, 1.0, "0 has the photo's own colors, 1 those matched to the picture"),
    (
        "Scene Depth",
        FAR,
        None,
        None,
        "The scene's depth pass; what is nearer than the distance covers the person",
    ),
    ("Distance", 0.0, 0.0, None, "How far from the camera the person stands"),
    (
        "Pixel Size",
        0.0,
        0.0,
        None,
        "The scene's units per pixel of the picture where the person stands; 0 takes the person as flat",
    ),
    ("Render Scale", 1.0, 0.0, None, "Pixels of the render per pixel of the picture"),
)


def make_group(name: str, uuid: str) -> bpy.types.NodeTree:
    """A layer's group, still empty; `fill` gives it its picture."""
    group = bpy.data.node_groups.new(name, "CompositorNodeTree")
    group[KEY] = uuid
    group.interface.new_socket("Image", in_out="INPUT", socket_type="NodeSocketColor")
    for socket, default, low, high, text in _INPUTS:
        made = group.interface.new_socket(socket, in_out="INPUT", socket_type="NodeSocketFloat")
        made.default_value, made.description = default, text
        if socket == "Rotation":
            made.subtype = "ANGLE"
        if low is not None:
            made.min_value = low
        if high is not None:
            made.max_value, made.subtype = high, "FACTOR"
    group.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    return group


def calculated(
    tree: bpy.types.NodeTree,
    kind: str,
    operation: str,
    a: bpy.types.NodeSocket | float,
    b: bpy.types.NodeSocket | float = 0.0,
) -> bpy.types.NodeSocket:
    """What a new math node of that kind gives, of sockets or numbers."""
    node = tree.nodes.new(kind)
    node.operation = operation
    for socket, value in zip(node.inputs, (a, b), strict=False):
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, socket)
        else:
            socket.default_value = value
    return node.outputs[0]


def fill(
    group: bpy.types.NodeTree, version: WalkOnVersion, picture_size: tuple[int, int], hidden: bool
) -> None:
    """Make the nodes that show one version of a layer.

    Args:
        picture_size (`(int, int)`): of the picture that the layer's place refers to.
        hidden (`bool`): whether the scene's objects may cover it, and so the person's own depth counts.
    """
    group.nodes.clear()
    make, link = group.nodes.new, group.links.new
    given = make("NodeGroupInput").outputs
    math = partial(calculated, group, compat.MATH)

    def image(datablock: bpy.types.Image) -> bpy.types.NodeSocket:
        node = make("CompositorNodeImage")
        node.image = datablock
        return node.outputs["Image"]

    def masked(picture: bpy.types.NodeSocket, mask: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        node = make("CompositorNodeSetAlpha")
        compat.set_apply_mask(node)
        link(picture, node.inputs["Image"])
        link(mask, node.inputs["Alpha"])
        return node.outputs["Image"]

    def over(
        back: bpy.types.NodeSocket, front: bpy.types.NodeSocket, factor: bpy.types.NodeSocket
    ) -> bpy.types.NodeSocket:
        node = make("CompositorNodeAlphaOver")
        for socket, value in zip(compat.alpha_over_sockets(node), (back, front, factor), strict=True):
            link(value, socket)
        return node.outputs["Image"]

    # Colours and outline.
    person = image(version.image)
    if version.plain is not None:
        factor, first, second, person_out = compat.mix_sockets(make(compat.MIX))
        link(given["Color Match"], factor)
        link(image(version.plain), first)
        link(person, second)
        person = person_out
    width = math("MAXIMUM", given["Feather"], 1e-3)
    steps = math("MULTIPLY", image(version.feather), FEATHER_MAX)
    person = masked(person, math("MINIMUM", math("DIVIDE", steps, width), 1.0))

    # Place: from the feet, where the artist has them, to the picture's centre, where Blender wants it.
    (pw, ph), (w, h), (ax, ay) = picture_size, version.image_size, version.anchor
    scale = math("MULTIPLY", given["Scale"], version.predicted[2])
    mirror = math("SUBTRACT", 1.0, math("MULTIPLY", given["Flip"], 2.0))
    dx, dy = math("MULTIPLY", mirror, w / 2 - ax), h / 2 - ay
    cos, sin = math("COSINE", given["Rotation"]), math("SINE", given["Rotation"])
    right = math("ADD", math("MULTIPLY", dx, cos), math("MULTIPLY", sin, dy))
    up = math("SUBTRACT", math("MULTIPLY", dx, sin), math("MULTIPLY", cos, dy))
    x = math("ADD", math("SUBTRACT", given["X"], pw / 2), math("MULTIPLY", scale, right))
    y = math("ADD", math("SUBTRACT", ph / 2, given["Y"]), math("MULTIPLY", scale, up))
    in_render = {
        name: math("MULTIPLY", value, given["Render Scale"])
        for name, value in (("X", x), ("Y", y), ("Scale", scale))
    }

    def placed(picture: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        # Mirrored or not: of the two only one is not empty.
        flip = make("CompositorNodeFlip")
        compat.set_flip_axis(flip)
        link(picture, flip.inputs["Image"])
        mirrored = masked(flip.outputs["Image"], given["Flip"])
        move = make("CompositorNodeTransform")
        compat.set_bilinear(move)
        link(over(mirrored, picture, math("SUBTRACT", 1.0, given["Flip"])), move.inputs["Image"])
        for name, value in in_render.items():
            link(value, move.inputs[name])
        link(given["Rotation"], move.inputs["Angle"])
        return move.outputs["Image"]

    # What stands nearer is in front: than the person's own surface where its depth is known.
    surface = given["Distance"]
    if hidden and version.depth is not None:
        # Multiplied with the alpha, so that what lies beyond the outline does not count between pixels.
        alpha = image(version.image).node.outputs["Alpha"]
        parts = make("CompositorNodeSeparateColor")
        link(placed(masked(image(version.depth), alpha)), parts.inputs["Image"])
        grey = math("DIVIDE", parts.outputs["Red"], math("MAXIMUM", parts.outputs["Alpha"], 1e-3))
        nearer = math("MULTIPLY", math("SUBTRACT", grey, 0.5 - _TOLERANCE / DEPTH_RANGE), DEPTH_RANGE)
        torso = math("MULTIPLY", given["Scale"], person_size(version.skeleton.skeleton) / _TORSO)
        metre = math("MULTIPLY", torso, given["Pixel Size"])  # of that body, in the scene's units
        surface = math("SUBTRACT", surface, math("MULTIPLY", nearer, metre))
    # A depth pass has no soft edges; this makes some.
    seen = make("CompositorNodeAntiAliasing")
    link(math("GREATER_THAN", given["Scene Depth"], surface), seen.inputs["Image"])
    factor = math("MULTIPLY", given["Opacity"], seen.outputs["Image"])
    output = make("NodeGroupOutput")
    link(over(given["Image"], placed(person), factor), output.inputs["Image"])
    for column, node in enumerate(group.nodes):
        node.location = 180 * (column // 3), -170 * (column % 3)


# ---- the chain -------------------------------------------------------------------------------------------


def node_of(scene: bpy.types.Scene, layer: WalkOnLayer) -> bpy.types.Node | None:
    """The layer's node in the scene's compositor, or None where the artist took it away."""
    tree = compat.compositor_tree(scene)
    return next((node for node in tree.nodes if node.get(KEY) == layer.uuid), None) if tree else None


def insert(scene: bpy.types.Scene, layer: WalkOnLayer) -> bpy.types.Node:
    """Put the layer's node in front of what is behind it: before the next layer's node, else before the output."""
    tree = compat.compositor_tree(scene)
    if tree is None:
        tree = compat.make_compositor_tree(scene)
        scene.walkon.made_compositor = True
    layers = list(scene.walkon.layers)
    behind = [node_of(scene, other) for other in layers[layers.index(layer) + 1 :]]
    following = next((node for node in behind if node is not None), None)
    end = following or compat.ensure_output(tree)
    socket = end.inputs["Image"] if following else end.inputs[0]
    node = tree.nodes.new("CompositorNodeGroup")
    node.location = end.location.x - 180, end.location.y - 160
    node.width = 160
    _show(scene, node, layer)
    if socket.is_linked:
        tree.links.new(socket.links[0].from_socket, node.inputs["Image"])
    tree.links.new(node.outputs["Image"], socket)
    return node


def _show(scene: bpy.types.Scene, node: bpy.types.Node, layer: WalkOnLayer) -> None:
    """Let a node show a layer, its inputs driven by the layer's handle."""
    node.node_tree = layer.group
    node[KEY] = layer.uuid
    name_node(node, layer)
    node.mute = layer.card is not None
    handle = layer.handle
    driven = {
        "X": ("x", {"x": "location[0]"}),
        "Y": ("-y", {"y": "location[1]"}),
        "Scale": ("abs(s)", {"s": "scale[1]"}),
        "Rotation": ("r", {"r": "rotation_euler[2]"}),
        "Flip": ("s < 0", {"s": "scale[0]"}),
        "Opacity": ("o * s", {"o": '["Opacity"]', "s": '["Show"]'}),
        "Feather": ("f", {"f": '["Feather"]'}),
        "Color Match": ("c", {"c": '["Color Match"]'}),
        "Distance": ("d", {"d": '["Distance"]'}),
    }
    for name, (expression, paths) in driven.items():
        drive(node.inputs[name], "default_value", expression, handle, paths)
    # Of the plane on which a unit is a pixel, and which follows the camera.
    plane = scene.walkon.plane or camera_plane.plane(scene)
    perspective = scene.camera is None or scene.camera.data.type == "PERSP"
    drive(
        node.inputs["Pixel Size"],
        "default_value",
        "p * d / -z" if perspective else "p",
        plane,
        {"p": "scale[0]", "z": "location[2]"} if perspective else {"p": "scale[0]"},
        also=(handle, {"d": '["Distance"]'}) if perspective else None,
    )
    drive_by_render(scene, node.inputs["Render Scale"], tuple(layer.picture_size))


def name_node(node: bpy.types.Node, layer: WalkOnLayer) -> None:
    """The layer's name, as the artist gave it."""
    node.name = node.label = layer.title


def drive(
    owner: bpy.types.bpy_struct,
    name: str,
    expression: str,
    source: bpy.types.ID,
    paths: dict[str, str],
    index: int = -1,
    also: tuple[bpy.types.ID, dict[str, str]] | None = None,
) -> None:
    """Let a property follow others. Expressions stay so simple that Blender needs no Python for them.

    Args:
        also (*optional*): one more thing to follow, and its paths.
    """
    owner.driver_remove(name, index)
    driver = owner.driver_add(name, index).driver
    driver.type = "SCRIPTED"
    for followed, those in [(source, paths)] + ([also] if also is not None else []):
        for variable, path in those.items():
            made = driver.variables.new()
            made.name, made.type = variable, "SINGLE_PROP"
            made.targets[0].id_type = followed.id_type
            made.targets[0].id, made.targets[0].data_path = followed, path
    driver.expression = expression


def drive_by_render(
    scene: bpy.types.Scene, socket: bpy.types.NodeSocket, picture_size: tuple[int, int]
) -> None:
    """How much larger the render is than the picture, by the side that the camera fits."""
    width, height = picture_size
    fit = scene.camera.data.sensor_fit if scene.camera is not None else "AUTO"
    expression, side = {
        "AUTO": ("max(w, h)", max(width, height)),
        "HORIZONTAL": ("w", width),
        "VERTICAL": ("h", height),
    }[fit]
    paths = {"w": "render.resolution_x", "h": "render.resolution_y", "p": "render.resolution_percentage"}
    used = {name: path for name, path in paths.items() if name == "p" or name in expression}
    drive(socket, "default_value", f"{expression} * p / {100 * side}", scene, used)


def swap(scene: bpy.types.Scene, one: WalkOnLayer, other: WalkOnLayer) -> None:
    """Let the nodes of two layers show each other's layer."""
    nodes = node_of(scene, one), node_of(scene, other)
    if None in nodes:
        return
    occluded = [is_occluded(node) for node in nodes]
    for node, layer, hidden in zip(nodes, (other, one), reversed(occluded), strict=True):
        _show(scene, node, layer)
        occlude(scene, layer, hidden)


def remove(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """What fed the node now feeds what the node fed."""
    tree, node = compat.compositor_tree(scene), node_of(scene, layer)
    if tree is None or node is None:
        return
    occlude(scene, layer, False)
    source = node.inputs["Image"]
    fed = [link.to_socket for link in node.outputs["Image"].links]
    if source.is_linked:
        for socket in fed:
            tree.links.new(source.links[0].from_socket, socket)
    for socket in node.inputs:
        socket.driver_remove("default_value")
    tree.nodes.remove(node)


# ---- order in depth --------------------------------------------------------------------------------------


def is_occluded(node: bpy.types.Node) -> bool:
    """Whether the scene's objects may cover the layer."""
    return bool(node.inputs["Scene Depth"].is_linked)


def occlude(scene: bpy.types.Scene, layer: WalkOnLayer, on: bool) -> None:
    """Let the scene's depth pass cover the layer, or no more. The pass is switched on where it is not."""
    tree, node = compat.compositor_tree(scene), node_of(scene, layer)
    if tree is None or node is None or is_occluded(node) == on:
        return
    socket, work = node.inputs["Scene Depth"], scene.walkon
    fill(layer.group, layer.version, tuple(layer.picture_size), on)
    if not on:
        tree.links.remove(socket.links[0])
        if not any(is_occluded(other) for other in tree.nodes if KEY in other):
            view_layer = scene.view_layers.get(work.made_depth_pass)
            if view_layer is not None:
                view_layer.use_pass_z = False
            work.made_depth_pass = ""
            for other in [n for n in tree.nodes if n.get(KEY) == "depth"]:
                tree.nodes.remove(other)
        return
    rendered = next((n for n in tree.nodes if n.type == "R_LAYERS" and n.scene == scene), None)
    if rendered is None:
        rendered = tree.nodes.new("CompositorNodeRLayers")
        rendered.scene, rendered[KEY] = scene, "depth"
        rendered.location = node.location.x - 300, node.location.y - 300
    view_layer = scene.view_layers[rendered.layer]
    if not view_layer.use_pass_z:
        view_layer.use_pass_z, work.made_depth_pass = True, view_layer.name
    depth = next(output for output in rendered.outputs if output.name == "Depth")
    tree.links.new(depth, socket)


def is_plain(tree: bpy.types.NodeTree | None) -> bool:
    """Whether the artist left a tree that we made as it was: only render layers and output."""
    kinds = {"R_LAYERS", "COMPOSITE", "GROUP_OUTPUT", "VIEWER", "REROUTE"}
    return tree is not None and all(node.type in kinds for node in tree.nodes)
