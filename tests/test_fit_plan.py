"""Verdicts, windows, GPU layers, the choice of a quantization, the predicted speed: arithmetic with known answers."""

from dataclasses import replace

import pytest
from gguf_shapes import LLAMA_1B, MIXTRAL, write_shape

from slmchat.catalog.gguf import read_header
from slmchat.fit.choice import LOSS, Option, choose, loss
from slmchat.fit.estimate import guessed_shape
from slmchat.fit.memory import MIB, Load, memory
from slmchat.fit.plan import FitVerdict, Room, choose_ctx, choose_gpu_layers, largest_ctx, plan
from slmchat.fit.shape import ModelShape, shape_of
from slmchat.fit.speed import Rate, Throughput, in_words, solved, throughput_of
from slmchat.models.load_plan import LoadPlan

GIB = 1 << 30


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    return shape_of([read_header(write_shape(tmp_path_factory.mktemp("shape") / "x.gguf", LLAMA_1B))])


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    return shape_of([read_header(write_shape(tmp_path_factory.mktemp("shape") / "x.gguf", MIXTRAL))])


def room(available: int, **more: int) -> Room:
    return Room(available, 8 * GIB, **more)


class TestVerdict:
    def test_fits_tight_and_not_at_the_very_byte(self, llama: ModelShape) -> None:
        load = Load(4096)
        need = memory(llama, load).needed
        headroom = room(0).headroom
        verdicts = [
            plan(llama, load, room(size)).verdict for size in (need + headroom, need + headroom - 1, need, need - 1)
        ]
        assert verdicts == [FitVerdict.FITS, FitVerdict.TIGHT, FitVerdict.TIGHT, FitVerdict.NO]

    def test_sources_of_repacked_weights_may_leave_the_memory(self, llama: ModelShape) -> None:
        plain, repacked = (memory(llama, Load(4096, instruction_sets=sets)) for sets in ((), ("AVX2",)))
        assert repacked.resident > plain.resident + 400 * MIB
        assert repacked.needed == plain.needed

    def test_a_mixture_of_experts_pages_without_copies_of_its_weights(self, mixtral: ModelShape) -> None:
        load = Load(4096, instruction_sets=("AVX2",))
        found = plan(mixtral, load, room(12 * GIB))
        assert found.verdict is FitVerdict.PAGES
        assert found.memory.repacked == 0
        assert plan(mixtral, load, room(4 * GIB)).verdict is FitVerdict.NO

    def test_a_window_grows_to_the_trained_length_or_half_of_what_fits(self, llama: ModelShape) -> None:
        assert llama.context_length is not None
        twice = memory(llama, Load(2 * llama.context_length)).needed
        found = [
            LoadPlan(llama, room(size), FitVerdict.FITS, Load(2048), None).growable_ctx for size in (twice, twice - MIB)
        ]
        assert found[0] == llama.context_length
        assert found[1] == llama.context_length - 128

    def test_a_dense_model_does_not_page(self, llama: ModelShape) -> None:
        assert plan(llama, Load(4096), room(600 * MIB)).verdict is FitVerdict.NO

    def test_a_limit_of_the_address_space_counts_buffers_that_are_never_touched(self, llama: ModelShape) -> None:
        need = memory(llama, Load(512))
        assert need.address_space > need.resident
        assert plan(llama, Load(512), room(7 * GIB, address_space=need.address_space - 1)).verdict is FitVerdict.NO
        assert plan(llama, Load(512), room(7 * GIB, address_space=need.address_space)).verdict is FitVerdict.FITS


class TestWindow:
    def test_the_largest_window_is_the_largest(self, llama: ModelShape) -> None:
        space = room(2 * GIB)
        found = largest_ctx(llama, Load(0), space)
        assert 4096 < found < 131072
        assert plan(llama, Load(found), space).is_possible
        assert not plan(llama, Load(found + 256), space).is_possible
        assert largest_ctx(llama, Load(0, "q8_0"), space) > 1.7 * found

    def test_none_and_all(self, llama: ModelShape) -> None:
        assert largest_ctx(llama, Load(0), room(100 * MIB)) == 0
        assert largest_ctx(llama, Load(0), room(64 * GIB)) == 131072

    def test_a_chat_takes_what_is_comfortable_and_no_more_than_the_default(self, llama: ModelShape) -> None:
        assert choose_ctx(llama, Load(0), room(8 * GIB)) == 8192
        small = choose_ctx(llama, Load(0), room(1400 * MIB))
        assert 512 <= small < 8192
        assert choose_ctx(replace(llama, context_length=2048), Load(0), room(8 * GIB)) == 2048
        assert choose_ctx(llama, Load(0), room(10 * MIB)) == 512  # and plan() says that it does not fit


