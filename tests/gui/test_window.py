# SPDX-License-Identifier: Apache-2.0
"""docs/blender.md's walk "From an empty Blender to a composite", done in a real window with mouse and keys.

Each step is done as the page says it; Python only looks at what came of it. Screenshots go to out/gui, and those in
out/gui/pages are the pictures of docs/blender.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
from window import DELIVERY, INSIDE, PICTURES, STALL, Window

from shared.client import Client, read_connection
from shared.messages import Detect

SHOT_SIZE = (960, 639)
FILE_MENU = (45, 12)
"""Where the top bar has it, which is not among Blender's editors."""


def difference(a: Path, b: Path, box: tuple[int, int, int, int]) -> int:
    """Pixels of a box (x, y, width, height) that differ between two screenshots."""
    x, y, width, height = box
    first, second = (cv2.imread(str(path))[y : y + height, x : x + width].astype(int) for path in (a, b))
    return int((np.abs(first - second).max(-1) > 24).sum())


def page(picture: Path, box: tuple[int, int, int, int]) -> None:
    """A part (x, y, width, height) of a screenshot for docs/pictures."""
    x, y, width, height = box
    path = PICTURES / "pages" / f"{picture.stem}.jpg"
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(
        str(path), cv2.imread(str(picture))[y : y + height, x : x + width], [cv2.IMWRITE_JPEG_QUALITY, 85]
    )


def scene(blender: Window, name: str) -> object:
    """One property of the scene."""
    return blender.ask(f"result = bpy.context.scene.{name}")


def middle(blender: Window, kind: str, region: str = "WINDOW", window: int = 0) -> tuple[float, float]:
    """The middle of a part of an editor."""
    x, y, width, height = blender.ask(f"result = box({kind!r}, {region!r}, {window})")
    return x + width / 2, y + height / 2


def over_view(blender: Window) -> None:
    """Rest the mouse on the camera view, beside the sidebar."""
    x, y, width, height = blender.ask("result = box('VIEW_3D', 'WINDOW')")
    blender.move(x + width / 3, y + height / 2)
    blender.settle()


# ---- the walk --------------------------------------------------------------------------------------------


def test_step_1_a_scene(blender: Window) -> None:
    # File > New > General, delete the cube (X).
    blender.click(*FILE_MENU)
    blender.key("n", "g")
    time.sleep(1)
    over_view(blender)
    blender.key("x", "Return")
    blender.screenshot("new-file")
    assert blender.ask("result = 'Cube' not in bpy.context.scene.objects")
    # The panel is in the 3D View's sidebar (press N), tab Walk-On.
    blender.key("n")
    blender.choose_tab("Walk-On")
    # Under Picture choose Image and open it.
    blender.press("walkon.source", at=0.7)
    blender.key("i")  # as the menu underlines it
    assert scene(blender, "walkon.source") == "IMAGE"
    blender.press("image.open")
    blender.choose_file(f"{INSIDE}/shot.png")
    blender.wait_until("result = bpy.context.scene.walkon.image is not None", 30)
    # Give the render its size: Properties > Output > Resolution.
    blender.choose_properties("OUTPUT")
    for name, value in zip(("resolution_x", "resolution_y"), SHOT_SIZE, strict=True):
        blender.type_into(name, str(value), kind="PROPERTIES", region="WINDOW", at=0.7)
        assert scene(blender, f"render.{name}") == value
    # Numpad 0 looks through the camera.
    over_view(blender)
    blender.key("KP_0")
    time.sleep(1)
    assert blender.ask("result = area_of('VIEW_3D').spaces.active.region_3d.view_perspective") == "CAMERA"


def test_step_2_start(blender: Window) -> None:
    blender.press("walkon.start_server", at=0.7)
    assert blender.wait_for_job() == "The server is ready"
    assert blender.state("server") == "READY"


def test_step_3_actor(blender: Window) -> None:
    # Click the thumbnail to see the library, which opens below it, and on a photo there.
    x, y = blender.find("walkon.actor")
    left = blender.ask("result = box('VIEW_3D', 'UI')")[0]
    blender.click(x, y - 60)
    time.sleep(1)
    blender.screenshot("library")
    blender.click(left + 58, y + 40)
    time.sleep(0.5)
    assert scene(blender, "walkon.actor") == f"{INSIDE}/actors/Actor.png"
    blender.press("walkon.look_at_actor")
    assert "1 person found" in blender.wait_for_job()
    page(blender.screenshot("actor"), (770, 70, 265, 420))


