"""Writes what the pages of docs/ take from the code: two whole pages, and two tables inside of other pages.

`python .docs/generate.py` after a change of options, settings, exit codes or the catalog. tests/test_docs.py compares
the pages with what this would write.

Knows: which page is made from what, and the marks between which a table stands.
Refuses to know: anything that is not in the program; what people have to say stands in the pages.
"""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import models_table
import phone_table

from slmchat.cli import run_cli
from slmchat.errors import ExitCode
from slmchat.settings import KEYS

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN = "<!-- begin: written by .docs/generate.py -->\n"
END = "<!-- end -->\n"

COMMANDS_HEAD = """# Commands

Every command with its options, as `slm COMMAND --help` prints them; what goes to which stream, and the exit codes.
This page is written by `.docs/generate.py`: change the program, not the page.

## Streams

- stdout has the completion (or the listing that you asked for) and nothing else. `slm run` ends it with one newline.
- With `--json`, an error that ends a command is a sentence on stderr and an exit code, as without it. What `slm doctor
  MODEL` cannot examine is a finding in its JSON, too.
- stderr has everything else: progress bars (only on a terminal), statistics (`-v`; `-vv` adds what the engine itself
  says), warnings (`slm: warning: …`), errors (`slm: …`). With `-q` it has errors only.
- A closed stdin is an empty one. Where stdout is closed or its disk is full, stderr says so, with exit code 10. A command
  that answers does not begin then, unless the answer goes into a file (`-o`). What a closed stderr would have got is lost.
- A terminal gets the columns of a table that fit it, and its names in one piece; a pipe gets all columns. COLUMNS and
  LINES count only where no terminal can be asked.
- stdin: when it is not a terminal, `slm run` reads all of it. With a PROMPT, the input comes first inside a fence and the
  instruction last; `{}` in the PROMPT says where the input goes instead. Without a PROMPT, stdin is the prompt.
  When nothing comes for two seconds, a line on stderr says that slm waits. With `--no-input` slm does not read stdin.
- Control sequences are removed from model text wherever it is shown or kept. Everything else stays as the model wrote it:
  in sessions, in files, in pipes, in `--json`. On a terminal, an invisible character is written as `<U+202E>` where it has
  no function. Joiners of Persian, line breaks of Thai, flags and other emoji stay. `--raw-output` switches all of this off.

## JSON of `slm run --json`

- `model`, `completion`, `finish_reason` (`stop`, `length`, `context`, `repetition`, `interrupted`), `seed`. Where they apply:
  `thinking` (of a reasoning model), `value`, `probabilities`, `code`, `logprobs`.
- `usage`: `prompt_tokens`; `cached_tokens`, the part of them that was not evaluated again; `completion_tokens`. With drafts:
  `drafted_tokens` and `accepted_tokens`. `is_estimate` is true where an endpoint did not count.
- `timings`: `load_s`, `prompt_s`, `generation_s`, `ttft_s` (time to first token) in seconds. `prompt_tps` and
  `generation_tps` in tokens a second, null where nothing was evaluated and for a completion of a single token.

## Exit codes

| code | meaning |
|---|---|
"""

CONFIG_HEAD = """# Settings

Every key of `config.toml`, the environment variables that stand for it, and an example.
This page is written by `.docs/generate.py` from the program's own table: change the program, not the page.

Defaults < `config.toml` < environment < command line. The file is in slm's config directory
(`~/.config/slm/` on Linux, `~/Library/Application Support/slm/` on macOS, `%LOCALAPPDATA%\\slm\\` on Windows), or in
`$SLM_HOME/config/`. A mistake in it is reported with the file, the key and the reason.

| key in config.toml | environment | meaning |
|---|---|---|
"""

CONFIG_TAIL = """
slm also reads these variables: `SLM_HOME` (data, config and cache below one directory), `SLM_DEBUG=1` (tracebacks),
`HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` (as the Hub's own client reads them), `SLM_ENDPOINT_KEY` (the key for an `--endpoint`
that is a URL), `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` (for endpoints), `NO_COLOR`,
`TERM=dumb`.

Example:

```toml
model = "smollm2:135m"
threads = 4
sampler = { temperature = 0.7, top_p = 0.9 }

[endpoints.work]                        # docs/remote.md
url = "https://models.example.org/v1"
model = "qwen3-32b"
key_env = "WORK_KEY"                    # the name of a variable; never the key itself
```
"""


def help_of(*words: str) -> str:
    """What `slm WORDS --help` prints, the same on every terminal."""
    out = io.StringIO()
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(out):
        code = run_cli([*words, "--help"])
    if code:
        raise RuntimeError(f"slm {' '.join(words)} --help failed")
    return out.getvalue().rstrip()


def command_names() -> list[tuple[str, ...]]:
    """All commands, and the commands of groups, in the order of the help."""
    from slmchat.cli import whole_program

    found: list[tuple[str, ...]] = []
    for name, command in whole_program().commands.items():
        if command.hidden:
            continue
        found.append((name,))
        found.extend((name, sub) for sub in getattr(command, "commands", {}))
    return found


def commands_page(_: str) -> str:
    rows = "".join(f"| {int(code)} | {code.meaning} |\n" for code in ExitCode)
    pages = "".join(f"\n## slm {' '.join(name)}\n\n```\n{help_of(*name)}\n```\n" for name in command_names())
    return f"{COMMANDS_HEAD}{rows}\n## slm\n\n```\n{help_of()}\n```\n{pages}"


def config_page(_: str) -> str:
    rows = "".join(
        f"| `{key.name}` | {f'`{key.variable}`' if key.variable else ''} | {key.meaning.replace('|', ' or ')} |\n"
        for key in KEYS
    )
    return f"{CONFIG_HEAD}{rows}{CONFIG_TAIL}"


def _with_table(table: Callable[[], str]) -> Callable[[str], str]:
    """A page whose part between the two marks is this table."""

    def made(page: str) -> str:
        before, _, rest = page.partition(BEGIN)
        _, found, after = rest.partition(END)
        if not found:
            raise RuntimeError(f"the page has no place for its table: {BEGIN.strip()} … {END.strip()}")
        return f"{before}{BEGIN}\n{table()}\n{END}{after}"

    return made


# What makes a page out of the page that is there. Whole pages do not look at it.
PAGES: dict[str, Callable[[str], str]] = {
    "commands.md": commands_page,
    "config.md": config_page,
    "models.md": _with_table(models_table.table),
    "termux.md": _with_table(phone_table.table),
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        page = DOCS / name
        page.write_text(make(page.read_text(encoding="utf-8")), encoding="utf-8")
