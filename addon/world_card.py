# SPDX-License-Identifier: GPL-3.0-or-later
"""A layer as a card in the scene: at the distance where the person stands, rendered with everything else.

Two empties carry it. The station stays where the camera was when the picture was taken; growing it about that
point moves the card away from the camera while it keeps looking the same from there. The handle below it is the one
that the layer has anyway, still in pixels of the picture.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Vector

from . import camera_plane, compat
from .compositor import KEY, calculated, drive
from .geometry import person_size
from .painting import FEATHER_MAX
from .shared.errors import BadInput

if TYPE_CHECKING:
    from .layer_properties import WalkOnLayer

# Metres: of the hits below the feet, the one that makes the person about so tall is the ground.
_STATURE = 1.7
_TORSO = 0.5  # metres, neck to hips
_HITS = 16  # surfaces that one look goes through at most


def build(scene: bpy.types.Scene, layer: WalkOnLayer) -> None:
    """Take the layer from the screen into the world, at its distance from the camera's present place.

    Raises:
        BadInput: no camera.
    """
    at_one = camera_plane.plane_matrix(scene, tuple(layer.picture_size), 1.0)
    camera = scene.camera.matrix_world
    handle = layer.handle
    station = bpy.data.objects.new(f"{layer.title} Station", None)
    station[KEY] = layer.uuid
    station.empty_display_size = 0.0
    station.hide_select = station.hide_render = True
    station.rotation_mode = "QUATERNION"
    station.location, station.rotation_quaternion = camera.translation, camera.to_quaternion()
    scene.collection.objects.link(station)
    # An orthographic picture does not grow with its distance.
    for axis in (0, 1, 2) if scene.camera.data.type == "PERSP" else (2,):
        drive(station, "scale", "d", handle, {"d": '["Distance"]'}, axis)
    layer.station = station
    handle.parent, handle.matrix_parent_inverse = station, at_one
    handle.empty_image_depth = "DEFAULT"
    layer.card = _make_card(scene, layer)


def remove(layer: WalkOnLayer) -> None:
    """Take card and station away."""
    card, station = layer.card, layer.station
    layer.card = layer.station = None
    if card is not None:
        mesh = card.data
        materials = [material for material in mesh.materials if material is not None]
        bpy.data.objects.remove(card)
        bpy.data.meshes.remove(mesh)
        for material in materials:
            if material.users == 0:
                bpy.data.materials.remove(material)
    if station is not None:
        bpy.data.objects.remove(station)


def refresh(layer: WalkOnLayer) -> None:
    """Let the card show the layer's present version."""
    if layer.card is not None:
        mesh = layer.card.data
        _shape(mesh, layer)
        _paint(mesh.materials[0], layer)


def _make_card(scene: bpy.types.Scene, layer: WalkOnLayer) -> bpy.types.Object:
    name = f"{layer.title} Card"
    mesh = bpy.data.meshes.new(name)
    card = bpy.data.objects.new(name, mesh)
    card[KEY] = layer.uuid
    card.parent = layer.handle
    # The viewport shows the handle's picture, also without textures; this is what is rendered.
    card.hide_viewport = card.hide_select = True
    # A picture of a person casts no light and no shadow of its own shape.
    for ray in ("diffuse", "glossy", "transmission", "volume_scatter", "shadow"):
        setattr(card, f"visible_{ray}", False)
    drive(card, "hide_render", "s < 1", layer.handle, {"s": '["Show"]'})
    material = bpy.data.materials.new(name)
    if not compat.FIVE:  # newer materials always have nodes
        material.use_nodes = True
    material[KEY] = layer.uuid
    mesh.materials.append(material)
    _shape(mesh, layer)
    _paint(material, layer)
    scene.collection.objects.link(card)
    return card


