# SPDX-License-Identifier: Apache-2.0
"""`walkon data`, `walkon train` and `walkon eval`: what made the weights, and what they are measured by."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

data_app = typer.Typer(help="Prepare data for training.", no_args_is_help=True)
train_app = typer.Typer(
    help="Train a stage; a run that was stopped goes on where it was.", no_args_is_help=True
)
eval_app = typer.Typer(help="Measure a stage.", no_args_is_help=True)

Annotations = Annotated[
    Path,
    typer.Option(exists=True, dir_okay=False, help="coco_person_keypoints_2017_compact.npz (docs/data.md)."),
]
Photos = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of photos.")]
Examples = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder that `walkon data coco` wrote.")
]
Pairs = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder that `walkon data people` wrote.")
]
Run = Annotated[Path, typer.Option(help="Folder for checkpoints and the curve.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="How long to train, earlier stretches included.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@data_app.command("coco")
def data_coco(
    annotations: Annotations, out: Annotated[Path, typer.Option(help="Folder for train.npz and val.npz.")]
) -> None:
    """Leave-one-out examples for placement and refinement from COCO's keypoints."""
    from models.coco import prepare

    out.mkdir(parents=True, exist_ok=True)
    for name, count in prepare(annotations, out).items():
        typer.echo(f"{out / name}.npz: {count} examples")


@data_app.command("people")
def data_people(
    out: Annotated[Path, typer.Option(help="Folder for the pair files; it gets train/ or val/.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs.")],
    assets: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder with makehuman/ and mocap/ (docs/people.md)."
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same people.")] = 0,
    split: Annotated[
        Literal["train", "val"], typer.Option(help="val has looks and motions that train never shows.")
    ] = "train",
) -> None:
    """Rendered people in pairs of poses, for transfer. Needs `python3 build.py setup --people`."""
    from models.people import generate

    try:
        for file in generate(out / split, pairs, seed, split, assets):
            typer.echo(str(file))
    except ModuleNotFoundError as error:
        raise BadInput(
            f"data people: the renderer's packages are missing ({error.name})",
            "Install them with `python3 build.py setup --people`, then use the walkon of that environment",
            "people",
        ) from error


@train_app.command("placement")
def train_placement(
    examples: Examples,
    out: Run,
    network: Annotated[Literal["flow", "wgan"], typer.Option(help="wgan is the paper's.")] = "flow",
    steps: Annotated[
        int | None, typer.Option(min=1, help="By default what the network's docs state.")
    ] = None,
    minutes: Minutes = math.inf,
    seed: int = 0,
) -> None:
    """Train stage 1."""
    from models import flow, wgan

    trainers: Mapping[str, Any] = {"flow": flow.train, "wgan": wgan.train}
    if network not in trainers:
        raise BadInput(
            f"--network: there is no {network!r}", f"Choose one of {', '.join(trainers)}", "network"
        )
    more = {} if steps is None else {"steps": steps}
    trainers[network](examples / "train.npz", out, minutes=minutes, seed=seed, **more)


@train_app.command("refine")
def train_refine(examples: Examples, out: Run, seed: int = 0) -> None:
    """Train stage 2."""
    from models.refinenet import train

    train(examples / "train.npz", examples / "val.npz", out, seed=seed)


@train_app.command("transfer")
def train_transfer(
    pairs: Pairs,
    out: Run,
    generator: Annotated[Literal["motion", "msa"], typer.Option(help="msa is the paper's.")] = "motion",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="motion: how long, earlier stretches included.")
    ] = 90.0,
    steps: Annotated[int, typer.Option(min=1, help="msa: how many steps.")] = 257_500,
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs in a step.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="motion: threads on the CPU.")] = 2,
    adversarial: Annotated[
        Literal["lsgan", "bce"],
        typer.Option(help="msa: bce as the paper writes it, lsgan as its code has it."),
    ] = "lsgan",
    vgg: Annotated[Path | None, typer.Option(help="msa: VGG-19 weights for the perceptual loss.")] = None,
    device: Annotated[str, typer.Option(help="msa: cpu or cuda.")] = "cpu",
    seed: int = 0,
) -> None:
    """Train stage 3."""
    size = {} if batch is None else {"batch": batch}
    if generator == "motion":
        from models import motion_training

        motion_training.train(pairs, out, minutes, threads=threads, seed=seed, **size)
    else:
        from models import msa

        msa.train(
            pairs, out, steps, minutes, adversarial=adversarial, vgg=vgg, seed=seed, device=device, **size
        )


