"""Cosmos' TorchScript files behind the tokenizer's interface: loaded only when known, called as NVIDIA's are called.

NVIDIA's files are not here. A stand-in pair of scripted networks has their interface: the same shapes, types, index
basis and causality, and decoded values beyond [-1, 1].
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import SIZE, write_raw
from foreframe.batch import to_frames, to_video
from foreframe.data.encoding import read_encoding
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.encode import TokenEncoder, encode_folder, load_tokenizer
from foreframe.errors import InputError, UsageError
from foreframe.models import cosmos
from foreframe.models.cosmos import CosmosTokenizer, cosmos_hash, is_cosmos
from foreframe.permissions import Permissions

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

LEVELS = (8, 8, 8, 5, 5, 5)
BASIS = (1, 8, 64, 512, 2560, 12800)
NAMES = ("encoder.jit", "decoder.jit")


def mixing(inputs: int, outputs: int, *, seed: int) -> nn.Conv3d:
    """A map of each pixel's channels to others, in the weights' precision only."""
    layer = nn.Conv3d(inputs, outputs, 1, bias=False)
    generator = torch.Generator().manual_seed(seed)
    nn.init.uniform_(layer.weight, -1, 1, generator=generator)
    return layer


class StandInEncoder(nn.Module):
    """Means of each 8x8 cell over all frames up to the grid's last, rounded to six digits."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = mixing(3, 6, seed=0)
        self.register_buffer("levels", torch.tensor(LEVELS, dtype=torch.int32), persistent=False)
        self.register_buffer("basis", torch.tensor(BASIS, dtype=torch.int32), persistent=False)

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = F.avg_pool3d(self.mix(video).float(), (1, 8, 8))  # (B, 6, T, h, w)
        batch, channels, num_frames, height, width = x.shape
        later = x[:, :, 1:].reshape(batch, channels, (num_frames - 1) // 8, 8, height, width).mean(3)
        x = torch.cat([x[:, :, :1], later], 2).cumsum(2).clamp(-1, 1).movedim(1, -1)
        digits = ((x + 1) / 2 * (self.levels - 1)).round()
        half = self.levels // 2
        codes = ((digits - half) / half).movedim(-1, 1)
        return (digits * self.basis).sum(-1).to(torch.int32), codes.to(video.dtype), torch.zeros(1)


class StandInDecoder(nn.Module):
    """Codes to colours; each fills its cell, in its grid's frames. Made for one precision alone if one is given."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.mix = mixing(6, 3, seed=1)
        self.bound = dtype is not None
        self.dtype = dtype or torch.float32
        self.register_buffer("levels", torch.tensor(LEVELS, dtype=torch.int32), persistent=False)
        self.register_buffer("basis", torch.tensor(BASIS, dtype=torch.int32), persistent=False)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        half = self.levels // 2
        codes = ((indices.unsqueeze(-1) // self.basis % self.levels - half) / half).movedim(-1, 1)
        x = self.mix(codes.to(self.dtype if self.bound else self.mix.weight.dtype))
        x = x.repeat_interleave(8, 3).repeat_interleave(8, 4)
        return torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(8, 2)], 2)


def save(network: nn.Module, path: Path) -> None:
    torch.jit.save(torch.jit.script(network), str(path))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vouched(folder: Path) -> Permissions:
    """What `--trust-sha256`, given for every file in the folder, permits."""
    return Permissions(trust_sha256=tuple(sha256(path) for path in sorted(folder.glob("*.jit"))))


def opened(folder: Path, *, dtype: torch.dtype | None = None) -> CosmosTokenizer:
    """The tokenizer, every file vouched for."""
    return CosmosTokenizer(folder, dtype=dtype, permissions=vouched(folder))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stand-ins in a folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("cosmos")
    save(StandInEncoder(), folder / "encoder.jit")
    save(StandInDecoder(), folder / "decoder.jit")
    return folder


@pytest.fixture
def folder(pair: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    copy = tmp_path / "cosmos"
    copy.mkdir()
    for name in NAMES:
        shutil.copy(pair / name, copy / name)
    return copy


def video(batch: int = 1, *, frames: int = 17, height: int = 64, width: int = 64) -> torch.Tensor:
    """A colour for each cell and frame, and noise: many tokens are met."""
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(batch, 3, frames, height // 8, width // 8, generator=generator) * 2 - 1
    cells = cells.repeat_interleave(8, 3).repeat_interleave(8, 4)
    return (cells + 0.1 * torch.randn(cells.shape, generator=generator)).clamp(-1, 1)


def any_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 64_000, shape, generator=torch.Generator().manual_seed(4))


def decode(folder: Path, permissions: Permissions | None = None) -> torch.Tensor:
    """Of any tokens; every file vouched for unless `permissions` are given."""
    tokenizer = CosmosTokenizer(folder, permissions=permissions or vouched(folder))
    return tokenizer.decode(any_tokens(1, 3, 4, 4))


def encode(folder: Path, permissions: Permissions | None = None) -> torch.Tensor:
    """Of a video, likewise."""
    return CosmosTokenizer(folder, permissions=permissions or vouched(folder)).encode(video(height=32, width=32))


def refusal(action: Callable[[], object]) -> str:
    """The `InputError` that comes of it, in one line."""
    with pytest.raises(InputError) as caught:
        action()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


def networks(monkeypatch: pytest.MonkeyPatch, answer: Callable[[torch.Tensor], object]) -> list[str]:
    """Files give `answer` instead of what is in them; the devices they are loaded to, one after the other."""
    loaded: list[str] = []

    class Network(nn.Module):
        def forward(self, value: torch.Tensor) -> object:
            return answer(value)

    def load(program: io.BytesIO, *, map_location: torch.device) -> nn.Module:
        name = "encoder.jit" if b"StandInEncoder" in program.getvalue() else "decoder.jit"
        loaded.append(f"{name} {map_location.type}")
        return Network()

    monkeypatch.setattr(torch.jit, "load", load)
    return loaded


# -- encode and decode ---------------------------------------------------------------------------------------------


def test_shapes_types_and_ranges(pair: Path) -> None:
    tokenizer = opened(pair)
    assert tokenizer.vocab_size == math.prod(LEVELS) == 64_000
    tokens = tokenizer.encode(video(2, width=48))
    assert tokens.shape == (2, 3, 8, 6)
    assert tokens.dtype == torch.int64
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 64_000
    assert len(tokens.unique()) > 100
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == (2, 3, 17, 64, 48)
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() == 1


@pytest.mark.parametrize(("frames", "grids"), [(1, 1), (9, 2), (17, 3), (25, 4)])
def test_grids_of_frames(pair: Path, frames: int, grids: int) -> None:
    tokenizer = opened(pair)
    tokens = tokenizer.encode(video(frames=frames, height=16, width=16))
    assert tokens.shape == (1, grids, 2, 2)
    assert tokenizer.decode(tokens).shape == (1, 3, frames, 16, 16)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_it_is_what_the_files_themselves_give(pair: Path, dtype: torch.dtype | None) -> None:
    tokenizer = opened(pair, dtype=dtype)
    encoder, decoder = (torch.jit.load(str(pair / name)).to(dtype=dtype or torch.float32) for name in NAMES)
    block = video(2)
    with torch.no_grad():
        indices = encoder(block.to(dtype or torch.float32))[0]
        values = decoder(indices)
    assert indices.dtype == torch.int32
    assert values.dtype == (dtype or torch.float32)
    assert values.abs().max() > 1, "so that clamping is seen"
    for _ in range(3):
        tokens = tokenizer.encode(block)
        assert torch.equal(tokens, indices.long())
        decoded = tokenizer.decode(tokens)
        assert torch.equal(decoded, values.float().clamp(-1, 1))
        assert decoded.dtype == torch.float32
        assert not decoded.requires_grad


def test_precision_is_used(pair: Path) -> None:
    tokens = any_tokens(1, 3, 4, 4)
    exact, rough = (opened(pair, dtype=dtype).decode(tokens) for dtype in (None, torch.bfloat16))
    assert not torch.equal(exact, rough)
    assert torch.equal(rough, rough.bfloat16().float())
    torch.testing.assert_close(exact, rough, atol=0.05, rtol=0)


def test_the_first_digit_moves_fastest(pair: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    digits = torch.stack([torch.randint(0, level, (1, 3, 2, 4), generator=generator) for level in LEVELS])
    tokens = sum(digit * place for digit, place in zip(digits, BASIS, strict=True))
    decoded = opened(pair).decode(tokens)
    weight = mixing(6, 3, seed=1).weight[:, :, 0, 0, 0].detach()
    for grid, frames in enumerate([range(1), range(1, 9), range(9, 17)]):
        for row in range(2):
            for column in range(4):
                code = torch.tensor(
                    [(int(d[0, grid, row, column]) - n // 2) / (n // 2) for d, n in zip(digits, LEVELS, strict=True)]
                )
                colour = (weight @ code).clamp(-1, 1)
                cell = decoded[0, :, list(frames), 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                torch.testing.assert_close(cell, colour.view(3, 1, 1, 1).expand_as(cell))


def test_tokens_are_the_codes_of_the_frames(pair: Path) -> None:
    block = video()
    tokens = opened(pair).encode(block)
    with torch.no_grad():
        codes = torch.jit.load(str(pair / "encoder.jit"))(block)[1]
    for axis, (level, place) in enumerate(zip(LEVELS, BASIS, strict=True)):
        digits = tokens // place % level
        assert torch.equal((digits - level // 2) / (level // 2), codes[:, axis])


@pytest.mark.parametrize(("frame", "grid"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2)])
def test_a_frame_changes_its_grid_and_later_ones_alone(pair: Path, frame: int, grid: int) -> None:
    tokenizer = opened(pair)
    block = 0.1 * video()
    changed = block.clone()
    changed[:, :, frame] = 1
    before, after = tokenizer.encode(block), tokenizer.encode(changed)
    assert torch.equal(before[:, :grid], after[:, :grid])
    assert not torch.equal(before[:, grid], after[:, grid])


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 16, 32, 32),
        (1, 3, 18, 32, 32),
        (1, 4, 17, 32, 32),
        (1, 3, 17, 30, 32),
        (1, 3, 17, 32, 36),
        (1, 3, 17, 32),
    ],
)
def test_wrong_video_is_named(pair: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"multiples of 8, not {shape}")):
        opened(pair).encode(torch.zeros(shape))


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4, 4).long(), torch.zeros(1, 3, 4, 4)])
def test_wrong_tokens_are_named(pair: Path, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape(f"(B, F, h, w), not {'float32' if tokens.dim() == 4 else 'int64'}")):
        opened(pair).decode(tokens)


@pytest.mark.parametrize("value", [-1, 64_000, 2**32])
def test_no_token_out_of_range_is_decoded(pair: Path, value: int) -> None:
    tokens = torch.full((1, 3, 4, 4), 7)
    tokens[0, 1, 2, 3] = value
    said = refusal(lambda: opened(pair).decode(tokens))
    assert said.startswith(f"{pair / 'decoder.jit'}: ")
    assert f"from {min(value, 7)} to {max(value, 7)}" in said
    tokens[0, 1, 2, 3] = 63_999
    opened(pair).decode(tokens)


# -- what a file gives ---------------------------------------------------------------------------------------------


def grids(value: int = 0, *, shape: tuple[int, ...] = (1, 3, 4, 4), dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((grids(-1), None), "indices from -1 to -1"),
        ((grids(64_000), None), "indices from 64000 to 64000"),
        ((grids(shape=(1, 4, 3, 4)), None), r"int32 \(1, 4, 3, 4\) where indices \(1, 3, 4, 4\) are due"),
        ((grids(dtype=torch.float32), None), r"float32 \(1, 3, 4, 4\) where"),
        ((), "a tuple where"),
        ("tokens", "a str where"),
    ],
)
def test_what_is_no_token_grid_is_refused(
    pair: Path, monkeypatch: pytest.MonkeyPatch, answer: object, says: str
) -> None:
    networks(monkeypatch, lambda _: answer)
    said = refusal(lambda: opened(pair).encode(video(height=32, width=32)))
    assert re.search(f"^{re.escape(str(pair / 'encoder.jit'))}: gives {says}", said)


@pytest.mark.parametrize("answer", [grids(63_999), (grids(63_999),), (grids(63_999), None, None)])
def test_indices_come_alone_or_first(pair: Path, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    networks(monkeypatch, lambda _: answer)
    tokens = opened(pair).encode(video(height=32, width=32))
    assert torch.equal(tokens, torch.full((1, 3, 4, 4), 63_999))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (torch.zeros(1, 3, 16, 32, 32), r"float32 \(1, 3, 16, 32, 32\) where video \(1, 3, 17, 32, 32\) is due"),
        (torch.zeros(1, 3, 17, 32, 32).byte(), r"uint8 \(1, 3, 17, 32, 32\) where"),
        ((torch.zeros(1, 3, 17, 32, 32),), "a tuple where"),
    ],
)
def test_what_is_no_video_is_refused(pair: Path, monkeypatch: pytest.MonkeyPatch, answer: object, says: str) -> None:
    networks(monkeypatch, lambda _: answer)
    said = refusal(lambda: opened(pair).decode(any_tokens(1, 3, 4, 4)))
    assert re.search(f"^{re.escape(str(pair / 'decoder.jit'))}: gives {says}", said)


def test_a_file_made_for_one_precision_says_so(tmp_path: Path) -> None:
    save(StandInDecoder(torch.bfloat16), tmp_path / "decoder.jit")
    tokens = any_tokens(1, 3, 4, 4)
    said = refusal(lambda: opened(tmp_path).decode(tokens))
    assert said.startswith(
        f"{tmp_path / 'decoder.jit'}: fails on int32 (1, 3, 4, 4), computing in torch.float32 on cpu: "
    )
    assert "BFloat16" in said
    assert "Traceback" not in said
    assert said.endswith("try another dtype)")
    assert opened(tmp_path, dtype=torch.bfloat16).decode(tokens).dtype == torch.float32


def test_memory_that_is_full_is_nobodys_input(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: torch.Tensor) -> object:
        raise torch.OutOfMemoryError("full")

    networks(monkeypatch, fail)
    with pytest.raises(torch.OutOfMemoryError):
        opened(pair).decode(any_tokens(1, 3, 4, 4))


def test_networks_run_unfused_frozen_and_in_evaluation(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Network(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            seen.append((torch._C._get_graph_executor_optimize(), torch.is_grad_enabled(), self.training))
            return torch.zeros(1, 3, 17, 32, 32) if value.dim() == 4 else grids()

    monkeypatch.setattr(torch.jit, "load", lambda path, map_location: Network())
    decode(pair)
    encode(pair)
    assert seen == [(False, False, False)] * 2
    assert torch._C._get_graph_executor_optimize(), "for everyone else nothing has changed"


# -- where it runs -------------------------------------------------------------------------------------------------


def test_it_stands_where_a_tokenizer_does(pair: Path) -> None:
    tokenizer = opened(pair)
    assert tokenizer.to(torch.device("cpu")) is tokenizer
    assert tokenizer.eval() is tokenizer
    assert next(tokenizer.parameters()).device == torch.device("cpu")
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_files_are_loaded_once_and_anew_after_a_move(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(value: torch.Tensor) -> torch.Tensor:
        return (torch.zeros(1, 3, 17, 32, 32) if value.dim() == 4 else grids()).to(value.device)

    loaded = networks(monkeypatch, answer)
    tokenizer, tokens = opened(pair), any_tokens(1, 3, 4, 4)
    assert loaded == []
    for _ in range(2):
        assert tokenizer.to("cpu").decode(tokens).device.type == "cpu"
        assert tokenizer.encode(video(height=32, width=32)).device.type == "cpu"
    assert loaded == ["decoder.jit cpu", "encoder.jit cpu"]
    for _ in range(2):
        assert tokenizer.to("meta").decode(tokens).device.type == "meta"
    assert loaded == ["decoder.jit cpu", "encoder.jit cpu", "decoder.jit meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_computes_in_bfloat16(pair: Path) -> None:
    tokenizer, tokens = opened(pair), any_tokens(1, 3, 4, 4)
    exact = tokenizer.decode(tokens)
    there = tokenizer.to("cuda").decode(tokens)
    assert there.device.type == "cuda"
    assert torch.equal(there, there.bfloat16().float())
    torch.testing.assert_close(there.cpu(), exact, atol=0.05, rtol=0)
    assert torch.equal(tokenizer.to("cpu").decode(tokens), exact)


# -- which files are loaded ----------------------------------------------------------------------------------------


NEEDED = [("decoder.jit", decode), ("decoder.jit", encode), ("encoder.jit", encode)]
"""Which files must be trusted for what."""
Action = Callable[[Path, Permissions], object]


def nobody_vouches(action: Callable[[], object]) -> str:
    """The `UsageError` that comes of it, in one line of at most 400 characters."""
    with pytest.raises(UsageError) as caught:
        action()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 400
    return said


def test_what_is_a_cosmos_folder(folder: Path) -> None:
    assert is_cosmos(folder)
    (folder / "encoder.jit").unlink()
    assert is_cosmos(folder)
    (folder / "decoder.jit").rename(folder / "encoder.jit")
    assert is_cosmos(folder)
    (folder / "encoder.jit").rename(folder / "autoencoder.jit")
    assert not is_cosmos(folder)
    assert not is_cosmos(folder / "nowhere")


def test_its_name_is_the_decoders_hash(folder: Path) -> None:
    assert cosmos_hash(folder) == sha256(folder / "decoder.jit")
    (folder / "encoder.jit").unlink()
    assert cosmos_hash(folder) == sha256(folder / "decoder.jit")
    (folder / "decoder.jit").unlink()
    assert refusal(lambda: cosmos_hash(folder)).startswith(f"{folder / 'decoder.jit'}: is not there; fetch decoder.jit")


@pytest.mark.parametrize(("name", "action"), NEEDED)
def test_a_file_nobody_vouches_for_is_never_loaded(
    folder: Path, name: str, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = NAMES[1 - NAMES.index(name)]
    # A list beside the files, which came with them, is no voucher.
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / one)}  {one}\n" for one in NAMES))
    loaded = networks(monkeypatch, lambda value: value)
    said = nobody_vouches(lambda: action(folder, Permissions(trust_sha256=(sha256(folder / other), "0" * 64))))
    assert said.startswith(f"{folder / name}: is TorchScript, a program, and none that is known here; check that ")
    assert "nvidia/Cosmos-0.1-Tokenizer-DV8x8x8" in said
    assert said.endswith(f"then say --trust-sha256 {sha256(folder / name)}")
    assert loaded == []


def test_without_a_word_nobody_vouches(folder: Path) -> None:
    assert "none that is known here" in nobody_vouches(lambda: decode(folder, Permissions()))
    assert "none that is known here" in nobody_vouches(lambda: encode(folder, Permissions()))
    assert "none that is known here" in nobody_vouches(lambda: CosmosTokenizer(folder).require_trusted())


def test_it_is_asked_before_any_work(folder: Path) -> None:
    decoder = Permissions(trust_sha256=(sha256(folder / "decoder.jit"),))
    CosmosTokenizer(folder, permissions=decoder).require_trusted()
    said = nobody_vouches(lambda: CosmosTokenizer(folder, permissions=decoder).require_trusted(encoder=True))
    assert said.startswith(f"{folder / 'encoder.jit'}: ")
    opened(folder).require_trusted(encoder=True)
    said = nobody_vouches(lambda: load_tokenizer(str(folder)))
    assert said.startswith(f"{folder / 'decoder.jit'}: ")
    assert load_tokenizer(str(folder), permissions=decoder)[1] == sha256(folder / "decoder.jit")


def test_a_hash_may_be_in_capitals_and_must_be_one(folder: Path, pair: Path) -> None:
    capitals = Permissions(trust_sha256=(sha256(folder / "decoder.jit").upper(),))
    assert torch.equal(decode(folder, capitals), decode(pair))
    for wrong in ("", "0" * 63, "g" * 64, str(folder)):
        with pytest.raises(UsageError, match="is no SHA-256"):
            Permissions(trust_sha256=(wrong,))


@pytest.mark.parametrize(("name", "action"), NEEDED)
def test_a_file_that_changed_is_refused(
    folder: Path, name: str, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vouched(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    loaded = networks(monkeypatch, lambda value: value)
    said = nobody_vouches(lambda: action(folder, before))
    assert said.startswith(f"{folder / name}: is TorchScript")
    assert loaded == []


def test_what_is_run_is_what_was_compared(folder: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, wanted = cosmos._require_trusted, decode(pair)

    def compare_and_exchange(path: Path, found: str, permissions: Permissions) -> None:
        compare(path, found, permissions)
        path.write_bytes(b"another program")

    monkeypatch.setattr(cosmos, "_require_trusted", compare_and_exchange)
    assert torch.equal(decode(folder), wanted)
    assert (folder / "decoder.jit").read_bytes() == b"another program"


def test_the_audited_decoder_needs_no_voucher(folder: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = (Path(__file__).parents[1] / "docs" / "challenge-facts.md").read_text()
    assert list(cosmos.KNOWN_HASHES) == ["decoder.jit"]
    assert f"`decoder.jit` that [audit] used has SHA-256 `{cosmos.KNOWN_HASHES['decoder.jit']}`" in facts
    monkeypatch.setitem(cosmos.KNOWN_HASHES, "decoder.jit", sha256(folder / "decoder.jit"))
    nothing = Permissions()
    assert torch.equal(decode(folder, nothing), decode(pair))
    assert nobody_vouches(lambda: encode(folder, nothing)).startswith(f"{folder / 'encoder.jit'}: is TorchScript")
    shutil.copy(folder / "decoder.jit", folder / "encoder.jit")
    assert "none that is known" in nobody_vouches(lambda: encode(folder, nothing)), "known by its name too"


def test_without_an_encoder_one_can_still_decode(folder: Path, pair: Path) -> None:
    (folder / "encoder.jit").unlink()
    assert torch.equal(decode(folder), decode(pair))
    said = refusal(lambda: encode(folder))
    assert said.startswith(f"{folder / 'encoder.jit'}: is not there; fetch encoder.jit of nvidia/Cosmos-0.1-Tokenizer-")
    assert "Cosmos-Tokenizer-DV8x8x8" in said
    assert "Hugging Face" in said


def test_without_a_decoder_nothing_goes(folder: Path) -> None:
    (folder / "decoder.jit").unlink()
    for action in (decode, encode):
        said = refusal(lambda action=action: action(folder))
        assert said.startswith(f"{folder / 'decoder.jit'}: is not there; fetch decoder.jit of nvidia/")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"version https://git-lfs.github.com/spec/v1",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"torch", b"t\xffrch"),
    ],
)
def test_a_damaged_file_is_one_line(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "decoder.jit"
    path.write_bytes(damage(path.read_bytes()))
    said = refusal(lambda: decode(folder))
    assert said.startswith(f"{path}: cannot be read as TorchScript: ")
    assert len(said) > len(f"{path}: cannot be read as TorchScript: ")


def test_a_pipe_is_refused_unread(folder: Path) -> None:
    (folder / "decoder.jit").unlink()
    os.mkfifo(folder / "decoder.jit")
    said = refusal(lambda: decode(folder, Permissions()))
    assert said == f"{folder / 'decoder.jit'}: is a pipe, a device or a socket, where a file is wanted"


# -- a whole folder ------------------------------------------------------------------------------------------------


def test_a_raw_folder_becomes_its_tokens(pair: Path, tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", style="subfolders", segments=[100, 57])
    tokenizer = opened(pair)
    encoder = TokenEncoder(tokenizer=tokenizer, weights=cosmos_hash(pair), size=SIZE)
    assert encode_folder(tmp_path / "raw", tmp_path / "out", encoder=encoder)

    frames = RawDataset(tmp_path / "raw").frames(0, range(157))
    # 9 whole blocks and 4 frames, of which the first is repeated 6 times and the last 7 times.
    padded = np.concatenate([frames[:153], *[frames[153:154]] * 6, frames[153:157], *[frames[156:157]] * 7])
    blocks = to_video(torch.from_numpy(padded.reshape(10, 17, SIZE, SIZE, 3)))
    with torch.no_grad():
        direct = torch.jit.load(str(pair / "encoder.jit"))(blocks)[0]
    dataset = TokenDataset(tmp_path / "out")
    tokens = np.array(dataset.tokens(0))
    assert tokens.shape == (10, 3, 4, 4)
    assert np.array_equal(tokens, direct.numpy())
    assert len(np.unique(tokens)) > 10
    dataset.check(tokenizer.vocab_size)
    description: Any = read_encoding(tmp_path / "out")
    assert description["weights_sha256"] == sha256(pair / "decoder.jit")
    assert description["vocab_size"] == 64_000
    pictures = to_frames(tokenizer.decode(torch.from_numpy(tokens).long()))
    assert pictures.shape == (10, 17, SIZE, SIZE, 3)