def _shape(mesh: bpy.types.Mesh, layer: WalkOnLayer) -> None:
    """A rectangle in pixels of the picture as painted, the feet at the origin."""
    version = layer.version
    (width, height), (x, y), scale = version.image_size, version.anchor, version.predicted[2]
    left, right, top, bottom = -x * scale, (width - x) * scale, y * scale, (y - height) * scale
    mesh.clear_geometry()
    mesh.from_pydata(
        [(left, bottom, 0), (right, bottom, 0), (right, top, 0), (left, top, 0)], [], [(0, 1, 2, 3)]
    )
    corners = mesh.uv_layers.new(name="UVMap")
    corners.data.foreach_set("uv", [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    mesh.update()


def _paint(material: bpy.types.Material, layer: WalkOnLayer) -> None:
    """The picture as light of its own, so that the scene's lamps change nothing of what the server matched."""
    version, handle = layer.version, layer.handle
    tree = material.node_tree
    tree.nodes.clear()
    make, link = tree.nodes.new, tree.links.new
    math = partial(calculated, tree, "ShaderNodeMath")

    def picture(image: bpy.types.Image) -> bpy.types.Node:
        node = make("ShaderNodeTexImage")
        node.image, node.extension = image, "CLIP"
        return node

    def follow(expression: str, **paths: str) -> bpy.types.NodeSocket:
        socket = make("ShaderNodeValue").outputs[0]
        drive(socket, "default_value", expression, handle, paths)
        return socket

    person = picture(version.image)
    colour = person.outputs["Color"]
    if version.plain is not None:
        mix = make("ShaderNodeMix")
        mix.data_type = "RGBA"
        link(follow("c", c='["Color Match"]'), mix.inputs[0])
        link(picture(version.plain).outputs["Color"], mix.inputs[6])
        link(colour, mix.inputs[7])
        colour = mix.outputs[2]
    width = follow("max(f, 0.001)", f='["Feather"]')
    steps = math("MULTIPLY", picture(version.feather).outputs["Color"], FEATHER_MAX)
    cover = math("MULTIPLY", person.outputs["Alpha"], math("MINIMUM", math("DIVIDE", steps, width), 1.0))
    cover = math("MULTIPLY", cover, follow("o", o='["Opacity"]'))
    light, clear = make("ShaderNodeEmission"), make("ShaderNodeBsdfTransparent")
    mixed, output = make("ShaderNodeMixShader"), make("ShaderNodeOutputMaterial")
    link(colour, light.inputs["Color"])
    link(cover, mixed.inputs[0])
    link(clear.outputs[0], mixed.inputs[1])
    link(light.outputs[0], mixed.inputs[2])
    link(mixed.outputs[0], output.inputs["Surface"])
    for column, node in enumerate(tree.nodes):
        node.location = 200 * (column // 3), -260 * (column % 3)


# ---- where the person stands -----------------------------------------------------------------------------


def standing_distance(scene: bpy.types.Scene, layer: WalkOnLayer) -> float:
    """How far from the camera's plane the layer's feet touch the scene, in the scene's units.

    A look through the soles goes on through whatever it meets; of the surfaces that face up, that one is the ground
    on which the person would be of the likeliest height. Where the picture cuts the feet off, the person's size
    alone has to tell.

    Raises:
        BadInput: no camera, or nothing to stand on.
    """
    at_one = camera_plane.plane_matrix(scene, tuple(layer.picture_size), 1.0)
    camera, perspective = scene.camera, scene.camera.data.type == "PERSP"
    to_world = camera.matrix_world.normalized()
    unit = 1.0 / scene.unit_settings.scale_length  # the scene's units per metre
    version, place = layer.version, layer.place
    size = person_size(version.skeleton.skeleton) * place.scale / version.predicted[2]
    pixel = at_one[1][1]  # the scene's units per pixel, at a distance of 1
    if not version.whole and perspective:
        return float(_TORSO * unit / (size * pixel))
    sole = np.append(place.matrix @ (version.anchor[0], version.sole, 1.0), 0.0)
    through = at_one @ Vector((sole[0], -sole[1], 0.0))
    if perspective:
        start, direction = Vector(), through
    else:
        start, direction = Vector((through.x, through.y, 0.0)), Vector((0.0, 0.0, -1.0))
    found = _surfaces_up(scene, to_world @ start, to_world.to_3x3() @ direction)
    # The direction goes one unit away from the camera's plane.
    found = [distance for distance in found if distance > camera.data.clip_start]
    if not found:
        raise BadInput(
            f"Nothing of the scene is under the feet of '{layer.title}'",
            "Move the layer onto the ground, add a plane where the ground is, or type the distance",
            "ground",
        )
    if not perspective:
        return found[0]
    stature = size * 3.4 * pixel / unit  # metres at a distance of 1; a person is 3.4 torsos tall
    return min(found, key=lambda distance: abs(np.log(stature * distance / _STATURE)))


def _surfaces_up(scene: bpy.types.Scene, origin: Vector, direction: Vector) -> list[float]:
    """Multiples of `direction` at which the ray meets surfaces that one can stand on, nearest first."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    up, length, at, found = Vector((0.0, 0.0, 1.0)), direction.length, 0.0, []
    for _ in range(_HITS):
        hit, place, normal, *_ = scene.ray_cast(depsgraph, origin + direction * at, direction)
        if not hit:
            break
        # Faces may be turned inside out: what counts is that they lie, not where they look.
        at = (place - origin).length / length
        if abs(normal.normalized().dot(up)) > 0.5:
            found.append(at)
        at += max(1e-4, 1e-5 * at)
    return found
