# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's colour match, learned from one picture that it painted, for small ones that must be there at once.

The match is a smooth function of colour alone (models/finish.py, `harmonise`), so a polynomial through the person's
own colours and the matched ones stands for it wherever this person's colours are. No bpy here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SAMPLES = 20_000  # pixels to learn from
_LEAST = 200  # fewer tell nothing
_RIDGE = 1e-4  # pulls what the person's colours do not tell towards no change


@dataclass(frozen=True, eq=False)
class ColourMatch:
    """A change of colours.

    Args:
        weights (`(10, 3)` float32): what is added, over the terms of `_terms`.
    """

    weights: NDArray[np.float32]

    @classmethod
    def learned(cls, own: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> ColourMatch | None:
        """What turns a person's own colours into a layer's.

        Args:
            own (`(h, w, 3)` uint8), rgba (`(h, w, 4)` uint8): before and after, as `messages.Inserted` brings them.

        Returns:
            None where too little of the person is opaque.
        """
        solid = rgba[..., 3] == 255
        before, after = own[solid], rgba[solid][:, :3]
        if len(before) < _LEAST:
            return None
        step = max(1, len(before) // _SAMPLES)
        x, y = before[::step] / 255.0, after[::step] / 255.0
        terms = _terms(x)
        normal = terms.T @ terms + _RIDGE * len(x) * np.eye(terms.shape[1])
        return cls(np.linalg.solve(normal, terms.T @ (y - x)).astype(np.float32))

    def matched(self, rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture `(h, w, 4)` uint8 with its colours changed; alpha stays."""
        result = rgba.copy()
        seen = rgba[..., 3] > 0
        colours = rgba[seen][:, :3].astype(np.float32) / np.float32(255)
        changed = np.clip(colours + _terms(colours) @ self.weights, 0.0, 1.0)
        result[seen, :3] = np.rint(changed * 255).astype(np.uint8)
        return result


def _terms(colours: NDArray[np.floating]) -> NDArray[np.floating]:
    """`(n, 10)` of colours `(n, 3)`, 0..1: 1, the channels, their squares and products."""
    red, green, blue = colours.T
    one = np.ones_like(red)
    return np.stack(
        [one, red, green, blue, red * red, green * green, blue * blue, red * green, red * blue, green * blue],
        1,
    )
