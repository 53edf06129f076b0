"""The option records that commands share with one another, or with the use cases that work with them.

A start that needs none of them (`slm --version`, `slm list`) does without this module: 20 of 130 ms of imports when it
was measured (2026-11-26).
Refuses to know: typer, and what any option does.
"""

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from functools import partial
from typing import Any

from slmchat import ranges
from slmchat.lazy_dataclasses import dataclass
from slmchat.option_fields import OptionGroup, argument, json_option, option
from slmchat.ranges import Range

_model = partial(option, group=OptionGroup.MODEL)
_input = partial(option, group=OptionGroup.INPUT)
_conversation = partial(option, group=OptionGroup.CONVERSATION)
_measurement = partial(option, group=OptionGroup.MEASUREMENT)
_sampling = partial(option, group=OptionGroup.SAMPLING)
_format = partial(option, group=OptionGroup.FORMAT)
_infill = partial(option, group=OptionGroup.INFILL)
_output = partial(option, group=OptionGroup.OUTPUT)
_device = partial(option, group=OptionGroup.DEVICE)
_server = partial(option, group=OptionGroup.SERVER)


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """What a model computes with, of every command that generates. None means: not given."""

    ctx: int | None = _device("--ctx", help="Context window in tokens.", within=ranges.CTX, metavar="N")
    threads: int | None = _device(
        "--threads",
        help="Exactly so many threads; without it, as many as there are free cores.",
        within=ranges.THREADS,
        metavar="N",
    )
    gpu_layers: str | None = _device("--gpu-layers", help="Layers on the GPU: auto or a number.", metavar="auto|N")
    device: str | None = _device(
        "--device", help="GPUs to use, as slm doctor names them, separated by commas; none: no GPU.", metavar="NAME"
    )
    kv_type: str | None = _device("--kv-type", help="Type of the KV cache.", metavar="f16|q8_0|q4_0")


