"""Tiny real datasets and recipes that every test may use."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from foreframe import files
from foreframe.config import RunConfig
from foreframe.data.folders import atomic_folder
from foreframe.data.writer import RawShardWriter, write_metadata
from foreframe.inference.config import EnsembleConfig, SamplerConfig
from foreframe.models.config import AutoencoderConfig, STTransformerConfig, TokenizerConfig
from foreframe.models.wan_config import WanConfig
from foreframe.recipes import RECIPES
from foreframe.runs import train_run
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch.set_num_threads(1)  # Test-size tensors: waking a second thread costs more than it saves.

SIZE = 32
"""Side of the test videos: token grids are 4x4."""


def write_raw(root: Path, *, style: str, segments: list[int], seed: int = 0) -> None:
    """One shard of video in which a square moves as state channel 23 says; `segments` are lengths in frames."""
    rng = np.random.default_rng(seed)
    total = sum(segments)
    with atomic_folder(root) as partial:
        with RawShardWriter(partial, 0, style=style, size=SIZE) as writer:
            place = 0.0
            for segment, length in enumerate(segments):
                colour = rng.integers(60, 255, 3)
                for _ in range(length):
                    states = rng.normal(size=NUM_CHANNELS).astype(np.float32) * 0.1
                    states[21:23] = rng.integers(0, 2, 2)
                    states[23] = rng.uniform(0, 2)
                    place += float(states[23])
                    frame = np.full((SIZE, SIZE, 3), 40, np.uint8)
                    left = int(place) % (SIZE - 8)
                    frame[12:20, left : left + 8] = colour
                    writer.append(frame, states, segment=segment)
        write_metadata(partial, num_shards=1, num_images=total)


@pytest.fixture(scope="session")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw `train` and `val` datasets of 32x32 video."""
    root = tmp_path_factory.mktemp("data")
    write_raw(root / "train", style="subfolders", segments=[90, 120, 30, 75], seed=0)
    write_raw(root / "val", style="flat", segments=[70, 40, 90], seed=1)
    return root


def tiny_tokenizer_config(data: Path) -> RunConfig:
    """`tokenizer_tiny` at a size that trains in a second."""
    config = RECIPES["tokenizer_tiny"]()
    return replace(
        config,
        data=data,
        track=replace(
            config.track, model=TokenizerConfig(levels=(4, 3), fine_width=8, coarse_width=16, num_blocks=1), size=SIZE
        ),
        train=replace(config.train, num_steps=3, global_batch_size=2, micro_batch_size=2, log_every=1, num_val_clips=2),
    )


def tiny_compression_config(data: Path, tokenizer: Path) -> RunConfig:
    """`compression_tiny` at a size that trains in a second."""
    config = RECIPES["compression_tiny"]()
    model = STTransformerConfig(
        vocab_size=12, grid=SIZE // 8, num_layers=2, num_heads=2, width=16, dropout=0.1, state_width=16
    )
    return replace(
        config,
        data=data,
        track=replace(config.track, model=model, tokenizer=str(tokenizer)),
        train=replace(
            config.train,
            num_steps=6,
            global_batch_size=4,
            micro_batch_size=2,
            checkpoint_every=2,
            log_every=1,
            validate_every=3,
            num_val_clips=2,
        ),
        optim=replace(config.optim, warmup_steps=2),
    )


def tiny_autoencoder_config(data: Path) -> RunConfig:
    """`autoencoder_tiny` at a size that trains in a second: latents of 2x2 cells and 4 channels."""
    config = RECIPES["autoencoder_tiny"]()
    model = AutoencoderConfig(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=(1, 1, 1),
        num_res_blocks=0,
        temperal_downsample=(True, True),
        patch_size=4,
    )
    return replace(
        config,
        data=data,
        track=replace(config.track, model=model, size=SIZE),
        train=replace(config.train, num_steps=3, global_batch_size=2, micro_batch_size=2, log_every=1, num_val_clips=1),
    )


def tiny_sampling_config(data: Path, autoencoder: Path) -> RunConfig:
    """`sampling_tiny` at a size that trains in a second."""
    config = RECIPES["sampling_tiny"]()
    model = WanConfig(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        ffn_dim=24,
        latent_channels=4,
        patch_size=(1, 1, 1),
        freq_dim=8,
        text_dim=8,
        num_prompt_rows=4,
        state_width=8,
        lora_rank=0,
    )
    return replace(
        config,
        data=data,
        track=replace(
            config.track,
            model=model,
            autoencoder=str(autoencoder),
            size=SIZE,
            val_clip_stride=8,
            sampler=SamplerConfig(num_inference_steps=2),
            ensemble=EnsembleConfig(size=3, max_batch=4),
        ),
        train=replace(
            config.train,
            num_steps=4,
            global_batch_size=4,
            micro_batch_size=2,
            precision="no",
            checkpoint_every=2,
            log_every=1,
            validate_every=2,
            num_val_clips=1,
        ),
        optim=replace(config.optim, warmup_steps=2),
        inference=replace(
            config.inference, batch_size=2, num_shown=1, num_resamples=20, wrong_states=("frozen", "mirrored")
        ),
    )


@pytest.fixture(scope="session")
def autoencoder_run(raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a very small autoencoder."""
    run = tmp_path_factory.mktemp("runs") / "autoencoder"
    assert train_run(run, tiny_autoencoder_config(raw_root))
    return run


@pytest.fixture(scope="session")
def sampling_run(raw_root: Path, autoencoder_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a very small video model on that autoencoder's latents."""
    run = tmp_path_factory.mktemp("runs") / "sampling"
    assert train_run(run, tiny_sampling_config(raw_root, autoencoder_run))
    return run


@pytest.fixture(scope="session")
def tokenizer_run(raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a very small tokenizer."""
    run = tmp_path_factory.mktemp("runs") / "tokenizer"
    assert train_run(run, tiny_tokenizer_config(raw_root))
    return run


@pytest.fixture(scope="session")
def compression_run(raw_root: Path, tokenizer_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a very small transformer on that tokenizer's tokens."""
    run = tmp_path_factory.mktemp("runs") / "compression"
    assert train_run(run, tiny_compression_config(raw_root, tokenizer_run))
    return run


def in_child(work: Callable[[], object]) -> int:
    """Exit status of a process that does `work`, as a shell tells it: 0, 1 after an exception, 137 after kill -9."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """A file system without locks, as NFS without its lock daemon."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(files, "_told", set[str]())


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: as on a full disk, the system's own error, which names no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
