"""Deformable convolution on a CPU, against torchvision's operator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from centernet.models import deformable
from centernet.models.deformable import deform_conv
from centernet.models.layers import DeformConv2d

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(seed: int, shape: tuple[int, int, int, int], outputs: int, reach: float, is_last: bool = True) -> Inputs:
    """Image, offsets that go ``reach`` cells far, mask, weight and bias."""
    torch.manual_seed(seed)
    count, channels, *size = shape
    image, weight = torch.randn(shape), torch.randn(outputs, channels, 3, 3) / 3
    if is_last:
        image, weight = (each.to(memory_format=torch.channels_last) for each in (image, weight))
    offset = reach * torch.randn(count, 18, *size)
    return image, offset, torch.rand(count, 9, *size), weight, torch.randn(outputs)


def by_operator(image: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return deform_conv2d(image, offset, weight, bias, padding=(1, 1), mask=mask)


def close(found: Tensor, wanted: Tensor) -> bool:
    # The order of sums differs, so that the error is one of the largest number's rounding.
    return bool((found - wanted).abs().max() <= 5e-6 * wanted.abs().max().clamp(min=1))


shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))


@given(st.integers(0, 10_000), shapes, st.integers(1, 5), st.sampled_from([0.0, 0.5, 3.0, 30.0]), st.booleans())
def test_outputs_are_those_of_the_operator(seed, shape, outputs, reach, is_last):
    given_ = inputs(seed, shape, outputs, reach, is_last)
    with torch.no_grad():
        found = deform_conv(*given_)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert close(found, by_operator(*given_))


@given(st.integers(0, 10_000), shapes, st.integers(1, 5), st.sampled_from([0.5, 3.0, 30.0]))
def test_gradients_are_those_of_the_operator(seed, shape, outputs, reach):
    made = [each.requires_grad_() for each in inputs(seed, shape, outputs, reach)]
    toward = torch.randn(shape[0], outputs, *shape[2:])
    wanted = torch.autograd.grad(by_operator(*made), made, toward)
    for value, other in zip(torch.autograd.grad(deform_conv(*made), made, toward), wanted, strict=True):
        assert close(value, other)


def test_pieces_make_the_whole(monkeypatch):
    made = [each.requires_grad_() for each in inputs(0, (5, 4, 6, 7), 3, 1.0)]
    toward = torch.randn(5, 3, 6, 7)
    whole = deform_conv(*made)
    wanted = torch.autograd.grad(whole, made, toward)
    monkeypatch.setattr(deformable, "POSITIONS_AT_ONCE", 11)
    monkeypatch.setattr(deformable, "POSITIONS_BACKWARD", 2 * 42)  # two images, and in the end one
    pieces = deform_conv(*made)
    assert close(pieces, whole)
    for value, other in zip(torch.autograd.grad(pieces, made, toward), wanted, strict=True):
        assert close(value, other)


@pytest.mark.parametrize("which", range(5))
def test_a_single_input_can_have_a_gradient(which):
    made = inputs(0, (2, 3, 5, 4), 2, 1.0)
    made[which].requires_grad_()
    toward = torch.randn(2, 2, 5, 4)
    (wanted,) = torch.autograd.grad(by_operator(*made), made[which], toward)
    (found,) = torch.autograd.grad(deform_conv(*made), made[which], toward)
    assert close(found, wanted)


def test_on_the_cells_and_at_the_border_samples_are_those_of_the_operator():
    image, offset, mask, weight, bias = inputs(0, (1, 2, 4, 5), 3, 1.0)
    for value in (0.0, 1.0, -1.0, 2.5, 4.0, -4.0, 5.0, 6.0, torch.inf):
        moved = torch.full_like(offset, value)
        assert close(deform_conv(image, moved, mask, weight, bias), by_operator(image, moved, mask, weight, bias))


def test_an_offset_that_is_no_number_gives_no_number_and_nothing_else():
    image, offset, mask, weight, bias = inputs(0, (1, 2, 4, 5), 3, 1.0)
    wanted = deform_conv(image, offset, mask, weight, bias)
    offset[0, 0, 1, 2] = torch.nan
    found = deform_conv(image, offset, mask, weight, bias)
    assert found[0, :, 1, 2].isnan().all()
    assert not found.isnan().all()
    assert torch.equal(found[~found.isnan()], wanted[~found.isnan()])


@pytest.fixture
def layer() -> DeformConv2d:
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6)
    torch.nn.init.normal_(layer.conv_offset_mask.weight)
    return layer


def test_a_layer_without_images_gives_none(layer):
    assert layer(torch.zeros(0, 4, 9, 11)).shape == (0, 6, 9, 11)


def test_a_layer_takes_the_operator_where_a_graph_is_recorded(layer):
    image = torch.randn(2, 4, 9, 11)
    recorded = torch.export.export(layer, (image,))
    parts = [part for part in recorded.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    names = [str(node.target) for part in parts for node in part.graph.nodes]
    assert "torchvision.deform_conv2d.default" in names
    assert not any("embedding_bag" in name for name in names)
    traced = torch.jit.trace(layer, image)
    assert "torchvision::deform_conv2d" in str(traced.inlined_graph)
    for other in (recorded.module(), traced):
        torch.testing.assert_close(other(image), layer(image))
