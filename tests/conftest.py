"""What every test runs under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda_calls import cuda_calls  # noqa: F401  a fixture


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings of tiny random encoders do not belong in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
