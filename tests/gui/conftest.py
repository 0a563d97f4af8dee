# SPDX-License-Identifier: Apache-2.0
"""A real Blender's window and a real server, for the tests of one file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shot import render_shot
from window import DEMO, INSIDE, PICTURES, Window, window


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Blender's side of the test sees: a back plate, a library with one actor, and the server's file."""
    if "WALKON_WINDOW" not in os.environ:
        pytest.skip("a window is only there for `python3 build.py test --gui`")
    place = tmp_path_factory.mktemp("window")
    place.chmod(0o755)
    (place / "actors").mkdir()
    shutil.copy2(DEMO / "actor.png", place / "actors" / "Actor.png")
    render_shot(place / "shot.png", 75, 16)
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real server on this machine; Blender finds it by its connection file."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.serve", "--connection-file", folder / "server.json"], stderr=log
        )
    try:
        while not (folder / "server.json").exists():
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def size() -> tuple[int, int]:
    """Of the screen: high enough for the whole panel."""
    return 1280, 1100


@pytest.fixture(scope="module")
def blender(folder: Path, size: tuple[int, int], server: subprocess.Popen[bytes]) -> Iterator[Window]:
    """A Blender that has just been installed and opened, with the add-on's preferences set."""
    with window(folder, PICTURES, size, Path(os.environ["WALKON_ZIP"])) as opened:
        opened.ask(f"""
settings = bpy.context.preferences.addons["bl_ext.user_default.walkon"].preferences
settings.connection_file, settings.actors = "{INSIDE}/server.json", "{INSIDE}/actors"
""")
        yield opened
