"""Inference: the Detector that validation, prediction and export share, and the Predictor around it.

Objects as Points, Sec. 4.1: one forward pass, peaks, no non-maximum suppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from centernet.data.images import read_image
from centernet.data.transforms import eval_pipeline, warp_image
from centernet.fields import unbatch
from centernet.joints import JointSet
from centernet.models.centernet import CenterNet
from centernet.models.fuse import fuse
from centernet.ops.camera import camera_matrix
from centernet.structures import Detections, InputError, Outputs
from centernet.tasks.base import Task

# Mean and standard deviation of RGB in 0 .. 1. "coco" is what CenterNet trains with on COCO. On KITTI and VOC it gives
# ImageNet's values, which are in RGB order, to BGR images: what their converted weights expect is "imagenet_swapped".
NORMALIZATIONS = {
    "coco": ((0.47026115, 0.44719302, 0.40789654), (0.27809835, 0.27408164, 0.28863828)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet_swapped": ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
}


class Detector(nn.Module):
    """Network and task in one: images in, batched detections in input pixels out.

    ``normalization``: a name of ``NORMALIZATIONS``. Forward takes images ``[B, 3, H, W]``, RGB, uint8 or float in 0 ..
    255.
    """

    def __init__(self, network: CenterNet, task: Task, normalization: str = "coco") -> None:
        super().__init__()
        self.network, self.task, self.normalization = network, task, normalization
        mean, std = NORMALIZATIONS[normalization]
        # Constants, not weights: they follow from the name that the checkpoint stores.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Images in 0 .. 255 to what the network takes, float32 ``[B, 3, H, W]``."""
        return (images.float() - self.mean) / self.std

    def outputs(self, images: Tensor) -> list[Outputs]:
        """Raw maps of every stack."""
        return self.network(self.normalize(images))

    def maps(self, images: Tensor) -> Outputs:
        """Activated maps of the last stack (heatmaps as probabilities)."""
        return self.task.activate(self.outputs(images)[-1])

    def forward(self, images: Tensor) -> Detections:
        return self.task.decode(self.maps(images))

    def fuse(self) -> Detector:
        """A copy for inference: batch norm folded into convolutions, HarDNet's blocks without concatenations.

        Same outputs up to rounding; see ``centernet.models.fuse``.
        """
        return Detector(fuse(self.network), self.task, self.normalization).to(self.mean.device)