@dataclass(frozen=True, slots=True)
class AnswerOptions(ComputeOptions):
    """What decides an answer, of every command that gives some. None means: not given."""

    model: str | None = _model(
        "-m", "--model", help="Model: a name of the catalog, hf:OWNER/REPO or a .gguf file.", metavar="NAME"
    )
    endpoint: str | None = _model(
        "--endpoint",
        help="Ask a model elsewhere: an OpenAI-compatible URL, or a name of the config. What you say goes there.",
        metavar="URL|NAME",
    )
    system: str | None = _input("-s", "--system", help="System message, or @FILE that holds it.", metavar="TEXT")
    lora: list[str] = _model(
        "--lora", help="LoRA adapter over the model (repeatable).", metavar="FILE[=SCALE]", default=[]
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
    think: str | None = _sampling(
        "--think",
        help="Whether a reasoning model thinks before it answers; auto: as its maker has it.",
        metavar="on|off|auto",
    )
    think_budget: int | None = _sampling(
        "--think-budget",
        help="At most N tokens of thinking, then the answer; 0: none.",
        within=ranges.THINK_BUDGET,
        metavar="N",
    )
    force: bool = _model("--force", help="Go on although the model does not fit this device's memory.", default=False)
    no_server: bool = _model("--no-server", help="Load the model here, also when slm serve has it.", default=False)
    raw: bool = _model("--raw", help="Plain completion without the model's chat template.", default=False)


@dataclass(frozen=True, slots=True)
class GenerationOptions(AnswerOptions):
    """What `run`, `chat` and `batch` share. None means: not given."""

    persona: str | None = _model("-p", "--persona", help="A named system prompt with its settings.", metavar="NAME")
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
    draft: str | None = _model(
        "--draft",
        help="A small model of the same vocabulary that drafts what the model verifies; auto: the catalog's pair.",
        metavar="NAME|auto",
    )
    speculation: str | None = _device(
        "--speculation",
        help="Drafts from the conversation, verified in batches: auto (with --temp 0 or --seed only where the text "
        "stays the same to the letter), always or off.",
        metavar="auto|always|off",
    )
    on_overflow: str | None = _input(
        "--on-overflow", help="When the prompt does not fit: fail, or trim and say what was cut.", metavar="fail|trim"
    )
    raw_output: bool = _output(
        "--raw-output", help="Do not remove control sequences from the model's text.", default=False
    )

    @classmethod
    def of(cls, options: Any, **more: Any) -> "GenerationOptions":
        """What another record has of these options, by the same names, and `more`."""
        known = cls.__dataclass_fields__
        shared = {item.name: getattr(options, item.name) for item in fields(options) if item.name in known}
        return cls(**{**shared, **more})

    def sampler_values(self) -> Mapping[str, float | int | None]:
        """What was given of the sampler settings, by the names of `SamplerSettings`."""
        return {
            name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
        }


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What `slm pull` takes."""

    names: list[str] = argument("NAME...", "gemma3:1b, smollm2:135m@Q4_1, hf:OWNER/REPO")
    quantization: str | None = option("--quant", help="Quantization, as @QUANT in the name.", metavar="QUANT")
    source: str | None = option("--source", help="Fetch from hub or index only.", metavar="hub|index")
    dry_run: bool = _output("--dry-run", help="Show what would be fetched, from where, and stop.", default=False)
    accept_license: bool = option("--accept-license", help="Accept the model's licence (for scripts).", default=False)
    force: bool = _model("--force", help="Fetch it although it does not fit this device's memory.", default=False)
    json: bool = json_option()


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What `slm chat` alone takes."""

    goes_on: bool = _conversation("-c", "--continue", help="Go on with the last conversation.", default=False)
    resume: bool = _conversation("--resume", help="Choose a saved conversation to go on with.", default=False)
    session: str | None = _conversation("--session", help="Go on with a saved conversation.", metavar="ID|TITLE")
    plain: bool = _output(
        "--plain", help="For screen readers: plain lines, whole sentences, nothing is drawn twice.", default=False
    )
    bell: bool = _output("--bell", help="Ring when an answer that took long is there.", default=False)
    vi: bool = _conversation("--vi", help="Edit lines with vi's keys instead of emacs'.", default=False)
    export_dir: str | None = _output(
        "--export-dir", help="Where /export writes: a directory for that alone.", metavar="DIR"
    )


def _same(name: str) -> Any:
    """The option of this name just as `GenerationOptions` declares it."""
    declared = GenerationOptions.__dataclass_fields__[name]
    if declared.default_factory is not MISSING:
        return field(default_factory=declared.default_factory, metadata=declared.metadata)
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, slots=True)
class BenchOptions(ComputeOptions):
    """What `slm bench` takes."""

    depths: list[int] = _measurement(
        "--depth",
        help="Measure behind N tokens of context (repeatable).",
        metavar="N",
        default=[],
        within=Range(0, ranges.CTX.high),
    )
    plot: bool = _measurement("--plot", help="Draw tokens a second against the depth, at more depths.", default=False)
    repeat: int = _measurement(
        "--repeat", help="Passes; the median counts.", metavar="N", default=3, within=Range(1, 100)
    )
    plain: bool = _output("--plain", help="For screen readers: sentences instead of a table and a plot.", default=False)
    json: bool = json_option()


