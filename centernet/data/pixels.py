"""Decoded images, kept between epochs: in memory or in a file, shared by all workers of a process."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from centernet.errors import InputError

PLACES = ("auto", "ram", "disk", "none")
# The share of the free memory that `auto` may use, for all processes of this machine together.
SHARE = 0.25


class PixelCache:
    """Images RGB uint8 of known ``sizes [N, 2]`` (height, width), each kept when it is first read.

    ``buffer``: as many bytes as all images together, and one per image that says whether it is there. Workers that are
    forked share it. Where processes are spawned, each would get a copy: a memory buffer is left behind when it is
    pickled, a file is opened again.
    """

    def __init__(self, sizes: np.ndarray, file: Path | None = None) -> None:
        counts = np.asarray(sizes, np.int64).prod(1) * 3
        self.offsets = np.concatenate([[0], counts.cumsum()])
        self.sizes, self.file = np.asarray(sizes, np.int64), file
        self._map()

    def _map(self) -> None:
        total = self.bytes + len(self.sizes)
        if self.file is None:
            memory: Any = mmap.mmap(-1, max(total, 1))
            self.buffer = np.frombuffer(memory, np.uint8)
        else:
            if not self.file.is_file() or self.file.stat().st_size != total:
                _reserve(self.file, total)
            self.buffer = np.memmap(self.file, np.uint8, "r+", shape=(max(total, 1),))

    @property
    def bytes(self) -> int:
        """The memory of all images."""
        return int(self.offsets[-1])

    def get(self, index: int) -> np.ndarray | None:
        """An image ``[H, W, 3]`` that must not be written to, or None if it has not been kept yet."""
        if not self.buffer[self.bytes + index]:
            return None
        image = self.buffer[self.offsets[index] : self.offsets[index + 1]].reshape(*self.sizes[index], 3)
        image.flags.writeable = False
        return image

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep an image, if it has the size that was announced."""
        if image.shape != (*self.sizes[index], 3):
            return
        self.buffer[self.offsets[index] : self.offsets[index + 1]] = image.reshape(-1)
        self.buffer[self.bytes + index] = 1  # last: other workers may look

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "buffer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()


def _reserve(file: Path, total: int) -> None:
    """Make a file of this many zeros that the disk surely has room for: writing beyond a full disk would end a worker
    without a word."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(part, "wb") as new:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(new.fileno(), 0, total)
            else:
                new.truncate(total)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"data.cache=disk needs {total / 2**30:.1f} GiB in {file.parent} ({error.strerror}); set "
            "CENTERNET_CACHE=FOLDER to another disk, or data.cache=none"
        ) from None


def pixel_cache(
    place: str, files: Sequence[str], sizes: np.ndarray, bit_depth: int | None = None, processes: int = 1
) -> PixelCache | None:
    """The cache for these files in this ``place``, None without one.

    ``auto``: memory, if all images take at most a quarter of what is free. ``disk``: a file beside the temporary ones,
    for these files in this state, found again by the next run.
    """
    if place == "none" or not len(sizes) or not (sizes > 0).all():
        return None
    needed = int(sizes.prod(1).sum() * 3)
    if place == "disk":
        return PixelCache(sizes, _file_for(files, sizes, bit_depth))
    if place == "auto" and needed * processes > SHARE * free_memory():
        return None
    return PixelCache(sizes)


def _file_for(files: Sequence[str], sizes: np.ndarray, bit_depth: int | None) -> Path:
    digest = hashlib.sha256(repr(bit_depth).encode())
    for name, size in zip(files, sizes.tolist(), strict=True):
        state = os.stat(name)
        digest.update(f"{name}\0{size}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    folder = Path(os.environ.get("CENTERNET_CACHE") or Path(tempfile.gettempdir()) / "centernet_pixels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data.cache=disk cannot use {folder} ({error.strerror}); set CENTERNET_CACHE=FOLDER"
        ) from None
    return folder / f"{digest.hexdigest()[:32]}.uint8"


def free_memory() -> int:
    """Bytes of memory that programs can still use; 0 where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 0
