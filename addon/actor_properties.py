# SPDX-License-Identifier: GPL-3.0-or-later
"""What Walk-On keeps of the actor: the photo, and which person of it."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from . import actors, compat


def _other_photo(work: ActorProperties, _context: bpy.types.Context) -> None:
    work.actor_person = 0


class ActorProperties:
    """Mixed into the scene's properties."""

    actor: StringProperty(
        name="Actor",
        description="Photo of the person to put into the picture",
        subtype="FILE_PATH",
        options=compat.BLEND_RELATIVE,
        update=_other_photo,
    )
    actor_person: IntProperty(
        name="Person", description="Which person of the actor photo; 0 is the largest", default=0, min=0
    )


def _chosen(_state: object) -> int:
    actor = bpy.path.abspath(bpy.context.scene.walkon.actor)
    items = actors.items(None, None)
    return next((item[4] for item in items if item[0] == actor), items[-1][4])


def _choose(_state: object, index: int) -> None:
    chosen = actors.items(None, None)[index][0]
    bpy.context.scene.walkon.actor = "" if chosen == actors.NOBODY else chosen


class LibraryProperties:
    """Mixed into the window manager's properties."""

    library: EnumProperty(
        name="Library",
        description="The photos of the library; its folder is in the add-on's preferences",
        items=actors.items,
        get=_chosen,
        set=_choose,
    )
