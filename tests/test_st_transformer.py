"""The spatio-temporal transformer: its size, what each prediction may see, and a second implementation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from foreframe.inference.autoregressive import greedy_rollout
from foreframe.models.st_transformer import STTransformer, STTransformerConfig, grid_rows
from foreframe.models.weights import load_model, save_model
from foreframe.states import NUM_CHANNELS
from foreframe.train.optim import decay_groups

SMALL = STTransformerConfig(
    vocab_size=40, grid=3, num_layers=2, num_heads=2, width=16, dropout=0.0, attention_dropout=0.0, state_width=24
)


def small(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> STTransformer:
    """A model whose every parameter is random and of ordinary size, so that nothing is hidden by a zero."""
    torch.manual_seed(seed)
    model = STTransformer(SMALL).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def inputs(batch: int = 2, grids: int = 5, *, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SMALL.vocab_size, (batch, grids, SMALL.grid, SMALL.grid), generator=generator)
    return tokens, torch.randn(batch, SMALL.num_states, NUM_CHANNELS, generator=generator, dtype=torch.float64)


def test_full_size_parameters_and_work() -> None:
    config = STTransformerConfig()
    with torch.device("meta"):
        model = STTransformer(config).eval()
        tokens = torch.zeros(1, 5, 32, 32, dtype=torch.long)
        states = torch.zeros(1, 64, NUM_CHANNELS)
        with FlopCounterMode(display=False) as counter:
            model.logits(model(tokens, states))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(136.11e6, rel=2e-4)
    assert counter.get_total_flops() == pytest.approx(1.625e12, rel=2e-3)


def naive(model: STTransformer, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The same numbers from the parameters alone: explicit loops over grids, cells and heads."""
    weights = dict(model.named_parameters())
    config = model.config
    batch, num_grids = tokens.shape[:2]
    cells, width = config.grid**2, config.width

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        deviation = ((x - mean) ** 2).mean(-1, keepdim=True).add(1e-5).sqrt()
        return (x - mean) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def attend(x: torch.Tensor, name: str, *, causal: bool) -> torch.Tensor:
        """One sequence (L, D)."""
        size = width // config.num_heads
        q, k, v = linear(x, f"{name}.qkv").split(width, -1)
        heads = []
        for head in range(config.num_heads):
            part = slice(head * size, (head + 1) * size)
            query, key = norm(q[:, part], f"{name}.query_norm"), norm(k[:, part], f"{name}.key_norm")
            scores = torch.einsum("qd,kd->qk", query, key) / math.sqrt(size)
            if causal:
                for row in range(len(x)):
                    scores[row, row + 1 :] = -math.inf
            heads.append(torch.einsum("qk,kd->qd", scores.softmax(-1), v[:, part]))
        return linear(torch.cat(heads, -1), f"{name}.out")

    rows = linear(gelu(linear(states, "states.mlp.0")), "states.mlp.2")
    padded = F.pad(rows, (0, 0, 1, 1))
    kernel, bias = weights["states.conv.weight"], weights["states.conv.bias"]
    rows = sum(torch.einsum("bri,oi->bro", padded[:, k : k + rows.shape[1]], kernel[:, :, k]) for k in range(3)) + bias
    rows = rows + weights["states.position"]
    x = torch.zeros(batch, num_grids, cells, width, dtype=torch.float64)
    for t in range(num_grids):
        heard = grid_rows(t + 1)
        state = rows[:, heard.start : heard.stop].mean(1)
        x[:, t] = weights["embedding.weight"][tokens[:, t].flatten(1)] + state[:, None]
        x[:, t] += weights["spatial_position"] + weights["temporal_position"][t]
    for index in range(config.num_layers):
        name = f"layers.{index}"
        y = norm(x, f"{name}.spatial_norm")
        y = torch.stack([torch.stack([attend(y[b, t], f"{name}.spatial", causal=False) for t in range(num_grids)])
                         for b in range(batch)])  # fmt: skip
        x = x + y
        y = norm(x, f"{name}.temporal_norm")
        y = torch.stack([torch.stack([attend(y[b, :, s], f"{name}.temporal", causal=True) for s in range(cells)], 1)
                         for b in range(batch)])  # fmt: skip
        x = x + y
        x = x + linear(gelu(linear(norm(x, f"{name}.mlp_norm"), f"{name}.mlp.0")), f"{name}.mlp.2")
    return torch.einsum("btsd,vd->btsv", norm(x, "norm"), weights["embedding.weight"])


