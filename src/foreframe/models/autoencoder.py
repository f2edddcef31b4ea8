"""Wan's causal video autoencoder through diffusers: frames to latents and back, trained small or loaded whole."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, read_json, require_regular, sha256_file, shortened, typed
from foreframe.models.config import AutoencoderConfig

if TYPE_CHECKING:
    from pathlib import Path

_CLASS = "AutoencoderKLWan"
_CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class DecoderPrefix:
    """What the causal decoder remembers of latents that several futures share; `VideoAutoencoder.decode_prefix`."""

    video: torch.Tensor
    """The frames of those latents, (B, 3, T, H, W) in [-1, 1]."""
    cache: tuple[Any, ...]
    """For each causal convolution its last two inputs (B, channels, 2, h, w), or diffusers' mark that it has none."""

    def select(self, clips: torch.Tensor) -> DecoderPrefix:
        """Of the clips with these numbers (N,), in that order and as often as they are named."""
        cache = tuple(entry[clips] if isinstance(entry, torch.Tensor) else entry for entry in self.cache)
        return DecoderPrefix(video=self.video[clips], cache=cache)


def autoencoder_folder(root: Path) -> Path | None:
    """The folder of a Wan autoencoder in diffusers' form: `root` itself or the `vae` in it; None if there is none."""
    for folder in (root, root / "vae"):
        try:
            if read_json(folder / _CONFIG_FILE).get("_class_name") == _CLASS:
                return folder
        except InputError:
            continue
    return None


def autoencoder_hash(folder: Path) -> str:
    """SHA-256 over the configuration, which holds the latents' mean and deviation, and the weights."""
    digest = hashlib.sha256()
    for path in (folder / _CONFIG_FILE, *listed(folder, "*.safetensors")):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


