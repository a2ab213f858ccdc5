"""Collected by test_with_bpy.py alone, which gives each file a process; a watchdog ends one that hangs."""

import faulthandler
import os

import pytest

if os.environ.get("DREAMFLOW_BPY_CHILD"):
    bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
    faulthandler.dump_traceback_later(520, exit=True)

    @pytest.fixture(autouse=True)
    def empty_file():
        """Every test begins in an empty file."""
        bpy.ops.wm.read_factory_settings(use_empty=True)
        yield

else:
    collect_ignore_glob = ["*.py"]
