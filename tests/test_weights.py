"""Weights in 8 bits: how far they may be from what was trained, and that nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from foreframe.errors import InputError
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import AutoencoderConfig, TokenizerConfig
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.weights import load_model, model_class, read_tensors, save_model, weights_hash

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    model = VideoTokenizer(TokenizerConfig(levels=(4, 3), fine_width=8, coarse_width=16, num_blocks=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_compact_weights_are_within_half_a_step_of_their_row(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    save_model(tmp_path, tokenizer, compact=True)
    loaded = load_model(tmp_path, VideoTokenizer).state_dict()
    for name, value in tokenizer.state_dict().items():
        if value.ndim >= 2:
            step = value.abs().flatten(1).amax(1) / 127
            error = (loaded[name] - value).abs().flatten(1).amax(1)
            assert (error <= 0.5001 * step).all()
            assert error.max() > 0
        else:
            assert torch.equal(loaded[name], value.half().float())


def test_compact_weights_take_a_quarter_of_the_room(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    sizes = {}
    for compact in (False, True):
        folder = tmp_path / str(compact)
        folder.mkdir()
        save_model(folder, tokenizer, compact=compact)
        sizes[compact] = sum(value.nbytes for value in read_tensors(folder / "model.safetensors").values())
    assert sizes[True] < 0.35 * sizes[False]


def test_rows_of_zeros_stay_zero(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    with torch.no_grad():
        tokenizer.decoder.head.weight.zero_()
    save_model(tmp_path, tokenizer, compact=True)
    assert torch.count_nonzero(load_model(tmp_path, VideoTokenizer).decoder.head.weight) == 0


def test_compact_once_is_compact_for_good(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    """Exporting what was exported changes nothing any more."""
    folders = [tmp_path / name for name in ("first", "second")]
    model = tokenizer
    for folder in folders:
        folder.mkdir()
        save_model(folder, model, compact=True)
        model = load_model(folder, VideoTokenizer)
    first, second = (read_tensors(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first if not name.endswith(".scale"))


def test_plain_weights_are_exact(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    save_model(tmp_path, tokenizer)
    loaded = load_model(tmp_path, VideoTokenizer).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tokenizer.state_dict().items())


def test_an_autoencoder_is_a_model_folder_too(tmp_path: Path) -> None:
    config = AutoencoderConfig(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=(1, 1), num_res_blocks=0, temperal_downsample=(True,)
    )
    model = VideoAutoencoder(config).train()
    model(torch.rand(1, 3, 5, 16, 16) * 2 - 1)
    save_model(tmp_path, model)
    assert model_class(tmp_path) == "VideoAutoencoder"
    loaded = load_model(tmp_path, VideoAutoencoder)
    assert loaded.config == config
    assert torch.equal(loaded.latents_mean, model.latents_mean)
    assert loaded.num_updates == 1
    assert len(weights_hash(tmp_path)) == 64
    with pytest.raises(InputError, match="holds a VideoAutoencoder, but a VideoTokenizer is needed"):
        load_model(tmp_path, VideoTokenizer)


def test_no_weights_no_hash(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        weights_hash(tmp_path)
