"""Networks of other libraries, measured beside ours in the same process: `timm:NAME`, `torchvision:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from centernet.errors import InputError, did_you_mean


class Peer(NamedTuple):
    """A network with random weights. ``forward`` takes float images ``[B, 3, H, W]`` in 0 .. 1; ``loss`` is a number
    with gradients for such images."""

    name: str
    network: nn.Module
    forward: Callable[[Tensor], Any]
    loss: Callable[[Tensor], Tensor]
    finds_boxes: bool

    @property
    def parameters(self) -> float:
        """Millions of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters()) / 1e6


def build_peer(word: str, classes: int, size: tuple[int, int]) -> Peer:
    """The network that ``LIBRARY:NAME`` names, for this many classes and inputs of ``size`` (height, width).

    A model of timm classifies. One of torchvision detects: its ``forward`` includes resizing (none, for inputs of this
    size), decoding and non-maximum suppression. Raises ``InputError`` for unknown words.
    """
    library, _, name = word.partition(":")
    if library not in ("timm", "torchvision") or not name:
        raise InputError(f"--peer {word} names no network; give timm:NAME or torchvision:NAME")
    return _of_timm(word, name, classes) if library == "timm" else _of_torchvision(word, name, classes, size)


def _of_timm(word: str, name: str, classes: int) -> Peer:
    import timm

    if not timm.is_model(name):
        raise InputError(f"--peer {word}: timm has no such model; {did_you_mean(name, timm.list_models(), 'see timm')}")
    network = timm.create_model(name, pretrained=False, num_classes=classes)
    return Peer(word, network, network, lambda images: network(images).square().mean(), False)


def _of_torchvision(word: str, name: str, classes: int, size: tuple[int, int]) -> Peer:
    from torchvision import models
    from torchvision.models import detection

    known = models.list_models(module=detection)
    if name not in known or "keypoint" in name or "mask" in name:
        boxes = [each for each in known if "keypoint" not in each and "mask" not in each]
        raise InputError(f"--peer {word}: torchvision has no such detector of boxes; choose one of {', '.join(boxes)}")
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes + 1)  # and background
    # Inputs are given in the size that they are to have.
    network.transform.min_size, network.transform.max_size = (min(size),), max(size)
    network.transform.fixed_size = (size[1], size[0]) if network.transform.fixed_size else None
    box = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.3, 0.9, 0.8]])

    def loss(images: Tensor) -> Tensor:
        scaled = box * torch.tensor([images.shape[-1], images.shape[-2]] * 2)
        targets = [{"boxes": scaled.to(images.device), "labels": torch.ones(2, dtype=torch.long, device=images.device)}]
        return sum(network(list(images), targets * len(images)).values())

    return Peer(word, network, lambda images: network(list(images)), loss, True)
