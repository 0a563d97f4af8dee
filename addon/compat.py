# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place that knows Blender's versions: 4.2 to 4.5 on one side, 5.0 and newer on the other."""

from __future__ import annotations

import bpy

FIVE = bpy.app.version >= (5, 0, 0)

BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()
"""Option of properties that hold a path which may begin with `//`; older versions know no other."""

MATH, MIX = ("ShaderNodeMath", "ShaderNodeMix") if FIVE else ("CompositorNodeMath", "CompositorNodeMixRGB")
"""Nodes of the compositor that 5.0 shares with shaders."""


def set_still_format(settings: bpy.types.ImageFormatSettings, file_format: str) -> None:
    """Choose a still image format; from 5.0 on the medium comes first."""
    if FIVE:
        settings.media_type = "IMAGE"
    settings.file_format = file_format


def still_format(settings: bpy.types.ImageFormatSettings) -> dict[str, object]:
    """What `restore_format` puts back."""
    names = ["file_format", "color_mode", "color_depth", "compression", "exr_codec", "color_management"]
    return {name: getattr(settings, name) for name in (["media_type"] if FIVE else []) + names}


def restore_format(settings: bpy.types.ImageFormatSettings, saved: dict[str, object]) -> None:
    """Put back what `still_format` gave, in its order: the format decides which other values are allowed."""
    for name, value in saved.items():
        setattr(settings, name, value)


def joint_hidden(bone: bpy.types.PoseBone) -> bool:
    """Whether the artist hid this bone in pose mode."""
    return bone.hide if FIVE else bone.bone.hide


def hide_joint(bone: bpy.types.PoseBone, hide: bool) -> None:
    """Hide or show a bone in pose mode."""
    if FIVE:
        bone.hide = hide
    else:
        bone.bone.hide = hide


def select_joint(bone: bpy.types.PoseBone, select: bool) -> None:
    """Select or deselect a bone in pose mode."""
    if FIVE:
        bone.select = select
    else:
        bone.bone.select = select


def joint_selected(bone: bpy.types.PoseBone) -> bool:
    """Whether a bone is selected in pose mode."""
    return bone.select if FIVE else bone.bone.select


def compositor_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    """The scene's compositor tree, or None where the scene has none."""
    if FIVE:
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def make_compositor_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """Give a scene that has no compositor tree the plain one: render layers to output."""
    if FIVE:
        tree = bpy.data.node_groups.new("Compositing", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
    else:
        scene.use_nodes = True
        tree = scene.node_tree
    output = ensure_output(tree)
    if not output.inputs[0].is_linked:
        layers = next((node for node in tree.nodes if node.type == "R_LAYERS"), None)
        layers = layers or tree.nodes.new("CompositorNodeRLayers")
        layers.scene = scene
        output.location.x = layers.location.x + 400
        tree.links.new(layers.outputs["Image"], output.inputs[0])
    return tree


def drop_compositor_tree(scene: bpy.types.Scene) -> None:
    """Undo `make_compositor_tree`."""
    if FIVE:
        tree, scene.compositing_node_group = scene.compositing_node_group, None
        if tree is not None and tree.users == 0:
            bpy.data.node_groups.remove(tree)
    else:
        scene.use_nodes = False


def ensure_output(tree: bpy.types.NodeTree) -> bpy.types.Node:
    """The node whose first input becomes the rendered picture, made where it is missing."""
    kind = "NodeGroupOutput" if FIVE else "CompositorNodeComposite"
    outputs = [node for node in tree.nodes if node.bl_idname == kind]
    if FIVE:
        if not any(
            item.item_type == "SOCKET" and item.in_out == "OUTPUT" for item in tree.interface.items_tree
        ):
            tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        outputs.sort(key=lambda node: not node.is_active_output)
    else:
        outputs.sort(key=lambda node: node.mute)
    return outputs[0] if outputs else tree.nodes.new(kind)


def alpha_over_sockets(node: bpy.types.Node) -> tuple[bpy.types.NodeSocket, ...]:
    """Background, foreground and factor of an Alpha Over node."""
    if FIVE:
        return node.inputs["Background"], node.inputs["Foreground"], node.inputs["Factor"]
    return node.inputs[1], node.inputs[2], node.inputs[0]


def mix_sockets(node: bpy.types.Node) -> tuple[bpy.types.NodeSocket, ...]:
    """Factor, first and second color, and the result of a Mix node."""
    if FIVE:
        node.data_type = "RGBA"
        return node.inputs[0], node.inputs[6], node.inputs[7], node.outputs[2]
    return *node.inputs[:3], node.outputs[0]


def set_apply_mask(node: bpy.types.Node) -> None:
    """Let a Set Alpha node multiply the picture with a mask."""
    if FIVE:
        node.inputs["Type"].default_value = "Apply Mask"
    else:
        node.mode = "APPLY"


def set_bilinear(node: bpy.types.Node) -> None:
    """Exact at whole pixels and scale 1, smooth otherwise. (Blender's bicubic blurs even at scale 1.)"""
    if FIVE:
        node.inputs["Interpolation"].default_value = "Bilinear"
    else:
        node.filter_type = "BILINEAR"


def set_flip_axis(node: bpy.types.Node) -> None:
    """Make a Flip node mirror left to right."""
    if FIVE:
        node.inputs["Flip X"].default_value = True
        node.inputs["Flip Y"].default_value = False
    else:
        node.axis = "X"


def has_strips(scene: bpy.types.Scene) -> bool:
    """Whether the render is what the sequencer's strips show."""
    editor = scene.sequence_editor
    strips = "strips" if bpy.app.version >= (4, 4, 0) else "sequences"
    return scene.render.use_sequencer and editor is not None and bool(getattr(editor, strips))


def colour_spaces() -> set[str]:
    """The colour spaces that an image may have in this Blender."""
    return {
        item.identifier
        for item in bpy.types.ColorManagedInputColorspaceSettings.bl_rna.properties["name"].enum_items
    }
