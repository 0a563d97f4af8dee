# SPDX-License-Identifier: Apache-2.0
"""The layers that `Motion`, `Head` and `Retouch` are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, SiLU; `outputs` a multiple of 8."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True)
    )


class Residual(nn.Module):
    """Two convolutions added to their input; at first they add nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = block(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def descend(x: Tensor, down: nn.ModuleList) -> list[Tensor]:
    """`x` and what each step of a U-Net's way down makes of it, finest first."""
    levels = [x]
    for step in down:
        levels.append(step(levels[-1]))
    return levels


def ascend(x: Tensor, levels: list[Tensor], up: nn.ModuleList) -> Tensor:
    """A U-Net's way up, from its coarsest `x` past the finer of `levels`, of which `up` has a step each."""
    for i in reversed(range(len(up))):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = up[i](torch.cat([x, levels[i]], 1))
    return x


def lay_out(network: nn.Module) -> None:
    """Has the kernels lie in memory with their channels side by side, which a CPU convolves a sixth faster."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
