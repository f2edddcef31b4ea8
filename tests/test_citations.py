"""Sources that the code cites: each exists, and what only the team's script says is not called the report's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import foreframe
from foreframe.tracks.config import SamplingConfig
from foreframe.tracks.sampling import SamplingTrack

SOURCE = Path(foreframe.__file__).parent
FACTS = (Path(__file__).parents[1] / "docs" / "challenge-facts.md").read_text()

REPORT_SECTIONS = {"1", "2", "2.1", "2.2", "2.3", "2.4", "3", "3.1", "3.2", "3.3", "3.4", "4"}
_NUMBER = r"\d+(?:\.\d+)?"


def texts() -> list[tuple[str, str]]:
    """Every file of the package, lines joined, so that no citation is broken by one."""
    return [(path.name, re.sub(r"\s+", " ", path.read_text())) for path in sorted(SOURCE.rglob("*.py"))]


def field_doc(owner: type, name: str) -> str:
    """The string below a field, its lines joined."""
    path = SOURCE / Path(*owner.__module__.split(".")[1:]).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == name:
                    assert isinstance(text, ast.Expr)
                    return re.sub(r"\s+", " ", ast.literal_eval(text.value))
    raise AssertionError(f"{owner.__name__} has no documented field {name}")


def test_cited_facts_exist() -> None:
    headings = set(re.findall(rf"^##+ ({_NUMBER}) ", FACTS, re.M)) | set(re.findall(r"^\| (7\.\d+) \|", FACTS, re.M))
    cited = 0
    for name, text in texts():
        for listed in re.findall(rf"challenge-facts ({_NUMBER}(?:(?:, | and | to ){_NUMBER})*)", text):
            for number in re.findall(_NUMBER, listed):
                assert number in headings, f"{name} cites challenge-facts {number}, which is not there"
                cited += 1
    assert cited > 50


def test_cited_sections_of_the_report_exist() -> None:
    for name, text in texts():
        for number in re.findall(rf"report(?:'s)?,? \(?section ({_NUMBER})", text):
            assert number in REPORT_SECTIONS, f"{name} cites section {number} of the report"


def test_cited_sources_exist() -> None:
    tags = set(re.findall(r"^\| \[(\w+)\] \|", FACTS, re.M))
    assert "team" in tags
    for name, text in texts():
        for tag in re.findall(r"challenge-facts [\d., ]*\[(\w+)\]", text):
            assert tag in tags, f"{name} cites [{tag}], which is no source"


@pytest.mark.parametrize(
    ("doc", "section", "value"),
    [
        (field_doc(SamplingConfig, "state_dropout"), "5.6", "0.1"),
        (re.sub(r"\s+", " ", SamplingTrack.predict.__doc__ or ""), "5.9", "ten steps"),
    ],
)
def test_what_the_teams_script_says_is_tagged_so(doc: str, section: str, value: str) -> None:
    assert value in doc
    assert f"(challenge-facts {section}, [team])" in doc
    assert not re.search(rf"report('s|:)? (own )?({value}|validation)", doc, re.I)


def test_scheduled_sampling_is_cited_where_the_report_speaks_of_it() -> None:
    from foreframe.tracks.config import CompressionConfig

    assert "(section 3.4)" in field_doc(CompressionConfig, "scheduled_sampling")
