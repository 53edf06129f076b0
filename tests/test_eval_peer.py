"""`slm eval` against llama-perplexity: both read one file, and put two models into the same order."""

import json
import shutil
import struct
from pathlib import Path

import llama_perplexity
import pytest
from conftest import run_slm

from slmchat.evaluation import task_catalog, task_files


def test_the_file_is_laid_out_as_that_program_reads_it() -> None:
    items = task_catalog.load("knowledge").items
    data = llama_perplexity.encoded(items)
    (count,) = struct.unpack_from("<I", data)
    places = struct.unpack_from(f"<{count}I", data, 4)
    assert count == len(items)
    for item, place in zip(items, places, strict=True):
        texts, at = [], place
        for _ in range(1):
            (size,) = struct.unpack_from("<I", data, at)
            texts.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
        (n_answers,) = struct.unpack_from("<I", data, at)
        at += 4
        for _ in range(n_answers):
            (size,) = struct.unpack_from("<I", data, at)
            texts.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
        labels = struct.unpack_from(f"<{n_answers}i", data, at)
        assert (texts[0], tuple(texts[1:])) == (item.prompt, item.choices)
        assert [choice for choice, label in zip(item.choices, labels, strict=True) if label] == list(item.answers)


@pytest.mark.real
@pytest.mark.model
@pytest.mark.skipif(shutil.which("llama-perplexity") is None, reason="llama-perplexity is not on the PATH")
def test_two_models_have_the_order_that_llama_perplexity_gives_them(
    model_home: Path, smollm2: Path, gemma3_base: Path, tmp_path: Path
) -> None:
    """Both programs tokenize a question with each answer behind it; the last bits and common beginnings may differ."""
    suite = task_catalog.file_of("knowledge")
    table = suite.read_text().replace(
        'kind = "choices"', f'kind = "choices"\nnormalize = "tokens"\nitems = "{suite.stem}.jsonl"'
    )
    (tmp_path / "both.toml").write_text(table)
    shutil.copy(suite.with_suffix(".jsonl"), tmp_path)
    task = task_files.load(tmp_path / "both.toml")
    names = ("smollm2:135m", "gemma3:270m-pt")
    done = run_slm(
        *("eval", *names, "--task", tmp_path / "both.toml", "--raw", "--json", "--private"),
        home=model_home,
        env={"SLM_THREADS": "1"},
    )
    assert done.code == 0, done.err
    ours = [model["tasks"][0]["score"] for model in json.loads(done.out)["models"]]
    program = shutil.which("llama-perplexity")
    assert program is not None
    theirs = [llama_perplexity.score(program, file, task, tmp_path / "both.bin") for file in (smollm2, gemma3_base)]
    assert (ours[0] < ours[1]) == (theirs[0] < theirs[1]), (ours, theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert abs(one - other) <= 3 / len(task.items), (ours, theirs)
