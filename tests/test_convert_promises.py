"""What a run promises while it works: no half files, no more disk than announced, no torch, honest progress."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

from mal_convert import convert, outputs
from mal_convert.report import SPACE
from metaaligner_lite.gguf_file import read_header


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose feed-forward width fits no block, so that some tensors stay in 16 bits."""
    path = tmp_path_factory.mktemp("hf") / "tiny-llama"
    path.mkdir()
    models.save("LlamaConfig", models.byte_level_tokenizer(path), path, intermediate_size=500)
    return path


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_stopped_run_leaves_nothing_that_looks_complete(folder: Path, tmp_path: Path, how: str, wait: float) -> None:
    if how == "interrupt" and sys.platform == "win32":
        pytest.skip("a console's Ctrl-C cannot be sent to one process on Windows")
    command = [sys.executable, "-m", "metaaligner_lite", "convert", str(folder), "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--q8_0", "--q4_k_m", "--f32"], stderr=subprocess.PIPE)
    while process.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.001)
    time.sleep(wait)
    if how == "kill":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert b"Traceback" not in stderr, stderr
    for path in tmp_path.iterdir():
        if how == "kill" and path.suffix == ".part":
            assert path.name.startswith(".")
        else:
            assert path.suffix == ".gguf"
            read_header(path).check_tensors()
    again = subprocess.run([*command, "--q8_0", "--force"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("source", ["folder", "file"])
@pytest.mark.parametrize("types", [["q8_0"], ["f32"], ["q4_k_m", "q8_0", "f16"]])
def test_disk_use_stays_below_what_was_announced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: list[str], source: str
) -> None:
    if source == "file":
        folder = convert(folder, tmp_path / "source.gguf", ["bf16"], verify=False).outputs[0].path
    out, told, used = tmp_path / "out", dict[str, int](), list[int]()
    publish = outputs._publish

    def measured(scratch: Path, path: Path) -> None:
        used.append(sum(file.stat().st_size for file in out.iterdir()))
        publish(scratch, path)

    monkeypatch.setattr(outputs, "_publish", measured)
    monkeypatch.setattr(outputs, "MARGIN", 200_000)  # metadata alone, in so small a model
    convert(folder, out, types, progress=lambda what, done, total: told.setdefault(what, done))
    assert max(used) <= told[SPACE]


def test_progress_counts_bytes_and_arrives(folder: Path, tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []
    convert(folder, tmp_path, ["q8_0"], progress=lambda *event: events.append(event))
    assert events[0][0] == SPACE
    for stage in ("writing F32", "quantizing Q8_0", "verifying"):
        seen = [(done, total) for what, done, total in events if what == stage]
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0
    parameters = sum(tensor.elements for tensor in read_header(next(tmp_path.iterdir())).tensors)
    assert {total for what, _, total in events if what == "quantizing Q8_0"} == {4 * parameters}


def test_torch_is_never_needed(folder: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from mal_convert import convert
convert({str(folder)!r}, Path({str(tmp_path)!r}), ["q8_0"])
print({{"torch", "transformers", "peft", "accelerate", "safetensors"}} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr
