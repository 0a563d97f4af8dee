# SPDX-License-Identifier: Apache-2.0
"""The command line, `walkon`. Heavy imports happen in the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server import lab
from server.asked import (
    ActorPerson,
    At,
    Box,
    Facing,
    Generator,
    Height,
    Like,
    Network,
    PosePerson,
    Stance,
    frame_size,
    read_people,
    read_pose,
    wishes,
)
from shared import __version__
from shared.errors import BadInput, WalkOnError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.images import Picture
    from shared import messages

app = typer.Typer(
    help="Put a person into a picture that already has people in it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="Installed networks and their weights.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(lab.data_app, name="data")
app.add_typer(lab.train_app, name="train")
app.add_typer(lab.eval_app, name="eval")

MaxMegapixels = Annotated[float, typer.Option(help="Refuse pictures with more million pixels than this.")]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(help="The server's connection file; by default the one it writes for this user."),
]


def main() -> None:
    """Entry point: user errors end in one line on stderr and exit code 2."""
    try:
        app()
    except WalkOnError as error:
        _clear_progress()
        typer.echo(f"walkon: {error}", err=True)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"walkon {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def detect(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    json: Annotated[bool, typer.Option("--json", help="Print OpenPose JSON instead of a table.")] = False,
    draw: Annotated[
        Path | None, typer.Option(help="Write the picture with the skeletons drawn on it.")
    ] = None,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Find the people of a picture."""
    from models.images import load_picture, save_png
    from models.pose import PoseEstimator
    from shared.skeleton import people_to_json

    _check_outputs(draw)
    picture = load_picture(image, max_megapixels)
    people = PoseEstimator().detect(picture.rgb)
    if draw is not None:
        from models.draw import draw_people

        save_png(draw, draw_people(picture.rgb, people))
    if json:
        typer.echo(people_to_json(people).decode())
        return
    typer.echo(f"{image}: {len(people)} {'person' if len(people) == 1 else 'people'}")
    for number, person in enumerate(people):
        x0, y0, x1, y1 = person.box
        typer.echo(
            f"  {number}: {int(person.visible.sum())} joints, "
            f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}, score {person.score[person.visible].mean():.2f}"
        )


@app.command()
def insert(
    scene: Annotated[Path, typer.Option(help="The picture to insert into.")],
    actor: Annotated[Path, typer.Option(help="A photo of the person to insert.")],
    out: Annotated[Path, typer.Option(help="The result, a PNG.")],
    layer: Annotated[Path | None, typer.Option(help="Write the person alone, a PNG with alpha.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what was done and where, as JSON.")] = None,
    pose: Annotated[
        Path | None,
        typer.Option(help="OpenPose JSON, in pixels of the scene: the pose wanted."),
    ] = None,
    pose_person: PosePerson = None,
    at: At = None,
    box: Box = None,
    height: Height = None,
    stance: Stance = None,
    facing: Facing = None,
    like: Like = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    candidates: Annotated[int, typer.Option(min=1, max=64, help="How many places to choose from.")] = 8,
    actor_person: ActorPerson = None,
    placement: Network = None,
    generator: Generator = "motion",
    color_strength: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="How far colours move towards the scene's.")
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="How dark the shadows on the ground are; 0 for none."),
    ] = None,
    max_megapixels: MaxMegapixels = 64.0,
    server: Annotated[bool, typer.Option("--server", help="Let the running server do it.")] = False,
    connection_file: ConnectionFile = None,
) -> None:
    """Insert a person into a picture."""
    from models.finish import Layer, composite
    from models.images import load_picture, save_png
    from shared import messages

    _check_outputs(out, layer, report)
    if pose is None and pose_person is not None:
        raise BadInput("--pose-person: no pose is given", "Give its file with --pose", "pose_person")
    request = messages.Insert(
        skeleton=None if pose is None else read_pose(pose, pose_person, "--pose-person").to_openpose(),
        where=wishes(at, box, height, stance, facing, like),
        seed=seed,
        candidates=candidates,
        actor_person=actor_person,
        generator=generator,
        network=placement,
        color_strength=color_strength,
        shadow=shadow,
    )
    scene_picture = load_picture(scene, max_megapixels)
    actor_picture = load_picture(actor, max_megapixels)
    done, (rgba,) = _do(request, [scene_picture, actor_picture], server, connection_file)
    assert isinstance(done, messages.Inserted)
    finished = Layer(rgba, done.x, done.y, done.scale)
    if layer is not None:
        save_png(layer, rgba)
    if report is not None:
        _write_json(report, to_report(done, rgba))
    save_png(out, composite(scene_picture.rgb, finished))
    _say(out, done, rgba)


