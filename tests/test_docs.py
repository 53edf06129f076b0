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