def test_step_4_find_people(blender: Window) -> None:
    blender.press("walkon.find_people", at=0.3)
    assert "people found" in blender.wait_for_job()
    shown = blender.screenshot("people")
    page(shown, (255, 70, 780, 660))
    # The button that shows and hides the lines.
    blender.press("walkon.show_overlay", at=0.76)
    time.sleep(0.5)
    hidden = blender.screenshot("without-overlay")
    view = tuple(blender.ask("result = box('VIEW_3D', 'WINDOW')"))
    assert difference(shown, hidden, view) > 300, "the skeletons are drawn over the camera view"
    blender.press("walkon.show_overlay", at=0.76)


def test_step_5_suggest(blender: Window) -> None:
    blender.press("walkon.suggest")
    assert "suggested" in blender.wait_for_job()
    blender.screenshot("suggestions")
    # The arrows go through them.
    for step, at, shown in ((1, 0.54, 1), (-1, 0.09, 0)):
        blender.press(f"walkon.choose_candidate(step={step})", at=at)
        assert scene(blender, "walkon.candidate_index") == shown


def test_step_6_pose_with_a_live_preview(blender: Window) -> None:
    blender.press("walkon.edit_pose")
    assert blender.ask("result = bpy.context.mode") == "POSE"
    blender.press("walkon.start_preview", at=0.4)
    assert blender.wait_for_job() == "The preview follows the pose"
    blender.wait_until(LIVE + "result = live.shown() is not None and live.shown().sharp", 60)
    before = blender.screenshot("preview")
    x, y = blender.joint("wrist.R")
    blender.click(x, y)
    assert blender.ask("result = bpy.context.active_pose_bone.name") == "wrist.R"
    blender.key("g")  # the drag begins; the mouse moves on, a click ends it
    turns = np.linspace(0.2, 6.3, 40)
    blender.sweep([(x + 40 * np.sin(turn), y - 25 * turn / 6.3) for turn in turns], 3.0)
    blender.x("click", 1)
    blender.wait_until(LIVE + "result = live.shown().sharp", 60)
    after = blender.screenshot("preview-dragged")
    page(after, (255, 70, 780, 920))
    assert difference(before, after, tuple(blender.ask("result = box('VIEW_3D', 'WINDOW')"))) > 200


def test_step_7_generate(blender: Window) -> None:
    blender.press("walkon.generate()")
    assert "is in the picture" in blender.wait_for_job()
    time.sleep(1)
    page(blender.screenshot("layer"), (255, 70, 780, 920))
    assert blender.ask("result = len(bpy.context.scene.walkon.layers)") == 1


def test_step_8_and_9_render(blender: Window) -> None:
    blender.press("walkon.composite_picture")
    over_view(blender)
    blender.key(
        "96"
    )  # F12 by the keyboard's own number: for its name the newer xdotool of 5.2's Debian holds Alt, too
    blender.wait_until("result = len(bpy.context.window_manager.windows) > 1", 60)
    blender.wait_until("result = not bpy.app.is_job_running('RENDER')", 280)
    time.sleep(1)
    blender.screenshot("rendered")
    blender.ask(f"bpy.data.images['Render Result'].save_render('{INSIDE}/composite.png')")
    rendered, plate = (
        cv2.imread(str(blender.folder / name)).astype(int) for name in ("composite.png", "shot.png")
    )
    cv2.imwrite(str(PICTURES / "composite.png"), rendered)
    page(PICTURES / "composite.png", (0, 0, *SHOT_SIZE))
    changed = (np.abs(rendered - plate).max(-1) > 12).mean()
    assert 0.001 < changed < 0.2, "the plate with one more person"
    blender.close_window(1)


LIVE = """
import bl_ext.user_default.walkon.live_preview as live
"""


# ---- two windows -----------------------------------------------------------------------------------------


