"""LoRA adapters: a known effect on real weights, what is refused before llama.cpp sees it, `--lora`, `/lora`, names."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, run_slm
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama, write_tiny_phi3
from hub_server import HubServer, Repo
from lora_samples import write_lora
from terminal import Terminal

from slmchat.catalog import adapter_names, lora
from slmchat.catalog.gguf import read_header
from slmchat.engine import llama
from slmchat.engine.adapters import Adapters
from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import Adapter, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish, Usage
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0)
DOWN = "blk.1.ffn_down.weight"  # of the tiny models: 64 x 64
PUSHED = " banana"
SKY = "The sky is"


def _adapter(path: Path, scale: float = 1.0) -> Adapter:
    return Adapter(path, scale, lora.stamp_of(path))


def _text(session: LlamaSession, prompt: str = SKY, n: int = 8) -> tuple[str, Usage]:
    """The greedy completion, and what it took."""
    text = ""
    for event in session.generate(Prompt((Part(prompt),)), GREEDY, Limits(n)):
        if isinstance(event, Chunk):
            text += event.text
        elif isinstance(event, Finish):
            return text, event.usage
    raise AssertionError("no finish")


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(smollm2)
    yield engine
    engine.close()


@pytest.fixture
def session(smol: llama.LlamaEngine) -> Iterator[LlamaSession]:
    made = smol.open_session(SessionSettings(n_ctx=512, threads=2, threads_batch=2))
    yield made
    made.close()


def _tensor(path: Path, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
    """The bytes of a tensor by rows, and its type. GGUFReader takes 2 seconds for the vocabulary before it."""
    header = read_header(path)
    (tensor,) = (each for each in header.tensors if each.name == name)
    kind = GGMLQuantizationType(tensor.type)
    block, size = GGML_QUANT_SIZES[kind]
    width = tensor.shape[0] // block * size
    begin = header.data_offset + tensor.offset
    return np.memmap(path, np.uint8, "r")[begin : begin + tensor.elements // block * size].reshape(-1, width), kind


@pytest.fixture(scope="module")
def pushing(smol: llama.LlamaEngine, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of rank 1 over the last layer: what they add to it makes `PUSHED` the most probable token.

    `B` is the direction that the output (which is the embedding) reads as that token and no other, seen through the
    last norm: least squares. Whether `A` times the layer's input is positive is up to the model: of +A and -A one
    pushes.
    """
    rows, kind = _tensor(smollm2, "token_embd.weight")
    norm = dequantize(*_tensor(smollm2, "output_norm.weight"))[0]
    (token,) = smol.vocabulary.tokenize(Prompt((Part(PUSHED),)))
    wanted = dequantize(rows[token : token + 1], kind)[0]
    others = dequantize(rows[::8], kind)  # all 49,152 of them take 5 seconds
    direction = np.linalg.solve(others.T @ others + np.outer(wanted, wanted), wanted) / norm
    b = (1000 * direction / np.linalg.norm(direction)).reshape(-1, 1)
    a = np.random.default_rng(0).normal(0, 1, (1, 1536))
    folder = tmp_path_factory.mktemp("adapters")
    name = "blk.29.ffn_down.weight"
    return {
        "plus": write_lora(folder / "plus.gguf", {name: (a, b)}),
        "minus": write_lora(folder / "minus.gguf", {name: (-a, b)}),
        "zero": write_lora(folder / "zero.gguf", {name: (a, 0 * b)}),
    }


@pytest.fixture(scope="module")
def pusher(smol: llama.LlamaEngine, pushing: dict[str, Path]) -> Path:
    """The one of +A and -A that pushes behind `SKY`."""
    found = []
    for name in ("plus", "minus"):
        settings = SessionSettings(n_ctx=256, threads=2, threads_batch=2, adapters=(_adapter(pushing[name]),))
        made = smol.open_session(settings)
        found += [pushing[name]] if _text(made, n=1)[0] == PUSHED else []
        made.close()
    assert len(found) == 1
    return found[0]


