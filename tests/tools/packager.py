"""`.ci/package.py` as a module: its folder is no package."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "build_package", Path(__file__).parents[2] / ".ci" / "package.py"
)
assert _spec is not None and _spec.loader is not None
build_package = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build_package)
