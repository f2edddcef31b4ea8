"""The named recipes: each is a function that returns a complete configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreframe.recipes.compression import compression_136m, compression_tiny
from foreframe.recipes.reconstruction import autoencoder_tiny, tokenizer_tiny
from foreframe.recipes.sampling import sampling_tiny, sampling_wan5b, sampling_wan5b_cfg

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreframe.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "compression_136m": compression_136m,
    "compression_tiny": compression_tiny,
    "sampling_wan5b": sampling_wan5b,
    "sampling_wan5b_cfg": sampling_wan5b_cfg,
    "sampling_tiny": sampling_tiny,
    "tokenizer_tiny": tokenizer_tiny,
    "autoencoder_tiny": autoencoder_tiny,
}
