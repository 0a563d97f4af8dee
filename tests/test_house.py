# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that no linter holds: licences, imports, versions that agree, links that lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("addon", "models", "server", "shared")
BLENDER = {
    "addon_utils",
    "blf",
    "bmesh",
    "bpy",
    "bpy_extras",
    "gpu",
    "gpu_extras",
    "mathutils",
    "rna_keymap_ui",
}
ALLOWED = {
    "shared": {"msgspec", "numpy", "zmq"},
    "addon": {"msgspec", "numpy", "zmq", *BLENDER},
}


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each absolute import, also of those inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, str(node.module).split(".")[0]


def test_every_source_names_its_licence() -> None:
    for file in [ROOT / "build.py", *sources(*PACKAGES, "tests")]:
        licence = "GPL-3.0-or-later" if file.is_relative_to(ROOT / "addon") else "Apache-2.0"
        head = file.read_text(encoding="utf-8").splitlines()[:2]
        assert f"# SPDX-License-Identifier: {licence}" in head, file


@pytest.mark.parametrize("package", ALLOWED)
def test_what_runs_in_blender_imports_what_blender_has(package: str) -> None:
    allowed = ALLOWED[package] | set(sys.stdlib_module_names)
    for file in sources(package):
        if not file.is_relative_to(
            ROOT / "addon" / "demo"
        ):  # starts Blender and the server, is not in the zip
            wrong = [f"{file}:{line} imports {name}" for line, name in imports(file) if name not in allowed]
            assert not wrong, "; ".join(wrong)


def test_build_needs_nothing_installed() -> None:
    assert {name for _, name in imports(ROOT / "build.py")} <= set(sys.stdlib_module_names)


def test_nothing_unpickles() -> None:
    for file in [ROOT / "build.py", *sources(*PACKAGES)]:
        text = file.read_text(encoding="utf-8")
        for unsafe in (
            r"pickle\.(loads?|Unpickler)\b",
            r"import (dill|cloudpickle|shelve)\b",
            "allow_pickle=True",
        ):
            assert not re.search(unsafe, text), f"{file}: {unsafe} can run code from a file"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(
                    word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
                )
                assert safe, f"{file}:{node.lineno}: torch.load without weights_only=True"


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, server.cli; print(*({'torch', 'cv2', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    manifest = tomllib.loads((ROOT / "addon" / "blender_manifest.toml").read_text(encoding="utf-8"))
    assert project["version"] == manifest["version"] == shared.__version__


def test_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "server" / "requirements.lock").read_text(encoding="utf-8")
    locked = {line.split("==")[0].lower() for line in lock.splitlines()}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {re.split("[=<>]", requirement)[0].lower() for requirement in wanted} <= locked


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in link:
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"
