# SPDX-License-Identifier: Apache-2.0
"""build.py as a user types it: messages, set-up from nothing and again, the zip, cleaning."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import build

ROOT = Path(build.__file__).resolve().parent
SOURCES = ("addon", "models", "server", "shared")


def run(root: Path, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Starts a checkout's build.py; its output and errors come together in `stdout`."""
    return subprocess.run(
        [sys.executable, root / "build.py", *arguments],
        cwd=cwd or root, env=os.environ | env, check=False, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, without weights and environments, in a path with spaces."""
    root = tmp_path / "a checkout" / "walk on"
    ignore = shutil.ignore_patterns("__pycache__", "weights")
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("build.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy2(ROOT / name, root / name)
    return root


@pytest.fixture
def addon_checkout(checkout: Path) -> Path:
    """A copy that uses this checkout's Blender environment and has its wheels: no network is needed."""
    build.fetch_wheels()
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "blender-5.0").symlink_to(build.BLENDER.folder)
    shutil.copytree(build.VENV / "wheels", checkout / ".venv" / "wheels")
    return checkout


# --- the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "setup", "demo", "test", "addon", "clean"])
def test_help(command: str) -> None:
    done = run(ROOT, *command.split(), "--help")
    assert done.returncode == 0
    assert f"usage: build.py {command}".strip() in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tset"], "no command 'tset': did you mean 'test'?"),
        (["frobnicate"], "no command 'frobnicate': the commands are setup, demo, test, addon, clean"),
        ([], "the following arguments are required: COMMAND"),
        (["setup", "--fast"], "setup takes no '--fast'"),
        (["clean", "everything"], "clean takes no 'everything'"),
        (["test", "--gui", "4.2"], "invalid choice: '4.2'"),
    ],
)
def test_mistyped(arguments: list[str], message: str) -> None:
    done = run(ROOT, *arguments)
    assert done.returncode == 2
    assert message in done.stdout


@pytest.mark.parametrize("version", [(3, 10), (3, 12), (3, 13)])
def test_other_pythons_are_told_what_to_do(version: tuple[int, int]) -> None:
    with pytest.raises(build.BuildError, match=r"needs Python 3\.11 .*this is 3\.\d+") as caught:
        build.check_python(version)
    assert re.search(r"Start it with .*python3\.11|Install Python 3\.11", str(caught.value))
    build.check_python((3, 11))


def other_pythons() -> list[Path]:
    """Pythons of this machine other than 3.11, from 3.8 on."""
    installed = Path(os.environ.get("PYENV_ROOT", "/nowhere")).glob("versions/3.*/bin/python3")
    on_path = [Path(found) for minor in (8, 9, 10, 12, 13, 14) if (found := shutil.which(f"python3.{minor}"))]
    version = "import sys; print(*sys.version_info[:2])"
    found = []
    for python in [*installed, *on_path]:
        done = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.split() not in (["3", "6"], ["3", "7"], ["3", "11"]):
            found.append(python)
    return found


