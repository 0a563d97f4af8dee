# SPDX-License-Identifier: Apache-2.0
"""The file through which clients find the server: one server for each file.

`shared.client.Connection` is what it holds.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]
import structlog

from shared.client import Connection
from shared.errors import BadInput

log = structlog.get_logger("walkon")


def refuse_second_server(path: Path) -> None:
    """Remove what a dead server left behind.

    Raises:
        BadInput: the server of that file is alive.
    """
    try:
        left = msgspec.json.decode(path.read_bytes(), type=Connection)
    except FileNotFoundError:
        return
    except (msgspec.DecodeError, OSError) as error:
        raise BadInput(
            f"{path}: is no connection file of a server ({error})",
            "Remove it, or choose another file",
            str(path),
        ) from error
    if psutil.pid_exists(left.pid) and _listens(left.work):
        raise _already(left.pid, path)
    path.unlink(missing_ok=True)


def _already(pid: int, path: Path) -> BadInput:
    return BadInput(
        f"a server already runs as process {pid} (connection file {path})",
        "Use that one, stop it first, or choose another connection file",
        str(path),
    )


def _listens(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False


def write_connection(path: Path, connection: Connection) -> None:
    """Let clients find the server; the user's alone, and there whole or not at all.

    Raises:
        BadInput: another server was quicker.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.{os.getpid()}")
    whole.unlink(missing_ok=True)
    with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(connection)))
    try:
        # A link appears whole or not at all, and not over another server's file.
        os.link(whole, path)
    except FileExistsError:
        raise _already(msgspec.json.decode(path.read_bytes(), type=Connection).pid, path) from None
    finally:
        whole.unlink()


def remove_connection(path: Path, connection: Connection) -> None:
    """Remove the file, unless it is another server's by now."""
    try:
        if msgspec.json.decode(path.read_bytes(), type=Connection) == connection:
            path.unlink()
    except (OSError, msgspec.DecodeError):
        log.info("connection file is not ours any more", file=str(path))
