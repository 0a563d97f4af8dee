# SPDX-License-Identifier: Apache-2.0
"""`walkon data`, `walkon train` and `walkon eval`: what made the weights, and what they are measured by."""

from __future__ import annotations

import dataclasses
import math
import sys
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
Assets = Annotated[
    Path,
    typer.Option(exists=True, file_okay=False, help="Folder with makehuman/ and mocap/ (docs/people.md)."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that render people, a core each.")]
Run = Annotated[Path, typer.Option(help="Folder for checkpoints and the curve.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="How long to train, earlier stretches included.")]
Rows = Annotated[str, typer.Option(help="What to measure.")]
Network = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="That network as ONNX (docs/transfer.md).")
]
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


@data_app.command("mhp")
def data_mhp(
    folder: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="MHP-v1: images/, annotations/, the two lists."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for train.npz and val.npz.")],
    threads: Annotated[int, typer.Option(min=1, help="For the pose estimator.")] = 2,
) -> None:
    """The same examples from MHP-v1, the paper's own data, with our pose estimator; goes on where it was stopped."""
    from models.mhp import prepare

    def show_progress(done: int, count: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done}/{count} pictures", err=True, nl=done == count)

    said = prepare(folder, out, threads, show_progress)
    for name, words in said.items():
        typer.echo(f"{out / name}.npz: {words}")


@data_app.command("people")
def data_people(
    out: Annotated[Path, typer.Option(help="Folder for the pair files; it gets train/ or val/.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs.")],
    assets: Assets,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same people.")] = 0,
    split: Annotated[
        Literal["train", "val"], typer.Option(help="val has looks and motions that train never shows.")
    ] = "train",
    workers: Workers = 1,
    framing: Annotated[
        Literal["whole", "head"], typer.Option(help="The person, or head and shoulders.")
    ] = "whole",
) -> None:
    """Rendered people in pairs of poses, for transfer. Needs `python3 build.py setup --people`."""
    from models.pairs import store

    for file in store(out / split, assets, pairs, seed, split, workers, framing):
        typer.echo(str(file))


@data_app.command("deepfashion")
def data_deepfashion(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="DeepFashion with PATN's lists of pairs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pair files; it gets train/ or test/.")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Which list of pairs.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="How many pairs at most.")] = None,
) -> None:
    """DeepFashion's pairs with our estimator's poses and mattes, for training msa (docs/transfer.md)."""
    from models.deepfashion import prepare

    for file in prepare(folder, out, split, limit):
        typer.echo(str(file))


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
    from models import flow_training, wgan

    more = {} if steps is None else {"steps": steps}
    train: Any = flow_training.train if network == "flow" else wgan.train
    train(examples / "train.npz", out, minutes=minutes, seed=seed, **more)


@train_app.command("install")
def train_install(
    network: Annotated[Literal["flow", "wgan"], typer.Argument(help="The placement network.")],
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="generator_<step>.pt, or a flow's checkpoint.pt."),
    ],
) -> None:
    """Make a trained placement network the installed one; its card.md stays as it is."""
    import msgspec

    from models import weights
    from models.flow import Flow
    from models.wgan import Generator

    folder = weights.path_of("placement", network)
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    weights.save(_network_of(Flow if network == "flow" else Generator, file, config), config, folder)
    typer.echo(f"{folder}: {weights.sha256('placement', network)}")


def _network_of(network_class: type[Any], file: Path, config: Mapping[str, Any]) -> Any:
    """The network of a checkpoint (its running average) or of a state dict."""
    from models.weights import read_checkpoint

    network = network_class(**config)
    fix = "Give a file that `walkon train placement` wrote for this network"
    network.load_state_dict(read_checkpoint(file, network.state_dict(), fix))
    return network


@train_app.command("refine")
def train_refine(
    examples: Examples,
    out: Run,
    network: Annotated[
        Literal["body", "refinenet", "paper"],
        typer.Option(help="All joints; the face; the face with the paper's loss, noise and optimiser."),
    ] = "body",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="refinenet, paper: by default 600 and 100.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="body: by default 11,000.")] = None,
    seed: int = 0,
) -> None:
    """Train stage 2; the network comes to OUT/weights. Only `body` goes on where it was stopped."""
    from models import body_refiner, refinenet, weights

    if network == "body":
        more = {} if steps is None else {"steps": steps}
        body = body_refiner.train(examples / "train.npz", out, seed=seed, **more)
        weights.save(body, body.config, out / "weights")
        return
    train = refinenet.train if network == "refinenet" else refinenet.train_as_the_paper
    more = {} if epochs is None else {"epochs": epochs}
    face = train(examples / "train.npz", examples / "val.npz", out, seed=seed, **more)
    weights.save(face, {}, out / "weights")


