"""Networks: backbone -> neck -> CenterHead. Independent of tasks, losses and data."""

from centernet.models.centernet import ARCHITECTURES, CenterNet, build_network
from centernet.models.head import CenterHead

__all__ = ["ARCHITECTURES", "CenterHead", "CenterNet", "build_network"]
