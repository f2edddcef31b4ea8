"""Wan's causal video autoencoder through diffusers: frames to latents and back, frozen (challenge-facts 5.1)."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from foreframe.errors import InputError, UsageError
from foreframe.hashing import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

_CLASS = "AutoencoderKLWan"


def autoencoder_folder(root: Path) -> Path | None:
    """The folder of a Wan autoencoder in diffusers' form: `root` itself or the `vae` in it; None if there is none."""
    for folder in (root, root / "vae"):
        try:
            if json.loads((folder / "config.json").read_text()).get("_class_name") == _CLASS:
                return folder
        except (OSError, ValueError, AttributeError):
            continue
    return None


def autoencoder_hash(folder: Path) -> str:
    """SHA-256 over the configuration, which holds the latents' mean and deviation, and the weights."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


class VideoAutoencoder:
    """Frames (B, 3, T, H, W) in [-1, 1] to normalised latents (B, C, F, h, w) and back; F is 1 + (T - 1)/4."""

    def __init__(self, vae: Any) -> None:
        """`vae` is a diffusers `AutoencoderKLWan`; it is put into evaluation mode and frozen."""
        self.vae = vae.eval().requires_grad_(False)
        shape = (1, -1, 1, 1, 1)
        self.mean = torch.tensor(vae.config.latents_mean).view(shape)
        self.deviation = torch.tensor(vae.config.latents_std).view(shape)

    @classmethod
    def load(cls, folder: Path) -> VideoAutoencoder:
        """Read a folder in diffusers' form; nothing is downloaded, and only safetensors are read."""
        if find_spec("diffusers") is None:
            raise UsageError('a Wan autoencoder needs diffusers, which is not installed: pip install "foreframe[wan]"')
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        try:
            return cls(AutoencoderKLWan.from_pretrained(folder, use_safetensors=True, local_files_only=True))
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}: cannot be read as an {_CLASS}: {reason}") from error

    def to(self, device: torch.device) -> VideoAutoencoder:
        """Move the weights; returns itself."""
        self.vae.to(device)
        return self

    def latent_shape(self, *, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) for that many frames of that side; `InputError` if they do not divide."""
        config = self.vae.config
        temporal, spatial = int(config.scale_factor_temporal), int(config.scale_factor_spatial)
        if (num_frames - 1) % temporal or size % spatial:
            raise InputError(
                f"{num_frames} frames of {size} pixels do not divide: this autoencoder takes 1 + {temporal} k frames "
                f"and multiples of {spatial} pixels"
            )
        return int(config.z_dim), 1 + (num_frames - 1) // temporal, size // spatial, size // spatial

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Mean of the posterior, never a sample, then (mean - latents_mean) / latents_std by channel."""
        weights = self.vae.quant_conv.weight
        latents = self.vae.encode(video.to(weights)).latent_dist.mode()
        return (latents.float() - self.mean.to(latents.device)) / self.deviation.to(latents.device)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Video in [-1, 1], not clamped at its edges by more than the autoencoder does itself."""
        weights = self.vae.quant_conv.weight
        scaled = latents * self.deviation.to(latents.device) + self.mean.to(latents.device)
        return self.vae.decode(scaled.to(weights)).sample.float()