def test_another_python_gets_as_far_as_the_message() -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("this machine has no other Python")
    for python in pythons:
        done = subprocess.run(
            [python, ROOT / "build.py", "setup"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "Walk-On needs Python 3.11" in done.stderr
        assert "Traceback" not in done.stderr


# --- set-up -----------------------------------------------------------------------------------------------


def test_second_setup_is_quick_from_anywhere(tmp_path: Path) -> None:
    for environment in (build.SERVER, build.BLENDER):
        if not environment.ready():
            pytest.skip("this checkout was not set up with build.py")
    started = time.monotonic()
    done = run(ROOT, "setup", cwd=tmp_path)
    assert time.monotonic() - started < 3
    assert done.returncode == 0
    assert "Everything is set up" in done.stdout


def small_locks(root: Path) -> None:
    """Two small packages instead of torch and bpy, so that a real set-up takes seconds."""
    lock = build.SERVER.lock.read_text(encoding="utf-8").splitlines()
    needed = [line for line in lock if line.startswith("setuptools==")]
    (root / "server" / "requirements.lock").write_text("\n".join(needed) + "\n")
    (root / "addon" / "requirements-5.0.lock").write_text("iniconfig==2.3.1\n")


def imported_from(python: Path, cwd: Path) -> Path:
    code = "import shared; print(shared.__file__)"
    done = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).parent


def test_setup_fails_goes_on_is_repaired_moved_and_cleaned(checkout: Path, tmp_path: Path) -> None:
    small_locks(checkout)
    server, blender = checkout / ".venv" / "server", checkout / ".venv" / "blender-5.0"
    scripts = "Scripts" if os.name == "nt" else "bin"
    (server / scripts).mkdir(
        parents=True
    )  # as left by a set-up that was cut short while it made the environment
    (server / "lib64").mkdir()

    # A version that does not exist: pip's own words, what to do, no traceback; the server's environment stays.
    lock = checkout / "addon" / "requirements-5.0.lock"
    wanted = lock.read_text()
    lock.write_text("iniconfig==0.0.0.999\n")
    done = run(checkout, "setup", cwd=tmp_path)
    assert done.returncode == 1
    assert "[1/2] server environment: done in" in done.stdout
    assert "The Blender 5.0 environment could not be installed" in done.stdout
    assert "No matching distribution found for iniconfig==0.0.0.999" in done.stdout
    assert "Check the network connection" in done.stdout
    assert "Traceback" not in done.stdout
    assert (checkout / "out" / "setup.log").exists()
    assert imported_from(server / scripts / "python", tmp_path) == checkout / "shared"
    assert list((server / scripts).glob("walkon*"))

    # The same command goes on where it stopped.
    lock.write_text(wanted)
    done = run(checkout, "setup")
    assert done.returncode == 0, done.stdout
    assert "[1/1] Blender 5.0 environment: done in" in done.stdout
    assert "Everything is set up" in run(checkout, "setup").stdout

    # Cut short while a package was being unpacked: its metadata is there, a file is not.
    (package,) = blender.rglob("iniconfig")
    (metadata,) = blender.rglob("iniconfig-*.dist-info")
    (package / "__init__.py").unlink()
    (metadata / "INSTALLER").unlink()
    (blender / "walkon-setup").unlink()
    assert "[1/1] Blender 5.0 environment: done in" in run(checkout, "setup").stdout
    assert (package / "__init__.py").exists()

    # A checkout that was moved is the one that is imported.
    moved = checkout.with_name("moved checkout")
    checkout.rename(moved)
    assert "[1/1] server environment: done in" in run(moved, "setup").stdout
    assert imported_from(moved / ".venv" / "server" / scripts / "python", tmp_path) == moved / "shared"

    (moved / "shared" / "__pycache__").mkdir(exist_ok=True)
    done = run(moved, "clean")
    assert "Removed: out" in done.stdout
    assert "The environments in .venv stay" in done.stdout
    assert not (moved / "shared" / "__pycache__").exists()
    assert "There was nothing to remove" in run(moved, "clean").stdout
    assert "Removed: .venv" in run(moved, "clean", "--all").stdout
    assert not (moved / ".venv").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="system libraries are checked on Linux")
def test_missing_system_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.LIBRARIES, "libwalkon-is-not-there.so.9", "libwalkon9")
    assert "libwalkon9" in build.missing_packages()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(build.BuildError, match="sudo apt-get install -y --no-install-recommends libwalkon9"):
        build.install_packages(["libwalkon9"], build.Progress(1))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(build.BuildError, match="Debian calls them: libwalkon9"):
        build.install_packages(["libwalkon9"], build.Progress(1))


# --- the add-on's zip -------------------------------------------------------------------------------------


