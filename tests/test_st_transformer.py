"""The spatio-temporal transformer: its size, what each prediction may see, and a second implementation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from foreframe.batch import Batch, ClipId
from foreframe.inference.autoregressive import clip_generator, rollout, top_log_probs
from foreframe.models.config import STTransformerConfig, grid_rows
from foreframe.models.losses import linear_cross_entropy
from foreframe.models.st_transformer import STTransformer, TemporalCache
from foreframe.models.weights import load_model, save_model
from foreframe.recipes import RECIPES
from foreframe.states import NUM_CHANNELS, StateStatistics
from foreframe.tracks.compression import CompressionTrack
from foreframe.train.optim import build_optimizer, decay_groups, set_learning_rate

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


def test_no_gradient_reaches_a_later_grid_or_another_clip() -> None:
    model = small()
    tokens, states = inputs()
    embedded: list[torch.Tensor] = []

    def keep(_module, _inputs, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    handle = model.embedding.register_forward_hook(keep)
    features = model(tokens, states)
    handle.remove()
    for position in range(5):
        (gradient,) = torch.autograd.grad(features[0, position].sum(), embedded[0], retain_graph=True)
        reached = gradient.abs().sum((2, 3)) > 0  # (B, T)
        assert reached[0].tolist() == [step <= position for step in range(5)]
        assert not reached[1].any()


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


@pytest.mark.parametrize(("pooling", "num_read"), [("target_rows", 35), ("adaptive", 64)])
def test_which_state_rows_are_read(pooling, num_read) -> None:
    """Of the 64 rows of equation 1; the convolution of width 3 reads one row past the last frame, 33."""
    config = STTransformerConfig(
        vocab_size=11, grid=2, num_layers=1, width=16, num_heads=2, state_width=8, state_pooling=pooling
    )
    torch.manual_seed(0)
    model = STTransformer(config).double().eval()
    states = torch.randn(1, 64, NUM_CHANNELS, dtype=torch.float64, requires_grad=True)
    features = model(torch.randint(11, (1, 5, 2, 2)), states)
    (gradient,) = torch.autograd.grad(model.logits(features).square().sum(), states)
    read = gradient.abs().sum((0, 2)) > 0
    assert read[:num_read].all()
    assert not read[num_read:].any()


def test_adaptive_pooling_is_torchs() -> None:
    config = STTransformerConfig(
        vocab_size=11, grid=2, num_layers=1, width=16, num_heads=2, state_width=8, state_pooling="adaptive"
    )
    branch = STTransformer(config).double().states
    states = torch.randn(2, 64, NUM_CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        rows = branch.conv(branch.mlp(states).transpose(1, 2)) + branch.position.T
        wanted = torch.nn.functional.adaptive_avg_pool1d(rows, 5).transpose(1, 2)
        torch.testing.assert_close(branch(states, 5), wanted)


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


def test_greedy_rollout_equals_passing_everything_again() -> None:
    """Tokens the same and logits to 1e-10 in float64, though every grid passes through the model only once."""
    model = small()
    tokens, states = inputs(grids=3)
    found = rollout(model, tokens, states)
    grids = tokens
    with torch.no_grad():
        for step in range(3):
            logits = model.logits(model(grids, states))[:, -1]
            cached = model.logits(found.features[:, step])
            torch.testing.assert_close(cached, logits, rtol=0, atol=1e-10)
            grids = torch.cat([grids, logits.argmax(-1).reshape(2, 1, 3, 3)], 1)
    assert torch.equal(grids[:, 3:], found.tokens)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (3, 2), (1, 4), (2, 1, 2), (5,)])
def test_cache_takes_grids_in_any_portions(pieces: tuple[int, ...]) -> None:
    model = small(3)
    tokens, states = inputs(grids=5)
    with torch.no_grad():
        whole = model(tokens, states)
        cache = TemporalCache(SMALL)
        parts = [model(part, states, cache=cache) for part in tokens.split(pieces, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)
    assert cache.num_grids == 5
    with pytest.raises(ValueError, match="do not fit"):
        model(tokens[:, :1], states, cache=cache)


def test_draws_follow_the_distribution_and_the_clip_alone() -> None:
    model = small(2)
    tokens, states = inputs(batch=2, grids=3)
    with torch.no_grad():
        model.embedding.weight.mul_(0.5)  # flatter, so that many tokens are drawn
    repeats = 3000
    many = [x.repeat_interleave(repeats, 0) for x in (tokens[:1], states[:1])]
    drawn = rollout(
        model, *many, num_future=1, temperature=0.7, generators=[clip_generator(0, k) for k in range(repeats)]
    )
    wanted = (model.logits(drawn.features[0, 0]) / 0.7).softmax(-1)  # (S, V)
    counts = torch.stack([torch.bincount(cell, minlength=SMALL.vocab_size) for cell in drawn.tokens.flatten(1).T])
    expected = wanted * repeats
    chi_squared = ((counts - expected) ** 2 / expected.clamp(min=1e-9))[expected > 5].sum()
    freedom = int((expected > 5).sum())
    assert abs(chi_squared - freedom) < 6 * math.sqrt(2 * freedom)

    # A clip's draws do not depend on its neighbours in the batch, and another seed gives others.
    def draw(rows: slice, seed: int) -> torch.Tensor:
        generators = [clip_generator(seed, 5, index) for index in range(2)[rows]]
        return rollout(model, tokens[rows], states[rows], temperature=1.0, generators=generators).tokens

    both = draw(slice(None), 4)
    assert torch.equal(both[1:], draw(slice(1, 2), 4))
    assert not torch.equal(both, draw(slice(None), 5))
    with pytest.raises(ValueError, match="generator"):
        rollout(model, tokens, states, temperature=1.0)


def test_a_low_temperature_is_greedy() -> None:
    model = small()
    tokens, states = inputs(grids=3)
    cold = rollout(model, tokens, states, temperature=1e-4, generators=[clip_generator(0, k) for k in range(2)])
    assert torch.equal(cold.tokens, rollout(model, tokens, states).tokens)


def test_a_submission_carries_the_likeliest_tokens() -> None:
    model = small()
    tokens, states = inputs(grids=3)
    prediction = rollout(model, tokens, states)
    indices, values = top_log_probs(model, prediction, k=7)
    assert indices.shape == values.shape == (2, 3, 9, 7)
    assert torch.equal(indices[..., 0].long(), prediction.tokens.flatten(2))
    with torch.no_grad():
        log_probs = model.logits(prediction.features).log_softmax(-1)
    torch.testing.assert_close(values.double(), log_probs.topk(7).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("piece", [2**28, 200])
def test_chunked_loss_and_gradients_equal_the_plain_ones(precision: torch.dtype, piece: int) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if precision == torch.bfloat16 else precision  # bfloat16 as autocast runs it
    features = torch.randn(37, 16, dtype=dtype, requires_grad=True)
    weight = (0.3 * torch.randn(50, 16, dtype=dtype)).requires_grad_()
    targets = torch.randint(50, (37,))

    def run(loss) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            value = loss()
        return value.detach(), *torch.autograd.grad(3 * value, (features, weight))

    plain = run(lambda: F.cross_entropy(F.linear(features, weight).float(), targets))
    chunked = run(lambda: linear_cross_entropy(features, weight, targets, piece=piece))
    tolerance = 2e-2 if precision == torch.bfloat16 else 1e-5
    assert chunked[0].item() == pytest.approx(plain[0].item(), rel=1e-5)
    for one, other in zip(chunked[1:], plain[1:], strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() < tolerance * other.abs().max()


def test_scheduled_sampling_replaces_cells_of_future_grids_only() -> None:
    model = small(dtype=torch.float32)
    track = CompressionTrack(replace(RECIPES["compression_tiny"]().track, model=SMALL, scheduled_sampling=0.5))
    tokens, states = inputs(batch=64, grids=5)
    torch.manual_seed(0)
    mixed = track._with_own_guesses(model, tokens, states.float())
    assert torch.equal(mixed[:, :3], tokens[:, :3])
    with torch.no_grad():
        guesses = model.logits(model(tokens, states.float())[:, 2:4]).argmax(-1).reshape(64, 2, 3, 3)
    changed = mixed[:, 3:] != tokens[:, 3:]
    assert torch.equal(mixed[:, 3:][changed], guesses[changed])
    differ = guesses != tokens[:, 3:]
    assert changed[differ].float().mean().item() == pytest.approx(0.5, abs=0.06)


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


def test_golden_values_after_one_step_of_the_tiny_recipe() -> None:
    """Any change of initialisation, model, loss, decay or schedule shows here; say in the commit which one it was."""
    config = RECIPES["compression_tiny"]()
    track = CompressionTrack(config.track)
    track.state_statistics = StateStatistics(mean=(0.0,) * NUM_CHANNELS, std=(1.0,) * NUM_CHANNELS, num_rows=1)
    torch.manual_seed(0)
    model = track.build()
    optimizer = build_optimizer(model, config.optim)
    size, generator = config.track.model, np.random.default_rng(0)
    tokens = generator.integers(0, size.vocab_size, (2, 6, size.grid, size.grid))
    batch = Batch(
        clips=(ClipId(0, 0, 0), ClipId(0, 34, 0)),
        states=torch.from_numpy(generator.standard_normal((2, size.num_states, NUM_CHANNELS)).astype(np.float32)),
        states_valid=torch.ones(2, size.num_states, dtype=torch.bool),
        tokens=torch.from_numpy(tokens),
    )
    set_learning_rate(optimizer, config.optim, config.optim.warmup_steps, config.train.num_steps)
    before = track.loss(model, batch).value
    before.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.gradient_clip)
    optimizer.step()
    after = track.loss(model, batch).value
    found = [before.item(), float(norm), after.item(), model.embedding.weight.norm().item()]
    assert found == pytest.approx([8.318046, 1.053728, 8.177191, 16.029070], rel=1e-4)
