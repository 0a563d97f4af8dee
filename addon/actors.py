# SPDX-License-Identifier: GPL-3.0-or-later
"""The library of actors: a folder of photos with their thumbnails, and who was found in the photos looked at."""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews

from .portrait import SIDE, Look
from .preferences import preferences

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"}

NOBODY = "NOBODY"

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
_looks: dict[tuple[str, float], Look] = {}
_listed: tuple[str, float, list[Path]] = ("", 0.0, [])
_items: list[tuple[str, str, str, int | str, int]] = []


def folder() -> Path:
    """The library's folder; it may not exist."""
    chosen = preferences().actors
    if chosen:
        return Path(bpy.path.abspath(chosen))
    return Path(bpy.utils.extension_path_user(__package__, path="actors"))


def photos() -> list[Path]:
    """The library's photos by name. Reads the folder again only where it has changed: the panel asks all the time."""
    global _listed
    where = folder()
    try:
        changed = where.stat().st_mtime
        if _listed[:2] != (str(where), changed):
            found = sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
            _listed = (str(where), changed, found)
    except OSError:
        _listed = (str(where), 0.0, [])
    return _listed[2]


def items(_state: object, _context: object) -> list[tuple[str, str, str, int | str, int]]:
    """The photos as an enum's items, and last `NOBODY`. Blender keeps no copy of the texts, so the list must stay."""
    global _items
    wanted = [str(path) for path in photos()]
    if [item[0] for item in _items[:-1]] != wanted or not _items:
        _items = [
            (path, Path(path).stem, f"Take {Path(path).name}", _thumbnail(path), index)
            for index, path in enumerate(wanted)
        ]
        _items.append((NOBODY, "No Photo", "No photo of the library is chosen", "USER", len(wanted)))
    return _items


def _thumbnail(path: str) -> int:
    assert _previews is not None
    return (_previews.get(path) or _previews.load(path, path, "IMAGE")).icon_id


def _key(path: str) -> tuple[str, float]:
    file = Path(bpy.path.abspath(path))
    try:
        return str(file), file.stat().st_mtime
    except OSError:
        return str(file), 0.0


def look(path: str) -> Look | None:
    """What was found in that photo, if it was looked at and has not changed since."""
    return _looks.get(_key(path)) if path else None


def keep(path: str, found: Look) -> None:
    """Remember what was found, and make its portrait an icon."""
    assert _previews is not None
    _looks[_key(path)] = found
    name = f"portrait {path}"
    shown = _previews.get(name) or _previews.new(name)
    shown.image_size = (SIDE, SIDE)
    shown.image_pixels_float.foreach_set(found.portrait.ravel())


def portrait(path: str) -> int:
    """Icon of the portrait of a photo that was looked at."""
    assert _previews is not None
    return _previews[f"portrait {path}"].icon_id


def register() -> None:
    """Called by the package."""
    global _previews
    _previews = bpy.utils.previews.new()


def unregister() -> None:
    """Called by the package."""
    global _previews
    bpy.utils.previews.remove(_previews)
    _previews = None
    _looks.clear()
    _items.clear()
