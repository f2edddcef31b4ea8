"""The report page: what it shows, what it withholds, and that its pictures are the saved frames."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foreframe.errors import InputError, UsageError
from foreframe.report import write_report
from foreframe.report.clips import difference, draw_clip, draw_clips, error_palette, map_sheet, read_clip, webp_sheet
from foreframe.report.curves import curves, downsample, short
from foreframe.report.runs import Interval, Metric, read_journal, read_scores
from foreframe.report.tables import decimals_for, metric_tables, nice_ticks, number, signed, verdict
from foreframe.tables import print_scores

LABEL = "simulated data — not comparable with the 1X leaderboard"
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "img", "input", "br", "line", "circle", "polyline", "link"}


class Page(HTMLParser):
    """Collects a page's elements, text, images and JSON blocks, and checks that its tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.json: list[dict] = []
        self.is_json = False
        self.marked: list[tuple[tuple[str, str | None], list[str]]] = []
        self.inside: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.inside.append([])
            self.marked.append(((tag, dict(attrs).get("class")), self.inside[-1]))
        self.is_json = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside.pop()

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            if self.is_json:
                self.json.append(json.loads(data))
        elif self.open[-1:] != ["style"]:
            self.words.append(data)
            for words in self.inside:
                words.append(data)

    def parts(self, tag: str, kind: str) -> list[str]:
        """Text of the elements of a class, in page order."""
        return [re.sub(r"\s+", " ", " ".join(words)).strip() for key, words in self.marked if key == (tag, kind)]

    def sheets(self, key: str) -> list[np.ndarray]:
        """Decoded film strips under `key`, in page order."""
        sources = [a["src"] for tag, a in self.tags if tag == "img" and a.get("data-key") == key]
        return [decode(str(source)) for source in sources]


