"""Predict every clip of a split, score it beside the trivial predictors, and write it all down with its receipt."""

from __future__ import annotations

import json
import math
import platform
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object

import foreframe
from foreframe.data.loader import ordered_batches
from foreframe.errors import UsageError
from foreframe.files import naming, write_whole
from foreframe.metrics.interval import Interval, bootstrap, paired_bootstrap
from foreframe.scores import PREDICTIONS_FOLDER, SCORES_FILE, new_partial, one_evaluation, put_scores
from foreframe.states import GROUPS, mirrored
from foreframe.tracks.track import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from accelerate import Accelerator

    from foreframe.batch import ClipId
    from foreframe.data.loader import ClipDataset
    from foreframe.inference.config import InferenceConfig, WrongStates
    from foreframe.tracks.track import Track

SCORES_VERSION = 1
_CHOSEN = "evenly spaced over the clips that were scored, in order; never by score"


_WRONG_STATES: dict[WrongStates, str] = {
    "shuffled": "the model, given the states of a clip of another recording",
    "frozen": "the model, given the last observed state row for every frame after it",
    "mirrored": "the model, given the states of the robot seen in a mirror",
    "shuffled_torso": "the model, given the torso of a clip of another recording",
    "shuffled_arms": "the model, given the arms of a clip of another recording",
    "shuffled_neck": "the model, given the neck of a clip of another recording",
    "shuffled_hands": "the model, given the hands of a clip of another recording",
    "shuffled_base": "the model, given the base's velocities of a clip of another recording",
}


@contextmanager
def evaluating(run: Path, accelerator: Accelerator) -> Generator[None, None, None]:
    """Keep other evaluations out of `run`; of several processes the main one holds the lock, and all are refused."""
    with ExitStack() as stack:
        refused: list[str | None] = [None]
        if accelerator.is_main_process:
            try:
                stack.enter_context(one_evaluation(run))
            except UsageError as error:
                refused = [str(error)]
            except OSError as error:
                refused = [f"{error.filename or run}: {error.strerror}"]
        broadcast_object_list(refused)
        if refused[0] is not None:
            raise UsageError(refused[0])
        yield


