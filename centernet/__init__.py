"""CenterNet: objects as points, in PyTorch Lightning and Hydra.

Zhou, Wang, Krähenbühl, "Objects as Points", 2019 (arXiv:1904.07850), with the HarDNet variant of Chao et al., 2019
(arXiv:1909.00948).
"""

import os

# albumentations asks the network for a newer version at import; no import of ours needs the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
