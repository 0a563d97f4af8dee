# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job in headless Blender: install the add-on, put a person into a shot, composite, save all of it.

`python3 build.py demo` runs this with Blender's Python. Everything goes through the add-on's operators, as a
script of an artist's would; only the pictures of skeletons are drawn here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
import drawing  # noqa: E402  (the add-on's own, which needs no Blender)

MODULE = "bl_ext.user_default.walkon"


class DemoError(Exception):
    """What went wrong, for the person who typed the command."""


@contextmanager
def _quiet(log: Path) -> Iterator[Callable[[str], None]]:
    """Blender prints a lot, from C as well: into a file with it. Gives a function that still prints."""
    sys.stdout.flush()
    screen = os.dup(1)
    errors = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    def say(text: str) -> None:
        os.write(screen, (text + "\n").encode())

    try:
        yield say
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(screen, 1)
        os.dup2(errors, 2)
        os.close(screen)
        os.close(errors)


class Demo:
    """The steps, in order.

    Args:
        zip_file (`Path`): the built add-on.
        server (`Path`): Python of the server's environment.
        out (`Path`): folder for the results.
        say: prints a line.
    """

    def __init__(self, zip_file: Path, server: Path, out: Path, say: Callable[[str], None]) -> None:
        self.zip_file, self.server, self.out, self.say = zip_file, server, out, say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time a step and say that it is done."""
        start = time.monotonic()
        yield
        self.seconds[title] = round(time.monotonic() - start, 2)
        self.say(f"  {self.seconds[title]:5.1f} s  {title}")

    def run(self) -> None:
        """Do it all.

        Raises:
            DemoError: a step failed.
        """
        import bpy

        with self.step("add-on installed"):
            self.operator(
                bpy.ops.extensions.package_install_files,
                filepath=str(self.zip_file),
                repo="user_default",
                enable_on_install=True,
            )
            if MODULE not in bpy.context.preferences.addons:
                raise DemoError(f"{self.zip_file} was installed, but the add-on did not start")
        preferences = bpy.context.preferences.addons[MODULE].preferences
        preferences.server = str(self.server)
        preferences.connection_file = str(Path(os.environ["BLENDER_USER_RESOURCES"]) / "server.json")
        walkon = bpy.ops.walkon
        try:
            with self.step("server started, models loaded"):
                self.operator(walkon.start_server)
            self.insert(bpy, walkon)
        finally:
            walkon.stop_server()

    def insert(self, bpy: Any, walkon: Any) -> None:
        """From the shot to the composite."""
        shot = HERE / "shot.blend"
        self.operator(bpy.ops.wm.open_mainfile, filepath=str(shot))
        scene = bpy.context.scene
        # The shot is path-traced twice, and the demo is to take a minute.
        scene.render.resolution_percentage = 75
        work = scene.walkon
        work.actor = str(HERE / "actor.png")
        with self.step("shot rendered"):
            self.operator(bpy.ops.render.render)
            bpy.data.images["Render Result"].save_render(str(self.out / "before.png"), scene=scene)
        with self.step("people found"):
            self.operator(walkon.find_people)
        with self.step("places suggested"):
            self.operator(walkon.suggest)
        with self.step("person painted, layer added"):
            self.operator(walkon.generate)
        with self.step("composite rendered"):
            self.operator(bpy.ops.render.render)
            bpy.data.images["Render Result"].save_render(str(self.out / "after.png"), scene=scene)
        with self.step("pictures, report and file saved"):
            self.save(bpy, work)

    def operator(self, call: Callable[..., set[str]], **arguments: Any) -> None:
        """Call an operator.

        Raises:
            DemoError: with what it reported.
        """
        try:
            done = call(**arguments)
        except RuntimeError as error:
            raise DemoError(str(error).strip().removeprefix("Error: ")) from error
        if "FINISHED" not in done:
            raise DemoError(f"{call.idname_py()} did not finish")

    def save(self, bpy: Any, work: Any) -> None:
        """Write what was not written yet."""
        pictures = importlib.import_module(f"{MODULE}.scene_picture")
        painting = importlib.import_module(f"{MODULE}.painting")
        skeletons = importlib.import_module(f"{MODULE}.shared.skeleton")
        kind = {"limbs": skeletons.LIMBS, "names": skeletons.JOINTS}

        def write(name: str, array: np.ndarray) -> None:
            (self.out / name).write_bytes(painting.png(np.clip(array, 0, 255).astype(np.uint8)))

        scene_pixels = pictures.pixels(work.picture)[..., :3].astype(np.float32)
        people = [person.skeleton for person in work.people]
        candidates = [candidate.edited.skeleton for candidate in work.candidates]
        layer, version = work.layer, work.layer.version

        drawn = scene_pixels * 0.6
        for person in people:
            drawing.skeleton(drawn, person, colour=drawing.TEAL, **kind)
        drawing.skeleton(drawn, version.skeleton.skeleton, colour=None, **kind)
        write("skeletons.png", drawn)

        small = max(1, round(scene_pixels.shape[1] / 640))
        sheets = []
        for index, candidate in enumerate(candidates):
            one = scene_pixels * (0.6 if index == work.candidate_index else 0.35)
            for person in people:
                drawing.skeleton(one, person, colour=drawing.TEAL, **kind)
            drawing.skeleton(one, candidate, colour=None, **kind)
            sheets.append(drawing.shrunk(one, small))
        write("candidates.png", drawing.sheet(sheets, columns=min(4, len(sheets))))
        write("person.png", pictures.pixels(version.image))

        bpy.ops.wm.save_as_mainfile(filepath=str(self.out / "demo.blend"), compress=True)
        placed = {name: getattr(layer, name) for name in ("x", "y", "scale", "flip", "opacity")}
        report = {
            "picture": list(work.picture_size),
            "context": skeletons.people_to_dict(people),
            "candidates": [
                {
                    "score": candidate.suggested.score,
                    **skeletons.people_to_dict([candidate.suggested.skeleton]),
                }
                for candidate in work.candidates
            ],
            "skeleton": skeletons.people_to_dict([version.skeleton.skeleton]),
            "layer": placed
            | {"seed": version.seed, "size": list(version.image_size), "anchor": list(version.anchor)},
            "seconds": self.seconds,
            "server": json.loads(version.provenance),
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--zip", type=Path, required=True, help="the built add-on")
    parser.add_argument(
        "--server-python", type=Path, required=True, help="Python of the server's environment"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    return parser.parse_args()


_NEXT = """
Look at {out}:
  before.png      the shot as rendered
  skeletons.png   the people found in it (teal) and the new one
  candidates.png  all places that were suggested, the chosen one bright
  person.png      the actor in that pose, with alpha
  after.png       the composite, rendered by Blender
  demo.blend      the scene with the layer in it: open it in Blender with the add-on installed
  report.json     numbers

