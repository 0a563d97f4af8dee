# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bone of a character's armature is which joint, by the names that rigs give their bones. No bpy here.

Known: Rigify (meta-rig and generated), Mixamo, MPFB and MakeHuman (default, game engine, CMU), Unreal, Daz, VRM,
Character Creator, 3ds Max' Biped, Auto-Rig Pro, SMPL and plain English names with a side. A bone's name is read as a
side and a part: `DEF-upper_arm.R`, `mixamorig:RightArm`, `upperarm01.R`, `upperarm_r` and `rShldrBend` are all the
right upper arm, whose head is the shoulder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .shared.skeleton import JOINTS

_SIDED = {
    # joint: parts in order of preference; the joint is where the bone's head is
    "shoulder": ("upperarm", "uparm", "armstretch", "shldrbend", "shldr", "bicep", "arm", "shoulder"),
    "elbow": ("forearm", "lowerarm", "lowarm", "forearmstretch", "forearmbend", "elbow"),
    "wrist": ("wrist", "hand"),
    "hip": ("thigh", "upperleg", "upleg", "thighstretch", "thighbend", "femur", "hip"),
    "knee": ("shin", "calf", "lowerleg", "lowleg", "legstretch", "knee", "leg"),
    "ankle": ("ankle", "foot"),
    "eye": ("eye", "eyeball", "mastereye"),
    "ear": ("ear",),
}
_HEAD = ("head", "skull")

_RIGIFY_HEAD = "spine.006"

_LAYER = re.compile(r"^(?P<layer>def|org|mch)[-_]", re.IGNORECASE)
_SUFFIX = re.compile(r"[._\-\s](?P<side>l|r|left|right)$", re.IGNORECASE)
_PREFIX = re.compile(r"^(?P<side>left|right)", re.IGNORECASE)
_SHORT_PREFIX = re.compile(r"^(?P<side>[lr](?=[A-Z])|[lLrR][_.\s])")


def joints_of(bones: Iterable[str], by_hand: Mapping[str, str] | None = None) -> dict[str, str]:
    """The bone at whose head each joint is.

    Args:
        bones: names of the armature's bones.
        by_hand: joint to bone as the artist said, of the joints in `MAPPED`; goes before what the names say.

    Returns:
        `dict`: joint (of `MAPPED`) to bone, of the joints that could be told. `head` is the base of the skull: it
        tells where the face is. The nose is never told by its name: rigs begin it between the eyes.
    """
    names = list(bones)
    read: dict[tuple[str, str], tuple[int, str]] = {}
    for name in names:
        rank, side, part = _read(name)
        if (side, part) not in read or rank < read[side, part][0]:
            read[side, part] = rank, name
    found: dict[str, str] = {}
    for side in ("right", "left"):
        for joint, parts in _SIDED.items():
            for part in parts:
                if (side, part) in read:
                    found[f"{side}_{joint}"] = read[side, part][1]
                    break
        # `leg` is the upper one where another bone is the lower.
        if (
            f"{side}_hip" not in found
            and (side, "leg") in read
            and found.get(f"{side}_knee") != read[side, "leg"][1]
        ):
            found[f"{side}_hip"] = read[side, "leg"][1]
    for part in _HEAD:
        if ("", part) in read:
            found.setdefault("head", read["", part][1])
    present = set(names)
    found.update({joint: bone for joint, bone in (by_hand or {}).items() if bone in present})
    return found


def is_person(joints: Mapping[str, str]) -> bool:
    """Whether enough was told to call it a person: shoulders, hips and knees."""
    needed = [f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder", "hip", "knee")]
    return all(joint in joints for joint in needed)


MAPPED = ("head", *(joint for joint in JOINTS if joint != "neck"))
"""The joints that an artist may name a bone for; the neck of a skeleton is the middle of the shoulders."""


def _read(name: str) -> tuple[int, str, str]:
    """Rank (lower is better), side (`right`, `left` or empty) and part of a bone's name."""
    plain = name.rpartition(":")[2]
    plain = re.sub(r"^mixamorig\d*_", "", plain)
    layer = _LAYER.match(plain)
    # Bones that deform are where the skin is, Rigify's ORG where the joints are; controls may be anywhere, as the
    # eye's, which is what the eye looks at.
    rank = {"def": 0, "org": 1, "mch": 3}[layer["layer"].lower()] if layer else 2
    plain = plain[layer.end() :] if layer else plain
    if plain == _RIGIFY_HEAD:
        return rank, "", "head"
    plain = re.sub(
        r"^(cc_base_|bip\d*[\s_]|j_bip_(c_)?|j_adj_|valvebiped[._]bip\d*_)", "", plain, flags=re.IGNORECASE
    )
    plain = re.sub(r"[._][xXcC]$", "", plain)  # in the middle
    side = ""
    for pattern in (_SUFFIX, _PREFIX, _SHORT_PREFIX):
        match = pattern.search(plain)
        if match:
            side = "right" if match["side"].lower().startswith("r") else "left"
            plain = plain[: match.start()] + plain[match.end() :]
            break
    part = re.sub(r"[^a-z0-9]", "", plain.lower())
    # The first of several segments is the one at the joint: upperarm01, but not upperarm02.
    part = re.sub(r"(?<=[a-z])0*1$", "", part)
    return rank, side, part
