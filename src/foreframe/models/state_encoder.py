"""The robot branch: 25 state channels to six modulation vectors for each latent frame (challenge-facts 5.4)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from foreframe.models.config import NUM_GROUPS, StateEncoderConfig
from foreframe.states import CHANNELS, NUM_CHANNELS

_CLOSURES = [index for index, channel in enumerate(CHANNELS) if channel.kind == "closure"]
_CIRCULAR = [index for index in range(NUM_CHANNELS) if index not in _CLOSURES]
NUM_FEATURES = 3 * len(_CIRCULAR) + len(_CLOSURES)
"""71: 23 channels with their sines and cosines, and two hand closures."""
NUM_VECTORS = 6
"""Modulation vectors of a block: shift, scale and gate of self-attention, then of the feed-forward."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast is off, also on the meta device, which has none."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def state_features(states: torch.Tensor) -> torch.Tensor:
    """State rows (..., 25) in their own units to (..., 71): c, sin c, cos c, and the two closures unchanged.

    c are the 21 joint angles and, as in the winning entry, the two velocities; there is no frequency and no scaling.
    """
    circular = states[..., _CIRCULAR]
    return torch.cat([circular, circular.sin(), circular.cos(), states[..., _CLOSURES]], -1)


class StateEncoder(nn.Module):
    """State rows (B, T, 25) in their own units to modulations (B, F, 6, D), one set for each latent frame.

    Everything runs in float32 whatever autocast says: it costs nothing, and sines and modulations need it.
    """

    no_states: nn.Parameter | None
    """(1, 1, width), what the features of a clip are replaced by if its states are withheld."""

    def __init__(self, config: StateEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, modulation_width = config.width, config.modulation_width
        self.compression = nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        # (kernel, stride, padding): 21 rows > 11 > 6, step i centred on row 4i; or 77 rows > 20 > 6.
        shapes = [(3, 2, 1), (3, 2, 1)] if config.rows == "downsample" else [(5, 4, 2), (5, 3, 1)]
        self.temporal = nn.Sequential()
        for kernel, stride, padding in shapes:
            self.temporal.append(nn.Conv1d(width, width, kernel, stride, padding))
            self.temporal.append(nn.SiLU())
            self.temporal.append(nn.GroupNorm(NUM_GROUPS, width))
        self.embedding = nn.Sequential(
            nn.Linear(width, modulation_width), nn.SiLU(), nn.Linear(modulation_width, modulation_width)
        )
        last = nn.Linear(modulation_width, NUM_VECTORS * modulation_width)
        if config.combine == "additive":
            # The entry adds what default initialisation gives; from zero, the model starts as its base (5.5).
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.projection = nn.Sequential(nn.SiLU(), last)
        self.no_states = nn.Parameter(torch.randn(1, 1, width) * 0.02) if config.guidance else None

    def forward(self, states: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Modulations (B, F, 6, D), float32; F is what the convolutions leave of T rows: 6 of 21, or of 77 if `full`.

        Args:
            states: (B, T, 25) rows in their own units.
            keep: (B,) bool, False where the token takes the place of a clip's features. None keeps all.

        Raises:
            ValueError: The shapes differ, or `keep` is given to an encoder without the token.
        """
        if states.dim() != 3 or states.shape[-1] != NUM_CHANNELS:
            raise ValueError(f"states have shape {tuple(states.shape)}, not (B, T, {NUM_CHANNELS})")
        with without_autocast(states.device):
            rows = self.compression(state_features(states.to(next(self.parameters()).dtype)))
            steps = self.temporal(rows.transpose(1, 2)).transpose(1, 2)
            if keep is not None:
                if self.no_states is None:
                    raise ValueError("states can only be withheld from a model with guidance=True")
                if keep.shape != states.shape[:1] or keep.dtype != torch.bool:
                    raise ValueError(f"keep must be {len(states)} bools, not {keep.dtype} {tuple(keep.shape)}")
                steps = torch.where(keep[:, None, None], steps, self.no_states)
            return self.projection(self.embedding(steps)).unflatten(-1, (NUM_VECTORS, -1))
