"""The registry: which program measures which part, in the order in which they run.

Every module has `measure(repeat: int) -> list[Target]`. One that does not exist yet is reported as missing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One part of the benchmark: the name that `--only` takes, the module, what it measures."""

    name: str
    module: str
    what: str


SECTIONS = (
    Section("startup", "bench_startup", "slm --version, slm run until the model loads, and that nothing grows"),
    Section("memory", "bench_memory", "peak resident memory against the bare loop"),
    Section("run", "bench_run", "slm run against the bare loop, llama-bench, llama-server, llama-completion"),
    Section("limit", "bench_limit", "2,000 tokens end to end, and no cost that grows with the answer"),
    Section("chat", "bench_chat", "how soon the prompt is open, and first tokens late in a conversation"),
    Section("threads", "bench_threads", "threads that follow what other programs take"),
    Section("resume", "bench_resume", "conversations and documents whose KV state was kept"),
    Section("day", "bench_day", "50 mixed commands: the share of prompt tokens that none of them read"),
    Section("speculation", "bench_speculation", "drafts looked up in the conversation"),
    Section("batch", "bench_batch", "many inputs with one model load"),
    Section("grammar", "bench_grammar", "answers held to a schema"),
    Section("quotations", "bench_quotations", "answers that can only copy"),
    Section("choices", "bench_choices", "--choices against generating the label"),
    Section("fields", "bench_fields", "what a small model should be told of the schema"),
    Section("fit", "bench_fit", "predicted memory and speed against what is measured"),
    Section("paging", "bench_paging", "a mixture of experts of three times the memory, against the prediction"),
    Section("adapters", "bench_adapters", "LoRA adapters: switching a scale"),
    Section("images", "bench_images", "second questions about an image"),
    Section("remote", "bench_remote", "what the remote engine adds"),
    Section(
        "serve", "bench_serve", "slm serve against llama-server, over HTTP, after a restart, idle; slm run from it"
    ),
    Section("archive", "bench_archive", "sessions: list and search over 10,000 of them"),
    Section("documents", "bench_documents", "documents: reading and searching them"),
    Section("parts", "bench_parts", "the seal, a header, the history, safe text"),
    Section("markdown", "bench_markdown", "rendering, per token"),
)
