# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md is true: its script runs as printed, and it names every message, field and code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from server_process import servers

from shared import errors, messages
from shared.limits import Limits

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")

TYPES = [
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == messages.__name__
    and not value.__name__.startswith("_")
]  # fmt: skip


def test_script_of_the_document_runs_against_a_server(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert set(re.findall(r"^import (\w+)", script, re.MULTILINE)) == {
        "json",
        "sys",
        "uuid",
        "msgpack",
        "zmq",
    }
    assert "from " not in script.split('"""')[0]
    path = tmp_path / "plain.py"
    path.write_text(script, encoding="utf-8")
    with servers(tmp_path) as start:
        done = subprocess.run(
            [sys.executable, path, start().file],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("server 0.")
    assert lines[1:] == ["stage 1 of 1 detect", "people 1", "cancelled False"]


@pytest.mark.parametrize("struct", [*TYPES, Limits], ids=lambda struct: struct.__name__)
def test_every_message_and_field_is_in_the_document(struct):
    config = msgspec.structs.fields(struct)
    names = [field.encode_name for field in config]
    if struct.__struct_config__.tag is not None:
        names.append(struct.__struct_config__.tag)
    missing = [name for name in names if f"`{name}`" not in DOCUMENT]
    assert not missing


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_every_error_code_is_in_the_document(code):
    assert f"`{code}`" in DOCUMENT


def test_protocol_version_is_the_documents():
    assert f"`{messages.MAGIC.decode()}`" in DOCUMENT
    assert f"protocol {messages.PROTOCOL}" in DOCUMENT
