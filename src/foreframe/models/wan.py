"""Wan2.2's video transformer, listening to the robot's states, on diffusers' own modules (challenge-facts 5.3 to 5.7).

Two things are computed once instead of 1,536 times, with the same result: a timestep and its modulation belong to a
latent frame and not to a token, and the empty prompt is one real row and 511 zero rows, so that cross-attention has two
distinct keys.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTransformer3DModel,
    WanTransformerBlock,
)
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, read_json, read_typed, shortened
from foreframe.models.hub import PUBLIC_FOLDER, diffusers_folder
from foreframe.models.lora import WEIGHTS_FILE as ADAPTER_FILE
from foreframe.models.lora import add_lora, base_name, is_lora, lora_tensors, merge_lora, require_lora, save_lora
from foreframe.models.state_encoder import NUM_VECTORS, StateEncoder, without_autocast
from foreframe.models.weights import (
    WEIGHTS_FILE,
    read_tensors,
    require_tensors,
    save_tensors,
    tensor_shapes,
    without_place,
)
from foreframe.permissions import NONE, Permissions

if TYPE_CHECKING:
    from foreframe.models.wan_config import WanConfig

ROBOT_FILE = "robot.safetensors"
"""State encoder, robot tables and prompt row of a model whose base is frozen."""
_OUR_WAY = (
    "diffusers' loaders and savers leave out what this model adds to Wan; open a run with foreframe.runs.open_run, or "
    "use load_base, load_trained and save_trained"
)
_CONFIG_NAMES = {"in_channels": "latent_channels", "out_channels": "latent_channels"}
"""diffusers' configuration fields that have another name here."""
_SAVED_FOR_BACKWARD = [
    getattr(torch.ops.aten, name).default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
]
"""What selective checkpointing keeps: the results that are dear to compute. The pointwise rest is computed again."""


class _QueryKeyNorm(nn.RMSNorm):
    """The norm of queries and keys, for autocast: torch's own is slow, and warns, where weight and input differ."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).type_as(x)


class StateConditionedBlock(WanTransformerBlock):
    """diffusers' block, whose six modulation vectors belong to a latent frame and hear the robot's states too."""

    robot_modulation: nn.Parameter
    """(1, 6, D), zero at first; the model that holds the block makes it."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config.width, config.ffn_dim, config.num_attention_heads, cross_attn_norm=True)
        self.combine = config.combine
        self.num_prompt_rows = config.num_prompt_rows
        for attention in (self.attn1, self.attn2):
            attention.norm_q = _QueryKeyNorm(config.width, eps=attention.norm_q.eps)
            attention.norm_k = _QueryKeyNorm(config.width, eps=attention.norm_k.eps)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # called by our model only
        self,
        x: torch.Tensor,
        timestep_modulation: torch.Tensor,
        R: torch.Tensor | None,
        prompt: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Tokens (B, F, S, D) to the same shape; challenge-facts 5.5 in diffusers' order and precision.

        Args:
            x: Tokens.
            timestep_modulation: (B, F, 6, D) from the timesteps.
            R: (B, F, 6, D) from the states; without it the robot's tables are silent.
            prompt: (1, n, D) embedded prompt rows: all of them, or the two distinct ones.
            rotary: diffusers' cosines and sines for all F * S tokens.
        """
        modulation = self.scale_shift_table.unsqueeze(0) + timestep_modulation.float()
        if R is not None:
            additive = self.combine == "additive"
            modulation = modulation + (R + self.robot_modulation if additive else R * self.robot_modulation)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unsqueeze(3).unbind(2)  # (B, F, 1, D) each
        frames = (x.shape[1], -1)

        h = (self.norm1(x.float()) * (1 + scale1) + shift1).type_as(x)
        h = self.attn1(h.flatten(1, 2), None, None, rotary).unflatten(1, frames)
        x = (x.float() + h * gate1).type_as(x)

        h = self.norm2(x.float()).type_as(x).flatten(1, 2)
        # Told apart by length: two rows of a longer prompt are the distinct ones.
        if prompt.shape[1] < self.num_prompt_rows:
            h = collapsed_cross_attention(self.attn2, h, prompt, self.num_prompt_rows - 1)
        else:
            h = cross_attention(self.attn2, h, prompt)
        x = x + h.unflatten(1, frames)

        h = (self.norm3(x.float()) * (1 + scale2) + shift2).type_as(x)
        h = self.ffn(h.flatten(1, 2)).unflatten(1, frames)
        return (x.float() + h.float() * gate2).type_as(x)


def cross_attention(attention: Any, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """What diffusers' `WanAttention` gives for tokens (B, L, D) and one prompt (1, n, D), embedded once for all B."""
    heads = (attention.heads, -1)
    query = attention.norm_q(attention.to_q(x)).unflatten(2, heads).transpose(1, 2)
    key = attention.norm_k(attention.to_k(prompt)).unflatten(2, heads).transpose(1, 2)
    value = attention.to_v(prompt).unflatten(2, heads).transpose(1, 2)
    key, value = (rows.expand(len(x), -1, -1, -1) for rows in (key, value))
    out = F.scaled_dot_product_attention(query, key.type_as(query), value.type_as(query))
    return attention.to_out[1](attention.to_out[0](out.transpose(1, 2).flatten(2)))