def test_zip_is_whole_and_the_same_without_network(addon_checkout: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1"}
    first = run(addon_checkout, "addon", cwd=tmp_path, **nowhere)
    assert first.returncode == 0, first.stdout
    (path,) = (addon_checkout / "dist").glob("*.zip")
    before = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    assert {
        "__init__.py",
        "shared/skeleton.py",
        "shared/client.py",
        "LICENSE",
        "shared/LICENSE",
        "NOTICE",
    } <= names
    assert {f"wheels/{name}" for name in build.locked_wheels()} <= names
    assert not [name for name in names if name.startswith("demo/") or name.endswith((".pyc", ".lock"))]
    assert run(addon_checkout, "addon", **nowhere).returncode == 0
    assert path.read_bytes() == before
    # What artists add as a remote repository: the folder dist/, put on a web server.
    (listed,) = json.loads((addon_checkout / "dist" / "index.json").read_text(encoding="utf-8"))["data"]
    assert (listed["id"], listed["archive_url"]) == ("walkon", f"./{path.name}")
    assert listed["archive_hash"] == f"sha256:{hashlib.sha256(before).hexdigest()}"


def test_index_that_does_not_offer_the_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "walkon-0.1.0.zip").write_bytes(b"zip")
    listed = {"archive_url": "./walkon-0.1.0.zip", "archive_hash": "sha256:0"}
    (tmp_path / "index.json").write_text(json.dumps({"data": [listed]}), encoding="utf-8")
    with pytest.raises(build.BuildError, match=r"does not list walkon-0\.1\.0\.zip alone"):
        build.check_index(tmp_path / "index.json", tmp_path / "walkon-0.1.0.zip")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tagline = "', 'tagline = "Ends with a full stop." # ', 'key "tagline" invalid'),
        ("SPDX:GPL", "GPL", "the licence GPL-3.0-or-later does not start with SPDX:"),
        ('min = "4.2.0"', 'min = "4.1.0"', "blender_version_min is 4.1.0: extensions start with 4.2.0"),
        ('version = "0.1.0"', 'version = "0.1.1"', "version is 0.1.1, but shared/__init__.py says 0.1.0"),
        ("wheels = []", 'platforms = ["linux-x86_64"]\nwheels = []', "linux-x86_64 is no platform of ours"),
        ("wheels = []", "", "has no line `wheels = []`"),
    ],
)
def test_zip_that_would_not_work_is_refused(addon_checkout: Path, old: str, new: str, message: str) -> None:
    manifest = addon_checkout / "addon" / "blender_manifest.toml"
    text = manifest.read_text(encoding="utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = run(addon_checkout, "addon")
    assert done.returncode == 1
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_wheel_that_is_missing_for_one_platform_is_noticed(addon_checkout: Path) -> None:
    lock = addon_checkout / "addon" / "wheels.lock"
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if "abi3-win_amd64" not in line]
    lock.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(addon_checkout, "addon")
    assert done.returncode == 1
    assert "no wheel of pyzmq for windows-x64 and Python 3.13" in done.stdout


@pytest.mark.parametrize(
    ("wheel", "platform", "python", "fits"),
    [
        ("pyzmq-1-cp312-abi3-win_amd64.whl", "windows-x64", "3.13", True),
        ("pyzmq-1-cp312-abi3-win_amd64.whl", "windows-x64", "3.11", False),
        ("pyzmq-1-cp311-cp311-win_amd64.whl", "windows-x64", "3.13", False),
        ("pyzmq-1-cp311-cp311-win_amd64.whl", "linux-x64", "3.11", False),
        ("pyzmq-1-cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", "linux-x64", "3.13", True),
        ("pyzmq-1-cp311-cp311-macosx_10_15_universal2.whl", "macos-arm64", "3.11", True),
    ],
)
def test_wheel_fits(wheel: str, platform: str, python: str, fits: bool) -> None:
    assert build.wheel_fits(wheel, "pyzmq", platform, python) is fits
    assert not build.wheel_fits(wheel, "msgspec", platform, python)


# --- tests and import rules -------------------------------------------------------------------------------


