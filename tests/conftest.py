import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.llama.model import open_model


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings or the remembered probes of whoever runs it, nor leaves any."""
    for name in list(os.environ):
        if name.startswith("MAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def engine(tiny_path: Path) -> Iterator[Engine]:
    with Engine(open_model(tiny_path, repack=False), threads=1) as opened:
        yield opened


@pytest.fixture
def aligner(engine: Engine) -> GgufAligner:
    return GgufAligner(engine, layout="conversation", max_tokens=24)
