"""The projector of a model that sees: pulled, checked, shown, verified and removed with it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, run_slm
from gguf_samples import write_tiny_llama
from gguf_vision import write_tiny_gemma3, write_tiny_siglip
from hub_server import HubServer, Repo, gguf_bytes

from slmchat.catalog import file_names, projectors
from slmchat.catalog.gguf import read_header
from slmchat.catalog.library import from_path
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

REPO, FILE, MMPROJ = "owner/seeing-GGUF", "seeing-Q4_K_M.gguf", "mmproj-seeing-F16.gguf"


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_siglip(tmp_path_factory.mktemp("projector") / "mmproj.gguf").read_bytes()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def repo(hub: HubServer, projector: bytes) -> Repo:
    return hub.add(
        REPO, {FILE: gguf_bytes(seed=1), MMPROJ: projector, "mmproj-seeing-BF16.gguf": projector + bytes(32)}
    )


@pytest.fixture
def slm(home: Path, hub: HubServer) -> Callable[..., Outcome]:
    env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

    def call(*arguments: str | Path) -> Outcome:
        return run_slm(*arguments, home=home, env=env)

    return call


def catalog(home: Path, repo: Repo, *, has_projector: bool = True, **wrong: object) -> None:
    """The user's own models.toml with one model, `seer`."""
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True, exist_ok=True)

    def source(name: str, **facts: object) -> str:
        stated = {"hub": repo.name, "file": name, "revision": repo.commit, "size": len(repo.contents[name])}
        stated |= {"sha256": repo.sha256(name), **facts}
        return "[{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in stated.items()) + " }]"

    text = '[[model]]\nname = "seer"\nlicense = "apache-2.0"\ntags = ["vision"]\n'
    text += f"projector = {source(MMPROJ, **wrong)}\n" if has_projector else ""
    file.write_text(text + f'[[model.variant]]\nquantization = "Q4_K_M"\nsource = {source(FILE)}\n')


def shown(slm: Callable[..., Outcome], name: str = "seer") -> dict[str, object]:
    facts = json.loads(slm("show", name, "--json").out)
    assert isinstance(facts, dict)
    return facts


def test_a_model_comes_with_its_projector_and_goes_with_it(
    slm: Callable[..., Outcome], repo: Repo, home: Path, projector: bytes, hub: HubServer
) -> None:
    catalog(home, repo)
    dry = json.loads(slm("pull", "seer", "--dry-run", "--json").out)
    assert dry["projector"] == {"name": MMPROJ, "size": len(projector), "sha256": repo.sha256(MMPROJ)}
    assert dry["disk_needed"] == len(repo.contents[FILE]) + len(projector)
    assert f"pictures: {len(projector) / 1000:.1f} kB more" in slm("pull", "seer", "--dry-run").out
    pulled = slm("pull", "seer")
    assert pulled.code == 0, pulled.err
    assert f"installed its projector ({len(projector) / 1000:.1f} kB): seer@Q4_K_M can be shown pictures" in pulled.err
    its = shown(slm)["projector"]
    assert isinstance(its, dict)
    path = Path(str(its["path"]))
    assert path.read_bytes() == projector
    assert its["sha256"] == repo.sha256(MMPROJ)
    assert json.loads(slm("list", "--json").out)[0]["projector"] == its
    assert "(it sees pictures)" in slm("show", "seer").out
    assert f" kB + {len(projector) / 1000:.1f} kB" in slm("list").out
    hub.requests.clear()
    assert json.loads(slm("pull", "seer", "--json").out)["status"] == "already-installed"
    assert hub.requests == []
    verified = json.loads(slm("verify", "seer", "--json").out)[0]
    assert [file["path"] for file in verified["files"]][1] == str(path)
    removed = slm("rm", "seer")
    assert removed.code == 0
    assert not path.exists()


def test_a_damaged_projector_is_found_and_fetched_again(
    slm: Callable[..., Outcome], repo: Repo, home: Path, projector: bytes
) -> None:
    catalog(home, repo)
    assert slm("pull", "seer").code == 0
    path = Path(str(shown(slm)["projector"]["path"]))  # type: ignore[index]
    path.resolve().write_bytes(projector[:-8] + b"damaged!")
    verified = slm("verify", "seer")
    assert verified.code == 6
    assert "is damaged: its sha256" in verified.err
    again = slm("pull", "seer")
    assert again.code == 0, again.err
    assert path.read_bytes() == projector


