"""docs/python.md: its examples are run, its tables are compared with the code."""

import inspect
import re
import sys
from pathlib import Path

import fork_server
import pytest
from conftest import environment

import slmchat
from slmchat.api.options import CompletionOptions, LoadOptions

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"

# Fences are no output of the examples. Runs in a process of its own, as a reader's program would.
_RUN = """
import doctest, pathlib, sys
text = "\\n".join("" if line.startswith("```") else line for line in pathlib.Path(sys.argv[1]).read_text("utf-8").splitlines())
test = doctest.DocTestParser().get_doctest(text, {}, "python.md", sys.argv[1], 0)
failed, tried = doctest.DocTestRunner().run(test)
print(tried)
sys.exit(bool(failed))
"""


@pytest.mark.real
@pytest.mark.model
def test_the_examples_do_what_the_page_says(model_home: Path, tmp_path: Path) -> None:
    done = fork_server.run(
        [sys.executable, "-c", _RUN, str(PAGE)],
        capture_output=True,
        text=True,
        env=environment(model_home),
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert int(done.stdout) > 20


def test_every_parameter_and_every_name_is_on_the_page() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    functions = (
        slmchat.load,
        slmchat.seal,
        slmchat.Model.complete,
        slmchat.Model.stream,
        slmchat.Model.complete_many,
        slmchat.Model.chat,
        slmchat.Model.classify,
    )
    parameters = {name for function in functions for name in inspect.signature(function).parameters}
    wanted = parameters - {"self", "rare", "options"} | set(CompletionOptions.__annotations__)
    wanted |= set(LoadOptions.__annotations__)
    wanted |= {name for kind in (slmchat.Model, slmchat.Chat, slmchat.Stream) for name in vars(kind) if name[0] != "_"}
    wanted |= set(slmchat.Completion.__dataclass_fields__) | set(slmchat.Classification.__dataclass_fields__)
    assert wanted <= words, sorted(wanted - words)


def test_every_exit_code_on_the_page_is_one() -> None:
    named = set(re.findall(r"ExitCode\.(\w+)|\| `([A-Z_]+)`|, `([A-Z_]+)`", PAGE.read_text(encoding="utf-8")))
    assert {name for names in named for name in names if name} <= set(slmchat.ExitCode.__members__)
