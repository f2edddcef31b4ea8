"""The named recipes: each is a function that returns a complete configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreframe.recipes.compression import compression_136m, compression_tiny
from foreframe.recipes.reconstruction import tokenizer_tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreframe.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "compression_136m": compression_136m,
    "compression_tiny": compression_tiny,
    "tokenizer_tiny": tokenizer_tiny,
}
