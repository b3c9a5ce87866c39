"""Terms of observation angles: two overlapping bins, or twelve bins.

Mousavian et al., 2017 (arXiv:1612.00496), Sec. 3, as Objects as Points uses it; MonoDLE (arXiv:2103.16237) for twelve.
"""

from __future__ import annotations

import torch
from torch import Tensor

from centernet.ops.camera import wrap_angle
from centernet.structures import Detections, Objects, Target
from centernet.tasks.terms.base import About, Peaks, Placed, Regression

# The two bins of alpha: their centers and half-widths (they overlap by 60 degrees).
BIN_MIDDLES = (-torch.pi / 2, torch.pi / 2)
BIN_REACH = 2 * torch.pi / 3
HEADING_BINS = 12
HEADING_STEP = 2 * torch.pi / HEADING_BINS
# A logit of near certainty.
SURE = 10.0


class Angle(Regression):
    """Observation angle ``alpha`` in -pi .. pi; a subclass defines the encoding."""

    needs = ("alpha",)

    def __init__(self, name: str, about: About, weight: float = 1.0) -> None:
        super().__init__(name, about, weight)

    def code(self, alpha: Tensor) -> Tensor:
        """Targets ``[..., C]`` of angles ``[...]``."""
        raise NotImplementedError

    def angle(self, values: Tensor) -> Tensor:
        """Angles ``[...]`` encoded by values ``[..., C]`` of the map."""
        raise NotImplementedError

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return self.code(objects["alpha"].float()), placed.is_object

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"alpha": self.angle(values)}


class TwoBins(Angle):
    """Two overlapping bins, each with two logits (outside, inside) and the sine and cosine of the residual."""

    known_losses = ("multi_bin",)
    channels = 8

    def code(self, alpha: Tensor) -> Tensor:
        """Whether the angle lies in each bin (0 or 1), and the residual: alpha minus the bin's center, not wrapped
        (only its sine and cosine matter), 0 outside."""
        residual = torch.stack([alpha - middle for middle in BIN_MIDDLES], -1)
        inside = (wrap_angle(residual).abs() < BIN_REACH).to(alpha.dtype)
        return torch.cat([inside, torch.where(inside > 0, residual, 0)], -1)

    def angle(self, values: Tensor) -> Tensor:
        """From the bin with the higher inside logit."""
        bins = values.unflatten(-1, (2, 4))
        angle = torch.atan2(bins[..., 2], bins[..., 3]) + values.new_tensor(BIN_MIDDLES)
        return wrap_angle(torch.where(bins[..., 0, 1] > bins[..., 1, 1], angle[..., 0], angle[..., 1]))

    def mirror(self, values: Tensor) -> Tensor:
        # alpha becomes pi - alpha: both bins map to themselves, and residuals change sign.
        return values * values.new_tensor([1, 1, -1, 1] * 2)[:, None, None]

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        inside, residual = super().perfect(target, grid_size).chunk(2, 1)
        sure = (2 * inside - 1) * SURE
        return torch.stack([-sure, sure, residual.sin(), residual.cos()], 2).flatten(1, 2)


class TwelveBins(Angle):
    """Twelve directions: a logit for each, and the residual from each (radians)."""

    channels = 2 * HEADING_BINS
    known_losses = ("heading_bins",)

    def code(self, alpha: Tensor) -> Tensor:
        """Index of the nearest direction, and the residual."""
        nearest = (alpha / HEADING_STEP).round()
        return torch.stack([nearest % HEADING_BINS, alpha - nearest * HEADING_STEP], -1)

    def angle(self, values: Tensor) -> Tensor:
        logits, residuals = values.chunk(2, -1)
        which = logits.argmax(-1, keepdim=True)
        return wrap_angle((which * HEADING_STEP + residuals.gather(-1, which)).squeeze(-1))

    def mirror(self, values: Tensor) -> Tensor:
        # Directions n and 6 - n are swapped, and residuals change sign.
        mirrored = [(HEADING_BINS // 2 - n) % HEADING_BINS for n in range(HEADING_BINS)]
        logits, residuals = values.chunk(2, 1)
        return torch.cat([logits[:, mirrored], -residuals[:, mirrored]], 1)

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        which, residual = super().perfect(target, grid_size).split(1, 1)
        bins = torch.arange(HEADING_BINS, device=which.device)[:, None, None]
        is_it = (which.round().long() == bins).to(which.dtype)
        return torch.cat([SURE * is_it, residual * is_it], 1)
