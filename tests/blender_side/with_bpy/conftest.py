"""Collected by test_with_bpy.py alone, which gives each file a process; a watchdog ends one that hangs."""

import faulthandler
import os
import sys

import pytest

if os.environ.get("DREAMFLOW_BPY_CHILD"):
    bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
    faulthandler.dump_traceback_later(520, exit=True)

    @pytest.fixture(autouse=True)
    def empty_file(monkeypatch):
        """Every test begins in an empty file, and is itself the timer."""
        bpy.ops.wm.read_factory_settings(use_empty=True)
        if (jobs := sys.modules.get("dreamflow_blender.session.jobs")) is not None:
            monkeypatch.setattr(jobs, "has_timer", lambda: True)
        yield

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(session, exitstatus):
        session.config.own_exitstatus = exitstatus

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(config):
        """Where lines are counted, what counts them holds objects of bpy, which then waits for ever at its end."""
        if "COVERAGE_PROCESS_START" in os.environ:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(config.own_exitstatus))  # coverage saves what it counted before that

else:
    collect_ignore_glob = ["*.py"]
