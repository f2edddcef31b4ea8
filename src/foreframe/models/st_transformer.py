"""The spatio-temporal transformer over video tokens (1X challenge report, section 3.1).

One layer is spatial attention over the cells of one grid, then causal temporal attention over the steps of one cell,
then one feed-forward. Position t of the input predicts the same cell of grid t + 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from foreframe.models.config import STTransformerConfig, grid_rows
from foreframe.states import NUM_CHANNELS


class STTransformer(nn.Module):
    """Token grids and state rows to a distribution over the next grid's tokens."""

    def __init__(self, config: STTransformerConfig) -> None:
        super().__init__()
        self.config = config
        num_cells = config.grid**2
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        """Input embedding and, transposed, the output layer."""
        self.spatial_position = nn.Parameter(torch.empty(num_cells, config.width))
        self.temporal_position = nn.Parameter(torch.empty(config.num_grids, config.width))
        self.states = StateBranch(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(STLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """GPT-2's initialisation: every weight and table N(0, 0.02), every bias zero (section 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if not isinstance(module, nn.Embedding) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.spatial_position, self.temporal_position, self.states.position):
            nn.init.normal_(table, std=0.02)

    def forward(
        self, tokens: torch.Tensor, states: torch.Tensor, *, cache: TemporalCache | None = None
    ) -> torch.Tensor:
        """Features (B, T, S, D) that predict the grid after each given one; `logits` turns them into scores.

        Args:
            tokens: (B, T, h, w) integers. With those before them in `cache`, at most `num_grids`.
            states: (B, num_states, 25) normalised state rows, row 0 at the first frame of grid 0.
            cache: Keys and values of the grids before `tokens`, to which theirs are added. Nothing changes in the
                result: no activation of a grid depends on a later one.
        """
        _, num_new, height, width = tokens.shape
        config, start = self.config, cache.num_grids if cache else 0
        if start + num_new > config.num_grids or (height, width) != (config.grid, config.grid):
            raise ValueError(
                f"token grids (B, {start + num_new}, {height}, {width}) do not fit a model of at most "
                f"{config.num_grids} grids of {config.grid}x{config.grid}"
            )
        x = self.embedding(tokens.flatten(2))
        x = x + self.spatial_position + self.temporal_position[start : start + num_new, None]
        x = x + self.states(states, start + num_new)[:, start:, None]
        x = self.dropout(x)
        for index, layer in enumerate(self.layers):
            x = layer(x, memory=cache.layers[index] if cache else None)
        return self.norm(x)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., D) to unnormalised log-probabilities (..., vocab_size) through the tied embedding."""
        return F.linear(features, self.embedding.weight)


class LayerMemory:
    """Keys and values of one layer's temporal attention, (B * S, H, T, d) each, for the grids seen so far."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_grids = 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add those of new grids (B * S, H, t, d), and return those of all grids up to now."""
        if self._keys is None or self._values is None:
            rows, heads, _, size = keys.shape
            self._keys, self._values = (x.new_empty(rows, heads, self.capacity, size) for x in (keys, values))
        start, self.num_grids = self.num_grids, self.num_grids + keys.shape[2]
        self._keys[:, :, start : self.num_grids] = keys
        self._values[:, :, start : self.num_grids] = values
        return self._keys[:, :, : self.num_grids], self._values[:, :, : self.num_grids]


class TemporalCache:
    """What temporal attention remembers of the grids already passed through a model, for inference.

    Spatial attention stays inside a grid and temporal attention looks back only, so a grid's activations are final
    once computed: passing each grid once gives what passing all of them again would.
    """

    def __init__(self, config: STTransformerConfig) -> None:
        self.layers = [LayerMemory(config.num_grids) for _ in range(config.num_layers)]

    @property
    def num_grids(self) -> int:
        """Grids passed so far."""
        return self.layers[0].num_grids


class StateBranch(nn.Module):
    """State rows (B, R, 25) to one vector for each input position (B, T, D), added to all cells of that position.

    MLP on each row, convolution over rows (kernel 3, padding 1), learned row positions (section 3.1); then the rows
    of the grid to be predicted are averaged, so that position t knows how the robot moves while grid t + 1 is filmed.
    """

    pooling: torch.Tensor

    def __init__(self, config: STTransformerConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(NUM_CHANNELS, config.state_width), nn.GELU(), nn.Linear(config.state_width, config.width)
        )
        self.conv = nn.Conv1d(config.width, config.width, kernel_size=3, padding=1)
        self.position = nn.Parameter(torch.empty(config.num_states, config.width))
        self.register_buffer("pooling", _pooling_weights(config), persistent=False)

    def forward(self, states: torch.Tensor, num_grids: int) -> torch.Tensor:
        """(B, num_states, 25) to (B, num_grids, D)."""
        if states.shape[1:] != (len(self.position), NUM_CHANNELS):
            raise ValueError(f"states have shape {tuple(states.shape)}, not (B, {len(self.position)}, {NUM_CHANNELS})")
        rows = self.conv(self.mlp(states).transpose(1, 2)).transpose(1, 2) + self.position
        return self.pooling[:num_grids].to(rows.dtype) @ rows


def _pooling_weights(config: STTransformerConfig) -> torch.Tensor:
    """(num_grids, num_states) matrix whose row t averages the state rows that position t listens to."""
    weights = torch.zeros(config.num_grids, config.num_states)
    for position in range(config.num_grids):
        if config.state_pooling == "target_rows":
            rows = grid_rows(position + 1)
        else:
            rows = range(
                position * config.num_states // config.num_grids,
                -(-(position + 1) * config.num_states // config.num_grids),
            )
        weights[position, rows.start : rows.stop] = 1 / len(rows)
    return weights


class STLayer(nn.Module):
    """Pre-norm residual layer: spatial attention, causal temporal attention, one feed-forward."""

    def __init__(self, config: STTransformerConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.spatial_norm = nn.LayerNorm(width)
        self.spatial = SelfAttention(config)
        self.temporal_norm = nn.LayerNorm(width)
        self.temporal = SelfAttention(config)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTSD: torch.Tensor, *, memory: LayerMemory | None = None) -> torch.Tensor:
        """(B, T, S, D) to the same shape; `memory` holds what temporal attention keeps of earlier steps."""
        x = x_BTSD
        x = x + self.dropout(self.spatial(self.spatial_norm(x), causal=False))
        # Cells become the batch and steps the sequence.
        x_BSTD = self.temporal_norm(x).transpose(1, 2)
        x = x + self.dropout(self.temporal(x_BSTD, causal=True, memory=memory).transpose(1, 2))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention along the second last axis, with LayerNorm on queries and keys.

    The report says QKNorm without its kind; LayerNorm over the head dimension is *assumed*.
    """

    def __init__(self, config: STTransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.query_norm = nn.LayerNorm(config.width // config.num_heads)
        self.key_norm = nn.LayerNorm(config.width // config.num_heads)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = config.attention_dropout

    def forward(self, x: torch.Tensor, *, causal: bool, memory: LayerMemory | None = None) -> torch.Tensor:
        """(..., L, D) to the same shape; with `causal`, step l sees steps up to l and those in `memory` only."""
        batch_shape, (length, width) = x.shape[:-2], x.shape[-2:]
        qkv = self.qkv(x).reshape(-1, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.query_norm(q).to(v.dtype), self.key_norm(k).to(v.dtype)
        mask = None
        if memory is not None:
            k, v = memory.append(k, v)
            past = k.shape[2] - length
            if past and length > 1:
                mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
            causal = causal and not past  # one step sees all that is there; several after a past need the mask
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(*batch_shape, length, width))
