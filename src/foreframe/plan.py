"""What a recipe costs, before anything is loaded: parameters, FLOPs, memory, steps and disk, from one run without data.

The recipe's own loss runs once, forward and backward, on tensors that have shapes but no contents, so nothing is
allocated or computed. What is *counted* there is exact for the operations that ran; what is *estimated* says so.

A CUDA device is imitated, for torch lets no CPU-only build run autograd on tensors that claim to be on one: attention
runs as the kernel that a CUDA device would take (flash in bfloat16 without a mask, else memory-efficient), dropout
keeps a byte for each element, and under autocast norms, softmax and losses compute in float32. Not seen: what a kernel
allocates inside itself, CUDA's context, fragmentation, and the gradient buckets of several processes (as large as the
gradients).
"""

from __future__ import annotations

import math
import weakref
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from foreframe.batch import Batch, ClipId
from foreframe.data.latents import record_type
from foreframe.data.windows import CLIP_FRAMES
from foreframe.models.config import BLOCK_FRAMES
from foreframe.states import NUM_CHANNELS, StateStatistics
from foreframe.tracks.compression import CompressionTrack
from foreframe.tracks.config import NUM_CONTEXT, NUM_FUTURE, CompressionConfig, ReconstructionConfig, SamplingConfig
from foreframe.tracks.table import build_track

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foreframe.config import RunConfig
    from foreframe.tracks.track import Track

_TRAIN_FRAMES, _TRAIN_SEGMENTS = 11_254_161, 38_846
"""Of 1X's training split (challenge-facts 1.1)."""
_LATENT_SIDE = 16
"""Pixels along the side of a latent of Wan2.2's autoencoder."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """On what a recipe is planned."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Whose kernels decide what is kept for the backward pass."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations for one sample: two to a multiply-add, matrix products and attention only."""

    forward: int
    """The model with every output it can give: for token grids, logits on each position."""
    forward_backward: int
    """The loss and its gradients as executed: attention's backward computes the scores again."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device at the recipe's micro-batch, in eager mode."""

    device: str
    micro_batch_size: int
    weights: int
    """Parameters and buffers."""
    gradients: int
    """All of them at once, as when gradients are accumulated."""
    optimizer: int
    """Adam's two averages and its step counts."""
    batch: int
    """One micro-batch of data."""
    activations: int
    """What is alive when the forward pass ends: saved for backward, autocast's copies of weights among it."""
    peak: int
    """All of these, and what else is alive when forward and backward pass need most."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a recipe."""

    recipe: str
    precision: str
    parameters: int
    parts: dict[str, int]
    """Parameters of each top-level part of the model."""
    flops: Flops
    memory: Memory
    num_steps: int
    global_batch_size: int
    num_samples: int
    """Seen over the whole run."""
    sample: dict[str, int]
    """Tokens, frames, latents and state rows of one sample."""
    peaks: dict[int, int]
    """Peak bytes at other micro-batches, by their size; an estimate, like `memory.peak`."""
    latent_cache: dict[int, int]
    """Bytes of disk for the latents of the challenge's training split (challenge-facts 1.1), by the stride of clips."""
    checkpoint_bytes: int
    """Of one checkpoint: weights and optimiser."""


def plan(config: RunConfig, settings: PlanConfig | None = None) -> Plan:
    """Count what training `config` takes. Nothing is read, written, downloaded or allocated."""
    settings = PlanConfig() if settings is None else settings
    train = config.train
    with FakeTensorMode() as mode:
        batch, single = (example_batch(config, size) for size in (train.micro_batch_size, 1))
        cost = _cost(config, train.micro_batch_size, device=settings.device, mode=mode)
        sizes = _other_sizes(config)
        alone = _cost(config, 1, device=settings.device, mode=mode, flops=False).peak if sizes else cost.peak
    # Two averages like the parameter, and a float32 count of steps for each.
    optimizer = 2 * cost.gradients + 4 * cost.num_trained
    data = _num_bytes(vars(batch).values())
    fixed = cost.weights + cost.gradients + optimizer
    # What is alive grows by the same amount with each sample.
    slope = (data + cost.peak - _num_bytes(vars(single).values()) - alone) / max(1, train.micro_batch_size - 1)
    peaks = {size: round(fixed + data + cost.peak + slope * (size - train.micro_batch_size)) for size in sizes}
    return Plan(
        recipe=config.recipe,
        precision=train.precision,
        parameters=sum(cost.parts.values()),
        parts=cost.parts,
        flops=Flops(
            forward=cost.forward // train.micro_batch_size,
            forward_backward=cost.forward_backward // train.micro_batch_size,
        ),
        memory=Memory(
            device=settings.device,
            micro_batch_size=train.micro_batch_size,
            weights=cost.weights,
            gradients=cost.gradients,
            optimizer=optimizer,
            batch=data,
            activations=cost.activations,
            peak=fixed + data + cost.peak,
        ),
        num_steps=train.num_steps,
        global_batch_size=train.global_batch_size,
        num_samples=train.num_steps * train.global_batch_size,
        sample=_sizes(batch),
        peaks=peaks,
        latent_cache=_latent_cache(config, batch),
        checkpoint_bytes=(cost.gradients if _is_adapted(config) else cost.saved) + optimizer,
    )


