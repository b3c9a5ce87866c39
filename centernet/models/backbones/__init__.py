"""Backbones that timm lacks; importing this package registers them there."""

from centernet.models.backbones import hardnet, hourglass

__all__ = ["hardnet", "hourglass"]
