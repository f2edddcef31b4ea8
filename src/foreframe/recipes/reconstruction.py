"""The recipe of the small video tokenizer."""

from __future__ import annotations

from foreframe.config import RunConfig
from foreframe.models.tokenizer import TokenizerConfig
from foreframe.tracks.reconstruction import ReconstructionConfig
from foreframe.train.loop import TrainConfig
from foreframe.train.optim import OptimConfig


def tokenizer_tiny() -> RunConfig:
    """A 1.8 M parameter tokenizer of 1,000 codes with Cosmos' block structure, for frames of 128x128."""
    return RunConfig(
        recipe="tokenizer_tiny",
        data="sample",
        track=ReconstructionConfig(model=TokenizerConfig()),
        train=TrainConfig(
            num_steps=2_000,
            global_batch_size=8,
            micro_batch_size=8,
            checkpoint_every=250,
            log_every=10,
            validate_every=250,
            num_val_clips=16,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50, schedule="cosine", betas=(0.9, 0.95), weight_decay=0.01),
    )