def test_selection_is_sorted_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "tests" / "blender").mkdir(parents=True)
    (tmp_path / "tests" / "gui").mkdir()
    (tmp_path / "tests" / "test_pose.py").touch()
    (tmp_path / "tests" / "gui" / "test_drag.py").touch()
    arguments = ["-x", "-k", "name", "test_pose.py::test_box", "blender", "nothing.py", "gui/test_drag.py"]
    options, server, blender, window = build.split_selection(arguments, tmp_path / "tests")
    assert options == ["-x", "-k", "name", "nothing.py"]
    assert server == [f"{tmp_path / 'tests' / 'test_pose.py'}::test_box"]
    assert blender == [str(tmp_path / "tests" / "blender")]
    assert window == [str(tmp_path / "tests" / "gui" / "test_drag.py")]


def test_where_there_can_be_no_window(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert build.set_up_window(None) == (None, "")
    for version in ("4.3", "5.2"):
        with pytest.raises(
            build.BuildError, match=rf"no window of Blender {version}: .* needs Linux and root"
        ):
            build.set_up_window(version)
    window, reason = build.set_up_window("if-possible")
    assert window is None
    assert "a window needs Linux and root" in reason
    assert reason in capsys.readouterr().err


def test_a_command_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build.run_quietly(["sleep", "60"], build.Progress(1), timeout=1)
    assert "not done in 1 s" in caught.value.output
    assert time.monotonic() - started < 10


def test_counts_of_a_report(tmp_path: Path) -> None:
    report = tmp_path / "r.xml"
    report.write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>',
        encoding="utf-8",
    )
    assert build.counts(report) == {"passed": 3, "failed": 3, "skipped": 3}
    assert build.counts(tmp_path / "none.xml") == {"passed": 0, "failed": 0, "skipped": 0}


def test_faults_of_a_report(tmp_path: Path) -> None:
    """What pytest itself writes: the summary names each test that failed, with the first line of its reason."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('no such disk')\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_bad(n): assert n == 1, 'not one\\nbut two'\n"
        "def test_worse(broken): pass\n",
        encoding="utf-8",
    )
    report = tmp_path / "r.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "test_it.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert build.faults(report) == [
        "test_it::test_bad[2]: AssertionError: not one",
        'test_it::test_worse: failed on setup with "OSError: no such disk"',
    ]
    assert build.faults(tmp_path / "none.xml") == []


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as m; m(['--no-logo', '--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ | {"COLUMNS": "200"}, check=False,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("models/wrong.py", "import server.pipeline", "models imports shared, never the other way BROKEN"),
        (
            "shared/wrong.py",
            "from models import weights",
            "models imports shared, never the other way BROKEN",
        ),
        ("addon/wrong.py", "from shared.errors import BadInput", "with its own copy of shared BROKEN"),
        ("server/wrong.py", "import addon", "nothing imports the add-on BROKEN"),
        ("models/wrong.py", "def late():\n    import bpy", "only the add-on imports Blender BROKEN"),
        ("shared/wrong.py", "import torch", "no torch, no OpenCV, nothing its Python does not have BROKEN"),
        ("addon/wrong.py", "import cv2", "no torch, no OpenCV, nothing its Python does not have BROKEN"),
    ],
)
def test_import_rules_can_break(checkout: Path, file: str, line: str, broken: str) -> None:
    (checkout / "server" / "pipeline.py").touch()
    (checkout / file).write_text(line + "\n")
    done = lint_imports(checkout)
    assert done.returncode == 1
    assert broken in done.stdout


def test_import_rules_hold(checkout: Path) -> None:
    done = lint_imports(checkout)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def requirements(lock: Path) -> Sequence[str]:
    return [
        line for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]


@pytest.mark.parametrize(
    "environment", [build.SERVER, *build.BLENDERS.values(), build.PEOPLE], ids=lambda e: e.folder.name
)
def test_locks_are_exact_and_name_no_source(environment: build.Environment) -> None:
    for line in requirements(environment.lock):
        name, equals, version = line.partition("==")
        assert equals, f"{line} is not pinned"
        assert not set("+@/; ") & set(name + version), f"{line} depends on a machine"


def test_torch_is_the_one_that_was_tested() -> None:
    assert "torch==2.13.0" in requirements(build.SERVER.lock)
    assert not [line for line in requirements(build.SERVER.lock) if line.startswith("torchvision")]
