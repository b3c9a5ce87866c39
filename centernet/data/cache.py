"""What was read from a large file, kept beside it, so that the next start need not read it again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

log = logging.getLogger(__name__)

LEAST_BYTES = 32 * 2**20  # smaller files are read in a second or two

# Plain data (as JSON holds it), and arrays by group and name.
Content = tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]


def read_once(source: Path, data: bytes, options: Any, read: Callable[[], Content]) -> Content:
    """What ``read()`` makes of ``data``, the content of the file ``source``, from an earlier start if there was one.

    ``options``: plain data, all else that the result depends on. It is stored in ``source.KEY.cache.npz``, KEY standing
    for the options, and holds for the same content of the file only. Files below ``LEAST_BYTES`` are read each time.
    The file is replaced as a whole, so any number of processes may start at once; a folder without permission to
    write does no harm.
    """
    if len(data) < LEAST_BYTES:
        return read()
    key = hashlib.sha256(json.dumps(options, sort_keys=True, default=repr).encode()).hexdigest()[:12]
    path = source.with_name(f"{source.name}.{key}.cache.npz")
    digest = hashlib.sha256(data).hexdigest()
    found = _load(path, digest)
    if found is None:
        found = read()
        _save(path, digest, found)
    return found


def _load(path: Path, digest: str) -> Content | None:
    """The content of a cache for a file of this digest; None if there is none, or it is damaged."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            known = json.loads(stored["plain"].tobytes())
            if known["digest"] != digest:
                return None
            for name in stored.files:
                group, _, field = name.partition(".")
                if field:
                    arrays.setdefault(group, {})[field] = stored[name]
        return known["plain"], arrays
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        log.debug("%s is not used (%s)", path, error)
        return None


def _save(path: Path, digest: str, content: Content) -> None:
    plain, arrays = content
    known = np.frombuffer(json.dumps({"digest": digest, "plain": plain}).encode(), np.uint8)
    flat = {f"{group}.{name}": value for group, named in arrays.items() for name, value in named.items()}
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        try:
            with part.open("wb") as file:
                np.savez(file, plain=known, **flat)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s is not written (%s)", path, error)
