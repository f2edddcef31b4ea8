"""What an autoencoder loses of the last observed frame, given back wherever a prediction still shows that frame.

A frame is predicted as latents, and what their decoder draws is softer than a recording. How much softer is known
for the last observed frame, and where nothing has moved since, it is the same in the prediction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_WINDOW = 5
"""Side, in pixels, of the window over which two frames are compared."""


def carry_detail(
    frames: torch.Tensor, decoded: torch.Tensor, observed: torch.Tensor, *, tolerance: float
) -> torch.Tensor:
    """Add `observed - decoded` to each frame, as far as the frame shows there what `decoded` shows.

    The weight of a pixel is exp(-d^2 / (2 tolerance^2)), with d the root mean square difference between the frame and
    `decoded` in the window around it: 1 where nothing changed, 0 where the autoencoder drew something else.

    Args:
        frames: Predicted frames (N, 3, T, H, W), as the autoencoder draws them.
        decoded: The last observed frame through the autoencoder, (N, 3, H, W).
        observed: The same frame as recorded, (N, 3, H, W).
        tolerance: On the scale of the frames; 0 gives the frames back as they are.

    Returns:
        (N, 3, T, H, W) in the frames' precision; not clamped.
    """
    if tolerance == 0:
        return frames
    change = (frames - decoded[:, :, None]).square().mean(1)
    margin = _WINDOW // 2
    around = F.avg_pool2d(F.pad(change, (margin,) * 4, mode="replicate"), _WINDOW, stride=1)
    weight = torch.exp(-around / (2 * tolerance**2))
    return frames + weight[:, None] * (observed - decoded)[:, :, None]
