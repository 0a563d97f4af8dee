#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sets Walk-On up, shows it, tests it and builds the Blender add-on. Needs Python 3.11 and nothing else.

python3 build.py demo     set up, then put a person into a shot in Blender; pictures go to out/demo
python3 build.py test     set up, then every check and test
python3 build.py setup    only set up; does nothing where all is there
python3 build.py addon    build dist/walkon-<version>.zip for Blender
python3 build.py clean    remove what the commands above made
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import hashlib
import importlib.util
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OUT = ROOT / "out"
DIST = ROOT / "dist"
PYTHON = (3, 11)
"""The only Python for which there is a Blender 5.0 module; the server's lock is made for it too."""


class BuildError(Exception):
    """Something that the user has to know: what went wrong and what to do about it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}\n  {fix}")


def check_python(version: tuple[int, int]) -> None:
    """Raises BuildError unless `version` is the one that Walk-On needs."""
    if version == PYTHON:
        return
    wanted = ".".join(map(str, PYTHON))
    found = shutil.which(f"python{wanted}")
    raise BuildError(
        f"Walk-On needs Python {wanted} (Blender 5.0 has no module for another one); this is "
        f"{'.'.join(map(str, version))}: {sys.executable}",
        f"Start it with {found}" if found else f"Install Python {wanted}, then start build.py with it",
    )


# --- progress ---------------------------------------------------------------------------------------------


class Progress:
    """Numbered steps on the terminal: one line that moves on a terminal, a few plain lines in a log."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.title = ""
        self.doing = ""
        self.started = self.shown = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        self.title, self.doing = title, "starting"
        self.started = self.shown = time.monotonic()
        self._line("...", stay=sys.stdout.isatty())
        yield
        self._line(f"done in {time.monotonic() - self.started:.0f} s", stay=False)

    def show(self, doing: str = "") -> None:
        """What the step is at. In a log, where every word stays, at most twice a minute."""
        self.doing = doing or self.doing
        now = time.monotonic()
        if sys.stdout.isatty() or now - self.shown > 30:
            self.shown = now
            self._line(f"{self.doing} ({now - self.started:.0f} s)", stay=sys.stdout.isatty())

    def _line(self, text: str, stay: bool) -> None:
        line = f"[{self.number}/{self.total}] {self.title}: {text}"
        if sys.stdout.isatty():
            line = "\r" + line[: shutil.get_terminal_size().columns - 1] + "\x1b[K"
        print(line, end="" if stay else "\n", flush=True)


def run_quietly(
    command: Sequence[str | Path],
    progress: Progress,
    read: Callable[[str], str] = lambda _: "",
    timeout: float = float("inf"),
) -> None:
    """Runs a long command without its chatter.

    Args:
        progress: shows what `read` last made of a line, and the seconds that go by.
        read: says in a few words what a line of output means; empty where it means nothing new.
        timeout (seconds): after which it is ended and has failed.

    Raises:
        subprocess.CalledProcessError: it failed; `output` holds what it printed.
    """
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", env=clean_environment(),
    )  # fmt: skip
    assert process.stdout is not None
    pipe = process.stdout
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        for line in pipe:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    seen: list[str] = []
    end = time.monotonic() + timeout
    try:
        while True:
            if time.monotonic() > end:
                process.kill()
                process.wait()
                seen.append(f"error: not done in {timeout:.0f} s")
                break
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                progress.show()
                continue
            if line is None:
                break
            seen.append(line)
            progress.show(read(line))
    except BaseException:
        process.kill()
        raise
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args, "\n".join(seen))


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would leak packages of another Python into ours."""
    drop = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {k: v for k, v in os.environ.items() if k not in drop} | more


# --- set-up -----------------------------------------------------------------------------------------------

LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
}
"""What Blender's module loads from a Linux system, and the Debian package of each. Without libEGL a render ends
the process with no exception, so it has to be checked before."""


def missing_packages() -> list[str]:
    """Debian packages of what this system lacks; empty on other systems than Linux."""
    if sys.platform != "linux":
        return []
    missing = []
    for library, package in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python{}.{}-venv".format(*PYTHON))
    return missing


def install_packages(packages: list[str], progress: Progress) -> None:
    """Installs them with apt-get where that is possible.

    Raises:
        BuildError: it is not, with the command to type.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        raise BuildError(
            f"Blender needs system libraries that are missing; Debian calls them: {' '.join(packages)}",
            "Install your system's packages of them, then start this again",
        )
    if os.geteuid() != 0:
        raise BuildError("Blender needs system libraries that are missing", f"Type: sudo {' '.join(command)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    try:
        for part in (["apt-get", "update"], command):
            run_quietly(part, progress, lambda line: line[:60])
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"apt-get could not install system libraries:\n{tail(error.output)}",
            f"Check the network connection, or type: {' '.join(command)}",
        ) from error
    if still := missing_packages():
        raise BuildError(
            f"System libraries are still missing: {' '.join(still)}", f"Type: {' '.join(command)}"
        )


