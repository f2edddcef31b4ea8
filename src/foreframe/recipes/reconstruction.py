"""Recipes of the small video tokenizer and the small autoencoder."""

from __future__ import annotations

from foreframe.config import RunConfig
from foreframe.models.config import AutoencoderConfig, TokenizerConfig
from foreframe.tracks.config import ReconstructionConfig
from foreframe.train.config import OptimConfig, TrainConfig


def tokenizer_tiny() -> RunConfig:
    """A 3 M parameter tokenizer of 4,000 codes with Cosmos' block structure, for frames of 128x128."""
    return RunConfig(
        recipe="tokenizer_tiny",
        data="sample",
        track=ReconstructionConfig(model=TokenizerConfig()),
        train=TrainConfig(
            num_steps=2_000,
            global_batch_size=8,
            micro_batch_size=4,
            checkpoint_every=250,
            log_every=10,
            validate_every=250,
            num_val_clips=16,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50, schedule="cosine", betas=(0.9, 0.95), weight_decay=0.01),
    )


def autoencoder_tiny() -> RunConfig:
    """An autoencoder of Wan2.2's block types with 1.2 M parameters: frames of 64x64 to latents of 8x8 cells."""
    return RunConfig(
        recipe="autoencoder_tiny",
        data="sample",
        track=ReconstructionConfig(
            # A level less than Wan2.2, so that cells are of 8x8 pixels; both steps between levels halve time, as there.
            model=AutoencoderConfig(
                base_dim=48,
                decoder_base_dim=48,
                dim_mult=(1, 1, 1),
                num_res_blocks=0,
                temperal_downsample=(True, True),
                latent_noise=0.05,
            ),
            size=64,
            clip_stride=8,
        ),
        train=TrainConfig(
            num_steps=2_000,
            global_batch_size=4,
            micro_batch_size=4,
            checkpoint_every=200,
            log_every=20,
            validate_every=500,
            num_val_clips=24,
        ),
        optim=OptimConfig(
            learning_rate=2e-3, warmup_steps=100, schedule="cosine", betas=(0.9, 0.95), weight_decay=0.01
        ),
    )
