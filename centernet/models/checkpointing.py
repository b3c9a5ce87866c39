"""Activation checkpointing: less memory in training for a second forward pass.

Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016, arXiv:1604.06174): of the parts of a network, only the
inputs are kept; what lies inside is computed again when its gradients are due. Losses and gradients are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from centernet.models.layers import DeformConv2d

WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, DeformConv2d)


def checkpoint_activations(network: nn.Module) -> int:
    """Let every block of ``network`` compute its activations again in the backward pass, in place; returns how many
    blocks there are.

    Names and weights stay as they are, and so does everything that is not training.
    """
    blocks = _blocks(network)
    for block in blocks:
        block.forward = partial(_forward, block)  # type: ignore[method-assign]
    return len(blocks)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network: parts with several layers of weights, such as residual blocks or HarDNet's.

    Of a part with most of its layers in parts that have several themselves (a stage of blocks), it is those; a small
    part within a block, such as squeeze-and-excitation, belongs to the block.
    """
    inner = [part for part in _parts(module) if _layers(part) > 1]
    if 2 * sum(map(_layers, inner)) > _layers(module):
        found = [block for part in inner for block in _blocks(part)]
        return [module] if found == inner[:1] else found  # of a part and what is around it, all
    return [module] if _layers(module) > 1 else []


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Children that are called; lists of them are not."""
    for child in module.children():
        if type(child) in (nn.ModuleList, nn.ModuleDict):
            yield from _parts(child)
        else:
            yield child


def _layers(module: nn.Module) -> int:
    if isinstance(module, WEIGHTED):  # a deformable convolution has another one inside
        return 1
    return sum(map(_layers, module.children()))


def _forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    run = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return run(*inputs, **options)
    return checkpoint(
        run, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _again(block)), **options
    )


@contextlib.contextmanager
def _again(block: nn.Module) -> Iterator[None]:
    """A second pass: batch norms compute as in the first one, and their statistics, updated there, stay as they are."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: value if value is None else value.clone() for name, value in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