@dataclass(frozen=True)
class Environment:
    """A virtual environment made from a lock of exact versions.

    It is complete when its stamp equals `fingerprint`; the stamp is written last, so that an interrupted set-up
    is taken up again.
    """

    title: str
    folder: Path
    lock: Path
    with_project: bool = False
    """Whether the project itself is importable in it, with its console command."""

    @property
    def scripts(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.scripts / ("python.exe" if os.name == "nt" else "python")

    @property
    def site_packages(self) -> Path:
        if os.name == "nt":
            return self.folder / "Lib" / "site-packages"
        return self.folder / "lib" / "python{}.{}".format(*PYTHON) / "site-packages"

    @property
    def stamp(self) -> Path:
        return self.folder / "walkon-setup"

    def fingerprint(self) -> str:
        lock = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        # The project is installed by its path: a checkout that was moved has to be installed again.
        return f"{lock} {ROOT if self.with_project else ''}\n"

    def ready(self) -> bool:
        return (
            self.python.exists()
            and self.stamp.exists()
            and self.stamp.read_text(encoding="utf-8") == self.fingerprint()
        )

    def install(self, progress: Progress) -> None:
        """Makes the environment or brings it to its lock.

        Raises:
            BuildError: pip failed.
        """
        wanted = sum(1 for line in self.lock.read_text(encoding="utf-8").splitlines() if "==" in line)
        self.stamp.unlink(missing_ok=True)
        try:
            if not self._works():
                progress.show("making it")
                run_quietly([sys.executable, "-m", "venv", "--clear", self.folder], progress)
            self._drop_half_installed()
            found = 0

            def follow(line: str) -> str:
                nonlocal found
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    found = min(found + 1, wanted)
                    return f"package {found} of {wanted}"
                if match := re.match(r"\s*Downloading (\S+) \((\d{2,}\.\d MB)\)", line):
                    return f"package {found} of {wanted}, {match[2]}"
                return f"unpacking {wanted} packages" if line.startswith("Installing collected") else ""

            self._pip(["--requirement", self.lock], progress, follow)
            if self.with_project:
                progress.show("installing the project itself")
                self._pip(["--no-deps", "--no-build-isolation", "--editable", ROOT], progress, lambda _: "")
        except subprocess.CalledProcessError as error:
            OUT.mkdir(exist_ok=True)
            log = OUT / "setup.log"
            log.write_text(error.output, encoding="utf-8")
            raise BuildError(
                f"The {self.title} could not be installed:\n{tail(error.output)}",
                f"{advice(error.output)}; it goes on where it stopped. All of pip's output: {log}",
            ) from error
        self.stamp.write_text(self.fingerprint(), encoding="utf-8")

    def _works(self) -> bool:
        if not self.python.exists():
            return False
        check = "import sys, pip; sys.exit(sys.version_info[:2] != ({}, {}))".format(*PYTHON)
        return subprocess.run([self.python, "-c", check], capture_output=True, check=False).returncode == 0

    def _drop_half_installed(self) -> None:
        # pip writes INSTALLER after a package's files. Metadata without it is a package whose unpacking was cut
        # short, which pip would take for whole.
        for metadata in self.site_packages.glob("*.dist-info"):
            if not (metadata / "INSTALLER").exists():
                shutil.rmtree(metadata)

    def _pip(self, arguments: Sequence[str | Path], progress: Progress, read: Callable[[str], str]) -> None:
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        run_quietly([self.python, "-m", "pip", "install", *options, *arguments], progress, read)


def tail(output: str) -> str:
    """pip's own words for what went wrong, without the warnings around them."""
    lines = output.splitlines()
    errors = [line for line in lines if line.lower().lstrip().startswith(("error", "e: "))]
    return "\n".join(f"    {line}" for line in (errors or lines)[-6:])


def advice(output: str) -> str:
    """What most likely helps against a failed installation."""
    if "No space left" in output:
        return "Make room on the disk (a full set-up takes 5 GB), then start this again"
    return "Check the network connection and the package index that pip is set to, then start this again"


SERVER = Environment("server environment", VENV / "server", ROOT / "server" / "requirements.lock", True)
BLENDERS = {
    version: Environment(
        f"Blender {version} environment",
        VENV / f"blender-{version}",
        ROOT / "addon" / f"requirements-{version}.lock",
    )
    for version in ("4.2", "4.5", "5.0")
}
"""Blender as a Python module: every version that has one for our Python and takes extensions."""
BLENDER = BLENDERS["5.0"]
"""The one that the add-on is built with and the demo runs in."""
PEOPLE = Environment(
    "people renderer environment", VENV / "people", ROOT / "models" / "requirements-people.lock", True
)


def blenders(choice: str) -> list[Environment]:
    """What `--blender` means: one version's environment, or all of them."""
    return [*BLENDERS.values()] if choice == "all" else [BLENDERS[choice]]


@dataclass(frozen=True)
class Window:
    """Debian's Blender and an X server, in a folder that is a Debian of its own: for tests with mouse and keys."""

    title: str
    suite: str
    """Debian's name of the release that has it."""

    @property
    def folder(self) -> Path:
        return VENV / "window" / self.suite

    @property
    def stamp(self) -> Path:
        return self.folder / "walkon-setup"

    def lacking(self) -> str:
        """What this machine lacks for it; empty where it can be made and used."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return "a window needs Linux and root"
        if shutil.which("apt-get") is None:
            return "a window needs Debian's apt-get"
        namespace = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "true"]
        if subprocess.run(namespace, capture_output=True, check=False).returncode:
            return "this machine does not let root mount anything"
        return ""

    def ready(self) -> bool:
        return self.stamp.exists() and self.stamp.read_text(encoding="utf-8") == WINDOW_PACKAGES

    def install(self, progress: Progress) -> None:
        """Makes the folder: 280 MB to fetch from the package mirror that apt uses here, 1.1 GB on the disk.

        Raises:
            BuildError: it could not be made.
        """
        if shutil.which("mmdebstrap") is None:
            install_packages(["mmdebstrap"], progress)
        listed = ["apt-get", "indextargets", "--format", "$(CODENAME) $(SITE)"]
        targets = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.splitlines()
        sites = [site for name, _, site in (line.partition(" ") for line in targets) if "-" not in name]
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # A mirror may be a frozen copy, whose lists are past their date.
        options = [
            'Acquire::Check-Valid-Until "false"',
            'APT::Install-Recommends "false"',
            'Acquire::Languages "none"',
        ]
        without = ("doc", "man", "locale", "icons", "proj", "iso-codes")
        command: list[str | Path] = [
            "mmdebstrap", "--variant=apt", "--mode=root", f"--include={WINDOW_PACKAGES}",
            *(f"--aptopt={option}" for option in options),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in without),
            "--dpkgopt=force-unsafe-io", self.suite, self.folder, f"deb {sites[0]} {self.suite} main" if sites else "",
        ]  # fmt: skip
        try:
            run_quietly(command, progress, lambda line: line.removeprefix("I: ")[:50], timeout=600)
        except subprocess.CalledProcessError as error:
            raise BuildError(
                f"The {self.title} could not be made:\n{tail(error.output)}",
                "Check the network connection and the package mirror that apt is set to, then start this again",
            ) from error
        self.stamp.write_text(WINDOW_PACKAGES, encoding="utf-8")


WINDOW_PACKAGES = (
    "blender,xvfb,xdotool,libgl1-mesa-dri,libegl1,"
    "python3-numpy,python3-requests,python3-zstandard,python3-cattr"
)
"""Debian only recommends the Python packages, but Blender's own extensions need them."""
WINDOWS = {
    "4.3": Window("window of Blender 4.3", "trixie"),
    "5.2": Window("window of Blender 5.2", "sid"),
}
IF_POSSIBLE = "if-possible"


def set_up(environments: Sequence[Environment | Window]) -> None:
    """Brings system libraries and environments to what the locks say; fast where nothing is to do."""
    started = time.monotonic()
    packages = missing_packages()
    pending = [environment for environment in environments if not environment.ready()]
    if not packages and not pending:
        print(f"Everything is set up ({time.monotonic() - started:.1f} s).")
        return
    progress = Progress(bool(packages) + len(pending))
    if packages:
        with progress.step("system libraries"):
            install_packages(packages, progress)
    for environment in pending:
        with progress.step(environment.title):
            environment.install(progress)
    print(f"Set up in {time.monotonic() - started:.0f} s.")


def set_up_window(choice: str | None) -> tuple[Window | None, str]:
    """What `--gui` means: the window to test in, and why there is none although one was wanted.

    Raises:
        BuildError: one was demanded, and it cannot be had.
    """
    if choice is None:
        return None, ""
    window = WINDOWS["4.3" if choice == IF_POSSIBLE else choice]
    try:
        if reason := window.lacking():
            raise BuildError(f"There can be no {window.title}: {reason}", "Test without --gui")
        set_up([window])
    except BuildError as error:
        if choice != IF_POSSIBLE:
            raise
        print(error, file=sys.stderr)
        return None, str(error).partition("\n")[0]
    return window, ""


# --- add-on -----------------------------------------------------------------------------------------------

PLATFORMS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_11_0_arm64", "macosx_10_15_universal2"),
}
"""Blender's name of each platform that the add-on is for, and the wheel platforms that run there."""
PYTHONS = ("3.11", "3.13", "3.14")
"""Python inside Blender 4.2 to 5.0, inside 5.1 and newer, and inside Debian's 5.2."""
WHEELS_LOCK = ROOT / "addon" / "wheels.lock"
STAGE = OUT / "addon" / "walkon"


