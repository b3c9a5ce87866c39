"""The inference form of a network: batch norm folded into convolutions, HarDBlocks without concatenated inputs.

Both are exact up to rounding; the result is for inference only.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from centernet.models.backbones.hardnet import HarDBlock
from centernet.models.centernet import CenterNet
from centernet.models.layers import DeformConv2d

FOLDABLE = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2d)


def fuse(network: CenterNet) -> CenterNet:
    """A copy of ``network`` in its inference form: same input, same output (1e-4 relative), fewer operations."""
    fused = copy.deepcopy(network).eval()
    device = next(fused.parameters()).device
    probe = torch.randn(1, 3, 2 * fused.divisor, 2 * fused.divisor, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    before, pairs = _run_and_find_pairs(fused, probe)
    for convolution, norm in pairs:
        fold(convolution, norm)
        _replace(fused, norm, _what_remains(norm))
    for block in [module for module in fused.modules() if isinstance(module, HarDBlock)]:
        _replace(fused, block, SplitHarDBlock(block))
    with torch.no_grad():
        _check_same(before, fused(probe))
    return fused


@torch.no_grad()
def _run_and_find_pairs(
    network: nn.Module, probe: Tensor
) -> tuple[list[dict[str, Tensor]], list[tuple[nn.Module, _BatchNorm]]]:
    """The output of ``network`` for ``probe``, and its convolutions directly followed by a batch norm.

    A pair is a batch norm whose input is the output of a convolution that nothing else reads, both called once. Running
    the network finds them in any architecture, whatever the names of its layers.
    """
    made_by: dict[int, nn.Module] = {}
    readers: dict[int, list[nn.Module]] = {}
    calls: dict[nn.Module, int] = {}
    alive: list[Any] = []  # keep tensors alive, so ids stay unique

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor):
                readers.setdefault(id(value), []).append(module)

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, FOLDABLE):
            made_by[id(output)] = module
        alive.append((inputs, output))

    # A deformable convolution, and a norm with an activation of its own (timm's), count as one layer.
    leaves = [
        module
        for module in network.modules()
        if isinstance(module, (*FOLDABLE, _BatchNorm)) or not any(module.children())
    ]
    hooks = [module.register_forward_pre_hook(before) for module in leaves]
    hooks += [module.register_forward_hook(after) for module in leaves]
    try:
        outputs = network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for value, consumers in readers.items():
        convolution = made_by.get(value)
        if convolution is None or len(consumers) != 1 or not isinstance(consumers[0], _BatchNorm):
            continue
        if calls[convolution] == 1 and calls[consumers[0]] == 1:
            pairs.append((convolution, consumers[0]))
    return outputs, pairs


@torch.no_grad()
def fold(convolution: nn.Module, norm: _BatchNorm) -> None:
    """Fold ``norm`` into the weights of ``convolution``, in place."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    weight = convolution.weight.double()
    if isinstance(convolution, nn.ConvTranspose2d):
        # Weights are [in, out / groups, k, k]: output channels count up within each group of inputs.
        grouped = weight.unflatten(0, (convolution.groups, -1)) * scale.view(convolution.groups, 1, -1, 1, 1)
        weight = grouped.flatten(0, 1)
    else:
        weight = weight * scale.view(-1, 1, 1, 1)
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(convolution.weight.dtype), requires_grad=False)


class SplitHarDBlock(nn.Module):
    """A HarDBlock whose layers read no concatenations: each state is convolved once for all layers that will read it.

    A convolution of concatenated states is the sum of the convolutions of the states, so the weights of every layer are
    cut by state, and those that read the same state are stacked into one convolution. Batch norm must be folded.
    """

    def __init__(self, block: HarDBlock) -> None:
        super().__init__()
        count = len(block.layers)
        self.outputs = set(block.outputs)
        self.readers = [[n for n in range(1, count + 1) if state in block.links[n - 1]] for state in range(count)]
        self.widths = [[block.widths[n] for n in readers] for readers in self.readers]
        self.convs = nn.ModuleList()
        for state, readers in enumerate(self.readers):
            weights, biases = [], []
            for reader in readers:
                links, layer = block.links[reader - 1], block.layers[reader - 1][0]
                start = sum(block.widths[link] for link in links[: links.index(state)])
                weights.append(layer.weight[:, start : start + block.widths[state]])
                # A layer's bias is added once, with the state directly before it.
                biases.append(layer.bias if state == reader - 1 else torch.zeros_like(layer.bias))
            conv = nn.Conv2d(block.widths[state], sum(self.widths[state]), 3, padding=1, device=weights[0].device)
            conv.weight = nn.Parameter(torch.cat(weights).detach(), requires_grad=False)
            conv.bias = nn.Parameter(torch.cat(biases).detach(), requires_grad=False)
            self.convs.append(conv)

    def forward(self, x: Tensor) -> Tensor:
        sums: dict[int, Tensor] = {}
        kept = []
        for state, conv in enumerate(self.convs):
            for reader, part in zip(self.readers[state], conv(x).split(self.widths[state], 1), strict=True):
                sums[reader] = sums[reader] + part if reader in sums else part
            x = F.relu(sums.pop(state + 1))
            if state + 1 in self.outputs:
                kept.append(x)
        return torch.cat(kept, 1)


def _check_same(before: list[dict[str, Tensor]], after: list[dict[str, Tensor]]) -> None:
    # If anything besides the batch norm read a convolution unnoticed, the error would far exceed rounding (TF32
    # included).
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            if not torch.allclose(value, new[name], rtol=0, atol=1e-2 * float(value.abs().max())):
                raise RuntimeError(f"folding batch norm changes the output {name!r} of this network; use it unfused")


def _what_remains(norm: _BatchNorm) -> nn.Module:
    """The part of a batch norm besides normalization: timm's include an activation."""
    rest = [getattr(norm, name) for name in ("drop", "act", "aa") if isinstance(getattr(norm, name, None), nn.Module)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity()


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in network.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
