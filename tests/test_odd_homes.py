"""Homes, disks and names that are not as usual: every command says so in a sentence, and works where it can."""

import errno
import json
import os
import pathlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Outcome, call_slm
from hub_server import gguf_bytes

from slmchat import cli, database, private_files, settings, user_paths
from slmchat.catalog.library import Library
from slmchat.commands import docs
from slmchat.conversation.archive import Archive
from slmchat.errors import ExitCode, SlmError
from slmchat.privacy import persistence_probes, writable_paths
from slmchat.privacy.probe_context import Unavailable

# A name that the file system refuses to look up, as it refuses what lies in a directory of somebody else.
TOO_LONG = "a." * 200 + "gguf"


@pytest.fixture
def slm(home: Path) -> Callable[..., Outcome]:
    def call(*arguments: str | Path, **extra: str) -> Outcome:
        return call_slm(*arguments, home=home, env=extra)

    return call


@pytest.fixture
def named(home: Path, tmp_path: Path) -> Path:
    """A home in whose file of names one model cannot be looked at, and one is fine."""
    (tmp_path / "own.gguf").write_bytes(gguf_bytes(3, 4000))
    config = home / "config"
    config.mkdir(parents=True)
    (config / "models.toml").write_text(
        f'[[model]]\nname = "far"\ntarget = "/{TOO_LONG}"\n\n[[model]]\nname = "own"\ntarget = "{tmp_path}/own.gguf"\n'
    )
    return home


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME is not set, and the system does not know the user."""

    def nobody(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", nobody)
    monkeypatch.setattr("platformdirs.PlatformDirs.user_data_path", property(nobody), raising=False)


@pytest.mark.usefixtures("no_home")
def test_a_user_without_a_home_directory_hears_how_to_give_one() -> None:
    with pytest.raises(SlmError, match="no home directory") as error:
        settings.load({})
    assert error.value.exit_code == ExitCode.STORAGE
    assert "SLM_HOME" in str(error.value.hint)


@pytest.mark.usefixtures("no_home")
def test_with_a_place_of_its_own_slm_needs_no_home_directory(tmp_path: Path) -> None:
    resolved = settings.load({"SLM_HOME": str(tmp_path / "slm")})
    (tmp_path / "slm").mkdir()
    assert list(resolved.paths.private())
    assert user_paths.home_directory() is None
    assert writable_paths.allowed_paths([tmp_path], has_gpu=False)[0][0] == tmp_path.resolve()
    console = SimpleNamespace(is_stdout_tty=True)
    assert docs._shown(Path("/documents/a.md"), console) == "/documents/a.md"  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="no home"):
        persistence_probes._start_up(None, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [("help", "pull"), ("completion", "bash"), ("help",)])
def test_what_is_told_about_slm_needs_no_settings(
    home: Path, slm: Callable[..., Outcome], arguments: list[str]
) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("model = [")
    told = slm(*arguments)
    assert (told.code, told.err) == (0, "")
    assert slm("list").code == ExitCode.USAGE


def test_one_file_that_cannot_be_looked_at_hides_no_other(named: Path, slm: Callable[..., Outcome]) -> None:
    told = slm("list")
    assert told.code == 0
    assert "not usable: slm show far" in told.out
    assert "own.gguf" in told.out
    assert [entry["is_present"] for entry in json.loads(slm("list", "--json").out)] == [False, True]
    told = slm("show", "far")
    assert told.code == ExitCode.STORAGE
    assert "cannot be read" in told.err
    assert "SLM_HOME" not in told.err  # that moves no file of the user's
    (named / "data").mkdir()
    (named / "data" / "last-model").write_text(f"/{TOO_LONG}\n")
    paths = settings.paths_of({"SLM_HOME": str(named)})
    assert Library(paths).default_model() is None


def test_doctor_goes_on_where_a_file_cannot_be_looked_at(named: Path) -> None:
    from slmchat.diagnostics import storage

    places = storage.Places.of(settings.paths_of({"SLM_HOME": str(named)}), {})
    assert list(storage._states(places))


def test_what_the_system_refuses_inside_a_check_is_what_the_check_found() -> None:
    from slmchat.diagnostics import findings

    def refuse(_: None) -> list[findings.Finding]:
        raise OSError(errno.ELOOP, "Too many levels of symbolic links", "/x.gguf")

    checks = [findings.Check("models", refuse), findings.Check("disk", lambda _: [findings.fine("there is room")])]
    first, second = findings.run_checks(checks, None)
    assert first.level is findings.Level.WRONG
    assert first.what == "/x.gguf cannot be examined: Too many levels of symbolic links"
    assert second.what == "there is room"


def test_weights_that_are_a_link_in_a_circle_do_not_end_doctor(home: Path) -> None:
    from slmchat.diagnostics import storage

    paths = settings.paths_of({"SLM_HOME": str(home)})
    paths.models.mkdir(parents=True)
    (paths.models / "x.gguf").symlink_to(paths.models / "x.gguf")
    (finding,) = storage._records(storage.Places.of(paths, {}))
    assert "x.gguf: weights of no installed model" in finding.what


def test_a_damaged_record_is_named_once(home: Path) -> None:
    paths = settings.paths_of({"SLM_HOME": str(home)})
    paths.models.mkdir(parents=True)
    (paths.models / "x.json").write_text("{")
    told: list[str] = []
    library = Library(paths, told.append)
    assert library.all() == library.all() == ()
    (warning,) = told
    assert warning.endswith("x.json is damaged and left out; `slm pull` writes it again.")


def test_a_long_word_in_a_question_is_not_the_name_of_a_file(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    from slmchat.commands import ask

    assert ask._checked_words(["what", f"https://example.com/{TOO_LONG}"])


def test_an_answer_of_tempfile_that_has_no_place_is_a_sentence() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    told = cli._bug(error)
    assert told.exit_code == ExitCode.STORAGE
    assert "TMPDIR" in str(told.hint)


def test_too_little_memory_is_not_a_bug_of_slm() -> None:
    told = cli._bug(MemoryError())
    assert told.exit_code == ExitCode.NO_FIT
    assert "memory" in told.message


def _deleted() -> str:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def test_the_current_directory_never_holds_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tempfile takes it where there is no other; behind the seal nothing may be written where libraries are found."""
    monkeypatch.setattr(writable_paths, "_MEMORY", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", os.getcwd())
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert writable_paths.temporary_directory() is None
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(os, "getcwd", _deleted)
    assert writable_paths.temporary_directory() == tmp_path.resolve() / "other" / f"slm-{os.geteuid()}"
    monkeypatch.undo()
    monkeypatch.setattr(writable_paths, "_MEMORY", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", os.getcwd())
    monkeypatch.setenv("TMPDIR", os.getcwd())
    assert writable_paths.temporary_directory() == tmp_path.resolve() / f"slm-{os.geteuid()}"


def test_a_refused_write_names_the_file_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object) -> tuple[int, str]:
        raise OSError(errno.EROFS, "Read-only file system", f"{given['dir']}/.new-abc")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(SlmError, match=r"models\.toml cannot be used: Read-only") as error:
        private_files.write_private(tmp_path / "models.toml", b"")
    assert ".new-" not in error.value.message


def test_a_database_on_a_read_only_disk_is_said_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sessions.db"
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert "read-only" in database._sentence(file, 10, "disk I/O error").message
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=0))
    assert "disk I/O error" in database._sentence(file, 10, "disk I/O error").message
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "permission denied" in database._sentence(file, 14, "unable to open database file").message


