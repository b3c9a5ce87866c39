"""Sources: whatever the words name, its images come one by one, in order, under names of their own."""

from __future__ import annotations

import io
import threading
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from centernet.data.images import read_image
from centernet.data.outputs import VideoFile
from centernet.data.sources import ahead, open_source, split_images
from centernet.structures import InputError
from tests.tiny import make_image


def save(path: Path, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_image(seed=seed)).save(path, **options)
    return path


def names(source) -> list[str]:
    return [frame.name for frame in source]


def video(path: Path, count: int = 12) -> Path:
    writer = VideoFile(path, 10)
    for n in range(count):
        writer.write(np.full((48, 64, 3), 20 * n, np.uint8))
    writer.close()
    return path


def test_an_image_a_folder_a_pattern_and_a_list_are_told_apart(tmp_path, monkeypatch):
    for n, name in enumerate(("b/ä 1.png", "b/a.jpg", "c/a.jpg")):
        save(tmp_path / name, n)
    assert names(open_source(tmp_path / "b" / "a.jpg")) == ["a.jpg"]
    folder = open_source(tmp_path)
    assert (names(folder), folder.count, folder.rate) == (["b/a.jpg", "b/ä 1.png", "c/a.jpg"], 3, None)
    assert names(open_source(str(tmp_path / "**" / "*.jpg"))) == ["a.jpg", "a_2.jpg"]
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("# two of them\nb/a.jpg\n\nc/a.jpg\n")
    listed = open_source("list.txt")
    assert names(listed) == ["a.jpg", "a_2.jpg"]
    assert list(listed.files.values()) == [Path("b/a.jpg"), Path("c/a.jpg")]
    (tmp_path / "c" / "own.txt").write_text("a.jpg\n")  # relative to the list
    assert names(open_source("c/own.txt")) == ["a.jpg"]
    several = open_source(["c", "b/a.jpg", "b"])
    assert names(several) == ["a.jpg", "a_2.jpg", "a_3.jpg", "ä 1.png"] == list(several.files)
    assert several.count == 4
    for frame in several:
        np.testing.assert_array_equal(frame.image, read_image(several.files[frame.name]))


def test_images_of_a_zip_are_read_from_it_and_do_not_lead_out_of_the_folder(tmp_path):
    inside = io.BytesIO()
    Image.fromarray(make_image()).save(inside, "PNG")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("x/one.png", inside.getvalue())
        archive.writestr("../two.png", inside.getvalue())
        archive.writestr("x/broken.png", b"no image")
        archive.writestr("readme.md", b"text")
    source = open_source(tmp_path / "all.zip")
    frames = {frame.name: frame.image for frame in source}
    assert sorted(frames) == ["two.png", "x/broken.png", "x/one.png"]
    np.testing.assert_array_equal(frames["x/one.png"], make_image())
    assert "x/broken.png of" in str(frames["x/broken.png"])
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"bad\.zip cannot be read as a zip"):
        open_source(tmp_path / "bad.zip")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_gives_its_frames(tmp_path, name):
    shades = [Image.fromarray(np.full((20, 30, 3), shade, np.uint8)) for shade in (0, 120, 240)]
    shades[0].save(tmp_path / name, save_all=True, append_images=shades[1:], duration=50, lossless=True)
    source = open_source(tmp_path / name)
    assert source.count == 3
    assert source.rate == pytest.approx(20)
    frames = list(source)
    assert [frame.name for frame in frames] == ["a_000000", "a_000001", "a_000002"]
    assert [int(frame.image.mean()) for frame in frames] == pytest.approx([0, 120, 240], abs=2)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("1", "a.png"), ("P", "a.gif")],
)
def test_images_of_any_kind_become_rgb(tmp_path, mode, name):
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).convert(mode).save(tmp_path / name)
    (frame,) = open_source(tmp_path / name)
    assert frame.image.shape == (20, 30, 3)
    assert frame.image.dtype == np.uint8
    assert frame.image.mean() == pytest.approx(200, abs=12 if mode in ("CMYK", "1") else 2)  # "1" is dithered


