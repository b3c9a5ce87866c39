"""Batch norm over two processes on one GPU is that of one process with the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from centernet.models.centernet import build_network
from centernet.plugins import NormSync


def features(images: Tensor, synchronized: bool) -> tuple[Tensor, Tensor]:
    """The coarsest features in training, and the gradient of the first weights."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    network = build_network("test_efficientnet", {}).cuda().train()
    if synchronized:
        network = NormSync().apply(network)
    found = network.backbone(images.cuda())[-1]
    found.square().mean().backward()
    return found.detach().cpu(), next(network.parameters()).grad.cpu()


def some_images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def work(rank: int, folder: str) -> None:
    # NCCL refuses two processes on one GPU.
    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    torch.cuda.set_device(rank % torch.cuda.device_count())
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(features(some_images().chunk(2)[rank], synchronized=True), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.slow
def test_two_processes_normalize_as_one(gpu, tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    (first, first_gradient), (second, second_gradient) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    wanted, gradient = features(some_images(), synchronized=False)
    assert torch.allclose(torch.cat([first, second]), wanted, atol=1e-3)
    assert torch.allclose((first_gradient + second_gradient) / 2, gradient, rtol=1e-2, atol=1e-4)