@pytest.mark.model
class TestRealWeights:
    def test_an_adapter_of_zeros_changes_nothing(self, session: LlamaSession, pushing: dict[str, Path]) -> None:
        before, _ = _text(session, n=24)
        session.set_adapters([_adapter(pushing["zero"])])
        after, usage = _text(session, n=24)
        assert after == before
        assert usage.cached_tokens == 0  # it was computed, not remembered

    def test_one_pushes_its_token_and_scale_0_is_none(self, session: LlamaSession, pusher: Path) -> None:
        plain, _ = _text(session)
        session.set_adapters([_adapter(pusher)])
        pushed, usage = _text(session)
        assert pushed.startswith(PUSHED)
        assert not plain.startswith(PUSHED)
        assert usage.cached_tokens == 0
        session.set_adapters([_adapter(pusher, 0)])
        assert _text(session)[0] == plain
        session.set_adapters([_adapter(pusher)])
        assert _text(session)[0] == pushed
        session.set_adapters([])
        assert _text(session)[0] == plain

    def test_what_does_not_change_is_not_evaluated_again(self, session: LlamaSession, pusher: Path) -> None:
        session.set_adapters([_adapter(pusher)])
        _text(session)
        session.set_adapters([_adapter(pusher)])
        usage = _text(session)[1]
        assert usage.cached_tokens == usage.prompt_tokens - 1 > 0
        session.set_adapters([])
        _text(session)
        session.set_adapters([_adapter(pusher, 0)])
        assert _text(session)[1].cached_tokens > 0

    def test_states_on_disk_are_of_the_same_adapters(
        self, smol: llama.LlamaEngine, pusher: Path, tmp_path: Path
    ) -> None:
        text = "The sky over the sea was grey, and the wind came from the north. " * 5

        def opened(*adapters: Adapter) -> LlamaSession:
            store = KvStore(tmp_path / "states")
            return smol.open_session(SessionSettings(512, 2, 2, adapters=adapters, store=store))

        first = opened(_adapter(pusher))
        _text(first, text, 2)
        first.keep("conversation")
        first.close()
        for adapters, is_known in (((_adapter(pusher),), True), ((), False), ((_adapter(pusher, 0.5),), False)):
            again = opened(*adapters)
            assert (_text(again, text, 2)[1].cached_tokens > 0) is is_known
            again.close()
        switched = opened()
        switched.set_adapters([_adapter(pusher)])
        assert _text(switched, text, 2)[1].cached_tokens > 0
        switched.set_adapters([])
        assert _text(switched, text, 2)[1].cached_tokens == 0
        switched.close()

    def test_what_batches_were_proved_to_compute_is_proved_anew(self, session: LlamaSession, pusher: Path) -> None:
        before = session._exactness
        session.set_adapters([])
        assert session._exactness is before
        session.set_adapters([_adapter(pusher)])
        assert session._exactness is not before

    def test_rescaled_in_a_session_is_as_in_a_fresh_one(
        self, smol: llama.LlamaEngine, session: LlamaSession, pusher: Path
    ) -> None:
        told = {}
        for scale in (1.0, 0.001, 0.003):
            session.set_adapters([_adapter(pusher, scale)])
            told[scale] = _text(session)[0]
        for scale, text in told.items():
            settings = SessionSettings(n_ctx=512, threads=2, threads_batch=2, adapters=(_adapter(pusher, scale),))
            fresh = smol.open_session(settings)
            assert _text(fresh)[0] == text
            fresh.close()
        assert len(set(told.values())) > 1

    def test_both_signs_together_cancel(self, session: LlamaSession, pushing: dict[str, Path]) -> None:
        plain, _ = _text(session)
        session.set_adapters([_adapter(pushing["plus"], 0.001), _adapter(pushing["minus"], 0.001)])
        assert _text(session)[0] == plain

    def test_a_file_that_was_replaced_is_another_adapter(
        self, session: LlamaSession, pushing: dict[str, Path], pusher: Path, tmp_path: Path
    ) -> None:
        plain, _ = _text(session)
        file = tmp_path / "trained.gguf"
        file.write_bytes(pushing["zero"].read_bytes())
        session.set_adapters([_adapter(file)])
        assert _text(session)[0] == plain
        file.unlink()
        file.write_bytes(pusher.read_bytes())
        session.set_adapters([_adapter(file)])
        assert _text(session)[0].startswith(PUSHED)

    def test_run_and_its_name_of_their_own(self, home: Path, smollm2: Path, pusher: Path) -> None:
        (home / "config").mkdir(parents=True)
        entry = f'name = "bananas"\nbase = "{smollm2}"\nlora = ["{pusher}=0.5", "{pusher}=1"]'
        (home / "config" / "models.toml").write_text(f"[[model]]\n{entry}\nsampler = {{ temperature = 0.0 }}\n")
        asked = ("run", "--raw", "-n", "1", SKY)
        plain = run_slm(*asked, "-m", smollm2, "--temp", "0", home=home)
        assert (plain.code, plain.out) != (0, f"{PUSHED}\n")
        given = run_slm(*asked, "-m", smollm2, "--temp", "0", "--lora", f"{pusher}=2", "-v", home=home)
        assert (given.code, given.out) == (0, f"{PUSHED}\n")
        assert f"adapters: {pusher.name}=2" in given.err
        named = run_slm(*asked, "-m", "bananas", "--json", home=home)
        assert json.loads(named.out)["model"] == "bananas"
        assert json.loads(named.out)["completion"] == PUSHED
        off = run_slm(*asked, "-m", "bananas", "--lora", f"{pusher}=0", home=home)
        assert off.out == plain.out
        # it was used last
        assert run_slm(*asked, home=home).out == f"{PUSHED}\n"

    def test_a_chat_lists_adds_rescales_and_drops(self, home: Path, smollm2: Path, pusher: Path) -> None:
        with Terminal(["chat", smollm2, "--raw", "--temp", "0", "-n", "2"], home=home) as terminal:
            terminal.wait_for(r"^> ?$|\n> ?(\n|$)")
            terminal.enter("/lora")
            terminal.wait_for(r"No adapter counts; /lora PATH")
            terminal.enter(SKY)
            terminal.wait_for_count(r"cut at the limit", 1)
            assert "banana" not in terminal.everything
            terminal.enter(f"/lora {pusher}")
            terminal.wait_for(rf"From here on with {pusher.name}\.[\s\S]*lora {pusher.name}")
            terminal.enter("/retry")
            terminal.wait_for_count(r"cut at the limit", 2)
            assert "banana" in terminal.everything
            terminal.enter(f"/lora {pusher.name}=-0.5")
            terminal.wait_for(rf"From here on with {pusher.name}=-0.5\.")
            terminal.enter("/lora")
            terminal.wait_for(r"scale -0.5")
            terminal.enter(f"/lora {pusher.name}=0")
            terminal.wait_for(r"No adapter counts from here on")
            terminal.enter("/lora")
            terminal.wait_for(rf"{pusher.name}: off")
            terminal.enter("/lora /no/such.gguf")
            terminal.wait_for(r"there is no adapter /no/such.gguf")
            terminal.enter("/lora none")
            terminal.wait_for_count(r"No adapter counts from here on", 2)
            terminal.enter("/exit")
            assert terminal.end() == 0


