# SPDX-License-Identifier: Apache-2.0
"""The command line, `walkon`. Heavy imports happen in the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server import lab
from shared import __version__
from shared.errors import BadInput, WalkOnError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.images import Picture
    from shared import messages
    from shared.skeleton import Skeleton

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
        typer.Option(help="OpenPose JSON of one person, in pixels of the scene: the pose wanted."),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The pixel of the scene where the feet go.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    candidates: Annotated[int, typer.Option(min=1, max=64, help="How many places to choose from.")] = 8,
    actor_person: Annotated[
        int | None, typer.Option(min=0, help="Which person of the actor photo; 0 is the largest.")
    ] = None,
    placement: Annotated[str | None, typer.Option(help="Placement network: flow or wgan.")] = None,
    generator: Annotated[str, typer.Option(help="Transfer: motion, limbs (no network) or msa.")] = "motion",
    color_strength: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="How far colours move towards the scene's.")
    ] = None,
    max_megapixels: MaxMegapixels = 64.0,
    server: Annotated[bool, typer.Option("--server", help="Let the running server do it.")] = False,
    connection_file: ConnectionFile = None,
) -> None:
    """Insert a person into a picture."""
    import msgspec

    from models.finish import Layer, composite
    from models.images import load_picture, save_png
    from shared import messages

    _check_outputs(out, layer, report)
    request = messages.Insert(
        skeleton=None if pose is None else read_pose(pose).to_openpose(),
        at=None if at is None else parse_point(at),
        seed=seed,
        candidates=candidates,
        actor_person=actor_person,
        generator=generator,
        network=placement,
        color_strength=color_strength,
    )
    scene_picture = load_picture(scene, max_megapixels)
    actor_picture = load_picture(actor, max_megapixels)
    if server:
        done, rgba = _insert_on_server(request, scene_picture, actor_picture, connection_file)
    else:
        done, rgba = _insert_here(request, scene_picture, actor_picture)
    _clear_progress()
    finished = Layer(rgba, done.x, done.y, done.scale)
    if layer is not None:
        save_png(layer, rgba)
    if report is not None:
        text = msgspec.json.format(msgspec.json.encode(to_report(done, rgba)), indent=2)
        report.write_bytes(text + b"\n")
    save_png(out, composite(scene_picture.rgb, finished))
    for warning in done.warnings:
        typer.echo(f"walkon: note: {warning}", err=True)
    height, width = rgba.shape[:2]
    typer.echo(
        f"{out}: a person of {width} x {height} pixels at {done.x},{done.y}, {sum(done.seconds.values()):.1f} s"
    )


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 0,
    connection_file: ConnectionFile = None,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Start the model server; it runs until Ctrl-C or SIGTERM."""
    from server.serve import serve as run
    from shared.limits import Limits

    raise typer.Exit(run(host, port, connection_file, limits=Limits.for_megapixels(max_megapixels)))


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


def read_pose(path: Path) -> Skeleton:
    """The one skeleton of a file: OpenPose JSON with one person, or the `skeleton` of a report.

    Raises:
        BadInput: unreadable, or not one person.
    """
    import msgspec

    from shared.skeleton import Skeleton, people_from_json

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror})", "Give an OpenPose JSON file", str(path)
        ) from error
    try:
        bare = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        bare = None
    if isinstance(bare, dict) and isinstance(bare.get("pose_keypoints_2d"), list):
        data = msgspec.json.encode({"people": [bare]})
    people = people_from_json(data, str(path))
    if len(people) != 1:
        raise BadInput(
            f"{path}: holds {len(people)} people, not one", "Give the pose of one person", str(path)
        )
    (person,) = people
    if not person.visible.any():
        raise BadInput(
            f"{path}: no joint of the person is visible", "Give at least shoulders and hips", str(path)
        )
    return Skeleton(person.xy, person.visible, person.score)


def parse_point(text: str) -> tuple[float, float]:
    """`"X,Y"` as numbers.

    Raises:
        BadInput: not two numbers.
    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(
            f"--at: {text!r} is not X,Y", "Give two numbers, for instance --at 640,800", "at"
        ) from error
    return x, y


def to_report(done: messages.Inserted, rgba: NDArray[Any]) -> dict[str, Any]:
    """The report of an insert: skeletons as OpenPose people, the layer's place and scale in scene pixels."""
    import msgspec

    report: dict[str, Any] = msgspec.to_builtins(done)
    report.pop("type")
    x, y, scale = report.pop("x"), report.pop("y"), report.pop("scale")
    height, width = rgba.shape[:2]
    report["placement"] = {"x": x, "y": y, "width": width, "height": height, "scale": scale}
    report["context"] = {"people": [{"pose_keypoints_2d": person} for person in done.context]}
    report["candidates"] = {
        "people": [{"pose_keypoints_2d": c.skeleton, "score": round(c.score, 4)} for c in done.candidates]
    }
    report["skeleton"] = {"pose_keypoints_2d": done.skeleton}
    return report


def _insert_here(
    request: messages.Insert, scene: Picture, actor: Picture
) -> tuple[messages.Inserted, NDArray[Any]]:
    from server.pipeline import Pipeline
    from shared import messages

    done, blobs = Pipeline().run(request, [_to_array(scene), _to_array(actor)], _show_progress)
    assert isinstance(done, messages.Inserted)
    return done, blobs[0]


def _insert_on_server(
    request: messages.Insert, scene: Picture, actor: Picture, connection_file: Path | None
) -> tuple[messages.Inserted, NDArray[Any]]:
    from shared import messages
    from shared.client import Client

    with Client.connect(connection_file) as client:
        done, blobs = client.run(
            request,
            [_to_array(scene), _to_array(actor)],
            on_progress=lambda p: _show_progress(p.stage, p.index, p.count),
        )
    assert isinstance(done, messages.Inserted)
    return done, blobs[0]


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
