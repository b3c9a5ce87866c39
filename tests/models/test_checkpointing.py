"""Activations that are computed again: the same losses, gradients and statistics, in less memory."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from centernet.models.centernet import CenterNet, build_network
from centernet.models.checkpointing import checkpoint_activations
from centernet.models.fuse import fuse
from centernet.structures import Head
from tests import tiny

HEADS = {"heatmap": Head(2, "focal"), "size": Head(2, "l1")}
NETWORKS: list[Any] = [
    tiny.NETWORK,
    "resnet18_half",
    {"name": "lcnet_050", "neck": {"name": "dla_up", "channels": [16, 24, 32, 48], "deformable": True}},
    {"name": "lcnet_050", "neck": {"name": "fpn", "channels": 16}, "head_channels": 16, "head_tower": 2},
    "hardnet68",
]
named = pytest.mark.parametrize("spec", NETWORKS, ids=str)


def step(network: CenterNet, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss with its gradients, by the names of the weights."""
    network.zero_grad()
    torch.manual_seed(0)  # of whatever is dropped at random
    loss = sum(value.square().mean() for stack in network(images) for value in stack.values())
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in network.named_parameters() if weight.requires_grad}


@named
@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_and_its_statistics_are_those_of_the_plain_network(spec, bf16):
    torch.manual_seed(0)
    plain = build_network(spec, HEADS).train()
    other = copy.deepcopy(plain)
    assert checkpoint_activations(other) > 2
    images = torch.randn(2, 3, plain.divisor, plain.divisor)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        (loss, wanted), (same, found) = step(plain, images), step(other, images)
    assert torch.equal(loss, same)
    assert wanted.keys() == found.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, value), (_, again) in zip(plain.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(value, again), name


def test_frozen_norms_stay_frozen():
    network = build_network(tiny.NETWORK, HEADS).train()
    network.backbone.eval()
    before = {name: value.clone() for name, value in network.backbone.named_buffers()}
    checkpoint_activations(network)
    step(network, torch.randn(2, 3, 64, 64))
    for name, value in network.backbone.named_buffers():
        assert torch.equal(value, before[name]), name


def test_fewer_activations_are_kept():
    def kept(network: CenterNet) -> int:
        saved: dict[int, int] = {}  # the same memory counts once
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value: saved.setdefault(value.data_ptr(), value.numel()) and value, lambda value: value
        ):
            network(torch.randn(1, 3, 128, 128))
        return sum(saved.values())

    network = build_network("resnet18_half", HEADS).train()
    plain = kept(network)
    checkpoint_activations(network)
    assert kept(network) < 0.6 * plain


def test_the_network_can_be_copied_pickled_and_fused():
    network = tiny.enliven(build_network(tiny.NETWORK, HEADS))
    names = list(network.state_dict())
    checkpoint_activations(network)
    network.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network(images)[0]["heatmap"]
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), fuse(network)):
            torch.testing.assert_close(other(images)[0]["heatmap"], wanted, rtol=1e-3, atol=1e-3)
    assert list(network.state_dict()) == names


def test_a_copy_computes_with_its_own_weights():
    network = build_network(tiny.NETWORK, HEADS)
    checkpoint_activations(network)
    other = copy.deepcopy(network)
    for weight in other.parameters():
        nn.init.zeros_(weight)
    out = other(torch.randn(1, 3, 64, 64))[0]["heatmap"]
    assert not out.any()
    assert network(torch.randn(1, 3, 64, 64))[0]["heatmap"].any()
