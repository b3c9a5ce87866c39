"""Necks: the backbone's levels in, one feature map per stack out (stride 4).

The contract: ``Neck(in_channels, reductions, **options)``, then ``out_channels``, ``stride`` and
``forward(list[Tensor]) -> list[Tensor]``.
"""

from centernet.models.necks.deconv import DeconvNeck
from centernet.models.necks.dla_up import DLAUp

NECKS = {"deconv": DeconvNeck, "dla_up": DLAUp}

__all__ = ["NECKS", "DLAUp", "DeconvNeck"]
