"""The noise schedule's settings, apart from its arithmetic, so that no torch is imported to read them."""

from __future__ import annotations

from dataclasses import dataclass

from foreframe.errors import require


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Where on the way from clean to noise the levels lie."""

    shift: float = 5.0
    """Bends the levels towards noise: sigma = shift s / (1 + (shift - 1) s) for evenly spaced s; 1 does nothing."""
    num_timesteps: int = 1000
    """Levels that training draws from."""

    def __post_init__(self) -> None:
        require(self, shift=(0.01, 100), num_timesteps=(2, 1_000_000))