def decode(uri: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(picture if picture.mode == "P" else picture.convert("RGB"))


def scene(num_frames: int, start: int, *, size: int = 64, seed: int = 0, drift: float = 0.0) -> np.ndarray:
    """A room with a box, a ball and a swinging arm; `drift` is how wrong a predictor's motion grows per frame."""
    rng = np.random.default_rng(seed)
    wall, floor, ball = (rng.uniform(0.35, 0.85, 3) for _ in range(3))
    y, x = np.mgrid[0:size, 0:size] / size
    frames = []
    for index in range(start, start + num_frames):
        t = index / 30 * (1 - drift * (index > 16))
        shade = (0.85 + 0.15 * np.cos(3 * x + y))[..., None]
        horizon = 0.55 + 0.04 * np.sin(2 * t + seed)
        image = np.where((y < horizon)[..., None], wall, floor * (0.6 + 0.4 * y[..., None])) * shade
        tile = ((np.floor(8 * x + 2 * t) + np.floor(8 * y / (0.2 + y))) % 2)[..., None]
        image = np.where((y >= horizon)[..., None], image * (0.92 + 0.08 * tile), image)
        for cx, cy, r, colour in (
            (0.3 + 0.35 * np.sin(1.3 * t + seed), 0.62, 0.11, ball),
            (0.75 - 0.2 * t, 0.35 + 0.1 * np.sin(3 * t), 0.06, ball[::-1] * 0.5),
        ):
            d = np.hypot(x - cx, y - cy) / r
            image = np.where((d < 1)[..., None], colour * (1.1 - 0.6 * d**2)[..., None], image)
        along = (x - 0.5) * np.cos(t + 1) + (y - 1.0) * -np.sin(t + 1)
        across = np.abs((x - 0.5) * np.sin(t + 1) + (y - 1.0) * np.cos(t + 1))
        arm = (along > 0) & (along < 0.6) & (across < 0.06 - 0.05 * along)
        image = np.where(arm[..., None], 0.25 + 0.3 * (1 - across / 0.06)[..., None], image)
        frames.append(np.clip(image * 255, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_clip(path: Path, *, index=0, size=64, num_context=5, num_future=6, **meta: object) -> dict:
    truth = scene(num_future, num_context, size=size, seed=index)
    guess = scene(num_future, num_context, size=size, seed=index, drift=0.12).astype(np.float32)
    soft = (guess + np.roll(guess, 1, 1) + np.roll(guess, 1, 2) + np.roll(guess, (-1, -1), (1, 2))) / 4
    context = scene(num_context, 0, size=size, seed=index)
    arrays = {
        "context": context,
        "truth": truth,
        "prediction": soft.astype(np.uint8),
        "baseline_copy_last": np.repeat(context[-1:], num_future, 0),
    }
    facts = {"shard": 0, "start": 17 * index, "segment": index, "fps": 30, "psnr": 24.0 + index / 3}
    facts["chosen"] = "every 7th of 56 held-out clips, in order"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, meta=np.array(json.dumps(facts | meta)), **arrays)
    return arrays


def write_sampling_clip(path: Path, *, index=0, size=64, num_context=5, num_future=16, **meta: object) -> dict:
    """What an ensemble leaves: its mean, a member, its spread, and the same start given other states."""
    arrays = write_clip(path, index=index, size=size, num_context=num_context, num_future=num_future)
    members = [scene(num_future, num_context, size=size, seed=index, drift=0.1 * i) for i in range(-2, 5)]
    arrays["prediction"] = np.mean(members, axis=0).round().astype(np.uint8)
    arrays["sample"] = members[-1]
    arrays["spread"] = np.std(members, axis=0).mean(axis=3).round().astype(np.uint8)
    arrays["what_if_turning_left"] = np.roll(members[0], 9, axis=2)
    arrays["what_if_states_frozen"] = np.repeat(arrays["context"][-1:], num_future, 0)
    arrays["reconstruction"] = arrays["truth"]
    facts = {"shard": 0, "start": 77 * index, "segment": index, "fps": 7.5, "psnr": 27.1, "chosen": "evenly spaced"}
    np.savez_compressed(path, meta=np.array(json.dumps(facts | meta)), **arrays)
    return arrays


def sampling_scores() -> dict:
    """Three metrics and a detail of one, the model told many kinds of wrong states."""
    shapes = {"psnr": ("PSNR", "dB", True), "psnr_sample": ("PSNR of one sample", "dB", True)}
    shapes |= {"ssim": ("SSIM", "1", True), "ssim_sample": ("SSIM of one sample", "1", True)}
    shapes |= {"flow_loss": ("Flow loss", "1", False)}
    kinds = ("shuffled", "frozen", "mirrored", "shuffled_arms", "shuffled_driving", "shuffled_neck")
    references = [f"model_{kind}_states" for kind in kinds]
    means = {"psnr": 25.0, "psnr_sample": 22.5, "ssim": 0.81, "ssim_sample": 0.74, "flow_loss": 0.103}
    rows = []
    for name, mean in means.items():
        loss = -mean / 20 if shapes[name][2] else mean / 20
        rows.append(score(name, "model", mean, mean / 50))
        rows += [score(name, wrong, mean + loss, mean / 45, -loss, mean / 60) for wrong in references]
        if name != "flow_loss":
            rows.append(score(name, "copy_last", mean + 4 * loss, mean / 40, -4 * loss, mean / 50))
            rows.append(score(name, "reconstruction", mean * 1.2, mean / 50, -0.2 * mean, mean / 90))
    fields = ("title", "unit", "higher_is_better")
    metrics = {name: dict(zip(fields, shape, strict=True)) | {"description": ""} for name, shape in shapes.items()}
    notes = dict.fromkeys(references, "the same weights, told wrong states")
    references = [*references, "reconstruction"]
    return scores(track="sampling", metrics=metrics, scores=rows, predictors=notes, references=references)


def write_sampling_run(folder: Path, *, num_clips: int = 1, num_future: int = 16, **meta: object) -> Path:
    config = {"recipe": "sampling_tiny", "track": {"kind": "sampling"}}
    write_run(folder, num_clips=0, config=config, score_file=sampling_scores())
    lines = [{"step": s, "split": "train", "loss": 0.4 / s + 0.1, "gradient_norm": 1 / s} for s in range(1, 41)]
    names = ("flow_loss", "psnr", "psnr_sample", "ssim", "ssim_sample")
    lines += [{"step": s, "split": "val"} | dict.fromkeys(names, 0.5 / s + 0.1) for s in (10, 20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index in range(num_clips):
        write_sampling_clip(folder / "predictions" / f"clip_{index}.npz", index=index, num_future=num_future, **meta)
    return folder


def score(metric, predictor, mean, half, margin=None, margin_half=0.0) -> dict:
    between = None
    if margin is not None:
        between = {"mean": margin, "low": margin - margin_half, "high": margin + margin_half}
    return {
        "metric": metric,
        "predictor": predictor,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "margin": between,
    }


def scores(**changes) -> dict:
    ce, acc, psnr = "cross_entropy_autoregressive", "accuracy", "psnr"
    receipt = {
        "code_version": "0.1.0+g1a2b3c4",
        "simulated": True,
        "split": "val",
        "num_clips": 56,
        "num_recordings": 8,
        "dataset": {"fingerprint": "sha256:41c7a9e2", "frames": 3808},
        "weights": {"step": 4000, "sha256": "9be21f0c"},
        "seeds": [0],
        "inference": {"mode": "autoregressive", "temperature": None},
        "metric_versions": {ce: 1, acc: 1},
        "hardware": "2 CPU cores",
        "time": "2026-01-09T12:00:00Z",
        "config": {"recipe": "compression_tiny"},
    }
    metrics = {
        ce: {
            "title": "Cross-entropy, autoregressive",
            "unit": "nats/token",
            "higher_is_better": False,
            "description": "Mean over the tokens of the three predicted grids, each grid given the ones before it.",
        },
        acc: {"title": "Accuracy", "unit": "% of tokens", "higher_is_better": True, "description": ""},
        psnr: {"title": "PSNR of decoded frames", "unit": "dB", "higher_is_better": True, "description": ""},
    }
    rows = [
        score(ce, "copy", 3.214, 0.21, -0.771, 0.12),
        score(ce, "model", 2.443, 0.18),
        score(ce, "unigram", 4.872, 0.15, -2.429, 0.2),
        score(acc, "model", 41.2, 2.1),
        score(acc, "copy", 40.6, 2.6, 0.6, 0.9),
        score(psnr, "model", 23.31, 0.7),
        score(psnr, "copy_last", 23.9, 0.9, -0.59, 0.4),
    ]
    predictors = {
        "copy": "repeats the last grid; smoothing fitted on train",
        "unigram": "token frequencies of train",
        "copy_last": "repeats the last frame",
    }
    data = {
        "version": 1,
        "track": "compression",
        "receipt": receipt,
        "metrics": metrics,
        "scores": rows,
        "predictors": predictors,
        "clips": [],
    }
    return data | changes


def with_details(content: dict) -> dict:
    """The same scores, each cross-entropy also for every grid in two readings, as details."""
    for regime in ("autoregressive", "teacher-forced"):
        for reading in ("Cross-entropy", "Top-500 cross-entropy, tail", "Top-500 cross-entropy, renorm"):
            for grid in (1, 2, 3):
                name = f"{reading}_{regime}_{grid}"
                content["metrics"][name] = {
                    "title": f"{reading}, {regime}, grid {grid}",
                    "unit": "nats/token",
                    "higher_is_better": False,
                    "description": f"Of future grid {grid} alone.",
                    "detail": True,
                }
                content["scores"] += [
                    score(name, "copy", 3.1 + grid / 9, 0.2, -0.8 - grid / 99, 0.1),
                    score(name, "model", 2.3 + grid / 9, 0.2),
                    score(name, "cell_unigram", 2.2 + grid / 9, 0.2, 0.3, 0.1),
                    score(name, "unigram", 2.4 + grid / 9, 0.2, -0.05, 0.1),
                ][: 4 if reading == "Cross-entropy" else 3]
    return content


def write_journal(path: Path, *, num_steps: int = 900) -> None:
    rng = np.random.default_rng(1)
    lines: list[dict] = []
    ar, tf = "cross_entropy_autoregressive", "cross_entropy_teacher_forced"
    for step in range(1, num_steps + 1):
        decay = np.exp(-step / 250)
        entry = {"step": step, "time": step / 9, "split": "train", "loss": 2.5 + 6 * decay + 0.12 * rng.normal()}
        entry |= {"learning_rate": 3e-4 * min(1, step / 100), "samples_per_second": 71 + rng.normal()}
        lines.append(entry)
        if step % 100 == 0:
            lines.append({"step": step, "time": step / 9, "split": "val", ar: 3 + 6 * decay, tf: 2.6 + 6 * decay})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 901, "lo')


def write_run(folder: Path, *, num_clips: int = 1, config: dict | None = None, score_file: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    default = {"recipe": "compression_tiny", "track": {"kind": "compression"}, "train": {"num_steps": 900, "seed": 0}}
    (folder / "config.json").write_text(json.dumps(config or default))
    write_journal(folder / "metrics.jsonl")
    (folder / "scores.json").write_text(json.dumps(score_file or scores()))
    for index in range(num_clips):
        write_clip(folder / "predictions" / f"clip_{index}.npz", index=index)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "night_one")


def report(*runs: Path, **options) -> tuple[str, Page]:
    out = runs[0].parent / "report.html"
    write_report(runs, out, **options)
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_a_whole_run_makes_a_whole_page(run: Path):
    text, page = report(run)
    assert LABEL in page.text
    for words in ("night_one", "compression_tiny", "lower is better", "higher is better", "nats/token", "8 recordings"):
        assert words in page.text
    assert "2.44 2.26 to 2.62" in page.text
    assert "\N{MINUS SIGN}0.77 \N{MINUS SIGN}0.89 to \N{MINUS SIGN}0.65 model better" in page.text
    assert "no clear difference" in page.text
    assert "model worse" in page.text
    assert "better on 1 of 3 metrics, worse on 1, no clear difference on 1" in page.text
    assert "every 7th of 56 held-out clips, in order" in page.text
    assert "sha256:41c7a9e2" in page.text
    assert "PSNR 24.0 dB" in page.text
    assert sum(a.get("class") == "curve" for _, a in page.tags) == 3
    assert re.search(
        r"nats/token train, teacher-forced [\d.]+ val, teacher-forced [\d.]+ val, autoregressive", page.text
    )
    assert len(text) < 8_000_000


def test_details_are_folded_into_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run", score_file=with_details(scores()))
    _, page = report(run)
    _, plain = report(write_run(tmp_path / "plain"))
    folded = page.parts("details", "detail")
    assert len(folded) == 1
    assert not plain.parts("details", "detail")
    (text,) = folded
    assert text.startswith("In detail: 18 more metrics")
    assert "metric model copy cell unigram unigram" in text
    assert "Cross-entropy, autoregressive, grid 3 nats/token, lower is better" in text
    assert "What each row measures Cross-entropy, autoregressive, grid 1 Of future grid 1 alone." in text
    row = text[text.index("Top-500 cross-entropy, tail, teacher-forced, grid 2") :].partition("grid 3")[0]
    assert re.findall(r"\d\.\d\d .*?\d\.\d\d to \d\.\d\d", row) == [
        "2.52 2.32 to 2.72",
        "3.32 model better 3.12 to 3.52",
        "2.42 model worse 2.22 to 2.62",
    ]
    # What is no detail is as it was.
    assert page.text.count("grid 3") == text.count("grid 3") == 18
    assert "better on 1 of 3 metrics, worse on 1, no clear difference on 1" in page.text
    assert len(page.parts("table", "scores")) == len(plain.parts("table", "scores")) == 3
    print_scores(json.loads((run / "scores.json").read_text()))
    printed = capsys.readouterr().out
    assert "grid 3" not in printed
    assert "18 more metrics in scores.json" in printed
    assert "PSNR of decoded frames" in printed
    print_scores(scores())
    assert "more metric" not in capsys.readouterr().out


def test_the_model_is_no_rival_of_itself(tmp_path: Path):
    content = scores()
    content["scores"].append(score("cross_entropy_autoregressive", "model_frozen_states", 2.3, 0.2, 0.1, 0.05))
    content["references"] = ["model_frozen_states"]
    _, page = report(write_run(tmp_path / "run", score_file=content))
    assert "model frozen states" in page.text
    assert "better on 1 of 3 metrics, worse on 1, no clear difference on 1" in page.text


def test_details_alone_are_scores_too(tmp_path: Path):
    content = with_details(scores())
    content["metrics"] = {name: metric for name, metric in content["metrics"].items() if metric.get("detail")}
    content["scores"] = [row for row in content["scores"] if row["metric"] in content["metrics"]]
    _, page = report(write_run(tmp_path / "run", score_file=content))
    assert "holds no scores" not in page.text
    assert len(page.parts("details", "detail")) == 1


def test_details_are_not_compared(tmp_path: Path):
    files = (with_details(scores()), scores())
    _, page = report(*(write_run(tmp_path / f"run_{i}", score_file=file) for i, file in enumerate(files)))
    (comparison,) = page.parts("section", "comparison")
    assert "PSNR of decoded frames" in comparison
    assert "grid" not in comparison


def test_one_quantity_has_one_chart(tmp_path: Path):
    names = ("cross_entropy_autoregressive", "cross_entropy_teacher_forced", "accuracy_autoregressive")
    names += ("accuracy_teacher_forced", "psnr", "cross_entropy_autoregressive_grid_1")
    lines = [{"step": s, "split": "train", "loss": 9 - s, "accuracy": 0.1, "gradient_norm": 1.0} for s in (1, 2, 3)]
    lines += [{"step": 3, "split": "val"} | dict.fromkeys(names, 0.5)]
    (tmp_path / "m").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shapes = {"unit": "nats/token", "higher_is_better": False, "description": ""}
    metrics = [
        Metric(name=names[0], title="Cross-entropy, autoregressive", **shapes),
        Metric(name=names[1], title="Cross-entropy, teacher-forced", **shapes),
        Metric(name=names[5], title="Cross-entropy, autoregressive, grid 1", detail=True, **shapes),
    ]
    first, *rest = curves(read_journal(tmp_path / "m"), track="compression", metrics=metrics)
    assert (first.title, first.unit) == ("Cross-entropy", "nats/token")
    labels = ["train, teacher-forced", "val, teacher-forced", "val, autoregressive"]
    assert [line.label for line in first.lines] == [line["label"] for line in first.data["lines"]] == labels
    assert [line["values"] for line in first.data["lines"]] == [[8.0, 7.0, 6.0], [0.5], [0.5]]
    assert [(line.colour, line.dashed) for line in first.lines] == [(1, False), (2, True), (2, False)]
    assert [(curve.title, len(curve.lines)) for curve in rest] == [("Accuracy", 3), ("Psnr", 1), ("Gradient norm", 1)]
    # Without scores there are no titles; a track that is not known has no names in common with its loss.
    (unnamed, *_) = curves(read_journal(tmp_path / "m"), track="compression")
    assert (unnamed.title, unnamed.unit, len(unnamed.lines)) == ("Cross entropy", "", 3)
    titles = [curve.title for curve in curves(read_journal(tmp_path / "m"), track="another", metrics=metrics)]
    assert titles == ["Loss", "Accuracy", "Cross-entropy", "Psnr", "Gradient norm"]


def test_nothing_is_fetched(run: Path):
    text, page = report(run)
    assert not re.search(r"(?:https?:)?//[\w.]+\.\w", re.sub(r"base64,[\w+/=]+", "", text))
    for _, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:"))
    assert "url(" not in text
    assert "@import" not in text


def test_scores_without_a_receipt_are_withheld(tmp_path: Path):
    run = write_run(tmp_path / "run", score_file=scores(receipt={}))
    text, page = report(run)
    assert "scores.json has no receipt" in page.text
    assert f"foreframe evaluate {run}" in page.text
    assert "2.44" not in text
    assert "PSNR" not in text
    assert LABEL not in page.text


def test_data_that_is_not_simulated_is_not_labelled(tmp_path: Path):
    real = scores()
    real["receipt"]["simulated"] = False
    assert LABEL not in report(write_run(tmp_path / "run", score_file=real))[1].text


def test_hostile_strings_stay_text(tmp_path: Path):
    hostile = scores(predictors={"copy": HOSTILE})
    hostile["receipt"]["hardware"] = HOSTILE
    hostile["metrics"]["accuracy"]["title"] = HOSTILE
    config = {"recipe": HOSTILE, "track": {"kind": HOSTILE}, "note": HOSTILE}
    run = write_run(tmp_path / "<b>run$(x)", config=config, score_file=hostile)
    with (run / "metrics.jsonl").open("a") as journal:
        journal.write("\n" + json.dumps({"step": 1, "split": HOSTILE, HOSTILE: 1.0}) + "\n")
    write_clip(run / "predictions" / "clip_0.npz", chosen=HOSTILE, segment=HOSTILE)
    text, page = report(run, title=HOSTILE)
    _, plain = report(write_run(tmp_path / "plain"))
    assert "alert('x')" not in text
    assert "onerror=alert(1)>" not in text
    assert HOSTILE in page.text
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert any(line["label"] == HOSTILE for block in page.json for line in block.get("lines", []))


def test_sprites_are_the_saved_frames(run: Path):
    arrays = write_clip(run / "predictions" / "clip_0.npz", num_context=5, num_future=30)
    _, page = report(run)
    (data,) = (block for block in page.json if "context" in block)
    assert (data["context"], data["future"], data["fps"], data["width"], data["height"]) == (5, 30, 30, 64, 64)
    for key in ("context", "truth", "prediction", "baseline_copy_last"):
        (sheet,) = page.sheets(key)
        array = arrays[key]
        columns = min(len(array), 24)
        assert sheet.shape[1] == columns * 64
        for index, frame in enumerate(array):
            row, column = divmod(index, columns)
            cell = sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
            wrong = np.abs(cell.astype(int) - frame).mean()
            assert wrong < 4, (key, index, wrong)
    (heat,) = page.sheets("error")
    expected = np.rint(difference(arrays["prediction"], arrays["truth"])).clip(0, 63)
    np.testing.assert_array_equal(heat[:64, 64 * 3 : 64 * 4], expected[3])
    np.testing.assert_array_equal(heat[64:128, 64 * 5 : 64 * 6], expected[29])
    errors = data["errors"]["prediction"]
    np.testing.assert_allclose(errors[7], difference(arrays["prediction"], arrays["truth"])[7].mean(), atol=0.01)


def test_frames_do_not_run_into_their_neighbours():
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[1] = 255
    sheet = decode(webp_sheet(frames, (64, 64), 88).uri)
    assert sheet[:, :64].max() < 40
    assert sheet[:, 64:128].min() > 215


def test_error_map_saturates_at_its_last_level():
    maps = np.array([[[0.0, 1.4, 63.0, 200.0]]], np.float32)
    np.testing.assert_array_equal(decode(map_sheet(maps, (4, 1)).uri), [[0, 1, 63, 63]])
    palette = np.array(error_palette()).reshape(64, 3)
    assert (np.diff(palette @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_large_frames_are_shrunk_and_said_so(run: Path):
    write_clip(run / "predictions" / "clip_0.npz", size=400, num_context=1, num_future=2)
    _, page = report(run)
    assert page.sheets("truth")[0].shape == (256, 512, 3)
    assert "400 × 400" in page.text  # noqa: RUF001


def test_clips_shrink_to_their_share(run: Path):
    saved = run / "predictions" / "clip_0.npz"
    full = draw_clip(read_clip(saved), quality=88, side=256).num_bytes
    (small,) = draw_clips([saved], max_bytes=full * 9 // 10)
    assert small.num_bytes < full


def test_further_panels_are_optional(run: Path):
    saved = run / "predictions" / "clip_0.npz"
    arrays = {name: array for name, array in np.load(saved).items() if name != "baseline_copy_last"}
    np.savez(saved, **arrays, reconstruction=arrays["truth"])
    keys = [a["data-key"] for tag, a in report(run)[1].tags if tag == "div" and "data-key" in a]
    assert keys == ["truth", "prediction", "error", "reconstruction"]


def panel_keys(page: Page) -> list[str | None]:
    return [a["data-key"] for tag, a in page.tags if tag == "div" and "data-key" in a]


def test_an_ensemble_shows_its_mean_a_member_and_its_spread(tmp_path: Path):
    run = write_sampling_run(tmp_path / "run")
    arrays = dict(np.load(run / "predictions" / "clip_0.npz"))
    text, page = report(run)
    main = ["truth", "prediction", "error", "sample", "spread", "baseline_copy_last", "reconstruction"]
    assert panel_keys(page) == [*main, "what_if_turning_left", "what_if_states_frozen"]
    for words in ("spread of the ensemble", "given a few frames of video", "error and spread in grey levels"):
        assert words in page.text
    (spread,) = page.sheets("spread")
    assert arrays["spread"].max() > 20
    np.testing.assert_array_equal(spread[:64, 64 * 15 : 64 * 16], arrays["spread"][15].clip(0, 63))
    for key in ("sample", "what_if_turning_left"):
        (sheet,) = page.sheets(key)
        assert np.abs(sheet[:64, 64 * 14 : 64 * 15].astype(int) - arrays[key][14]).mean() < 4
    (data,) = (block for block in page.json if "context" in block)
    assert (data["context"], data["future"], data["fps"], data["seconds"]) == (5, 16, 7.5, [])
    origins = {a["data-key"]: a["data-origin"] for _, a in page.tags if "data-origin" in a}
    assert {key for key, origin in origins.items() if origin == "of the prediction"} == {"error", "spread"}
    assert {a["data-key"] for _, a in page.tags if " map" in (a.get("class") or "")} == {"error", "spread"}
    # The page of a track without ensembles does not speak of them.
    _, plain = report(write_run(tmp_path / "plain"))
    assert not re.search("spread|sample alone|other states", plain.text)
    assert len(text) < 1_000_000


def test_what_ifs_stand_apart_and_have_no_error(tmp_path: Path):
    run = write_sampling_run(tmp_path / "run")
    _, page = report(run)
    heading = page.parts("h4", "what-if")
    assert heading == ["Same start, other states"]
    (strip,) = page.parts("div", "panels what-if")
    assert strip == "what if: turning left what if: states frozen"
    (main,) = page.parts("div", "panels")
    assert "what if" not in main
    (data,) = (block for block in page.json if "context" in block)
    measured = {"prediction", "sample", "baseline_copy_last", "reconstruction"}
    assert set(data["errors"]) == measured
    clip = draw_clip(read_clip(run / "predictions" / "clip_0.npz"), quality=80, side=64)
    assert {panel.key for panel in clip.panels if panel.errors and panel.trace} == measured
    assert [(panel.origin, panel.errors, panel.trace) for panel in clip.what_ifs] == [("predicted", None, "")] * 2
    assert sum(a.get("class") == "error-now" for _, a in page.tags) == len(measured)
    # They weigh, too.
    pictures = [clip.context, *(panel.sheet for panel in (*clip.panels, *clip.what_ifs))]
    assert clip.num_bytes == sum(len(sheet.uri) for sheet in pictures)


def test_a_file_may_word_its_panels(tmp_path: Path):
    labels = {"prediction": "mean of 20", "what_if_turning_left": HOSTILE, "absent": "nothing"}
    write_sampling_clip(tmp_path / "clip.npz", labels=labels)
    clip = draw_clip(read_clip(tmp_path / "clip.npz"), quality=80, side=64)
    spoken = [panel.label for panel in (*clip.panels, *clip.what_ifs)]
    assert spoken[:5] == ["truth", "mean of 20", "error", "sample", "spread of the ensemble"]
    assert spoken[5:] == ["copy last", "reconstruction", HOSTILE, "what if: states frozen"]


@pytest.mark.parametrize("num_context", [1, 17])
def test_one_future_frame_makes_a_player(tmp_path: Path, num_context: int):
    run = write_sampling_run(tmp_path / "run", num_future=1, num_context=num_context, seconds=1.97)
    text, page = report(run)
    (data,) = (block for block in page.json if "context" in block)
    assert (data["context"], data["future"], data["seconds"]) == (num_context, 1, [1.97])
    (slider,) = (a for tag, a in page.tags if tag == "input" and a.get("type") == "range")
    assert slider["max"] == str(num_context)
    # One value is no line: the numbers below the pictures say it.
    assert not any(tag == "polyline" and "trace" in (a.get("class") or "") for tag, a in page.tags)
    assert "line above the scrubber" not in page.text
    assert "truth, 1 future frame " in page.text + " "
    assert page.sheets("spread")[0].shape == (64, 64)
    assert [len(values) for values in data["errors"].values()] == [1] * 4
    now = re.search(r"--now-number:([\d.]+);", text)
    assert now
    assert float(now[1]) == pytest.approx(100 * (num_context - 0.5) / num_context, abs=1e-3)


def test_many_wrong_states_are_told_apart_and_are_no_rivals(tmp_path: Path):
    _, page = report(write_sampling_run(tmp_path / "run", num_clips=0))
    assert "Against the best trivial predictor the model is better on 4 of 4 metrics." in page.text
    tables = page.parts("table", "scores")
    assert len(tables) == 5
    for table in tables[:4]:
        assert (
            table.index("copy last") < table.index("model shuffled states") < table.index("model shuffled arms states")
        )
    assert "copy last" not in tables[4]
    assert re.search(r"Flow loss lower is better predictor", page.text)
    assert re.search(r"PSNR of one sample dB higher is better", page.text)
    assert not re.search(r"SSIM 1\b", page.text)
    figures = page.parts("figure", "curve")
    titles = ["Flow loss train", "PSNR dB val", "PSNR of one sample dB val", "SSIM val", "SSIM of one sample val"]
    assert [figure[: len(title)] for figure, title in zip(figures, titles, strict=False)] == titles
    assert re.match(r"Flow loss train [\d.]+ val [\d.]+ step 40", figures[0])
    assert figures[5].startswith("Gradient norm")
    _, both = report(*(write_sampling_run(tmp_path / name, num_clips=0) for name in ("one", "two")))
    (comparison,) = both.parts("section", "comparison")
    assert comparison.count("model shuffled arms states") == 5
    print_scores(sampling_scores())


def test_missing_pieces_name_the_command_that_makes_them(tmp_path: Path):
    run = tmp_path / "bare run"
    run.mkdir()
    (run / "config.json").write_text('{"recipe": "sampling_tiny", "track": {"kind": "sampling"}}')
    _, page = report(run)
    assert f"Not evaluated yet. To score it: foreframe evaluate '{run}'" in page.text
    assert f"foreframe train sampling_tiny --out '{run}'" in page.text
    assert "No saved predictions" in page.text
    assert LABEL not in page.text


def test_runs_of_one_track_stand_side_by_side(tmp_path: Path):
    other = scores()
    other["receipt"]["dataset"] = {"fingerprint": "sha256:other"}
    runs = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", score_file=other)]
    _, page = report(*runs)
    assert "Side by side track compression" in page.text
    assert "not scored on the same clips" in page.text
    assert "a/run" in page.text
    assert "b/run" in page.text
    assert page.text.count(LABEL) == 2
    assert page.text.count("compression_tiny, simulated data") == 2
    _, page = report(runs[0], write_run(tmp_path / "c"))
    assert "not scored on the same clips" not in page.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "is not a JSON object"),
        ("scores.json", b"\xff\xfe", "cannot be read as JSON"),
        ("scores.json", json.dumps(scores(version=9)).encode(), "version 9"),
        ("scores.json", json.dumps(scores(scores=[{"metric": "accuracy"}])).encode(), "run it again"),
        ("scores.json", json.dumps(scores(metrics={})).encode(), "does not describe"),
        ("predictions/clip_0.npz", b"PK\x03\x04 torn", "clip_0.npz: cannot be read"),
        (
            "predictions/clip_0.npz",
            b"\x93NUMPY\x01\x00" + b"v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }".ljust(120),
            "clip_0",
        ),
        ("predictions/clip_0.npz", b"", "clip_0.npz: cannot be read"),
    ],
)
def test_broken_files_are_named_in_one_line(run: Path, name: str, content: bytes, message: str):
    (run / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        report(run)
    assert "\n" not in str(caught.value)
    assert str(run / name) in str(caught.value)


def test_arrays_that_do_not_fit_are_named(tmp_path: Path):
    arrays = write_clip(tmp_path / "clip.npz")
    for change, message in (
        ({"prediction": arrays["prediction"][:2]}, "prediction has shape"),
        ({"truth": arrays["truth"].astype(np.float32)}, "truth is float32"),
        ({"context": arrays["context"][:0]}, "context is uint8"),
        ({"meta": np.array([{}], dtype=object)}, "cannot be read"),
    ):
        np.savez(tmp_path / "bad.npz", **(arrays | change))
        with pytest.raises(InputError, match=message):
            read_clip(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sample", lambda a: a[:2], r"sample has shape \(2, 64, 64, 3\), truth has"),
        ("sample", lambda a: a.astype(np.float32), "sample is float32"),
        ("spread", lambda a: np.stack([a] * 3, axis=3), r"spread is uint8 .* must be uint8 \(frames, height, width\)"),
        ("spread", lambda a: a.astype(np.float16), "spread is float16"),
        ("spread", lambda a: a[:, :32], r"spread has shape \(4, 32, 64\), truth has"),
        ("what_if_turning_left", lambda a: a[..., :2], r"what_if_turning_left is uint8 \(4, 64, 64, 2\)"),
        ("what_if_turning_left", lambda a: a[0], r"what_if_turning_left is uint8 \(64, 64, 3\)"),
        ("what_if_states_frozen", lambda a: a[:3], "what_if_states_frozen has shape"),
    ],
)
def test_arrays_of_an_ensemble_that_do_not_fit_are_named(tmp_path: Path, name: str, change, message: str):
    arrays = write_sampling_clip(tmp_path / "clip.npz", num_future=4)
    np.savez(tmp_path / "clip.npz", **(arrays | {name: change(arrays[name])}))
    with pytest.raises(InputError, match=message) as caught:
        read_clip(tmp_path / "clip.npz")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'clip.npz'}: ")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"labels": ["mean"]}, "labels in meta must be an object of texts"),
        ({"labels": {"prediction": 3}}, "labels in meta must be an object of texts"),
        ({"labels": {"prediction": " "}}, "labels in meta must be an object of texts"),
        ({"seconds": 2.0}, "seconds in meta must be 3 rising times"),
        ({"seconds": [0.1, 0.2]}, "seconds in meta must be 3 rising times"),
        ({"seconds": [0.1, "2", 3]}, "seconds in meta must be 3 rising times"),
        ({"seconds": [0.1, float("nan"), 3]}, "meta cannot be read as JSON .NaN is no number"),
        ({"seconds": [0.1, 0.3, 0.2]}, "seconds in meta must be 3 rising times"),
    ],
)
def test_words_and_times_that_do_not_fit_are_named(tmp_path: Path, meta: dict, message: str):
    write_sampling_clip(tmp_path / "clip.npz", num_future=3, **meta)
    with pytest.raises(InputError, match=message):
        read_clip(tmp_path / "clip.npz")
    # The last frame may be there twice.
    write_sampling_clip(tmp_path / "clip.npz", num_future=3, seconds=[1, 2.0, 2.0])
    assert read_clip(tmp_path / "clip.npz").seconds == (1.0, 2.0, 2.0)


def test_wrong_paths_are_usage_errors(run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no such run folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no run folder given"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        write_report([run], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([run], tmp_path / "file" / "report.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        report(tmp_path / "empty")


def test_the_page_appears_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch):
    out = run / "report.html"
    out.write_text("the old page")

    def torn(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", torn)
        with pytest.raises(OSError, match=r"No space left on device: '.*report\.html'"):
            write_report([run], out)
    assert out.read_text() == "the old page"
    assert not list(run.glob(".*.partial"))
    (run / ".report.html.partial").write_text("of a killed process, longer than any page" * 100_000)
    write_report([run], out)
    assert out.read_text().startswith("<!doctype html>")
    assert out.read_text().endswith("</html>\n")
    assert not list(run.glob(".*.partial"))
    os.mkfifo(run / "pipe")
    with pytest.raises(UsageError, match="is a pipe or a device"):
        write_report([run], run / "pipe")


def test_journal_keeps_what_it_can_read(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "loss": NaN}', "torn by a ki", '{"step": 1, "loss": 2.0}', '{"st']
    path.write_text("\n".join(lines))
    journal = read_journal(path)
    assert journal.curves == {"loss": {"train": {1: 2.0}}}
    assert (journal.num_unreadable, journal.num_not_finite) == (1, 1)
    huge = "9" * 400
    path.write_text(f'{{"step": 1, "loss": {huge}}}\n{{"step": {huge}, "loss": 1}}\n{{"step": "{huge}", "loss": 1}}\n')
    journal = read_journal(path)
    assert (journal.curves, journal.num_unreadable, journal.num_not_finite) == ({}, 2, 1)


def test_numbers_of_any_size_are_drawn(tmp_path: Path):
    path, values = tmp_path / "metrics.jsonl", (1e300, -1e300, 1e308, -1e308)
    path.write_text("".join(f'{{"step": {10**power}, "loss": {value}}}\n' for power, value in enumerate(values)))
    journal = read_journal(path)
    assert journal.num_not_finite == 2
    assert len(curves(journal)) == 1
    for mean, high in ((1e20, None), (1e308, 1e308), (-1e300, 1e300), (0.1, 0.1 + 1e-12), (0.0, 5e-324)):
        entry = {"predictor": "model", "metric": "loss", "mean": mean, "low": mean, "high": high}
        content = {"version": 1, "receipt": {"seed": 0}, "metrics": {"loss": {"higher_is_better": False}}}
        (tmp_path / "scores.json").write_text(json.dumps({**content, "scores": [entry]}))
        scores = read_scores(tmp_path / "scores.json")
        assert scores is not None
        (table,) = metric_tables(scores)
        assert table.rows[0].is_model


def test_long_curves_are_averaged_and_flat_ones_drawn(tmp_path: Path):
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    few = downsample(points)
    assert len(few) == 400
    np.testing.assert_allclose([y for _, y in few], 0.5, atol=0.05)
    (tmp_path / "m").write_text("".join(f'{{"step": {s}, "split": "val", "loss": 1.0}}\n' for s in (5, 10)))
    (curve,) = curves(read_journal(tmp_path / "m"))
    assert [line.label for line in curve.lines] == ["val"]
    assert "nan" not in curve.lines[0].points


def test_numbers_read_well():
    minus = "\N{MINUS SIGN}"
    assert number(-1234.5, 1) == f"{minus}1,234.5"
    assert number(-0.001, 2) == "0.00"
    assert signed(0.25, 1) == "+0.2"
    assert decimals_for([Interval(mean=23.0, low=22.6, high=23.4)]) == 2
    assert decimals_for([Interval(mean=0.0412, low=None, high=None)]) == 4
    assert nice_ticks(0.13, 0.94, 4) == [0.2, 0.4, 0.6, 0.8]
    assert [short(value) for value in (0, 12000, 0.0003, 0.25)] == ["0", "12k", f"3e{minus}4", "0.25"]
    assert verdict(Interval(mean=-1, low=-2, high=-0.1), higher_is_better=False) == "better"
    assert verdict(Interval(mean=-1, low=-2, high=0.0), higher_is_better=False) == "unclear"