@eval_app.command("pose")
def eval_pose(annotations: Annotations, photos: Photos, json: Json = False) -> None:
    """Average precision of detection on photos whose COCO id is in their name."""
    from models.pose_eval import evaluate

    show({"movenet": dataclasses.asdict(evaluate(photos, annotations))}, json)


@eval_app.command("matte")
def eval_matte(
    pairs: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="A file that `walkon data people` wrote.")
    ],
    photos: Photos,
    count: Annotated[int, typer.Option(min=1, help="How many people.")] = 60,
    json: Json = False,
) -> None:
    """Mattes of rendered people put into real photos, before and after their edges are refined."""
    from models.matte_eval import evaluate

    show({"blazepose": dataclasses.asdict(evaluate(pairs, photos, count))}, json)


@eval_app.command("placement")
def eval_placement(
    examples: Examples,
    scenes: Annotated[int, typer.Option(min=100, help="How many scenes of val2017 at most.")] = 2000,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of 40 scenes, a PNG.")] = None,
    json: Json = False,
) -> None:
    """Stage 1 against real people: can a classifier tell them apart, are limbs human, is the true place found?"""
    import msgspec

    from models.coco import Examples as Data
    from models.placement import Placement
    from models.placement_eval import evaluate, milliseconds
    from models.placement_eval import sheet as draw_sheet
    from server.pipeline import PLACEMENTS

    val, train = (Data.load(examples / f"{name}.npz") for name in ("val", "train"))
    rows = evaluate(PLACEMENTS, val, train, scenes)
    default = Placement(PLACEMENTS[0])
    said = {name: msgspec.to_builtins(row) for name, row in rows.items()}
    said[PLACEMENTS[0]]["milliseconds"] = milliseconds(default, val)
    if sheet is not None:
        draw_sheet(default, val, sheet)
    show(said, json)


@eval_app.command("refine")
def eval_refine(examples: Examples, json: Json = False) -> None:
    """Stage 2: error of eyes and ears before and after, by size of the jitter, in the 256-px person frame."""
    from models.coco import Examples as Data
    from models.refinenet import RefineNet, evaluate
    from models.weights import load

    rows = evaluate(load(RefineNet, "refine", "refinenet"), Data.load(examples / "val.npz"))
    show({f"jitter {size} px": row for size, row in rows.items()}, json)


@eval_app.command("transfer")
def eval_transfer(pairs: Pairs, count: Annotated[int, typer.Option(min=1)] = 100, json: Json = False) -> None:
    """Stage 3 on held-out rendered pairs."""
    from models.motion_training import evaluate

    show(evaluate(pairs / "val", count=count), json)


@eval_app.command("insert")
def eval_insert(
    photos: Photos,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs of scene and actor.")] = 23,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet, a PNG.")] = None,
    every_actor: Annotated[
        bool, typer.Option("--every-actor", help="Also actors who sit, crouch or are cut by the frame.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """The whole job on real photos: all serve as scenes, those of a whole standing person as actors."""
    import msgspec

    from server.evaluate import evaluate_inserts, standing_actors
    from server.pipeline import Pipeline

    paths = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise BadInput(f"{photos}: holds no photos", "Give a folder of JPEG, PNG or WebP files", str(photos))
    pipeline = Pipeline()
    actors = paths if every_actor else standing_actors(paths, pipeline)
    if not actors:
        raise BadInput(
            f"{photos}: shows nobody standing from head to feet",
            "Add such a photo, or --every-actor",
            "photos",
        )
    said = evaluate_inserts(paths, actors, pairs, pipeline, sheet, seed)
    if json:
        typer.echo(msgspec.json.encode(said).decode())
        return
    for error in said["errors"]:
        typer.echo(error)
    typer.echo(
        f"{said['inserted']} of {said['pairs']} pairs ended in a picture, the others in the errors above; "
        f"PCKh {said['pckh']}, of the {said['found']} that the estimator finds again {said['pckh_found']}; "
        f"median {said['seconds']} s"
    )


def show(rows: Mapping[str, Mapping[str, Any]], as_json: bool) -> None:
    """Prints rows of numbers by name: as a table, or as `{"rows": {...}}`."""
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode({"rows": rows}).decode())
        return
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table("", *columns)
    for name, row in rows.items():
        cells = (row.get(key, "") for key in columns)
        table.add_row(name, *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console().print(table)