def test_agrees_with_naive_implementation() -> None:
    model = small()
    tokens, states = inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            model.logits(model(tokens, states)), naive(model, tokens, states), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("changed", range(5))
def test_no_later_grid_is_seen(changed: int) -> None:
    model = small()
    tokens, states = inputs()
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % SMALL.vocab_size
    with torch.no_grad():
        before, after = model(tokens, states), model(other, states)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=0)
    assert all((before[:, t] != after[:, t]).any() for t in range(changed, 5))


def test_states_reach_only_the_grids_they_belong_to() -> None:
    model = small()
    tokens, states = inputs()
    states.requires_grad_()
    for position in range(5):
        (gradient,) = torch.autograd.grad(model(tokens, states)[0, position].sum(), states)
        touched = set(gradient[0].abs().sum(-1).nonzero().flatten().tolist())
        # Position t hears the rows of grids 1..t+1 (earlier ones through temporal attention), one more for the kernel.
        heard = {row for grid in range(1, position + 2) for row in grid_rows(grid)}
        assert touched == {row + shift for row in heard for shift in (-1, 0, 1)}
        assert gradient[1].abs().sum() == 0


def test_spatial_attention_stays_inside_its_grid() -> None:
    model = small()
    x = torch.randn(1, 5, 9, SMALL.width, dtype=torch.float64, requires_grad=True)
    attention = model.layers[0].spatial  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(attention(x, causal=False)[0, 2].sum(), x)
    assert gradient[0, 2].abs().sum() > 0
    assert gradient[0, [0, 1, 3, 4]].abs().sum() == 0


def test_grid_rows_follow_the_tokenizer_blocks() -> None:
    assert [list(grid_rows(grid)) for grid in range(6)] == [
        [0],
        [*range(1, 9)],
        [*range(9, 17)],
        [17],
        [*range(18, 26)],
        [*range(26, 34)],
    ]


def test_weights_are_tied_after_saving_and_loading(tmp_path) -> None:
    model = small(dtype=torch.float32)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path, STTransformer)
    tokens, states = inputs()
    with torch.no_grad():
        loaded.embedding.weight[7] = 0
        logits = loaded.logits(loaded(tokens, states.float()))
    assert (logits[..., 7] == 0).all()
    assert sum(1 for parameter in loaded.parameters() if parameter.shape[0] == SMALL.vocab_size) == 1


def test_decay_touches_matrices_only() -> None:
    decayed, kept = decay_groups(STTransformer(SMALL))
    assert "embedding.weight" in decayed
    assert "states.conv.weight" in decayed
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"spatial_position", "temporal_position", "states.position", "norm.weight"} <= set(kept)
    assert all(name.endswith("bias") or "norm" in name or "position" in name for name in kept)


def test_initialisation_is_gpt2s() -> None:
    torch.manual_seed(0)
    model = STTransformer(STTransformerConfig(vocab_size=500, grid=8, num_layers=1, width=128, num_heads=4))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_greedy_rollout_feeds_its_own_argmax_back() -> None:
    model = small()
    tokens, states = inputs(grids=3)
    rollout = greedy_rollout(model, tokens, states)
    grids = tokens
    with torch.no_grad():
        for step in range(3):
            logits = model.logits(model(grids, states))[:, -1].reshape(2, 3, 3, -1)
            torch.testing.assert_close(logits.float(), rollout.logits[:, step])
            grids = torch.cat([grids, logits.argmax(-1)[:, None]], 1)
    assert torch.equal(grids[:, 3:], rollout.tokens)


def test_memorises_a_few_clips() -> None:
    torch.manual_seed(0)
    config = STTransformerConfig(
        vocab_size=40, grid=3, num_layers=2, num_heads=2, width=64, dropout=0, attention_dropout=0, state_width=32
    )
    model = STTransformer(config)
    tokens, states = inputs(8, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.tensor(math.inf)
    for _ in range(300):
        logits = model.logits(model(tokens[:, :-1], states.float())[:, 2:])
        loss = F.cross_entropy(logits.flatten(0, 2), tokens[:, 3:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.04:
            break
    assert loss < 0.05