class TestTinyModels:
    def test_the_same_tokens_as_weights_that_hold_the_change(self, tmp_path: Path) -> None:
        tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
        random = np.random.default_rng(1)
        changed = ("blk.0.attn_q.weight", "blk.1.attn_output.weight", DOWN)
        matrices = {name: (random.normal(0, 0.5, (4, 64)), random.normal(0, 0.5, (64, 4))) for name in changed}
        adapter = write_lora(tmp_path / "change.gguf", matrices, alpha=8.0)  # alpha / rank: counts twice
        merged = tmp_path / "merged.gguf"
        merged.write_bytes(tiny.read_bytes())
        with merged.open("r+b") as file:
            for tensor in GGUFReader(tiny).tensors:
                if tensor.name in matrices:
                    a, b = matrices[tensor.name]
                    weights = tensor.data.astype(np.float32) + 0.75 * 2 * (b @ a)
                    file.seek(tensor.data_offset)
                    file.write(weights.astype(np.float16).tobytes())
        told = []
        for path, adapters in ((tiny, (_adapter(adapter, 0.75),)), (merged, ()), (tiny, ())):
            engine = llama.load(path)
            session = engine.open_session(SessionSettings(128, 1, 1, adapters=adapters))
            told.append(_text(session, "hello world", 24)[0])
            session.close()
            engine.close()
        assert told[0] == told[1]
        assert told[0] != told[2]

    def test_the_embedding_has_its_matrices_the_other_way_round(self, tmp_path: Path) -> None:
        """With an output of its own a model can have its embedding changed; what is refused elsewhere works here."""
        tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
        tokens = next(tensor for tensor in GGUFReader(tiny).tensors if tensor.name == "token_embd.weight").shape[1]
        a, b = np.ones((tokens, 2)), np.full((64, 2), 3.0)
        path = write_lora(tmp_path / "embedding.gguf", {"token_embd.weight": (a, b)})
        adapter = lora.Base([tiny]).adapter(path, 1.0)
        engine = llama.load(tiny)
        plain = engine.open_session(SessionSettings(128, 1, 1))
        changed = engine.open_session(SessionSettings(128, 1, 1, adapters=(adapter,)))
        assert _text(plain, "hello", 12)[0] != _text(changed, "hello", 12)[0]
        plain.close()
        changed.close()
        engine.close()

    def test_what_llama_cpp_refuses_is_a_sentence_and_the_session_stays(self, tmp_path: Path) -> None:
        tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
        wrong = write_lora(tmp_path / "wrong.gguf", {"blk.7.ffn_down.weight": (np.ones((1, 64)), np.ones((64, 1)))})
        engine = llama.load(tiny)
        session = engine.open_session(SessionSettings(128, 1, 1))
        before = _text(session, "hello", 8)[0]
        with pytest.raises(SlmError, match=r"cannot use the adapter wrong.gguf.*blk.7.ffn_down") as caught:
            session.set_adapters([_adapter(wrong)])
        assert caught.value.exit_code is ExitCode.DAMAGED
        assert _text(session, "hello", 8)[0] == before
        with pytest.raises(SlmError, match=r"wrong\.gguf"):
            engine.open_session(SessionSettings(128, 1, 1, adapters=(_adapter(wrong),)))
        session.close()
        engine.close()


