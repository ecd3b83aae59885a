"""README and manual: snippets run, commands and links lead somewhere, generated parts are fresh."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forced import Force

import fastmaml
from benchmarks import __main__ as benchmarks
from benchmarks import devices
from docs import hooks, layers, picture
from fastmaml import cli, losses
from fastmaml.tracing import ops

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README_BUDGET = 130
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "csrc/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted(DOCS.glob("*.md"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SNIPPET = re.compile(r"(?:<!-- needs: (.+?) -->\n)?```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# What a snippet may need, and why it cannot have it here.
NEEDS = {"a CUDA device": devices.absence}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets() -> Iterator[Any]:
    """A page's snippets by what they need: (page, need, their code)."""
    for page in PAGES:
        by_need: dict[str, list[str]] = {}
        for need, code in SNIPPET.findall(page.read_text()):
            by_need.setdefault(need, []).append(code)
        for need, codes in by_need.items():
            yield pytest.param(need, codes, id=f"{name(page)} {need}".strip())


@pytest.mark.parametrize(("need", "codes"), [*snippets()])
def test_snippets_run(need: str, codes: list[str], force: Force) -> None:
    """Those of a page one after another in one namespace, as a reader would type them."""
    absence = NEEDS[need]() if need else None
    if absence:
        pytest.skip(f"the snippet needs {need}: {absence}")
    force(all_threads=False)
    namespace: dict[str, Any] = {}
    for code in codes:
        exec(compile(code, "<snippet>", "exec"), namespace)


def test_the_readme_has_an_example_and_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_BUDGET
    assert "fastmaml.meta_step(" in SNIPPET.findall(text)[0][1]


def test_the_api_page_names_what_there_is() -> None:
    named = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert named
    for path in named:
        module, _, last = path.rpartition(".")
        try:
            found: Any = importlib.import_module(path)
        except ModuleNotFoundError:
            found = getattr(importlib.import_module(module), last)
        assert found.__doc__, path


# --- commands -------------------------------------------------------------------------------------


def mentioned(page: Path) -> Iterator[list[str]]:
    """The words of what a page shows as code, line by line of blocks and span by span of text."""
    text = page.read_text()
    blocks = [code for language, code in FENCED.findall(text) if language != "python"]
    text = FENCED.sub("", text)
    shown = [line for block in blocks for line in block.splitlines()]
    shown += re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    shown += re.findall(r"`([^`]+)`", re.sub(r"^    \S.*$", "", text, flags=re.MULTILINE))
    for line in shown:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # no command: an apostrophe, say
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


def all_options(parser: argparse.ArgumentParser) -> set[str]:
    """Those of a parser and of its subcommands."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= all_options(command)
    return found


def targets() -> set[str]:
    """What the Makefile can make."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


def is_command(words: list[str]) -> bool:
    """Whether the words are a command of ours; SystemExit where it would not run."""
    if words[0] == "make" and len(words) > 1:
        if not {word for word in words[1:] if "=" not in word} <= targets():
            raise SystemExit(2)
    elif words[:3] == ["python", "-m", "benchmarks"]:
        benchmarks.parsed(words[3:])
    elif words[:2] == ["python", "-m"] and words[2].startswith("docs."):
        importlib.import_module(words[2]).arguments_parser().parse_args(words[3:])
    elif words[:2] == ["fastmaml", "bench"]:
        benchmarks.parsed(words[2:])
    elif words[0] == "fastmaml" and len(words) > 1:
        # A command alone is a mention, which may lack what a call must have.
        cli._parser().parse_args([*words[1:], *(["--help"] if len(words) == 2 else [])])
    else:
        return False
    return True


def is_refused(words: list[str]) -> bool:
    """Whether the words are a command of ours that would not run."""
    try:
        is_command(words)
    except SystemExit as end:
        return end.code != 0
    return False


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = all_options(cli._parser()) | all_options(benchmarks._parser())
    for words in mentioned(page):
        assert not is_refused(words), f"{shlex.join(words)}: {capsys.readouterr().err}"
        if words[0].startswith("--"):
            assert words[0] in options, f"no command has the option {words[0]}"


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "fastmaml train sinusoid --no-such-option",
        "fastmaml fly",
        "fastmaml bench --no-such-option",
        "python -m benchmarks nothing",
        "python -m docs.layers --no-such-option",
    ],
)
def test_commands_that_do_not_exist_are_found(line: str) -> None:
    assert is_refused(shlex.split(line))


def test_commands_are_found_in_the_text() -> None:
    commands = [shlex.join(w) for w in mentioned(DOCS / "experiments.md") if is_command(w)]
    assert "fastmaml train sinusoid --no-baseline --threads 1" in commands
    assert "python -m docs.picture" in commands


# --- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What its headings can be linked by."""
    said = hooks.INCLUDE.match(page.read_text())
    text = FENCED.sub("", (ROOT / said[1] if said else page).read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of each link that leads to no other site."""
    found = [link.partition("#") for link in LINK.findall(FENCED.sub("", text)) if ":" not in link]
    return [(path, anchor) for path, _, anchor in found]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in relative_links(page.read_text()):
        target = page.parent / path if path else page
        assert target.is_file(), f"{name(page)} links to {path}, which is not there"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {path}#{anchor}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name)
def test_links_stay_within_the_site(page: Path) -> None:
    """Also those of files that lie elsewhere in the tree and are shown as pages."""
    text = page.read_text()
    said = hooks.INCLUDE.match(text)
    meta = {"include": said[1]} if said else {}
    shown = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(page)), meta=meta)
    text = hooks.on_page_markdown(text, page=shown)
    for path, _ in relative_links(text):
        target = (page.parent / path).resolve()
        assert target.is_relative_to(DOCS), f"{name(page)} leads out of the site to {path}"
        assert target.is_file()


# --- what no hand writes --------------------------------------------------------------------------


def test_layers_are_those_of_the_tracer() -> None:
    assert layers.main(["--check"]) == 0, "run `python -m docs.layers` and commit docs/layers.md"
    text = (DOCS / "layers.md").read_text()
    calls = [ops.function_name(f) for f in (*ops.FUNCTIONS, *ops.METHODS)]
    last = [re.split(r"\.(?:special_)?", call)[-1] for call in calls]
    assert [call for call in last if not re.search(rf"`\w+(\.\w+)*\.{call}`", text)] == []
    assert [loss for loss in losses._NAMED if f'`"{loss}"`' not in text] == []
    for layer in ("Linear", "Conv2d", "BatchNorm2d", "LayerNorm", "MaxPool2d", "ReLU", "Flatten"):
        assert f"`nn.{layer}`" in text
    assert "`nn.Softmax`" not in text


def test_the_picture_shows_the_committed_numbers() -> None:
    numbers = json.loads(picture.NUMBERS.read_text())
    assert picture.draw(numbers) == picture.PICTURE.read_text()


def test_the_api_names_all_that_is_public() -> None:
    text = (DOCS / "api.md").read_text()
    shown = set(re.findall(r"fastmaml\.(\w+)$", text, re.MULTILINE))
    assert set(fastmaml.__all__) - shown == set()
