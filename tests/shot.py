# SPDX-License-Identifier: Apache-2.0
"""Renders the demo's shot: `python tests/shot.py PICTURE PERCENT SAMPLES`, with the Python of Blender 5.0.

The shot's file is one of Blender 5.0, which older ones cannot open.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def render_shot(picture: Path, percent: int, samples: int) -> None:
    """Make `picture`, a PNG of so many percent of 1280 x 853 pixels."""
    inside = Path("Scripts/python.exe") if os.name == "nt" else Path("bin/python")
    python = ROOT / ".venv" / "blender-5.0" / inside
    with tempfile.TemporaryDirectory() as settings:
        done = subprocess.run(
            [python, __file__, picture, str(percent), str(samples)],
            env={**os.environ, "BLENDER_USER_RESOURCES": settings},
            capture_output=True,
            check=False,
        )
    assert picture.exists(), done.stderr.decode(errors="replace")


if __name__ == "__main__":
    import bpy

    bpy.ops.wm.open_mainfile(filepath=str(ROOT / "addon" / "demo" / "shot.blend"))
    scene = bpy.context.scene
    scene.render.filepath, scene.render.resolution_percentage = sys.argv[1], int(sys.argv[2])
    scene.render.image_settings.file_format = "PNG"
    scene.cycles.samples, scene.cycles.use_denoising = int(sys.argv[3]), False
    bpy.ops.render.render(write_still=True)
