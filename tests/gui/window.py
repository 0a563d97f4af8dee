# SPDX-License-Identifier: Apache-2.0
"""A real Blender in a window: Debian's, in a chroot under Xvfb, worked with mouse and keys.

`python3 build.py test --gui` makes the chroot and names it in the environment variable WALKON_WINDOW.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CHROOT = Path(os.environ.get("WALKON_WINDOW", ""))
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "addon" / "demo"
PICTURES = ROOT / "out" / "gui"
STALL, DELIVERY = 16.0, 60.0
"""Milliseconds that a call of Blender's into the add-on may take while a job runs, and the one that brings a result."""
INSIDE = "/srv/walkon"
"""Where the test's folder is seen from within the chroot."""


class Window:
    """A Blender that runs. Coordinates are pixels of the screen, from its top-left corner.

    Args:
        folder (`Path`): what both sides see, `INSIDE` for Blender.
        pictures (`Path`): where screenshots go.
        size (`(int, int)`): of the screen, which Blender's window fills.
    """

    def __init__(self, folder: Path, pictures: Path, size: tuple[int, int]) -> None:
        self.folder, self.pictures, self.size = folder, pictures, size
        self._process: subprocess.Popen[bytes] | None = None
        self._places: dict[tuple[str, float, int], tuple[int, int]] = {}  # where buttons were found
        shutil.copy2(Path(__file__).with_name("agent.py"), folder / "agent.py")

    def _inside(self, *command: str) -> list[str]:
        display = self.folder / "display"  # the X server chose a free one
        number = display.read_text().strip() if display.exists() else ""
        variables = {
            "HOME": f"{INSIDE}/home", "BLENDER_USER_RESOURCES": f"{INSIDE}/blender", "DISPLAY": f":{number}",
            # Artists have a graphics card: what stands for it leaves a core to the server.
            "LIBGL_ALWAYS_SOFTWARE": "1", "LP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": "/tmp", "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        named = [f"{name}={value}" for name, value in variables.items()]
        return ["chroot", str(CHROOT), "env", "-i", *named, *command]

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        """Run a shell script inside, with its mounts in a namespace of its own: nothing is left behind."""
        root, folder = shlex.quote(str(CHROOT)), shlex.quote(str(self.folder))
        mounts = (
            f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
            f" && mkdir -p {root}{INSIDE} && mount --bind {folder} {root}{INSIDE}"
        )
        inside = shlex.join(self._inside("bash", "-c", script))
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        log = (self.folder / "blender.log").open("ab")
        return subprocess.Popen(
            [*namespace, "bash", "-c", f"{mounts} && exec {inside}"], stdout=log, stderr=log
        )

    def install(self, zip_file: Path) -> None:
        """Install the extension with Blender's own command, for this user."""
        shutil.copy2(zip_file, self.folder / "walkon.zip")
        (self.folder / "home").mkdir(exist_ok=True)
        (self.folder / "blender").mkdir(exist_ok=True)
        command = f"blender --command extension install-file --repo user_default --enable {INSIDE}/walkon.zip"
        assert self._start(command).wait(120) == 0, self.log()

    def open(self) -> None:
        """Start the X server and Blender, and wait until it answers."""
        width, height = self.size
        screen = f"{width}x{height}x24"
        self._process = self._start(
            f"cd {INSIDE}; Xvfb -displayfd 3 -screen 0 {screen} -fbdir {INSIDE} +extension GLX -nolisten tcp"
            " 3> display &"
            f" while [ ! -s {INSIDE}/display ]; do sleep 0.1; done; export DISPLAY=:$(cat {INSIDE}/display);"
            f" blender --window-geometry 0 0 {width} {height} --python {INSIDE}/agent.py -- {INSIDE}"
        )
        self.ask("result = 1", timeout=120)

    def close(self) -> None:
        """End Blender and its X server as a machine that is switched off would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def log(self) -> str:
        """What Blender printed."""
        return (self.folder / "blender.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    # ---- Python inside -----------------------------------------------------------------------------------

    def ask(self, code: str, timeout: float = 60.0) -> Any:
        """Run Python in Blender between two of its events; gives what it assigned to `result`."""
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        part = self.folder / "ask.part"
        part.write_text(code, encoding="utf-8")
        os.replace(part, self.folder / "ask.py")
        end = time.monotonic() + timeout
        while not answer.exists():
            assert self._process is None or self._process.poll() is None, f"Blender ended: {self.log()}"
            assert time.monotonic() < end, f"no answer to: {code}"
            time.sleep(0.005)
        reply = json.loads(answer.read_text(encoding="utf-8"))
        assert reply["error"] is None, reply["error"]
        return reply["result"]

    def wait_until(self, code: str, timeout: float = 300.0) -> None:
        """Until that Python assigns something true to `result`."""
        end = time.monotonic() + timeout
        while not self.ask(code):
            assert time.monotonic() < end, f"not in {timeout:.0f} s: {code}"
            time.sleep(0.2)

    def settle(self) -> None:
        """Until Blender has dealt with mouse and keys and has drawn again: it answers once in each of its rounds."""
        for _ in range(3):
            self.ask("result = 1", timeout=120)

    def show_tab(self, name: str, window: int = 0) -> None:
        """Open the 3D View's sidebar at that tab."""
        self.wait_until(f"result = show_tab({name!r}, {window})", 60)
        time.sleep(1.0)

    def state(self, name: str) -> Any:
        """One property of what the panel shows."""
        return self.ask(f"result = bpy.context.window_manager.walkon.{name}")

    def wait_for_job(self, timeout: float = 300.0) -> str:
        """Until no job runs; the panel's note. Fails where the panel shows an error."""
        end = time.monotonic() + timeout
        time.sleep(0.3)
        while self.state("job"):
            assert time.monotonic() < end, f"still at: {self.state('job')} {self.state('stage')}"
            time.sleep(0.2)
        assert not self.state("error"), f"{self.state('error')} {self.state('error_fix')}"
        return str(self.state("note"))

    # ---- mouse and keys ----------------------------------------------------------------------------------

    def x(self, *words: str | int) -> str:
        """One xdotool command line; what it printed."""
        command = self._inside("xdotool", *map(str, words))
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def move(self, x: float, y: float) -> None:
        self.x("mousemove", round(x), round(y))

    def click(self, x: float, y: float) -> None:
        """As a hand does: come near, rest on it, press."""
        for words in (
            ("mousemove", round(x) - 3, round(y) - 2),
            ("mousemove", round(x), round(y)),
            ("click", 1),
        ):
            self.x(*words)
            self.settle()
            time.sleep(0.1)

    def key(self, *keys: str) -> None:
        for key in keys:
            self.x("key", key)
            self.settle()
            time.sleep(0.1)

    def sweep(self, points: list[tuple[float, float]], seconds: float, code: str = "") -> list[Any]:
        """Move through points at an even pace; gives what `code` assigned to `result` while the mouse moved."""
        words: list[str] = []
        for x, y in points:
            words += ["mousemove", f"{x:.0f}", f"{y:.0f}", "sleep", f"{seconds / len(points):.4f}"]
        answers = []
        with subprocess.Popen(self._inside("xdotool", *words)) as moving:
            while code and moving.poll() is None:
                answers.append(self.ask(code))
                time.sleep(0.2)
        assert moving.returncode == 0
        return answers

    def find(
        self, what: str, kind: str = "VIEW_3D", region: str = "UI", at: float = 0.5, window: int = 0
    ) -> tuple[int, int]:
        """The middle of the button whose operator's call or property's path contains `what`.

        Found as an artist would who reads tooltips: by resting the mouse on one line after the other, first where
        the button was the last time.

        Args:
            kind, region: of which editor and which part of it; the 3D View's sidebar.
            at (0..1): where across the region to look.
            window: number of the window.
        """

        def meets(x: float, y: float) -> str:
            self.move(x, y)
            self.ask("result = 1")
            return str(self.ask(f"result = under_mouse({kind!r}, {region!r}, {window})"))

        place = self._places.get((what, at, window))
        if place is not None and what in meets(*place) and what in meets(place[0] + 1, place[1]):
            return place
        x0, y0, width, height = self.ask(f"result = box({kind!r}, {region!r}, {window})")
        x = x0 + round(width * at)
        seen: set[str] = set()
        for page in range(6):
            rows: list[int] = []
            for y in range(y0 + 6, y0 + height - 6, 9):
                found = meets(x, y)
                seen.add(found)
                if what in found:
                    rows.append(y)
                elif rows:
                    break
            if rows:
                self._places[what, at, window] = x, rows[len(rows) // 2]
                return self._places[what, at, window]
            # Scroll on by less than what is seen, then from the top again. At the edge the wheel is the sidebar's.
            self.move(x0 + 3, y0 + height / 2)
            self.settle()
            self.x("click", "--repeat", *((40, "--delay", 10, 4) if page == 2 else (8, "--delay", 20, 5)))
            self.settle()
        raise AssertionError(f"no button for {what}; there are: {sorted(seen)}")

    def press(self, what: str, **where: Any) -> None:
        """Click the button that `find` finds."""
        self.click(*self.find(what, **where))

    def type_into(self, what: str, text: str, **where: Any) -> None:
        """Double-click a field, replace what is in it, Return."""
        self.type_at(*self.find(what, **where), text)

    def type_at(self, x: float, y: float, text: str) -> None:
        """The same with a field whose place is known."""
        self.move(x, y)
        self.settle()
        self.x("click", "--repeat", 2, "--delay", 60, 1)
        self.settle()
        self.key("ctrl+a")
        self.x("type", "--delay", 15, text)
        self.settle()
        self.key("Return")

    # ---- ways through Blender's own interface ------------------------------------------------------------

    def joint(self, bone: str) -> tuple[float, float]:
        """Where a joint of the armature is in the camera view."""
        x, y = self.ask(f"result = joint({bone!r})")
        return x, y

    def choose_tab(self, name: str) -> None:
        """Click the sidebar's tab of that name: they stand one below the other at its right edge."""
        self.wait_until("result = region_of('VIEW_3D', 'UI').width > 1", 10)
        time.sleep(0.5)
        x, y, width, height = self.ask("result = box('VIEW_3D', 'UI')")
        for down in range(y + 20, y + height, 30):
            self.click(x + width - 12, down)
            if self.ask("result = region_of('VIEW_3D', 'UI').active_panel_category") == name:
                return
        raise AssertionError(f"no tab {name}")

    def choose_properties(self, context: str) -> None:
        """Click the Properties editor's icon of that context."""
        x, y, width, height = self.ask("result = box('PROPERTIES', 'NAVIGATION_BAR')")
        for down in range(y + 12, y + height, 12):
            self.click(x + width / 2, down)
            if self.ask("result = area_of('PROPERTIES').spaces.active.context") == context:
                return
        raise AssertionError(f"no {context} in the Properties editor")

    def choose_file(self, path: str) -> None:
        """In the file browser that has opened: type the path into the line at its top, then press its button."""
        self.wait_until("result = len(bpy.context.window_manager.windows) == 2", 30)
        time.sleep(1.0)
        where = {"kind": "FILES", "window": 1}
        folder, _, name = path.rpartition("/")
        for region, at, text in (("UI", 0.4, folder), ("EXECUTE", 0.3, name)):
            x, y, width, height = self.ask(f"result = box('FILES', {region!r}, 1)")
            self.type_at(x + at * width, y + height / 2, text)
        self.screenshot("file-browser")
        self.press("file.execute", region="EXECUTE", at=0.9, **where)

    def close_window(self, window: int) -> None:
        """What the cross in its corner does: that is the desktop's, which is not there."""
        before = self.ask("result = len(bpy.context.window_manager.windows)")
        self.ask(f"""
with bpy.context.temp_override(window=bpy.context.window_manager.windows[{window}]):
    bpy.ops.wm.window_close()
""")
        self.wait_until(f"result = len(bpy.context.window_manager.windows) < {before}", 30)
        time.sleep(0.5)

    def screenshot(self, name: str) -> Path:
        """The whole screen as a PNG file."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.ask("redraw()")
        path = self.pictures / f"{name}.png"
        cv2.imwrite(str(path), self._screen())
        return path

    def _screen(self) -> np.ndarray:
        """The X server's pixels `(H, W, 3)`, BGR: an XWD file (X11/XWDFile.h) that it keeps in memory."""
        dump = (self.folder / "Xvfb_screen0").read_bytes()
        header = np.frombuffer(dump, ">u4", 25)
        size, width, height, line, colours = (int(header[at]) for at in (0, 4, 5, 12, 19))
        pixels = np.frombuffer(dump, np.uint8, line * height, size + 12 * colours)
        return pixels.reshape(height, line // 4, 4)[:, :width, :3]


@contextmanager
def window(folder: Path, pictures: Path, size: tuple[int, int], zip_file: Path) -> Iterator[Window]:
    """A Blender with the add-on installed, in a window; it is gone afterwards."""
    blender = Window(folder, pictures, size)
    try:
        blender.install(zip_file)
        blender.open()
        yield blender
    finally:
        blender.close()
