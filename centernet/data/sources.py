"""Sources of images: files, folders, patterns, lists, archives, animations, videos, cameras, streams, standard input.

``open_source`` tells from the words what is meant; frames are read on demand, one at a time, whatever their number.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import queue
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from centernet.data.images import SUFFIXES, decode_image, find_images, read_image
from centernet.errors import InputError

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".flv"}
ANIMATIONS = {".gif", ".apng"}
USUAL_RATE = 25.0  # frames per second of a video that does not tell
# A container may count a few frames that its decoder does not give.
MISSING_SHARE = 0.02
CHUNK = 2**16

T = TypeVar("T")


class Frame(NamedTuple):
    """One image of a source. ``name``: relative, unique within the source, without a suffix only in videos;
    ``image``: RGB uint8 ``[H, W, 3]``, or the error for one that cannot be read; ``path``: its file, if it has one."""

    name: str
    image: np.ndarray | InputError
    path: Path | None = None


class Source:
    """Images in order. ``about``: what it was taken for; ``count``: how many there are, None if that is not known;
    ``rate``: frames per second of a video, None for single images; ``files``: the files by the names of their frames,
    None if the images are not files of their own."""

    def __init__(
        self,
        about: str,
        frames: Callable[[], Iterator[Frame]],
        count: int | None = None,
        rate: float | None = None,
        files: dict[str, Path] | None = None,
    ) -> None:
        self.about, self.count, self.rate, self.files = about, count, rate, files
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return self._frames()


def open_source(words: str | Path | list[str], bit_depth: int | None = None, stdin: BinaryIO | None = None) -> Source:
    """The source that the words name, several of which follow each other.

    A word is an image, an animation (GIF, animated PNG or WebP), a video, a folder, a pattern (``*``, ``**``), a zip,
    a text file with a path per line, the number of a camera, the address of a stream, or ``-``: images from standard
    input (``stdin``), one after the other. ``bit_depth``: see ``read_image``. Raises ``InputError`` for a source that
    does not exist or has no images.
    """
    words = [words] if isinstance(words, (str, Path)) else list(words)
    if not words:
        raise InputError("no source is given; give images, folders, videos, or - for standard input")
    parts = [_open(str(word), bit_depth, stdin) for word in words]
    if len(parts) == 1:
        return parts[0]
    counts = [part.count for part in parts]
    count = None if None in counts else sum(count for count in counts if count is not None)
    files = None
    if all(part.files is not None for part in parts):
        pairs = [(name, path) for part in parts for name, path in (part.files or {}).items()]
        files = dict(zip(_different([name for name, _ in pairs]), (path for _, path in pairs), strict=True))
    return Source(
        f"{len(parts)} sources", lambda: _unique(frame for part in parts for frame in part), count, None, files
    )


def _open(word: str, bit_depth: int | None, stdin: BinaryIO | None) -> Source:
    path = Path(word)
    if word == "-":
        return Source("standard input", lambda: _from_stream(stdin or sys.stdin.buffer, bit_depth))
    if word.isdigit() and not path.exists():
        return _video(int(word), f"camera {word}", f"camera_{word}", live=True)
    if "://" in word:
        return _video(word, f"stream {word}", "stream", live=True)
    if any(sign in word for sign in "*?[") and not path.exists():
        found = sorted(Path(each) for each in glob.glob(word, recursive=True) if Path(each).suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"no image matches {word}; check the pattern")
        return _files(found, f"{len(found)} images of {word}", bit_depth)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image, a folder, a video, or - for standard input")
    if path.is_dir():
        found = find_images(path)
        return _files(found, f"{len(found)} images below {path}", bit_depth, path)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _listed(path, bit_depth)
    if suffix == ".zip":
        return _archive(path, bit_depth)
    if suffix in VIDEOS:
        return _video(str(path), f"video {path}", path.stem)
    if suffix in ANIMATIONS or (suffix in (".webp", ".png") and _frame_count(path) > 1):
        return _animation(path)
    return _files([path], f"image {path}", bit_depth)


def _different(names: Iterable[str]) -> Iterator[str]:
    """Names made different by a number."""
    seen: dict[str, int] = {}
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        path = Path(name)
        yield name if count == 1 else str(path.with_name(f"{path.stem}_{count}{path.suffix}"))


def _unique(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames with names that are all different."""
    kept, named = itertools.tee(frames)
    for frame, name in zip(kept, _different(frame.name for frame in named), strict=True):
        yield frame._replace(name=name)


def _tried(read: Callable[[], np.ndarray]) -> np.ndarray | InputError:
    try:
        return read()
    except InputError as error:
        return error


def _files(files: list[Path], about: str, bit_depth: int | None, root: Path | None = None) -> Source:
    names = _different(str(file.relative_to(root)) if root else file.name for file in files)
    named = dict(zip(names, files, strict=True))

    def frames() -> Iterator[Frame]:
        for name, file in named.items():
            yield Frame(name, _tried(lambda file=file: read_image(file, bit_depth=bit_depth)), file)  # type: ignore[misc]

    return Source(about, frames, len(files), files=named)


