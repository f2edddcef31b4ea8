"""The command line: what a person sees, and the exit status a script sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreframe.cli import run


def fault(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and the one line on standard error; more than one line fails."""
    status = run(arguments)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    assert lines[0].startswith("foreframe: ")
    assert "Traceback" not in lines[0]
    return status, lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "nonsense: no such command; there are: demo"),
        (["data", "nonsense"], "data nonsense: no such command"),
        (["data", "info", "/nowhere"], "/nowhere: does not exist"),
        (["data", "info"], "folder"),
        (["data", "encode", "/nowhere", "--out", "x"], "/nowhere: does not exist"),
        (["data", "simulate", "x", "--size", "300"], "size must be 256 or 512, not 300"),
        (["train", "nonsense", "--out", "x"], "nonsense: no such recipe; there are: compression_136m"),
        (["train", "compression_tiny"], "--out"),
        (["train", "compression_tiny", "--out", "x", "--nonsense", "3"], "--nonsense"),
        (["train", "compression_tiny", "--out", "x", "--train.num-steps", "many"], "--train.num-steps"),
        (["train", "compression_tiny", "--out", "x", "--train.num-steps", "-1"], "num_steps"),
        (["train", "compression_tiny", "--out", "x", "--track.model.width", "131"], "does not divide into 2 heads"),
        (["train", "compression_tiny", "--out", "x", "--data", "/nowhere"], "/nowhere: does not exist"),
        (["train", "compression_tiny", "--out", "/proc/x"], "/proc/x: cannot be written"),
        (["evaluate", "/nowhere"], "/nowhere: no such run folder"),
        (["report", "/nowhere"], "/nowhere"),
        (["export", "/nowhere", "--out", "x"], "/nowhere: no such run folder"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, line = fault(arguments, capsys)
    assert says in line
    assert status == 2
    assert list(tmp_path.iterdir()) == []


def test_faulty_input_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, compression_run: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fault(["data", "info", str(empty)], capsys)[0] == 1
    assert fault(["data", "encode", str(empty), "--out", str(tmp_path / "x")], capsys)[0] == 1
    assert fault(["train", "compression_tiny", "--out", str(tmp_path / "x"), "--data", str(empty)], capsys)[0] == 1
    assert fault(["evaluate", str(empty)], capsys)[0] == 1
    assert fault(["evaluate", str(compression_run), "--data", str(empty)], capsys)[0] == 1
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    status, line = fault(["evaluate", str(broken)], capsys)
    assert status == 1
    assert "config.json: cannot be read" in line
    config = json.loads((compression_run / "config.json").read_text())
    config["train"]["num_steps"] = "many"
    (broken / "config.json").write_text(json.dumps(config))
    status, line = fault(["evaluate", str(broken)], capsys)
    assert status == 1
    assert "train.num_steps" in line


def test_output_in_the_place_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        status, line = fault(["train", "compression_tiny", "--out", str(out)], capsys)
        assert status == 2
        assert str(out) in line
        assert fault(["demo", "--out", str(out)], capsys)[0] == 2
    assert file.read_text() == "mine"


def test_whole_road(raw_root: Path, tokenizer_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens, trained, page = tmp_path / "tokens", tmp_path / "run", tmp_path / "report.html"
    encode = ["data", "encode", str(raw_root), "--out", str(tokens), "--encoder", str(tokenizer_run), "--size", "32"]
    assert run(encode) == 0
    assert run(["data", "info", str(tokens / "train"), "--json"]) == 0
    assert '"grid": "4x4"' in capsys.readouterr().out
    train = ["train", "compression_tiny", "--out", str(trained), "--data", str(tokens)]
    train += ["--track.tokenizer", str(tokenizer_run), "--track.model.vocab-size", "12", "--track.model.grid", "4"]
    train += ["--track.model.width", "16", "--track.model.num-layers", "1", "--train.num-steps", "4"]
    train += ["--train.validate-every", "2", "--train.checkpoint-every", "2"]
    assert run(train) == 0
    assert (trained / "checkpoints" / "step_00000004" / "manifest.json").is_file()
    assert run(train) == 0  # Nothing left to do.
    assert run(["evaluate", str(trained), "--data", str(raw_root), "--inference.num-shown", "2"]) == 0
    assert run(["export", str(trained), "--out", str(tmp_path / "exported")]) == 0
    assert run(["report", str(trained), str(tmp_path / "exported"), "--out", str(page)]) == 0
    assert "Cross-entropy, autoregressive" in page.read_text()
    assert len(list((trained / "predictions").glob("*.npz"))) == 2


def test_recipes_are_listed_and_help_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    assert "compression_136m" in capsys.readouterr().out
    assert run(["--help"]) == 0
    assert run(["train", "compression_tiny", "--help"]) == 0
    assert "--track.model.num-layers" in capsys.readouterr().out
