# SPDX-License-Identifier: Apache-2.0
"""What the command line is asked for in files and options: people, poses, and wishes for the new person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from shared.errors import BadInput
from shared.skeleton import Skeleton, people_from_json
from shared.where import Where

At = Annotated[
    str | None, typer.Option(metavar="X,Y", help="The pixel of the scene where the feet touch the ground.")
]
Box = Annotated[
    str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="The feet lie in this box, in pixels of the scene.")
]
Height = Annotated[
    float | None,
    typer.Option(metavar="PX", help="Pixels from the soles to the crown, as when standing upright."),
]
Stance = Annotated[Literal["standing", "sitting"] | None, typer.Option(help="How the person is placed.")]
Facing = Annotated[
    Literal["left", "right"] | None, typer.Option(help="The side of the picture that the person turns to.")
]
Like = Annotated[
    Path | None,
    typer.Option(help="OpenPose JSON of one person, in pixels of the scene, whom candidates resemble."),
]
Network = Annotated[str | None, typer.Option(help="Placement network: flow or wgan.")]
Generator = Annotated[str, typer.Option(help="Transfer: motion, limbs (no network) or msa.")]
ActorPerson = Annotated[
    int | None, typer.Option(min=0, help="Which person of the actor photo; 0 is the largest.")
]
PosePerson = Annotated[
    int | None,
    typer.Option(min=0, help="Which person of the pose's file, if it holds several; 0 is the first."),
]


def wishes(
    at: str | None,
    box: str | None,
    height: float | None,
    stance: str | None,
    facing: str | None,
    like: Path | None,
) -> Where:
    """The options as one value; whether it suits the scene is told later.

    Raises:
        BadInput: not that many numbers, or no pose in the file.
    """
    return Where(
        feet=None if at is None else _numbers("--at", at, "X,Y", "640,800"),  # type: ignore[arg-type]
        box=None if box is None else _numbers("--box", box, "X0,Y0,X1,Y1", "500,600,900,800"),  # type: ignore[arg-type]
        height=height,
        stance=stance,  # type: ignore[arg-type]
        facing=facing,  # type: ignore[arg-type]
        like=None if like is None else read_pose(like).to_openpose(),
    )


def frame_size(text: str) -> tuple[int, int]:
    """`"WxH"` as width and height in pixels.

    Raises:
        BadInput: not two whole numbers of at least 1.
    """
    parts = text.lower().split("x")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        width, height = int(parts[0]), int(parts[1])
        if width >= 1 and height >= 1:
            return width, height
    raise BadInput(
        f"--size: {text!r} is no frame",
        "Give width and height in pixels, for instance --size 1280x720",
        "size",
    )


def read_people(path: Path) -> list[Skeleton]:
    """The people of an OpenPose JSON file.

    Raises:
        BadInput: unreadable, or not OpenPose JSON.
    """
    return people_from_json(_read(path), str(path))


def read_pose(path: Path, person: int | None = None, option: str | None = None) -> Skeleton:
    """One skeleton of a file: OpenPose JSON, or the `skeleton` of a report.

    Args:
        path (`Path`): the file.
        person (`int`, *optional*): which one; must be said of a file that holds several.
        option (`str`, *optional*): the command line's, by which it is said.

    Raises:
        BadInput: unreadable, not so many people, or several and none is chosen.
    """
    data = _read(path)
    try:
        bare = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        bare = None
    if isinstance(bare, dict) and isinstance(bare.get("pose_keypoints_2d"), list):
        data = msgspec.json.encode({"people": [bare]})
    people = people_from_json(data, str(path))
    hint = "Give the pose of one person"
    if option is not None and len(people) > 1:
        hint += f", or say which with {option}, 0 to {len(people) - 1}"
    if person is None and len(people) != 1:
        raise BadInput(f"{path}: holds {len(people)} people, not one", hint, str(path))
    if person is not None and person >= len(people):
        raise BadInput(
            f"{path}: person {person} was asked for, and it holds {len(people)} (numbered from 0)",
            hint,
            str(path),
        )
    chosen = people[person or 0]
    if not chosen.visible.any():
        raise BadInput(
            f"{path}: no joint of the person is visible", "Give at least shoulders and hips", str(path)
        )
    return Skeleton(chosen.xy, chosen.visible, chosen.score)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror})", "Give an OpenPose JSON file", str(path)
        ) from error


def _numbers(option: str, text: str, form: str, example: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        raise BadInput(
            f"{option}: {text!r} is not {form}",
            f"Give {form.count(',') + 1} numbers, for instance {option} {example}",
            option.strip("-"),
        )
    return numbers
