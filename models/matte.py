# SPDX-License-Identifier: Apache-2.0
"""Cutting one person out of a picture: BlazePose's mask, kept from the neighbours, its edges refined at full size.

BlazePose-full (Google, Apache-2.0) runs in onnxruntime from models/weights/matte/. It sees a square turned so that
the person is upright, and gives a mask of that one person at 256 x 256. Colours that are rather the person's, or what
is around it, move its edge. What is unsure at that size, a band along the edge, is then decided at the photo's own with
a guided filter (He et al., "Guided Image Filtering", PAMI 2013).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colours import bins_of, likelier
from models.pose import open_onnx
from shared.skeleton import L_HIP, L_SHOULDER, LIMBS, NECK, R_HIP, R_SHOULDER, Skeleton

if TYPE_CHECKING:
    import onnxruntime

_SIZE = 256
_MARGINS = ((1.25, 1.45), (1.8, 2.6))
"""Half the square over the distance from the hips to the farthest joint, for two looks; the second two where the
first show nobody: somebody who is cut off by the picture's edge reaches far beyond the joints that are seen."""
_PRESENCE = 0.5
"""Where BlazePose's own belief that its square shows a person is lower, the next margins are tried."""
_HIPS_BELOW = 1.4
"""Hips that are not seen lie about so many shoulder widths below the shoulders."""
_SURE = 0.5
_WINDOW = 96
"""Side, in pixels of the mask, of the windows in which the person's colours are told from those around."""
_NEAR, _TRUST = 16.0, 0.7
"""How far from its edge, in pixels, colours move the mask, and how much they count against it."""
_BONE, _BONE_REACH = 6.0, 5.0
"""Logits by which a person stays on its bones, as much as colours say at most, and how many pixels from them."""
_FEW = 60
"""Pixels that tell no colours."""
_BAND = 2.0
"""Half the width, in pixels of the mask, of the band along its edge that the photo's colours decide."""
_EPSILON = 1e-2
"""The guided filter's: colour variance, of 0..1, below which a window counts as flat. Much less and the clothes'
own patterns pull the edge inwards; measured on rendered people, as is the steepness."""
_STEEPNESS = 2.0
"""The guided filter leaves edges softer than hair and cloth are."""
_COARSE_RADIUS = 8
"""The guided filter's coefficients are computed on a grid on which its radius is at least so many pixels, and applied
at full size: they are smooth, so nothing is lost (He & Sun, "Fast Guided Filter", 2015)."""
_TILE = 1024
"""Side, in pixels, of the squares that the filter works through."""


