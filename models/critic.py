# SPDX-License-Identifier: Apache-2.0
"""The critic in the training of `Head` (LSGAN, Mao et al. 2017; of patches, Isola et al. 2017)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class PatchCritic(nn.Module):
    """Tells patches of rendered people from those that a network made.

    Args:
        inputs (`int`): channels that it sees.
        width (`int`, *optional*, defaults to 32): channels at half the size.
    """

    PATCH = 8
    """Pixels that its patches are apart."""

    def __init__(self, inputs: int, width: int = 32) -> None:
        super().__init__()
        widths = (inputs, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, seen: Tensor) -> Tensor:
        """`(B, inputs, n, n)` -> `(B, 1, n / 8, n / 8)`: 1 for rendered, 0 for made up."""
        return self.layers(seen)