def second_window(blender: Window) -> None:
    """Window > New Main Window."""
    blender.ask("bpy.ops.wm.window_new_main()")
    blender.wait_until("result = len(bpy.context.window_manager.windows) == 2", 30)
    blender.settle()


def in_second_window(blender: Window, operator: str) -> None:
    """A button of that window's panel."""
    blender.ask(f"""
where = {{"area": area_of("VIEW_3D", 1), "region": region_of("VIEW_3D", "UI", 1)}}
with bpy.context.temp_override(window=bpy.context.window_manager.windows[1], **where):
    bpy.ops.{operator}("INVOKE_DEFAULT")
""")


def test_a_window_closed_during_its_job_loses_nothing(blender: Window) -> None:
    second_window(blender)
    crowd = np.tile(cv2.imread(str(blender.folder / "shot.png")), (3, 3, 1))
    layers = "result = len(bpy.context.scene.walkon.layers)"
    before = blender.ask(layers)
    with Client(read_connection(blender.folder / "server.json")) as somebody_else:
        # More than any machine finds in while it closes a window, so the artist's job waits behind them all.
        ahead = [somebody_else.submit(Detect(), [crowd]) for _ in range(8)]
        in_second_window(blender, "walkon.generate")
        assert blender.state("job")
        time.sleep(0.3)
        blender.close_window(1)
        assert somebody_else.cancel(ahead.pop()), "the artist's job has not begun"
        assert not blender.state("job"), "nothing waits for an operator that is gone"
        assert blender.ask(layers) == before
        for job in ahead:
            somebody_else.cancel(job)
    blender.press("walkon.generate(fetch")
    assert "is in the picture" in blender.wait_for_job()
    assert blender.ask(layers) == before + 1
    assert not blender.ask("result = len(bpy.context.scene.walkon.unfinished)")


def test_a_preview_outlives_the_window_that_it_was_started_in(blender: Window) -> None:
    blender.press("walkon.edit_pose")
    assert blender.ask("result = bpy.context.mode") == "POSE"
    second_window(blender)
    in_second_window(blender, "walkon.start_preview")
    blender.wait_for_job()
    blender.wait_until(LIVE + "result = live.shown() is not None and live.shown().sharp", 60)
    blender.close_window(1)
    assert blender.ask(LIVE + "result = live.running()")
    pose = LIVE + "result = float(live.shown().skeleton.xy.sum())"
    before = blender.ask(pose)
    x, y = blender.joint("wrist.L")
    blender.click(x, y)
    blender.key("g")
    blender.move(x + 30, y - 30)
    blender.settle()
    blender.x("click", 1)
    blender.wait_until(pose + f" != {before}", 60)
    blender.press("walkon.stop_preview", at=0.4)
    assert not blender.ask(LIVE + "result = live.running()")


# ---- what is true of all of it -----------------------------------------------------------------------------


def test_nothing_of_ours_keeps_the_window_waiting(blender: Window) -> None:
    found = blender.ask("result = sorted(calls, key=lambda call: -call[1])[:100]")
    lines = [f"{took:8.2f} ms  {name}  job: {before} {after}" for name, took, before, after in found]
    (PICTURES / "calls.txt").write_text("\n".join(lines))
    slow = [
        (name, took)
        for name, took, before, after in found
        if before and took > (STALL if after else DELIVERY)
    ]
    assert not slow


def test_both_themes_and_the_preferences(blender: Window) -> None:
    blender.ask("""
from pathlib import Path
presets = Path(bpy.utils.resource_path("SYSTEM")) / "scripts" / "presets" / "interface_theme"
light = next(presets.glob("*ight.xml"))
bpy.ops.script.execute_preset(filepath=str(light), menu_idname="USERPREF_MT_interface_theme_presets")
""")
    time.sleep(1)
    blender.screenshot("light")
    blender.ask("bpy.ops.preferences.reset_default_theme()")
    blender.press("walkon.preferences", at=0.83)
    time.sleep(2)
    # It opens about the mouse, and there is no desktop to keep it on the screen.
    blender.x("search", "--name", "Preferences", "windowmove", 540, 0)
    time.sleep(1)
    page(blender.screenshot("preferences"), (540, 0, 690, 540))