def evaluate(
    run: Path,
    *,
    track: Track[Any],
    model: torch.nn.Module,
    clips: ClipDataset,
    config: InferenceConfig,
    receipt: Mapping[str, Any],
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write `scores.json` and `predictions/` into `run`, both or neither, and return the scores' content.

    It is called within `evaluating`. `receipt` says what only the caller knows: configuration, data, weights. Clips
    are shared over processes.
    """
    if config.wrong_states and not track.num_observed:
        raise UsageError(f"inference.wrong-states: a model of the {track.kind} track reads no states; leave it out")
    model = model.to(accelerator.device).eval()
    count = len(clips) if config.max_clips is None else min(config.max_clips, len(clips))
    chosen = _evenly(len(clips), count)
    names = [new_partial(run)]
    broadcast_object_list(names)
    partial, kept = names[0], names[0] / PREDICTIONS_FOLDER
    if accelerator.is_main_process:
        kept.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        mine = chosen[accelerator.process_index :: accelerator.num_processes]
        if config.share == "members":
            _share_members(track, accelerator)
            mine = chosen
        partners = _partners(clips, chosen) if any(kind.startswith("shuffled") for kind in config.wrong_states) else {}
        shown = {chosen[place] for place in _evenly(count, min(config.num_shown, count))}
        rows: list[dict[str, Any]] = []
        for own in _score(
            track, model, clips, mine,
            partners=partners, shown=shown, config=config, folder=kept, device=accelerator.device,
        ):  # fmt: skip
            rows += own
            if progress is not None and accelerator.is_main_process:
                progress(min(len(rows) * (count // max(len(mine), 1)), count), count)
        if config.share == "clips":
            rows = gather_object(rows)
        rows = sorted(rows, key=lambda row: row["index"])
        content: dict[str, Any] = {
            "version": SCORES_VERSION,
            "track": track.kind,
            "receipt": {
                **receipt,
                "num_clips": len(rows),
                "num_recordings": len({row["segment"] for row in rows}),
                "inference": asdict(config),
                **_environment(accelerator),
            },
            "metrics": {name: asdict(metric) for name, metric in track.metrics.items() if name in rows[0]["values"]},
            "predictors": {
                **{f"model_{kind}_states": _WRONG_STATES[kind] for kind in config.wrong_states},
                **track.predictors,
            },
            "references": [*(f"model_{kind}_states" for kind in config.wrong_states), *sorted(track.references)],
            "scores": summarise(rows, names=list(track.metrics), num_resamples=config.num_resamples),
            "clips": rows,
        }
        if accelerator.is_main_process:
            scores = json.dumps(content, indent=1, allow_nan=False) + "\n"
            write_whole(partial / SCORES_FILE, scores.encode())
            put_scores(run, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    return content


def _share_members(track: Any, accelerator: Accelerator) -> None:
    """Let every process predict a part of each ensemble."""
    if not hasattr(track, "share"):
        raise UsageError(f"inference.share members: the {track.kind} track predicts no ensembles; leave it out")
    track.share = (accelerator.process_index, accelerator.num_processes)
    track.reduce = lambda tensor: accelerator.reduce(tensor, reduction="sum")


@torch.no_grad()
def _score(
    track: Track[Any],
    model: torch.nn.Module,
    clips: ClipDataset,
    indices: Sequence[int],
    *,
    partners: Mapping[int, int],
    shown: set[int],
    config: InferenceConfig,
    folder: Path,
    device: torch.device,
) -> Iterator[list[dict[str, Any]]]:
    """Predict and score the clips `indices`, a batch at a time; keep the frames of those in `shown` under `folder`."""
    for first in range(0, len(indices), config.batch_size):
        own = indices[first : first + config.batch_size]
        batch = next(ordered_batches(clips, own, batch_size=config.batch_size)).to(device)
        prediction = track.predict(model, batch)
        scores = {name: {MODEL: values} for name, values in track.score(model, batch, prediction).items()}
        for name, by_predictor in track.score_trivial(batch).items():
            scores[name] |= by_predictor
        for kind in config.wrong_states:
            other = None
            if kind.startswith("shuffled"):
                others = [partners[index] for index in own]
                other = next(ordered_batches(clips, others, batch_size=config.batch_size)).to(device).states
            wrong = replace(batch, states=_wrong(kind, batch.states, other, num_observed=track.num_observed))
            for name, values in track.score(model, wrong, track.predict(model, wrong)).items():
                scores[name][f"model_{kind}_states"] = values
        places = [place for place, index in enumerate(own) if index in shown]
        panels = track.panels(model, batch, prediction, places) if places else {}
        for number, place in enumerate(places if panels else ()):
            videos = {name: video[number] for name, video in panels.items()}
            _save_panels(folder, batch.clips[place], videos, fps=track.fps)
        yield [
            {
                "index": index,
                **clip._asdict(),
                "values": {m: {p: float(v[place]) for p, v in by.items()} for m, by in scores.items()},
            }
            for place, (index, clip) in enumerate(zip(own, batch.clips, strict=True))
        ]


def _partners(clips: ClipDataset, chosen: Sequence[int]) -> dict[int, int]:
    """For each chosen clip the first of another recording from half the list on; `UsageError` if there is only one."""
    count, segments = len(chosen), [clips.clips[index].segment for index in chosen]
    if len(set(segments)) < 2:
        raise UsageError(
            "inference.wrong-states shuffled: the clips to score are of one recording, so none has another's states; "
            "score more clips, or leave it out"
        )
    partners: dict[int, int] = {}
    for place, index in enumerate(chosen):
        ahead = ((place + count // 2 + step) % count for step in range(count))
        partners[index] = chosen[next(other for other in ahead if segments[other] != segments[place])]
    return partners


def _wrong(kind: WrongStates, states: torch.Tensor, other: torch.Tensor | None, *, num_observed: int) -> torch.Tensor:
    """States (B, T, 25) that are not the clips'; `other` are those of clips of other recordings."""
    match kind:
        case "frozen":
            return _frozen(states, num_observed)
        case "mirrored":
            return mirrored(states)
        case "shuffled":
            assert other is not None
            return other
        case _:
            assert other is not None
            channels = list(GROUPS[kind.removeprefix("shuffled_")])
            wrong = states.clone()
            wrong[..., channels] = other[..., channels]
            return wrong


def _frozen(states: torch.Tensor, num_observed: int) -> torch.Tensor:
    """(B, T, 25) with every row after the last observed one equal to it."""
    rows = torch.arange(states.shape[1], device=states.device).clamp(max=num_observed - 1)
    return states[:, rows]


def summarise(rows: Sequence[Mapping[str, Any]], *, names: Sequence[str], num_resamples: int) -> list[dict[str, Any]]:
    """Means with studentised intervals over recordings, and for each trivial predictor the paired margin to the model.

    A margin is model minus predictor on the same clips, resampled together.
    """
    groups = np.array([row["segment"] for row in rows])
    result: list[dict[str, Any]] = []
    for name in names:
        if name not in rows[0]["values"]:
            continue
        values = {p: np.array([row["values"][name][p] for row in rows]) for p in rows[0]["values"][name]}
        for predictor, own in values.items():
            margin = (
                None
                if predictor == MODEL
                else _finite(paired_bootstrap(values[MODEL], own, groups, num_resamples=num_resamples))
            )
            interval = bootstrap(own, groups, num_resamples=num_resamples)
            result.append({"metric": name, "predictor": predictor, **_finite(interval), "margin": margin})
    return result


def _finite(interval: Interval) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(interval).items()}


def _evenly(total: int, count: int) -> list[int]:
    """`count` of the numbers 0 to total-1, evenly spaced, first and last among them."""
    return np.linspace(0, total - 1, count).round().astype(int).tolist() if count else []


def _save_panels(folder: Path, clip: ClipId, panels: Mapping[str, npt.NDArray[np.uint8]], *, fps: float) -> None:
    meta = {**clip._asdict(), "fps": fps, "chosen": _CHOSEN}
    path = folder / f"clip_{clip.shard:03d}_{clip.start:06d}.npz"
    with naming(path):
        np.savez_compressed(path, allow_pickle=False, meta=np.array(json.dumps(meta)), **dict(panels))


def _environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the numbers were made with: code, libraries, hardware, time."""
    device = accelerator.device
    return {
        "code_version": code_version(),
        "libraries": {name: _version(name) for name in ("torch", "numpy", "accelerate", "av")},
        "python": platform.python_version(),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "num_processes": accelerator.num_processes,
        "num_threads": torch.get_num_threads(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def code_version() -> str:
    """The package's version and, in a git checkout, the commit; `+changed` if files differ from it."""
    root = Path(foreframe.__file__).parents[2]
    if not (root / ".git").exists():
        return foreframe.__version__

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = "+changed" if git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.CalledProcessError):
        return foreframe.__version__
    return f"{foreframe.__version__} ({commit}{changed})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
