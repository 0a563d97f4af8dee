# SPDX-License-Identifier: GPL-3.0-or-later
"""Walk-On in Blender: one more person into a picture that already has people in it.

Blender is imported when the extension is registered, not before, so that the modules which do without it can
be used and tested by any Python.
"""

from __future__ import annotations

from importlib import import_module

_MODULES = (
    "preferences",
    "actors",
    "properties",
    "jobs",
    "candidate_icons",
    "handlers",
    "server_operators",
    "actor_operators",
    "pose_operators",
    "people_operators",
    "candidate_operators",
    "live_preview",
    "drag_tool",
    "layer_operators",
    "overlay",
    "server_panel",
    "actor_panel",
    "pose_panel",
    "layer_panel",
)


def register() -> None:
    """Called by Blender when the extension is switched on."""
    for name in _MODULES:
        import_module(f".{name}", __package__).register()


def unregister() -> None:
    """Called by Blender when it is switched off or quits."""
    for name in reversed(_MODULES):
        import_module(f".{name}", __package__).unregister()