class MatteEstimator:
    """Mattes of single people.

    Args:
        threads (`int`, *optional*, defaults to 2): threads of onnxruntime.
    """

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    def matte(
        self, rgb: NDArray[np.uint8], skeleton: Skeleton, others: Sequence[Skeleton] = ()
    ) -> NDArray[np.float32]:
        """Coverage of one person.

        Args:
            rgb (`(H, W, 3)` uint8): sRGB.
            skeleton (`Skeleton`): the person.
            others (sequence of `Skeleton`, *optional*): other people of the picture, which are left out.

        Returns:
            `(H, W)` float32, 0..1.

        Raises:
            BadInput: the skeleton has no visible joint.
        """
        mask, to_mask = self.mask(rgb, skeleton, others)
        return refine(rgb, mask, to_mask)

    def mask(
        self, rgb: NDArray[np.uint8], skeleton: Skeleton, others: Sequence[Skeleton] = ()
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The coarse mask `(256, 256)` of one person, 0..1, and the `(2, 3)` map from the picture's pixels to it."""
        raw, to_mask = self._see(rgb, skeleton)
        own = _distance_to_bones(skeleton, to_mask)
        theirs_alone = np.zeros(raw.shape, np.bool_)
        for other in others:
            if not other.visible.any():
                continue
            theirs = _distance_to_bones(other, to_mask)
            theirs_alone |= theirs < own
            contested = (raw > _SURE / 2) & (theirs < own)
            if not contested.any():
                continue
            their_raw, to_theirs = self._see(rgb, other)
            between = _compose(to_theirs, _inverse(to_mask))
            seen = enlarge(their_raw, between, _SIZE, _SIZE)
            # Who is nearer owns what both masks claim; the step is softened over a few pixels.
            nearer = np.clip((own - theirs) / 6.0 + 0.5, 0.0, 1.0)
            raw = raw * (1.0 - seen * nearer)
        cleaned = _cleaned(raw, own)
        mask = by_colours(cleaned, _warp_down(rgb, to_mask), own)
        # A neighbour may wear the same.
        mask[theirs_alone] = np.minimum(mask, cleaned)[theirs_alone]
        return _without_islands(mask, own), to_mask

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_onnx("matte", "blazepose-full", self.threads)

    def _see(
        self, rgb: NDArray[np.uint8], skeleton: Skeleton
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """BlazePose's mask `(256, 256)` and the map to it.

        It looks four times, at squares of two sizes and at their mirror images: the errors of single looks differ,
        and their mean, by BlazePose's belief in each, has fewer (`walkon eval matte`).
        """
        tries = []
        for margins in _MARGINS:
            to_mask = _to_mask(skeleton, margins[0])
            looks = [
                self._look(rgb, _to_mask(skeleton, margin), to_mask, mirrored)
                for margin in margins
                for mirrored in (False, True)
            ]
            masks, beliefs = (np.stack(values) for values in zip(*looks, strict=True))
            mask = np.average(masks, axis=0, weights=beliefs).astype(np.float32)
            tries.append((float(beliefs.max()), mask, to_mask))
            if tries[-1][0] >= _PRESENCE:
                break
        _, mask, to_mask = max(tries, key=lambda t: t[0])
        return mask, to_mask

    def _look(
        self,
        rgb: NDArray[np.uint8],
        to_square: NDArray[np.float64],
        to_mask: NDArray[np.float64],
        mirrored: bool,
    ) -> tuple[NDArray[np.float32], float]:
        """BlazePose's mask of one square, brought to `to_mask`, and its belief, above 0, that it shows a person."""
        crop = _warp_down(rgb, to_square)
        crop = crop[:, ::-1] if mirrored else crop
        seen, belief = self._session.run(
            ["Identity_1:0", "Identity_3:0"], {"input_1:0": crop[None].astype(np.float32) / 255}
        )
        mask = np.asarray(seen)[0, ..., 0]
        mask = np.ascontiguousarray(mask[:, ::-1] if mirrored else mask)
        between = _compose(to_square, _inverse(to_mask))
        return enlarge(mask, between, _SIZE, _SIZE), max(float(np.asarray(belief).item()), 1e-3)


def refine(
    rgb: NDArray[np.uint8], mask: NDArray[np.float32], to_mask: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The mask at the picture's size, its edges moved to those of the picture.

    Args:
        rgb (`(H, W, 3)` uint8): sRGB.
        mask (`(256, 256)` float32, 0..1): coarse mask.
        to_mask (`(2, 3)`): map from the picture's pixels to the mask's.

    Returns:
        `(H, W)` float32, 0..1.
    """
    height, width = rgb.shape[:2]
    matte = np.zeros((height, width), np.float32)
    pixel = 1.0 / np.sqrt(abs(np.linalg.det(to_mask[:, :2])))  # size of a mask's pixel in the picture
    reach = _BAND * max(1.0, pixel)
    box = _box_of(mask, to_mask, width, height, margin=2 * reach)
    if box is None:
        return matte
    x0, y0, x1, y1 = box
    shifted = np.column_stack([to_mask[:, :2], to_mask[:, 2] + to_mask[:, :2] @ (x0, y0)])
    large = enlarge(mask, shifted, x1 - x0, y1 - y0)
    weight = enlarge(_edge_weight(mask, reach / pixel), shifted, x1 - x0, y1 - y0)
    refined = _guided(rgb[y0:y1, x0:x1], large, reach, weight > 0)
    refined = np.clip((refined - 0.5) * _STEEPNESS + 0.5, 0.0, 1.0)
    matte[y0:y1, x0:x1] = refined * weight + (large > _SURE) * (1.0 - weight)
    return matte


def _edge_weight(mask: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """1 along the mask's edge, 0 from `reach` pixels of it on; the inner half of the band is the filter's alone."""
    sure = (mask > _SURE).astype(np.uint8)
    inside = cv2.distanceTransform(sure, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - sure, cv2.DIST_L2, 5)
    # A pixel beside the edge is at distance 1 from the other side's centre and 0.5 from the edge.
    distance = np.maximum(inside, outside) - 0.5
    return np.clip(2.0 - 2.0 * distance / reach, 0.0, 1.0).astype(np.float32)


def enlarge(
    mask: NDArray[np.float32], to_mask: NDArray[np.float64], width: int, height: int
) -> NDArray[np.float32]:
    """The coarse mask at a picture's size `(height, width)`, as it is."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, _centred(to_mask), (width, height), flags=flags), dtype=np.float32)


def _guided(
    guide: NDArray[np.uint8], mask: NDArray[np.float32], radius: float, wanted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The guided filter, computed only in the tiles that hold wanted pixels: large photos need no more memory."""
    height, width = mask.shape
    step = max(1, int(radius) // _COARSE_RADIUS)
    halo = -(-2 * round(radius) // step) * step
    tile = _TILE // step * step
    result = mask.copy()
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            inner = np.s_[top : top + tile, left : left + tile]
            if not wanted[inner].any():
                continue
            above, before = min(halo, top), min(halo, left)
            outer = np.s_[top - above : top + tile + halo, left - before : left + tile + halo]
            colours = guide[outer].astype(np.float32) / 255
            filtered = cv2.ximgproc.guidedFilter(
                colours, mask[outer], max(2, round(radius)), _EPSILON, dDepth=cv2.CV_32F, scale=1.0 / step
            )
            result[inner] = filtered[above : above + tile, before : before + tile]
    return result


def _to_mask(skeleton: Skeleton, margin: float) -> NDArray[np.float64]:
    """`(2, 3)` map from pixels of the picture to BlazePose's square: hips in the centre, spine upright."""
    xy, seen = skeleton.xy, skeleton.visible
    points = xy[seen]
    shoulders = [i for i in (R_SHOULDER, L_SHOULDER) if seen[i]] or ([NECK] if seen[NECK] else [])
    hips = [i for i in (R_HIP, L_HIP) if seen[i]]
    box = skeleton.box
    top = xy[shoulders].mean(0) if shoulders else (box[:2] + box[2:]) / 2
    if hips:
        centre = xy[hips].mean(0)
    elif len(shoulders) == 2:
        across = float(np.linalg.norm(xy[R_SHOULDER] - xy[L_SHOULDER]))
        centre = top + (0.0, _HIPS_BELOW * max(across, 0.3 * skeleton.height))
    else:
        centre = (box[:2] + box[2:]) / 2
    up = top - centre
    length = float(np.linalg.norm(up))
    up = up / length if shoulders and length > 1e-6 else np.array([0.0, -1.0])
    right = np.array([-up[1], up[0]])
    offsets = (points - centre) @ np.stack([right, -up], 1)
    half = max(8.0, float(np.abs(offsets).max()) * margin)
    rotation = np.stack([right, -up]) * (_SIZE / (2 * half))
    return np.column_stack([rotation, _SIZE / 2 - rotation @ centre])


def _warp_down(rgb: NDArray[np.uint8], to_mask: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`(256, 256, 3)` of the picture under the map, the border's pixels repeated outside."""
    scale = float(np.sqrt(abs(np.linalg.det(to_mask[:, :2]))))
    if scale < 0.5:
        # Bilinear sampling alone would skip pixels of large pictures.
        small = np.asarray(
            cv2.resize(rgb, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA), np.uint8
        )
        shrink = np.array([small.shape[1] / rgb.shape[1], small.shape[0] / rgb.shape[0]])
        rgb, to_mask = small, np.column_stack([to_mask[:, :2] / shrink, to_mask[:, 2]])
    crop = cv2.warpAffine(
        rgb, _centred(to_mask), (_SIZE, _SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(crop, dtype=np.uint8)


def _distance_to_bones(skeleton: Skeleton, to_mask: NDArray[np.float64]) -> NDArray[np.float32]:
    """`(256, 256)` distance from a skeleton's bones, torso filled, in pixels of the mask."""
    points = skeleton.xy @ to_mask[:, :2].T + to_mask[:, 2]
    drawn = np.full((_SIZE, _SIZE), 255, np.uint8)
    pixels = np.rint(np.clip(points, -4 * _SIZE, 4 * _SIZE)).astype(np.int32)
    torso = [R_SHOULDER, L_SHOULDER, L_HIP, R_HIP]
    if skeleton.visible[torso].all():
        cv2.fillPoly(drawn, [pixels[torso]], 0)
    for a, b in LIMBS:
        if skeleton.visible[a] and skeleton.visible[b]:
            cv2.line(drawn, pixels[a].tolist(), pixels[b].tolist(), 0, 3)
    for i in np.flatnonzero(skeleton.visible):
        cv2.circle(drawn, pixels[i].tolist(), 2, 0, -1)
    return np.asarray(cv2.distanceTransform(drawn, cv2.DIST_L2, 3), dtype=np.float32)


def by_colours(
    mask: NDArray[np.float32], rgb: NDArray[np.uint8], own: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The mask, moved near its edge by how far colours are rather the person's, or what is around it.

    Both are learned anew in each of many overlapping windows, so that shoes are compared with the ground and hair with
    the sky. Along its bones a person stays: a sleeve may look like the wall.

    Args:
        mask (`(256, 256)` float32).
        rgb (`(256, 256, 3)` uint8): the picture there.
        own (`(256, 256)` float32): distance to the person's bones, in pixels.
    """
    bins = bins_of(np.asarray(rgb / 255, np.float32))
    on = mask > _SURE
    person = (cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0.9) | (on & (own < 2))
    beyond = mask < 0.1
    half = _WINDOW // 2
    ramp = np.minimum(np.arange(_WINDOW) + 0.5, _WINDOW - np.arange(_WINDOW) - 0.5).astype(np.float32)
    hat = np.outer(ramp, ramp)
    told, weight = np.zeros((2, *mask.shape), np.float32)
    for top in range(-half, _SIZE, half):
        for left in range(-half, _SIZE, half):
            here = np.s_[max(top, 0) : top + _WINDOW, max(left, 0) : left + _WINDOW]
            share = hat[max(-top, 0) :, max(-left, 0) :][: mask[here].shape[0], : mask[here].shape[1]]
            weight[here] += share
            inside, outside = bins[here][person[here]], bins[here][beyond[here]]
            if min(len(inside), len(outside)) > _FEW:
                told[here] += share * likelier(inside, outside)[bins[here]]
    logits = cv2.GaussianBlur(told / weight, (0, 0), 0.8)
    logits += on * _BONE * np.clip(1 - own / _BONE_REACH, 0, 1)
    sides = on.astype(np.uint8)
    away = sum(cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (sides, 1 - sides))
    before = np.clip(mask, 0.02, 0.98)
    moved = 1 / (1 + (1 - before) / before * np.exp(-_TRUST * logits))
    # Where the mask is in doubt, such as between legs, and near its edge.
    counts = np.clip((_NEAR - away) / 3, 0, 1) + np.clip((0.95 - mask) / 0.1, 0, 1) * on
    return np.asarray(mask + counts.clip(max=1) * (moved - mask), np.float32)


def _cleaned(mask: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without islands that no bone of the person touches, and without specks of holes."""
    mask = _without_islands(mask, own)
    sure = (mask > _SURE).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - sure, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.004 * int(sure.sum())
    small[0] = False
    return np.where(small[labels], np.maximum(mask, np.float32(1)), mask).astype(np.float32)


def _without_islands(mask: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without what no bone of the person touches."""
    sure = (mask > _SURE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(sure, connectivity=8)
    if count <= 1:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = 1 + int(np.argmax(areas[1:]))
    keep = np.zeros(count, np.bool_)
    keep[np.unique(labels[own < 2.0])] = True
    keep &= areas > 0.01 * areas[largest]
    keep[largest], keep[0] = True, False
    kept = keep[labels]
    # A soft edge belongs to the part that it borders on.
    near = cv2.dilate(kept.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    return np.where(near & ~((sure > 0) & ~kept), mask, np.float32(0))


def _box_of(
    mask: NDArray[np.float32], to_mask: NDArray[np.float64], width: int, height: int, margin: float
) -> tuple[int, int, int, int] | None:
    """Whole pixels of the picture x0, y0, x1, y1 around everything in the mask; None where it is empty."""
    y, x = np.nonzero(mask > 0.02)
    if not x.size:
        return None
    corners = np.array(
        [(a, b) for a in (x.min(), x.max() + 1) for b in (y.min(), y.max() + 1)], dtype=np.float64
    )
    back = _inverse(to_mask)
    points = corners @ back[:, :2].T + back[:, 2]
    low, high = points.min(0) - margin, points.max(0) + margin
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(width, int(high[0]) + 1), min(height, int(high[1]) + 1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _centred(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map for OpenCV, which puts pixel centres at whole numbers instead of +0.5."""
    offset = matrix[:, :2] @ (0.5, 0.5) + matrix[:, 2] - 0.5
    return np.column_stack([matrix[:, :2], offset])


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])


def _compose(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map that applies `inner` first."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])