def _is_adapted(config: RunConfig) -> bool:
    """Whether a checkpoint holds what was trained on a frozen base, without the base."""
    return isinstance(config.track, SamplingConfig) and config.track.model.lora_rank > 0


def _other_sizes(config: RunConfig) -> tuple[int, ...]:
    """Micro-batches to tell the peak of besides the recipe's own."""
    return (1, 16, 32) if _is_adapted(config) else ()


def _latent_cache(config: RunConfig, batch: Batch) -> dict[int, int]:
    """Bytes of bfloat16 latents with their states and addresses, for all clips of 1X's training split."""
    if not isinstance(config.track, SamplingConfig) or batch.latents is None:
        return {}
    record = record_type(batch.latents.shape[1:], num_states=CLIP_FRAMES, dtype="bfloat16").itemsize
    # Clips are lost at the segments' ends only: some 76 frames of each.
    frames = _TRAIN_FRAMES - _TRAIN_SEGMENTS * (CLIP_FRAMES - 1)
    return {stride: record * frames // stride for stride in (config.track.clip_stride, CLIP_FRAMES)}


def example_batch(config: RunConfig, num_clips: int) -> Batch:
    """A batch of the shapes that the recipe trains on; zeros."""
    num_states = BLOCK_FRAMES
    tokens = video = latents = None
    match config.track:
        case CompressionConfig(model=model):
            num_states = model.num_states
            tokens = torch.zeros(num_clips, NUM_CONTEXT + NUM_FUTURE, model.grid, model.grid, dtype=torch.int64)
        case ReconstructionConfig(size=size, frame_offsets=offsets):
            num_states = offsets[-1] + 1
            video = torch.zeros(num_clips, 3, len(offsets), size, size)
        case SamplingConfig(size=size, model=model, frame_offsets=offsets):
            num_states, side = CLIP_FRAMES, size // _LATENT_SIDE
            latents = torch.zeros(num_clips, model.latent_channels, 1 + (len(offsets) - 1) // 4, side, side)
    return Batch(
        clips=(ClipId(0, 0, 0),) * num_clips,
        states=torch.zeros(num_clips, num_states, NUM_CHANNELS),
        states_valid=torch.ones(num_clips, num_states, dtype=torch.bool),
        tokens=tokens,
        video=video,
        latents=latents,
    )


def build_as_shapes(config: RunConfig, mode: FakeTensorMode) -> tuple[Track[Any], Any]:
    """Track and model as for training, with states left as they are and no weights read."""
    if isinstance(config.track, SamplingConfig):
        config = replace(config, track=replace(config.track, model=replace(config.track.model, base=None), prompt=None))
    track = build_track(config.track)
    if isinstance(track, CompressionTrack):
        zero, one = (0.0,) * NUM_CHANNELS, (1.0,) * NUM_CHANNELS
        track.state_statistics = StateStatistics(mean=zero, std=one, num_rows=0)
    # Built on the meta device, and then given shapes that claim to be on the CPU: PEFT moves the layers that it makes,
    # which tensors of the mode do not survive.
    with unset_fake_temporarily(), torch.device("meta"):
        model = track.build()
        shapes = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    fakes = {
        name: mode.fake_tensor_converter.from_meta_and_device(mode, tensor, torch.device("cpu"))
        for name, tensor in shapes.items()
    }
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(fakes[prefix + name], requires_grad=parameter.requires_grad))
        for name, _ in list(module.named_buffers(recurse=False)):
            setattr(module, name, fakes[prefix + name])
    return track, model.train()


def _num_bytes(values: Iterable[object]) -> int:
    """Of the tensors among them."""
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _parts(model: nn.Module) -> dict[str, int]:
    """Parameters by top-level child, and those that the model holds itself."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def _sizes(batch: Batch) -> dict[str, int]:
    sizes: dict[str, int] = {}
    if batch.tokens is not None:
        sizes["tokens"] = batch.tokens[0].numel()
    if batch.video is not None:
        sizes["frames"] = batch.video.shape[2]
    if batch.latents is not None:
        sizes["latent_values"] = batch.latents[0].numel()
    return {**sizes, "state_rows": batch.states.shape[1]}


# -- the run without data --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Of the model and one micro-batch."""

    parts: dict[str, int]
    """Parameters of each top-level part."""
    weights: int
    """Bytes of parameters and buffers."""
    saved: int
    """Bytes of those that a checkpoint holds."""
    gradients: int
    """Bytes of the parameters that are trained."""
    num_trained: int
    """How many tensors those are."""
    forward: int
    """FLOPs of the model with every output; 0 where they were not asked for."""
    forward_backward: int
    """FLOPs of the loss and its gradients; likewise."""
    activations: int
    """Bytes alive between forward and backward."""
    peak: int
    """Bytes alive at the peak of forward and backward."""


def _cost(config: RunConfig, num_clips: int, *, device: str, mode: FakeTensorMode, flops: bool = True) -> _Cost:
    """What a micro-batch costs.

    Blocks are alike: two and three of them are counted, and the difference once for each block more. From two on the
    peak grows evenly too: it lies in the backward of the last blocks, when all that is kept is there. Not so where
    autocast's copies of weights that train are made again in the backward pass and stay: there all blocks are counted.
    """
    model: Any = config.track.model
    depth = getattr(model, "num_layers", 0)
    wanders = (
        config.train.precision == "bf16"
        and getattr(model, "checkpointing", "none") != "none"
        and not getattr(model, "lora_rank", 0)
    )
    if depth <= 3 or wanders:
        return _measure(config, num_clips, device=device, mode=mode, flops=flops)
    two, three = (
        vars(_measure(_of_depth(config, blocks), num_clips, device=device, mode=mode, flops=flops)) for blocks in (2, 3)
    )

    def extended(at_two: Any, at_three: Any) -> Any:
        if isinstance(at_two, dict):
            return {name: extended(value, at_three[name]) for name, value in at_two.items()}
        return at_two + (depth - 2) * (at_three - at_two)

    return _Cost(**extended(two, three))


def _of_depth(config: RunConfig, num_blocks: int) -> RunConfig:
    track: Any = config.track
    return replace(config, track=replace(track, model=replace(track.model, num_layers=num_blocks)))


def _measure(config: RunConfig, num_clips: int, *, device: str, mode: FakeTensorMode, flops: bool) -> _Cost:
    """Run the model and its loss as they are on `num_clips` clips."""
    track, model = build_as_shapes(config, mode)
    batch = example_batch(config, num_clips)
    autocast = config.train.precision == "bf16"
    computing = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    again = getattr(config.track.model, "checkpointing", "none") != "none"
    imitating = _AsOnCuda(autocast=autocast, again=again) if device == "cuda" else nullcontext()
    forward, counter = 0, _flop_counter()
    if flops and batch.tokens is not None:  # whose loss needs some of the outputs only
        with counter, torch.no_grad(), computing, imitating:
            model.logits(model(batch.tokens[:, :-1], batch.states))
        forward, counter = counter.get_total_flops(), _flop_counter()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    there = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), *vars(batch).values()]
    meter = _Meter([one for one in there if isinstance(one, torch.Tensor)])
    with counter if flops else nullcontext(), meter:
        with computing, imitating:
            loss = track.loss(model, batch)
        forward = forward or counter.get_total_flops()
        activations = meter.alive
        loss.value.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _Cost(
        parts=_parts(model),
        weights=_num_bytes([*model.parameters(), *model.buffers()]),
        saved=_num_bytes(model.state_dict().values()),
        gradients=_num_bytes(trained),
        num_trained=len(trained),
        forward=forward,
        forward_backward=counter.get_total_flops(),
        activations=activations,
        peak=meter.peak,
    )