def test_as_many_layers_as_fit_go_to_the_gpu(llama: ModelShape) -> None:
    load = Load(4096)
    all_of_it = memory(llama, replace(load, gpu_layers=17)).gpu
    assert choose_gpu_layers(llama, load, all_of_it) == 17
    some = choose_gpu_layers(llama, load, all_of_it // 2)
    assert 0 < some < 17
    assert memory(llama, replace(load, gpu_layers=some)).gpu <= all_of_it // 2
    assert choose_gpu_layers(llama, load, 10 * MIB) == 0


def throughput(rate: float) -> Throughput:
    return Throughput({kind: Rate(rate, 0.0) for kind in ("Q8_0", "Q4_K", "Q5_0")}, 1e-5, 2)


def options(*quantizations: str, parameters: float = 7e9) -> list[Option]:
    bits = {"F16": 16, "Q8_0": 8.5, "Q6_K": 6.6, "Q4_K_M": 4.9, "Q4_0": 4.6, "Q2_K": 3.0}
    return [
        Option(
            name,
            guessed_shape(
                size=int(parameters * bits[name] / 8),
                parameters=int(parameters),
                parameters_text=None,
                context_length=32768,
                quantization=name,
                architecture="llama",
            ),
        )
        for name in quantizations
    ]


class TestChoice:
    ALL = ("Q4_K_M", "Q2_K", "Q8_0", "F16", "Q6_K", "Q4_0")

    @pytest.mark.parametrize(
        ("available", "rate", "chosen"),
        [
            (32 * GIB, 200e9, "Q8_0"),  # everything fits and is quick; F16 would be a waste
            (32 * GIB, 65e9, "Q6_K"),  # Q8_0 would be slower than a reader
            (32 * GIB, 20e9, "Q4_K_M"),  # nothing is quick: the quickest that is still good
            (6 * GIB, 200e9, "Q4_K_M"),
            (4 * GIB, 200e9, "Q2_K"),
        ],
    )
    def test_memory_and_speed_decide(self, available: int, rate: float, chosen: str) -> None:
        found = choose(options(*self.ALL), Load(0), Room(available, 8 * GIB), throughput(rate))
        assert found.option.quantization == chosen
        assert found.reason

    def test_without_a_pace_the_common_one(self) -> None:
        assert choose(options(*self.ALL), Load(0), Room(32 * GIB, 8 * GIB), None).option.quantization == "Q4_K_M"

    def test_where_nothing_fits_the_smallest(self) -> None:
        found = choose(options(*self.ALL), Load(0), Room(GIB, 2 * GIB), throughput(200e9))
        assert found.option.quantization == "Q2_K"
        assert not found.plan.is_possible

    def test_what_reads_from_the_disk_is_not_chosen_for_its_speed_in_memory(self, mixtral: ModelShape) -> None:
        half = replace(mixtral, weight_bytes=mixtral.weight_bytes // 2)
        found = choose([Option("Q8_0", mixtral), Option("Q4_K_M", half)], Load(0), room(12 * GIB), throughput(900e9))
        assert (found.option.quantization, found.plan.verdict, found.speed) == ("Q4_K_M", FitVerdict.PAGES, None)
        assert found.reason == "the best that works, reading from disk (speed not measured)"

    def test_less_bits_lose_more(self) -> None:
        order = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0-QAT", "Q4_0", "Q3_K_M", "Q2_K")
        assert sorted(order, key=loss) == list(order)
        assert loss("nobody knows") > LOSS["Q4_K_M"]

    def test_a_name_beside_the_table_counts_as_what_it_is_made_from_or_its_bits(self) -> None:
        assert loss("UD-Q5_K_M") == loss("Q5_K_M")
        assert loss("Q4_0-QAT") < loss("Q4_0")
        assert loss("Q6_K_L") == loss("Q6_K")
        assert loss("Q8_0") < loss("Q4_K_XS") < loss("Q2_K_XXL")

    @pytest.mark.parametrize("rate", [None, 20e9])
    def test_a_tie_goes_to_the_given_order(self, rate: float | None) -> None:
        """A file of a few bytes less is no better: phi3:mini's Q4 of the first weights is 0.04 % smaller."""
        (new,) = options("Q4_K_M")
        old = Option("Q4", replace(new.shape, weight_bytes=new.shape.weight_bytes - new.shape.weight_bytes // 2000))
        for given in ([new, old], [old, new]):
            found = choose(given, Load(0), Room(32 * GIB, 8 * GIB), throughput(rate) if rate else None)
            assert found.option is given[0]


class TestSpeed:
    def test_bytes_over_rate_and_layers(self, llama: ModelShape) -> None:
        found = throughput(10e9).tokens_per_second(llama)
        assert found == pytest.approx(10e9 / (llama.active_bytes + 16 * 1024 * 2 * 512), rel=0.08)

    def test_only_the_experts_in_use_count(self, mixtral: ModelShape) -> None:
        dense = replace(mixtral, matrices=tuple(replace(each, active_bytes=each.bytes) for each in mixtral.matrices))
        quick, slow = (throughput(10e9).tokens_per_second(shape) for shape in (mixtral, dense))
        assert quick is not None
        assert slow is not None
        assert 3 < quick / slow < 4

    @pytest.mark.parametrize(("rate", "words"), [(0.31, "0.3"), (9.4, "9"), (23.7, "24"), (127.0, "130")])
    def test_no_more_digits_than_it_is_worth(self, rate: float, words: str) -> None:
        assert in_words(rate) == f"about {words} tokens/s"

    def test_rate_and_row_cost_from_two_times(self) -> None:
        rate, cost = solved((60e6, 100_000, 60e6 / 30e9 + 1e-4), (130e6, 50_000, 130e6 / 30e9 + 0.5e-4))  # type: ignore[arg-type]
        assert rate == pytest.approx(30e9)
        assert cost == pytest.approx(1e-9)

    def test_noise_does_not_make_a_cost_negative(self) -> None:
        assert solved((60_000_000, 100_000, 0.001), (130_000_000, 50_000, 0.01)) == (13e9, 0.0)


def test_an_estimate_is_near_the_header(llama: ModelShape) -> None:
    guess = guessed_shape(
        size=llama.weight_bytes, parameters=1_235_814_432, parameters_text=None, context_length=131072,
        quantization="Q4_K_M", architecture="llama",
    )  # fmt: skip
    real, guessed = (memory(shape, Load(4096)).needed for shape in (llama, guess))
    assert guessed == pytest.approx(real, rel=0.25)


def test_estimates_know_mixtures_from_the_makers_words() -> None:
    guess = guessed_shape(
        size=28_400_000_000, parameters=None, parameters_text="46.7B total, about 12.9B active (MoE)",
        context_length=32768, quantization="Q4_K_M", architecture="llama",
    )  # fmt: skip
    assert guess.is_mixture
    assert guess.active_bytes / guess.weight_bytes == pytest.approx(0.276, abs=0.01)


# As engine/device_throughput.py has them: bytes, rows, layers, seconds. 10 GB/s, and 0.1 ms a layer.
LONG = (100_000_000, 20_000, 4, 0.0104)
TIMINGS = {
    "layer": (1, 1, 32, 0.0032),
    **{f"{kind} long": LONG for kind in ("Q4_K", "Q8_0", "Q5_0")},
    **{f"{kind} short": (50_000_000, 80_000, 10, 0.006 + 0.0014) for kind in ("Q4_K", "Q8_0", "Q5_0")},
}


class TestMeasuredPace:
    def test_all_of_it(self) -> None:
        found = throughput_of(TIMINGS)
        assert found is not None and not found.is_rough
        assert found.layer_seconds == pytest.approx(1e-4)
        rate = found.rates["Q8_0"]
        assert LONG[0] / rate.bytes_per_second + LONG[1] * rate.row_seconds == pytest.approx(0.01)

    def test_the_beginning_is_enough_to_choose_by_and_tells_no_number(self) -> None:
        found = throughput_of({"Q4_K long": LONG})
        assert found is not None and found.is_rough
        assert found.rates["Q5_0"].bytes_per_second == pytest.approx(100e6 / 0.0104)
        model = guessed_shape(
            size=8 * GIB, parameters=int(7e9), parameters_text=None, context_length=None, quantization="Q8_0",
            architecture="llama",
        )  # fmt: skip
        reason = choose([Option("Q8_0", model)], Load(0), Room(64 * GIB, 64 * GIB), found).reason
        assert reason.endswith("slower than one reads")
        quick = replace(found, rates={kind: Rate(900e9, 0.0) for kind in found.rates})
        reason = choose([Option("Q8_0", model)], Load(0), Room(64 * GIB, 64 * GIB), quick).reason
        assert reason.endswith("quick enough to read along")

    def test_every_measurement_counts(self) -> None:
        for missing in TIMINGS:
            found = throughput_of({name: each for name, each in TIMINGS.items() if name != missing})
            assert found is not None and found.is_rough, missing
        assert throughput_of({"layer": TIMINGS["layer"]}) is None
        assert throughput_of({}) is None