class Predictor:
    """Reads images, detects, and gives back detections in image pixels.

    ``resolution`` (height, width), ``mode`` and ``divisor`` describe the evaluation transform (``EvalWarp``).
    ``Predictor.from_checkpoint(path)`` needs nothing else: a checkpoint carries all of this.
    """

    def __init__(
        self,
        detector: Detector,
        class_names: Sequence[str],
        resolution: Sequence[int],
        mode: str = "fit",
        divisor: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.detector = detector.eval().to(device)
        self.class_names = list(class_names)
        self.pipeline = eval_pipeline((int(resolution[0]), int(resolution[1])), mode, divisor)
        self.device = torch.device(device)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        resolution: Sequence[int] | None = None,
        mode: str | None = None,
        device: str | None = None,
    ) -> Predictor:
        """Load a checkpoint of this project; ``resolution`` and ``mode`` default to those of its training.

        ``device``: ``cuda`` where there is one, else ``cpu``. Raises ``InputError`` when the file is none of ours.
        """
        from centernet.module import load_module

        module, spec = load_module(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        spec = {**spec, **({"resolution": resolution} if resolution else {}), **({"mode": mode} if mode else {})}
        return cls(module.detector, module.class_names, device=device, **spec)

    @property
    def joints(self) -> JointSet | None:
        """The joints that this model finds, None where its task has none."""
        return getattr(self.detector.task, "joints", None)

    def __call__(
        self,
        image: str | Path | np.ndarray,
        threshold: float = 0.0,
        calibration: np.ndarray | Tensor | None = None,
        focal: float | None = None,
    ) -> dict[str, Any]:
        """Detections of one image: ``boxes [N, 4]`` in image pixels, ``scores [N]``, ``labels [N]``, and ``names``.

        A pose model adds ``joints [N, J, 2]`` (image pixels) and ``joint_scores [N, J]``; a 3D model ``location [N,
        3]`` (middle of the bottom face, camera space, m), ``dimensions [N, 3]`` (height, width, length, m), ``yaw
        [N]``, ``corners [N, 8, 3]`` (m) and more (``Detections``). ``image``: a path, or RGB uint8 ``[H, W, 3]``.
        ``threshold``: smallest score that is kept. For 3D: ``calibration [3, 4]``, image pixels from camera meters, or
        the ``focal`` length in image pixels of a camera that looks through the image's middle.
        """
        return self.predict([image], threshold, [calibration], focal)[0]

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[str | Path | np.ndarray],
        threshold: float = 0.0,
        calibrations: Sequence[np.ndarray | Tensor | None] | None = None,
        focal: float | None = None,
    ) -> list[dict[str, Any]]:
        """Detections of several images, in batches of equal input size; see ``__call__``."""
        arrays = [read_image(image) if isinstance(image, (str, Path)) else image for image in images]
        if calibrations is not None and len(calibrations) != len(arrays):
            raise InputError(f"{len(arrays)} images have {len(calibrations)} calibrations; give one for each, or None")
        cameras = [_camera(given) for given in calibrations or [None] * len(arrays)]
        if focal is not None:
            if not 0 < focal < float("inf"):
                raise InputError(f"focal={focal} is no focal length; give it in pixels of the image (KITTI: 721)")
            cameras = [
                camera_matrix(focal, array.shape[:2]) if camera is None else camera
                for camera, array in zip(cameras, arrays, strict=True)
            ]
        warped = [warp_image(self.pipeline, array) for array in arrays]
        groups: dict[tuple[int, ...], list[int]] = {}
        for n, (pixels, _) in enumerate(warped):
            groups.setdefault(tuple(pixels.shape), []).append(n)
        results: list[dict[str, Any]] = [{} for _ in images]
        for members in groups.values():
            pixels = torch.stack([warped[n][0] for n in members]).to(self.device)
            batch: dict[str, Tensor] = {
                "input_from_image": torch.stack([warped[n][1] for n in members]),
                "image_size": torch.tensor([arrays[n].shape[:2] for n in members]),
            }
            if all(cameras[n] is not None for n in members):
                batch["calibration"] = torch.stack([cameras[n] for n in members])
            found = {name: value.cpu() for name, value in self.detector(pixels).items()}
            lifted = self.detector.task.lift(found, batch)
            for n, detections in zip(members, unbatch(lifted, threshold), strict=True):
                names = [self.class_names[label] for label in detections["labels"].tolist()]
                results[n] = {**detections, "names": names}
        return results

    @torch.inference_mode()
    def heatmap(self, image: str | Path | np.ndarray, name: str = "heatmap") -> tuple[np.ndarray, np.ndarray]:
        """Peak probability over all classes ``[h, w]`` float32 in grid space, and the matrix input-from-image ``[3,
        3]``. ``name``: ``heatmap`` or another head with peaks (``joint_heatmap``)."""
        array = read_image(image) if isinstance(image, (str, Path)) else image
        pixels, matrix = warp_image(self.pipeline, array)
        maps = self.detector.maps(pixels[None].to(self.device))
        return maps[name][0].amax(0).cpu().numpy(), matrix.numpy()


def _camera(given: Any) -> Tensor | None:
    """A calibration as float64 ``[3, 4]``, or None. Raises ``InputError`` for anything else."""
    if given is None:
        return None
    try:
        camera = torch.as_tensor(given).double()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"calibration {str(given)[:60]!r} is no matrix; give P2 [3, 4] "
            "(centernet.data.kitti_format.read_calibration reads it)"
        ) from None
    if camera.shape != (3, 4) or not torch.isfinite(camera).all() or not (camera[0, 0] > 0 and camera[1, 1] > 0):
        raise InputError(
            f"calibration has the shape {list(camera.shape)} or no focal lengths; give P2 [3, 4] of a camera"
        )
    return camera
