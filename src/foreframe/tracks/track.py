"""What a track is: the one interface through which training, evaluation and the command line know a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch

    from foreframe.batch import Batch
    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset

MODEL = "model"
"""Name of the trained model among the predictors."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a column of scores means."""

    title: str
    """As a person reads it."""
    unit: str
    """`nats/token`, `dB`, `share`."""
    higher_is_better: bool
    description: str
    """One sentence: what is compared with what, averaged over what."""
    detail: bool = False
    """Shown folded away and left out of the terminal's table and the training curve."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one training step minimises, and what it logs."""

    value: torch.Tensor
    """Scalar with a gradient: the mean over the clips of the batch."""
    logs: dict[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    """Detached scalars, means over the batch's clips."""


Scores = dict[str, dict[str, "torch.Tensor"]]
"""metric -> predictor -> (B,) float64: one value for each clip, so that every mean can be taken and checked later."""

PredictionT = TypeVar("PredictionT")


class Track(Protocol[PredictionT]):
    """A task of the challenge: its data, its model, its loss, its predictions and their scores.

    `fit` or `load_statistics` comes before anything that takes a batch.
    """

    @property
    def kind(self) -> str:
        """`compression`, `reconstruction`, ..."""
        ...

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that `score` and `score_trivial` return, most important first."""
        ...

    @property
    def predictors(self) -> dict[str, str]:
        """What stands beside the model, by `score_trivial`: name and one line of explanation."""
        ...

    @property
    def references(self) -> frozenset[str]:
        """Those of the predictors that no model competes with, because they are given the truth."""
        ...

    @property
    def num_observed(self) -> int:
        """Frames of a clip that the model is shown; state rows after them lie in the future. 0: states are not read."""
        ...

    @property
    def scores_pixels(self) -> bool:
        """Whether `score` needs recorded frames: validation clips are then opened with them."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second of the videos that `panels` gives."""
        ...

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """The clips of one split; what must be derived from it first (tokens, latents) is kept under `cache`.

        `with_video` adds the frames to each batch where the folder holds them: for scores in pixels and for looking.
        With `on_bad_shard="skip"` broken shards are left out, and the clips' `skipped` says which.
        """
        ...

    def fit(self, clips: ClipDataset) -> None:
        """Compute and keep what is learnt by counting, from *training* clips only: normalisation and baselines."""
        ...

    def save_statistics(self, folder: Path) -> None:
        """Write what `fit` found beside the weights."""
        ...

    def load_statistics(self, folder: Path) -> None:
        """Read what `save_statistics` wrote; `InputError` if it does not fit this build's channels or the model."""
        ...

    def build(self) -> Any:
        """A freshly initialised model (one of those `models.weights` can save)."""
        ...

    def start(self, model: Any) -> None:
        """Fill a new run's model, as it was built, with what training goes on from, if with anything.

        A run that has a checkpoint is never started: what it once started from may then be gone.
        """
        ...

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The training objective on one micro-batch."""
        ...

    def predict(self, model: Any, batch: Batch, *, quick: bool = False) -> PredictionT:
        """The future, from the batch's context and states alone; `quick` at small cost, to look while training."""
        ...

    def score(self, model: Any, batch: Batch, prediction: PredictionT) -> dict[str, torch.Tensor]:
        """Compare with the truth in the batch: metric -> (B,) float64."""
        ...

    def score_trivial(self, batch: Batch) -> Scores:
        """The same for every trivial predictor."""
        ...

    def panels(
        self, model: Any, batch: Batch, prediction: PredictionT, places: Sequence[int]
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """Videos to look at of the clips at `places` of the batch, uint8 (len(places), T, H, W, 3).

        `context`, `truth`, `prediction` and more, or none at all; `spread` has no colours: (len(places), T, H, W).
        """
        ...
