"""What a user has told pip and uv: which of it counts, and what is handed on."""

from __future__ import annotations

import os
import subprocess
import venv

import pytest

from dreamflow_blender.setup import sources
from dreamflow_blender.setup.sources import Setting

DEBUG = """env_var:
  PIP_TIMEOUT='60'
  PIP_NO_DEPS='1'
env:
  /my/pip.conf, exists: True
    global.extra-index-url: https://c
global:
  /etc/pip.conf, exists: True
    global.index-url: https://a/simple
    global.constraint: /etc/constraints.txt
    install.no-index: false
site:
  /venv/pip.conf, exists: False
user:
  /home/me/.config/pip/pip.conf, exists: True
    global.index-url: https://b/simple
    install.find-links:
/no/such
https://w
    global.target: /elsewhere
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)


def test_the_last_place_wins_and_says_where_it_is():
    told = {one.name: one for one in sources.read_pip(DEBUG)}
    assert set(told) == {"timeout", "extra-index-url", "index-url", "find-links"}
    assert told["index-url"] == Setting("index-url", "https://b/simple", "/home/me/.config/pip/pip.conf")
    assert told["find-links"].value == "/no/such https://w"
    assert told["timeout"].place == "PIP_TIMEOUT"
    assert "index-url = https://b/simple (/home/me/.config/pip/pip.conf)" in sources.as_text(
        list(told.values())
    )


@pytest.mark.slow
def test_what_the_real_pip_says_is_read(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://u:word@mine/simple\nfind-links =\n    /one\n    /two\n"
        "[install]\nno-index = true\n"
    )
    variables = {**os.environ, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_PROXY": "http://p:1"}
    venv.create(
        tmp_path / "env", with_pip=True
    )  # of the standard library: the tests' own Python may have no pip
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ran = subprocess.run(
        [python, "-m", "pip", "config", "debug"],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    told = {one.name: one for one in sources.read_pip(ran.stdout)}
    assert told["index-url"].value == "https://u:word@mine/simple"
    assert told["find-links"].value.split() == ["/one", "/two"] and told["no-index"].value == "true"
    assert told["no-index"].place == str(tmp_path / "pip.conf") and told["proxy"].place == "PIP_PROXY"
    assert "word" not in sources.as_text(list(told.values()))


def test_uv_toml(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("APPDATA", raising=False)
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text(
        "no-index = false\nrequire-hashes = true\n[[index]]\nurl = 'https://a'\ndefault = true\n"
        "[[index]]\nurl = 'https://b'\n[[index]]\nurl = 'https://c'\nexplicit = true\n[pip]\nfind-links = ['/w']\n"
    )
    assert {one.name: one.value for one in sources.read_uv()} == {
        "index-url": "https://a", "extra-index-url": "https://b", "find-links": "/w"
    }  # fmt: skip


def test_what_is_handed_on(tmp_path, monkeypatch):
    settings = [
        Setting("index-url", "https://mine/simple", ""),
        Setting("extra-index-url", "https://a https://b", ""),
        Setting("find-links", f"/no/such/wheels {tmp_path} https://a/w", ""),
        Setting("no-index", "true", ""),
    ]
    assert sources.for_uv(settings) == {
        "UV_DEFAULT_INDEX": "https://mine/simple", "UV_INDEX": "https://a https://b",
        "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_FIND_LINKS": f"{tmp_path},https://a/w", "UV_NO_INDEX": "1",
    }  # fmt: skip
    told = sources.for_pip(settings)
    assert told["PIP_CONFIG_FILE"] == os.devnull and told["PIP_EXTRA_INDEX_URL"] == "https://a https://b"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://theirs")
    assert "UV_DEFAULT_INDEX" not in sources.for_uv(settings)


def test_which_variables_stay():
    kept = {
        "UV_INDEX_MINE_PASSWORD": "x",
        "UV_FIND_LINKS": "/w",
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/c",
    }
    gone = {
        "PIP_TARGET": "/t",
        "PIP_CONFIG_FILE": "/f",
        "UV_CONSTRAINT": "/c",
        "UV_PYTHON": "3.9",
        "UV_TARGET": "/t",
    }
    assert sources.without_theirs(kept | gone) == kept
