"""The camera: 3D boxes, projection and its inverse, observation angles, as batched tensors.

KITTI's object benchmark (Geiger et al., 2012) and its development kit; Objects as Points, Sec. 4 (3D detection).

Convention: camera space has x to the right, y down, z forward, in meters. A location is the center of a box's bottom
face; dimensions are (height, width, length); yaw turns around y, is 0 where the length lies along x, and grows from x
toward -z. A camera matrix ``[3, 4]`` takes (x, y, z, 1) to (u w, v w, w), with (u, v) in pixels; the projective depth w
is z + P[2, 3], which in KITTI is a few millimeters more than z. alpha is the yaw seen along the ray to the object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from centernet.ops.affine import Size

# Along the length, the height (up is -y) and the width; the bottom face first, in the order of KITTI's kit.
_CORNERS = (
    (1, 0, 1), (1, 0, -1), (-1, 0, -1), (-1, 0, 1),
    (1, -1, 1), (1, -1, -1), (-1, -1, -1), (-1, -1, 1),
)  # fmt: skip


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angles (radians, same shape) in -pi .. pi."""
    return torch.atan2(angle.sin(), angle.cos())


def box_corners(dimensions: Tensor, location: Tensor, yaw: Tensor) -> Tensor:
    """Corners ``[..., 8, 3]`` in meters of boxes with ``dimensions [..., 3]``, ``location [..., 3]``, ``yaw [...]``.

    The first four are the bottom face, each with the one above it four places further on; corners 0, 1, 4, 5 are the
    front.
    """
    height, width, length = dimensions.unbind(-1)
    along, up, across = dimensions.new_tensor(_CORNERS).unbind(-1)
    x, y, z = along * length[..., None] / 2, up * height[..., None], across * width[..., None] / 2
    cos, sin = yaw.cos()[..., None], yaw.sin()[..., None]
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], -1) + location[..., None, :]


def project(camera: Tensor, points: Tensor) -> Tensor:
    """Pixels ``[..., N, 2]`` of points ``[..., N, 3]`` under cameras ``[..., 3, 4]``, in the camera's precision.

    Points behind the camera project too, upside down; those in its plane give infinities.
    """
    moved = points.to(camera.dtype) @ camera[..., :3].mT + camera[..., None, :, 3]
    return (moved[..., :2] / moved[..., 2:]).to(points.dtype)


def unproject(camera: Tensor, pixels: Tensor, depth: Tensor) -> Tensor:
    """Points ``[..., N, 3]`` seen at pixels ``[..., N, 2]`` in the projective depth ``[..., N]`` (z + P[2, 3])."""
    w = depth.to(camera.dtype)[..., None]
    seen = torch.cat([pixels.to(camera.dtype) * w, w], -1) - camera[..., None, :, 3]
    return torch.linalg.solve(camera[..., :3], seen.mT).mT.to(pixels.dtype)


def ray_angle(camera: Tensor, x: Tensor) -> Tensor:
    """Angle ``[..., N]`` (radians) between the camera's axis and the rays at the columns ``x [..., N]`` in pixels."""
    return torch.atan2(x - camera[..., 0, 2, None], camera[..., 0, 0, None])


def yaw_of_alpha(camera: Tensor, alpha: Tensor, x: Tensor) -> Tensor:
    """Yaw ``[..., N]`` in -pi .. pi of objects with this observation angle, seen at the columns ``x [..., N]``."""
    return wrap_angle(alpha + ray_angle(camera, x)).to(alpha.dtype)


def camera_matrix(focal: float, image_size: Size) -> Tensor:
    """A camera for images without calibration, float64 ``[3, 4]``.

    ``focal`` in image pixels; the axis meets the middle of an image of ``image_size`` (height, width).
    """
    height, width = image_size
    return torch.tensor(
        [[focal, 0, (width - 1) / 2, 0], [0, focal, (height - 1) / 2, 0], [0, 0, 1, 0]], dtype=torch.float64
    )
