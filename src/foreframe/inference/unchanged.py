"""Where a prediction shows what was observed last, that frame itself.

A frame is predicted as latents: what their decoder draws is softer than a recording, and a sample never repeats a
place that stands still quite exactly. What the decoder would draw of the last observed frame is known. Where a
prediction differs from that by no more than a tolerance, nothing is meant to have changed, and the recording is better.
The report has nothing of the kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_WINDOW = 5
"""Side, in pixels, of the window over which two frames are compared."""


def keep_unchanged(
    frames: torch.Tensor, decoded: torch.Tensor, observed: torch.Tensor, *, tolerance: float
) -> torch.Tensor:
    """Blend each frame with `observed`, as far as it shows in a place what `decoded` shows there.

    The weight of `observed` is exp(-d^2 / (2 tolerance^2)), with d the root mean square difference between the frame
    and `decoded` in the window around a pixel: 1 where nothing changed, 0 where something else is drawn.

    Args:
        frames: Predicted frames (N, 3, T, H, W), as the autoencoder draws them.
        decoded: The last observed frame through the autoencoder, (N, 3, H, W).
        observed: The same frame as recorded, (N, 3, H, W).
        tolerance: On the scale of the frames; 0 gives the frames back as they are.

    Returns:
        (N, 3, T, H, W) in the frames' precision.
    """
    if tolerance == 0:
        return frames
    change = (frames - decoded[:, :, None]).square().mean(1)
    margin = _WINDOW // 2
    around = F.avg_pool2d(F.pad(change, (margin,) * 4, mode="replicate"), _WINDOW, stride=1)
    weight = torch.exp(-around / (2 * tolerance**2))
    return torch.lerp(frames, observed[:, :, None], weight[:, None])
