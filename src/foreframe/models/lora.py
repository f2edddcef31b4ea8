"""Low-rank adapters on every projection of Wan's blocks, through PEFT (challenge-facts 5.7).

Files are PEFT's own: `adapter_config.json` and `adapter_model.safetensors`, which PEFT and diffusers load as well.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from foreframe.errors import InputError, UsageError
from foreframe.files import read_json, shortened
from foreframe.models.weights import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from peft import LoraConfig
    from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""Ends of the adapted layers' names: q, k, v, o of both attentions and the feed-forward's two, in every block."""
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER = "default"
_PREFIX = "base_model.model."
"""What PEFT puts before a tensor's name."""


def lora_config(rank: int, *, base: str | None = None) -> LoraConfig:
    """PEFT's description: scale 1 (alpha is the rank), no dropout, PEFT's initialisation, whose B is zero.

    `base` is the base's public name if it has one; a path would say where this machine keeps its files.
    """
    if find_spec("peft") is None:
        raise UsageError('adapters need peft, which is not installed: pip install "foreframe[wan]"')
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
        base_model_name_or_path=base,
        inference_mode=True,
    )


def add_lora(model: nn.Module, rank: int) -> None:
    """Put float32 adapters, initialised by torch's global generator, around the projections; they alone train then."""
    config = lora_config(rank)
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
            parameter.requires_grad_()


def is_lora(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return f".{_ADAPTER}." in name and ".lora_" in name


def base_name(name: str) -> str:
    """A parameter's name in the model as it was before the adapters."""
    return name.replace(".base_layer.", ".")


def lora_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' parameters themselves, by PEFT's file names."""
    return {
        _PREFIX + name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in model.named_parameters()
        if is_lora(name)
    }


def save_lora(model: nn.Module, folder: Path, *, rank: int, base: str | None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into an existing folder."""
    described = lora_config(rank, base=base).to_dict()
    # A set has another order in every process; the same adapter should be the same file.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in described.items()}
    (folder / CONFIG_FILE).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")
    tensors = {name: value.detach().cpu().contiguous() for name, value in lora_tensors(model).items()}
    save_tensors(tensors, folder / WEIGHTS_FILE)


def require_lora(folder: Path, *, rank: int) -> None:
    """Raise `InputError` unless the folder describes an adapter of that rank and of the kind that is written here."""
    path = folder / CONFIG_FILE
    described = read_json(path, advice="take an undamaged copy of the adapter")
    for key, wanted in {"peft_type": "LORA", "r": rank, "lora_alpha": rank}.items():
        if described.get(key) != wanted:
            found = shortened(repr(described.get(key)), 80)
            raise InputError(f"{path}: {key} is {found}, but this model's adapter has {wanted!r}")


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add each adapter to its layer's weight, in float32 and then rounded once, and take the adapters away."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module.get_base_layer()
        wrapped: Any = module
        weight = layer.weight
        merged = weight.float() + wrapped.get_delta_weight(_ADAPTER).to(weight.device)
        layer.weight.data = merged.to(weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    if hasattr(model, "peft_config"):
        del model.peft_config
