# SPDX-License-Identifier: Apache-2.0
"""From a transferred person to a layer: the scene's colours and sharpness, order in depth, 8 bits.

Everything here is arithmetic on arrays; no network is involved. The paper inserts the generated person as it
is, at the place found in stage 1 (section I), so nothing below has a counterpart there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import anatomy
from models.images import LUMA, box_around
from models.judgement import SOLE, figures
from shared.errors import BadInput
from shared.skeleton import L_ANKLE, R_ANKLE, Skeleton

if TYPE_CHECKING:
    from models.person import Person

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

DEFAULT_STRENGTH = 1.0
"""All of the limited correction below; judged on real pairs of actors and scenes."""


# --- colour -------------------------------------------------------------------------------------------------


def linear(srgb: Floats) -> Floats:
    """Light, 0..1, of sRGB-encoded values 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _encoded(linear: Floats) -> Floats:
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


# Björn Ottosson, "A perceptual color space for image processing" (2020).
_RGB_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]], np.float32,
)  # fmt: skip
_LMS_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]], np.float32,
)  # fmt: skip
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB)
_LMS_TO_RGB = np.linalg.inv(_RGB_TO_LMS)


def to_oklab(srgb: Floats) -> Floats:
    """Oklab of sRGB values.

    Args:
        srgb (`(..., 3)` float32 array): sRGB-encoded, 0..1.

    Returns:
        `(..., 3)` float32 array: lightness 0..1, a and b about -0.3..0.3.
    """
    return (np.cbrt(linear(srgb) @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T).astype(np.float32)


def from_oklab(lab: Floats) -> Floats:
    """sRGB values 0..1 of Oklab, clipped to the gamut. Inverse of `to_oklab`."""
    return _encoded((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T)


_SAMPLES = 20_000  # pixels that statistics are taken from: enough for a percentile, independent of resolution
_NEUTRAL = 0.05  # chroma below which a surface counts as near-neutral; skin lies above it


@dataclass(frozen=True)
class _Colours:
    """What is compared between the person and the scene, in Oklab."""

    black: float  # lightness of the darkest surfaces
    white: float  # and of the lightest
    cast: Floats  # (2,) mean a/L, b/L of near-neutral surfaces
    neutral: float  # share of near-neutral surfaces, 0..1
    chroma: float  # of the most saturated tenth

    @classmethod
    def of(cls, lab: Floats) -> _Colours:
        lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
        # Black and clipped pixels have no hue.
        near = (chroma < _NEUTRAL) & (lightness > 0.2) & (lightness < 0.97)
        cast = (lab[near, 1:] / lab[near, :1]).mean(0) if near.any() else np.zeros(2, np.float32)
        black, white = np.percentile(lightness, (3, 97))
        return cls(float(black), float(white), cast, float(near.mean()), float(np.percentile(chroma, 90)))


def _sample(rgb: Floats | Bytes, within: NDArray[np.bool_] | None = None) -> Floats:
    """Some `_SAMPLES` Oklab pixels, evenly spread over all of a picture or those `within` a mask.

    Few are copied: scenes may have a hundred megapixels.
    """
    chosen = range(rgb.shape[0] * rgb.shape[1]) if within is None else np.flatnonzero(within)
    some = rgb.reshape(-1, 3)[np.asarray(chosen[:: max(1, len(chosen) // _SAMPLES)])].astype(np.float32)
    return to_oklab(some / 255 if rgb.dtype == np.uint8 else some)


def _monochrome(lab: Floats) -> tuple[float, Floats, Floats]:
    """How far the scene has a single hue per lightness (a grey or toned picture), 0..1, and that tone.

    Returns:
        the degree; `(3, 2)` coefficients of a, b over 1, L, L²: zero for a grey picture; and the lowest and the
        highest L for which they hold: a plain wall tells nothing of how it would look dark.
    """
    lightness = lab[:, 0].astype(np.float64)
    powers = np.stack([np.ones_like(lightness), lightness, lightness**2], 1)
    tone = np.linalg.lstsq(powers, lab[:, 1:].astype(np.float64), rcond=None)[0]
    rest = np.linalg.norm(lab[:, 1:] - powers @ tone, axis=1)
    # 99.5 %: one small red coat in the snow makes a scene coloured. Coded grey pictures stay below 0.01.
    degree = float(np.clip((0.03 - np.percentile(rest, 99.5)) / 0.02, 0.0, 1.0))
    return degree, tone, np.percentile(lightness, (0.5, 99.5))


def colourless(rgb: Bytes) -> bool:
    """Whether a picture `(H, W, 3)` uint8 is black and white, or toned in a single hue."""
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / _SAMPLES)))
    some = rgb[::step, ::step].reshape(-1, 3)
    return _monochrome(to_oklab(some.astype(np.float32) / 255))[0] > 0.5


def harmonise(
    person: Person,
    scene: Bytes,
    strength: float = DEFAULT_STRENGTH,
    mattes: Sequence[Floats] = (),
) -> Person:
    """The person with exposure, black point, colour cast, saturation and sharpness moved towards the scene's.

    The scene is judged by its people where their mattes are given, else by the surroundings of the person,
    and by the whole of it for the colour of its light. Each correction has a limit, so that skin stays skin and
    a white shirt white: exposure -1.5 to +0.8 stops, black point -0.08 to +0.06 of lightness, cast 0.04,
    saturation 0.75 to 1.15, blur 2 pixels. Only a grey or toned scene is followed without limit: there the
    person takes the scene's tone.

    Args:
        person (`Person`): premultiplied, in scene pixels.
        scene (`(H, W, 3)` uint8 array): sRGB.
        strength (`float`, 0..1, *optional*): 0 returns the person unchanged, 1 corrects fully.
        mattes (sequence of `(H, W)` float32 arrays, *optional*): the people of the scene.

    Raises:
        BadInput: strength outside 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise BadInput(
            f"strength: {strength} is not between 0 and 1", "Give a number from 0 to 1", "strength"
        )
    alpha = person.rgba[..., 3:]
    solid = alpha[..., 0] > 0.5
    if strength == 0.0 or not solid.any():
        return person
    straight = np.clip(person.rgba[..., :3] / np.maximum(alpha, 1e-4), 0.0, 1.0)
    own = _Colours.of(_sample(straight, solid))
    where = _reference(person, scene.shape[:2], mattes)
    theirs = _Colours.of(_sample(scene, where))
    everything = _sample(scene)
    monochrome, tone, known = _monochrome(everything)
    surroundings = _Colours.of(everything)

    lab = to_oklab(straight)
    # Oklab is a cube root of light: a factor on (L, a, b) is an exposure, 2 ** (stops / 3). Bright or dark clothes
    # mislead, so the people's white is tempered with the whole scene's and followed half of the way.
    white = np.sqrt(max(theirs.white, 0.05) * max(surroundings.white, 0.05))
    exposure = np.clip((white / max(own.white, 0.05)) ** 0.5, 0.7, 1.2)
    lab *= exposure
    black = 0.7 * np.clip(theirs.black - own.black * exposure, -0.12, 0.08)
    lab[..., 0] += black * (1 - lab[..., 0])  # haze lifts the shadows and leaves the lights

    # The light's colour shows in what should be grey, in the whole scene; few grey surfaces tell little.
    trust = min(1.0, own.neutral / 0.15) * min(1.0, surroundings.neutral / 0.15)
    cast = 0.6 * trust * (surroundings.cast - own.cast)
    cast *= min(1.0, 0.04 / max(float(np.hypot(*cast)), 1e-6))
    chroma = max(theirs.chroma, surroundings.chroma)
    saturation = np.clip((chroma / max(own.chroma, 0.02)) ** 0.5, 0.75, 1.15)
    coloured = lab[..., 1:] * saturation + lab[..., :1] * cast
    lightness = np.clip(lab[..., :1], *known)
    toned = np.concatenate([np.ones_like(lightness), lightness, lightness**2], -1) @ tone
    lab[..., 1:] = (1 - monochrome) * coloured + monochrome * toned

    corrected = from_oklab(lab)
    rgb = straight + strength * (corrected - straight)
    result = replace(person, rgba=np.concatenate([rgb * alpha, alpha], -1).astype(np.float32))
    there = box_around(where, 8)  # what the gradients look at
    near = scene[there].astype(np.float32) / 255
    blur = np.sqrt(max(_softness(near, where[there]) ** 2 - _softness(straight, _eroded(solid)) ** 2, 0.0))
    return _blurred(result, strength * min(float(blur), 2.0))


def _reference(person: Person, size: tuple[int, int], mattes: Sequence[Floats]) -> NDArray[np.bool_]:
    """Pixels of the scene that the person is compared with: its people, else the person's surroundings."""
    if mattes:
        people = np.max(np.stack(mattes), axis=0) > 0.5
        if people.sum() >= 200:  # fewer pixels are no statistics
            return people
    height, width = person.rgba.shape[:2]
    around = np.zeros(size, np.bool_)
    top, left = person.y - height // 2, person.x - width // 2
    around[max(top, 0) : max(top + 2 * height, 0), max(left, 0) : max(left + 2 * width, 0)] = True
    return around if around.sum() >= 200 else np.ones(size, np.bool_)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0


def _softness(rgb: Floats, where: NDArray[np.bool_]) -> float:
    """Standard deviation in pixels of the blur of the sharpest edges.

    The ratio of an edge's gradient to its gradient after one more blur tells its width (Zhuo and Sim,
    "Defocus map estimation from a single image", Pattern Recognition 2011).
    """
    grey = rgb @ LUMA

    def gradient(image: Floats) -> Floats:
        return np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))

    before, after = gradient(grey), gradient(_gaussian(grey, 1.0))
    inside = before[where]
    if inside.size < 200:
        return 0.0
    edges = where & (before >= max(float(np.percentile(inside, 97)), 0.1))
    if edges.sum() < 20:
        return 0.0
    ratio = float(np.median(before[edges] / np.maximum(after[edges], 1e-6)))
    return float(np.sqrt(1.0 / max(ratio**2 - 1.0, 0.02)))


def _gaussian(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _blurred(person: Person, sigma: float) -> Person:
    if sigma < 0.3:  # less is not seen
        return person
    margin = int(np.ceil(3 * sigma))
    padded = np.pad(person.rgba, ((margin, margin), (margin, margin), (0, 0)))
    return replace(person, rgba=_gaussian(padded, sigma), x=person.x - margin, y=person.y - margin)


# --- order in depth -----------------------------------------------------------------------------------------


def ground(skeleton: Skeleton, height: float) -> float:
    """The y pixel coordinate where the person touches the ground, as placement judges it (models/judgement.py).

    Legs that are not visible are added in a standing person's proportions. Who then ends near the frame's bottom
    or below is cut by it, and stands there or nearer.

    Args:
        skeleton (`Skeleton`): in scene pixels.
        height (`float`): of the scene in pixels.

    Raises:
        BadInput: no joint is visible.
    """
    box = skeleton.box
    person = np.concatenate([skeleton.xy, skeleton.visible[:, None]], axis=1)[None]
    body = anatomy.installed()
    stature = float(body.stature(person)[0])
    if not np.isfinite(stature):  # only a face: its extent tells the size, and where the rest would be
        template = np.array(body.template)[skeleton.visible]
        extent = float(np.linalg.norm(np.ptp(template, axis=0)))
        stature = float(np.linalg.norm(box[2:] - box[:2])) / max(extent, 1e-3)
        ankle = max(body.template[R_ANKLE][1], body.template[L_ANKLE][1])
        feet = float(box[3]) + (ankle - float(template[:, 1].max()) + SOLE) * stature
    else:
        feet = float(figures(person, body).ground[0, 1])
    feet_seen = skeleton.visible[[R_ANKLE, L_ANKLE]].any()
    # Proportions of unseen legs are known to about a seventh.
    cut = not feet_seen and feet > height - 0.15 * stature
    return max(feet, height + SOLE * stature) if cut else feet


def nearer(other: Skeleton, target: Skeleton, height: float) -> bool:
    """Whether `other` stands in front of `target`: it touches the ground lower in the picture, not just as low."""
    return ground(other, height) > ground(target, height)


def peers(target: Skeleton, context: Sequence[Skeleton], count: int) -> list[int]:
    """Indices of the people nearest in depth to the new one, by their size: they share its light, haze and focus.

    Args:
        target (`Skeleton`): the new person's.
        context (sequence of `Skeleton`): the scene's people.
        count (`int`): how many at most.
    """
    people = np.array([np.c_[p.xy, p.visible] for p in (target, *context)])
    stature = np.log(np.maximum(anatomy.installed().stature(people), 1e-3))
    away = np.abs(stature[1:] - stature[0])  # NaN, of people who show no bone, is sorted last
    return [int(i) for i in np.argsort(away, kind="stable")[:count]]


def occlusion(
    person: Person, target: Skeleton, context: Sequence[Skeleton], mattes: Sequence[Floats]
) -> Floats:
    """How much of the person is hidden by nearer people, per pixel of the person.

    Args:
        person (`Person`): in scene pixels.
        target (`Skeleton`): the new person's.
        context (sequence of `Skeleton`): the scene's people.
        mattes (sequence of `(H, W)` float32 arrays): theirs, in the same order.

    Returns:
        float32 array of the person's height and width: 0 where nothing is in front, also outside the frame.
    """
    hidden = np.zeros(person.rgba.shape[:2], np.float32)
    for skeleton, matte in zip(context, mattes, strict=True):
        if nearer(skeleton, target, matte.shape[0]):
            into, out_of = overlap(hidden.shape, (person.x, person.y), matte.shape)
            hidden[into] = np.maximum(hidden[into], matte[out_of])
    return hidden


def occlude(person: Person, hidden: Floats) -> Person:
    """The person without what `hidden` (its height and width, 0..1) covers."""
    return replace(person, rgba=(person.rgba * (1 - hidden)[..., None]).astype(np.float32))


# --- layer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """The inserted person as an artist keeps it.

    Args:
        rgba (`(h, w, 4)` uint8 array): sRGB with straight alpha, cropped to where alpha is above 0; it may
            reach beyond the scene's frame.
        x (`int`): scene pixel column of the layer's left edge, may be negative.
        y (`int`): scene pixel row of its top edge, may be negative.
        scale (`float`, *optional*, defaults to 1): scene pixels per layer pixel.
        provenance (mapping, *optional*): versions, hashes of weights, seed, parameters.
    """

    rgba: Bytes
    x: int
    y: int
    scale: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)


def to_layer(person: Person, provenance: Mapping[str, Any] | None = None) -> Layer:
    """The person in 8 bits with straight alpha, cropped.

    Raises:
        BadInput: nothing of the person is visible.
    """
    rgba = straight_bytes(person.rgba)
    rows, columns = np.any(rgba[..., 3], axis=1).nonzero()[0], np.any(rgba[..., 3], axis=0).nonzero()[0]
    if not rgba[..., :3].any():  # what is black is a shadow
        raise BadInput(
            "layer: nothing of the person is visible (nearer people hide all of it)",
            "Choose another candidate",
            "layer",
        )
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cropped = np.ascontiguousarray(rgba[top:bottom, left:right])
    return Layer(cropped, person.x + int(left), person.y + int(top), provenance=dict(provenance or {}))


def straight_bytes(premultiplied: Floats) -> Bytes:
    """8 bits with straight alpha, from premultiplied `(h, w, 4)` in 0..1; colours are 0 where alpha is."""
    alpha = np.round(np.clip(premultiplied[..., 3:], 0, 1) * 255)
    colour = premultiplied[..., :3] / np.maximum(premultiplied[..., 3:], 1e-6)
    return np.concatenate([np.round(np.clip(colour, 0, 1) * 255) * (alpha > 0), alpha], -1).astype(np.uint8)


def composite(scene: Bytes, layer: Layer) -> Bytes:
    """The scene with the layer over it, in 8-bit sRGB values: `(a * layer + (255 - a) * scene + 127) // 255`.

    Integer arithmetic, so that everyone gets the same bytes. Where alpha is 0 the scene's bytes stay as they
    are; what lies outside the frame is left out. A layer whose scale is not 1 is resampled first (`resampled`).

    Args:
        scene (`(H, W, 3)` uint8 array): sRGB; it isn't changed.
    """
    layer = resampled(layer)
    result = scene.copy()
    out_of, into = overlap(layer.rgba.shape[:2], (layer.x, layer.y), scene.shape[:2])
    part = layer.rgba[out_of].astype(np.uint32)
    alpha = part[..., 3:]
    result[into] = ((alpha * part[..., :3] + (255 - alpha) * result[into] + 127) // 255).astype(np.uint8)
    return result


def resampled(layer: Layer) -> Layer:
    """The same layer at scale 1: premultiplied, then averaged over areas (smaller) or bicubic (larger)."""
    if layer.scale == 1.0:
        return layer
    height, width = layer.rgba.shape[:2]
    size = (max(1, round(width * layer.scale)), max(1, round(height * layer.scale)))
    values = layer.rgba.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]
    method = cv2.INTER_AREA if layer.scale < 1 else cv2.INTER_CUBIC
    return replace(
        layer, rgba=straight_bytes(np.asarray(cv2.resize(values, size, interpolation=method))), scale=1.0
    )


def flipped(layer: Layer) -> Layer:
    """The layer mirrored left to right in its place."""
    return replace(layer, rgba=np.ascontiguousarray(layer.rgba[:, ::-1]))


def overlap(
    size: tuple[int, ...], at: tuple[int, int], frame: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of what a rectangle and a frame have in common, in the rectangle's pixels and in the frame's.

    Args:
        size (rows, columns): of the rectangle.
        at (column, row): of the rectangle's top-left pixel in the frame.
        frame (rows, columns): of the frame.
    """
    spans = []
    for extent, start, limit in ((size[0], at[1], frame[0]), (size[1], at[0], frame[1])):
        first, last = max(start, 0), min(start + extent, limit)
        last = max(first, last)
        spans.append((slice(first - start, last - start), slice(first, last)))
    (inner_rows, outer_rows), (inner_columns, outer_columns) = spans
    return (inner_rows, inner_columns), (outer_rows, outer_columns)
