# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels in the 3D View's sidebar share."""

from __future__ import annotations

import textwrap

import bpy


class Panel:
    """Where every panel of Walk-On is."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Walk-On"


def lines(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """A label does not wrap by itself."""
    for line in textwrap.wrap(text, max(24, width)):
        layout.label(text=line, icon=icon)
        icon = "BLANK1" if icon != "NONE" else "NONE"


def characters(context: bpy.types.Context) -> int:
    """About how many characters fit into the panel."""
    region = context.region
    return int(region.width / (8 * context.preferences.system.ui_scale)) if region else 40
