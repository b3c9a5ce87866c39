"""Networks: backbone -> neck -> CenterHead. They know no task, no loss and no data."""

from centernet.models.centernet import ARCHITECTURES, CenterNet, build_network
from centernet.models.head import CenterHead

__all__ = ["ARCHITECTURES", "CenterHead", "CenterNet", "build_network"]