def collapsed_cross_attention(attention: Any, x: torch.Tensor, prompt: torch.Tensor, num_zeros: int) -> torch.Tensor:
    """`cross_attention` to a prompt whose second row is there `num_zeros` times, exactly and with less work.

    With two distinct keys the softmax is one number for each head and token, p = sigmoid(s1 - s2 - log num_zeros), and
    the heads' outputs are v2 + p (v1 - v2). The output layer o is linear, so its result is o(v2) + sum_h p_h o(d_h),
    with d_h the difference in the channels of head h: one row a head instead of one a token. All rows go through the
    layers themselves, so that adapters work and train.

    Args:
        attention: diffusers' cross-attention.
        x: (B, L, D) tokens.
        prompt: (1, 2, D) the real row and one zero row, embedded.
        num_zeros: How many zero rows there are.
    """
    num_heads: int = attention.heads
    query = attention.norm_q(attention.to_q(x))
    key = attention.norm_k(attention.to_k(prompt))[0].unflatten(1, (num_heads, -1))
    value = attention.to_v(prompt)[0]
    # A score that is rounded to bfloat16 is wrong by percents, so scores are summed as attention kernels do.
    precise = torch.promote_types(query.dtype, torch.float32)
    key, value = key.to(precise), value.to(precise)
    scores = (query.to(precise).unflatten(2, (num_heads, -1)) * (key[0] - key[1])).sum(-1) * key.shape[-1] ** -0.5
    weights = torch.sigmoid(scores - math.log(num_zeros))  # (B, L, H)

    difference = (value[0] - value[1]).unflatten(0, (num_heads, -1))
    by_head = torch.eye(num_heads, dtype=precise, device=x.device)[:, :, None] * difference
    rows = torch.cat([torch.zeros_like(value[:1]), value[1:], by_head.flatten(1)])
    bias, zeros_out, by_head = attention.to_out[0](rows.type_as(query)).split([1, 1, num_heads])
    update = (by_head - bias).type_as(query)
    return attention.to_out[1](zeros_out + weights.type_as(query) @ update)


