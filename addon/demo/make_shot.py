# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the demo's shot: a sunlit plaza with four people, saved as shot.blend with everything packed.

Run `python addon/demo/make_shot.py CAST OUT.blend [PICTURE.png]` in the Blender environment. CAST is the folder that
`python -m models.demo_people` wrote. With PICTURE the shot is rendered too.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import bpy  # isort: skip  # the next ones exist once it is loaded
import bmesh
import numpy as np
from mathutils import Vector

# Name: x, y (metres; the camera stands at y = 0 and looks along +y) and heading (degrees, 0 faces the camera).
CAST = {
    "ana": (-1.75, 6.0, 50),
    "ben": (-0.72, 6.35, -42),
    "clara": (2.55, 9.2, -28),
    "dan": (0.35, 13.5, 12),
}


def colour(red: float, green: float, blue: float) -> tuple[float, float, float, float]:
    """Linear colour with alpha 1."""
    return red, green, blue, 1.0


def material(
    name: str, base: tuple[float, float, float, float], roughness: float = 0.8
) -> bpy.types.Material:
    """A plain material; its shader node is named `Principled BSDF`."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = base
    shader.inputs["Roughness"].default_value = roughness
    return made


def mottled(name: str, dark: tuple[float, ...], light: tuple[float, ...], scale: float) -> bpy.types.Material:
    """Plaster or leaves: two colours mixed by noise."""
    made = material(name, (*dark, 1.0), 0.9)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    where = nodes.new("ShaderNodeTexCoord")
    noise = nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = scale
    noise.inputs["Detail"].default_value = 3.0
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[0].color = 0.35, (*dark, 1.0)
    ramp.color_ramp.elements[1].position, ramp.color_ramp.elements[1].color = 0.65, (*light, 1.0)
    shader = nodes["Principled BSDF"]
    links.new(where.outputs["Object"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], shader.inputs["Base Color"])
    return made


def paving() -> bpy.types.Material:
    """Stone slabs with joints, no two of quite the same tone."""
    made = material("Paving", colour(0.4, 0.37, 0.33), 0.75)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    where = nodes.new("ShaderNodeTexCoord")
    slabs = nodes.new("ShaderNodeTexBrick")
    slabs.inputs["Scale"].default_value = 1.0
    slabs.inputs["Brick Width"].default_value = 1.2
    slabs.inputs["Row Height"].default_value = 0.8
    slabs.inputs["Mortar Size"].default_value = 0.008
    slabs.inputs["Color1"].default_value = colour(0.47, 0.40, 0.32)
    slabs.inputs["Color2"].default_value = colour(0.37, 0.32, 0.26)
    slabs.inputs["Mortar"].default_value = colour(0.16, 0.14, 0.12)
    noise = nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = 1.7
    noise.inputs["Detail"].default_value = 4.0
    mix = nodes.new("ShaderNodeMixRGB")
    mix.blend_type = "OVERLAY"
    mix.inputs["Fac"].default_value = 0.55
    shader = nodes["Principled BSDF"]
    links.new(where.outputs["Object"], slabs.inputs["Vector"])
    links.new(where.outputs["Object"], noise.inputs["Vector"])
    links.new(slabs.outputs["Color"], mix.inputs["Color1"])
    links.new(noise.outputs["Fac"], mix.inputs["Color2"])
    links.new(mix.outputs["Color"], shader.inputs["Base Color"])
    return made


def add(
    mesh: bpy.types.Mesh, look: bpy.types.Material, place: tuple[float, float, float]
) -> bpy.types.Object:
    """Put a mesh into the scene."""
    thing = bpy.data.objects.new(mesh.name, mesh)
    mesh.materials.append(look)
    thing.location = place
    bpy.context.scene.collection.objects.link(thing)
    return thing


def box(
    name: str,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    look: bpy.types.Material,
    bevel: float = 0.02,
) -> bpy.types.Object:
    """An axis-aligned block between two corners, its edges broken so that they catch the light."""
    a, b = Vector(low), Vector(high)
    corners = [Vector((x, y, z)) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    size = b - a
    points = [Vector((c.x * size.x, c.y * size.y, c.z * size.z)) for c in corners]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], faces)
    thing = add(mesh, look, low)
    if bevel:
        modifier = thing.modifiers.new("Bevel", "BEVEL")
        modifier.width, modifier.segments = bevel, 2
    return thing


def arcade(y: float, wall: bpy.types.Material, shade: bpy.types.Material, stone: bpy.types.Material) -> None:
    """A long facade: round arches on pillars, a dark passage behind, a cornice, windows above."""
    half, pitch, spring, top = 1.25, 3.6, 2.5, 5.0
    outline: list[tuple[float, float]] = []
    count = 9
    left = -pitch * count / 2
    outline.append((left, 0.0))
    for i in range(count):
        centre = left + pitch * (i + 0.5)
        outline.append((centre - half, 0.0))
        outline += [
            (centre - half * math.cos(math.pi * k / 14), spring + half * math.sin(math.pi * k / 14))
            for k in range(15)
        ]
        outline.append((centre + half, 0.0))
    outline += [(-left, 0.0), (-left, top), (left, top)]
    curve = bpy.data.curves.new("Arcade", "CURVE")
    curve.dimensions, curve.fill_mode, curve.extrude = "2D", "BOTH", 0.3
    spline = curve.splines.new("POLY")
    spline.points.add(len(outline) - 1)
    for point, (x, z) in zip(spline.points, outline, strict=True):
        point.co = (x, z, 0.0, 1.0)
    spline.use_cyclic_u = True
    curve.materials.append(wall)
    front = bpy.data.objects.new("Arcade", curve)
    front.rotation_euler = (math.pi / 2, 0, 0)
    front.location = (0, y, 0)
    bpy.context.scene.collection.objects.link(front)
    box("Passage", (left, y + 3.2, 0), (-left, y + 3.4, 5), wall, 0)
    box("Ceiling", (left, y + 0.2, 4.4), (-left, y + 3.4, 4.6), stone, 0)
    box("Upper floor", (left, y - 0.2, top), (-left, y + 4, 11), wall, 0)
    box("Cornice", (left, y - 0.5, top - 0.12), (-left, y, top + 0.18), stone)
    for i in range(count):
        centre = left + pitch * (i + 0.5)
        for side in (-half - 0.55, half):
            box("Plinth", (centre + side - 0.03, y - 0.38, 0), (centre + side + 0.58, y + 0.38, 0.5), stone)
            box(
                "Impost",
                (centre + side, y - 0.36, spring - 0.14),
                (centre + side + 0.55, y - 0.2, spring + 0.02),
                stone,
            )
        box("Door", (centre - 0.6, y + 3.14, 0), (centre + 0.6, y + 3.2, 2.5), shade, 0)
        box("Frame", (centre - 0.75, y - 0.28, 5.9), (centre + 0.75, y, 8.3), stone)
        box("Window", (centre - 0.6, y - 0.3, 6.05), (centre + 0.6, y - 0.25, 8.15), shade, 0)


def shrub(
    name: str,
    place: tuple[float, float, float],
    radius: float,
    look: bpy.types.Material,
    chance: random.Random,
) -> None:
    """A clipped bush: many small leaves on a ball."""
    points: list[Vector] = []
    faces: list[tuple[int, ...]] = []
    for _ in range(1700):
        normal = Vector((chance.gauss(0, 1), chance.gauss(0, 1), chance.gauss(0, 1))).normalized()
        centre = normal * radius * (1 + chance.uniform(-0.16, 0.06))
        across = normal.cross(
            Vector((chance.gauss(0, 1), chance.gauss(0, 1), chance.gauss(0, 1)))
        ).normalized()
        lift = (normal * chance.uniform(0.2, 1) + across.cross(normal)).normalized()
        length = chance.uniform(0.07, 0.11)
        start = len(points)
        points += [centre, centre + across * length * 0.45 + lift * length * 0.5, centre + lift * length]
        points.append(centre - across * length * 0.45 + lift * length * 0.5)
        faces.append((start, start + 1, start + 2, start + 3))
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], faces)
    add(mesh, look, place)


def person(name: str, path: Path, place: tuple[float, float, float]) -> None:
    """A posed, textured mesh; one object, one material for each thing worn."""
    data = np.load(path)
    points: list[np.ndarray] = []
    triangles: list[np.ndarray] = []
    uv: list[np.ndarray] = []
    slots: list[np.ndarray] = []
    mesh = bpy.data.meshes.new(name)
    start = 0
    for i in range(int(data["pieces"])):
        points.append(data[f"vertices_{i}"])
        triangles.append(data[f"triangles_{i}"] + start)
        uv.append(data[f"uv_{i}"])
        slots.append(np.full(len(triangles[-1]), i))
        start += len(points[-1])
        mesh.materials.append(cloth(f"{name} {i}", data, i))
    mesh.from_pydata(np.concatenate(points), [], np.concatenate(triangles))
    layer = mesh.uv_layers.new(name="UVMap")
    layer.data.foreach_set("uv", np.concatenate(uv).astype(np.float32).ravel())
    mesh.polygons.foreach_set("material_index", np.concatenate(slots).astype(np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(mesh.polygons), dtype=bool))
    work = bmesh.new()
    work.from_mesh(mesh)
    # Back to the quads that the modellers made: a third of the size.
    bmesh.ops.join_triangles(
        work,
        faces=work.faces,
        cmp_uvs=True,
        cmp_materials=True,
        angle_face_threshold=1.0,
        angle_shape_threshold=1.0,
    )
    work.to_mesh(mesh)
    work.free()
    thing = bpy.data.objects.new(name.capitalize(), mesh)
    x, y, heading = place
    thing.location = (x, y, 0)
    thing.rotation_euler = (0, 0, math.radians(heading))
    bpy.context.scene.collection.objects.link(thing)


def cloth(name: str, data: np.lib.npyio.NpzFile, piece: int) -> bpy.types.Material:
    """A material with a packed texture; see-through where the texture is (hair, lashes)."""
    made = material(name, colour(1, 1, 1), 0.62 if data[f"gloss_{piece}"] < 0.2 else 0.15)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Specular IOR Level"].default_value = 0.3
    texture = nodes.new("ShaderNodeTexImage")
    opaque = bool(data[f"opaque_{piece}"])
    coded = data[f"texture_{piece}"].tobytes()
    texture.image = bpy.data.images.new(name, 512, 512)
    texture.image.pack(data=coded, data_len=len(coded))
    texture.image.source = "FILE"
    links.new(texture.outputs["Color"], shader.inputs["Base Color"])
    if not opaque:
        solid = nodes.new("ShaderNodeMath")
        solid.operation = "GREATER_THAN"
        solid.inputs[1].default_value = 0.35
        links.new(texture.outputs["Alpha"], solid.inputs[0])
        links.new(solid.outputs["Value"], shader.inputs["Alpha"])
    return made


def sky(scene: bpy.types.Scene) -> None:
    """A clear sky: pale at the horizon, blue above."""
    world = bpy.data.worlds.new("Sky")
    scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    where = nodes.new("ShaderNodeTexCoord")
    split = nodes.new("ShaderNodeSeparateXYZ")
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color = colour(0.72, 0.76, 0.8)
    ramp.color_ramp.elements[1].position, ramp.color_ramp.elements[1].color = 0.55, colour(0.2, 0.38, 0.72)
    links.new(where.outputs["Generated"], split.inputs["Vector"])
    links.new(split.outputs["Z"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = 0.62


def make(cast: Path) -> None:
    """Build the scene in the open file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    chance = random.Random(7)

    plaster = mottled("Plaster", (0.62, 0.43, 0.27), (0.7, 0.52, 0.35), 1.2)
    shade = material("Shade", colour(0.06, 0.05, 0.045), 0.35)
    stone = mottled("Stone", (0.5, 0.46, 0.4), (0.58, 0.54, 0.48), 3)
    leaves = mottled("Leaves", (0.03, 0.075, 0.02), (0.09, 0.16, 0.04), 9)
    wood = mottled("Wood", (0.16, 0.08, 0.04), (0.24, 0.13, 0.06), 4)

    ground = bpy.data.meshes.new("Ground")
    ground.from_pydata([(-40, -10, 0), (40, -10, 0), (40, 60, 0), (-40, 60, 0)], [], [(0, 1, 2, 3)])
    add(ground, paving(), (0, 0, 0))
    arcade(20.0, plaster, shade, stone)
    box("Step", (-17, 18.9, 0), (17, 19.7, 0.16), stone)
    # A bench and two planters give depth at the sides and leave the middle and the right front free.
    box("Bench seat", (3.5, 11.6, 0.42), (5.9, 12.2, 0.5), wood)
    for x in (3.8, 5.3):
        box("Bench leg", (x, 11.68, 0), (x + 0.25, 12.12, 0.42), stone)
    for index, (x, y, radius) in enumerate(
        [(-4.3, 9.4, 0.62), (-6.6, 13.6, 0.62), (6.9, 14.2, 0.62), (4.9, 8.4, 0.55)]
    ):
        box(f"Planter {index}", (x - 0.5, y - 0.5, 0), (x + 0.5, y + 0.5, 0.62), stone, 0.04)
        shrub(f"Shrub {index}", (x, y, 0.62 + radius * 0.8), radius, leaves, chance)

    for name, place in CAST.items():
        person(name, cast / f"cast_{name}.npz", place)

    sun = bpy.data.lights.new("Sun", "SUN")
    sun.energy, sun.angle, sun.color = 3.0, math.radians(2.5), (1.0, 0.9, 0.76)
    lamp = bpy.data.objects.new("Sun", sun)
    lamp.rotation_euler = (math.radians(52), math.radians(-8), math.radians(-48))
    scene.collection.objects.link(lamp)
    sky(scene)

    lens = bpy.data.cameras.new("Camera")
    lens.lens, lens.sensor_width = 38, 36
    camera = bpy.data.objects.new("Camera", lens)
    camera.location = (0.15, 0, 1.58)
    camera.rotation_euler = (math.radians(88.2), 0, 0)
    scene.collection.objects.link(camera)
    scene.camera = camera

    render = scene.render
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y, render.resolution_percentage = 1280, 853, 100
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples, cycles.use_adaptive_sampling = 5, False  # the denoiser does the rest
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_quality = "FAST"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 2, 2, 1
    cycles.transparent_max_bounces, cycles.caustics_reflective, cycles.caustics_refractive = 6, False, False
    scene.view_settings.view_transform = "Standard"


def main(cast: Path, out: Path, picture: Path | None) -> None:
    """Build, save, and render where asked."""
    make(cast)
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=str(out.resolve()), compress=True)
    if picture:
        bpy.context.scene.render.filepath = str(picture.resolve())
        bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]) if len(arguments) > 2 else None)