class _NoModules:
    """In place of what tells a counter in which module it is: its hooks hold tensors for longer than the work does."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _flop_counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


class _Meter(TorchDispatchMode):
    """Bytes alive: every storage counts once, from the operation that makes it until nothing holds it any more."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        """Storages of `known` tensors, which the caller keeps alive, are not counted."""
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]
        self._references: dict[int, weakref.ref[torch.UntypedStorage] | None] = dict.fromkeys(map(id, self._known))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._references:
            self._references[key] = weakref.ref(storage, partial(self._forget, key, size))
            self.alive += size
            self.peak = max(self.peak, self.alive)

    def _forget(self, key: int, size: int, _reference: object) -> None:
        del self._references[key]
        self.alive -= size


_FLOAT32_ON_CUDA: set[Any] = {
    *(F.layer_norm, F.group_norm, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, torch.Tensor.softmax),
    *(torch.Tensor.log_softmax, F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss),
}
"""What CUDA's autocast computes in float32 and the CPU's does not."""


class _AsOnCuda(TorchFunctionMode):
    """Calls go the way they would go on a CUDA device, as far as what they keep for the backward pass differs."""

    def __init__(self, *, autocast: bool, again: bool) -> None:
        """`again`: blocks are computed again in the backward pass, where calls go their own way."""
        super().__init__()
        self.autocast = autocast
        self.again = again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if self.autocast and func in _FLOAT32_ON_CUDA:
            args, kwargs = tree_map(
                lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, (args, kwargs)
            )
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if self.autocast:
            query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
        operations: Any = torch.ops.aten
        if enable_gqa or query.ndim != 4:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if attn_mask is None and (self.again or query.dtype in (torch.bfloat16, torch.float16)):
            if dropout_p == 0:
                # The CPU's flash attention keeps the same; and a block that is computed again finds what it kept.
                return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
            flash = operations._scaled_dot_product_flash_attention
            return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
        efficient = operations._scaled_dot_product_efficient_attention
        keeps = torch.is_grad_enabled()
        return efficient(query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale)[0]


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    del inplace
    return torch.native_dropout(input, p, train=True)[0] if training and p > 0 else input


def _linear_cross_entropy_flops(input: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
    """Torch's chunked linear cross-entropy: logits, and in the same call the gradients that are asked for."""
    gradient_of_input, gradient_of_weight = rest[-3], rest[-2]
    return 2 * math.prod(input) * weight[0] * (1 + bool(gradient_of_input) + bool(gradient_of_weight))


