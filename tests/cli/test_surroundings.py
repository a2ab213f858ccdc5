"""Whoever starts the backend may have set anything in the environment."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import warnings

import pytest

from backend.cli import models, surroundings
from backend.cli.arguments import parser
from backend.errors import ModelError

SET = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # of a cell in Jupyter or Colab
    "PYTHONWARNINGS": "error",
    "OMP_DYNAMIC": "TRUE",
    "OMP_THREAD_LIMIT": "1",
    "TRANSFORMERS_VERBOSITY": "loud",
    "DIFFUSERS_VERBOSITY": "loud",
    "HF_HUB_DOWNLOAD_TIMEOUT": "soon",
    "HF_HUB_CACHE": "here",
    "OMP_NUM_THREADS": "3",
    "HF_HOME": "there",
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own, and warnings that are as they were afterwards."""
    environment = dict(SET)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(socket, "has_ipv6", True)
    return environment


def test_a_run_sees_its_own_settings(settings: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as Python does at its start where PYTHONWARNINGS=error
        surroundings.ignore_others(for_the_hub=False)
        warnings.warn("a library's", DeprecationWarning, stacklevel=1)
    settings.pop("PYTEST_CURRENT_TEST")
    kept = {"HF_HUB_CACHE": "here", "OMP_NUM_THREADS": "3", "HF_HOME": "there"}
    assert settings == {**surroundings.OURS, **kept, "GOMP_SPINCOUNT": surroundings.SPIN}


def test_models_obeys_the_hubs_own(settings: dict[str, str]) -> None:
    with warnings.catch_warnings():
        surroundings.ignore_others(for_the_hub=True)
    assert settings["HF_HUB_DOWNLOAD_TIMEOUT"] == "soon" and "TRANSFORMERS_VERBOSITY" not in settings
    assert socket.has_ipv6  # a hub may be reached by nothing else


def test_no_library_opens_a_socket_when_it_is_imported(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As strace saw urllib3 do, which diffusers imports: bound to ::1 for a moment."""
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was opened"))
    with warnings.catch_warnings():
        surroundings.ignore_others(for_the_hub=False)
    spec = importlib.util.find_spec("urllib3.util.connection")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_setting_that_the_hub_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    with pytest.raises(ModelError, match="HF_HUB_DOWNLOAD_TIMEOUT"):
        models.run(parser().parse_args(["models"]), sys.stdout)