Next, with photos of yours (a picture with people in it, and one of the person to put there):
  {walkon} insert --scene PICTURE --actor PHOTO --out inserted.png
In Blender: Edit > Preferences > Get Extensions > Install from Disk > {zip}
  then give {server} as the server in its preferences; the panel is in the 3D View's sidebar (N), tab Walk-On.
"""


def main() -> int:
    """The command; returns its exit code."""
    options = _arguments()
    out: Path = options.out.resolve()
    # SIGTERM as Ctrl-C: the server is stopped whatever happens.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        for needed in (options.zip, options.server_python, HERE / "shot.blend", HERE / "actor.png"):
            if not needed.is_file():
                raise DemoError(f"{needed} is missing; python3 build.py setup makes the environments")
        out.mkdir(parents=True, exist_ok=True)
        log = out / "blender.log"
        with tempfile.TemporaryDirectory(prefix="walkon-demo-") as user, _quiet(log) as say:
            # Blender's settings and extensions go there: the user's own stay as they are.
            os.environ["BLENDER_USER_RESOURCES"] = user
            # Absolute, but not resolved: an environment's Python is a link to another one.
            server = Path(os.path.abspath(options.server_python))
            Demo(options.zip.resolve(), server, out, say).run()
    except (DemoError, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    walkon = server.with_name("walkon.exe" if os.name == "nt" else "walkon")
    print(f"Done in {time.monotonic() - started:.0f} s.")
    print(_NEXT.format(out=out, walkon=walkon, zip=options.zip.resolve(), server=server))
    return 0


if __name__ == "__main__":
    sys.exit(main())
