"""Plugins of Lightning's Trainer: how checkpoints are written, batch norm is synchronized, the network is compiled, and
its activations are computed twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import LayerSync, TorchCheckpointIO

from centernet.errors import InputError
from centernet.models.checkpointing import checkpoint_activations
from centernet.models.layers import separate_norms, synchronize_norms


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and then replaces the target, so a file is complete or absent.

    Lightning stages files in the temporary directory, which may be another filesystem. Raises ``InputError`` if the
    file cannot be written; the previous one stays as it was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        # A name of its own for each process and no suffix .ckpt: a leftover of a killed process is never loaded.
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a short write
            part.unlink(missing_ok=True)
            if "DataLoader worker" in str(error):  # raised by a signal, wherever the process is
                raise
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(
                f"checkpoint {path} cannot be written ({reason}); free space, or choose another folder with "
                "paths.run=DIR"
            ) from None


class NormSync(LayerSync):
    """Batch norm over all processes. Lightning's own plugin drops the activations of timm's norms."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return synchronize_norms(model)

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        return separate_norms(model)


class Compile(Callback):
    """Compiles the network when a run starts. In place, so checkpoints keep the names of its weights.

    Batches of a second size, such as the last one of validation, compile once more, and then all sizes are covered.
    Raises ``InputError`` without a C++ compiler, which torch.compile needs.
    """

    def __init__(self) -> None:
        compilers = [os.environ.get("CXX"), "g++", "clang++"]
        if not any(shutil.which(name) for name in compilers if name):
            raise InputError(
                "trainer.compile=true needs a C++ compiler, and neither g++ nor clang++ is installed; install one or "
                "use trainer.compile=false"
            )

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        module.detector.network.compile()


class CheckpointActivations(Callback):
    """Lets the network compute its activations again in the backward pass (``checkpoint_activations``)."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            checkpoint_activations(module.detector.network)