class VideoAutoencoder(nn.Module):
    """Frames (B, 3, T, H, W) in [-1, 1] to normalised latents (B, C, F, h, w) and back; F is 1 + (T - 1)/4.

    `vae` is a diffusers `AutoencoderKLWan`. Weights of less than float32 go in through `autoencoder.vae.to(dtype)`:
    the buffers that normalise stay in float32.
    """

    latents_mean: torch.Tensor
    """(C,) means of the encoder's output."""
    latents_std: torch.Tensor
    """(C,) standard deviations of it."""
    num_updates: torch.Tensor
    """Batches that the two were estimated from; 0 if they came with the weights."""

    def __init__(self, config: AutoencoderConfig, *, vae: Any = None) -> None:
        """With `vae`, an `AutoencoderKLWan` of that configuration, its weights and its latents' mean and deviation."""
        super().__init__()
        self.config = config
        self.vae: Any = _random_vae(config) if vae is None else vae
        self.register_buffer("latents_mean", torch.tensor(self.vae.config.latents_mean, dtype=torch.float32))
        self.register_buffer("latents_std", torch.tensor(self.vae.config.latents_std, dtype=torch.float32))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @classmethod
    def load(cls, folder: Path) -> VideoAutoencoder:
        """Read a folder in diffusers' form, frozen and in evaluation mode, in float32.

        Nothing is downloaded, and only safetensors are read.
        """
        for path in listed(folder):
            if path.suffix in (".json", ".safetensors"):
                require_regular(path)
        config = _read_config(folder / _CONFIG_FILE)
        try:
            vae: Any = _diffusers().from_pretrained(
                folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
            )
            return cls(config, vae=vae).eval().requires_grad_(False)
        # Wrong values beside the sizes, and wrong types of weights, come out as almost any error.
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            raise InputError(f"{folder}: cannot be read as an {_CLASS}: {shortened(error)}") from error

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a folder that plain diffusers loads, its weights in `dtype` if one is given.

        `config.json` holds the latents' mean and deviation as they are now; other files in the folder stay.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.vae.register_to_config(latents_mean=self.latents_mean.tolist(), latents_std=self.latents_std.tolist())
        self.vae.save_config(folder)
        tensors = {
            name: value.detach().to("cpu", dtype).contiguous(memory_format=torch.contiguous_format)
            for name, value in self.vae.state_dict().items()
        }
        try:
            save_file(tensors, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(folder / _WEIGHTS_FILE)) from error

    def latent_shape(self, *, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) for that many frames of that side; `UsageError` if they do not divide."""
        temporal, spatial = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        if (num_frames - 1) % temporal or size % spatial:
            raise UsageError(
                f"{num_frames} frames of {size} pixels do not divide: this autoencoder takes 1 + {temporal} k frames "
                f"and multiples of {spatial} pixels"
            )
        return self.config.z_dim, 1 + (num_frames - 1) // temporal, size // spatial, size // spatial

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Mean of the posterior, never a sample, then (mean - latents_mean) / latents_std by channel."""
        latents = self.vae.encode(video.to(self._weights)).latent_dist.mode()
        return (latents.float() - _by_channel(self.latents_mean)) / _by_channel(self.latents_std)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Video in [-1, 1], not clamped at its edges by more than the autoencoder does itself."""
        return self.vae.decode(self._unnormalised(latents)).sample.float()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Reconstruct (B, 3, T, H, W) differentiably and not clamped; in training with noise on the latents.

        With s and m the deviation and mean of this batch's latents z, the decoder gets s ((z - m)/s + noise) + m,
        which is z + s noise. The gradient passes through s: latents of a larger scale are not any clearer.
        """
        latents = self._latents(video)
        if self.training:
            values = latents.float().transpose(0, 1).flatten(1)
            variance, mean = torch.var_mean(values, dim=1)
            std = (variance + _SMALLEST_STD**2).sqrt()
            self._update(mean.detach(), std.detach())
            if self.config.latent_noise:
                noise = torch.randn_like(latents, dtype=torch.float32)
                latents = latents + self.config.latent_noise * _by_channel(std) * noise
        return self._video(self.vae.post_quant_conv(latents), self._empty_cache())

    # -- futures that share a past -----------------------------------------------------------------------------------

    @torch.no_grad()
    def decode_prefix(self, context: torch.Tensor) -> DecoderPrefix:
        """Decode the latents (B, C, F, h, w) that several futures begin with, and keep what they need of them."""
        cache = self._empty_cache()
        video = self._video(self.vae.post_quant_conv(self._unnormalised(context)), cache)
        return DecoderPrefix(video=video.float().clamp(-1, 1), cache=tuple(cache))

    @torch.no_grad()
    def decode_from(self, prefix: DecoderPrefix, future: torch.Tensor, *, last_only: bool = False) -> torch.Tensor:
        """Decode latents (B * N, C, F, h, w) that follow `prefix`; each of its B clips has N members, side by side.

        What decoding prefix and future in one would give, at lower cost.

        Returns:
            (B * N, 3, 4 F, H, W) in [-1, 1]. With `last_only` the last two frames alone, which both show source frame
            76 where a clip repeats it (challenge-facts 5.2).
        """
        num_clips = len(prefix.video)
        if not len(future) or len(future) % num_clips:
            raise ValueError(f"{len(future)} futures are not the same number for each of {num_clips} clips")
        latents = self.vae.post_quant_conv(self._unnormalised(future))
        # Nothing writes into a cached tensor, so a single clip's members can look at the same one.
        cache = [_repeated(entry, len(future) // num_clips) for entry in prefix.cache]
        video = self._last_frames(latents, cache) if last_only else self._video(latents, cache, goes_on=True)
        return video.float().clamp(-1, 1)

    # -- diffusers' modules in steps of our own ----------------------------------------------------------------------
    #
    # Its encoder and decoder take video in pieces and hand a list of past inputs on from piece to piece. Only the
    # first piece has to be of one frame. Two pieces instead of one for each latent are the same sums, and faster.

    @property
    def _weights(self) -> torch.Tensor:
        return self.vae.quant_conv.weight

    def _unnormalised(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents * _by_channel(self.latents_std) + _by_channel(self.latents_mean)).to(self._weights)

    def _empty_cache(self) -> list[Any]:
        convolution = type(self.vae.quant_conv)
        return [None for module in self.vae.decoder.modules() if isinstance(module, convolution)]

    def _latents(self, video: torch.Tensor) -> torch.Tensor:
        """The encoder's means (B, C, F, h, w), not normalised."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        convolution = type(self.vae.quant_conv)
        cache = [None for module in self.vae.encoder.modules() if isinstance(module, convolution)]
        patches = patchify(video, self.config.patch_size or 1)
        pieces = [piece for piece in (patches[:, :, :1], patches[:, :, 1:]) if piece.shape[2]]
        latents = [self.vae.encoder(piece, feat_cache=cache, feat_idx=[0]) for piece in pieces]
        return self.vae.quant_conv(torch.cat(latents, 2)).chunk(2, 1)[0]

    def _video(self, latents: torch.Tensor, cache: list[Any], *, goes_on: bool = False) -> torch.Tensor:
        """Frames of latents that went through `post_quant_conv`; `cache` is brought up to date."""
        pieces = [latents] if goes_on else [latents[:, :, :1], latents[:, :, 1:]]
        frames = [
            self.vae.decoder(piece, feat_cache=cache, feat_idx=[0], first_chunk=not goes_on and not index)
            for index, piece in enumerate(pieces)
            if piece.shape[2]
        ]
        return self._pixels(torch.cat(frames, 2))

    def _pixels(self, patches: torch.Tensor) -> torch.Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        return unpatchify(patches, self.config.patch_size or 1)

    def _last_frames(self, latents: torch.Tensor, cache: list[Any]) -> torch.Tensor:
        """The last two of `_video`'s frames, without those of the finest level that do not reach them.

        Each convolution looks two frames back, and no other module looks back on that level. So it runs on a window
        without a past, and what each residual block's two convolutions got wrong at its start is cut off.
        """
        decoder = self.vae.decoder
        *coarse, finest = decoder.up_blocks
        window = _NUM_LAST + 2 + 4 * len(finest.resnets)  # with two more for the last convolution, four for each block
        if latents.shape[2] * self.config.scale_factor_temporal < window:
            return self._video(latents, cache, goes_on=True)[:, :, -_NUM_LAST:]
        index = [1]  # of the next convolution's entry in the cache
        x = decoder.mid_block(decoder.conv_in(latents, cache[0]), feat_cache=cache, feat_idx=index)
        for block in coarse:
            x = block(x, feat_cache=cache, feat_idx=index)
        x = x[:, :, -window:]
        for block in finest.resnets:
            x = block(x)[:, :, 4:]
        x = decoder.nonlinearity(decoder.norm_out(x))
        return self._pixels(decoder.conv_out(x)[:, :, 2:])

    def _update(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Follow the latents' statistics: their plain average at first, then an exponential one."""
        self.num_updates += 1
        weight = (1 / self.num_updates.float()).clamp(min=_RATE)
        self.latents_mean.lerp_(mean, weight)
        self.latents_std.lerp_(std, weight)


_NUM_LAST = 2
"""Frames that both show the last source frame: 19 and 20 of 21 (challenge-facts 5.2)."""
_RATE = 0.02
"""Weight of the newest batch in the latents' statistics."""
_SMALLEST_STD = 1e-4
"""Of a channel that the encoder leaves unused: neither a quotient nor the root's gradient may be infinite."""


def _read_config(path: Path) -> AutoencoderConfig:
    """The sizes in a diffusers configuration; `InputError` naming the field that is wrong.

    What is left out there is as diffusers has it.
    """
    content = read_json(path, advice=_ADVICE)
    known = {name: value.default for name, value in signature(_diffusers().__init__).parameters.items()}
    sizes = {name: content.get(name, known[name]) for name in AutoencoderConfig.__dataclass_fields__ if name in known}
    sizes["decoder_base_dim"] = sizes["decoder_base_dim"] or sizes["base_dim"]
    config = typed(sizes, AutoencoderConfig, where=str(path), advice=_ADVICE)
    for name in ("latents_mean", "latents_std"):
        values = content.get(name, list(known[name]))
        if not isinstance(values, list) or len(values) != config.z_dim or not all(map(_is_number, values)):
            raise InputError(f"{path}: {name} must be {config.z_dim} numbers, one for each of z_dim; {_ADVICE}")
    if any(value <= 0 for value in content.get("latents_std", [])):
        raise InputError(f"{path}: latents_std must be above 0; {_ADVICE}")
    return config


_ADVICE = "fetch the folder again"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _diffusers() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    return AutoencoderKLWan


def _random_vae(config: AutoencoderConfig) -> Any:
    channels = 3 * (config.patch_size or 1) ** 2
    return _diffusers()(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temperal_downsample),
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
        is_residual=config.is_residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=config.patch_size,
        scale_factor_temporal=config.scale_factor_temporal,
        scale_factor_spatial=config.scale_factor_spatial,
    )


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    """(C,) against (B, C, F, h, w)."""
    return values.view(-1, 1, 1, 1)


def _repeated(entry: Any, count: int) -> Any:
    """A cached tensor for `count` members of each clip; whatever else is in a cache as it is."""
    if not isinstance(entry, torch.Tensor):
        return entry
    return entry.expand(count, -1, -1, -1, -1) if len(entry) == 1 else entry.repeat_interleave(count, 0)
