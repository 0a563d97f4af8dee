# SPDX-License-Identifier: Apache-2.0
"""The demo as build.py runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from conftest import ROOT, read_png, server_python, zip_file

pytestmark = pytest.mark.skipif(
    bpy.app.version < (5, 0), reason="build.py runs the demo in Blender 5.0; older ones cannot open its shot"
)

SCRIPT = ROOT / "addon" / "demo" / "run.py"


def command(out: Path, **other: str) -> list[str]:
    given = {"zip": str(zip_file()), "server_python": str(server_python()), "out": str(out)} | other
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [sys.executable, str(SCRIPT), *options]


@pytest.mark.timeout(900)
def test_the_demo_puts_a_person_into_the_shot(installed: str, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    done = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with photos of yours" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "after.png", "before.png", "blender.log", "candidates.png", "demo.blend", "person.png", "report.json",
        "skeletons.png",
    ]  # fmt: skip

    report = json.loads((out / "report.json").read_text())
    assert len(report["context"]["people"]) >= 3
    assert len(report["candidates"]) >= 2
    assert {"weights", "versions", "seconds"} <= report["server"].keys()
    before, after = (read_png(out / name).astype(int) for name in ("before.png", "after.png"))
    layer = report["layer"]
    left, top = (round(layer[at] - anchor) for at, anchor in zip("xy", layer["anchor"], strict=True))
    width, height = layer["size"]
    difference = np.abs(after - before).max(-1)
    inside = np.zeros(difference.shape, bool)
    inside[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1] = True
    assert difference[~inside].max() <= 1, "beyond the layer only Blender's dithering differs"
    person = read_png(out / "person.png").any(-1)  # shadows are black
    assert person.sum() > 2000
    there = difference[top : top + height, left : left + width]
    assert (there[person] > 16).mean() > 0.6, "a person is there"

    bpy.ops.wm.open_mainfile(filepath=str(out / "demo.blend"))
    work = bpy.context.scene.walkon
    assert len(work.layers) == 1
    assert work.layer.version.image.packed_file is not None
    assert work.layer.x == pytest.approx(layer["x"])


def test_a_demo_that_cannot_work_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "out", zip=str(tmp_path / "none.zip")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"The demo failed: {tmp_path}/none.zip is missing" in done.stderr
    done = subprocess.run(
        command(tmp_path / "out", server_python=sys.executable), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "The demo failed: The server ended while starting" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_an_interrupted_demo_stops_its_server(tmp_path: Path) -> None:
    before = servers()
    demo = subprocess.Popen(command(tmp_path / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (started := servers() - before):
        assert demo.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(60) == 143
    assert not started & servers()


def servers() -> set[int]:
    """Processes that serve a demo."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"--connection-file" in words and b"walkon-demo-" in words:
                found.add(int(folder.name))
    return found
