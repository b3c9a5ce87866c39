"""Layers that backbones and necks share: convolution blocks, deformable convolution, bilinear upsampling, batch norm
across processes."""

from __future__ import annotations

import contextlib

import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from centernet.models.deformable import deform_conv, suits_cpu


class DeformConv2d(nn.Module):
    """Modulated deformable 3x3 convolution, DCNv2 (Zhu et al., 2019, arXiv:1811.11168).

    An ordinary convolution predicts 18 offsets (dy, dx interleaved) and 9 mask logits per position from the input; it
    is initialized to zero, so the layer starts as a plain convolution at half strength. ``[B, in, H, W] -> [B, out, H,
    W]``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, 3, padding=1)
        bound = 1 / (9 * in_channels) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        # deform_conv2d has no half-precision kernel on CPU and loses offsets in bf16: always float32 inside.
        with _no_autocast(x.device.type):
            wide = x.float()
            prediction = self.conv_offset_mask(wide)
            offset, mask = prediction[:, :18], prediction[:, 18:].sigmoid()
            if suits_cpu(wide):
                out = deform_conv(wide, offset, mask, self.weight, self.bias)
            else:
                out = deform_conv2d(wide, offset, self.weight, self.bias, padding=(1, 1), mask=mask)
        return out.to(x.dtype)


def _no_autocast(device_type: str) -> contextlib.AbstractContextManager:
    # The meta device, used for counting, has no autocast.
    return contextlib.nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


class PointConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride: takes every n-th cell, then convolves these. The same numbers.

    ``[B, in, H, W] -> [B, out, ceil(H / rows), ceil(W / columns)]``.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def guard_point_convolutions(network: nn.Module) -> None:
    """Replace, in place, the convolutions whose gradients end the process on a CPU: 1x1, with a stride, of fewer than
    16 channels, in channels-last layout (seen with torch 2.15). RepVGG, MobileOne and FastViT begin with such.
    """
    for module in network.modules():
        is_point = type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.padding == (0, 0)
        if is_point and module.stride != (1, 1) and module.in_channels < 16:
            module.__class__ = PointConv2d


def conv_block(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def deform_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Deformable convolution, batch norm, ReLU."""
    return nn.Sequential(DeformConv2d(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def bilinear_kernel(size: int) -> Tensor:
    """Bilinear upsampling weights ``[size, size]`` of a transposed convolution with stride ``size // 2``."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 else factor - 0.5
    taps = 1 - (torch.arange(size) - center).abs() / factor
    return taps[:, None] * taps[None, :]


def bilinear_upsample(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Learned per-channel upsampling, initialized as bilinear."""
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
    )
    layer.weight.data[:] = bilinear_kernel(2 * factor)
    return layer


def synchronize_norms(network: nn.Module) -> nn.Module:
    """The network with batch norms that take their statistics over all processes; weights and their names stay.

    By timm: torch's own conversion knows nothing of norms with an activation inside and drops the activation.
    """
    return convert_sync_batchnorm(network)


def separate_norms(network: nn.Module) -> nn.Module:
    """The network with ordinary batch norms again, the inverse of ``synchronize_norms``."""
    restored = network
    if isinstance(network, nn.SyncBatchNorm):
        kind = BatchNormAct2d if isinstance(network, SyncBatchNormAct) else nn.BatchNorm2d
        restored = kind(network.num_features, device="meta")
        restored.__dict__.update(network.__dict__)  # weights, statistics, activation, options
    for name, child in network.named_children():
        restored.add_module(name, separate_norms(child))
    return restored