def test_a_pipe_in_place_of_a_database_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sessions.db")
    with pytest.raises(SlmError, match="not a regular file") as error:
        Archive(tmp_path / "sessions.db").list()
    assert error.value.exit_code == ExitCode.STORAGE


def test_what_cannot_be_imported_or_exported_is_not_blamed_on_slms_home(
    slm: Callable[..., Outcome], tmp_path: Path
) -> None:
    for command in (("import", TOO_LONG), ("import", tmp_path), ("export", "x", "-o", f"{TOO_LONG}/x")):
        told = slm("sessions", *command)
        assert told.code in (ExitCode.USAGE, ExitCode.STORAGE)
        assert told.err.startswith("slm: ")
        assert "SLM_HOME" not in told.err


def _deep(file: Path) -> None:
    file.write_text("[" * 100_000 + "]" * 100_000)


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _too_large(file: Path) -> None:
    file.touch()
    os.truncate(file, 1 << 33)


def _directory(file: Path) -> None:
    file.mkdir()


def _not_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x80")


@pytest.mark.parametrize("spoil", [_deep, _pipe, _too_large, _directory, _not_text])
def test_what_slm_has_kept_and_cannot_read_counts_as_not_there(home: Path, spoil: Callable[[Path], None]) -> None:
    from slmchat.engine import attention_trial, kept_throughput, verdicts
    from slmchat.generation import priors
    from slmchat.models import tuning
    from slmchat.privacy import bytecode

    paths = settings.paths_of({"SLM_HOME": str(home)})
    paths.data.mkdir(parents=True)
    paths.cache.mkdir()
    for file in (paths.last_model, paths.data / "accepted-licenses.json", paths.data / "tuning.json"):
        spoil(file)
    spoil(paths.cache / "any.json")
    spoil(bytecode._place(paths.cache))
    assert Library(paths).default_model() is None
    assert Library(paths).accepted_licenses() == set()
    assert tuning.forget(settings.Settings(paths)) == 0
    assert kept_throughput.read(paths.cache / "any.json", {}).points == {}
    assert verdicts._read(paths.cache / "any.json", dict) is None
    assert verdicts.expected(paths.cache) is not None  # a pipe was waited for
    assert attention_trial._kept(paths.cache / "any.json") is None
    assert priors._read(paths.cache / "any.json") == {}
    bytecode.make_up(paths.cache)


