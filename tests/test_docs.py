"""The documentation says what the program does: generated pages are fresh, README's commands are real."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pages_are_fresh(page: str) -> None:
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == generate.PAGES[page](), (
        f"docs/{page} is stale: run `python docs/generate.py`"
    )


def test_every_command_that_the_readme_shows_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {name for name, *_ in generate.command_names()}
    shown = set(re.findall(r"(?:^|[\s`|/])slm ([a-z]+)\b", readme))
    shown -= {"is", "and", "reads", "on", "for", "with", "runs", "takes", "the", "has"}
    assert shown <= known, shown - known


def test_links_between_the_pages_are_not_broken() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_has_the_test_command_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- test command -->\n+    (.+)\n", readme)
    assert found
    assert "pytest" in found.group(1)


def test_the_changelog_knows_this_version() -> None:
    from slmchat import __version__

    assert f"## {__version__}" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")


# Parts of docs/privacy.md that promise nothing: who is meant, what is not protected, and the table of tests itself.
NO_PROMISES = {"Who is kept from what", "What is not protected", "Which test holds which claim"}


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