@dataclass(frozen=True, slots=True)
class EvalOptions(ComputeOptions):
    """What `slm eval` takes."""

    names: list[str] | None = argument("[MODEL]...", "Without one, the default model.", None)
    tasks: list[str] = _measurement(
        "--task",
        help="A task of slm eval --list, or a task file (repeatable); without it, all that come with slm.",
        metavar="NAME|FILE",
        default=[],
    )
    limit: int | None = _measurement(
        "--limit", help="At most N items of each task, always the same ones.", metavar="N", within=Range(1, 1_000_000)
    )
    minutes: float | None = _measurement(
        "--minutes",
        help="Stop after about M minutes, with as many items of each task as there was time for.",
        metavar="M",
        within=Range(0.1, 100_000.0),
    )
    resume: bool = _measurement("--resume", help="Go on with the last run.", default=False)
    is_list: bool = _output("--list", help="Show the tasks.", default=False)
    quantizations: bool = _measurement(
        "--quantizations",
        help="How much the installed quantizations of MODEL (or these models) say the same as the largest one.",
        default=False,
    )
    text: str | None = _measurement(
        "--text",
        help="What --quantizations reads: a text of some thousand words; without it, the suite's.",
        metavar="FILE",
    )
    sampler: str = _sampling(
        "--sampler",
        help="greedy: always the most probable token; maker: as the model's maker recommends.",
        metavar="greedy|maker",
        default="greedy",
    )
    best_of: int = _sampling(
        "--best-of",
        help="N answers to each item, of which one counts: that of the majority (with --sampler maker).",
        metavar="N",
        default=1,
        within=ranges.BEST_OF,
    )
    think: str | None = _same("think")
    think_budget: int | None = _same("think_budget")
    raw: bool = _same("raw")
    parallel: int = _device("--parallel", help="Answers at once.", metavar="N", default=16, within=ranges.PARALLEL)
    force: bool = _same("force")
    plain: bool = _output("--plain", help="For screen readers: sentences, no table and no plot.", default=False)
    json: bool = json_option()


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What `slm embed` takes."""

    words: list[str] | None = argument("[TEXT]...", "Without one: lines or JSONL on stdin.", None)
    model: str | None = _same("model")
    endpoint: str | None = _same("endpoint")
    files: list[str] = _input(
        "-f", "--file", help="A text each (repeatable; - is stdin); with --format, rows.", metavar="FILE", default=[]
    )
    format: str | None = _input(
        "--format",
        help="What the input is: lines, jsonl or csv (with a header); without it slm looks at the first line.",
        metavar="lines|jsonl|csv",
    )
    input_field: str | None = _input(
        "--input-field", help="The field of a JSON or CSV row that is the text.", metavar="NAME"
    )
    on_overflow: str | None = _input(
        "--on-overflow", help="A text that is too long: fail, or trim it to its beginning.", metavar="fail|trim"
    )
    threads: int | None = _same("threads")
    gpu_layers: str | None = _same("gpu_layers")
    device: str | None = _same("device")
    force: bool = _same("force")
    json: bool = json_option()


@dataclass(frozen=True, slots=True)
class AskOptions(AnswerOptions):
    """What `slm ask` takes."""

    words: list[str] | None = argument("[QUESTION]...", "Without one, or with -: each line of stdin is one.", None)
    documents: list[str] = _input(
        "-d",
        "--documents",
        help="File or directory to answer from (repeatable); without one, everything in the index.",
        metavar="PATH",
        default=[],
    )
    top: int | None = _input(
        "--top", help="Passages that the model reads: 5, a very small one 3.", metavar="N", within=ranges.PASSAGES
    )
    reindex: bool = _input(
        "--reindex", help="Read the documents again, changed or not, and make all of their vectors.", default=False
    )
    quotes_only: bool = _output("--quotes-only", help="The quotations alone, without an answer.", default=False)
    json: bool = _output("--json", help="One JSON object for each question.", default=False)
    temperature: float | None = _sampling(
        "--temp",
        help="Temperature; without it 0: the same question has the same answer.",
        within=ranges.SAMPLER["temperature"],
        metavar="X",
    )


@dataclass(frozen=True, slots=True)
class ServeOptions(ComputeOptions):
    """What `slm serve` takes."""

    port: int = _server("--port", help="TCP port.", metavar="N", default=8484, within=Range(0, 65535))
    host: str = _server(
        "--host",
        help="Address to listen on; one that others reach needs --api-key-env.",
        metavar="ADDRESS",
        default="127.0.0.1",
    )
    socket: str | None = _server(
        "--socket", help="Unix socket instead of the usual one, where run, batch and chat look.", metavar="PATH"
    )
    parallel: str | None = _server(
        "--parallel", help="Answers at once: auto, or a number.", metavar="auto|N", default="auto"
    )
    keep_alive: str = _server(
        "--keep-alive",
        help="Free the weights after so long without a request (30s, 10m, 2h); 0: never.",
        metavar="TIME",
        default="10m",
    )
    api_key_env: str | None = _server(
        "--api-key-env", help="Environment variable with the key that requests must bring.", metavar="NAME"
    )
    allow_origin: list[str] = _server(
        "--allow-origin", help="Pages of this origin may ask (repeatable).", metavar="ORIGIN", default=[]
    )
    background: bool = _server(
        "--background", help="Start it in the background; it ends after --keep-alive.", default=False
    )
    stop: bool = _server("--stop", help="End the server that runs.", default=False)
    status: bool = _server("--status", help="Tell about the server that runs.", default=False)
    lora: list[str] = _same("lora")
    mmproj: str | None = _same("mmproj")
    think: str | None = _same("think")
    think_budget: int | None = _same("think_budget")
    force: bool = _same("force")
    json: bool = json_option()


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What the answer has to look like; `run` and `batch` share it. At most one of them."""

    json_output: bool = _format("--json-output", help="The answer is JSON: an object or an array.", default=False)
    schema: str | None = _format(
        "--schema", help="The answer is JSON of this JSON Schema: a file, - (stdin) or the schema.", metavar="SCHEMA"
    )
    fields: str | None = _format(
        "--fields", help='A schema in short: "name, age int, tags[], mood enum(good|bad)?".', metavar="FIELDS"
    )
    grammar: str | None = _format("--grammar", help="The answer follows the GBNF grammar in FILE.", metavar="FILE")
    regex: str | None = _format("--regex", help="The answer matches PATTERN as a whole.", metavar="PATTERN")


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

    choices: list[str] = _format(
        "--choices",
        help="Answer with one of these, by the model's own probabilities; several questions: NAME=A,B,... for each.",
        default=[],
        metavar="A,B,...",
    )
    threshold: float | None = _format(
        "--threshold", help="Answer 'unsure' when no choice is as probable as P.", within=ranges.SHARE, metavar="P"
    )
    logprobs: bool = _output(
        "--logprobs", help="JSON has the probability of each token, and the likeliest ones at its place.", default=False
    )
    calibrate: bool | None = _format(
        "--calibrate/--no-calibrate", help="Take away what the model prefers without any input (it is done)."
    )