@train_app.command("transfer")
def train_transfer(
    out: Run,
    assets: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Render while training, from this folder (docs/people.md)."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Train on files: a folder that `walkon data` wrote."),
    ] = None,
    workers: Workers = 1,
    uses: Annotated[int, typer.Option(min=1, help="How often a rendered pair is used on average.")] = 4,
    generator: Annotated[
        Literal["motion", "head", "retouch", "msa"],
        typer.Option(
            help="head, on close-ups, and retouch, on layers: motion's further networks; msa is the paper's."
        ),
    ] = "motion",
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="How long, earlier stretches included; all but msa: 90 if not given."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="msa: how many steps.")] = 260_500,
    batch: Annotated[int, typer.Option(min=1, help="Pairs in a step, on each process.")] = 8,
    rate: Annotated[
        float, typer.Option(min=1e-6, help="All but msa: the learning rate at the start.")
    ] = 2e-3,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="All but msa: a model.safetensors to begin a new run from."
        ),
    ] = None,
    adversarial: Annotated[
        Literal["lsgan", "bce"],
        typer.Option(help="msa: bce as the paper writes it, lsgan as its code has it."),
    ] = "lsgan",
    vgg: Annotated[Path | None, typer.Option(help="msa: VGG-19 weights for the perceptual loss.")] = None,
    width: Annotated[int, typer.Option(min=1, help="msa: channels at full size; 64 is the paper's.")] = 64,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    devices: Annotated[int, typer.Option(min=1, help="Processes; on cuda, GPUs.")] = 1,
    precision: Annotated[
        Literal["32-true", "bf16-mixed", "16-mixed"] | None,
        typer.Option(
            help="Of the arithmetic; if not given, 32-true for msa, else bf16-mixed where that is fast."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each process on the CPU.")] = 2,
    seed: int = 0,
) -> None:
    """Train stage 3, on people that are rendered meanwhile (--assets) or on files (--pairs)."""
    from models.pairs import Rendered, Stored
    from models.transfer_training import Machine, fast_precision

    source: Rendered | Stored
    if assets is not None and pairs is None:
        source = Rendered(assets, workers, uses, "head" if generator == "head" else "whole")
    elif pairs is not None and assets is None:
        source = Stored(pairs)
    else:
        raise BadInput(
            "--assets, --pairs: one of them says where the pairs come from",
            "Give --assets to render people while training, or --pairs to train on files",
            "pairs",
        )
    precision = precision or ("32-true" if generator == "msa" else fast_precision(device))
    machine = Machine(device, devices, precision, threads)
    if generator != "msa":
        from models import head_training, motion_training, retouch_training
        from models.transfer_training import Options

        training = {"motion": motion_training, "head": head_training, "retouch": retouch_training}[generator]
        training.train(Options(source, out, minutes or 90.0, batch, rate, seed, start, machine))
    else:
        from models import msa_training

        msa_training.train(
            msa_training.Options(
                source, out, steps, minutes or math.inf, batch, width, adversarial, vgg, seed, machine
            )
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
    split: Annotated[Literal["val"], typer.Option(help="Only val2017 was never trained on.")] = "val",
    scenes: Annotated[int, typer.Option(min=100, help="How many scenes at most.")] = 4000,
    wgan: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A generator_<step>.pt instead of the installed wgan."
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of 40 scenes, a PNG.")] = None,
    json: Json = False,
) -> None:
    """Stage 1 against real people and baselines: docs/placement.md says what each number is."""
    from models.coco import Examples as Data
    from models.placement import Placement, WganSampler, sampler
    from models.placement_eval import evaluate
    from models.placement_eval import sheet as draw_sheet
    from models.wgan import Generator
    from server.pipeline import PLACEMENTS

    test, train = (Data.load(examples / f"{name}.npz") for name in (split, "train"))
    networks = {name: sampler(name) for name in PLACEMENTS if name != "wgan" or wgan is None}
    if wgan is not None:
        networks["wgan"] = WganSampler(_network_of(Generator, wgan, {}).eval())
    default = Placement(PLACEMENTS[0])
    rows = evaluate(networks, default, test, train, scenes)
    if sheet is not None:
        draw_sheet(default, test, sheet)
    said = {
        name: {k: v for k, v in dataclasses.asdict(row).items() if v is not None}
        for name, row in rows.items()
    }
    if json:
        show(said, as_json=True)
        return
    crowds = {name: row.pop("by_people") for name, row in said.items()}
    show(said, as_json=False)
    for number in ("c2st", "best_of_8", "scale_error", "overlap"):
        table = {
            name: {
                f"{number}, {people} people": of[number]
                for people, of in each.items()
                if of[number] is not None
            }
            for name, each in crowds.items()
        }
        show({name: row for name, row in table.items() if row}, as_json=False)


@eval_app.command("refine")
def eval_refine(
    examples: Examples,
    scenes: Annotated[int, typer.Option(min=0, help="Scenes of val2017 to refine candidates of.")] = 200,
    json: Json = False,
) -> None:
    """Stage 2: errors before and after in pixels of the 256-px person frame, by jitter; bones of candidates."""
    from models.coco import Examples as Data
    from models.placement import Placement
    from models.refine_eval import evaluate

    show(evaluate(Data.load(examples / "val.npz"), Placement() if scenes else None, scenes), json)


@eval_app.command("transfer")
def eval_transfer(
    pairs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder that `walkon data people` wrote; its val/."),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of photos of people.")
    ] = None,
    count: Annotated[int, typer.Option(min=8, help="How many rendered pairs at most.")] = 500,
    real: Annotated[int, typer.Option(min=1, help="How many real actors x real poses.")] = 60,
    rows: Rows = "motion,limbs,msa,copy",
    lpips: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="LPIPS as ONNX (docs/transfer.md).")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write 30 real actors x real poses, a PNG.")] = None,
    json: Json = False,
) -> None:
    """Stage 3 on held-out rendered pairs, on real photos, and its cost; by network, without one, and copying."""
    from models import transfer_eval as evaluation
    from models.metrics import Measure

    measured = _transfers(rows)
    said: dict[str, dict[str, float]] = {name: {} for name in measured}
    if pairs is not None:
        network = None if lpips is None else Measure(lpips, inputs=2)
        for name, row in evaluation.on_pairs(measured, pairs / "val", count, network).items():
            said.setdefault(name, {}).update(row)
    if photos is not None:
        for name, row in evaluation.on_photos(measured, photos, real, sheet).items():
            said.setdefault(name, {}).update(row)
    for name in measured:
        if name != "copy":
            said[name].update(evaluation.cost(name))
    show(said, json)


