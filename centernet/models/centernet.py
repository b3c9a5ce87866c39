"""CenterNet: backbone -> neck -> CenterHead, and the published combinations by name.

Objects as Points, Sec. 5 and Appendix A.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import centernet.models.backbones  # noqa: F401  registers ours with timm
from centernet.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from centernet.errors import did_you_mean
from centernet.models.files import read_file
from centernet.models.head import CenterHead
from centernet.models.layers import guard_point_convolutions
from centernet.models.loading import describe_loading, watched_loading
from centernet.models.necks import NECKS
from centernet.structures import Head, InputError

log = logging.getLogger(__name__)

SMALL = 64  # pixels on a side that nearly all convolutional networks take, or the next multiple of their divisor


class CenterNet(nn.Module):
    """A network that turns images ``[B, 3, H, W]`` (normalized, RGB) into raw maps at stride ``stride``.

    Forward returns one ``{head: [B, C, H / stride, W / stride]}`` per stack; losses average over the list, decoding
    reads the last. ``divisor``: height and width of the input must be multiples of it.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: CenterHead) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.stride: int = neck.stride
        needs = [getattr(part, "divisor", 1) for part in (backbone, neck)]
        self.divisor: int = max(*backbone.feature_info.reduction(), *needs)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return self.head(self.neck(self.backbone(images)))


def network_spec(backbone: str | Mapping[str, Any]) -> dict[str, Any]:
    """The full plain-data description of a network: ``{name, body, options, neck: {name, ...}, head_channels,
    head_start, head_tower}``, where ``body`` is the timm name of the backbone and ``options`` go to
    ``timm.create_model``.

    ``backbone`` is a name of ``ARCHITECTURES`` or of timm, or a mapping with ``name`` and the keys that differ.
    """
    given = {"name": backbone} if isinstance(backbone, str) else dict(backbone)
    name = given.pop("name")
    base = {"name": name, "options": {}, **ARCHITECTURES.get(name, {"body": name, **DEFAULT_ARCHITECTURE})}
    base.pop("about", None)  # for people; the description is stored in checkpoints
    known = ("body", "options", "neck", "head_channels", "head_start", "head_tower")
    if unknown := [key for key in given if key not in known]:
        raise InputError(f"backbone {name!r} has no option {unknown[0]!r}; choose from {', '.join(known)}")
    given = {key: value for key, value in given.items() if value is not None}
    neck = given.pop("neck", None)
    if isinstance(neck, str):
        neck = {"name": neck}
    spec = {**base, **given}
    if neck:
        same = neck.get("name", base["neck"]["name"]) == base["neck"]["name"]
        spec["neck"] = {**(base["neck"] if same else {}), **neck}
    return spec


def build_network(
    backbone: str | Mapping[str, Any], heads: Mapping[str, Head], pretrained: bool | str | Path = False
) -> CenterNet:
    """Build a network from plain data.

    ``pretrained``: True for timm's weights of the backbone (needs the hub, once), a path for a local weight file of the
    backbone, False for none. Raises ``InputError`` for an unknown name (with close names), an incompatible neck, or
    unavailable weights.
    """
    spec = network_spec(backbone)
    body = _create_backbone(spec["body"], pretrained, spec["options"])
    levels = [i for i, r in enumerate(body.feature_info.reduction()) if r >= 4]
    neck_options = dict(spec["neck"])
    neck_name = neck_options.pop("name")
    if neck_name not in NECKS:
        raise InputError(f"unknown neck {neck_name!r}; choose one of {', '.join(NECKS)}")
    channels, reductions = body.feature_info.channels(), body.feature_info.reduction()
    try:
        neck = NECKS[neck_name]([channels[i] for i in levels], [reductions[i] for i in levels], **neck_options)
    except TypeError as error:
        raise InputError(f"neck {neck_name!r} does not take these options: {error}") from None
    head = CenterHead(
        neck.out_channels,
        heads,
        spec["head_channels"],
        num_stacks=getattr(neck, "num_stacks", 1),
        start=spec.get("head_start", "small_last"),
        tower=spec.get("head_tower", 0),
    )
    backbone = _Levels(body, levels)
    network = CenterNet(backbone, neck, head)
    guard_point_convolutions(network)
    _freeze_unused(network, spec["options"].get("img_size") or timm.get_pretrained_cfg(spec["body"]).input_size[1:])
    return network


def divisor_of(backbone: str | Mapping[str, Any]) -> int:
    """The number that the input sizes of a network must be multiples of; allocates no weights."""
    with torch.device("meta"):
        return build_network(backbone, {}).divisor