def test_numbers_that_no_measurement_gives_are_measured_again(tmp_path: Path) -> None:
    from slmchat.engine import kept_throughput

    file = tmp_path / "pace.json"
    file.write_text('{"key": {}, "failed_at": null, "points": {}, "shrunk": 1e999}')
    assert kept_throughput.read(file, {}) == kept_throughput.KeptThroughput({})


def test_two_names_that_stand_on_each_other_are_a_mistake_of_the_file(
    home: Path, slm: Callable[..., Outcome], tmp_path: Path
) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "models.toml").write_text(
        f'[[model]]\nname = "a"\nbase = "b"\nlora = ["{tmp_path}/x.gguf"]\n'
        f'[[model]]\nname = "b"\nbase = "a"\nlora = ["{tmp_path}/x.gguf"]\n'
    )
    told = slm("pull", "a", "--dry-run", "--json")
    assert (told.code, told.out) == (ExitCode.USAGE, "")
    assert "the base of a is b, which has adapters itself" in told.err


def test_one_of_a_thing_is_not_many() -> None:
    from slmchat.models.tuning import Tuning
    from slmchat.wording import in_bytes

    told = Tuning(threads=1, threads_batch=2, batch_tokens=1).in_words()
    assert told == "1 thread to generate, 2 threads to read prompts, batches of 1 token"
    assert in_bytes(1) == "1 byte"


def test_a_device_of_one_core_and_one_that_does_not_tell() -> None:
    from slmchat.diagnostics import device
    from slmchat.hardware.facts import Fact

    nothing = Fact(None, "x")
    parts = {name: nothing for name in ("performance_cores", "efficiency_cores", "processor", "cpu_quota")}
    for count, told in ((1, "1 core,"), (None, "not known,")):
        facts = SimpleNamespace(device=SimpleNamespace(**parts, physical_cores=Fact(count, "x")), threads=1)
        finding = next(iter(device._processor(facts)))  # type: ignore[arg-type]
        assert told in finding.what


def test_memory_is_known_where_proc_is_not_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from slmchat.hardware import memory, usage
    from slmchat.privacy import bypass_probes

    def none(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", none)
    pages = {"SC_PHYS_PAGES": 1000, "SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert (memory.total(tmp_path).value, memory.available(tmp_path).value) == (4_096_000, 40_960)
    pages["SC_PHYS_PAGES"] = -1
    with pytest.raises(SlmError, match="how much memory"):
        memory.total(tmp_path)

    def nobody(*_: object) -> None:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil, "Process", nobody)
    monkeypatch.setattr("builtins.open", none)
    assert usage.resident_memory() is None
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory._mapped() == 0
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    with pytest.raises(Unavailable, match="not mounted"):  # ENOENT is not a refusal, and not a way out either
        bypass_probes._proc_mem(SimpleNamespace(parent=1), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "is_shown"), [("0", False), ("off", False), ("", False), ("1", True), ("yes", True)])
def test_debug_may_be_switched_off_as_other_switches_are(
    home: Path, slm: Callable[..., Outcome], value: str, is_shown: bool
) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("ctx = [")
    assert ("Traceback" in slm("list", SLM_DEBUG=value).err) is is_shown


def test_mistakes_in_settings_say_what_may_stand_there(home: Path, slm: Callable[..., Outcome]) -> None:
    config = home / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('gpu-layers = "all"')
    assert 'and at most 10000, or "auto".' in slm("list").err
    config.write_text('[endpoints."a\\u001b[31m"]\nurl = "http://x"')
    assert "endpoint 'a?[31m': a name is of letters" in slm("list").err


def test_a_socket_that_has_no_place(tmp_path: Path, home: Path, slm: Callable[..., Outcome]) -> None:
    from slmchat.server import listeners

    (tmp_path / "file").write_text("x")
    with pytest.raises(SlmError, match="file cannot hold a socket: it is not a directory") as error:
        listeners.make_place(tmp_path / "file" / "socket")
    assert "--socket" in str(error.value.hint)
    with pytest.raises(SlmError, match="the path is too long for a socket"):
        listeners.on_unix(tmp_path / ("s" * 120))


def test_a_schema_with_a_number_without_end_is_a_sentence() -> None:
    from slmchat.generation import structured

    with pytest.raises(SlmError, match="too many digits"):
        structured.parsed('{"minimum": ' + "9" * 5000 + "}")


def test_a_call_that_is_nested_without_end_stays_a_text() -> None:
    from slmchat.generation.tools import ToolCall

    text = "[" * 100_000 + "]" * 100_000
    assert ToolCall("name", text)._given() == text


def test_a_current_directory_that_is_gone_is_named(
    tmp_path: Path, slm: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (("sessions", "export", "x", "-o", "x.md"), ("show", "./x.gguf"), ("docs", "show", "a.md")):
        told = slm(*arguments)
        assert told.code in (ExitCode.USAGE, ExitCode.STORAGE)
        assert "the current directory has been deleted" in told.err
    assert slm("list").code == 0
