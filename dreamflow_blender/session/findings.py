"""What the backend has last said of this machine: its setup and its models."""

from __future__ import annotations

from typing import Any

checks: list[dict[str, Any]] = []  # what the last Check setup has found
models: list[dict[str, Any]] = []  # what the last look at the models has found
in_folder: list[dict[str, Any]] = []  # what the last search of a folder has found: path, what, option