def require_divisible(resolution: Sequence[int], divisor: int) -> None:
    """Raise ``InputError`` with the nearest valid sizes if height or width is not a multiple of ``divisor``."""
    try:
        height, width = (int(side) for side in resolution)
    except (TypeError, ValueError):
        raise InputError(f"resolution={resolution!r} must be [height, width], such as [512,512]") from None
    if height % divisor == 0 and width % divisor == 0 and height > 0 and width > 0:
        return

    def near(side: int, up: bool) -> int:
        return max(divisor, (side // divisor + (up and side % divisor > 0)) * divisor)

    low, high = (near(height, False), near(width, False)), (near(height, True), near(width, True))
    nearest = f"{low[0]}x{low[1]}" + (f", {high[0]}x{high[1]}" if high != low else "")
    raise InputError(f"input {height}x{width} is not divisible by {divisor}; use {nearest}")


def has_trained_weights(backbone: str | Mapping[str, Any]) -> bool:
    """Whether timm has trained weights for the body of a network, unchanged by options of its own."""
    spec = network_spec(backbone)
    known = timm.get_pretrained_cfg(spec["body"]) if timm.is_model(spec["body"]) else None
    return bool(known and known.has_weights and not spec["options"])


class _Levels(nn.Module):
    """A timm feature extractor reduced to the levels that a neck can use (stride 4 and coarser)."""

    def __init__(self, body: nn.Module, levels: list[int]) -> None:
        super().__init__()
        self.body, self.levels, self.feature_info = body, levels, body.feature_info
        self.divisor: int = getattr(getattr(body, "model", body), "divisor", 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.body(x)
        return [features[i] for i in self.levels]


def _freeze_unused(network: CenterNet, usual: int | Sequence[int]) -> None:
    """Do not train the parameters that no output depends on, such as those of levels that the neck leaves out (timm's
    HRNet): several processes would wait for their gradients.

    Found by one pass over a small image, or over one of the body's ``usual`` size if it takes no small ones. Where
    neither works, nothing is known and everything is trained.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return  # it is not going to be trained
    side = -(-SMALL // network.divisor) * network.divisor
    body = nn.Sequential(network.backbone, network.neck)
    device = next(body.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    for shape in ((2, 3, side, side), (1, 3, *((usual, usual) if isinstance(usual, int) else usual))):
        buffers = {name: value.clone() for name, value in body.named_buffers()}  # batch norms write to theirs
        try:
            with torch.random.fork_rng(cuda), torch.enable_grad():
                outputs = torch.func.functional_call(body, buffers, torch.zeros(shape, device=device))
            break
        except Exception:  # whatever a library's network raises for a size that it does not take
            continue
    else:
        return
    used, waiting, seen = set(), [output.grad_fn for output in outputs], set()
    while waiting:
        if (node := waiting.pop()) is None or node in seen:
            continue
        seen.add(node)
        used.add(id(getattr(node, "variable", None)))
        waiting += [following for following, _ in node.next_functions]
    for parameter in body.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def _create_backbone(name: str, pretrained: bool | str | Path, extra: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        hint = did_you_mean(name, {*ARCHITECTURES, *timm.list_models()}, "timm.list_models() lists the names")
        raise InputError(f"unknown backbone {name!r}; {hint}")
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size and not extra:
        size = "x".join(map(str, config.input_size[1:]))
        raise InputError(f"timm's {name!r} takes {size} images only; choose a convolutional backbone")
    options: dict[str, Any] = {"features_only": True, **extra}
    if isinstance(pretrained, (str, Path)):
        if not Path(pretrained).is_file():
            raise InputError(f"pretrained={pretrained} is not an existing file; give a weight file, true or false")
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(pretrained)}}
    elif pretrained:
        options["pretrained"] = True
        check_hub(name)
    try:
        with watched_loading() as seen:
            body = timm.create_model(name, **options)
    except TypeError as error:
        raise InputError(f"timm's {name!r} does not take these options: {error}") from None
    except Exception as error:  # a file can fail in any way
        if "pretrained" in options:
            raise _misfit(name, pretrained, error) from error
        if not isinstance(error, (RuntimeError, AttributeError, NotImplementedError)):
            raise
        raise InputError(f"timm's {name!r} gives no feature maps ({error}); choose a convolutional backbone") from error
    if "pretrained" in options:
        log.info(describe_loading(seen, name, pretrained))
    return body


def _misfit(name: str, pretrained: bool | str | Path, error: Exception) -> InputError:
    """Why weights cannot be loaded into timm's network ``name``."""
    if pretrained is not True and Path(pretrained).suffix not in (".safetensors", ".npz"):
        read_file(pretrained)  # says what is wrong with the file, if it is the file
    reason = " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")
    return InputError(f"pretrained={pretrained} does not fit {name!r} ({reason}); give weights of this network")


def check_hub(name: str) -> None:
    """Raise ``InputError`` early if the weights of ``name`` are neither cached nor downloadable."""
    import os
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants, try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(f"timm has no pretrained weights for {name!r}; set pretrained=false or pretrained=FILE")
    if cfg.hf_hub_id:
        for file in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str):
                return
        url = urlparse(constants.ENDPOINT)
    elif cfg.url:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(cfg.url).path).name
        if cached.is_file():
            return
        url = urlparse(cfg.url)
    else:
        return
    reason = ""
    if constants.HF_HUB_OFFLINE and cfg.hf_hub_id:
        reason = "offline mode is set"
    else:
        # If a proxy is set, it must be reachable instead.
        proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
        target = urlparse(proxy) if proxy else url
        try:
            socket.create_connection((target.hostname, target.port or 443), timeout=5).close()
        except OSError as error:
            reason = str(error)
    if reason:
        raise InputError(
            f"pretrained weights of {name!r} cannot be downloaded from {url.hostname} ({reason}); set pretrained=false "
            "for random weights, or pretrained=FILE for a local file"
        )