def locked_wheels() -> dict[str, str]:
    """SHA-256 by file name of the wheels that go into the zip."""
    lines = WHEELS_LOCK.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: digest for digest, name in pairs}


def fetch_wheels() -> list[Path]:
    """The locked wheels, from the cache or through pip.

    Raises:
        BuildError: a wheel cannot be had, or is not the one in the lock.
    """
    cache = VENV / "wheels"
    wanted = locked_wheels()

    def lacking() -> list[str]:
        return [
            name
            for name, digest in wanted.items()
            if not (cache / name).exists()
            or hashlib.sha256((cache / name).read_bytes()).hexdigest() != digest
        ]

    if not lacking():
        return [cache / name for name in wanted]
    for name in lacking():
        (cache / name).unlink(missing_ok=True)
    requirements = sorted({"{}=={}".format(*name.split("-")[:2]) for name in wanted})
    progress = Progress(1)
    with progress.step("wheels for the add-on"):
        for platform, tags in PLATFORMS.items():
            for version in PYTHONS:
                what = f"{platform}, Python {version}"
                progress.show(what)
                command: list[str | Path] = [
                    BLENDER.python, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
                    "--only-binary", ":all:", "--implementation", "cp", "--python-version", version,
                    *(word for tag in tags for word in ("--platform", tag)), "--dest", cache, *requirements,
                ]  # fmt: skip
                try:
                    run_quietly(command, progress)
                except subprocess.CalledProcessError as error:
                    raise BuildError(
                        f"The wheels for {what} could not be fetched:\n{tail(error.output)}",
                        advice(error.output),
                    ) from error
    if wrong := lacking():
        raise BuildError(
            f"{WHEELS_LOCK}: the package index has no such file, or another one of that name: {', '.join(wrong)}",
            "Put the names and SHA-256 of the wanted wheels in the lock; what was fetched is in "
            + str(cache),
        )
    return [cache / name for name in wanted]


