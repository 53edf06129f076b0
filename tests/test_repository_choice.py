"""Which file of a repository `slm pull hf:OWNER/REPO` takes: by header and fit, against a Hub on the loopback."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, call_slm
from gguf_builder import STR, U32
from gguf_samples import entry, gguf, string, tensor
from hub_server import HubServer, gguf_bytes

from slmchat.models.repository_choice import MOST_HEADERS

pytestmark = pytest.mark.real

MODEL = gguf_bytes(seed=1)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def slm(home: Path, hub: HubServer) -> Callable[..., Outcome]:
    env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    return lambda *arguments, **more: call_slm(*arguments, home=home, env={**env, **more})


def other(architecture: str | None = "llama", *, type: str = "model", kind: int = 0, seed: int = 0) -> bytes:
    """A small GGUF that says it is something else than a chat model."""
    keys = [entry("general.architecture", STR, string(architecture))] if architecture else []
    keys += [entry("general.type", STR, string(type)), entry("seed", U32, struct.pack("<I", seed))]
    return gguf(keys, [tensor("a", [32], kind=kind)], data_bytes=4096)


def taken(outcome: Outcome) -> str:
    """The name of the file that was installed."""
    assert outcome.code == 0, outcome.err
    return Path(json.loads(outcome.out)["path"]).name


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3.6-27B-MTP-Q4_K_M.gguf", "model-draft-Q4_K_M.gguf", "vocab-model-Q4_K_M.gguf", "model-imatrix-Q4_K_M.gguf",
        "model-lora-merged-Q4_K_M.gguf", "DRAFT/model-Q4_K_M.gguf",
    ],
)  # fmt: skip
def test_a_model_is_found_whatever_its_name_hints_at(slm: Callable[..., Outcome], hub: HubServer, name: str) -> None:
    hub.add("owner/model-GGUF", {name: MODEL})
    for asked in ("hf:owner/model-GGUF@Q4_K_M", "hf:owner/model-GGUF"):
        assert taken(slm("pull", asked, "--json")) == Path(name).name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m-Q4_K_M.gguf", other("dflash")),
        ("eagle3-Q4_K_M.gguf", other("eagle3")),
        ("mtp-Q4_K_M.gguf", other("gemma4-assistant")),
        ("a-Q4_K_M.gguf", other("llama", type="adapter")),
        ("b-Q4_K_M.gguf", other("clip")),
        ("c-Q4_K_M.gguf", other(None, type="imatrix")),
        ("d-Q4_K_M.gguf", other("bert")),
        ("model-Q4_K_S.gguf", b"<html>not a model</html>" * 100),
        ("model-Q4_K_L.gguf", other(kind=77)),
    ],
)
def test_what_is_something_else_is_not_taken_for_the_model(
    slm: Callable[..., Outcome], hub: HubServer, name: str, content: bytes
) -> None:
    """The shortest name is no sign: each of these lies beside the model, and before it in the listing."""
    hub.add("owner/model", {name: content, "the-model-itself-with-a-long-name-Q4_K_M.gguf": MODEL})
    assert taken(slm("pull", "hf:owner/model", "--json")) == "the-model-itself-with-a-long-name-Q4_K_M.gguf"


def test_an_adapter_is_taken_where_there_is_no_model(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/adapters", {"lora-f16.gguf": other(type="adapter"), "mmproj-f16.gguf": other("clip")})
    assert taken(slm("pull", "hf:owner/adapters", "--json")) == "lora-f16.gguf"


def test_f16_is_not_taken_where_there_is_q4(slm: Callable[..., Outcome], hub: HubServer) -> None:
    """The names of microsoft/Phi-3-mini-4k-instruct-gguf."""
    q4, f16 = gguf_bytes(seed=1, size=200_000), gguf_bytes(seed=2, size=800_000, quantization=1)
    hub.add("microsoft/Phi-3", {"Phi-3-mini-fp16.gguf": f16, "Phi-3-mini-q4.gguf": q4})
    pulled = slm("pull", "hf:microsoft/Phi-3", "--json")
    assert taken(pulled) == "Phi-3-mini-q4.gguf"
    assert "hf:microsoft/Phi-3@Q4: the best that fits" in pulled.err
    assert len([request for request in hub.asked("storage", "GET") if request.range]) == 1  # one header, once


def test_every_file_that_is_left_out_is_named_as_what_it_is(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/parts", {"draft-Q8_0.gguf": other("eagle3"), "m.imatrix.gguf": other(None, type="imatrix")})
    pulled = slm("pull", "hf:owner/parts")
    assert (pulled.code, pulled.out) == (6, "")
    assert "owner/parts has no model that slm can run: " in pulled.err
    assert "draft-Q8_0.gguf is a draft head (eagle3)" in pulled.err
    assert "m.imatrix.gguf is an importance matrix (imatrix)" in pulled.err
    hub.add("owner/one", {"mmproj-one-f16.gguf": other("clip")})
    assert "slm: mmproj-one-f16.gguf is a projector (mmproj)" in slm("pull", "hf:owner/one").err
    hub.add("owner/none", {"model.safetensors": b"x"})
    none = slm("pull", "hf:owner/none")
    assert none.code == 3
    assert "owner/none has no GGUF file" in none.err


def test_a_large_repository_of_nothing_costs_a_few_headers(slm: Callable[..., Outcome], hub: HubServer) -> None:
    junk = other("flux")
    hub.add("owner/junk", {f"{number:05}/picture-{number}-Q4_0.gguf": junk for number in range(10_000)})
    pulled = slm("pull", "hf:owner/junk")
    assert pulled.code == 6
    assert len(pulled.err) < 1000
    assert len(hub.asked("storage", "GET")) <= MOST_HEADERS
    missing = slm("pull", "hf:owner/junk@Q8_0")
    assert missing.code == 3
    assert len(missing.err) < 1000


def test_in_a_large_repository_the_model_is_found(slm: Callable[..., Outcome], hub: HubServer) -> None:
    files = {f"tests/data-{number}-Q4_K_M.gguf": b"junk" for number in range(10_000)}
    hub.add("owner/large-model", {**files, "large-model-Q4_K_M.gguf": MODEL})
    assert taken(slm("pull", "hf:owner/large-model", "--json")) == "large-model-Q4_K_M.gguf"


def test_names_that_lead_elsewhere_are_never_asked_for(slm: Callable[..., Outcome], hub: HubServer, home: Path) -> None:
    repo = hub.add("owner/climbs", {"../../up-Q4_K_M.gguf": MODEL, "a\\b-Q4_K_M.gguf": MODEL, "/etc/x.gguf": MODEL})
    pulled = slm("pull", "hf:owner/climbs")
    assert pulled.code == 3
    assert "has no GGUF file" in pulled.err
    assert not hub.asked("storage", "GET")
    repo.contents["sound-Q4_K_M.gguf"] = gguf_bytes(seed=9)
    assert taken(slm("pull", "hf:owner/climbs", "--json")) == "sound-Q4_K_M.gguf"
    assert not list(home.rglob("up-Q4_K_M.gguf"))


@pytest.mark.parametrize(
    "lie",
    [
        other("clip", type="model"),
        other("llama", type="adapter"),
        gguf([entry("general.architecture", U32, struct.pack("<I", 7))], [tensor("a", [32])], data_bytes=4096),
        gguf(
            [entry("general.type", U32, bytes(4)), entry("general.architecture", STR, b"\xff" * 8)], (), data_bytes=64
        ),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60),
    ],
)
def test_a_header_that_lies_about_its_type_ends_in_a_sentence(
    slm: Callable[..., Outcome], hub: HubServer, lie: bytes
) -> None:
    hub.add("owner/liar", {"liar-Q4_K_M.gguf": lie})
    pulled = slm("pull", "hf:owner/liar")
    assert pulled.code in (0, 6)  # an adapter is installed as the adapter that it says it is
    assert "Traceback" not in pulled.err
    assert "liar" in pulled.err
    assert json.loads(slm("list", "--json").out or "[]") == [] or pulled.code == 0


def test_bytes_that_are_not_those_of_the_header_are_never_installed(
    slm: Callable[..., Outcome], hub: HubServer
) -> None:
    repo = hub.add("owner/changes", {"changes-Q4_K_M.gguf": other("clip")})
    repo.sent["changes-Q4_K_M.gguf"] = MODEL[: len(other("clip"))]  # the header of a model, for a file of another hash
    pulled = slm("pull", "hf:owner/changes")
    assert pulled.code == 6
    assert json.loads(slm("list", "--json").out) == []


def test_without_ranges_the_names_and_the_sizes_decide(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.has_ranges = False
    hub.add("owner/model", {"model-F16.gguf": gguf_bytes(2, 500_000, 1), "model-Q4_K_M.gguf": MODEL})
    assert taken(slm("pull", "hf:owner/model", "--json")) == "model-Q4_K_M.gguf"


def test_ud_and_plain_are_one_file(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/model", {"model-UD-Q4_K_XL.gguf": MODEL, "model-Q8_0.gguf": gguf_bytes(3, quantization=7)})
    first = slm("pull", "hf:owner/model@Q4_K_XL", "--json")
    assert json.loads(first.out)["quantization"] == "UD-Q4_K_XL"
    hub.requests.clear()
    for name in ("hf:owner/model@UD-Q4_K_XL", "hf:owner/model@q4_k_xl"):
        assert json.loads(slm("pull", name, "--json").out)["status"] == "already-installed"
        assert json.loads(slm("show", name, "--json").out)["quantization"] == "UD-Q4_K_XL"
    assert hub.requests == []
    assert [entry["quantization"] for entry in json.loads(slm("list", "--json").out)] == ["UD-Q4_K_XL"]
    assert slm("rm", "hf:owner/model@Q4_K_XL").code == 0
    assert json.loads(slm("list", "--json").out) == []


def test_a_quantization_that_no_name_states_is_looked_for_in_the_headers(
    slm: Callable[..., Outcome], hub: HubServer
) -> None:
    hub.add("owner/plain", {"one.gguf": gguf_bytes(1), "two.gguf": gguf_bytes(2, quantization=7)})
    assert taken(slm("pull", "hf:owner/plain@Q8_0", "--json")) == "two.gguf"
    assert slm("pull", "hf:owner/plain@Q6_K").code == 3


def test_a_gated_repository_can_be_looked_at(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/gated", {"gated-Q4_K_M.gguf": MODEL, "gated-F16.gguf": gguf_bytes(2, 900_000, 1)}, is_gated=True)
    told = slm("pull", "hf:owner/gated", "--dry-run", "--json")
    assert json.loads(told.out)["quantization"] == "Q4_K_M"
    assert slm("pull", "hf:owner/gated").code == 5


def test_what_does_not_fit_is_not_taken(slm: Callable[..., Outcome], hub: HubServer) -> None:
    """Sizes of the listing and one header are enough: a variant of a petabyte is not considered."""
    hub.add("owner/model", {"model-Q4_K_M.gguf": MODEL, "model-Q3_K_S.gguf": gguf_bytes(4, 100_000, 11)})

    def huge(info: dict[str, object]) -> dict[str, object]:
        for sibling in info["siblings"]:  # type: ignore[attr-defined]
            if "Q4_K_M" in sibling["rfilename"]:
                sibling["size"] = 1 << 43
        return info

    hub.listing = huge
    pulled = slm("pull", "hf:owner/model", "--dry-run", "--json")
    assert json.loads(pulled.out)["quantization"] == "Q3_K_S"
