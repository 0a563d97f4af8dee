# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender calls by itself: after changes in the scene, at new frames, before renders."""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from . import camera_plane, layers, skeleton_rig


@persistent
def _on_change(scene: bpy.types.Scene, _depsgraph: object = None) -> None:
    camera_plane.fit(scene)
    layers.follow_view(scene)
    if scene.walkon.rig is not None:
        skeleton_rig.show_limbs(scene.walkon.rig)


@persistent
def _on_frame(scene: bpy.types.Scene, _depsgraph: object = None) -> None:
    # The view transform changes without telling anyone.
    layers.follow_view(scene)


def register() -> None:
    """Called by the package."""
    bpy.app.handlers.depsgraph_update_post.append(_on_change)
    bpy.app.handlers.frame_change_post.append(_on_frame)
    bpy.app.handlers.render_pre.append(_on_frame)


def unregister() -> None:
    """Called by the package."""
    bpy.app.handlers.depsgraph_update_post.remove(_on_change)
    bpy.app.handlers.frame_change_post.remove(_on_frame)
    bpy.app.handlers.render_pre.remove(_on_frame)