def test_a_model_from_before_gets_its_projector_by_pulling_it_again(
    slm: Callable[..., Outcome], repo: Repo, home: Path, tmp_path: Path, hub: HubServer
) -> None:
    catalog(home, repo, has_projector=False)
    assert slm("pull", f"hf:{REPO}/{FILE}").code == 0  # nothing of this one is asked below
    assert slm("pull", "seer").code == 0
    assert shown(slm)["projector"] is None
    catalog(home, repo)
    picture = tmp_path / "dot.bmp"
    picture.write_bytes(dot())
    told = slm("run", "-m", "seer", "-f", picture, "what is this")
    assert told.code == 2
    assert "seer@Q4_K_M does not see pictures." in told.err
    assert "hint: the projector that it sees with is not here: slm pull seer@Q4_K_M" in told.err
    hub.requests.clear()
    assert slm("pull", "seer").code == 0
    assert shown(slm)["projector"] is not None
    assert not [request for request in hub.requests if FILE in request.path]  # the weights are not fetched again


def dot() -> bytes:
    """A bitmap of one pixel."""
    import struct

    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + b"\xff\0\0\0"


def test_without_its_projector_the_model_is_installed_all_the_same(
    slm: Callable[..., Outcome], repo: Repo, home: Path
) -> None:
    catalog(home, repo)
    repo.sent[MMPROJ] = b"x" * len(repo.contents[MMPROJ])
    pulled = slm("pull", "seer")
    assert pulled.code == 6
    assert "slm: seer@Q4_K_M is installed, but not the projector that it sees with: " in pulled.err
    assert "hint: text works; for pictures: slm pull seer" in pulled.err
    assert shown(slm)["projector"] is None
    repo.sent.clear()
    assert slm("pull", "seer").code == 0
    assert shown(slm)["projector"] is not None


def test_what_is_no_projector_is_refused(slm: Callable[..., Outcome], repo: Repo, home: Path) -> None:
    repo.contents[MMPROJ] = gguf_bytes(seed=2)
    catalog(home, repo)
    pulled = slm("pull", "seer")
    assert pulled.code == 6
    assert "is not a projector for images: it is a language model" in pulled.err


def test_of_a_repository_the_projector_beside_the_weights_is_taken(
    slm: Callable[..., Outcome], repo: Repo, projector: bytes
) -> None:
    dry = json.loads(slm("pull", f"hf:{REPO}", "--dry-run", "--json").out)
    assert dry["projector"]["name"] == MMPROJ  # F16 before BF16
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 0, pulled.err
    its = shown(slm, f"hf:{REPO}")["projector"]
    assert isinstance(its, dict)
    assert Path(str(its["path"])).read_bytes() == projector


def test_a_projector_that_another_variant_uses_stays(
    slm: Callable[..., Outcome], repo: Repo, home: Path, projector: bytes
) -> None:
    repo.contents["seeing-Q8_0.gguf"] = gguf_bytes(seed=3, quantization=7)
    assert slm("pull", f"hf:{REPO}@Q4_K_M", f"hf:{REPO}@Q8_0").code == 0
    path = Path(str(shown(slm, f"hf:{REPO}@Q8_0")["projector"]["path"]))  # type: ignore[index]
    assert slm("rm", f"hf:{REPO}@Q4_K_M").code == 0
    assert path.read_bytes() == projector
    assert slm("rm", f"hf:{REPO}@Q8_0").code == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m-Q4_0.gguf"], None),
        (["m-Q4_0.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-model-bf16.gguf", "mmproj-model-Q8_0.gguf"], "mmproj-model-Q8_0.gguf"),
        (["m.mmproj-f16.gguf", "mmproj.bin"], "m.mmproj-f16.gguf"),
        (["ammproject.gguf"], None),
    ],
)
def test_which_projector_of_a_repository(names: list[str], chosen: str | None) -> None:
    assert file_names.projector_in(names) == chosen


def test_beside_a_file_the_projector_of_its_width_is_found(tmp_path: Path) -> None:
    model = write_tiny_gemma3(tmp_path / "model.gguf")
    assert from_path(model).projector is None
    write_tiny_siglip(tmp_path / "mmproj-a-F16.gguf", embedding=32)
    right = write_tiny_siglip(tmp_path / "mmproj-b-Q8_0.gguf")
    (tmp_path / "mmproj-c-F16.gguf").write_bytes(b"GGUF and nothing more")
    shutil.copy(write_tiny_llama(tmp_path / "other.gguf", chat_template=None), tmp_path / "mmproj-d-F16.gguf")
    found = projectors.beside(model, read_header(model))
    assert found is not None
    assert found.path == right


def test_a_projector_that_is_not_there_is_not_looked_for_among_the_models(tmp_path: Path) -> None:
    with pytest.raises(SlmError, match=f"there is no projector {tmp_path}/none.gguf") as raised:
        projectors.from_path(tmp_path / "none.gguf")
    assert raised.value.exit_code is ExitCode.NO_MODEL
    assert raised.value.hint is not None and "mmproj" in raised.value.hint and "slm list" not in raised.value.hint
