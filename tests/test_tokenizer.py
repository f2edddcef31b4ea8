"""The video tokenizer: causal in time, the same tokens on both sides, gradients through the rounding."""

from __future__ import annotations

import pytest
import torch

from foreframe.models.tokenizer import FiniteScalarQuantizer, TokenizerConfig, VideoTokenizer

SMALL = TokenizerConfig(levels=(4, 3), fine_width=8, coarse_width=16, num_blocks=1)
FRAMES_OF_GRID = [range(1), range(1, 9), range(9, 17)]


@pytest.fixture
def tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(SMALL).double().eval()


def video(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, 17, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes(tokenizer: VideoTokenizer) -> None:
    tokens = tokenizer.encode(video(2))
    assert tokens.shape == (2, 3, 4, 3)
    assert tokens.dtype == torch.int64
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == (2, 3, 17, 32, 24)
    assert decoded.abs().max() <= 1


def test_grids_see_no_later_frame(tokenizer: VideoTokenizer) -> None:
    frames = video().requires_grad_()
    codes, _ = tokenizer.codes(frames)
    for grid in range(3):
        (gradient,) = torch.autograd.grad(codes[:, grid].sum(), frames, retain_graph=True)
        touched = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        assert max(touched) == FRAMES_OF_GRID[grid][-1]
    (gradient,) = torch.autograd.grad(codes[:, 0].sum(), frames)
    assert gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist() == [0]


def test_frames_are_decoded_from_grids_up_to_their_own(tokenizer: VideoTokenizer) -> None:
    codes = torch.rand(1, 3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    decoded = tokenizer.draw(codes)
    for grid, frames in enumerate(FRAMES_OF_GRID):
        for frame in frames:
            (gradient,) = torch.autograd.grad(decoded[:, :, frame].sum(), codes, retain_graph=True)
            touched = gradient.abs().sum((0, 2, 3, 4)).nonzero().flatten().tolist()
            assert max(touched) == grid


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 5, 5, 5), (3, 4)])
def test_every_token_is_its_own_code(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    tokens = torch.arange(TokenizerConfig(levels=levels).vocab_size)
    codes = quantizer.codes(tokens)
    assert torch.equal(quantizer.tokens(codes), tokens)
    assert len(codes.unique(dim=0)) == len(tokens)
    # The first digit moves fastest, as in Cosmos.
    assert torch.equal(tokens % levels[0], ((codes[:, 0] + 1) * (levels[0] // 2)).round().long())


def test_quantiser_reaches_every_code_and_no_other() -> None:
    quantizer = FiniteScalarQuantizer((8, 5, 5, 5))
    z = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0)) * 2
    tokens = quantizer.tokens(quantizer(z))
    assert len(tokens.unique()) == 1000
    assert torch.equal(quantizer.codes(tokens), quantizer(z))


def test_gradient_passes_the_rounding() -> None:
    quantizer = FiniteScalarQuantizer((8, 5))
    z = torch.linspace(-2, 2, 40).reshape(20, 2).requires_grad_()
    quantizer(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0).all()


def test_wrong_size_is_named(tokenizer: VideoTokenizer) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8, not \(1, 3, 16, 32, 24\)"):
        tokenizer.encode(video()[:, :, :16])


def test_encoder_draws_what_the_decoder_draws(tokenizer: VideoTokenizer) -> None:
    """The encoder's copy of the canvas is the decoder's: what it refines is what will be there."""
    with torch.no_grad():
        codes, drawn = tokenizer.codes(video(2))
        assert torch.allclose(tokenizer.draw(codes), drawn, atol=1e-12)
        tokens = tokenizer.quantizer.tokens(codes)
        assert torch.allclose(tokenizer.decode(tokens), drawn.clamp(-1, 1), atol=1e-12)


def test_what_is_drawn_is_carried_on(tokenizer: VideoTokenizer) -> None:
    """A decoder that changes nothing shows its first frame for ever."""
    with torch.no_grad():
        torch.nn.init.zeros_(tokenizer.decoder.head.weight)
        tokenizer.decoder.head.bias.fill_(0.25)
        drawn = tokenizer.draw(torch.zeros(1, 3, 4, 3, 2, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, 0], torch.full((), 0.25, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, 1:9], torch.full((), 0.5, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, 9:], torch.full((), 0.75, dtype=torch.float64))