def _listed(path: Path, bit_depth: int | None) -> Source:
    """Images by a text file: a path per line, from the working folder or from the file's; ``#`` begins a comment."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    files = [Path(line) for line in lines if line and not line.startswith("#")]
    if not files:
        raise InputError(f"{path} lists no images; write one path per line")
    files = [file if file.exists() else path.parent / file for file in files]
    return _files(files, f"{len(files)} images listed in {path}", bit_depth)


def _archive(path: Path, bit_depth: int | None) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} cannot be read as a zip ({error}); replace it") from None
    if not names:
        raise InputError(f"{path} has no images; give a zip with {', '.join(sorted(SUFFIXES))}")

    def frames() -> Iterator[Frame]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                # A name must not lead out of the output folder.
                safe = "/".join(part for part in Path(name).parts if part not in ("..", "/", "\\"))
                yield Frame(safe, _tried(lambda name=name: _member(archive, path, name, bit_depth)))  # type: ignore[misc]

    return Source(f"{len(names)} images of {path}", lambda: _unique(frames()), len(names))


def _member(archive: zipfile.ZipFile, path: Path, name: str, bit_depth: int | None) -> np.ndarray:
    try:
        data = archive.read(name)
    except (zipfile.BadZipFile, RuntimeError, OSError, NotImplementedError) as error:  # damaged, or encrypted
        raise InputError(f"image {name} of {path} cannot be unpacked ({error}); replace it") from None
    return decode_image(f"{name} of {path}", data, bit_depth=bit_depth)


def _frame_count(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return 1


def _animation(path: Path) -> Source:
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            image.load()  # some formats tell the pause with a frame
            pause = float(image.info.get("duration") or 0)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise InputError(f"image {path} cannot be read ({error}); replace or remove it") from None

    def frames() -> Iterator[Frame]:
        with Image.open(path) as image:
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                # On black, as files with alpha are read.
                yield Frame(_numbered(path.stem, number), np.array(frame.convert("RGBA"))[..., :3].copy())

    return Source(f"animation {path}", frames, count, 1000 / pause if pause else USUAL_RATE)


def _numbered(stem: str, number: int) -> str:
    return f"{stem}_{number:06d}"


def _video(address: str | int, about: str, stem: str, live: bool = False) -> Source:
    capture = cv2.VideoCapture(address)
    try:
        if not capture.isOpened():
            what = "connect it, and check that no other program uses it" if live else "check that it is a video"
            raise InputError(f"{about} cannot be opened; {what}")
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = None if live else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        if not live:
            capture.release()
    rate = rate if 0 < rate < 1000 else USUAL_RATE

    def frames() -> Iterator[Frame]:
        opened = capture if live else cv2.VideoCapture(address)
        number = 0
        try:
            while True:
                is_read, image = opened.read()
                if not is_read:
                    break
                yield Frame(_numbered(stem, number), cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                number += 1
        finally:
            opened.release()
        if live:
            yield Frame(_numbered(stem, number), InputError(f"{about} ended after {number} frames"))
        elif count and number < count * (1 - MISSING_SHARE) - 1:
            reason = f"{about} breaks off after {number} of {count} frames; get an undamaged copy"
            yield Frame(_numbered(stem, number), InputError(reason))

    return Source(about, frames, count if count and count > 0 else None, rate)


def _from_stream(stream: BinaryIO, bit_depth: int | None) -> Iterator[Frame]:
    """Images from bytes, JPEG and PNG files one after the other, or a single file of another format."""
    number = 0
    for data in split_images(stream):
        name = _numbered("stdin", number)
        yield Frame(name, _tried(lambda data=data, name=name: decode_image(name, data, bit_depth=bit_depth)))  # type: ignore[misc]
        number += 1
    if not number:
        yield Frame("stdin", InputError("standard input has no image; pipe one in, as in: cat image.jpg | ..."))


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """The files in a stream of JPEG and PNG files without anything in between; the rest of it for any other format."""
    data = b""
    while True:
        more = stream.read(CHUNK)
        data += more
        while data and (end := _end_of_image(data)) is not None:
            yield data[:end]
            data = data[end:]
        if not more:
            if data:
                yield data
            return


def _end_of_image(data: bytes) -> int | None:
    """Where the first file of ``data`` ends; None if it goes on, or is of another format."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while at + 12 <= len(data):
            size = 12 + int.from_bytes(data[at : at + 4], "big")
            if data[at + 4 : at + 8] == b"IEND":
                return at + size if at + size <= len(data) else None
            at += size
        return None
    if data.startswith(b"\xff\xd8"):
        # Thumbnails lie inside segments, which are jumped over; pixels are escaped.
        at = 2
        while at + 4 <= len(data):
            if data[at] != 0xFF:
                at += 1
            elif data[at + 1] == 0xD9:
                return at + 2
            elif data[at + 1] in (0x00, 0x01, 0xFF) or 0xD0 <= data[at + 1] <= 0xD7:
                at += 1 if data[at + 1] == 0xFF else 2
            elif data[at + 1] == 0xDA:
                at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
                following = data.find(b"\xff", at)
                while following != -1 and following + 1 < len(data) and data[following + 1] in (0, *range(0xD0, 0xD8)):
                    following = data.find(b"\xff", following + 2)
                if following == -1 or following + 1 >= len(data):
                    return None
                at = following
            else:
                at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        return at + 2 if data[at : at + 2] == b"\xff\xd9" else None
    return None


def ahead(items: Iterable[T], count: int = 4) -> Iterator[T]:
    """The same items, up to ``count`` of them fetched by another thread before they are asked for.

    An error there is raised here, at its place; closing the iterator ends the thread.
    """
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(count)
    stop = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(timeout=5)