def flop_formulas() -> dict[Any, Any]:
    """FLOPs of operations that torch's counter does not know, as far as this torch has them."""
    with suppress(ImportError):
        # Torch registers its chunked loss only when that is first called.
        import_module("torch.nn.modules.linear_cross_entropy")
    formulas = {
        "aten::_scaled_dot_product_flash_attention_for_cpu": lambda *x, **_: sdpa_flop_count(*x[:3]),
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": lambda *x, **_: sdpa_backward_flop_count(*x[:4]),
        "torch_nn::_linear_cross_entropy_batch_chunked": _linear_cross_entropy_flops,
    }
    found = {name: getattr(getattr(torch.ops, name.split("::")[0]), name.split("::")[1], None) for name in formulas}
    return {operation: formulas[name] for name, operation in found.items() if operation is not None}


def print_plan(plan: Plan) -> None:
    """Print the plan as aligned lines: name, value, and what there is to say about it."""
    memory, flops = plan.memory, plan.flops
    device = "one CUDA device" if memory.device == "cuda" else "a CPU"
    precision = "bfloat16 autocast" if plan.precision == "bf16" else "float32"
    estimate = "estimate: CUDA's kernels imitated" if memory.device == "cuda" else "estimate: without scratch memory"
    rows = [
        ("parameters", "", ""),
        *((f"  {part}", f"{count:,}", "") for part, count in plan.parts.items()),
        ("  together", f"{plan.parameters:,}", ""),
        ("operations for one sample, two to a multiply-add", "", ""),
        ("  forward, every output", _scaled(flops.forward, "FLOP"), ""),
        ("  loss, forward and backward", _scaled(flops.forward_backward, "FLOP"), ""),
        (f"memory of {device}, {memory.micro_batch_size} samples at once, {precision}", "", ""),
        ("  weights", _scaled(memory.weights, "B"), ""),
        ("  gradients", _scaled(memory.gradients, "B"), ""),
        ("  Adam", _scaled(memory.optimizer, "B"), ""),
        ("  data", _scaled(memory.batch, "B"), ""),
        ("  kept for the backward pass", _scaled(memory.activations, "B"), estimate),
        ("  together, at the peak", _scaled(memory.peak, "B"), estimate),
        *(
            (f"  the same, {size} sample{'s' * (size > 1)} at once", _scaled(peak, "B"), estimate)
            for size, peak in plan.peaks.items()
        ),
        ("training", "", ""),
        ("  optimiser steps", f"{plan.num_steps:,}", ""),
        ("  samples a step", f"{plan.global_batch_size:,}", ""),
        ("  samples in all", f"{plan.num_samples:,}", ""),
        *((f"  {name.replace('_', ' ')} in a sample", f"{count:,}", "") for name, count in plan.sample.items()),
        *(
            (f"  1X's train split, clips {stride} apart", _scaled(size, "B"), "of latents on disk")
            for stride, size in plan.latent_cache.items()
        ),
        ("  one checkpoint", _scaled(plan.checkpoint_bytes, "B"), ""),
    ]
    for name, value, note in rows:
        print(f"{name:<36}{value:>16}  {note}".rstrip())


def _scaled(value: int, unit: str) -> str:
    """In the power of 1,000 that fits."""
    power = min((len(str(value)) - 1) // 3, 4)
    return f"{value / 1000**power:,.3f} {('', 'k', 'M', 'G', 'T')[power]}{unit}"