@eval_app.command("deepfashion")
def eval_deepfashion(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="DeepFashion with PATN's lists of pairs.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="How many pairs at most.")] = None,
    rows: Rows = "motion,limbs,msa,copy",
    inception: Network = None,
    ssd: Network = None,
    lpips_vgg: Network = None,
    lpips_squeeze: Network = None,
    json: Json = False,
) -> None:
    """The paper's Table I on the test pairs, its published rows beside ours."""
    from models.deepfashion import Networks, table

    networks = Networks(inception, ssd, lpips_vgg, lpips_squeeze)
    show(table(folder, _transfers(rows), networks, limit), json)


def _transfers(rows: str) -> dict[str, Any]:
    from models.transfer_eval import ROWS, transfers

    names = rows.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise BadInput(f"--rows: there is no {unknown[0]!r}", f"Choose from {','.join(ROWS)}", "rows")
    return transfers(names)


@eval_app.command("ground")
def eval_ground(photos: Photos, json: Json = False) -> None:
    """Stage 1 on photos: do the looks of the ground tell real feet from random places?"""
    from server.evaluate import evaluate_ground
    from server.pipeline import Pipeline

    show({"ground": evaluate_ground(_photos_of(photos), Pipeline())}, json)


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

    from server.evaluate import evaluate_inserts, fit_actors
    from server.pipeline import Pipeline

    paths = _photos_of(photos)
    pipeline = Pipeline()
    actors = paths if every_actor else fit_actors(paths, pipeline)
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
        f"{said['all']['inserted']} of {said['pairs']} pairs ended in a picture, the others in the errors above"
    )
    show({name: said[name] for name in ("all", "unwarned")}, False)


def _photos_of(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise BadInput(f"{folder}: holds no photos", "Give a folder of JPEG, PNG or WebP files", str(folder))
    return paths


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
