"""foreframe predicts what a humanoid robot will see next."""

__version__ = "0.1.0"
