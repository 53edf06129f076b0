"""Quantizations of one model beside the largest: the divergence itself, windows, files of llama.cpp's own quantizer."""

import ctypes
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_slm
from gguf_samples import WORDS, write_tiny_llama

from slmchat.engine import llama, native
from slmchat.engine.library import LibraryKind
from slmchat.engine.probabilities import kl_divergence
from slmchat.engine.requests import SessionSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation.agreement import WINDOW, measure_agreement, windows_of
from slmchat.evaluation.statistics import mean_interval

# ggml.h, enum ggml_ftype, as llama.h has it: llama_ftype
Q4_0, Q8_0, Q2_K = 2, 7, 10


def _row(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


class TestDivergence:
    def test_it_is_the_textbook_s(self) -> None:
        p, q = (0.5, 0.3, 0.2), (0.2, 0.5, 0.3)
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert kl_divergence(_row(*map(math.log, p)), _row(*map(math.log, q))) == pytest.approx(expected, rel=1e-6)

    def test_the_same_is_exactly_0_and_what_is_added_to_all_logits_says_nothing(self) -> None:
        row = _row(1, 2, 3, -50)
        assert kl_divergence(row, row) == 0
        assert kl_divergence(row, row + 1024) == pytest.approx(0, abs=1e-6)

    def test_large_logits_neither_overflow_nor_lose_what_is_improbable(self) -> None:
        assert kl_divergence(_row(3000, 0), _row(0, 3000)) == pytest.approx(3000)
        tiny = kl_divergence(_row(0, -20), _row(0, -30))
        share = math.exp(-20)
        assert tiny == pytest.approx(share * 10 - share, rel=0.01)

    def test_small_differences_over_a_large_vocabulary_add_up(self) -> None:
        """Half the variance of the difference of the logits, to the second order: single precision would lose it."""
        drawn = np.random.default_rng(1)
        row = drawn.normal(size=200_000).astype(np.float32)
        noise = drawn.normal(scale=1e-2, size=row.size).astype(np.float32)
        shares = np.exp(row.astype(np.float64))
        shares /= shares.sum()
        real = (row + noise).astype(np.float64) - row
        variance = float(shares @ real**2 - (shares @ real) ** 2)
        assert kl_divergence(row, row + noise) == pytest.approx(variance / 2, rel=0.01)

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_what_is_no_number_is_an_error(self, broken: float) -> None:
        for pair in ((_row(broken, 0), _row(0, 0)), (_row(0, 0), _row(0, broken))):
            with pytest.raises(SlmError, match="are not numbers"):
                kl_divergence(*pair)

    def test_a_token_that_only_one_forbids(self) -> None:
        assert kl_divergence(_row(0, -math.inf), _row(0, 0)) == pytest.approx(math.log(2))
        with pytest.raises(SlmError, match="are not numbers"):
            kl_divergence(_row(0, 0), _row(0, -math.inf))


def test_windows_begin_with_the_mark_and_a_short_text_is_one() -> None:
    tokens = [1, *range(100, 100 + 2 * WINDOW)]
    first, second = windows_of(tokens, [1])
    assert (len(first), len(second)) == (WINDOW, WINDOW)
    assert first[0] == second[0] == 1 and second[1] == first[-1] + 1
    assert windows_of(tokens, [1], most=1) == [first]
    assert windows_of(tokens[1:], []) == [tokens[1 : 1 + WINDOW], tokens[1 + WINDOW :]]
    assert windows_of(tokens[:40], [1]) == [tokens[:40]]
    with pytest.raises(SlmError, match="has 31 tokens"):
        windows_of(tokens[:31], [1])


def test_the_interval_of_a_mean_is_student_s() -> None:
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.low, found.high) == (pytest.approx(1.037, abs=1e-3), pytest.approx(4.963, abs=1e-3))
    many = mean_interval([float(number % 2) for number in range(1000)])
    assert many.high - many.low == pytest.approx(2 * 1.9623 * 0.50025 / math.sqrt(1000), rel=1e-3)


class _Planted:
    """A `TextLogits` that expects what it was told, whatever it reads; cancels `cancels` when it begins the second
    window."""

    def __init__(self, rows: Any, *, is_other: bool = False) -> None:
        self._rows = rows
        self._is_other = is_other
        self.n_read = 0

    def tokens(self, text: str) -> list[int]:
        return [ord(letter) + self._is_other for letter in text]

    def read(self, tokens: Sequence[int]) -> Iterator[Any]:
        self.n_read += 1
        yield np.stack([self._rows[place % len(self._rows)] for place in range(len(tokens))])

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def test_the_share_of_the_same_token_and_the_mean_divergence_of_the_second_halves() -> None:
    ours = [_row(0, 1), _row(0, 1)]
    theirs = [_row(0, 1), _row(1, 0)]  # every second place another token
    found = measure_agreement("big", _Planted(ours), _Planted(theirs), "a" * 2 * WINDOW, lambda _work: nullcontext())
    assert found is not None
    assert (found.reference, found.n_tokens, found.top_token) == ("big", WINDOW, 0.5)
    assert found.kl_divergence == pytest.approx(kl_divergence(ours[1], theirs[1]) / 2)
    assert found.kl_interval.low == pytest.approx(found.kl_divergence)  # every window is the same


