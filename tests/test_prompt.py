"""The empty prompt's row: what diffusers' pipeline computes, kept in a file that knows which text encoder made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from foreframe.errors import InputError
from foreframe.models import prompt
from foreframe.models.prompt import encode_empty_prompt, prompt_row, read_prompt, text_encoder_hash, write_prompt

WIDTH = 24


def write_text_encoder(folder: Path, *, seed: int = 0, ends: bool = True) -> None:
    """A tiny random UMT5 and a tokenizer that, like its own, ends every text with `</s>`."""
    torch.manual_seed(seed)
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3}
    model = UMT5EncoderModel(UMT5Config(vocab_size=12, dropout_rate=0.1, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    model.to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "robot": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    fast.save_pretrained(folder / "tokenizer")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_text_encoder(folder)
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose text encoder was asked from now on."""
    asked: list[Path] = []

    def encode(folder: Path) -> torch.Tensor:
        asked.append(folder)
        return encode_empty_prompt(folder)

    monkeypatch.setattr(prompt, "encode_empty_prompt", encode)
    return asked


def test_row_is_what_the_pipeline_computes(base: Path) -> None:
    """All 512 tokens with a mask, and zeros beyond the real length, as diffusers' `WanPipeline` does it."""
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(base / "text_encoder", dtype=torch.float32).eval()
    inputs = tokenizer([""], padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    assert inputs.attention_mask.sum() == 1
    with torch.no_grad():
        expected = encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state[0, :1]
    row = encode_empty_prompt(base)
    assert row.shape == (1, WIDTH)
    assert row.dtype == torch.float32
    torch.testing.assert_close(row, expected, atol=0.05 * expected.abs().max().item(), rtol=0)
    # Computed in bfloat16: every number is one.
    assert torch.equal(row, row.bfloat16().float())
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    parts: dict[str, Any] = dict.fromkeys(("transformer", "transformer_2", "vae"))
    encoder = UMT5EncoderModel.from_pretrained(base / "text_encoder", dtype=torch.bfloat16)
    pipeline = WanPipeline(tokenizer, encoder, scheduler=None, **parts)  # type: ignore[arg-type]
    theirs = pipeline._get_t5_prompt_embeds("", max_sequence_length=512, device=torch.device("cpu"))
    assert theirs.shape == (1, 512, WIDTH)
    assert theirs[0, 1:].abs().max() == 0
    torch.testing.assert_close(row, theirs[0, :1].float(), atol=0.02 * expected.abs().max().item(), rtol=0)


def test_file_is_written_once_and_read_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    file = tmp_path / "cache" / "prompt.safetensors"
    row = prompt_row(file, base=str(base))
    assert asked == [base]
    assert [path.name for path in file.parent.iterdir()] == ["prompt.safetensors"]
    assert torch.equal(prompt_row(file, base=str(base)), row)
    assert asked == [base]
    assert read_prompt(file)[1] == text_encoder_hash(base)
    # Another text encoder, or another tokenizer: the file is another's, and is replaced.
    write_text_encoder(base, seed=1)
    other = prompt_row(file, base=str(base))
    assert len(asked) == 2
    assert not torch.equal(other, row)
    assert torch.equal(read_prompt(file)[0], other)
    with (base / "tokenizer" / "tokenizer_config.json").open("a") as stream:
        stream.write("\n")
    prompt_row(file, base=str(base))
    assert len(asked) == 3


def test_file_alone_is_enough(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompt.safetensors"
    row = prompt_row(file, base=str(base))
    asked = counted(monkeypatch)
    shutil.rmtree(base / "text_encoder")
    assert torch.equal(prompt_row(file, base=str(base)), row)
    assert torch.equal(prompt_row(file), row)
    # Nothing is fetched from a hub to check it.
    assert torch.equal(prompt_row(file, base="someone/thing"), row)
    assert asked == []


def refused(pattern: str, file: Path | None = None, *, base: Path | None = None) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        prompt_row(file, base=None if base is None else str(base))
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(base: Path, tmp_path: Path) -> None:
    absent = tmp_path / "prompt.safetensors"
    refused(r"prompt.safetensors: there is no such file; fetch text_encoder and tokenizer .*hf download", absent)
    refused(r"is neither a folder nor a hub id", absent, base=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(r"empty: has no text_encoder and no tokenizer, .* fetch text_encoder", absent, base=tmp_path / "empty")
    shutil.rmtree(base / "tokenizer")
    refused(r"model: has no tokenizer, and there is no prompt.safetensors; fetch", base=base)


def test_broken_parts_are_named(base: Path, tmp_path: Path) -> None:
    (base / "text_encoder" / "model.safetensors").write_bytes(b"no")
    refused(r"text_encoder: cannot be read by transformers", base=base)
    (base / "text_encoder" / "model.safetensors").unlink()
    refused(r"text_encoder: cannot be read by transformers", base=base)
    (base / "tokenizer" / "tokenizer.json").write_text("{}")
    refused(r"tokenizer: cannot be read by transformers", base=base)
    write_text_encoder(tmp_path / "endless", ends=False)
    refused(r"tokenizer: the empty string is 0 tokens", base=tmp_path / "endless")


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "prompt.safetensors"
    file.write_bytes(b"no")
    refused("prompt.safetensors: cannot be read as safetensors", file)
    save_file({"prompt": torch.zeros(1, 4)}, file)
    refused("cannot be read as a prompt's embedding", file)
    write_prompt(file, torch.zeros(2, 4), fingerprint="x")
    refused(r"the prompt has shape \(2, 4\), not one row", file)
    write_prompt(file, torch.full((1, 4), float("nan")), fingerprint="x")
    refused("not one row of finite numbers", file)
    write_prompt(file, torch.ones(1, 4), fingerprint="x")
    assert json.loads(file.read_bytes()[8:].split(b"}}")[0] + b"}}")["prompt"]["dtype"] == "F32"
    assert torch.equal(prompt_row(file), torch.ones(1, 4))
