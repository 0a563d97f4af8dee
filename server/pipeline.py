# SPDX-License-Identifier: Apache-2.0
"""One insert, stage by stage: detect, place, refine, matte, transfer, finish.

Each stage is a method over typed values that can be called alone; `run` is the same for requests of the wire.
Networks are loaded when first used, and once.
"""

from __future__ import annotations

import functools
import math
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
from shared import __version__, messages
from shared.errors import BadInput, Cancelled, NoActor, NoContext, PartialActor
from shared.skeleton import (
    L_ANKLE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    NUM_JOINTS,
    R_ANKLE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    Skeleton,
)

if TYPE_CHECKING:
    from models.finish import Layer
    from models.matte import MatteEstimator
    from models.motion import MotionTransfer, Person
    from models.msa import MsaTransfer
    from models.placement import Candidate, Placement
    from models.pose import PoseEstimator
    from models.refinenet import Refiner

STAGES = ("detect", "place", "refine", "matte", "transfer", "finish")
"""In the order in which `insert` runs them."""

GENERATORS = ("motion", "limbs", "msa")
PLACEMENTS = ("flow", "wgan")

_COLOUR_PEOPLE = 3  # the colours of the scene's largest people are enough to go by

_DOUBTFUL = 0.2  # score of a best candidate below which inserts on real photos are rarely believable

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
    """

    rgb: NDArray[np.uint8]
    skeleton: Skeleton
    others: tuple[Skeleton, ...]
    alpha: NDArray[np.float32] | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Insertion:
    """Result of `Pipeline.insert`: the layer and everything that led to it."""

    layer: Layer
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
        threads (`int`, *optional*, defaults to 2): threads for the networks.
        placement (`str`, *optional*, defaults to `"flow"`): default placement network, one of `PLACEMENTS`.
    """

    def __init__(self, threads: int = 2, placement: str = PLACEMENTS[0]) -> None:
        self.threads = threads
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
    def refiner(self) -> Refiner:
        """The refinement network."""
        from models.refinenet import Refiner

        self._limit_torch()
        return Refiner()

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
        from models.motion import MotionTransfer

        return MotionTransfer(name)

    def _limit_torch(self) -> None:
        import torch

        torch.set_num_threads(self.threads)

    def weights(self, placement: str, generator: str) -> dict[str, str]:
        """SHA-256 of the weights that an insert with these networks uses, by `stage/name`."""
        used = [("pose", "movenet-multipose"), ("pose", "movenet-thunder"), ("matte", "blazepose-full")]
        used += [("placement", placement), ("refine", "refinenet")]
        if generator != "limbs":
            used.append(("transfer", generator))
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
        missing = _missing_pairs(skeleton)
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
        others = tuple(p for i, p in enumerate(people) if i != index)
        return Actor(photo.rgb, skeleton, others, photo.alpha, tuple(warnings))

    def place(
        self,
        context: Sequence[Skeleton],
        size: tuple[int, int],
        count: int = 8,
        seed: int = 0,
        at: tuple[float, float] | None = None,
        network: str | None = None,
        actor: Skeleton | None = None,
    ) -> list[Candidate]:
        """Candidates for one more person, best first.

        Args:
            context (sequence of `Skeleton`): the people of the scene.
            size (`(width, height)`): of the scene, in pixels.
            count (`int`): how many.
            seed (`int`): same seed, same candidates.
            at (`(x, y)`, *optional*): where the feet go, in pixels of the scene.
            network (`str`, *optional*): one of `PLACEMENTS`.
            actor (`Skeleton`, *optional*): as seen in the photo; poses that suit the photo then come first, and
                the score says both how well the person belongs and how well the photo can show it.

        Raises:
            NoContext: the context is empty.
            NoCandidate: nothing passes the checks.
        """
        placer = self.placer(network or self.placement)
        if actor is None:
            return placer.place(context, size, count, seed, at)
        from models.placement import MAX_COUNT, Candidate
        from models.suitability import suitability

        found = placer.place(context, size, MAX_COUNT, seed, at)
        suited = [Candidate(c.skeleton, c.score * suitability(actor, c.skeleton, size)) for c in found]
        return sorted(suited, key=lambda candidate: -candidate.score)[:count]

    def refine(self, skeleton: Skeleton) -> Skeleton:
        """The skeleton with cleaner facial joints."""
        return self.refiner.refine(skeleton)

    def cut_out(self, actor: Actor) -> NDArray[np.float32]:
        """Matte `(H, W)` of the actor; a photo with an alpha channel brings its own."""
        found = self.matting.matte(actor.rgb, actor.skeleton, actor.others)
        if actor.alpha is None:
            return found
        # The photo's own alpha is exact, but may hold several people.
        return actor.alpha if not actor.others else np.minimum(actor.alpha, found)

    def transfer(
        self, actor: Actor, matte: NDArray[np.float32], target: Skeleton, generator: str = GENERATORS[0]
    ) -> Person:
        """The actor in the pose of `target`, in its pixels."""
        return self.generator(generator).transfer(actor.rgb, matte, actor.skeleton, target)

    def finish(
        self,
        person: Person,
        scene: NDArray[np.uint8],
        target: Skeleton,
        context: Sequence[Skeleton],
        color_strength: float | None = None,
    ) -> Layer:
        """The person as a layer: in the scene's colours, behind the people who stand nearer."""
        from models import finish

        height, width = person.rgba.shape[:2]
        strength = finish.DEFAULT_STRENGTH if color_strength is None else color_strength
        mattes: dict[int, NDArray[np.float32]] = {}
        in_front = []
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
            if front or (index < _COLOUR_PEOPLE and strength > 0):
                mattes[index] = self.matting.matte(
                    scene, other, [p for i, p in enumerate(context) if i != index]
                )
            if front:
                in_front.append(index)
        person = finish.harmonise(
            person,
            scene,
            strength,
            [mattes[i] for i in range(min(_COLOUR_PEOPLE, len(context))) if i in mattes],
        )
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
        context: Sequence[Skeleton] | None = None,
        at: tuple[float, float] | None = None,
        seed: int = 0,
        candidates: int = 8,
        actor_person: int | None = None,
        generator: str = GENERATORS[0],
        network: str | None = None,
        color_strength: float | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Insertion:
        """A new person for the scene.

        Args:
            scene (`Picture`): the picture to insert into.
            actor (`Picture`): a photo of the person.
            skeleton (`Skeleton`, *optional*): the pose wanted, in scene pixels; then nothing is placed or refined.
            context (sequence of `Skeleton`, *optional*): the people of the scene; detected, if not given.
            at (`(x, y)`, *optional*): where the feet go, in scene pixels.
            seed, candidates, network: see `place`.
            actor_person (`int`, *optional*): see `find_actor`.
            generator (`str`): one of `GENERATORS`.
            color_strength (`float`, 0..1, *optional*): how far colours move towards the scene's.
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
        if at is not None and not (0 <= at[0] <= width and 0 <= at[1] <= height):
            raise BadInput(
                f"at: {at[0]:g},{at[1]:g} lies outside the scene of {width} x {height} pixels",
                "Give the pixel of the scene where the feet go",
                "at",
            )
        proposed: list[Candidate] = []
        doubts: list[str] = []
        with clock.stage("place"):
            if skeleton is not None:
                target = _standing_at(skeleton, at) if at is not None else skeleton
            else:
                if not people:
                    raise NoContext(
                        "scene: no people were found in it, and placement goes by the people",
                        "Say where and how with --at X,Y and --pose skeleton.json, or use a scene with people",
                        "scene",
                    )
                proposed = self.place(people, (width, height), candidates, seed, at, network, who.skeleton)
                target = proposed[0].skeleton
                if proposed[0].score < _DOUBTFUL:
                    doubts.append(
                        "No place was found that suits both the scene and this photo of the actor; "
                        "a photo of the whole person, standing, or another seed may do better"
                    )
        with clock.stage("refine"):
            if skeleton is None:
                target = self.refine(target)
                if generator != "msa":
                    from models.motion import with_carried_face

                    target = with_carried_face(who.skeleton, target)
        target = _what_the_photo_shows(target, who.skeleton)
        doubts += _lacking(who.skeleton, target)
        with clock.stage("matte"):
            matte = self.cut_out(who)
        with clock.stage("transfer"):
            person = self.transfer(who, matte, target, generator)
        with clock.stage("finish"):
            layer = self.finish(person, scene.rgb, target, people, color_strength)
        return Insertion(
            layer=layer,
            skeleton=target,
            candidates=tuple(proposed),
            context=tuple(people),
            seed=seed,
            seconds=clock.seconds,
            weights=self.weights(placement, generator),
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
                        request.at,
                        request.network,
                        None if request.actor is None else Skeleton.from_openpose(request.actor, "actor"),
                    )
                return messages.Placed(_on_the_wire(found)), []
            case messages.Refine():
                clock = _Clock(["refine"], progress, cancelled)
                with clock.stage("refine"):
                    refined = self.refine(Skeleton.from_openpose(request.skeleton, "skeleton"))
                return messages.Refined(refined.to_openpose()), []
            case messages.Transfer():
                return self._run_transfer(request, blobs, _Clock(STAGES, progress, cancelled))
            case messages.Insert():
                done = self.insert(
                    _picture(blobs[0], "scene"),
                    _picture(blobs[1], "actor"),
                    skeleton=None
                    if request.skeleton is None
                    else Skeleton.from_openpose(request.skeleton, "skeleton"),
                    context=None if request.context is None else _skeletons(request.context),
                    at=request.at,
                    seed=request.seed,
                    candidates=request.candidates,
                    actor_person=request.actor_person,
                    generator=request.generator,
                    network=request.network,
                    color_strength=request.color_strength,
                    progress=progress,
                    cancelled=cancelled,
                )
                return done.report(), [done.layer.rgba]

    def _run_transfer(
        self, request: messages.Transfer, blobs: Sequence[NDArray[Any]], clock: _Clock
    ) -> tuple[messages.Answer, list[NDArray[Any]]]:
        from models import finish

        clock.stages = ["detect", "matte", "transfer"]
        with clock.stage("detect"):
            who = self.find_actor(_picture(blobs[0], "actor"), request.actor_person)
        with clock.stage("matte"):
            matte = self.cut_out(who)
        with clock.stage("transfer"):
            target = _what_the_photo_shows(Skeleton.from_openpose(request.skeleton, "skeleton"), who.skeleton)
            layer = finish.to_layer(self.transfer(who, matte, target, request.generator))
        warnings = [*who.warnings, *_lacking(who.skeleton, target)]
        return messages.Transferred(layer.x, layer.y, layer.scale, warnings), [layer.rgba]

    def warm_up(self, progress: Callable[[str], None] | None = None) -> None:
        """Runs every stage once, so that the first job is as fast as the rest.

        Args:
            progress (*optional*): called with the name of the stage that is warmed up.

        Raises:
            MissingWeights: a network that the default insert needs is not installed.
        """
        report = progress or (lambda stage: None)
        noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        person = _upright((320.0, 60.0), 300.0)
        report("detect")
        self.pose.estimate(noise, person.box)
        self.detect(noise)
        report("place")
        target = self.place([person], (640, 480), 1, 0)[0].skeleton
        report("refine")
        target = self.refine(target)
        report("matte")
        actor = Actor(noise, person, (), None, ())
        matte = self.cut_out(actor)
        report("transfer")
        painted = self.transfer(actor, np.maximum(matte, 0.5), target)
        report("finish")
        self.finish(painted, noise, target, [person])
        self.weights(self.placement, GENERATORS[0])


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
    return [messages.Candidate(c.skeleton.to_openpose(), c.score) for c in candidates]


_PAIRS = {
    "shoulders": (R_SHOULDER, L_SHOULDER),
    "hips": (R_HIP, L_HIP),
    "knees": (R_KNEE, L_KNEE),
    "ankles": (R_ANKLE, L_ANKLE),
}


def _missing_pairs(skeleton: Skeleton) -> list[str]:
    """Names of the pairs of joints of which neither side is visible, from the top down."""
    return [name for name, pair in _PAIRS.items() if not skeleton.visible[list(pair)].any()]


def _what_the_photo_shows(target: Skeleton, source: Skeleton) -> Skeleton:
    """The target without the leg joints that the photo shows of neither leg: they can't be painted."""
    visible = target.visible.copy()
    for name in _missing_pairs(source):
        visible[list(_PAIRS[name])] = False
    if not visible[list(_PAIRS["knees"])].any():
        visible[list(_PAIRS["ankles"])] = False
    return Skeleton(target.xy, visible, target.score)