ONE = (np.ones((1, 64)), np.ones((64, 1)))


class TestRefusals:
    """Each of these is refused by the header alone; llama.cpp aborts on some of them, which nothing could catch."""

    @pytest.fixture
    def base(self, tmp_path: Path) -> lora.Base:
        return lora.Base([write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)])

    def refused(self, base: lora.Base, path: Path, code: ExitCode = ExitCode.DAMAGED) -> str:
        with pytest.raises(SlmError) as caught:
            base.adapter(path, 1.0)
        assert caught.value.exit_code is code
        return caught.value.message

    def test_what_belongs_is_taken_with_its_stamp(self, base: lora.Base, tmp_path: Path) -> None:
        path = write_lora(tmp_path / "a.gguf", {DOWN: ONE}, more={"output_norm.weight": np.ones(64, np.float32)})
        adapter = base.adapter(path, 0.25)
        assert (adapter.path, adapter.scale, adapter.stamp[0]) == (path, 0.25, path.stat().st_size)

    @pytest.mark.parametrize(
        ("matrices", "reason"),
        [
            ({"blk.5.ffn_down.weight": ONE}, "the model has no tensor 'blk.5.ffn_down.weight'"),
            ({DOWN: (np.ones((1, 32)), np.ones((64, 1)))}, "other sizes than the model's"),
            ({DOWN: (np.ones((1, 64)), np.ones((32, 1)))}, "other sizes than the model's"),
            ({DOWN: (np.ones((2, 64)), np.ones((64, 3)))}, "other sizes than the model's"),
            ({DOWN: (np.ones((2, 1, 64)), np.ones((2, 64, 1)))}, "other sizes than the model's"),
            ({"token_embd.weight": ONE}, "other sizes than the model's"),
            ({}, "changes nothing"),
        ],
    )
    def test_matrices(
        self, base: lora.Base, tmp_path: Path, matrices: dict[str, tuple[np.ndarray, np.ndarray]], reason: str
    ) -> None:
        assert reason in self.refused(base, write_lora(tmp_path / "a.gguf", matrices))

    def test_halves_strangers_and_types(self, base: lora.Base, tmp_path: Path) -> None:
        half = {f"{DOWN}.lora_a": np.ones((1, 64), np.float32)}
        assert "has no counterpart" in self.refused(base, write_lora(tmp_path / "h.gguf", {}, more=half))
        other = {"blk.0.attn_q.bias": np.ones(64, np.float32)}
        assert "not part of a LoRA" in self.refused(base, write_lora(tmp_path / "o.gguf", {DOWN: ONE}, more=other))
        whole = {f"{DOWN}.lora_a": np.ones((1, 64), np.int32), f"{DOWN}.lora_b": np.ones((64, 1), np.int32)}
        assert "is in I32" in self.refused(base, write_lora(tmp_path / "t.gguf", {}, more=whole))

    def test_another_architecture_and_other_kinds_of_files(self, base: lora.Base, tmp_path: Path) -> None:
        gemma = write_lora(tmp_path / "g.gguf", {DOWN: ONE}, architecture="gemma3", base="Gemma 3 1B")
        with pytest.raises(SlmError, match="architecture 'gemma3', and the model has 'llama'") as caught:
            base.adapter(gemma, 1.0)
        assert caught.value.hint == "its file says that it was made for Gemma 3 1B"
        long = write_lora(tmp_path / "l.gguf", {DOWN: ONE}, architecture="x\n" * 9999, kind="y" * 9999)
        assert len(self.refused(base, long)) < 300
        assert "kind 'cvec'" in self.refused(base, write_lora(tmp_path / "k.gguf", {DOWN: ONE}, kind="cvec"))
        model = write_tiny_phi3(tmp_path / "phi.gguf")
        assert "is not a LoRA adapter" in self.refused(base, model)
        (tmp_path / "no.gguf").write_bytes(b"no")
        self.refused(base, tmp_path / "no.gguf")
        assert "there is no adapter" in self.refused(base, tmp_path / "none.gguf", ExitCode.NO_MODEL)

    def test_values_on_which_llama_cpp_aborts(self, base: lora.Base, tmp_path: Path) -> None:
        path = write_lora(tmp_path / "a.gguf", {DOWN: ONE})
        key = b"adapter.lora.alpha"
        data = path.read_bytes()
        at = data.index(key) + len(key)
        assert struct.unpack_from("<I", data, at)[0] == 6  # a 32-bit float; a 32-bit whole number is 4
        path.write_bytes(data[:at] + struct.pack("<I", 4) + data[at + 4 :])
        assert "adapter.lora.alpha is not a 32-bit float" in self.refused(base, path)
        path.write_bytes(data.replace(key, b"adapter.lora.alphX"))
        base.adapter(path, 1.0)  # without alpha the rank counts

    @pytest.mark.model
    def test_the_embedding_of_a_model_that_is_its_output_too(self, smollm2: Path, tmp_path: Path) -> None:
        """llama.cpp ends the process when such an adapter is evaluated."""
        path = write_lora(tmp_path / "e.gguf", {"token_embd.weight": (np.ones((49152, 1)), np.ones((576, 1)))})
        assert "which in this model is the output, too" in self.refused(lora.Base([smollm2]), path)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.gguf", ("a.gguf", 1.0)),
        ("a.gguf=0.5", ("a.gguf", 0.5)),
        ("a=b.gguf", ("a=b.gguf", 1.0)),
        ("a=b.gguf=-2", ("a=b.gguf", -2.0)),
        ("hf:o/r/f.gguf#main=0", ("hf:o/r/f.gguf#main", 0.0)),
    ],
)
def test_what_a_scale_is(text: str, meant: tuple[str, float]) -> None:
    assert adapter_names.parse(text) == meant
    assert adapter_names.parse(adapter_names.labelled(*meant)) == meant


