# SPDX-License-Identifier: Apache-2.0
"""Errors that a user reads: each names the input, the reason and the way out."""

from __future__ import annotations


class WalkOnError(Exception):
    """Base of every error meant for a user.

    Args:
        message (`str`): names the file or field and the reason, without a final full stop.
        fix (`str`): what to do about it, one short sentence.
        subject (`str`, *optional*, defaults to `""`): the file or field at fault, for programs.

    `code` is the stable name of the kind of error: it travels on the wire and chooses the fix in the panel.
    """

    code = "error"

    def __init__(self, message: str, fix: str, subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.subject = subject

    def __reduce__(self) -> tuple[type[WalkOnError], tuple[str, str, str]]:
        # Without it a worker's error cannot be read by the process that waits for it, which would wait forever.
        return type(self), (self.message, self.fix, self.subject)

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


class BadImage(WalkOnError):
    """A file or array that is no usable picture: unreadable, truncated, too large, wrong channels."""

    code = "bad_image"


class BadInput(WalkOnError):
    """A field or argument outside what it may hold."""

    code = "bad_input"


class NoActor(WalkOnError):
    """The actor photo shows no person."""

    code = "no_actor"


class PartialActor(WalkOnError):
    """The actor photo shows too little of the person for the pose that is asked for."""

    code = "partial_actor"


class ActorUnknown(WalkOnError):
    """A preview of a photo that the server has not analysed, or not lately."""

    code = "actor_unknown"


class NoContext(WalkOnError):
    """The scene shows no person, so placement has nothing to go by."""

    code = "no_context"


class NoCandidate(WalkOnError):
    """Placement found no place that passes the checks."""

    code = "no_candidate"


class MissingWeights(WalkOnError):
    """A network's weights are not installed or do not fit the network."""

    code = "missing_weights"


class Cancelled(WalkOnError):
    """The job was cancelled."""

    code = "cancelled"


class Superseded(WalkOnError):
    """A newer preview came before this one had begun."""

    code = "superseded"


class Overloaded(WalkOnError):
    """The server's queue is full."""

    code = "overloaded"


class DeadlineExceeded(WalkOnError):
    """The job was not done by its deadline."""

    code = "deadline"


class ServerUnreachable(WalkOnError):
    """No server answers, or it died in the middle."""

    code = "server_unreachable"


class VersionMismatch(WalkOnError):
    """Client and server speak different versions of the protocol."""

    code = "version_mismatch"


class ServerFault(WalkOnError):
    """The server failed in a way that is not the user's doing."""

    code = "server_fault"


BY_CODE: dict[str, type[WalkOnError]] = {WalkOnError.code: WalkOnError}
BY_CODE.update((kind.code, kind) for kind in WalkOnError.__subclasses__())
