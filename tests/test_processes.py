"""What a process computes with: float32 is float32, also in the convolutions of what is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from foreframe.cli import run
from foreframe.encode import TokenEncoder
from foreframe.train.processes import local_device, start_accelerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def tf32_is_on() -> Iterator[None]:
    """As torch has it for convolutions, and for matrix products as well."""
    before = tf32()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("start", [start_accelerator, local_device])
def test_float32_is_not_tf32(start) -> None:
    assert tf32() == (True, True)
    start()
    assert tf32() == (False, False)


def test_encoding_computes_in_float32(raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def encode(_raw: Path, _out: Path, *, encoder: TokenEncoder, **_: object) -> bool:
        seen.append(tf32())
        assert next(encoder.tokenizer.parameters()).dtype == torch.float32
        return False

    monkeypatch.setattr("foreframe.encode.encode_folder", encode)
    assert run(["data", "encode", str(raw_root), "--encoder", "tokenizer_tiny", "--out", str(tmp_path / "out")]) == 0
    assert seen
    assert set(seen) == {(False, False)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, whose convolutions take TF32 by default")
def test_convolutions_on_cuda_agree_with_float64() -> None:
    device = local_device()
    video, weight = torch.randn(1, 64, 5, 32, 32), torch.randn(64, 64, 3, 3, 3) / 40
    found = torch.nn.functional.conv3d(video.to(device), weight.to(device)).cpu()
    wanted = torch.nn.functional.conv3d(video.double(), weight.double()).float()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # TF32 is off by 1e-3
