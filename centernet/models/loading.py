"""What timm does with a file of weights: it copies the tensors whose names fit and leaves out the others in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from centernet.errors import InputError, some

COUNTER = "num_batches_tracked"  # of a batch norm, not a weight


@dataclass(frozen=True)
class Loading:
    """Names of a network's tensors, of those that a file has too, and of those that only the file has; counters and the
    classifier are left out."""

    wanted: list[str]
    matched: list[str]
    unused: list[str]

    @property
    def missing(self) -> list[str]:
        """Names of the tensors that stay as initialized."""
        matched = set(self.matched)
        return [name for name in self.wanted if name not in matched]


@contextmanager
def watched_loading() -> Iterator[list[Loading]]:
    """Collects what ``load_state_dict`` does within the block, in any module."""
    seen: list[Loading] = []
    original = nn.Module.load_state_dict

    def load(module: nn.Module, state_dict: Any, *args: Any, **options: Any) -> Any:
        result = original(module, state_dict, *args, **options)
        heads = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
        heads = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))

        def weights(names: Any) -> list[str]:
            return [name for name in names if not name.endswith(COUNTER) and not name.startswith(heads)]

        wanted, missing = weights(module.state_dict()), set(result.missing_keys)
        seen.append(Loading(wanted, [name for name in wanted if name not in missing], weights(result.unexpected_keys)))
        return result

    nn.Module.load_state_dict = load  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def describe_loading(seen: Sequence[Loading], name: str, source: bool | str | Path) -> str:
    """One line on how many tensors of the backbone ``name`` were found in ``source`` (True: timm's weights).

    Raises ``InputError`` if none was.
    """
    said = f"pretrained={'true' if source is True else source}"
    if not seen:  # a few models of timm have readers of their own, which fail if something does not fit
        return f"{said}: weights of {name}, read by timm"
    loading = seen[-1]
    if not loading.matched:
        raise InputError(
            f"{said}: none of the {len(loading.wanted)} tensors of {name} is in it; looked for "
            f"{some(loading.wanted, 3)}; found {some(loading.unused, 3) or 'nothing'}; {_remedy(loading.unused)}"
        )
    line = f"{said}: {len(loading.matched)} of {len(loading.wanted)} tensors of {name} matched"
    if loading.missing:
        line += f"; as initialized: {some(loading.missing)}"
    if loading.unused:
        line += f"; not used: {len(loading.unused)} of the file ({some(loading.unused, 3)})"
    return line


def _remedy(names: Sequence[str]) -> str:
    if any(name.startswith("detector.network.") for name in names):
        return "it is a checkpoint of this project, which is known by its ending: call it NAME.ckpt"
    if any(name.partition(".")[0] == "hm" for name in names):
        return "it is a checkpoint of the original: convert it with scripts/convert_checkpoint.py"
    return "give weights of this network, with timm's names"
