# SPDX-License-Identifier: GPL-3.0-or-later
"""Which colour space an image must have so that a scene's view transform shows its pixels as they are.

The server paints on what the artist sees, so a layer's pixels are display values. Blender sends them through
the scene's view transform; the colour space named here is the inverse of it. No bpy here.
"""

from __future__ import annotations

from collections.abc import Container

_INVERSE = {
    "Standard": ("sRGB",),
    "AgX": ("AgX Base sRGB",),
    "Filmic": ("Filmic sRGB",),
    "Filmic Log": ("Filmic Log",),
    "Khronos PBR Neutral": ("Khronos PBR Neutral sRGB",),
    "ACES 1.3": ("ACES 1.3 sRGB",),
    "ACES 2.0": ("ACES 2.0 sRGB",),
    "Raw": ("Non-Color", "Raw"),
}


def image_colour_space(view_transform: str, available: Container[str]) -> tuple[str, bool]:
    """The colour space for a layer and whether it undoes the view transform.

    Args:
        view_transform (`str`): `scene.view_settings.view_transform`.
        available (container of `str`): the colour spaces that this Blender's configuration has.

    Returns:
        `("sRGB", False)` where the transform has no known inverse (False Color, a studio's own configuration): the
        layer's colours will then differ from the server's picture.
    """
    for name in _INVERSE.get(view_transform, ()):
        if name in available:
            return name, True
    return "sRGB", False
