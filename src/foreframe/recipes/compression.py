"""Recipes of the compression track: the winning entry's, and one of the same classes that a laptop trains."""

from __future__ import annotations

from foreframe.config import RunConfig
from foreframe.inference.config import InferenceConfig
from foreframe.models.config import STTransformerConfig
from foreframe.tracks.config import CompressionConfig
from foreframe.train.config import OptimConfig, TrainConfig


def compression_136m() -> RunConfig:
    """The winning entry: 136 M parameters on Cosmos tokens (report, section 3; slides; 80 epochs of 306,000 clips)."""
    return RunConfig(
        recipe="compression_136m",
        track=CompressionConfig(model=STTransformerConfig()),
        train=TrainConfig(
            num_steps=153_000,
            global_batch_size=160,
            micro_batch_size=20,
            precision="bf16",
            checkpoint_every=2_000,
            log_every=50,
            validate_every=2_000,
            num_val_clips=160,
        ),
        optim=OptimConfig(learning_rate=8e-4, warmup_steps=2_000, weight_decay=0.05),
    )


def compression_tiny() -> RunConfig:
    """The same classes at 2.5 M parameters on 16x16 grids of 4,000 tokens: begins to learn on a CPU in minutes."""
    return RunConfig(
        recipe="compression_tiny",
        data="sample",
        track=CompressionConfig(
            model=STTransformerConfig(
                vocab_size=4_000,
                grid=16,
                num_layers=4,
                num_heads=2,  # softmax is what costs time on a CPU
                width=160,
                dropout=0.0,
                attention_dropout=0.0,
                state_width=256,
            ),
            tokenizer="tokenizer_tiny",
            pair_stride=1,
        ),
        train=TrainConfig(
            num_steps=150,
            global_batch_size=4,
            micro_batch_size=4,
            checkpoint_every=50,
            log_every=5,
            validate_every=50,
            num_val_clips=12,
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.05),
        inference=InferenceConfig(wrong_states=("shuffled",)),
    )
