from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny

from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.llama.model import open_model

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


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


@pytest.fixture(scope="session")
def _chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chrome, Path]]:
    """A headless Chromium and the folder of its downloads, one for all tests of pages."""
    pytest.importorskip("selenium", reason="needs selenium (`pip install --group dev`)")
    import page_stand as stand

    if not stand.browser_found():
        pytest.skip(stand.MISSING)
    folder = tmp_path_factory.mktemp("chromium")
    opened = stand.open_browser(folder)
    opened.set_window_size(1280, 860)
    try:
        yield opened, folder
    finally:
        opened.quit()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, as the npm registry has it. Skips where npm, or the way there, is missing."""
    folder = tmp_path_factory.mktemp("axe")
    if not (npm := shutil.which("npm")):
        pytest.skip("needs npm, which fetches axe-core (`apt-get install npm`)")
    done = subprocess.run([npm, "pack", "--silent", "axe-core@4.14.1"], cwd=folder, capture_output=True, timeout=120)
    if done.returncode:
        pytest.skip("npm could not fetch axe-core 4.14.1")
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        script = packed.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()