@app.command()
def place(
    context: Annotated[Path, typer.Argument(help="OpenPose JSON of the people in the scene, in its pixels.")],
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height of the scene in pixels.")],
    count: Annotated[int, typer.Option(min=1, max=64, help="How many candidates.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same candidates.")] = 0,
    at: At = None,
    box: Box = None,
    height: Height = None,
    stance: Stance = None,
    facing: Facing = None,
    like: Like = None,
    placement: Network = None,
    out: Annotated[
        Path | None, typer.Option(help="Write OpenPose JSON with scores there, not to the terminal.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write a PNG: the people grey, candidates coloured.")
    ] = None,
) -> None:
    """Propose skeletons for one more person in a scene, best first."""
    from models.placement import tellers
    from server.pipeline import Pipeline
    from shared import messages
    from shared.limits import Limits
    from shared.skeleton import Skeleton

    _check_outputs(out, draw)
    people, frame = read_people(context), frame_size(size)
    request = messages.Place(
        [person.to_openpose() for person in people],
        *frame,
        count,
        seed,
        wishes(at, box, height, stance, facing, like),
        placement,
    )
    # Here nobody else waits for the network: crowds may be larger than a server takes.
    messages.check(request, [], Limits(max_people=10_000))
    silent = [str(number) for number, tells in enumerate(tellers(people, frame)) if not tells]
    placed, _ = Pipeline().run(request, [], _show_progress)
    assert isinstance(placed, messages.Placed)
    _clear_progress()
    if silent:
        typer.echo(
            f"walkon: note: {context}: of person {', '.join(silent)} too little is inside the frame to tell where"
            " others belong; they are only kept from being covered",
            err=True,
        )
    for warning in dict.fromkeys(c.warning for c in placed.candidates if c.warning):
        typer.echo(f"walkon: note: {warning}", err=True)
    found = {"people": [_scored(candidate) for candidate in placed.candidates]}
    if draw is not None:
        from models.draw import draw_placement
        from models.images import save_png

        chosen = [Skeleton.from_openpose(c.skeleton) for c in placed.candidates]
        save_png(draw, draw_placement(frame, people, chosen))
    if out is None:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    _write_json(out, found)
    typer.echo(f"{out}: {len(placed.candidates)} candidates")


@app.command()
def transfer(
    actor: Annotated[Path, typer.Option(help="A photo of the person.")],
    pose: Annotated[Path, typer.Option(help="OpenPose JSON, in pixels of the scene: the pose wanted.")],
    out: Annotated[Path, typer.Option(help="The person alone, a PNG with alpha.")],
    report: Annotated[Path | None, typer.Option(help="Write where it lies, and by what, as JSON.")] = None,
    passes: Annotated[
        Path | None,
        typer.Option(
            help="Folder for depth.tif (metres, 32-bit float) and normals.png (x right, y up, z to the camera)."
        ),
    ] = None,
    pose_person: PosePerson = None,
    actor_person: ActorPerson = None,
    generator: Generator = "motion",
    max_megapixels: MaxMegapixels = 64.0,
    server: Annotated[bool, typer.Option("--server", help="Let the running server do it.")] = False,
    connection_file: ConnectionFile = None,
) -> None:
    """Paint a person in a pose, at the pose's size."""
    import numpy as np
    from PIL import Image

    from models.images import load_picture, save_png
    from shared import messages

    _check_outputs(out, report, None if passes is None else passes / "depth.tif")
    request = messages.Transfer(
        read_pose(pose, pose_person, "--pose-person").to_openpose(),
        actor_person,
        generator,
        passes=passes is not None,
    )
    done, (rgba, *more) = _do(request, [load_picture(actor, max_megapixels)], server, connection_file)
    assert isinstance(done, messages.Transferred)
    if passes is not None:
        depth, normals = more
        Image.fromarray(depth.astype(np.float32)).save(passes / "depth.tif")
        save_png(passes / "normals.png", normals)
    if report is not None:
        _write_json(report, with_place(done, rgba))
    save_png(out, rgba)
    _say(out, done, rgba)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 0,
    connection_file: ConnectionFile = None,
    max_megapixels: MaxMegapixels = 64.0,
    idle: Annotated[
        float | None, typer.Option(min=1.0, help="Stop after so many seconds without work or a word.")
    ] = None,
) -> None:
    """Start the model server; it runs until Ctrl-C or SIGTERM."""
    from server.serve import serve as run
    from shared.limits import Limits

    raise typer.Exit(
        run(host, port, connection_file, limits=Limits.for_megapixels(max_megapixels), idle=idle)
    )