class StateConditionedWan(WanTransformer3DModel):
    """Noisy latents, a timestep for each latent frame and robot states to the velocity `noise - clean`.

    `config` is what diffusers registers; ours is `settings`. With no adapters trained and no states heard yet, the
    model is `WanTransformer3DModel` fed one timestep for each token.
    """

    prompt: torch.Tensor
    """(1, text_dim) the text encoder's row for the empty prompt's one token; zero until `set_prompt`."""
    _supports_gradient_checkpointing = False  # Its own switch would have no effect here: `settings.checkpointing` has.
    _repeated_blocks = ["StateConditionedBlock"]  # noqa: RUF012 (diffusers' way)
    _no_split_modules = ["StateConditionedBlock"]  # noqa: RUF012

    def __init__(self, config: WanConfig, *, permissions: Permissions = NONE) -> None:
        """Build it and, unless on the meta device, read `config.base` to the default device.

        Raises `InputError` if the base cannot be read or is of another size, and `UsageError` if it would have to be
        fetched without permission.
        """
        reads = config.base is not None and torch.get_default_device().type != "meta"
        with torch.device("meta") if reads else nullcontext():
            super().__init__(
                patch_size=config.patch_size,
                num_attention_heads=config.num_attention_heads,
                attention_head_dim=config.attention_head_dim,
                in_channels=config.latent_channels,
                out_channels=config.latent_channels,
                text_dim=config.text_dim,
                freq_dim=config.freq_dim,
                ffn_dim=config.ffn_dim,
                num_layers=0,
                rope_max_seq_len=config.rope_max_seq_len,
            )
            self.blocks = nn.ModuleList(StateConditionedBlock(config) for _ in range(config.num_layers))
        self.register_to_config(num_layers=config.num_layers)
        self.settings = config
        self.merged = False
        """Whether `merge` has taken the adapters away."""
        self.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
        for name, parameter in list(self.named_parameters()):
            if not reads:
                parameter.data = parameter.data.to(self._base_dtype(name))
        if reads:
            assert config.base is not None
            self.load_base(config.base, permissions=permissions)
        elif config.base is None and config.lora_rank == 0:
            # Wan's own start: the first prediction is zero, whatever the random rest does.
            nn.init.zeros_(self.proj_out.weight)
            nn.init.zeros_(self.proj_out.bias)

        self.state_encoder = StateEncoder(config.state_encoder)
        for block in self.blocks:
            block.robot_modulation = nn.Parameter(torch.zeros(1, NUM_VECTORS, config.width))
        self.register_buffer("prompt", torch.zeros(1, config.text_dim, dtype=self._base_dtype("prompt")))
        if config.lora_rank:
            add_lora(self, config.lora_rank)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(config.lora_rank == 0 or is_lora(name) or _is_robot(name))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the base takes a prompt, ours holds it
        self, noisy: torch.Tensor, timesteps: torch.Tensor, R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Velocity (B, C, F, h, w), in the dtype of `noisy`.

        Args:
            noisy: (B, C, F, h, w) latents, context frames clean.
            timesteps: (B, F) from 0 to 1000, 0 for context frames.
            R: (B, F, 6, D) what `encode_states` gives. None is the base model without any robot modulation.

        Raises `ValueError` if the shapes do not fit each other.
        """
        batch, _, num_frames, height, width = noisy.shape
        _, rows, columns = self.settings.patch_size
        if height % rows or width % columns:
            raise ValueError(f"latents of {height}x{width} do not divide into patches of {rows}x{columns}")
        if timesteps.shape != (batch, num_frames):
            raise ValueError(f"timesteps have shape {tuple(timesteps.shape)}, not {(batch, num_frames)}")
        wanted = (batch, num_frames, NUM_VECTORS, self.settings.width)
        if R is not None and R.shape != wanted:
            raise ValueError(f"R has shape {tuple(R.shape)}, not {wanted}")

        rotary = self.rope(noisy)
        x = self.patch_embedding(noisy.to(self.patch_embedding.weight.dtype))
        x = x.flatten(3).permute(0, 2, 3, 1).contiguous()  # (B, F, S, D)
        # Autocast would round the time embedding, which diffusers keeps in float32, to bfloat16.
        with without_autocast(noisy.device):
            embedded, modulation, prompt, _ = self.condition_embedder(
                timesteps.flatten(), self._prompt_rows(), timestep_seq_len=num_frames
            )
        modulation = modulation.unflatten(2, (NUM_VECTORS, -1))
        for block in self.blocks:
            x = self._run_block(block, x, modulation, R, prompt, rotary)
        shift, scale = (self.scale_shift_table.unsqueeze(0) + embedded.unsqueeze(2)).unsqueeze(3).unbind(2)
        x = self.proj_out((self.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        x = x.view(batch, num_frames, height // rows, width // columns, rows, columns, -1)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(noisy.shape).to(noisy.dtype)

    def encode_states(self, states: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """States (B, T, 25) in their own units to R (B, F, 6, D), float32; `keep` (B,) is False where withheld.

        In inference, once for a clip: R depends on neither timestep nor noise.
        """
        return self.state_encoder(states, keep)

    @torch.no_grad()
    def set_prompt(self, row: torch.Tensor) -> None:
        """Take the text encoder's (1, text_dim) row for the empty prompt's one token, as `prompt.prompt_row` gives."""
        if row.shape != self.prompt.shape:
            raise ValueError(f"the prompt has shape {tuple(row.shape)}, not {tuple(self.prompt.shape)}")
        self.prompt.copy_(row)

    def load_base(self, source: str, *, permissions: Permissions = NONE) -> None:
        """Take the weights of a diffusers transformer, and leave what is ours as it is.

        Args:
            source: The folder itself, one that holds it as `transformer`, or a hub id, of which that part is fetched.
            permissions: Whether it may be.

        Raises:
            InputError: It is missing, broken or of another size, in one line that names what differs.
            UsageError: It would have to be fetched without permission.
        """
        folder = diffusers_folder(source, "transformer", revision=self.settings.base_revision, permissions=permissions)
        if (folder / "transformer").is_dir():
            folder = folder / "transformer"
        self._check_size(folder / "config.json")
        files = _weight_files(folder)
        targets = {
            base_name(name): (name, parameter)
            for name, parameter in self.named_parameters()
            if not is_lora(name) and not _is_robot(name)
        }
        found: dict[str, torch.Size] = {}
        for path in files:
            found |= tensor_shapes(path)
        # diffusers ignores this one too: some converters write it, and no layer reads it.
        found = {name: shape for name, shape in found.items() if "norm_added_q" not in name}
        require_tensors(folder, {name: parameter for name, (_, parameter) in targets.items()}, found)
        try:
            for path in files:
                with safe_open(path, framework="pt", device=str(torch.get_default_device())) as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        if name in targets:
                            self._replace(*targets[name], file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: cannot be read as safetensors: {error}") from error

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that training changes and the prompt, by its name in the state dict; not copies."""
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        return {**trained, "prompt": self.prompt}

    def save_trained(self, folder: Path) -> None:
        """Write what `load_trained` reads into an existing folder, nothing of a frozen base.

        A PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`) and `robot.safetensors`, or, if everything
        trains, `model.safetensors`. All in float32.
        """
        if self.merged:
            raise ValueError("the adapters are merged into the base; save before merging")
        rank = self.settings.lora_rank
        if rank:
            save_lora(self, folder, rank=rank, base=without_place(self.settings).base)
        tensors = {name: value.detach().cpu().float().contiguous() for name, value in self._plain_targets().items()}
        save_tensors(tensors, folder / (ROBOT_FILE if rank else WEIGHTS_FILE))

    @torch.no_grad()
    def load_trained(self, folder: Path) -> None:
        """Take what `save_trained` wrote, in place; `InputError` unless every name and shape fits.

        A model whose every part is trained needs no base for this: build it with `base=None`.
        """
        if self.merged:
            raise ValueError("the adapters are merged into the base; load before merging")
        self.require_trained(folder)
        for path, targets in self._trained_files(folder).items():
            found = read_tensors(path)
            for name, target in targets.items():
                target.copy_(found[name])

    def require_trained(self, folder: Path) -> None:
        """Raise `InputError` unless every name and shape of what `load_trained` would read fits; headers alone."""
        if self.settings.lora_rank:
            require_lora(folder, rank=self.settings.lora_rank)
        for path, targets in self._trained_files(folder).items():
            require_tensors(path, targets, tensor_shapes(path))

    def _trained_files(self, folder: Path) -> dict[Path, dict[str, torch.Tensor]]:
        """What is saved in which file, by the names there."""
        if not self.settings.lora_rank:
            return {folder / WEIGHTS_FILE: self._plain_targets()}
        return {folder / ROBOT_FILE: self._plain_targets(), folder / ADAPTER_FILE: lora_tensors(self)}

    # diffusers' own ways in and out know nothing of the robot branch: they would leave it out, or break.

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> NoReturn:
        """Refused with `UsageError`, like the others of diffusers' loaders and savers."""
        raise UsageError(f"from_pretrained: {_OUR_WAY}")

    @classmethod
    def from_config(cls, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"from_config: {_OUR_WAY}")

    @classmethod
    def from_single_file(cls, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"from_single_file: {_OUR_WAY}")

    def save_pretrained(self, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"save_pretrained: {_OUR_WAY}")

    def push_to_hub(self, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"push_to_hub: {_OUR_WAY}")

    def load_lora_adapter(self, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"load_lora_adapter: {_OUR_WAY}")

    def save_lora_adapter(self, *_: object, **__: object) -> NoReturn:
        """See `from_pretrained`."""
        raise UsageError(f"save_lora_adapter: {_OUR_WAY}")

    def merge(self) -> None:
        """Put the adapters into the base's weights, which saves 2 % of the work in inference; there is no way back."""
        merge_lora(self)
        self.merged = True

    def _base_dtype(self, name: str) -> torch.dtype:
        """What a tensor of the base is kept in: as diffusers, some parts are float32 in any case."""
        kept = set(self._keep_in_fp32_modules)
        return torch.float32 if set(name.split(".")) & kept else getattr(torch, self.settings.base_dtype)

    def _plain_targets(self) -> dict[str, torch.Tensor]:
        """What is saved under its own name: all trained tensors but adapters, and the prompt."""
        return {name: value for name, value in self.trained_tensors().items() if not is_lora(name)}

    def _prompt_rows(self) -> torch.Tensor:
        """(1, n, text_dim) the rows that the prompt is embedded from: the distinct two, or all."""
        num_zeros = 1 if self.settings.collapse_prompt else self.settings.num_prompt_rows - 1
        return F.pad(self.prompt, (0, 0, 0, num_zeros))[None]

    def _run_block(self, block: nn.Module, *inputs: object) -> torch.Tensor:
        """One block under `settings.checkpointing`. There is no dropout, so no generator's state need be kept."""
        mode = self.settings.checkpointing
        if mode == "none" or not torch.is_grad_enabled():
            return block(*inputs)
        again = partial(checkpoint, block, *inputs, use_reentrant=False, preserve_rng_state=False)
        if mode == "full":
            return cast("torch.Tensor", again())
        context = partial(create_selective_checkpoint_contexts, partial(_what_to_keep, self.settings.lora_rank))
        return cast("torch.Tensor", again(context_fn=context))

    def _replace(self, name: str, parameter: nn.Parameter, tensor: torch.Tensor) -> None:
        """Put a tensor of the base in a parameter's place, as a copy that does not hang on the file."""
        parent, _, leaf = name.rpartition(".")
        value = tensor.to(self._base_dtype(name), copy=True)
        setattr(self.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=parameter.requires_grad))

    def _check_size(self, path: Path) -> None:
        """Compare a diffusers `config.json` to what this model is."""
        described = read_json(path, advice=f"fetch it again, from {PUBLIC_FOLDER} say")
        kind = described.get("_class_name")
        if kind != WanTransformer3DModel.__name__:
            raise InputError(
                f"{path}: describes a {shortened(kind, 80)}, but a {WanTransformer3DModel.__name__} is needed here"
            )
        for name, ours in self.config.items():
            theirs = described.get(name, ours)
            if not name.startswith("_") and _plain(theirs) != _plain(ours):
                field = _CONFIG_NAMES.get(name, name)
                raise InputError(
                    f"{path}: {name} is {shortened(_plain(theirs), 80)}, but {field} of this model is {_plain(ours)}"
                )


def _what_to_keep(lora_rank: int, _context: object, operation: object, *inputs: Any, **_: Any) -> CheckpointPolicy:
    """Selective checkpointing's choice. What an adapter adds is as large as the layer's own output, and cheap again."""
    is_adapter = operation is torch.ops.aten.mm.default and inputs[0].shape[1] == lora_rank
    if operation in _SAVED_FOR_BACKWARD and not is_adapter:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _is_robot(name: str) -> bool:
    """Whether a parameter is of the robot branch."""
    return name.startswith("state_encoder.") or name.endswith(".robot_modulation")


def _plain(value: object) -> object:
    """A value as JSON would give it back."""
    return list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class _Index:
    """What a diffusers folder's index of weights must say."""

    weight_map: dict[str, str]
    """File by tensor."""


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a diffusers model, in one piece or as its index lists them."""
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if not index.exists():
        files = listed(folder, "*.safetensors")
        if len(files) != 1:
            raise InputError(f"{folder}: holds {len(files)} safetensors files, not one, and no {index.name}")
        return files
    names = sorted(set(read_typed(index, _Index, advice="fetch the folder again").weight_map.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing, but {index.name} lists it; fetch the folder again")
    return [folder / name for name in names]
