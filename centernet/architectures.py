"""The named networks as plain data: their components, and one line about each.

Needs no torch, so help texts and the command line can read it.
"""

from __future__ import annotations

from typing import Any

# `body`: a timm name; `options`: for timm.create_model; `neck`: a name of centernet.models.necks and its options;
# `head_channels`: width of the heads' hidden layer; `head_tower`: how many hidden layers all heads share; `head_start`:
# how the heads are initialized; `about`: one line for help texts, which is not part of a network's description.
# Parameters are counted with the heads of ctdet, 80 classes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Light necks and heads; the smallest has a quarter of ResNet-18's parameters.
    "n": {
        "about": "nano: ResNet-18 at half width with a light pyramid and shared head, 2.9 M parameters; for CPUs",
        "body": "resnet18",
        "options": {"channels": [32, 64, 128, 256]},
        "neck": {"name": "fpn", "channels": 64},
        "head_channels": 64,
        "head_tower": 1,
    },
    "s": {
        "about": "small: ResNet-18 with a light pyramid and shared head, 11.4 M parameters",
        "body": "resnet18",
        "neck": {"name": "fpn", "channels": 96},
        "head_channels": 96,
        "head_tower": 1,
    },
    "m": {
        "about": "medium: ResNet-34 with a light pyramid and shared head, 21.9 M parameters",
        "body": "resnet34",
        "neck": {"name": "fpn", "channels": 128},
        "head_channels": 128,
        "head_tower": 2,
    },
    # A quarter of ResNet-18's parameters; the neck uses all levels.
    "resnet18_half": {
        "about": "ResNet-18 at half width with a DLA-up neck, 3.0 M parameters; for CPUs and small data",
        "body": "resnet18",
        "options": {"channels": [32, 64, 128, 256]},
        "neck": {"name": "dla_up", "channels": 32},
        "head_channels": 64,
    },
    "resnet18": {
        "about": "ResNet-18 with three transposed convolutions, 15.8 M parameters; small and simple",
        "body": "resnet18",
        "neck": {"name": "deconv"},
        "head_channels": 64,
    },
    "resnet34": {
        "about": "ResNet-34 with three transposed convolutions, 25.9 M parameters",
        "body": "resnet34",
        "neck": {"name": "deconv"},
        "head_channels": 64,
    },
    "resnet101": {
        "about": "ResNet-101 with three transposed convolutions, 53.4 M parameters",
        "body": "resnet101",
        "neck": {"name": "deconv"},
        "head_channels": 64,
    },
    "resdcn18": {
        "about": "ResNet-18 with deformable and transposed convolutions, 14.4 M parameters",
        "body": "resnet18",
        "neck": {"name": "deconv", "channels": [256, 128, 64], "deformable": True, "bilinear": "first"},
        "head_channels": 64,
        "head_start": "small",
    },
    "resdcn101": {
        "about": "ResNet-101 with deformable and transposed convolutions, 49.7 M parameters",
        "body": "resnet101",
        "neck": {"name": "deconv", "channels": [256, 128, 64], "deformable": True, "bilinear": "first"},
        "head_channels": 64,
        "head_start": "small",
    },
    "dlav0_34": {
        "about": "DLA-34 with plain iterative aggregation, 17.9 M parameters; no deformable convolutions",
        "body": "dla34",
        "neck": {"name": "dla_up"},
        "head_channels": 256,
        "head_start": "small",
    },
    "dla34": {
        "about": "DLA-34 with deformable aggregation, 19.6 M parameters; used by most published results",
        "body": "dla34",
        "neck": {"name": "dla_up", "deformable": True},
        "head_channels": 256,
        "head_start": "zero_bias",
    },
    "hourglass104": {
        "about": "Hourglass-104, two supervised stacks, 191.3 M parameters; input in multiples of 128",
        "body": "hourglass104",
        "neck": {"name": "passthrough"},
        "head_channels": 256,
        "head_start": "default",
    },
    "hardnet68": {
        "about": "HarDNet-68 with its U-shaped neck, 20.7 M parameters",
        "body": "hardnet68",
        "neck": {
            "name": "hardnet_up",
            "project": 192,
            "growth": [72, 48, 32, 20],
            "widths": [256, 128, 64],
            "skips": 2,
        },
        "head_channels": {"at_least": 128, "per_channel": 4},
        "head_start": "kaiming",
    },
    "hardnet85": {
        "about": "HarDNet-85 with its U-shaped neck, 37.3 M parameters; the most accurate single stack",
        "body": "hardnet85",
        "neck": {"name": "hardnet_up"},
        "head_channels": {"at_least": 128, "per_channel": 4},
        "head_start": "kaiming",
    },
}
# Used for any other timm network.
DEFAULT_ARCHITECTURE: dict[str, Any] = {"neck": {"name": "deconv", "channels": [256, 128, 64]}, "head_channels": 64}