def stage_addon(wheels: Sequence[Path]) -> None:
    """Lays the add-on's folder out as it is installed: its code, its copy of shared, its wheels, its licences."""
    shutil.rmtree(STAGE, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.lock", "demo", "shared", "wheels")
    shutil.copytree(ROOT / "addon", STAGE, ignore=ignore)
    shutil.copytree(ROOT / "shared", STAGE / "shared", ignore=ignore)
    shutil.copy2(ROOT / "LICENSE", STAGE / "shared" / "LICENSE")
    shutil.copy2(ROOT / "NOTICE", STAGE / "NOTICE")
    (STAGE / "wheels").mkdir()
    for wheel in wheels:
        shutil.copy2(wheel, STAGE / "wheels" / wheel.name)
    manifest = STAGE / "blender_manifest.toml"
    text = manifest.read_text(encoding="utf-8")
    empty = "wheels = []\n"
    if text.count(empty) != 1:
        raise BuildError(
            "addon/blender_manifest.toml: has no line `wheels = []`", "Put it back: it is filled in here"
        )
    listed = json.dumps([f"./wheels/{wheel.name}" for wheel in wheels], indent=2)
    platforms = (
        "" if re.search(r"^platforms *=", text, re.MULTILINE) else f"platforms = {json.dumps([*PLATFORMS])}\n"
    )
    manifest.write_text(text.replace(empty, f"{platforms}wheels = {listed}\n"), encoding="utf-8")
    for path in STAGE.rglob("*"):
        os.utime(path, (1767225600, 1767225600))  # 2026-01-01: unchanged sources give an unchanged zip


def check_zip(path: Path) -> None:
    """Checks what Blender's own validation lets pass.

    Raises:
        BuildError: the zip would not install or not work everywhere that it says it does.
    """
    import tomllib  # not at the top: a Python older than 3.11 has to get as far as the message about it

    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
        version = re.search(
            r'^__version__ = "(.+)"', archive.read("shared/__init__.py").decode(), re.MULTILINE
        )
    problems = []
    wheels = [wheel.removeprefix("./") for wheel in manifest["wheels"]]
    problems += [f"{wheel} is not in the zip" for wheel in wheels if wheel not in names]
    problems += [f"{name} is no platform of ours" for name in manifest["platforms"] if name not in PLATFORMS]
    problems += [
        f"no wheel of {package} for {platform} and Python {python}"
        for package in sorted({Path(wheel).name.split("-")[0] for wheel in wheels})
        for platform in PLATFORMS
        for python in PYTHONS
        if not any(wheel_fits(Path(wheel).name, package, platform, python) for wheel in wheels)
    ]
    problems += [
        f"the licence {licence} does not start with SPDX:"
        for licence in manifest["license"]
        if not licence.startswith("SPDX:")
    ]
    if [int(part) for part in manifest["blender_version_min"].split(".")] < [4, 2, 0]:
        problems.append(
            f"blender_version_min is {manifest['blender_version_min']}: extensions start with 4.2.0"
        )
    if version is None or version[1] != manifest["version"]:
        problems.append(
            f"version is {manifest['version']}, but shared/__init__.py says {version and version[1]}"
        )
    problems += [
        f"{name} is missing" for name in ("__init__.py", "LICENSE", "shared/LICENSE") if name not in names
    ]
    if problems:
        raise BuildError(
            f"{path}: " + "; ".join(problems), "Correct addon/blender_manifest.toml or addon/wheels.lock"
        )


def wheel_fits(wheel: str, package: str, platform: str, python: str) -> bool:
    """Whether a wheel's file name says that it runs on one of our platforms and Pythons."""
    name, _, tag, abi, systems = wheel.removesuffix(".whl").split("-")
    minor, wanted = int(tag.removeprefix("cp3")), int(python.split(".")[1])
    return (
        name == package
        and (minor == wanted or (abi == "abi3" and minor <= wanted))
        and not set(systems.split(".")).isdisjoint(PLATFORMS[platform])
    )


def build_addon() -> Path:
    """Builds and checks the zip that is installed in Blender; returns its path."""
    stage_addon(fetch_wheels())
    scripts = next(iter(BLENDER.site_packages.glob("bpy/*/scripts")))
    tool = scripts / "addons_core" / "bl_pkg" / "cli" / "blender_ext.py"
    tags = scripts / "modules" / "_bpy_internal" / "extensions" / "tags.py"
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("walkon-*.zip"):
        old.unlink()

    def blender_ext(*arguments: str | Path) -> None:
        done = subprocess.run(
            [BLENDER.python, tool, *arguments],
            capture_output=True, text=True, check=False, env=clean_environment(TZ="UTC"),
        )  # fmt: skip
        if done.returncode:
            raise BuildError(
                f"Blender's extension tool refuses the add-on:\n{tail(done.stdout + done.stderr)}",
                "Correct addon/blender_manifest.toml",
            )

    blender_ext("build", "--source-dir", STAGE, "--output-dir", DIST)
    (path,) = DIST.glob("walkon-*.zip")
    blender_ext("validate", "--valid-tags", tags, path)
    check_zip(path)
    blender_ext("server-generate", "--repo-dir", DIST)
    check_index(DIST / "index.json", path)
    print(
        f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB, validated; dist/ is a repository of it"
    )
    return path


def check_index(index: Path, path: Path) -> None:
    """Checks the list that Blender reads when an artist adds dist/, put on a web server, as a remote repository.

    Raises:
        BuildError: it would not offer this zip.
    """
    listed = json.loads(index.read_text(encoding="utf-8"))["data"]
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    if [(entry["archive_url"], entry["archive_hash"]) for entry in listed] != [(f"./{path.name}", digest)]:
        raise BuildError(f"{index}: does not list {path.name} alone", "Remove what else is in dist/")


# --- tests ------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One line of the summary."""

    title: str
    passed: bool
    seconds: float
    note: str = ""
    tests: Mapping[str, int] = field(default_factory=dict)  # by outcome
    faults: Sequence[str] = ()  # the tests that failed, and why


@dataclass(frozen=True)
class Suite:
    """Tests that one Python runs, with what of its environment only they have."""

    title: str
    environment: Environment
    paths: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)


