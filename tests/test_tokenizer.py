"""The video tokenizer: causal in time, the same tokens on both sides, gradients through the rounding."""

from __future__ import annotations

import pytest
import torch

from foreframe.models.config import TokenizerConfig
from foreframe.models.tokenizer import FiniteScalarQuantizer, VideoTokenizer

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
    codes = tokenizer.codes(frames)
    for grid in range(3):
        (gradient,) = torch.autograd.grad(codes[:, grid].sum(), frames, retain_graph=True)
        touched = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        assert max(touched) == FRAMES_OF_GRID[grid][-1]
    (gradient,) = torch.autograd.grad(codes[:, 0].sum(), frames)
    assert gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist() == [0]


def test_frames_are_decoded_from_grids_up_to_their_own_or_the_next(tokenizer: VideoTokenizer) -> None:
    """The last frame of a grid is drawn again with the next."""
    codes = torch.rand(1, 3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    decoded = tokenizer.draw(codes)
    for grid, frames in enumerate(FRAMES_OF_GRID):
        for frame in frames:
            (gradient,) = torch.autograd.grad(decoded[:, :, frame].sum(), codes, retain_graph=True)
            touched = gradient.abs().sum((0, 2, 3, 4)).nonzero().flatten().tolist()
            drawn_with = min(grid + (frame == frames[-1]), 2)
            assert touched == list(range(drawn_with + 1))


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


def test_reconstruction_is_what_the_tokens_decode_to(tokenizer: VideoTokenizer) -> None:
    with torch.no_grad():
        drawn, unevenness = tokenizer(video(2))
        assert unevenness == tokenizer.quantizer.unevenness(tokenizer.codes(video(2)))
        assert torch.allclose(tokenizer.decode(tokenizer.encode(video(2))), drawn.clamp(-1, 1), atol=1e-12)


def test_tokens_do_not_depend_on_what_the_decoder_draws(tokenizer: VideoTokenizer) -> None:
    """The same picture gives the same tokens, however well it was drawn before."""
    before = tokenizer.encode(video())
    for parameter in tokenizer.decoder.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(tokenizer.encode(video()), before)


def test_what_is_drawn_is_carried_on(tokenizer: VideoTokenizer) -> None:
    """A decoder that changes nothing shows its first frame for ever."""
    with torch.no_grad():
        torch.nn.init.zeros_(tokenizer.decoder.head.weight)
        tokenizer.decoder.head.bias.fill_(0.25)
        drawn = tokenizer.draw(torch.zeros(1, 3, 4, 3, 2, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, :8], torch.full((), 0.5, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, 8:], torch.full((), 0.75, dtype=torch.float64))


def test_a_frame_is_drawn_once_more_with_the_next_grid(tokenizer: VideoTokenizer) -> None:
    """Of nine changes that a grid brings, the first is to the frame before its own."""
    with torch.no_grad():
        torch.nn.init.zeros_(tokenizer.decoder.head.weight)
        bias = torch.zeros(9, 48, dtype=torch.float64)
        bias[0], bias[-1] = 0.1, 0.5
        tokenizer.decoder.head.bias.copy_(bias.flatten())
        drawn = tokenizer.draw(torch.zeros(1, 3, 4, 3, 2, dtype=torch.float64))
    # Frame 0: 0.5 at first, then 0.6. Frames 1 to 7 as at first. Frame 8: 0.5 more, then 0.1. And so on.
    for frames, value in ((slice(0, 1), 0.6), (slice(1, 8), 0.5), (slice(8, 9), 1.1), (slice(9, 16), 1.0)):
        assert torch.allclose(drawn[:, :, frames], torch.full((), value, dtype=torch.float64))
    assert torch.allclose(drawn[:, :, 16], torch.full((), 1.5, dtype=torch.float64))


def test_unevenness_is_of_the_codes_and_not_of_their_order() -> None:
    quantizer = FiniteScalarQuantizer((4, 5, 8))
    every = quantizer.codes(torch.arange(160))
    assert quantizer.unevenness(every).item() == pytest.approx(0, abs=1e-12)
    assert quantizer.unevenness(every[torch.randperm(160)].view(2, 80, 3)).item() == pytest.approx(0, abs=1e-12)
    middle = torch.zeros(7, 3)
    means = [-0.25, 0.0, -0.125]  # of -1, -1/2, 0, 1/2 and so on
    squares = [(1 + 0.25 + 0.25) / 4, (1 + 0.25) * 2 / 5, (16 + 9 + 4 + 1 + 1 + 4 + 9) / 16 / 8]
    expected = sum(value**2 for value in means + squares)
    assert quantizer.unevenness(middle).item() == pytest.approx(expected)


def test_unevenness_draws_codes_apart() -> None:
    quantizer = FiniteScalarQuantizer((5, 5))
    z = (torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * 0.4).requires_grad_()
    quantizer.unevenness(quantizer(z)).backward()
    assert z.grad is not None
    outer = z.detach().abs() > 0.5
    assert (z.grad * z.detach().sign())[outer].max() < 0