@dataclass(frozen=True, slots=True)
class BestOfOptions:
    """Several answers of which one counts; `run` and `batch` share it. None means: not given."""

    best_of: int | None = _sampling(
        "--best-of",
        help="N answers side by side, of which one counts: that of the majority, of free text the most probable.",
        within=ranges.BEST_OF,
        metavar="N",
    )
    vote: str | None = _sampling(
        "--vote",
        help="What the answers of --best-of are compared by: the last number in them, their text, what an answer "
        "in a given format says, or their probability.",
        metavar="number|text|value|logprob",
    )


Wanted = tuple[FormatOptions, ChoiceOptions, BestOfOptions]
"""What an answer has to be, for `run` and `batch`."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What `slm batch` alone takes."""

    words: list[str] | None = argument(
        "[PROMPT]...", "The instruction for every input; {} or {field} says where the input goes.", None
    )
    format: str | None = _input(
        "--format",
        help="What the input is: lines, jsonl or csv (with a header); without it slm looks at the first line.",
        metavar="lines|jsonl|csv",
    )
    input_field: str | None = _input(
        "--input-field", help="The field of a JSON or CSV row that is the input.", metavar="NAME"
    )
    labelled: str | None = _format(
        "--labelled",
        help="Rows with a 'label' (JSON lines or CSV), on which the probabilities of --choices are fitted.",
        metavar="FILE",
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