AT_ONCE = 2
"""Suites that run at the same time: each waits a lot, for a server, for Blender or for one busy processor."""


def counts(report: Path) -> dict[str, int]:
    """Tests by outcome in a JUnit report: passed, failed, skipped."""
    if not report.exists():
        return {"passed": 0, "failed": 0, "skipped": 0}
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def faults(report: Path) -> list[str]:
    """The tests that failed in a JUnit report, a line each: its name, and the first line of why."""
    if not report.exists():
        return []
    found: list[str] = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for fault in (*case.iter("failure"), *case.iter("error")):
            why = next(iter(fault.get("message", "").splitlines()), "no reason given")
            found.append(f"{case.get('classname')}::{case.get('name')}: {why[:200]}")
    return found


def split_selection(
    arguments: Sequence[str], base: Path
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Sorts pytest's arguments into options, and test files for the server's environment, Blender's and a window.

    Args:
        base: where relative paths in `arguments` start.
    """
    options: list[str] = []
    server: list[str] = []
    blender: list[str] = []
    window: list[str] = []
    for argument in arguments:
        path, colons, name = argument.partition("::")
        full = base / path
        if argument.startswith("-") or not full.exists():
            options.append(argument)
            continue
        full = full.resolve()
        suites = {ROOT / "tests" / "blender": blender, ROOT / "tests" / "gui": window}
        suite = next((files for folder, files in suites.items() if full.is_relative_to(folder)), server)
        suite.append(f"{full}{colons}{name}")
    return options, server, blender, window


def test(
    arguments: Sequence[str], blenders: Sequence[Environment], window: Window | None, no_window: str
) -> bool:
    """Runs every check and prints a summary; goes on after a failure, so that one run shows them all.

    Args:
        arguments: passed on to pytest; paths among them choose the suite.
        blenders: the Blender environments that the add-on is tested in.
        window: also the tests that click through this real Blender's window.
        no_window: why these are skipped, if they were wanted.
    """
    options, server_tests, blender_tests, window_tests = split_selection(arguments, Path.cwd())
    chosen = bool(server_tests or blender_tests or window_tests)
    results: list[Result] = []

    def tool(title: str, *command: str | Path) -> None:
        """A checker that is silent unless it finds something."""
        started = time.monotonic()
        done = subprocess.run(
            [SERVER.python, *command],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False,
            env=clean_environment(MYPYPATH=str(STAGE.parent)),
        )  # fmt: skip
        results.append(Result(title, done.returncode == 0, time.monotonic() - started))
        print(
            f"{title}: {'ok' if results[-1].passed else 'FAILED'} ({results[-1].seconds:.1f} s)", flush=True
        )
        if done.returncode:
            print(done.stdout, flush=True)

    def pytest(suite: Suite, together: bool) -> Result:
        """Runs a suite; one of several says in each line whose it is, and leaves processors to the others."""
        started = time.monotonic()
        report = OUT / "test" / f"{suite.title.replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        # -P: the checkout's folder is not on the path, so that the add-on cannot lean on what its zip lacks.
        command: list[str | Path] = [
            suite.environment.python, "-P", "-m", "pytest", f"--junitxml={report}", *options, *suite.paths,
        ]  # fmt: skip
        given = {"WALKON_ZIP": str(zip_path), "WALKON_SERVER_PYTHON": str(SERVER.python), **suite.variables}
        if not together:
            code = subprocess.run(command, cwd=ROOT, check=False, env=clean_environment(**given)).returncode
        else:
            given["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // AT_ONCE))
            with subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(**given), encoding="utf-8", errors="replace",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            ) as running:  # fmt: skip
                assert running.stdout is not None
                for line in running.stdout:
                    print(f"{suite.title}: {line}", end="", flush=True)
            code = running.returncode
        found = counts(report)
        note = ", ".join(f"{count} {key}" for key, count in found.items() if count) or "no test selected"
        if code not in (0, 1, 5):  # pytest's own are 2 to 4; below 0 is the signal that killed it
            note += f", exit code {code}"
        nothing_asked = code == 5 and bool(options)  # 5: none collected, which a selection may well mean
        passed = code == 0 or nothing_asked
        return Result(suite.title, passed, time.monotonic() - started, note, found, faults(report))

    tool("style (ruff)", "-m", "ruff", "check", ".")
    tool("types (mypy)", "-m", "mypy")
    lint_imports = "from importlinter.cli import lint_imports_command as main; main(['--no-logo'])"
    tool("import rules (import-linter)", "-c", lint_imports)
    started = time.monotonic()
    zip_path: Path | None = None
    try:
        zip_path = build_addon()
    except BuildError as error:
        print(error, file=sys.stderr)
    results.append(Result("add-on zip", zip_path is not None, time.monotonic() - started))
    if zip_path:
        tool("types of the add-on (mypy)", "-m", "mypy", "--package", "walkon")
    suites: list[Suite] = []
    if server_tests or not chosen:
        others = [f"--ignore={ROOT / 'tests' / name}" for name in ("blender", "gui")]
        suites.append(Suite("tests", SERVER, server_tests or [*others, str(ROOT / "tests")]))
    if zip_path and (blender_tests or not chosen):
        for blender in blenders:
            title = f"tests in {blender.title.removesuffix(' environment')}"
            suites.append(Suite(title, blender, blender_tests or [str(ROOT / "tests" / "blender")]))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results += pool.map(lambda suite: pytest(suite, together=len(suites) > 1), suites)
    if zip_path and window and (window_tests or not chosen):
        # A window that hangs must not hold whoever waits for the tests. It has the machine for itself: what it is
        # clicked and dragged with has to keep pace.
        limits = ["--session-timeout=900", "--timeout=300"]
        paths = [*limits, *(window_tests or [str(ROOT / "tests" / "gui")])]
        title = f"tests in the {window.title}"
        suite = Suite(title, SERVER, paths, {"WALKON_WINDOW": str(window.folder)})
        results.append(pytest(suite, together=False))
    if no_window:
        results.append(Result("tests in a window", True, 0.0, f"skipped: {no_window}"))

    print("\nSummary")
    for result in results:
        print(
            f"  {'ok    ' if result.passed else 'FAILED'} {result.seconds:6.1f} s  {result.title:30s} {result.note}"
        )
        for fault in result.faults:  # whoever reads but the end of a long log learns of them
            print(f"            {fault}")
    tally = {
        key: sum(result.tests.get(key, 0) for result in results) for key in ("passed", "failed", "skipped")
    }
    if options and not any(tally.values()):
        results.append(Result("selection", False, 0.0))
        print(f"  FAILED: no test fits {' '.join(options)}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**tally))
    return all(result.passed for result in results)


# --- the other commands -----------------------------------------------------------------------------------


def demo() -> None:
    """The whole job in headless Blender with the add-on installed, against a server that it starts.

    Raises:
        BuildError: it failed.
    """
    command: list[str | Path] = [
        BLENDER.python, ROOT / "addon" / "demo" / "run.py",
        "--zip", build_addon(), "--server-python", SERVER.python, "--out", OUT / "demo",
    ]  # fmt: skip
    if subprocess.run(command, check=False, env=clean_environment()).returncode:
        raise BuildError(
            "The demo failed; its own messages are above", "`python3 build.py test` finds what is broken"
        )


def clean(everything: bool) -> None:
    """Removes what set-up and builds made; the environments, which take long to make, only with `everything`."""
    caches = [
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".import_linter_cache",
        ".hypothesis",
        "walkon.egg-info",
    ]
    targets = [OUT, DIST, *(ROOT / name for name in caches)]
    targets += [
        cache
        for folder in ("addon", "models", "server", "shared", "tests")
        for cache in [*(ROOT / folder).rglob("__pycache__")]
    ]
    targets += [ROOT / "__pycache__", *([VENV] if everything else [])]
    removed = []
    for target in targets:
        if target.is_symlink():
            target.unlink()
        elif target.exists():
            shutil.rmtree(target)
        else:
            continue
        removed.append(str(target.relative_to(ROOT)))
    print(f"Removed: {', '.join(removed)}" if removed else "There was nothing to remove.")
    if not everything and VENV.exists():
        print("The environments in .venv stay; `clean --all` removes them too.")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command, its options, and for `test` what is passed on to pytest."""
    parser = argparse.ArgumentParser(
        prog="build.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def choose_blender(parser: argparse.ArgumentParser, text: str) -> None:
        parser.add_argument("--blender", choices=[*BLENDERS, "all"], default="5.0", help=text)

    setup = command("setup", "Make the environments from their locks; does nothing where all is there.")
    choose_blender(setup, "for tests in that Blender; the demo needs 5.0, the default")
    setup.add_argument(
        "--people",
        action="store_true",
        help="also what renders dressed people for training; not needed otherwise",
    )
    command("demo", "Set up, then put a person into a shot in headless Blender; pictures go to out/demo.")
    tests = command(
        "test", "Set up, then check style, types and import rules, run all tests, build the add-on."
    )
    tests.usage = (
        "build.py test [-h] [--blender VERSION] [pytest arguments: -k pose tests/test_pose.py] [--gui [...]]"
    )
    choose_blender(tests, "the Blender that the add-on is tested in; without it 5.0")
    tests.add_argument(
        "--gui",
        nargs="?",
        const="4.3",
        choices=[*WINDOWS, IF_POSSIBLE],
        help="also click through a real Blender's window, 4.3 without a version; that fails where there can be none "
        f"(not Linux, not root, no package mirror), but with {IF_POSSIBLE} it is skipped there",
    )
    command("addon", "Build and validate dist/walkon-<version>.zip, to be installed in Blender 4.2 or newer.")
    cleaning = command("clean", "Remove what set-up, builds and tests made; models and training runs stay.")
    cleaning.add_argument("--all", action="store_true", help="the environments in .venv, too")

    known = list(commands.choices)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        close = difflib.get_close_matches(arguments[0], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(known)}"
        parser.error(f"no command {arguments[0]!r}: {hint}")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "test":
        parser.error(f"{options.command} takes no {rest[0]!r}; see build.py {options.command} --help")
    return options, rest


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    try:
        check_python(sys.version_info[:2])
        options, rest = parse(arguments)
        if options.command == "setup":
            set_up([SERVER, *blenders(options.blender), *([PEOPLE] if options.people else [])])
        elif options.command == "demo":
            set_up([SERVER, BLENDER])
            demo()
        elif options.command == "test":
            chosen = blenders(options.blender)
            set_up([SERVER, *dict.fromkeys([BLENDER, *chosen])])
            window, no_window = set_up_window(options.gui)
            return 0 if test(rest, chosen, window, no_window) else 1
        elif options.command == "addon":
            set_up([BLENDER])
            build_addon()
        else:
            clean(options.all)
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Start the same command again: it goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
