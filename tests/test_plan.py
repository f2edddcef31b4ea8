"""`foreframe plan` against the published model, against closed forms, and against what training really keeps."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import foreframe.plan as planning
from foreframe.batch import Batch
from foreframe.cli import run
from foreframe.config import RunConfig, load_config
from foreframe.plan import PlanConfig, _Meter, build_as_shapes, example_batch, flop_formulas, plan
from foreframe.recipes import RECIPES
from foreframe.states import NUM_CHANNELS, StateStatistics
from foreframe.tracks.compression import CompressionTrack
from foreframe.tracks.config import NUM_FUTURE
from foreframe.tracks.table import build_track
from foreframe.tracks.track import Track


def small(recipe: str, **model: Any) -> RunConfig:
    """A recipe at two clips a micro-batch, its model changed."""
    config = RECIPES[recipe]()
    track = replace(config.track, model=replace(config.track.model, **model))
    return replace(config, track=track, train=replace(config.train, micro_batch_size=2))


def ready(config: RunConfig) -> tuple[Track[Any], Any, Batch]:
    """Track, model and two clips, as a step of training would have them."""
    track = build_track(config.track)
    if isinstance(track, CompressionTrack):
        track.state_statistics = StateStatistics(mean=(0,) * NUM_CHANNELS, std=(1,) * NUM_CHANNELS, num_rows=1)
    return track, track.build().train(), example_batch(config, 2)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `foreframe plan RECIPE --json` prints for every recipe, from a folder that stays empty."""
    empty = tmp_path_factory.mktemp("empty")
    plans: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(empty)
        for name in RECIPES:
            # Two of its thirty layers: the rest is the same, and takes minutes.
            fewer = ["--track.model.num-layers", "2"] if "wan5b" in name else []
            with contextlib.redirect_stdout(io.StringIO()) as said:
                assert run(["plan", name, "--json", *fewer]) == 0
            plans[name] = json.loads(said.getvalue())
    assert not list(empty.iterdir())
    return plans


def test_every_recipe_has_a_plan(planned: dict[str, dict[str, Any]]) -> None:
    for name, found in planned.items():
        assert found["recipe"] == name
        assert found["parameters"] == sum(found["parts"].values())
        assert 0 < found["flops"]["forward"] < found["flops"]["forward_backward"]
        memory = found["memory"]
        parts = [memory[part] for part in ("weights", "gradients", "optimizer", "batch", "activations")]
        assert min(parts) > 0
        assert memory["peak"] > sum(parts)
        assert found["num_samples"] == found["num_steps"] * found["global_batch_size"]


def test_published_compression_entry(planned: dict[str, dict[str, Any]]) -> None:
    found = planned["compression_136m"]
    assert found["parameters"] == pytest.approx(136.11e6, rel=2e-4)
    assert found["flops"]["forward"] == pytest.approx(1.625e12, rel=2e-3)
    assert found["num_steps"] == 153_000
    assert found["num_samples"] == 80 * 306_000
    assert found["global_batch_size"] == 160
    assert found["sample"] == {"tokens": 6_144, "state_rows": 64}
    assert found["memory"]["micro_batch_size"] == 20
    assert found["memory"]["gradients"] == 4 * found["parameters"]
    assert found["memory"]["optimizer"] == pytest.approx(8 * found["parameters"], rel=1e-5)
    assert found["checkpoint_bytes"] == pytest.approx(12 * found["parameters"], rel=1e-5)


def test_flops_are_the_closed_form() -> None:
    config = small("compression_tiny")
    model = config.track.model
    cells, width, grids = model.grid**2, model.width, model.num_grids
    positions = grids * cells
    # qkv and output of two attentions, and the feed-forward; scores and sums over space, then over time.
    layers = model.num_layers * 2 * positions * (8 + 2 * model.mlp_ratio) * width**2
    attention = model.num_layers * 4 * positions * (cells + grids) * width
    rows = model.num_states
    first = 2 * rows * NUM_CHANNELS * model.state_width
    states = 2 * rows * (model.state_width * width + 3 * width**2)
    pooling = 2 * grids * rows * width
    logits = 2 * cells * width * model.vocab_size
    # A product costs twice its forward pass in the backward pass, once where one side takes no gradient. Attention's
    # two take five, for it computes the scores again. The loss looks at three grids.
    trained = 3 * (layers + states + NUM_FUTURE * logits) + 2 * (first + pooling) + attention * 7 // 2
    for device in ("cuda", "cpu"):
        found = plan(config, PlanConfig(device=device)).flops
        assert found.forward == layers + attention + first + states + pooling + grids * logits
        assert found.forward_backward == trained