def _lacking(source: Skeleton, target: Skeleton) -> list[str]:
    """Warnings about parts that the pose shows and the photo does not, beyond what `find_actor` says."""
    from models.motion import missing_parts

    return [
        f"The pose shows the {part}, and the actor photo does not; that part is left out or made up"
        for part in missing_parts(source, target)
    ]


def _standing_at(skeleton: Skeleton, at: tuple[float, float]) -> Skeleton:
    """The skeleton moved so that the middle of its feet (or its lowest point) is at that pixel."""
    ankles = [j for j in (R_ANKLE, L_ANKLE) if skeleton.visible[j]]
    x = float(skeleton.xy[ankles, 0].mean()) if ankles else float(skeleton.xy[skeleton.visible, 0].mean())
    return skeleton.transformed(1.0, (at[0] - x, at[1] - float(skeleton.box[3])))


def _upright(top: tuple[float, float], height: float) -> Skeleton:
    """A person standing straight, seen from the front: the warm-up's target."""
    # x and y of the joints in units of the height, about the nose.
    pose = [
        (0.0, 0.0), (0.0, 0.11),
        (-0.12, 0.11), (-0.15, 0.30), (-0.16, 0.47), (0.12, 0.11), (0.15, 0.30), (0.16, 0.47),
        (-0.07, 0.45), (-0.07, 0.72), (-0.07, 1.0), (0.07, 0.45), (0.07, 0.72), (0.07, 1.0),
        (-0.02, -0.02), (0.02, -0.02), (-0.05, -0.01), (0.05, -0.01),
    ]  # fmt: skip
    return Skeleton(np.array(pose) * height + np.array(top), np.ones(NUM_JOINTS, bool))
