"""The training loop, its optimiser, its checkpoints and its journal."""
