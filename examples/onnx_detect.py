"""Detect with an exported file, without torch: `python examples/onnx_detect.py model.onnx photo.jpg [out.png] [0.3]`.

Needs onnxruntime, numpy and opencv-python-headless. The file brings its classes and how an image becomes its input.
"""

import json
import os
import sys

import cv2
import numpy as np
import onnxruntime


def input_from_image(mode: str, height: int, width: int, size: tuple[int, int]) -> np.ndarray:
    """The matrix [2, 3] that takes pixels of the image to pixels of the input (the center of the first is at 0, 0)."""
    if mode == "stretch":
        return np.array([[size[1] / width, 0, 0], [0, size[0] / height, 0]])
    scale = {"width": size[1] / width, "keep": 1}.get(mode, min(size[1] / width, size[0] / height))
    middle = (width // 2, height // 2) if mode == "keep" else (width / 2, height / 2)
    return np.array([[scale, 0, size[1] / 2 - scale * middle[0]], [0, scale, size[0] / 2 - scale * middle[1]]])


def detect(session: onnxruntime.InferenceSession, image: np.ndarray, about: dict) -> dict[str, np.ndarray]:
    """Detections of a BGR image: `boxes` [K, 4] x1 y1 x2 y2 in its pixels, `scores` [K], `labels` [K], and others."""
    (height, width), wanted = image.shape[:2], session.get_inputs()[0]
    mode, pad = about["transform"]["mode"], about["transform"]["divisor"]
    size = [(side // pad + 1) * pad for side in (height, width)] if mode == "keep" else about["resolution"]
    matrix = input_from_image(mode, height, width, size)
    pixels = cv2.warpAffine(image, matrix, (size[1], size[0]))[..., ::-1].transpose(2, 0, 1)  # RGB, channels first
    batch = np.repeat(pixels[None], wanted.shape[0] if isinstance(wanted.shape[0], int) else 1, 0)
    outputs = session.run(None, {wanted.name: batch.astype(np.uint8 if "uint8" in wanted.type else np.float32)})
    found = {output.name: value[0] for output, value in zip(session.get_outputs(), outputs, strict=True)}
    for name in {"boxes", "joints", "extreme_points"} & set(found):  # positions, back into the image
        points = found[name][..., : found[name].shape[-1] // 2 * 2].reshape(len(found["boxes"]), -1, 2)
        found[name] = ((points - matrix[:, 2]) / matrix[[0, 1], [0, 1]]).reshape(*found[name].shape[:-1], -1)
    return found


if __name__ == "__main__":
    if len(sys.argv) < 3 or (picture := cv2.imread(sys.argv[2])) is None:
        sys.exit(f"error: {sys.argv[2]} is no image that OpenCV reads; give another" if sys.argv[2:] else __doc__)
    if not os.path.isfile(sys.argv[1]):
        sys.exit(f"error: {sys.argv[1]} does not exist; make it with scripts/export.py CHECKPOINT --format onnx")
    try:
        least = float(sys.argv[4]) if len(sys.argv) > 4 else 0.3
        session = onnxruntime.InferenceSession(sys.argv[1], providers=onnxruntime.get_available_providers())
        texts = session.get_modelmeta().custom_metadata_map.items()
        about = {key[len("centernet_") :]: json.loads(text) for key, text in texts if key.startswith("centernet_")}
        found = detect(session, picture, about)
    except Exception as error:  # onnxruntime's have no common base
        sys.exit(f"error: {sys.argv[1:]}: {error!r}; give a file of scripts/export.py, an image, a file, a number")
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        if score >= least:
            corner, other = box[:2].round().astype(int).tolist(), box[2:].round().astype(int).tolist()
            text = f"{about['class_names'][label]} {score:.2f}"
            print(text, *box.round(1).tolist())
            cv2.rectangle(picture, corner, other, (0, 220, 255), 2)
            cv2.putText(picture, text, (corner[0], max(corner[1] - 4, 12)), 0, 0.5, (0, 220, 255), 1, cv2.LINE_AA)
    cv2.imwrite(sys.argv[3] if len(sys.argv) > 3 else "detections.png", picture)
