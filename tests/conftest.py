"""What every test runs under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings of tiny random encoders do not belong in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
