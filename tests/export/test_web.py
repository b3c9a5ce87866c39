"""examples/web: the page's arithmetic in Node, and the page in headless Chromium where its runtime was fetched."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from centernet.data.transforms import eval_pipeline, warp_image
from centernet.export.exported import load_exported
from centernet.inference import Predictor
from tests import tiny
from tests.export.files import color_file, squares
from tests.places import ROOT

WEB = ROOT / "examples" / "web"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not (WEB / "runtime").is_dir(),
    reason="needs Chromium, and onnxruntime-web from examples/web/download.py",
)


def node(tmp_path: Path, script: str, *files: Path) -> Any:
    """What a script prints as JSON, with detect.js imported as ``d``, and the names of files as ``argv``."""
    shutil.copy(WEB / "detect.js", tmp_path / "detect.mjs")  # Node tells modules by their ending
    whole = (
        f'import * as d from "./detect.mjs"; import fs from "node:fs"; const argv = process.argv.slice(2);\n{script}'
    )
    (tmp_path / "script.mjs").write_text(whole)
    done = subprocess.run(
        [str(NODE), "script.mjs", *map(str, files)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def raw(path: Path, image: np.ndarray) -> Path:
    """An RGB image as the bytes of a canvas: RGBA."""
    path.write_bytes(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).tobytes())
    return path


@needs_node
def test_the_page_reads_what_the_file_says_of_itself(tmp_path):
    path = color_file()
    said = node(tmp_path, "console.log(JSON.stringify(d.readMetadata(fs.readFileSync(argv[0]))))", path)
    assert said == load_exported(path).artifact.metadata


@needs_node
def test_the_page_refuses_a_file_of_somebody_else(tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"\x08\x07\x12\x04test")  # an ONNX file without metadata
    script = (
        "try { d.readMetadata(fs.readFileSync(argv[0])) } catch (error) { console.log(JSON.stringify(error.message)) }"
    )
    assert node(tmp_path, script, other).startswith("This is no file of this project; make one with scripts/export.py")


@needs_node
@pytest.mark.parametrize("mode", ["fit", "keep", "stretch", "width"])
@pytest.mark.parametrize("size", [(48, 64), (90, 51), (200, 130)], ids=str)
def test_the_page_makes_the_input_that_python_makes(tmp_path, mode, size):
    image = tiny.make_image(*size)
    wanted, matrix = warp_image(eval_pipeline((64, 96), mode), image)
    about = {"resolution": [64, 96], "transform": {"mode": mode, "divisor": 32}}
    script = f"""
        const about = {json.dumps(about)}, [height, width] = {list(size)};
        const pixels = d.warp(fs.readFileSync(argv[0]), height, width, about);
        console.log(JSON.stringify({{
            size: d.inputSize(about, height, width), matrix: d.inputFromImage(about, height, width),
            pixels: Buffer.from(pixels).toString("base64")}}));
    """
    made = node(tmp_path, script, raw(tmp_path / "image", image))
    assert made["size"] == list(wanted.shape[1:])
    expected = {"sx": matrix[0, 0], "sy": matrix[1, 1], "tx": matrix[0, 2], "ty": matrix[1, 2]}
    assert made["matrix"] == pytest.approx({name: value.item() for name, value in expected.items()})
    pixels = np.frombuffer(base64.b64decode(made["pixels"]), np.uint8).reshape(wanted.shape)
    difference = np.abs(pixels.astype(int) - wanted.numpy())
    # OpenCV rounds places to 1/32 of a pixel; at the picture's edge that is up to 1/64 of the step to black.
    assert difference.max() <= 5
    assert difference.mean() < 0.3


@needs_node
def test_the_page_moves_detections_into_the_picture_as_python_does(tmp_path):
    image, path = squares()[0], color_file()
    height, width = image.shape[:2]
    detector = load_exported(path)
    pixels, _ = warp_image(eval_pipeline(tuple(detector.spec["resolution"]), "fit"), image)
    found = detector.artifact.run(pixels.numpy()[None])
    corners = found["boxes"].reshape(1, -1, 2, 2)  # as if the task found two joints of each object
    outputs = {
        name: {"data": value.flatten().tolist(), "dims": value.shape}
        for name, value in {**found, "joints": corners}.items()
    }
    (tmp_path / "outputs").write_text(json.dumps(outputs))
    script = f"""
        const about = d.readMetadata(fs.readFileSync(argv[0]));
        const found = JSON.parse(fs.readFileSync(argv[1]));
        console.log(JSON.stringify(d.detections(found, about, {height}, {width}, 0.3)));
    """
    shown = node(tmp_path, script, path, tmp_path / "outputs")
    wanted = Predictor(path)(image, threshold=0.3)
    assert len(wanted)
    assert [row["name"] for row in shown] == wanted.names
    np.testing.assert_allclose([row["box"] for row in shown], wanted.boxes, atol=1e-3)
    np.testing.assert_allclose([row["points"] for row in shown], wanted.boxes.reshape(-1, 2, 2), atol=1e-3)


class Browser:
    """Headless Chromium, driven by its own protocol over a pair of pipes: messages are JSON that end with a zero."""

    def __init__(self, folder: Path) -> None:
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"),
        ]

        def place() -> None:
            # Chromium reads from 3 and writes to 4; copies first, as one of ours may have such a number.
            source, target = os.dup(to_browser), os.dup(from_browser)
            source, target = os.dup2(source, 20), os.dup2(target, 21)
            os.dup2(source, 3)
            os.dup2(target, 4)

        self.process = subprocess.Popen(
            command, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.waiting, self.count, self.session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.waiting:
                part = os.read(self.read, 1 << 16)
                assert part, "Chromium ended"
                self.waiting += part
            line, _, self.waiting = self.waiting.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"{script} did not come true: {self.value('document.body.innerText')}"
            time.sleep(0.1)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.write)
        os.close(self.read)


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    """The page with a network beside it, served from this process."""
    site = tmp_path / "site"
    shutil.copytree(WEB, site, ignore=shutil.ignore_patterns("*.onnx"))
    shutil.copy(color_file(), site / "model.onnx")
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


DROP = """
(() => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "%s"));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
})()
"""
ROWS = (
    "[...document.querySelectorAll('#list tr')].slice(1).map((row) => [...row.cells].map((cell) => cell.textContent))"
)


@pytest.mark.slow
@needs_browser
def test_a_picture_dropped_on_the_page_is_detected_as_by_the_predictor(tmp_path, address):
    image = squares()[0]
    _, png = cv2.imencode(".png", image[..., ::-1])
    wanted = Predictor(color_file())(image, threshold=0.3)
    browser = Browser(tmp_path / "profile")
    try:
        browser.call("Page.navigate", url=address)
        browser.wait("document.getElementById('model')?.textContent.includes('red, green, blue')")
        browser.value(DROP % (base64.b64encode(png.tobytes()).decode(), "squares.png"))
        browser.wait("document.body.dataset.state === 'done'")
        rows = browser.value(ROWS)
        browser.value(DROP % ("AAAA", "broken.png"))
        browser.wait("document.body.dataset.state === 'failed'")
        told = browser.value("document.getElementById('error').textContent")
    finally:
        browser.close()
    assert [row[0] for row in rows] == wanted.names
    assert torch.allclose(torch.tensor([float(row[1]) for row in rows]), wanted.scores, atol=2e-2)
    np.testing.assert_allclose([[float(side) for side in row[2:]] for row in rows], wanted.boxes, atol=0.5)
    assert told
