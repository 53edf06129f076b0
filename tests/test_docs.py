"""The pages say what the program does: what they name exists, what they write is understood, generated parts are fresh.

tests/test_transcripts.py runs what they show.
"""

import functools
import json
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import generate
import pytest
from command_lines import calls, options, understood
from conftest import Outcome
from pages import PAGES, ROOT, WRITTEN, Block, Page

from slmchat import cli, settings
from slmchat.catalog import registry
from slmchat.personas import Persona

# Options of other programs that the pages name.
FOREIGN = {
    "--force-reinstall", "--no-cache-dir", "--no-compile", "--no-deps", "--only-binary", "--extra-index-url",
    "--platform", "--python-version", "--system-site-packages",  # pip and venv
    "--install",  # xcode-select
    "--jobs", "--arch",  # .ci/wheel
    "--repeat", "--only", "--patience", "--runs",  # the benchmarks
    "--save",  # /set in the chat
    "--multiple-choice",  # llama-perplexity
    "--now", "--user",  # systemctl, journalctl
    "--basetemp", "--hypothesis-seed",  # pytest
}  # fmt: skip
# Languages of blocks in which no line of shell stands.
NO_SHELL = {"toml", "pycon", "python", "text"}


def _id(page: Page) -> str:
    return page.name


def _shell_lines(page: Page) -> list[str]:
    """Every line of a block that names slm, joined where a backslash ends it."""
    lines = "\n".join(block.text for block in page.blocks if block.language not in NO_SHELL).replace("\\\n", " ")
    return [line.strip().removeprefix("$ ") for line in lines.splitlines() if re.search(r"(^|[\s(/])slm\s", line)]


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pages_are_fresh(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert text == generate.PAGES[page](text), f"docs/{page} is stale: run `python .docs/generate.py`"


def test_every_command_line_is_understood() -> None:
    """Of a command that is named in a sentence (`slm pull`, `slm batch -o`), what it needs besides may be missing."""
    wrong = []
    for page in WRITTEN:
        lines = [(line, False) for line in _shell_lines(page)]
        lines += [(span, True) for span in page.spans if span.startswith("slm ")]
        for line, is_name in lines:
            for words in calls(line):
                try:
                    understood(words)
                except cli._UsageError as error:
                    told = f"{type(error).__name__}: {error}"
                    if not (is_name and re.search(r"Missing parameter|requires an argument", told)):
                        wrong.append(f"{page.name}: {line}: {told}")
    assert wrong == []


def test_every_option_exists() -> None:
    known = options() | FOREIGN
    named = [
        (page.name, name)
        for page in WRITTEN
        for span in page.spans
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)
    ]
    assert [each for each in named if each[1] not in known] == []


@functools.cache
def _anchors(path: Path) -> set[str]:
    return Page(path).anchors


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Page) -> None:
    for target in page.links:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = page.path.parent / file if file else page.path
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(there), f"{page.name} links to {target}"


def test_every_file_that_is_named_exists() -> None:
    """docs/decisions.md is left out: it says how things were called on its dates."""
    named = [
        (page.name, span)
        for page in WRITTEN
        for span in page.spans
        if page.path.name != "decisions.md" and re.fullmatch(r"(tests|slmchat|docs|\.docs|\.ci)/[\w./-]+", span)
    ]
    assert [each for each in named if not (ROOT / each[1]).exists()] == []


def test_every_page_that_the_program_names_exists() -> None:
    for file in [*(ROOT / "slmchat").rglob("*.py"), *(ROOT / ".ci").iterdir(), ROOT / "models.toml"]:
        for name in re.findall(r"docs/[\w-]+\.md", file.read_text(encoding="utf-8")):
            assert (ROOT / name).exists() or name == "docs/gguf.md", (file, name)  # that one is ggml's


