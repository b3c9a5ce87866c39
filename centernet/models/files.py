"""Files written by ``torch.save``, read without running code, with a reason when one cannot be read."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from centernet.errors import InputError

# How torch.save begins a file: a zip archive, or (before 1.6) the pickle of a magic number.
ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
NO_CHECKPOINT = "the file is not a PyTorch checkpoint; give a .pth or .ckpt file written by torch.save"


def read_file(path: str | Path) -> Any:
    """The content of a ``.pth`` or ``.ckpt`` file, as plain data and tensors on the CPU, without running code of the
    file.

    Raises ``InputError`` for a file that is missing, truncated, not a checkpoint, or that requires running code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist; give a checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles; the message below is clearer
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an arbitrary file can fail in any way
        raise InputError(f"{path}: {_why_unreadable(path, str(error))}") from None


def _why_unreadable(path: Path, message: str) -> str:
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    is_zip, is_legacy = start.startswith(ZIP_START), start == LEGACY_START
    found = re.search(r"GLOBAL ([\w.]+)", message)
    code = found[1] if found else None if is_zip or is_legacy else _find_code(path)
    if code:
        return (
            f"refused, because reading it would run its code ({code}); get a file with tensors only, such as from "
            "torch.save(model.state_dict(), path)"
        )
    if is_zip and not zipfile.is_zipfile(path):
        return "the file is truncated (its archive has no end); download or copy it again"
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return NO_CHECKPOINT
        if "TorchScript" in message:
            return "the file is a TorchScript program, not a checkpoint; give the .pth file it was made from"
    return "the file is truncated or damaged; download or copy it again" if is_zip or is_legacy else NO_CHECKPOINT


def _find_code(path: Path) -> str | None:
    """The first function or class that a plain pickle asks for; found without loading it."""
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                if "UNICODE" in operation.name:
                    words.append(str(argument))
    except (ValueError, OverflowError):
        pass  # not a pickle
    return None
