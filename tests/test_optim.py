"""Which parameters are decayed, in every kind of model that is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.st_transformer import STTransformer
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.wan import StateConditionedWan
from foreframe.recipes import RECIPES
from foreframe.train.config import OptimConfig
from foreframe.train.optim import build_optimizer, decay_groups


def tiny(recipe: str) -> torch.nn.Module:
    config = RECIPES[recipe]().track.model
    match recipe:
        case "compression_tiny":
            return STTransformer(config)
        case "tokenizer_tiny":
            return VideoTokenizer(config)
        case "autoencoder_tiny":
            return VideoAutoencoder(config)
        case _:
            return StateConditionedWan(replace(config, guidance=True))


@pytest.mark.parametrize("recipe", ["compression_tiny", "tokenizer_tiny", "autoencoder_tiny", "sampling_tiny"])
def test_names_decide_not_the_number_of_axes(recipe) -> None:
    model = tiny(recipe)
    decayed, kept = decay_groups(model)
    exempt = ("bias", "norm", "gamma", "table", "modulation", "position", "no_states")

    def is_exempt(name: str) -> bool:
        # The GroupNorms between the state encoder's convolutions have numbers for names.
        owner = model.get_submodule(name.rpartition(".")[0])
        return isinstance(owner, torch.nn.GroupNorm) or any(word in name for word in exempt)

    assert not [name for name in decayed if is_exempt(name)]
    assert not [name for name in kept if not is_exempt(name)]
    assert sorted(decayed + kept) == sorted(name for name, _ in model.named_parameters())


def test_tables_and_gains_of_several_axes_are_kept() -> None:
    _, kept = decay_groups(tiny("sampling_tiny"))
    tables = [f"blocks.{block}.{name}" for block in range(4) for name in ("scale_shift_table", "robot_modulation")]
    assert {*tables, "scale_shift_table", "state_encoder.no_states"} <= set(kept)
    autoencoder = tiny("autoencoder_tiny")
    _, kept = decay_groups(autoencoder)
    gains = [name for name, parameter in autoencoder.named_parameters() if name.endswith(".gamma")]
    assert gains
    assert set(gains) <= set(kept)
    assert all(autoencoder.get_parameter(name).ndim > 2 for name in gains)


def test_adapters_are_decayed_and_frozen_weights_in_no_group() -> None:
    config = RECIPES["sampling_tiny"]().track.model
    model = StateConditionedWan(replace(config, lora_rank=2))
    decayed, kept = decay_groups(model)
    assert any(".lora_A." in name for name in decayed)
    assert any(".lora_B." in name for name in decayed)
    assert not [name for name in kept if ".lora_" in name]
    assert not [name for name in decayed + kept if not model.get_parameter(name).requires_grad]


def test_a_step_shrinks_what_is_decayed_and_nothing_else() -> None:
    """With no gradient but zeros, AdamW's step is its decay alone."""
    model = tiny("sampling_tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, OptimConfig(learning_rate=0.1, weight_decay=0.5)).step()
    decayed, kept = decay_groups(model)
    assert all((model.get_parameter(name) == 0.95).all() for name in decayed)
    assert all((model.get_parameter(name) == 1.0).all() for name in kept)
    build_optimizer(model, OptimConfig(learning_rate=0.1, weight_decay=0.5, decay="all")).step()
    assert all((model.get_parameter(name) == 0.95).all() for name in kept)
