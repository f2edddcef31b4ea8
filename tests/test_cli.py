"""The command line: what a person sees, and the exit status a script sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import foreframe
from foreframe.cli import run
from foreframe.config import load_config, save_config, to_json
from foreframe.errors import InputError
from foreframe.recipes import RECIPES
from foreframe.runs import sample_data
from foreframe.sim.generate import SimulateConfig, _described

SOURCE = Path(foreframe.__file__).parents[1]


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


FOREFRAME = [sys.executable, "-c", "from foreframe.cli import main; main()"]


def shell(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's line in which `$@` is the command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *FOREFRAME, *arguments], capture_output=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_fails_is_told_in_one_line_or_not_at_all(unbuffered: str) -> None:
    for script, status, line in [
        ('"$@" | true; exit ${PIPESTATUS[0]}', 0, b""),
        ('"$@" > /dev/full', 1, b"foreframe: standard output: No space left on device\n"),
        ('"$@" >&-', 0, b""),
        ('"$@" 2>&-', 0, b""),
    ]:
        done = shell(script, "recipes", PYTHONUNBUFFERED=unbuffered)
        assert (done.returncode, done.stderr) == (status, line), script
    assert shell('"$@" >&- 2>&-', "data", "info", "/nowhere").returncode == 2
    assert shell('"$@" 2> /dev/full', "data", "info", "/nowhere").returncode == 2


def test_a_closed_output_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    code = (
        "import os; from foreframe.cli.output import prepare_streams as p; p(); print('said'); print(os.open('f', 577))"
    )
    command = ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    assert (tmp_path / "f").read_bytes() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_write_is_replaced(encoding: str, raw_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ü 雪"
    folder.symlink_to(raw_root / "train")
    done = shell('"$@"', "data", "info", str(folder), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "? ?" in done.stdout.decode(encoding) or "ü ?" in done.stdout.decode(encoding)


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f'cd {gone}; rmdir {gone}; "$@"', "recipes")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1].startswith("foreframe: the working directory is not there any more")


@pytest.mark.parametrize("arguments", [["recipes"], ["train", "sampling_tiny", "--help"], ["evaluate", "--help"]])
def test_what_needs_no_torch_imports_none(arguments: list[str]) -> None:
    code = f"import sys, foreframe.cli as c; c.run({arguments!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."), "12 bytes were"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deep"),
        (ValueError("odd"), "ValueError in "),
    ],
)
def test_an_error_of_a_library_is_one_line(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(RECIPES, "broken", fail)
    status, line = fault(["plan", "broken"], capsys)
    assert status == 1
    assert says in line


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "broken", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["plan", "broken"])


def test_settings_that_cannot_meet_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for frames in ("stride2", "all"):
        arguments = ["plan", "sampling_tiny", "--track.frames", frames, "--track.model.state-rows", "full"]
        status, line = fault(arguments, capsys)
        assert status == 2
        assert f"frames {frames} needs model.state_rows downsample" in line


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--optim.gradient-clip", "inf", "gradient_clip must be from 0 to 9007199254740992, not inf"),
        ("--train.checkpoint-every", "9" * 40, "checkpoint_every must be from 1 to 9007199254740992, not 999"),
        ("--train.num-steps", "100000000", "num_steps must be from 1 to 99999999"),
        ("--train.num-workers", "1000000000", "num_workers must be from 0 to 1024"),
        ("--version", "2", "version must be 1, not 2"),
    ],
)
def test_settings_that_could_not_be_read_again_are_refused(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = fault(["plan", "compression_tiny", option, value], capsys)
    assert status == 2
    assert says in line


EDITS: list[tuple[str, Any, str]] = [
    ("track.model.width", 161, "track.model: width 161 does not divide"),
    ("track.model.width", "wide", "track.model.width: Input should be a valid integer"),
    ("track.model.dropout", [[]], "track.model.dropout"),
    ("track.kind", "fancy", "track.kind: must be one of compression, reconstruction, sampling, not 'fancy'"),
    ("track.kind", [[1]], "track.kind: must be one of"),
    ("track", 3, "track: must be an object, not 3"),
    ("data", 5, "data: must be a folder, sample or null"),
    ("optim.learning_rat", 1, "optim.learning_rat is no field of this build's configuration; optim.learning_rate is"),
    ("train.num_steps", "x" * 5000, "train.num_steps"),
    ("version", "y" * 5000, "configuration version"),
    ("z" * 5000, 1, "is no field"),
]


@pytest.mark.parametrize(("field", "value", "says"), EDITS, ids=[f"{edit[0][:30]}-{n}" for n, edit in enumerate(EDITS)])
def test_an_edited_configuration_is_told_by_its_field(field: str, value: Any, says: str, tmp_path: Path) -> None:
    content: Any = json.loads(json.dumps(to_json(RECIPES["compression_tiny"]())))
    *parents, last = field.split(".")
    place = content
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load_config(tmp_path)
    line = str(caught.value)
    assert says in line
    assert len(line) - len(str(tmp_path)) < 300


@pytest.mark.parametrize("text", ["[" * 10_000, '{"version": ' + "9" * 400 + "}", "{", "[]", '{"version": 1}'])
def test_a_configuration_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_config(tmp_path)


def test_a_run_that_was_meant_is_named(compression_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint,) = sorted((compression_run / "checkpoints").glob("step_*"))[-1:]
    for given in (checkpoint, compression_run / "config.json", compression_run / "checkpoints"):
        for arguments in (["evaluate"], ["report"], ["export", "--out", "x"]):
            status, line = fault([arguments[0], str(given), *arguments[1:]], capsys)
            assert status in (1, 2)
            assert f"the run {compression_run} is meant" in line
    for command in ("evaluate", "report"):
        assert f"the run {compression_run}" in fault([command, str(compression_run.parent)], capsys)[1]


def test_a_shipped_run_has_no_page_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, line = fault(["report", "compression_tiny"], capsys)
    assert status == 2
    assert "foreframe export compression_tiny --out RUN" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data", "encode", "{raw}", "--out", "{out}", "--size", "30"], "30 pixels do not divide into cells of 8"),
        (
            ["data", "encode", "{raw}", "--out", "{out}", "--encoder", "autoencoder_tiny", "--size", "60"],
            "do not divide",
        ),
        (["data", "encode", "{raw}", "--out", "{out}", "--encoder", "autoencoder_tiny", "--stride", "0"], "stride 0"),
        (["data", "check", "{raw}", "--vocab-size", "0"], "vocab_size must be from 1"),
        (["data", "sheet", "{raw}", "--size", "1000000"], "more than 100 million pixels"),
        (["train", "sampling_tiny", "--out", "{out}", "--track.size", "60"], "60 pixels do not divide"),
        (
            ["train", "compression_tiny", "--out", "{out}", "--track.model.vocab-size", "64"],
            "4000 tokens and the model 64",
        ),
    ],
)
def test_values_that_only_the_work_can_judge_are_usage(
    arguments: list[str], says: str, raw_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [one.format(raw=raw_root / "train", out=tmp_path / "out") for one in arguments]
    assert run(named) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert says in error[0]


def test_a_place_for_a_picture_is_tried_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for out in (tmp_path / "missing" / "sheet.png", Path("/proc/sheet.png")):
        status, line = fault(["data", "sheet", "/nowhere", "--out", str(out)], capsys)
        assert status == 2
        assert f"{out}: cannot be written" in line


def test_a_simulation_that_is_made_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sim").mkdir()
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "sim" / "config.json").write_text(json.dumps(_described(SimulateConfig(seed=1))))
    status, line = fault(["data", "simulate", str(tmp_path), "--seed", "2"], capsys)
    assert status == 2
    assert "holds another simulation: seed is 1 there and 2 here" in line
    status, line = fault(["data", "simulate", str(tmp_path), "--seed", "1"], capsys)
    assert status == 2
    assert "shard 0 is not whole" in line


def test_a_folder_whose_weights_could_not_be_read_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = os.fsdecode(os.fsencode(tmp_path / "r") + b"\xff")
    for arguments in (["train", "compression_tiny"], ["demo"], ["export", "compression_tiny"]):
        status, line = fault([*arguments, "--out", out], capsys)
        assert status == 2
        assert "is not UTF-8" in line
    assert not list(tmp_path.iterdir())


def test_the_word_sample_means_the_data_inside_the_package(
    capsys: pytest.CaptureFixture[str], compression_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given: list[Any] = []

    def seen(run: Path, *, data: Any, **_: Any) -> Any:
        given.append(data)
        raise InputError("seen")

    monkeypatch.setattr("foreframe.runs.evaluate_run", seen)
    for word in ("sample", "./sample"):
        assert "seen" in fault(["evaluate", str(compression_run), "--data", word], capsys)[1]
    assert given == [sample_data(), Path("sample")]


def test_guidance_asked_of_a_model_without_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_config(tmp_path, RECIPES["sampling_tiny"]())
    status, line = fault(["evaluate", str(tmp_path), "--sampler.guidance-scale", "2"], capsys)
    assert status == 2
    assert "needs a model trained with guidance" in line
