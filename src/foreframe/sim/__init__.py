"""evesim, a simulated humanoid in furnished rooms that writes 1X v2.0-format data; imports MuJoCo only when it runs."""

from foreframe.sim.generate import SimulateConfig, is_made, simulate

__all__ = ["SimulateConfig", "is_made", "simulate"]
