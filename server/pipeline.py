# SPDX-License-Identifier: Apache-2.0
"""One insert, stage by stage: detect, place, refine, matte, transfer, finish.

Each stage is a method over typed values that can be called alone; `run` is the same for requests of the wire.
Networks are loaded when first used, and once.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.images import Picture, picture_from_array
from models.weights import sha256
from server.poses import (
    check_pose,
    lacking,
    left_out,
    missing_pairs,
    standing_at,
    turned_away,
    upright,
    what_the_photo_shows,
)
from shared import __version__, messages
from shared.errors import BadImage, BadInput, Cancelled, NoActor, NoContext, PartialActor
from shared.skeleton import BODY_JOINTS, FACE, Skeleton
from shared.where import Where

if TYPE_CHECKING:
    from models.body_refiner import BodyRefiner
    from models.finish import Layer
    from models.matte import MatteEstimator
    from models.msa import MsaTransfer
    from models.person import Person
    from models.placement import Candidate, Placement
    from models.pose import PoseEstimator
    from models.refinenet import Refiner
    from models.transfer import MotionTransfer
    from server.preview import AnalysedActors

STAGES = ("detect", "place", "refine", "matte", "transfer", "finish")
"""In the order in which `insert` runs them."""
_TRANSFER_STAGES = ("detect", "matte", "transfer")

GENERATORS = ("motion", "limbs", "msa")
PLACEMENTS = ("flow", "wgan")
NO_WISHES = Where()

MIN_ACTOR = 64
"""Height in pixels of the smallest person that is taken from a photo: of smaller ones no face is left."""

_ABOVE_JOINTS = (
    1.15  # height of a person over that of the joints: the head above the eyes, the feet below the ankles
)

_COLOUR_PEOPLE = 3  # so many of the scene's people are enough to take colours and sharpness from

_DOUBTFUL = 0.25  # score of a best candidate below which inserts on real photos are rarely believable

Progress = Callable[[str, int, int], None]
"""Called when a stage begins: its name, its index and the number of stages."""


@dataclass(frozen=True)
class Actor:
    """The person to insert, as found in one photo.

    Args:
        rgb (`(H, W, 3)` uint8): the photo.
        skeleton (`Skeleton`): in pixels of the photo.
        others (`tuple[Skeleton, ...]`): the photo's other people.
        alpha (`(H, W)` float32, *optional*): the photo's own alpha channel, where it has one.
        warnings (`tuple[str, ...]`): what the user should know.
        fit (`bool`): the photo shows somebody standing, from head to feet.
    """

    rgb: NDArray[np.uint8]
    skeleton: Skeleton
    others: tuple[Skeleton, ...]
    alpha: NDArray[np.float32] | None
    warnings: tuple[str, ...]
    fit: bool


@dataclass(frozen=True)
class Insertion:
    """Result of `Pipeline.insert`: the layer and everything that led to it."""

    layer: Layer
    passes: tuple[NDArray[Any], ...]
    skeleton: Skeleton
    candidates: tuple[Candidate, ...]
    context: tuple[Skeleton, ...]
    seed: int
    seconds: dict[str, float]
    weights: dict[str, str]
    warnings: tuple[str, ...]

    def report(self) -> messages.Inserted:
        """The same without pixels, as it goes over the wire and into reports."""
        return messages.Inserted(
            x=self.layer.x,
            y=self.layer.y,
            scale=self.layer.scale,
            skeleton=self.skeleton.to_openpose(),
            candidates=_on_the_wire(self.candidates),
            context=[person.to_openpose() for person in self.context],
            seed=self.seed,
            seconds=self.seconds,
            versions=versions(),
            weights=self.weights,
            warnings=list(self.warnings),
        )


class _Clock:
    """Stages of one job: reports progress, stops when cancelled, measures seconds."""

    def __init__(
        self, stages: Sequence[str], progress: Progress | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self.stages = list(stages)
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._cancelled = cancelled

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled(f"cancelled before {name}", "Send the job again if it was a mistake")
        if self._progress is not None:
            self._progress(name, self.stages.index(name), len(self.stages))
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 4)


class Pipeline:
    """All stages with their networks.

    Args:
        threads (`int`, *optional*): for the networks; by default two, or as few as `OMP_NUM_THREADS` says.
        placement (`str`, *optional*, defaults to `"flow"`): default placement network, one of `PLACEMENTS`.
    """

    def __init__(self, threads: int | None = None, placement: str = PLACEMENTS[0]) -> None:
        # More threads than the environment leaves to this process wait for each other, several times as long.
        self.threads = threads or (1 if os.environ.get("OMP_NUM_THREADS") == "1" else 2)
        self.placement = placement

    # --- networks ---------------------------------------------------------------------------------------

    @functools.cached_property
    def pose(self) -> PoseEstimator:
        """The pose estimator."""
        from models.pose import PoseEstimator

        return PoseEstimator(self.threads)

    @functools.cached_property
    def matting(self) -> MatteEstimator:
        """The matte network."""
        from models.matte import MatteEstimator

        return MatteEstimator(self.threads)

    @functools.cached_property
    def refiners(self) -> tuple[BodyRefiner, Refiner]:
        """The refinement networks: all joints; the face, as in the paper."""
        from models.body_refiner import BodyRefiner
        from models.refinenet import Refiner

        self._limit_torch()
        return BodyRefiner(), Refiner()

    @functools.cache  # noqa: B019 - one pipeline lives as long as its process
    def placer(self, name: str) -> Placement:
        """The placement network of that name."""
        from models.placement import Placement

        _choose("network", name, PLACEMENTS)
        self._limit_torch()
        return Placement(name)

    @functools.cache  # noqa: B019
    def generator(self, name: str) -> MotionTransfer | MsaTransfer:
        """The transfer network of that name."""
        _choose("generator", name, GENERATORS)
        self._limit_torch()
        if name == "msa":
            from models.msa import MsaTransfer

            return MsaTransfer()
        from models.transfer import MotionTransfer

        return MotionTransfer(name)

    @property
    def motion(self) -> MotionTransfer:
        """The transfer network that previews are made with."""
        from models.transfer import MotionTransfer

        network = self.generator("motion")
        assert isinstance(network, MotionTransfer)
        return network

    @functools.cached_property
    def analysed(self) -> AnalysedActors:
        """The actors that previews can be asked of."""
        from server.preview import AnalysedActors

        return AnalysedActors()

    def reduced(self, generator: str) -> list[str]:
        """A warning where the paper's generator is asked for and its authors' weights are not there."""
        from models.msa import REDUCED, MsaTransfer

        network = self.generator(generator)
        if not isinstance(network, MsaTransfer) or network.weights != REDUCED:
            return []
        return [
            "The person is painted by a small form of the paper's network, which blurs; for its authors' weights get "
            "netG_260500.pth (prasunroy/pose-transfer) and run: walkon models import netG_260500.pth"
        ]

    def _limit_torch(self) -> None:
        import torch

        torch.set_num_threads(self.threads)

    def weights(self, generator: str, placement: str | None = None) -> dict[str, str]:
        """SHA-256 of the weights that a transfer uses, or an insert with that placement, by `stage/name`."""
        used = [("pose", "movenet-multipose"), ("pose", "movenet-thunder"), ("matte", "blazepose-full")]
        if placement is not None:
            used += [("placement", placement), ("refine", "body"), ("refine", "refinenet")]
        from models.msa import MsaTransfer

        network = self.generator(generator)
        if isinstance(network, MsaTransfer):
            used.append(("transfer", network.weights))
        if generator == "motion":
            used += [("transfer", name) for name in ("motion", "head", "retouch")]
        return {f"{stage}/{name}": sha256(stage, name) for stage, name in used}

    # --- stages -----------------------------------------------------------------------------------------

    def detect(self, scene: NDArray[np.uint8]) -> list[Skeleton]:
        """The people of a picture `(H, W, 3)`, largest first."""
        return self.pose.detect(scene)

    def find_actor(self, photo: Picture, number: int | None = None) -> Actor:
        """The person to insert.

        Args:
            photo (`Picture`): the actor photo.
            number (`int`, *optional*): which of its people, 0 is the largest; the largest, if not given.

        Raises:
            NoActor: no person, or fewer than asked for.
            BadImage: the person is under `MIN_ACTOR` pixels tall.
            PartialActor: shoulders or hips are not in the photo.
        """
        people = self.detect(photo.rgb)
        if not people:
            raise NoActor(
                "actor: no person was found in the photo",
                "Use a photo that shows one person from head to feet, not too small and not too dark",
                "actor",
            )
        if number is not None and number >= len(people):
            raise NoActor(
                f"actor: person {number} was asked for, and the photo has {len(people)} (numbered from 0)",
                "Choose a lower number; 0 is the largest person",
                "actor_person",
            )
        warnings = []
        if number is None and len(people) > 1:
            warnings.append(
                f"The actor photo shows {len(people)} people; the largest was taken (actor person 0)"
            )
        index = number or 0
        skeleton = people[index]
        tall = skeleton.height * _ABOVE_JOINTS
        if tall < MIN_ACTOR:
            raise BadImage(
                f"actor: the person in the photo is only about {tall:.0f} px tall, not at least {MIN_ACTOR}",
                "Use a larger photo, or one that was taken from nearer",
                "actor",
            )
        missing = missing_pairs(skeleton)
        if "shoulders" in missing or "hips" in missing:
            raise PartialActor(
                f"actor: the photo does not show the {' and '.join(missing)}",
                "Shoulders and hips are needed at least; use a photo that shows more of the person",
                "actor",
            )
        if missing:
            warnings.append(
                f"The actor photo does not show the {' and '.join(missing)}; only the visible part is inserted"
            )
        from models.suitability import unfit

        faults = unfit(skeleton)
        warnings += [
            f"The actor in the photo {fault}; a photo of somebody standing does better" for fault in faults
        ]
        others = tuple(p for i, p in enumerate(people) if i != index)
        return Actor(photo.rgb, skeleton, others, photo.alpha, tuple(warnings), not (missing or faults))

    def place(
        self,
        context: Sequence[Skeleton],
        size: tuple[int, int],
        count: int = 8,
        seed: int = 0,
        where: Where = NO_WISHES,
        network: str | None = None,
        actor: Skeleton | None = None,
        scene: NDArray[np.uint8] | None = None,
    ) -> list[Candidate]:
        """Candidates for one more person, best first.

        Args:
            context (sequence of `Skeleton`): the people of the scene.
            size (`(width, height)`): of the scene, in pixels.
            count (`int`): how many.
            seed (`int`): same seed, same candidates.
            where (`Where`): wishes for the place and the person.
            network (`str`, *optional*): one of `PLACEMENTS`.
            actor (`Skeleton`, *optional*): as seen in the photo; candidates are then fitted to it, and the score
                says both how well the person belongs and how well the photo can show it.
            scene (`(H, W, 3)` uint8, *optional*): its pixels; feet are then kept on what looks like the ground, and
                people in sight of the camera.

        Raises:
            NoContext: the context is empty.
            NoCandidate: nothing passes the checks.
        """
        from models.ground import GroundLooks
        from models.sight import Sight

        looks = None if scene is None else GroundLooks(scene, context)
        sight = None if scene is None else Sight(scene, context, self.matting)
        return self.placer(network or self.placement).place(
            context, size, count, seed, where, actor, looks, sight
        )

    def refine(self, skeleton: Skeleton, locked: Sequence[int] = ()) -> Skeleton:
        """The skeleton with its known joints cleaned; those that are locked stay exactly as they are.

        Eyes and ears come to the middle of where the two networks have them: they err apart, so it errs less.
        """
        body, face = (refiner.refine(skeleton, locked) for refiner in self.refiners)
        if face is skeleton:  # without a nose the paper's network says nothing
            return body
        joints = [joint for joint in FACE[1:] if skeleton.visible[joint] and joint not in locked]
        return body.with_joints(joints, (body.xy[joints] + face.xy[joints]) / 2)

    def cut_out(self, actor: Actor) -> NDArray[np.float32]:
        """Matte `(H, W)` of the actor; a photo with an alpha channel brings its own."""
        found = self.matting.matte(actor.rgb, actor.skeleton, actor.others)
        if actor.alpha is None:
            return found
        # The photo's own alpha is exact, but may hold several people.
        return actor.alpha if not actor.others else np.minimum(actor.alpha, found)

    def transfer(
        self,
        actor: Actor,
        matte: NDArray[np.float32],
        target: Skeleton,
        generator: str = GENERATORS[0],
        passes: bool = False,
    ) -> Person:
        """The actor in the pose of `target`, in its pixels; with depth and normals where `passes` are asked for.

        Raises:
            BadInput: the network gives no passes.
        """
        from models.transfer import MotionTransfer

        network = self.generator(generator)
        if not passes:
            return network.transfer(actor.rgb, matte, actor.skeleton, target)
        if isinstance(network, MotionTransfer):
            person = network.pose(network.analyse(actor.rgb, matte, actor.skeleton), target, passes=True)
            if person.depth is not None:
                return person
        raise BadInput(
            f"passes: the transfer network {generator!r} gives no depth and normals",
            "Ask for the layer alone, or use another network",
            "passes",
        )

    def finish(
        self,
        person: Person,
        scene: NDArray[np.uint8],
        target: Skeleton,
        context: Sequence[Skeleton],
        color_strength: float | None = None,
        shadow: float | None = None,
    ) -> Layer:
        """The person as a layer: in the scene's colours, with a shadow, behind the people who stand nearer."""
        from models import finish
        from models.shadow import DEFAULT_STRENGTH, with_shadow

        height, width = person.rgba.shape[:2]
        strength = finish.DEFAULT_STRENGTH if color_strength is None else color_strength
        mattes: dict[int, NDArray[np.float32]] = {}
        in_front = []
        peers = finish.peers(target, context, _COLOUR_PEOPLE)
        for index, other in enumerate(context):
            x0, y0, x1, y1 = other.box
            margin = 0.25 * max(x1 - x0, y1 - y0)
            apart = (
                x1 + margin < person.x
                or x0 - margin > person.x + width
                or y1 + margin < person.y
                or y0 - margin > person.y + height
            )
            front = not apart and finish.nearer(other, target, scene.shape[0])
            if front or (index in peers and strength > 0):
                mattes[index] = self.matting.matte(
                    scene, other, [p for i, p in enumerate(context) if i != index]
                )
            if front:
                in_front.append(index)
        person = finish.harmonise(
            person,
            scene,
            strength,
            [mattes[i] for i in peers if i in mattes],
        )
        person = with_shadow(person, target, scene, context, DEFAULT_STRENGTH if shadow is None else shadow)
        hidden = finish.occlusion(
            person, target, [context[i] for i in in_front], [mattes[i] for i in in_front]
        )
        return finish.to_layer(finish.occlude(person, hidden))

    # --- the whole job ----------------------------------------------------------------------------------

    def insert(
        self,
        scene: Picture,
        actor: Picture,
        *,
        skeleton: Skeleton | None = None,
        locked: Sequence[int] | None = None,
        context: Sequence[Skeleton] | None = None,
        where: Where = NO_WISHES,
        seed: int = 0,
        candidates: int = 8,
        actor_person: int | None = None,
        generator: str = GENERATORS[0],
        network: str | None = None,
        color_strength: float | None = None,
        shadow: float | None = None,
        passes: bool = False,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Insertion:
        """A new person for the scene.

        Args:
            scene (`Picture`): the picture to insert into.
            actor (`Picture`): a photo of the person.
            skeleton (`Skeleton`, *optional*): the pose wanted, in scene pixels; then nothing is placed.
            locked (sequence of `int`, *optional*): refine that skeleton except these joints; not refined, if not given.
            context (sequence of `Skeleton`, *optional*): the people of the scene; detected, if not given.
            where (`Where`): wishes for the place and the person; with a `skeleton` only the feet.
            seed, candidates, network: see `place`.
            actor_person (`int`, *optional*): see `find_actor`.
            generator (`str`): one of `GENERATORS`.
            color_strength (`float`, 0..1, *optional*): how far colours move towards the scene's.
            shadow (`float`, 0..1, *optional*): how dark the shadows on the ground are; 0 for none.
            passes (`bool`): also depth, normals and the colours before they were matched to the scene's.
            progress (*optional*): called when a stage begins.
            cancelled (*optional*): asked between stages.

        Raises:
            WalkOnError: see the stages.
        """
        _choose("generator", generator, GENERATORS)
        placement = network or self.placement
        _choose("network", placement, PLACEMENTS)
        clock = _Clock(STAGES, progress, cancelled)
        with clock.stage("detect"):
            who = self.find_actor(actor, actor_person)
            people = list(context) if context is not None else self.detect(scene.rgb)
        height, width = scene.rgb.shape[:2]
        where.check(width, height)
        proposed: list[Candidate] = []
        doubts: list[str] = []
        with clock.stage("place"):
            if skeleton is not None:
                check_pose(skeleton, who.skeleton)
                target = standing_at(skeleton, where.feet) if where.feet is not None else skeleton
            else:
                if not people:
                    raise NoContext(
                        "scene: no people were found in it, and placement goes by the people",
                        "Say where and how with --at X,Y and --pose skeleton.json, or use a scene with people",
                        "scene",
                    )
                proposed = self.place(
                    people, (width, height), candidates, seed, where, network, who.skeleton, scene.rgb
                )
                target = proposed[0].skeleton
                if proposed[0].warning:
                    doubts.append(proposed[0].warning)
                if proposed[0].score < _DOUBTFUL:
                    doubts.append(
                        "No place was found that suits both the scene and this photo of the actor; "
                        "a photo of the whole person, standing, or another seed may do better"
                    )
        with clock.stage("refine"):
            if skeleton is None or locked is not None:
                # A body that was fitted to the photo has the photo's own proportions.
                kept = BODY_JOINTS if skeleton is None and not where.posed else locked or ()
                target = self.refine(target, kept)
            if skeleton is None and generator != "msa":
                from models.transfer import with_carried_face

                target = with_carried_face(who.skeleton, target)
                doubts += turned_away(where, target)
        target = what_the_photo_shows(target, who.skeleton)
        doubts += lacking(who.skeleton, target) + self.reduced(generator)
        with clock.stage("matte"):
            matte = self.cut_out(who)
        with clock.stage("transfer"):
            person = self.transfer(who, matte, target, generator, passes)
        with clock.stage("finish"):
            from models.finish import colourless

            if colourless(actor.rgb) and not colourless(scene.rgb):
                doubts.append(
                    "The actor photo is black and white and the scene is not; the person stays grey"
                )
            layer = self.finish(person, scene.rgb, target, people, color_strength, shadow)
        return Insertion(
            layer=layer,
            passes=(*_passes(person, layer), _own_colors(person, layer)) if passes else (),
            skeleton=target,
            candidates=tuple(proposed),
            context=tuple(people),
            seed=seed,
            seconds=clock.seconds,
            weights=self.weights(generator, placement),
            warnings=(*who.warnings, *doubts),
        )

    # --- the wire ---------------------------------------------------------------------------------------

    def run(
        self,
        request: messages.Request,
        blobs: Sequence[NDArray[Any]],
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[messages.Answer, list[NDArray[Any]]]:
        """Answers one request of the wire: a message and its blobs. Arguments are as in shared.messages."""
        match request:
            case messages.Detect():
                clock = _Clock(["detect"], progress, cancelled)
                with clock.stage("detect"):
                    people = self.detect(_picture(blobs[0], "picture").rgb)
                return messages.Detected([person.to_openpose() for person in people]), []
            case messages.Place():
                clock = _Clock(["place"], progress, cancelled)
                with clock.stage("place"):
                    found = self.place(
                        _skeletons(request.context),
                        (request.width, request.height),
                        request.count,
                        request.seed,
                        request.where,
                        request.network,
                        None if request.actor is None else Skeleton.from_openpose(request.actor, "actor"),
                        _picture(blobs[0], "scene").rgb if blobs else None,
                    )
                return messages.Placed(_on_the_wire(found)), []
            case messages.Refine():
                clock = _Clock(["refine"], progress, cancelled)
                with clock.stage("refine"):
                    refined = self.refine(
                        Skeleton.from_openpose(request.skeleton, "skeleton"), request.locked
                    )
                return messages.Refined(refined.to_openpose()), []
            case messages.Transfer():
                return self._run_transfer(request, blobs, _Clock(_TRANSFER_STAGES, progress, cancelled))
            case messages.Analyse():
                return self._run_analyse(request, blobs, _Clock(_TRANSFER_STAGES, progress, cancelled))
            case messages.Preview():
                return self._run_preview(request)
            case messages.Insert():
                done = self.insert(
                    _picture(blobs[0], "scene"),
                    _picture(blobs[1], "actor"),
                    skeleton=None
                    if request.skeleton is None
                    else Skeleton.from_openpose(request.skeleton, "skeleton"),
                    locked=request.locked,
                    context=None if request.context is None else _skeletons(request.context),
                    where=request.where,
                    seed=request.seed,
                    candidates=request.candidates,
                    actor_person=request.actor_person,
                    generator=request.generator,
                    network=request.network,
                    color_strength=request.color_strength,
                    shadow=request.shadow,
                    passes=request.passes,
                    progress=progress,
                    cancelled=cancelled,
                )
                return done.report(), [done.layer.rgba, *done.passes]

    def _run_transfer(
        self, request: messages.Transfer, blobs: Sequence[NDArray[Any]], clock: _Clock
    ) -> tuple[messages.Answer, list[NDArray[Any]]]:
        from models import finish

        with clock.stage("detect"):
            who = self.find_actor(_picture(blobs[0], "actor"), request.actor_person)
            wanted = Skeleton.from_openpose(request.skeleton, "skeleton")
            check_pose(wanted, who.skeleton)
        with clock.stage("matte"):
            matte = self.cut_out(who)
        with clock.stage("transfer"):
            target = what_the_photo_shows(wanted, who.skeleton)
            person = self.transfer(who, matte, target, request.generator, request.passes)
            layer = finish.to_layer(person)
            passes = _passes(person, layer) if request.passes else ()
        answer = messages.Transferred(
            layer.x,
            layer.y,
            layer.scale,
            warnings=[
                *who.warnings,
                *left_out(who.skeleton, wanted),
                *lacking(who.skeleton, target),
                *self.reduced(request.generator),
            ],
            seconds=clock.seconds,
            versions=versions(),
            weights=self.weights(request.generator),
        )
        return answer, [layer.rgba, *passes]

    def _run_analyse(
        self, request: messages.Analyse, blobs: Sequence[NDArray[Any]], clock: _Clock
    ) -> tuple[messages.Answer, list[NDArray[Any]]]:
        from server.preview import analyse, small_matte

        with clock.stage("detect"):
            who = self.find_actor(_picture(blobs[0], "actor"), request.actor_person)
        with clock.stage("matte"):
            matte = self.cut_out(who)
        with clock.stage("transfer"):
            actor = analyse(self.motion, who.rgb, matte, who.skeleton)
        photo = messages.picture_hash(blobs[0])
        self.analysed.keep(photo, request.actor_person, actor)
        answer = messages.Analysed(photo, who.skeleton.to_openpose(), list(who.warnings))
        return answer, [small_matte(matte)]

    def _run_preview(self, request: messages.Preview) -> tuple[messages.Answer, list[NDArray[Any]]]:
        from server.preview import paint

        actor = self.analysed.get(request.actor, request.actor_person)
        wanted = Skeleton.from_openpose(request.skeleton, "skeleton")
        check_pose(wanted, actor.source)
        target = what_the_photo_shows(wanted, actor.source)
        answer, square = paint(self.motion, actor, target, request.size)
        return answer, [square]

    def warm_up(self, progress: Callable[[str], None] | None = None) -> None:
        """Runs every stage once, so that the first job is as fast as the rest.

        Args:
            progress (*optional*): called with the name of the stage that is warmed up.

        Raises:
            MissingWeights: a network that the default insert needs is not installed.
        """
        report = progress or (lambda stage: None)
        noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        person = upright((320.0, 60.0), 300.0)
        report("detect")
        self.pose.estimate(noise, person.box)
        self.detect(noise)
        report("place")
        target = self.place([person], (640, 480), 1, 0)[0].skeleton
        report("refine")
        target = self.refine(target)
        report("matte")
        actor = Actor(noise, person, (), None, (), True)
        matte = self.cut_out(actor)
        report("transfer")
        painted = self.transfer(actor, np.maximum(matte, 0.5), target)
        report("finish")
        self.finish(painted, noise, target, [person])
        self.weights(GENERATORS[0], self.placement)


@functools.cache
def versions() -> dict[str, str]:
    """Programs that took part and their versions."""
    import cv2
    import onnxruntime
    import torch

    return {
        "walkon": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
    }


def _picture(blob: NDArray[Any], subject: str) -> Picture:
    """A picture of the wire. Its size was held against the server's own limit when it came in."""
    return picture_from_array(blob, subject, math.inf)


def _choose(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise BadInput(f"{field}: there is no {name!r}", f"Choose one of {', '.join(known)}", field)


def _skeletons(people: Sequence[list[float]]) -> list[Skeleton]:
    return [Skeleton.from_openpose(values, f"context: person {i}") for i, values in enumerate(people)]


def _on_the_wire(candidates: Sequence[Candidate]) -> list[messages.Candidate]:
    return [messages.Candidate(c.skeleton.to_openpose(), c.score, c.warning) for c in candidates]


def _passes(person: Person, layer: Layer) -> tuple[NDArray[Any], ...]:
    """Depth `(h, w)` float16 and normals `(h, w, 3)` uint8 of the layer, as messages.Transferred has them."""
    from models.finish import overlap

    assert person.depth is not None
    assert person.normals is not None
    # The layer may be larger: blurred, or with a shadow.
    size = layer.rgba.shape[:2]
    into, out_of = overlap(size, (layer.x - person.x, layer.y - person.y), person.depth.shape)
    depth, normals = np.zeros(size, np.float16), np.full((*size, 3), 127.5)
    depth[into] = person.depth[out_of]
    normals[into] += 127.5 * np.clip(person.normals[out_of], -1, 1)
    return depth, np.rint(normals).astype(np.uint8)


def _own_colors(person: Person, layer: Layer) -> NDArray[np.uint8]:
    """`(h, w, 3)` of the layer before its colours were matched to the scene's; the layer's own beyond the person."""
    from models.finish import overlap

    rgb = layer.rgba[..., :3].copy()
    into, out_of = overlap(rgb.shape[:2], (layer.x - person.x, layer.y - person.y), person.rgba.shape[:2])
    painted = person.rgba[out_of]
    alpha = painted[..., 3:]
    # Where the person is faint the layer is mostly shadow or blur, and a quotient mostly noise.
    straight = np.clip(painted[..., :3] / np.maximum(alpha, 1e-4), 0.0, 1.0) * 255.0
    rgb[into] = np.where(alpha > 0.05, np.rint(straight), rgb[into]).astype(np.uint8)
    return rgb
