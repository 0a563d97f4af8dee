# SPDX-License-Identifier: Apache-2.0
"""Starts real server processes for tests and ends them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.client import Client

TINY = (sys.executable, str(Path(__file__).with_name("tiny_server.py")), "--file")
REAL = (sys.executable, "-m", "server.serve", "--connection-file")


class ServerProcess:
    """A server process that listens.

    Args:
        folder (`Path`): for its connection file and log.
        command (sequence): program and arguments up to the connection file.
        arguments (sequence): the rest.
    """

    def __init__(
        self, folder: Path, command: tuple[str, ...] = TINY, arguments: tuple[str, ...] = ()
    ) -> None:
        self.file = folder / "run" / "server.json"
        self.log_file = folder / "server.log"
        left = self.file.read_bytes() if self.file.exists() else None
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([*command, str(self.file), *arguments], stderr=log)
        end = time.monotonic() + 60
        while not self.file.exists() or self.file.read_bytes() == left:
            assert self.process.poll() is None, self.log_file.read_text()
            assert time.monotonic() < end, self.log_file.read_text()
            time.sleep(0.01)

    def client(self) -> Client:
        return Client.connect(self.file)

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def wait_until_running(client: Client, job: str) -> None:
    """Until the server is on that job."""
    end = time.monotonic() + 10
    while client.status().running != job:
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def servers(folder: Path) -> Iterator[Callable[..., ServerProcess]]:
    """A function that starts servers; those that still run at the end are killed."""
    started: list[ServerProcess] = []

    def start(*arguments: str, command: tuple[str, ...] = TINY) -> ServerProcess:
        started.append(ServerProcess(folder, command, arguments))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.process.kill()
            server.process.wait(30)
