"""`models.toml` of any content: names that can be resolved, or one usage error; nothing leaves its directory."""

# ruff: noqa: PT017 - a target raises, pytest is not there
import atexit
import os
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import runner

from slmchat.catalog import registry, user_file
from slmchat.catalog.model_specs import HubFile, Variant
from slmchat.errors import ExitCode, SlmError

_PIECES = (
    "[[model]]\n", 'name = "m"\n', 'name = "a:b"\n', 'name = "gemma3:1b"\n', 'target = "hf:a/b"\n', 'target = "/x/y.gguf"\n',
    'target = "~/../x.gguf"\n', 'target = "hf:a/b/../x.gguf@Q4#r"\n', "sampler = { temperature = 0.7 }\n", "sampler = { top_k = 1e999 }\n",
    'variant = [{ quantization = "Q4_0", source = [{ hub = "a/b", file = "x.gguf" }] }]\n',
    'variant = [{ quantization = "Q4_0", source = [{ hub = "a/b", file = "../x.gguf" }] }]\n',
    'variant = [{ quantization = "q", source = [{ index = [{ package = "p", version = "1", member = "../m" }], size = 1, sha256 = "0" }] }]\n',
    '[licenses.x]\ntitle = "X"\nlink = "https://x.y"\n', 'license = "x"\n', 'license = "mit"\n', "tags = ['chat', 'x']\n",
    'base = "a:b"\n', 'base = "m"\n', 'base = "hf:a/b@Q4_0"\n', 'lora = ["/x.gguf=0.5"]\n', 'lora = ["hf:a/b/x.gguf=nan", "=1"]\n',
    "context = 99999999999999999999\n", "parameters = -1\n", "note = '''\n", "\"\"\"", "[", "]", "{", "}", "=", ".", "[[", "name", "model",
    "[model]\n", "x = nan\n", "x = 1979-05-27\n", "[[model.variant]]\n", "gated = true\n", "[" * 200 + "\n", "'", '"\\u0000"', "\\ud800",
)  # fmt: skip


@cache
def _file() -> Path:
    # In memory where that can be had: writing a file anew for every input takes a disk longer than all the rest.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="slm-fuzz-", dir=memory)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "models.toml"


def target(random: random.Random) -> None:
    file = _file()
    file.write_bytes(runner.mixed(random, _PIECES, 12).encode("utf-8", "surrogatepass"))
    asked = runner.mixed(random, ("m", "a:b", "gemma3:1b", "@Q4_0", "hf:a/b", "/x.gguf", "..", "#r"), 4)
    names = {}
    try:
        names = registry.load_user_names(file)
        loaded = registry.load(file)
    except SlmError as error:
        assert error.exit_code is ExitCode.USAGE
        assert "\n" not in error.message
    else:
        for spec in (loaded.models.get(name) for name in ("m", "a:b", "gemma3:1b")):
            for variant in spec.variants if spec else ():
                _check(variant)
    for ask in (
        lambda: registry.resolve_without_catalog(asked, names),
        lambda: user_file.add_target(
            file, random.choice(("m", "new", asked)), random.choice(("hf:a/b", "/x/y.gguf", asked))
        ),
        lambda: user_file.remove_name(file, "m"),
    ):
        try:
            ask()
        except SlmError as error:
            assert error.exit_code in (ExitCode.USAGE, ExitCode.NO_MODEL)


def _check(variant: Variant) -> None:
    for source in variant.sources:
        paths = [source.file] if isinstance(source, HubFile) else [part.member for part in source.members]
        for path in paths:
            assert Path(os.path.normpath(Path("/base") / path)).is_relative_to("/base")


if __name__ == "__main__":
    raise SystemExit(runner.main(target))