@pytest.mark.parametrize("text", ["a.gguf=nan", "a.gguf=inf", "a.gguf=1e9", "=0.5"])
def test_what_no_scale_is(text: str) -> None:
    with pytest.raises(SlmError) as caught:
        adapter_names.parse(text)
    assert caught.value.exit_code is ExitCode.USAGE


class TestNames:
    """A base and its adapters as a model of the user's own: fetched, listed, shown, verified, removed."""

    BASE = "hf:owner/tiny-GGUF"
    HUB = "hf:owner/style-GGUF/style.gguf"

    @pytest.fixture
    def repos(self, tmp_path: Path, hub: HubServer) -> tuple[Repo, Repo]:
        tiny = write_tiny_llama(tmp_path / "t.gguf", chat_template=CHATML_TEMPLATE)
        style = write_lora(tmp_path / "s.gguf", {DOWN: ONE})
        first = hub.add("owner/tiny-GGUF", {"tiny-F16.gguf": tiny.read_bytes()})
        return first, hub.add("owner/style-GGUF", {"style.gguf": style.read_bytes()})

    @pytest.fixture
    def hub(self) -> Iterator[HubServer]:
        with HubServer() as server:
            yield server

    @pytest.fixture
    def slm(self, home: Path, hub: HubServer) -> Callable[..., Outcome]:
        env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return lambda *arguments: run_slm(*arguments, home=home, env=env)

    def entry(self, home: Path, **keys: str) -> None:
        (home / "config").mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
        (home / "config" / "models.toml").write_text(f"# mine\n[[model]]\n{lines}", encoding="utf-8")

    def test_its_life(self, slm: Callable[..., Outcome], home: Path, repos: tuple[Repo, Repo], tmp_path: Path) -> None:
        local = write_lora(tmp_path / "local.gguf", {DOWN: ONE})
        self.entry(home, name='"styled"', base=f'"{self.BASE}"', lora=f'["{self.HUB}=0.5", "{local}"]')

        missing = slm("run", "-m", "styled", "hi")
        assert missing.code == 3
        assert "styled is not complete: hf:owner/tiny-GGUF is not installed" in missing.err
        assert "hint: slm pull styled" in missing.err
        (entry,) = json.loads(slm("list", "--json").out)
        assert (entry["name"], entry["is_present"]) == ("styled", False)
        assert "not complete" in slm("list").out

        planned = json.loads(slm("pull", "styled", "--dry-run", "--json").out)
        assert planned["base"]["installed"] is None
        pulled = slm("pull", "styled", "--json")
        assert pulled.code == 0, pulled.err
        facts = json.loads(pulled.out)
        assert (facts["status"], facts["base"]["name"]) == ("installed", self.BASE)
        assert [each["scale"] for each in facts["lora"]] == [0.5, 1.0]
        assert json.loads(slm("pull", "styled", "--json").out)["status"] == "already-installed"

        assert slm("run", "-m", "styled", "-n", "2", "hello").code == 0
        named = {each["name"]: each for each in json.loads(slm("list", "--json").out)}
        assert (named["styled"]["base"], named["styled"]["is_present"]) == (f"{self.BASE}@F16", True)
        assert named[self.HUB]["tags"] == ["adapter"]
        assert f"{self.BASE}@F16 with style.gguf=0.5, local.gguf" in slm("list").out
        shown = json.loads(slm("show", "styled", "--json").out)
        assert [Path(each["path"]).name for each in shown["adapters"]] == ["style.gguf", "local.gguf"]
        assert slm("verify", "styled").out.count("intact") == 2

        alone = slm("run", "-m", self.HUB, "hi")
        assert (alone.code, "is a LoRA adapter, not a model" in alone.err) == (6, True)
        given = slm("run", "-m", self.BASE, "--lora", f"{self.HUB}=2", "-n", "2", "-v", "hello")
        assert (given.code, "adapters: style.gguf=2" in given.err) == (0, True)

        removed = slm("rm", self.BASE)
        assert "styled needed it; `slm pull styled` fetches it again" in removed.err
        assert "styled needed it" in slm("rm", self.HUB).err
        assert slm("rm", "styled").code == 0
        assert (home / "config" / "models.toml").read_text() == "# mine\n"
        assert local.exists()

    def test_the_base_stays_needed_only_while_it_is_gone(
        self, slm: Callable[..., Outcome], home: Path, hub: HubServer, tmp_path: Path
    ) -> None:
        tiny = write_tiny_llama(tmp_path / "t.gguf", chat_template=None).read_bytes()
        hub.add("owner/tiny-GGUF", {"tiny-F16.gguf": tiny, "tiny-Q8_0.gguf": tiny})
        assert slm("pull", f"{self.BASE}@F16", f"{self.BASE}@Q8_0").code == 0
        self.entry(home, name='"styled"', base=f'"{self.BASE}"', lora='["/x.gguf"]')
        assert "needed it" not in slm("rm", f"{self.BASE}@Q8_0").err
        assert "styled needed it" in slm("rm", f"{self.BASE}@F16").err

    def test_adapters_of_another_model_are_not_completed(
        self, slm: Callable[..., Outcome], home: Path, repos: tuple[Repo, Repo], tmp_path: Path
    ) -> None:
        local = write_lora(tmp_path / "local.gguf", {DOWN: ONE}, architecture="gemma3")
        self.entry(home, name='"styled"', base=f'"{self.BASE}"', lora=f'["{local}"]')
        pulled = slm("pull", "styled")
        assert (pulled.code, "does not belong to this model" in pulled.err) == (6, True)
        assert slm("run", "-m", "styled", "hi").code == 6

    @pytest.mark.parametrize(
        ("keys", "reason"),
        [
            ({"name": '"a"', "base": '"b:1"'}, "lora is missing"),
            ({"name": '"a"', "lora": '["/x.gguf"]'}, "base is missing"),
            ({"name": '"a"', "base": '"b:1"', "lora": "[]"}, "at least one entry"),
            ({"name": '"a"', "base": '"b:1"', "lora": '["x.gguf"]'}, "must be an absolute path"),
            ({"name": '"a"', "base": '"b:1"', "lora": '["/x.gguf=1e9"]'}, "must be an absolute path"),
            ({"name": '"a"', "base": '"B B"', "lora": '["/x.gguf"]'}, "must be the name of a model"),
            ({"name": '"a"', "base": '"a"', "lora": '["/x.gguf"]'}, "must be another name"),
            ({"name": '"a"', "base": '"b"', "lora": '["/x.gguf"]', "target": '"hf:o/r"'}, "does not go together"),
        ],
    )
    def test_mistakes_in_the_file(
        self, slm: Callable[..., Outcome], home: Path, keys: dict[str, str], reason: str
    ) -> None:
        self.entry(home, **keys)
        told = slm("list")
        assert (told.code, reason in told.err) == (2, True), told.err

    def test_adapters_over_adapters(self, slm: Callable[..., Outcome], home: Path) -> None:
        self.entry(home, name='"a"', base='"smollm2:135m"', lora='["/x.gguf"]')
        more = '[[model]]\nname = "b"\nbase = "a"\nlora = ["/y.gguf"]\n'
        with (home / "config" / "models.toml").open("a") as file:
            file.write(more)
        told = slm("run", "-m", "b", "hi")
        assert (told.code, "the base of b is a, which has adapters itself" in told.err) == (2, True)

    def test_an_adapter_is_no_model(self, slm: Callable[..., Outcome], tmp_path: Path) -> None:
        path = write_lora(tmp_path / "style.gguf", {DOWN: ONE}, base="Tiny Llama")
        for arguments in (("run", "-m", path, "hi"), ("add", "mine", path), ("show", path), ("pull", path)):
            told = slm(*arguments)
            assert told.code == 6
            assert f"{path} is a LoRA adapter, not a model; it was made for Tiny Llama." in told.err
            assert f"--lora {path}" in told.err


def test_every_adapter_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
    adapter = _adapter(write_lora(tmp_path / "a.gguf", {DOWN: ONE}))
    engine = llama.load(tiny)
    loads = []
    real = Adapters._load
    monkeypatch.setattr(Adapters, "_load", lambda self, each: loads.append(each) or real(self, each))
    first, second = (engine.open_session(SessionSettings(128, 1, 1, adapters=(adapter,))) for _ in range(2))
    assert loads == [adapter, adapter]
    assert len(engine.loaded.adapters._loaded) == 1
    first.close()
    second.close()
    engine.close()
