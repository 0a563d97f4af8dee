# SPDX-License-Identifier: Apache-2.0
"""Where a head that turned shows what the photo shows, as if it were an ellipsoid.

Which way it faces, its axes and its units are those of shared/head.py; the ellipsoid is the same bodies' mean head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shared import head
from shared.skeleton import FACE, NECK

from .body import Body
from .grid import smoothstep

_CENTRE = (0.0, 0.02, 0.01)
_HALF_AXES = (0.157, 0.226, 0.2)
_RIM = 0.95
"""Share of the ellipsoid's outline up to which its surface is followed: beyond, it is seen edge on."""


class HeadPose(NamedTuple):
    """How heads are seen, as in shared/head.py."""

    turned: Tensor  # (B, 3, 3), from the head's axes to x right, y up, z towards us, before the tilt
    tilt: Tensor  # (B,) complex, torsos to the picture's unit and the turn in its plane
    origin: Tensor  # (B,) complex, where the point between the ears is seen


def head_pose(body: Body) -> HeadPose:
    """How the heads of people are seen (`shared.head.head_pose`)."""
    given = (body.xy[:, FACE], body.known[:, FACE], body.xy[:, NECK], body.torso, -body.down)
    pose = head.head_pose(*(value.detach().cpu().numpy() for value in given))
    turned, tilt, origin = (torch.from_numpy(value).to(body.xy.device) for value in pose)
    return HeadPose(turned.to(body.xy.dtype), tilt.to(torch.complex64), origin.to(torch.complex64))


def angle_between(first: HeadPose, second: HeadPose) -> Tensor:
    """By how many radians two heads face different ways, turns in the picture's plane apart, `(B,)`."""
    return (first.turned[:, 2] * second.turned[:, 2]).sum(-1).clamp(-1, 1).acos()


def corrected(pose: HeadPose, turn: Tensor, larger: Tensor, move: Tensor) -> HeadPose:
    """How heads are seen after all.

    Args:
        turn (`(B, 3)`): about x, y and z, radians times the axis.
        larger (`(B,)`): the logarithm of how much.
        move (`(B, 2)`): of the point between the ears, in the picture's unit.
    """
    x, y, z = turn.unbind(1)
    none = torch.zeros_like(x)
    spin = torch.stack([none, -z, y, z, none, -x, -y, x, none], 1).reshape(-1, 3, 3)
    turned = torch.linalg.matrix_exp(spin) @ pose.turned
    return HeadPose(turned, pose.tilt * larger.exp(), pose.origin + torch.complex(move[:, 0], move[:, 1]))


class Places(NamedTuple):
    """Where target points come from, `(B, M, ...)`."""

    place: Tensor  # (B, M, 3), of the head: on the unit sphere, in the head's axes

    direct: Tensor  # (B, M, 2), source points of the same place of the head
    mirrored: Tensor  # (B, M, 2), of the place on its other side
    faces: Tensor  # (B, M), cosine of the angle at which the source sees the first: 1 square on, below 0 not at all
    mirrored_faces: Tensor
    on_head: Tensor  # (B, M), 1 on the ellipsoid, falling to 0 around it


class HeadMaps:
    """From a target head to the source's, turned in space.

    Args:
        source, target (`HeadPose`): in frame coordinates.
    """

    def __init__(self, source: HeadPose, target: HeadPose) -> None:
        self.source, self.target = source, target

    def at(self, points: Tensor) -> Places:
        """Where target points `(B, M, 2)` come from. Around the head they move with its outline, farther off with its
        middle."""
        source, target = self.source, self.target
        flat = (torch.complex(points[..., 0], points[..., 1]) - target.origin[:, None]) / target.tilt[:, None]
        here = torch.stack([flat.real, -flat.imag], -1)
        half, centre = points.new_tensor(_HALF_AXES), points.new_tensor(_CENTRE)
        middle = target.turned @ centre
        out = here - middle[:, None, :2]
        # On the line of sight a + z b, in units of the half axes, the ellipsoid is the unit sphere.
        a = torch.einsum("bij,bmi->bmj", target.turned[:, :2], out) / half
        b = (target.turned[:, 2] / half)[:, None]
        ab, bb = (a * b).sum(-1), (b * b).sum(-1)
        radius = ((a * a).sum(-1) - ab**2 / bb).clamp_min(1e-8).sqrt()
        inward = (_RIM / radius).clamp(max=1)[..., None]
        a, ab = a * inward, ab * inward[..., 0]
        z = (-ab + ((1 - (radius * inward[..., 0]) ** 2) * bb).clamp_min(0).sqrt()) / bb
        place = a + z[..., None] * b  # on the unit sphere
        beyond, near = out * (1 - inward), 1 - smoothstep(radius, 1.1, 2.2)
        plain = out + (source.turned @ centre)[:, None, :2]
        found = []
        for side in (1.0, -1.0):
            sided = place * place.new_tensor([side, 1.0, 1.0])
            seen = torch.einsum("bij,bmj->bmi", source.turned, sided * half + centre)
            faces = torch.einsum("bj,bmj->bm", source.turned[:, 2], sided / half)
            faces = faces / (sided / half).norm(dim=-1)
            turned = plain + near[..., None] * (
                seen[..., :2] + beyond * beyond.new_tensor([side, 1.0]) - plain
            )
            at = source.origin[:, None] + source.tilt[:, None] * torch.complex(
                turned[..., 0], -turned[..., 1]
            )
            found.append((torch.stack([at.real, at.imag], -1), faces))
        (direct, faces), (mirrored, mirrored_faces) = found
        return Places(place, direct, mirrored, faces, mirrored_faces, 1 - smoothstep(radius, 0.95, 1.3))
