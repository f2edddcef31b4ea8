"""Image scores, one number per image: mean squared error, PSNR and SSIM on 8-bit RGB."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from foreframe.errors import InputError

PSNR_CAP_DB = 100.0
"""Pass as `cap_db` before averaging: one identical pair would otherwise make the mean infinite.

At 512x512 it touches only images that differ from the target in five or fewer values, each by one."""

_WINDOW_RADIUS = 5
_WINDOW_SIGMA = 1.5


def mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of uint8 images (..., H, W, 3), in squared 8-bit steps: float64 of shape (...), exact."""
    _check_images(prediction, target)
    difference = prediction.int() - target.int()
    squares = difference.square().flatten(-3).sum(-1, dtype=torch.int64)
    return squares.double() / math.prod(prediction.shape[-3:])


def psnr(prediction: torch.Tensor, target: torch.Tensor, *, cap_db: float = math.inf) -> torch.Tensor:
    """Peak signal-to-noise ratio of uint8 images (..., H, W, 3), in dB: float64 of shape (...).

    10 log10(255^2 / mse), each image on its own: the challenge's score, PSNR of the last frame (1X challenge report,
    section 2), is read as the mean of these over clips (*assumed*, challenge-facts 2.1), which is not the PSNR of the
    mean error. Identical images score `cap_db`, by default +inf, and no image scores more; pass `PSNR_CAP_DB` where a
    mean is taken.
    """
    return (10 * torch.log10(255.0**2 / mse(prediction, target))).clamp(max=cap_db)


def ssim(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity of uint8 images (..., H, W, 3), 1 when identical: float64 of shape (...).

    Single scale, Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, mean over channels and
    pixels; borders are reflected (Wang et al. 2004 leave them out). Equal to torchmetrics in float64 at a hundredth of
    its time on a CPU; in float32 it is off by up to 1e-3 where images are flat, as simulated ones are.
    """
    _check_images(prediction, target)
    height, width = prediction.shape[-3:-1]
    if min(height, width) <= _WINDOW_RADIUS:
        raise InputError(f"SSIM needs images of more than {_WINDOW_RADIUS} pixels a side, got {height}x{width}")
    pairs = zip(prediction.reshape(-1, height, width, 3), target.reshape(-1, height, width, 3), strict=True)
    return torch.stack([_image_ssim(*pair) for pair in pairs]).reshape(prediction.shape[:-3])


def _image_ssim(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SSIM of one pair (H, W, 3); one at a time stays in the processor's cache and out of memory."""
    x, y = prediction.movedim(-1, 0).double(), target.movedim(-1, 0).double()
    x_mean, y_mean, xx, yy, xy = _window_mean(torch.stack([x, y, x * x, y * y, x * y]))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * x_mean * y_mean + c1) / (x_mean**2 + y_mean**2 + c1)
    structure = (2 * (xy - x_mean * y_mean) + c2) / ((xx - x_mean**2) + (yy - y_mean**2) + c2)
    return (luminance * structure).mean()


def _window_mean(images: torch.Tensor) -> torch.Tensor:
    """Gaussian mean about each pixel of (N, C, H, W), one axis at a time."""
    offsets = torch.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1, dtype=torch.float64)
    weights: list[float] = torch.softmax(-0.5 * (offsets / _WINDOW_SIGMA) ** 2, 0).tolist()
    images = F.pad(images, (_WINDOW_RADIUS,) * 4, mode="reflect")
    for axis in (-1, -2):
        size = images.shape[axis] - 2 * _WINDOW_RADIUS
        # Shifted sums: float64 convolutions are ten times as slow on a CPU.
        mean = torch.zeros_like(images.narrow(axis, 0, size))
        for shift, weight in enumerate(weights):
            mean.add_(images.narrow(axis, shift, size), alpha=weight)
        images = mean
    return images


def _check_images(prediction: torch.Tensor, target: torch.Tensor) -> None:
    for name, images in (("prediction", prediction), ("target", target)):
        if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-1] != 3:
            raise InputError(f"{name} must be uint8 (..., H, W, 3), got {images.dtype} {tuple(images.shape)}")
    if prediction.shape != target.shape:
        raise InputError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    if prediction.numel() == 0:
        raise InputError(f"no pixels to score: images of shape {tuple(prediction.shape)}")
