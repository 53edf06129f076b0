"""Endpoints: addresses, the table of the config, and keys that are never in it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Outcome

from slmchat import endpoints, settings
from slmchat.errors import ExitCode, SlmError
from slmchat.redaction import redacted

FILE = Path("config.toml")


@pytest.mark.parametrize(
    ("text", "url", "address"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1", "127.0.0.1:8080"),
        ("https://HOST.example/", "https://host.example/v1", "host.example"),
        ("https://host.example/api/v1/", "https://host.example/api/v1", "host.example"),
        ("https://host.example/v1/chat/completions", "https://host.example/v1", "host.example"),
        ("https://host.example:443/v1beta/openai", "https://host.example/v1beta/openai", "host.example"),
        ("http://[::1]:11434/v1", "http://[::1]:11434/v1", "[::1]:11434"),
    ],
)
def test_addresses(text: str, url: str, address: str) -> None:
    found = endpoints.from_url(text, "test")
    assert (found.url, found.address) == (url, address)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host/v1",
        "host.example",
        "https://",
        "https://me:secret@host/v1",
        "https://host/v1?key=secret",
        "https://host/v1#x",
        "http://host:99999/",
        "https://ho st/v1",
        "https://host/v1\r\nX: y",
        "https://hóst/v1",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(SlmError) as raised:
        endpoints.from_url(text, "--endpoint")
    assert raised.value.exit_code is ExitCode.USAGE
    assert "secret" not in raised.value.message + str(raised.value.hint)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("[::1]", True),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("[::ffff:127.0.0.1]", False),
    ],
)
def test_what_is_on_this_device(host: str, is_here: bool) -> None:
    assert endpoints.from_url(f"http://{host}:8080", "test").is_loopback is is_here


TABLE = {
    "work": {"url": "https://host.example/v1", "model": "big", "key_env": "WORK_KEY", "timeout": 10},
    "home": {"url": "http://192.168.1.2:8080"},
}


def test_a_name_and_its_url_are_the_same_endpoint() -> None:
    named = endpoints.find("work", TABLE, FILE)
    assert endpoints.find("https://host.example/v1/", TABLE, FILE) == named
    assert (named.model, named.timeout_s) == ("big", 10.0)
    assert endpoints.find("localhost:8080", TABLE, FILE).url == "http://localhost:8080/v1"


def test_a_name_that_is_not_there_is_answered_with_near_ones() -> None:
    with pytest.raises(SlmError, match="no endpoint 'wrok'") as raised:
        endpoints.find("wrok", TABLE, FILE)
    assert raised.value.hint == "did you mean work?"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"url": "https://h/v1", "key": "sk-secret-0123456789abcdef"}, "has its key in the file"),
        ({"url": "https://h/v1", "api_key": "sk-secret-0123456789abcdef"}, "has its key in the file"),
        ({"url": "https://h/v1", "key_env": "sk-secret-0123456789abcdef"}, "must be the name of a variable"),
        ({"url": "https://h/v1", "key_env": "A", "key_keyring": "b"}, "two places"),
        ({"url": "https://h/v1", "modle": "x"}, "'endpoints.work.modle' is not a known key (did you mean model?)"),
        ({"url": 7}, "'endpoints.work.url' must be a non-empty string"),
        ({}, "'endpoints.work.url' is missing"),
        ({"url": "https://"}, "must be an address"),
        ({"url": "https://h/v1", "insecure": "yes"}, "true or false"),
        ({"url": "https://h/v1", "timeout": 0}, "seconds"),
        ("https://h/v1", "must be a table"),
    ],
)
def test_mistakes_in_the_table(table: object, words: str) -> None:
    with pytest.raises(SlmError) as raised:
        endpoints.named({"work": table}, FILE)
    assert words in raised.value.message and "work" in raised.value.message
    assert raised.value.exit_code is ExitCode.USAGE
    assert "secret" not in raised.value.message + str(raised.value.hint)


@pytest.mark.slow
def test_a_key_in_the_file_is_told_by_every_command(home: Path, slm: Callable[..., Outcome]) -> None:
    config = home / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[endpoints.work]\nurl = "https://host.example/v1"\nkey = "secret-and-long"\n')
    done = slm("list")
    assert done.code == 2 and "has its key in the file, where slm does not read it" in done.err
    assert "secret-and-long" not in done.out + done.err


def test_keys_come_from_the_environment() -> None:
    assert endpoints.find("work", TABLE, FILE).key({"WORK_KEY": " abc-123 "}) == "abc-123"
    assert "abc-123" not in redacted("Bearer? abc-123!")
    with pytest.raises(SlmError, match="WORK_KEY, which is not set"):
        endpoints.find("work", TABLE, FILE).key({})
    with pytest.raises(SlmError, match="cannot be sent"):
        endpoints.find("work", TABLE, FILE).key({"WORK_KEY": "a\r\nX-Evil: 1"})
    plain = endpoints.find("https://other.example/v1", TABLE, FILE)
    assert plain.key({endpoints.KEY_VARIABLE: "abc-456"}) == "abc-456"
    assert plain.key({}) is None
    # the variable for plain URLs is not for those that have a name
    assert endpoints.find("home", TABLE, FILE).key({endpoints.KEY_VARIABLE: "abc-456"}) is None


def test_a_key_never_goes_over_a_connection_that_others_can_read() -> None:
    environ = {"K": "abc-123", endpoints.KEY_VARIABLE: "abc-123"}
    table = {"lan": {"url": "http://192.168.1.2:8080", "key_env": "K"}}
    for asked in ("lan", "http://192.168.1.3:8080"):
        with pytest.raises(SlmError, match="others can read") as raised:
            endpoints.find(asked, table, FILE).key(environ)
        assert raised.value.exit_code is ExitCode.USAGE
    assert endpoints.find("lan", {"lan": {**table["lan"], "insecure": True}}, FILE).key(environ) == "abc-123"
    assert endpoints.find("http://localhost:8080", table, FILE).key(environ) == "abc-123"


def test_keys_come_from_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {("slm", "work"): "abc-789", ("slm", "me"): "abc-000"}
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=lambda *who: kept.get(who)))

    def key(place: str) -> str | None:
        return endpoints.find("work", {"work": {"url": "https://h/v1", "key_keyring": place}}, FILE).key({})

    assert (key("slm"), key("slm/me")) == ("abc-789", "abc-000")
    with pytest.raises(SlmError, match="no key of 'work' for the service 'other'"):
        key("other")
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SlmError, match="not installed") as raised:
        key("slm")
    assert "pip install keyring" in str(raised.value.hint)


def test_the_settings_take_the_table(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text('[endpoints.work]\nurl = "https://host.example/v1"\n')
    assert list(settings.load({"SLM_HOME": str(tmp_path)}).endpoints) == ["work"]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("192.168.1.5:8080", "http://192.168.1.5:8080"),
        ("10.0.0.2", "http://10.0.0.2"),
        ("[fd00::1]:8080/v1", "http://[fd00::1]:8080/v1"),
        ("box:8080", "http://box:8080"),
        ("box.local", "http://box.local"),
        ("api.example.org/v1", "https://api.example.org/v1"),
        ("api.example.org:443", "https://api.example.org:443"),
        ("8.8.8.8", "https://8.8.8.8"),
    ],
)
def test_an_address_without_its_scheme_is_offered_with_it(asked: str, meant: str) -> None:
    with pytest.raises(SlmError, match="there is no endpoint") as raised:
        endpoints.find(asked, TABLE, FILE)
    assert raised.value.hint == f"--endpoint {meant}"
    endpoints.find(meant, TABLE, FILE)