class CustomOperations(TorchDispatchMode):
    """Remembers what runs and is not torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prim", "prims"):
            self.seen.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("autocast", [False, True])
def test_every_custom_operation_has_a_formula(recipe: str, autocast: bool) -> None:
    config = small(recipe, **({"num_layers": 2} if "wan5b" in recipe else {}))
    with FakeTensorMode() as mode, CustomOperations() as ran:
        track, model = build_as_shapes(config, mode)
        batch = example_batch(config, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = track.loss(model, batch)
        loss.value.backward()
    assert ran.seen <= set(flop_formulas())
    # The mode does see them: this loss is one where torch has it.
    assert bool(ran.seen) == ("compression" in recipe and not autocast and hasattr(F, "linear_cross_entropy"))


@pytest.mark.parametrize("recipe", ["compression_tiny", "tokenizer_tiny"])
def test_memory_is_what_autograd_keeps(recipe: str) -> None:
    """Shapes without contents, against a real run on this CPU."""
    config = small(recipe)
    if recipe == "compression_tiny":
        # Few classes: a loss may compute its gradients at once and keep those where autograd does not show them.
        config = small(recipe, grid=8, num_layers=2, width=64, vocab_size=50)
    track, model, batch = ready(config)
    given = [*model.parameters(), *model.buffers(), *vars(batch).values()]
    there = {x.untyped_storage().data_ptr() for x in given if isinstance(x, torch.Tensor)}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = track.loss(model, batch)
    assert loss.value.requires_grad
    found = plan(config, PlanConfig(device="cpu")).memory
    assert found.activations == pytest.approx(sum(kept.values()), rel=0.03)
    assert found.weights == sum(x.nbytes for x in [*model.parameters(), *model.buffers()])


def test_what_is_computed_again_is_not_kept_until_the_end() -> None:
    """Peaks of a small video model under each mode of checkpointing, against a run whose tensors have contents."""
    for checkpointing in ("none", "selective", "full"):
        config = small("sampling_tiny", num_layers=8, checkpointing=checkpointing)
        config = replace(config, train=replace(config.train, precision="no"))
        memory = plan(config, PlanConfig(device="cpu")).memory
        found = memory.peak - memory.weights - memory.gradients - memory.optimizer - memory.batch
        track, model, batch = ready(config)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        given = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), *vars(batch).values()]
        with _Meter([one for one in given if isinstance(one, torch.Tensor)]) as meter:
            track.loss(model, batch).value.backward()
        assert found == pytest.approx(meter.peak, rel=0.05), checkpointing


def test_imitated_cuda_keeps_a_byte_for_each_dropped_element() -> None:
    without = plan(small("compression_tiny")).memory.activations
    model = small("compression_tiny").track.model
    elements = 2 * model.num_grids * model.grid**2 * model.width
    masks = (1 + 3 * model.num_layers) * elements
    assert plan(small("compression_tiny", dropout=0.1)).memory.activations == without + masks
    # Fused attention keeps no scores, dropout or not; on a CPU dropout takes the kernel that does.
    assert plan(small("compression_tiny", attention_dropout=0.1)).memory.activations == without
    scores = 4 * 2 * model.num_grids * model.grid**4 * model.num_heads * model.num_layers
    cpu = PlanConfig(device="cpu")
    dropping = plan(small("compression_tiny", attention_dropout=0.1), cpu).memory.activations
    assert dropping > plan(small("compression_tiny"), cpu).memory.activations + 2 * scores


def test_autocast_halves_most_of_it() -> None:
    config = small("compression_tiny", num_layers=1)
    full, mixed = plan(config), plan(replace(config, train=replace(config.train, precision="bf16")))
    assert mixed.memory.activations < 0.8 * full.memory.activations
    assert mixed.memory.weights == full.memory.weights
    assert mixed.flops == full.flops


def test_a_checkpoint_takes_that_much(compression_run: Path) -> None:
    checkpoint = next((compression_run / "checkpoints").iterdir())
    size = 0
    for name in ("model", "optimizer"):
        content = (checkpoint / f"{name}.safetensors").read_bytes()
        size += len(content) - 8 - int.from_bytes(content[:8], "little")
    assert plan(load_config(compression_run)).checkpoint_bytes == size


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "compression_tiny", "--train.micro-batch-size", "2", "--train.global-batch-size", "16"]) == 0
    text = capsys.readouterr().out
    lines = {line[:36].strip(): line[36:].strip() for line in text.splitlines()}
    assert lines["samples a step"] == "16"
    assert lines["samples in all"] == "2,400"
    assert lines["Adam"] == "19.762 MB"
    assert lines["forward, every output"] == "6.704 GFLOP"
    estimated = {name for name, value in lines.items() if value.endswith("  estimate: CUDA's kernels imitated")}
    assert estimated == {"kept for the backward pass", "together, at the peak"}
    assert "memory of one CUDA device, 2 samples at once, float32" in text
    assert run(["plan", "tokenizer_tiny", "--device", "cpu", "--track.start-from", "/nowhere"]) == 0
    text = capsys.readouterr().out
    assert "memory of a CPU, 4 samples at once, float32" in text
    assert "estimate: without scratch memory" in text


PAGE = Path(__file__).parents[1] / "docs" / "reproduction.md"


def test_reproduction_page_names_what_exists(planned: dict[str, dict[str, Any]]) -> None:
    page = PAGE.read_text()
    assert f"{planned['compression_136m']['parameters']:,}" in page
    helps = ""
    commands = (
        "train compression_136m",
        "train sampling_wan5b",
        "plan compression_136m",
        "data encode",
        "evaluate",
        "report",
    )
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert run([*command.split(), "--help"]) == 0
        helps += said.getvalue()
    launchers = {"--local-dir", "--nproc-per-node", "--no-python", "--multi_gpu", "--num_processes", "--no_python"}
    options = set(re.findall(r"--[a-z][a-z_.-]*[a-z]", page)) - launchers
    assert len(options) > 10
    for option in options:
        assert re.search(rf"{re.escape(option)}(?![a-z.-])", helps), f"{option} is no option"
    for field in re.findall(r"`((?:cross_entropy|top_k)_(?:autoregressive|teacher_forced))`", page):
        assert field in CompressionTrack(RECIPES["compression_136m"]().track).metrics


def test_reproduction_page_counts_clips(compression_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r'python -c "(.+)"', PAGE.read_text())
    assert code is not None
    tokens = sorted((compression_run / "cache").rglob("metadata.json"))[0].parent
    exec(code[1].replace("/data/1x/train_v2.0", str(tokens)), {})
    assert int(capsys.readouterr().out) > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "nonsense: no such recipe; there are: compression_136m"),
        (["compression_tiny", "--nonsense", "3"], "--nonsense"),
        (["compression_tiny", "--device", "abacus"], "abacus"),
        (["compression_tiny", "--train.num-steps", "-1"], "num_steps"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert says in captured.err


DEPTHS = [
    ("compression_tiny", {}, "no"),
    ("compression_tiny", {"dropout": 0.1}, "bf16"),
    *(("sampling_tiny", {"checkpointing": how}, "no") for how in ("none", "selective", "full")),
    *(("sampling_tiny", {"checkpointing": how, "lora_rank": 4}, "bf16") for how in ("none", "selective", "full")),
    ("sampling_tiny", {"checkpointing": "full", "lora_rank": 4}, "no"),
]


@pytest.mark.parametrize(("recipe", "settings", "precision"), DEPTHS)
def test_counting_three_blocks_is_counting_all(
    recipe: str, settings: dict[str, Any], precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(recipe, num_layers=4, **settings)
    config = replace(config, train=replace(config.train, precision=precision))
    by_three = plan(config)

    def in_full(config: RunConfig, num_clips: int, *, flops: bool = True, **rest: Any) -> Any:
        return planning._measure(config, num_clips, flops=flops, **rest)

    monkeypatch.setattr(planning, "_cost", in_full)
    assert by_three == plan(config)


def test_a_large_plan_runs_three_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what running through all thirty says, which takes minutes (counted once, in full)."""
    depths: list[int] = []
    measure = planning._measure

    def seen(config: Any, num_clips: int, **rest: Any) -> Any:
        depths.append(config.track.model.num_layers)
        return measure(config, num_clips, **rest)

    monkeypatch.setattr(planning, "_measure", seen)
    planned = plan(RECIPES["sampling_wan5b"]())
    assert max(depths) == 3
    assert len(depths) == 4
    assert planned.flops == planning.Flops(forward=13_542_269_462_016, forward_backward=28_683_922_443_264)
    assert planned.memory.activations == 62_649_429_508
    assert planned.memory.weights == 10_616_628_608