def test_other_tokens_are_another_model() -> None:
    with pytest.raises(SlmError, match="not the same model") as caught:
        measure_agreement(
            "big", _Planted([_row(0, 1)]), _Planted([_row(0, 1)], is_other=True), "a" * 99, lambda _work: nullcontext()
        )
    assert caught.value.exit_code is ExitCode.USAGE


def quantized(source: Path, target: Path, kind: int) -> Path:
    """A file of llama.cpp's own quantizer."""
    api = native.bindings()
    if native.library().kind is LibraryKind.PREBUILT:
        pytest.skip("the prebuilt library has no quantizer")
    params = api.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = kind, True, 1
    # uint32_t llama_model_quantize(const char * fname_inp, const char * fname_out, const llama_model_quantize_params *);
    assert api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    return target


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    whole = write_tiny_llama(place / "whole.gguf", chat_template=None, context_length=1024)
    return {"whole": whole} | {
        name: quantized(whole, place / f"{name}.gguf", kind) for name, kind in (("q8", Q8_0), ("q4", Q4_0))
    }


@pytest.mark.real
class TestQuantizer:
    def test_the_smaller_the_file_the_farther_it_is(self, files: dict[str, Path]) -> None:
        text = " ".join(WORDS * 20)
        engines = {name: llama.load(path) for name, path in files.items()}
        readers = {
            name: engine.open_text_logits(SessionSettings(WINDOW, threads=1, threads_batch=1))
            for name, engine in engines.items()
        }
        found = {
            name: measure_agreement("whole", readers["whole"], readers[name], text, lambda _work: nullcontext())
            for name in ("q8", "q4", "whole")
        }
        for reader in readers.values():
            reader.close()
        for engine in engines.values():
            engine.close()
        same, q8, q4 = (found[name] for name in ("whole", "q8", "q4"))
        assert same and q8 and q4
        assert (same.top_token, same.kl_divergence) == (1.0, 0.0)  # the same file, read twice: to the last bit
        assert 0 < q8.kl_divergence < q4.kl_divergence
        assert q8.top_token >= q4.top_token
        assert q8.n_tokens >= WINDOW // 2

    def test_the_command_names_the_largest_and_orders_the_others(self, files: dict[str, Path], home: Path) -> None:
        text = files["whole"].parent / "text.txt"
        text.write_text(" ".join(WORDS * 20))
        asked = ("eval", "--quantizations", "--text", text, "--threads", "1", *files.values())
        done = run_slm(*asked, "--json", home=home)
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert told["reference"].endswith("whole.gguf")
        first, q8, q4 = told["models"]
        assert first["agreement"] is None
        assert 0 < q8["agreement"]["kl_divergence"] < q4["agreement"]["kl_divergence"]
        assert q8["agreement"]["kl_low"] <= q8["agreement"]["kl_divergence"] <= q8["agreement"]["kl_high"]

    def test_one_file_alone_and_what_does_not_go_together(self, files: dict[str, Path], home: Path) -> None:
        alone = run_slm("eval", "--quantizations", files["q8"], home=home)
        assert alone.code == ExitCode.USAGE and "nothing to compare it with" in alone.err
        mixed = run_slm("eval", "--quantizations", "--task", "reading", files["q8"], files["q4"], home=home)
        assert mixed.code == ExitCode.USAGE and "hint: " in mixed.err


@pytest.mark.real
@pytest.mark.model
def test_real_weights_quantized_once_more_lose_more_with_fewer_bits(smollm2: Path, tmp_path: Path, home: Path) -> None:
    files = [quantized(smollm2, tmp_path / f"{kind}.gguf", kind) for kind in (Q8_0, Q2_K)]
    text = tmp_path / "text.txt"
    text.write_text((Path(__file__).parents[1] / "docs" / "chat.md").read_text()[:1000])
    done = run_slm(
        "eval", "--quantizations", "--text", text, "--threads", "1", "--json", *files, home=home, timeout=300
    )
    assert done.code == 0, done.err
    agreement = json.loads(done.out)["models"][1]["agreement"]
    assert 0.2 < agreement["top_token"] < 0.9
    assert 0.1 < agreement["kl_divergence"] < 5