def test_every_variable_of_the_environment_exists() -> None:
    """The program or its tests know it."""
    variable = re.compile(r"\bSLM_[A-Z_]+")
    files = [*(ROOT / "slmchat").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    known = {name for file in files for name in variable.findall(file.read_text(encoding="utf-8"))}
    named = {(page.name, name) for page in WRITTEN for name in variable.findall(page.text)}
    assert {each for each in named if each[1] not in known} == set()


def _tables(page: Page) -> list[tuple[Block, dict[str, Any]]]:
    return [(block, tomllib.loads(block.text)) for block in page.blocks if block.language == "toml"]


@pytest.mark.parametrize("page", [page for page in WRITTEN if "```toml" in page.text], ids=_id)
def test_what_is_shown_of_a_file_can_be_read(page: Page, tmp_path: Path) -> None:
    for block, table in _tables(page):
        if {"model", "licenses"} & set(table) and not isinstance(table.get("model"), str):
            file = tmp_path / "models.toml"
            file.write_text(block.text, encoding="utf-8")
            registry.load(file)
        else:
            file = tmp_path / "config" / "config.toml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
            settings.load({"SLM_HOME": str(tmp_path)})


def test_every_setting_exists() -> None:
    """`kv-cache = false` in a sentence: a key of the config, of an endpoint, of a persona or of models.toml."""
    known = {key.name for key in settings.KEYS} | {field.name.replace("_", "-") for field in fields(Persona)}
    known |= {"insecure", "timeout", "key_env", "url", "accept", "gated", "base", "lora", "draft"}
    named = {
        (page.name, found[1])
        for page in WRITTEN
        for span in page.spans
        if (found := re.fullmatch(r"([a-z][a-z_-]*) = \S+", span))
    }
    assert {each for each in named if each[1] not in known} == set()


def test_an_option_of_all_commands_has_one_meaning() -> None:
    """Before the name of the command and after it."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for option in ("--offline", "--private", "-v, --verbose", "-q, --quiet"):
        told = {
            " ".join(words.split())
            for words in re.findall(rf"^  {re.escape(option)} +(.+(?:\n {{12,}}\S.*)*)", text, re.M)
        }
        assert len(told) == 1, told


def test_the_index_leads_to_every_page() -> None:
    index = Page(ROOT / "docs" / "index.md")
    assert {page.path.name for page in PAGES} - {target.rpartition("/")[2] for target in index.links} == {"index.md"}


def test_a_page_opens_with_what_the_reader_gets() -> None:
    """A title, then a sentence; not a table, a command or another heading."""
    for page in PAGES:
        first, _, rest = page.text.partition("\n\n")
        assert re.fullmatch(r"# [^\n]+", first), page.name
        assert re.match(r"[A-Z`*a-z]", rest), (page.name, rest[:80])


# Sentences that a reader has to solve, and what to write instead.
RIDDLES = {
    r"(?<![Tt]here) (is|are|was|were) no (?!longer|more\b)[a-z]+": "X is not a Y",
    r"\bwhat (is|are|has|had) none\b": "name the thing",
}
# Words of slm's own for what the field has a word for; once they were names in the code as well.
DIALECT = {
    r"\banswers? (of|with) a (given )?shape\b|\bshapes? of (an|the) answer": "response format, answers in a given format",
    r"\b(is|are|be|was|were) told\b": "slm says, shows, reports, names",
    r"\bpace\b": "speed, throughput",
    r"\b(laid|lays|lay) (\w+ )?over\b": "adds, applies, replaces",
    r"\bwitness|\boutlet\b|\bways (out|around)\b": "probe server, egress, attempts to get out",
    r"\bpatient\b|\bexamin": "checks, the model under test",
    r"\basker\b|\bdesk\b|\bsuspects\b|\btally\b": "Generator, SharedModel, crash markers, statistics",
    r"\bof chance\b": "random",
}


def test_sentences_are_plain() -> None:
    """docs/decisions.md keeps the words of its dates."""
    found = [
        f"{page.name}:{line}: {hit[0]!r}: {better}"
        for page in WRITTEN
        for line, text in page.prose
        for pattern, better in (RIDDLES if page.path.name == "decisions.md" else RIDDLES | DIALECT).items()
        if (hit := re.search(pattern, text, re.IGNORECASE))
    ]
    assert found == []


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="the attempts are those of Linux")
def test_the_number_of_attempts_is_the_one_that_the_pages_name(slm: Callable[..., Outcome]) -> None:
    attempts = json.loads(slm("privacy", "--check", "--json").out)["attempts"]
    named = {int(number) for page in PAGES for number in re.findall(r"(\d+) attempts to get out", page.text)}
    assert named == {len(attempts)}


def test_decisions_have_a_subject_and_a_date() -> None:
    page = Page(ROOT / "docs" / "decisions.md")
    subjects = re.findall(r"^## (.+)$", page.text, re.MULTILINE)
    assert [title for title in subjects if title[0].isdigit()] == [], "an entry goes below its subject, as ###"
    assert {target.removeprefix("#") for target in page.links} >= {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in subjects
    }
    entries = re.findall(r"^### (.+)$", page.text, re.MULTILINE)
    assert [title for title in entries if not re.match(r"\d{4}-\d\d-\d\d: \S", title)] == []


def test_the_readme_has_the_test_command_that_ci_runs() -> None:
    found = re.search(r"<!-- test command -->\n+    (.+)\n", PAGES[0].text)
    assert found
    assert "pytest" in found.group(1)


def test_the_changelog_knows_this_version() -> None:
    from slmchat import __version__

    assert f"## {__version__}" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")


# Parts of docs/privacy.md that promise nothing: who is meant, what is not protected, and the table of tests itself.
NO_PROMISES = {"What the seal protects you from", "What is not protected", "Which test holds which claim"}


def test_every_claim_about_privacy_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page))
    assert len(named) > 60
    for file, test in named:
        assert (ROOT / file).is_file(), f"there is no {file}"
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or re.search(rf"^ *def {test}\(", source, re.M), f"{file} has no {test}"
    _, _, table = page.partition("## Which test holds which claim")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert all("tests/" in held for _, _, held in rows[1:])
    parts = set(re.findall(r"^#{2,3} (.+)$", page, re.M))
    assert {part for part, _, _ in rows[1:] if part} == parts - NO_PROMISES
