"""Write the pages of docs/ that are made from the code: commands.md and config.md.

Run it after a change of options, settings or exit codes: `python docs/generate.py`. A test compares the pages with
what it would write.
"""

import contextlib
import io
import os
from pathlib import Path

from slmchat.cli import run_cli
from slmchat.errors import ExitCode
from slmchat.settings import KEYS

DOCS = Path(__file__).resolve().parent

COMMANDS_HEAD = """# Commands

Made from the program's own help by `docs/generate.py`; do not edit by hand.

## Streams

- stdout carries the completion (or the listing that was asked for) and nothing else. `slm run` ends it with one newline.
- stderr carries everything else: progress bars (only on a terminal), statistics (`-v`; `-vv` adds what the engine itself
  says), warnings (`slm: warning: …`), errors (`slm: …`). `-q` leaves errors only.
- A closed stdin is an empty one. Where stdout is closed or its disk is full, stderr says so, with exit code 10; a command that
  answers does not begin then, unless the answer goes into a file (`-o`). What a closed stderr would have said is lost.
- A terminal gets the columns of a table that fit it, and its names in one piece; a pipe gets all columns. COLUMNS and LINES
  count only where no terminal can be asked.
- stdin: when it is not a terminal, `slm run` reads it all. With a PROMPT, the input comes first inside a fence and the
  instruction last; `{}` in the PROMPT says where the input goes instead. Without a PROMPT, stdin is the prompt.
  When nothing comes for two seconds, stderr says that slm waits; `--no-input` does not read it.
- Control sequences are removed from model text wherever it is shown or kept; everything else stays as it was said: in
  sessions, in files, in pipes, in `--json`. On a terminal, invisible characters are written as `<U+202E>` where they do
  no work: the joiners of Persian, the breaks of Thai, flags and other emoji pass. `--raw-output` switches that off.

## JSON of `slm run --json`

- `model`, `completion`, `finish_reason` (`stop`, `length`, `context`, `interrupted`), `seed`; `thinking` where a reasoning
  model thought; `value`, `probabilities`, `code` and `logprobs` where they were asked for.
- `usage`: `prompt_tokens`, of which `cached_tokens` were not evaluated again, and `completion_tokens`; `drafted_tokens`
  and `accepted_tokens` where drafts were made; `is_estimate` (true) where an endpoint did not count.
- `timings`: `load_s`, `prompt_s`, `generation_s`, `ttft_s` (time to first token) in seconds; `prompt_tps` and
  `generation_tps` in tokens a second, null where nothing was evaluated, and for a completion of a single token.

## Exit codes

| code | meaning |
|---|---|
"""

CONFIG_HEAD = """# Settings

Made from the program's own table by `docs/generate.py`; do not edit by hand.

Defaults < `config.toml` < environment < command line. The file lies in slm's config directory
(`~/.config/slm/` on Linux, `~/Library/Application Support/slm/` on macOS, `%LOCALAPPDATA%\\slm\\` on Windows), or in
`$SLM_HOME/config/`. A mistake in it is reported with the file, the key and the reason.

| key in config.toml | environment | meaning |
|---|---|---|
"""

CONFIG_TAIL = """
Also read: `SLM_HOME` (data, config and cache below one directory), `SLM_DEBUG=1` (tracebacks), `HF_TOKEN`, `HF_HOME`,
`HF_ENDPOINT` (as the Hub's own client reads them), `SLM_ENDPOINT_KEY` (the key for an `--endpoint` given as a URL),
`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` (for endpoints), `NO_COLOR`, `TERM=dumb`.

Example:

    model = "smollm2:135m"
    threads = 4
    sampler = { temperature = 0.7, top_p = 0.9 }

    [endpoints.work]                        # docs/remote.md
    url = "https://models.example.org/v1"
    model = "qwen3-32b"
    key_env = "WORK_KEY"                    # the name of a variable; never the key itself
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
    import typer.main

    from slmchat.cli import whole_program

    found: list[tuple[str, ...]] = []
    for name, command in typer.main.get_command(whole_program()).commands.items():  # type: ignore[attr-defined]
        if command.hidden:
            continue
        found.append((name,))
        found.extend((name, sub) for sub in getattr(command, "commands", {}))
    return found


def commands_page() -> str:
    rows = "".join(f"| {int(code)} | {code.meaning} |\n" for code in ExitCode)
    pages = "".join(f"\n## slm {' '.join(name)}\n\n```\n{help_of(*name)}\n```\n" for name in command_names())
    return f"{COMMANDS_HEAD}{rows}\n## slm\n\n```\n{help_of()}\n```\n{pages}"


def config_page() -> str:
    rows = "".join(
        f"| `{key.name}` | {f'`{key.variable}`' if key.variable else ''} | {key.meaning.replace('|', ' or ')} |\n"
        for key in KEYS
    )
    return f"{CONFIG_HEAD}{rows}{CONFIG_TAIL}"


PAGES = {"commands.md": commands_page, "config.md": config_page}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (DOCS / page).write_text(made(), encoding="utf-8")
