"""How to predict: settings of rollout, sampler, ensemble and evaluation; no torch is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foreframe.errors import require

_HOTTEST = 1000.0
"""A temperature at which draws are as good as uniform."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How the tokens that are fed back are chosen."""

    temperature: float = 0.0
    """0 takes each cell's most likely token (report, section 3.3); above, one is drawn from softmax(logits / it)."""
    seed: int = 0
    """Of the draws; a clip's also depend on its address, never on the batch it is in."""

    def __post_init__(self) -> None:
        require(self, temperature=(0, _HOTTEST), seed=(0, 2**32 - 1))


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How noise becomes latents."""

    num_inference_steps: int = 20
    """Evaluations of the network for one sample (report, Table 2: 20, in its last block 100)."""
    solver: Literal["euler", "unipc"] = "euler"
    """`euler` is what the entry's scheduler does (*inferred*, challenge-facts 5.9; the report names none); `unipc` is
    Wan's own, of second order, in diffusers."""
    guidance_scale: float = 1.0
    """Of the states. 1 evaluates the network once a step; any other value also without states, at twice the cost, and
    needs a model trained so (report, Table 2: 1.0, 1.5 and 2.0; 1.0 is best)."""
    shift: float = 5.0
    """See `FlowConfig`; the one trained with (challenge-facts 5.8)."""

    def __post_init__(self) -> None:
        require(self, num_inference_steps=(1, 1000), guidance_scale=(0, 100), shift=(0.01, 100))
        if self.solver not in ("euler", "unipc"):
            raise ValueError(f"solver must be euler or unipc, not {self.solver!r}")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """How many samples make a prediction, and what is done to their mean."""

    size: int = 20
    """Members averaged for each prediction (report, Table 2: 1, 5 and 20)."""
    seed: int = 0
    """Of the members' noise; it also depends on the clip's address and the member's number."""
    max_batch: int = 20
    """Members that go through the network and the decoder at once, of one clip or of several; bounds memory
    (*assumed*)."""
    blur_sigma: float = 0.0
    """Pixels of Gaussian blur over the mean; 0 is none. Tried before ensembles and dropped (challenge-facts 5.9)."""
    match_histogram: bool = False
    """Give each channel of the prediction the histogram of the last observed frame. Tried and dropped likewise."""

    def __post_init__(self) -> None:
        require(self, size=(1, 4096), seed=(0, 2**32 - 1), max_batch=(1, math.inf), blur_sigma=(0, 1000))


WrongStates = Literal[
    "shuffled", "frozen", "mirrored",
    "shuffled_torso", "shuffled_arms", "shuffled_neck", "shuffled_hands", "shuffled_base",
]  # fmt: skip
"""How states are made wrong, to see what right ones are worth."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How `evaluate` predicts, and how much of it is kept to look at."""

    batch_size: int = 8
    """Clips predicted at once."""
    max_clips: int | None = None
    """Score only this many clips, evenly spaced; None for all. The receipt says how many it was."""
    num_shown: int = 8
    """Clips whose frames are kept for the report: evenly spaced over those scored, never chosen by score."""
    num_resamples: int = 2000
    """Bootstrap resamples over recordings."""
    wrong_states: tuple[WrongStates, ...] = ()
    """Also score the model with states that are not the clip's: does it listen to them at all? `shuffled`: another
    recording's, all channels or one part's; `frozen`: the last observed row stays; `mirrored`: left for right."""
    share: Literal["clips", "members"] = "clips"
    """What several processes share: the clips, or the members of each clip's ensemble (sampling track), so that a
    single prediction comes sooner."""

    def __post_init__(self) -> None:
        positive = (1, math.inf)
        require(self, batch_size=positive, max_clips=positive, num_resamples=positive, num_shown=(0, math.inf))