@models_app.command("list")
def models_list() -> None:
    """The weights that are installed."""
    from models.weights import installed, sha256

    for stage, name, size in installed():
        typer.echo(f"{stage + '/' + name:28} {size / 1e6:7.1f} MB  sha256 {sha256(stage, name)[:16]}")


@models_app.command("import")
def models_import(
    checkpoint: Annotated[Path, typer.Argument(help="netG_*.pth of the paper's authors.")],
) -> None:
    """Install the transfer network of the paper's authors, as they published it."""
    from models.msa import ATTRIBUTION, import_checkpoint

    typer.echo(f"{import_checkpoint(checkpoint)}: installed; use it with `walkon insert --generator msa`")
    typer.echo(ATTRIBUTION)


def with_place(done: messages.Inserted | messages.Transferred, rgba: NDArray[Any]) -> dict[str, Any]:
    """An answer's fields, with the layer's place and scale in scene pixels as `placement`."""
    import msgspec

    report: dict[str, Any] = msgspec.to_builtins(done)
    report.pop("type")
    x, y, scale = report.pop("x"), report.pop("y"), report.pop("scale")
    height, width = rgba.shape[:2]
    report["placement"] = {"x": x, "y": y, "width": width, "height": height, "scale": scale}
    return report


def to_report(done: messages.Inserted, rgba: NDArray[Any]) -> dict[str, Any]:
    """The report of an insert: skeletons as OpenPose people, the layer's place and scale in scene pixels."""
    report = with_place(done, rgba)
    report["context"] = {"people": [{"pose_keypoints_2d": person} for person in done.context]}
    report["candidates"] = {"people": [_scored(candidate) for candidate in done.candidates]}
    report["skeleton"] = {"pose_keypoints_2d": done.skeleton}
    return report


def _do(
    request: messages.Request, pictures: list[Picture], server: bool, connection_file: Path | None
) -> tuple[messages.Answer, list[NDArray[Any]]]:
    """The request done in this process, or by the running server; shows its progress."""
    arrays = [_to_array(picture) for picture in pictures]
    if server:
        from shared.client import Client

        with Client.connect(connection_file) as client:
            done = client.run(
                request, arrays, on_progress=lambda p: _show_progress(p.stage, p.index, p.count)
            )
    else:
        from server.pipeline import Pipeline

        done = Pipeline().run(request, arrays, _show_progress)
    _clear_progress()
    return done


def _say(out: Path, done: messages.Inserted | messages.Transferred, rgba: NDArray[Any]) -> None:
    """Warnings to stderr; to stdout what was written and where it lies in the scene."""
    for warning in done.warnings:
        typer.echo(f"walkon: note: {warning}", err=True)
    height, width = rgba.shape[:2]
    typer.echo(
        f"{out}: a layer of {width} x {height} pixels at {done.x},{done.y}, {sum(done.seconds.values()):.1f} s"
    )


def _scored(candidate: messages.Candidate) -> dict[str, Any]:
    """An OpenPose person with its score, and what it lacks where it lacks something."""
    said: dict[str, Any] = {"pose_keypoints_2d": candidate.skeleton, "score": round(candidate.score, 4)}
    return said | ({"warning": candidate.warning} if candidate.warning else {})


def _write_json(path: Path, value: Any) -> None:
    import msgspec

    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _to_array(picture: Picture) -> NDArray[Any]:
    """`(H, W, 3)` or, with an alpha channel, `(H, W, 4)` uint8."""
    import numpy as np

    if picture.alpha is None:
        return picture.rgb
    return np.dstack([picture.rgb, np.rint(picture.alpha * 255).astype(np.uint8)])


def _check_outputs(*paths: Path | None) -> None:
    """Refuses before the work what could not be written after it."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise BadInput(f"{path}: is a folder", "Give a file name", str(path))
        if not path.absolute().parent.is_dir():
            raise BadInput(
                f"{path}: there is no folder {path.absolute().parent}",
                "Make it first, or choose another",
                str(path),
            )


def _show_progress(stage: str, index: int, count: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{index + 1}/{count} {stage} ...", err=True, nl=False)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


if __name__ == "__main__":
    main()
