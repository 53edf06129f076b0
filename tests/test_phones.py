"""Phones: slm works without psutil, which Android does not build, and docs/termux.md says what slm would choose."""

import subprocess
import sys
from pathlib import Path

import phone_table
import pytest
from conftest import environment
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat import hardware
from slmchat.engine import crash_markers
from slmchat.hardware import memory

ROOT = Path(__file__).resolve().parent.parent

BLOCKED = "import sys; sys.modules['psutil'] = None; from slmchat.__main__ import main; sys.exit(main())"


@pytest.mark.real
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-m", "TINY", "-n", "2", "hello"),
        ("doctor",),
        ("list", "--available"),
        ("bench", "TINY", "--repeat", "1"),
        ("pull", "--dry-run", "smollm2:135m"),
        ("privacy",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_slm_works_without_psutil(arguments: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)
    # what a killed slm has left: the process is looked for
    mark = crash_markers.directory(home / "data") / f"{crash_markers._stem(tiny)}-999999999"
    mark.parent.mkdir(parents=True)
    mark.touch()
    words = [str(tiny) if word == "TINY" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "No module named" not in done.stderr
    assert done.returncode == (1 if arguments == ("doctor",) else 0), done  # the doctor has found the mark
    assert done.stdout


def test_memory_is_that_of_proc_meminfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:        3913412 kB\nMemFree:          101904 kB\nMemAvailable:    1512340 kB\nHugePages_Total:       0\n"
    )
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert hardware.total_memory(tmp_path) == 3913412 * 1024
    assert memory.available(tmp_path).value == 1512340 * 1024
    assert hardware.physical_cores(tmp_path) >= 1  # no topology there, as on old Androids


def test_psutil_is_not_asked_for_on_android() -> None:
    import tomllib

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (entry,) = [entry for entry in asked if entry.startswith("psutil")]
    assert "sys_platform != 'android'" in entry


def test_a_process_is_looked_for_without_psutil() -> None:
    assert crash_markers._is_running("1")
    assert not crash_markers._is_running("999999999")
    assert not crash_markers._is_running("99999999999999999999")


def test_the_page_for_phones_has_a_choice_for_each() -> None:
    assert phone_table.table().count("@Q") >= len(phone_table.PHONES)


def test_a_larger_phone_gets_a_larger_first_choice() -> None:
    sizes = [phone_table.chosen(size)[0].variant.size or 0 for size in (1, *phone_table.PHONES)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
