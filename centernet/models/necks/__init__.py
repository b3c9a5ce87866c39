"""Necks: the backbone's levels in, one feature map per stack out (stride 4).

The contract: ``Neck(in_channels, reductions, **options)``, then ``out_channels``, ``stride`` and
``forward(list[Tensor]) -> list[Tensor]``; ``num_stacks`` where there is more than one, ``divisor`` where the input's
size must be a multiple of more than the backbone's coarsest stride.
"""

from centernet.models.necks.deconv import DeconvNeck
from centernet.models.necks.dla_up import DLAUp
from centernet.models.necks.fpn import FPN
from centernet.models.necks.hardnet_up import HarDNetUp
from centernet.models.necks.passthrough import Passthrough

NECKS = {"deconv": DeconvNeck, "dla_up": DLAUp, "fpn": FPN, "hardnet_up": HarDNetUp, "passthrough": Passthrough}

__all__ = ["FPN", "NECKS", "DLAUp", "DeconvNeck", "HarDNetUp", "Passthrough"]
