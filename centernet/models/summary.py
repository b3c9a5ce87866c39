"""Counting: parameters and multiply-accumulates of a network.

One multiply-accumulate is 1. Convolutions of every kind count (deformable ones like the plain ones they replace, and
their offset convolution besides); bias, norms, activations, pooling, interpolation and deformable sampling do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from centernet.models.centernet import CenterNet, build_network
from centernet.models.layers import DeformConv2d
from centernet.structures import Head


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of the convolutions for one image of ``input_size`` (height, width).

    Runs the network once, on the device where it is: on ``meta`` this needs almost no time and memory.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        taps = layer.weight.shape[-2] * layer.weight.shape[-1]
        if isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() * layer.weight.shape[1] * taps
        else:
            total += output.numel() * layer.weight.shape[1] * taps

    kinds = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2d)
    _watch_once(network, input_size, [layer for layer in network.modules() if isinstance(layer, kinds)], count)
    return total


def count_activations(network: nn.Module, input_size: tuple[int, int]) -> int:
    """Numbers that all layers together put out for one image of ``input_size`` (height, width); memory in training is
    in proportion. Runs the network once, see ``count_macs``."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    _watch_once(network, input_size, [layer for layer in network.modules() if not list(layer.children())], count)
    return total


def _watch_once(network: nn.Module, input_size: tuple[int, int], layers: Sequence[nn.Module], hook: Any) -> None:
    """One forward pass of an empty image in evaluation, with ``hook`` called for these layers."""
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *input_size, device=next(network.parameters()).device))
    finally:
        network.train(training)
        for each in hooks:
            each.remove()


def build_counted(backbone: str | Mapping[str, Any], heads: Mapping[str, Head]) -> CenterNet:
    """A network without weights (on ``meta``), for counting."""
    with torch.device("meta"):
        return build_network(backbone, heads)