def test_a_photograph_is_turned_as_its_exif_tag_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_image(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    (frame,) = open_source(tmp_path / "a.jpg")
    assert frame.image.shape == (30, 20, 3)


def test_a_video_gives_its_frames_and_their_rate(tmp_path):
    source = open_source(video(tmp_path / "a.mp4"))
    assert (source.count, source.rate) == (12, 10)
    frames = list(source)
    assert [frame.name for frame in frames] == [f"a_{n:06d}" for n in range(12)]
    assert [frame.image.mean() for frame in frames] == pytest.approx([20 * n for n in range(12)], abs=6)
    assert len(list(source)) == 12  # again


def test_a_video_that_breaks_off_says_so_after_its_last_frame(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4")
    whole = cv2.VideoCapture

    class Broken:
        """A file whose bytes end after five frames."""

        def __init__(self, address):
            self.inner, self.left = whole(address), 5

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def read(self):
            self.left -= 1
            return self.inner.read() if self.left >= 0 else (False, None)

    monkeypatch.setattr("centernet.data.sources.cv2.VideoCapture", Broken)
    *frames, last = open_source(path)
    assert len(frames) == 5
    assert f"video {path} breaks off after 5 of 12 frames" in str(last.image)


def test_images_from_standard_input_follow_each_other(tmp_path):
    data = b""
    for n, (kind, options) in enumerate([("JPEG", {}), ("PNG", {}), ("JPEG", {"progressive": True})]):
        buffer = io.BytesIO()
        Image.fromarray(make_image(seed=n)).save(buffer, kind, **options)
        data += buffer.getvalue()
    frames = list(open_source("-", stdin=io.BytesIO(data)))
    assert [frame.name for frame in frames] == ["stdin_000000", "stdin_000001", "stdin_000002"]
    np.testing.assert_array_equal(frames[1].image, make_image(seed=1))
    buffer = io.BytesIO()
    Image.fromarray(make_image()).save(buffer, "BMP")
    assert [frame.image.shape for frame in open_source("-", stdin=io.BytesIO(buffer.getvalue()))] == [(48, 64, 3)]
    (nothing,) = open_source("-", stdin=io.BytesIO(b""))
    assert "standard input has no image" in str(nothing.image)


def test_a_piped_image_is_given_when_it_is_whole_not_when_the_pipe_ends():
    buffer = io.BytesIO()
    Image.fromarray(make_image(200, 300)).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()

    class Pipe(io.RawIOBase):
        """Two images in pieces; whoever reads on after the second piece of the second one waits forever."""

        pieces = [data[:1000], data[1000:] + data[:500], data[500:]]

        def read(self, size=-1):
            return self.pieces.pop(0)

    images = split_images(Pipe())
    assert next(images) == data
    assert next(images) == data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.jpg", "does not exist; give an image, a folder, a video"),
        (lambda folder: folder, "no image"),
        (lambda folder: str(folder / "*.jpg"), "no image matches"),
        (lambda folder: [], "no source is given"),
        (lambda folder: "file:///nowhere.mp4", "stream file:///nowhere.mp4 cannot be opened"),
    ],
)
def test_a_source_without_images_is_named(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        open_source(make(tmp_path))


def test_files_that_are_not_what_their_name_says_are_named(tmp_path):
    for name, message in {
        "a.mp4": "check that it is a video",
        "a.txt": "lists no images",
        "a.gif": "cannot be read",
    }.items():
        (tmp_path / name).write_bytes(b"# nothing\n")
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)


def test_a_broken_image_among_good_ones_is_an_error_in_its_place(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    save(tmp_path / "c.png")
    kinds = [isinstance(frame.image, InputError) for frame in open_source(tmp_path)]
    assert kinds == [False, True, False]


def test_reading_ahead_changes_nothing_and_never_goes_far():
    given = []

    def items():
        for n in range(100):
            given.append(n)
            yield n

    found = ahead(items(), 3)
    assert [next(found) for _ in range(10)] == list(range(10))
    threads = threading.active_count()
    assert len(given) <= 10 + 3 + 2
    found.close()
    assert threading.active_count() < threads
    assert list(ahead(range(5), 2)) == list(range(5))


def test_an_error_while_reading_ahead_is_raised_at_its_place():
    def items():
        yield 1
        raise InputError("broken")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(InputError, match="broken"):
        next(found)
