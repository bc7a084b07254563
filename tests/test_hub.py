"""Models named owner/repo[:QUANT]: chosen by quantization, fetched once from a stand-in of the Hub, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny

pytest.importorskip("huggingface_hub")

from metaaligner_lite.hub import choose, variants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        ("m-Q8_0.gguf m-Q4_K_M.gguf README.md", "", "m-Q4_K_M.gguf"),
        ("m-Q8_0.gguf m-Q4_K_M.gguf", "q8_0", "m-Q8_0.gguf"),
        ("m.q4_k_m.gguf m.q8_0.gguf", "", "m.q4_k_m.gguf"),
        ("m-Q8_0.gguf m-Q4_K_M.gguf", "Q5_K_M", None),
        ("m-Q8_0.gguf m-Q4_K_S.gguf m-Q2_K.gguf", "", "m-Q4_K_S.gguf"),
        ("m-Q8_0.gguf m-Q5_K_M.gguf m-Q3_K_M.gguf", "", "m-Q5_K_M.gguf"),
        ("m-BF16.gguf m-Q8_0.gguf", "", "m-Q8_0.gguf"),
        ("m-UD-Q4_K_XL.gguf m-UD-Q4_K_M.gguf", "", "m-UD-Q4_K_M.gguf"),
        ("m-IQ4_XS.gguf m-F16.gguf mmproj-F16.gguf", "", "m-IQ4_XS.gguf"),
        ("model.gguf", "", "model.gguf"),
        ("a.gguf b.gguf", "", None),
        ("a.gguf b.gguf", "b", "b.gguf"),
        ("a.gguf b.gguf", "b.gguf", "b.gguf"),
        ("Q8_0/m-00001-of-00002.gguf Q8_0/m-00002-of-00002.gguf m-Q6_K.gguf", "Q8_0", "Q8_0/m-00001-of-00002.gguf"),
        ("m-Q4_K_M-00002-of-00002.gguf m-Q4_K_M-00001-of-00002.gguf", "", "m-Q4_K_M-00001-of-00002.gguf"),
        ("README.md model.safetensors", "", None),
    ],
)
def test_which_file(files, quant, chosen):
    found = choose(variants(files.split()), quant, "Q4_K_M")
    assert (found and found.files[0]) == chosen


def test_parts_are_one_and_may_be_missing():
    (whole,) = variants(["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"])
    assert (whole.complete, len(whole.files)) == (True, 2)
    assert not variants(["m-Q4_K_M-00001-of-00002.gguf"])[0].complete


class StandIn(BaseHTTPRequestHandler):
    """The few answers of the Hub that a download needs."""

    files: dict[str, bytes]
    asked: list[str]
    damaged = False

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        name = "/".join(parts[4:])
        if parts[:4] == ["api", "models", "some", "tiny-GGUF"]:
            entries = [
                {"type": "file", "path": f, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for f, b in self.files.items()
            ]
            info = {
                "_id": "1",
                "id": "some/tiny-GGUF",
                "sha": COMMIT,
                "siblings": [{"rfilename": f} for f in self.files],
            }
            self.reply(json.dumps(entries if "tree" in parts else info).encode(), body)
        elif parts[:3] == ["some", "tiny-GGUF", "resolve"] and name in self.files:
            content = self.files[name]
            etag = hashlib.sha256(content).hexdigest()
            if self.damaged:
                content = bytes(len(content))
            self.reply(content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def reply(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, tiny_path: Path) -> Iterator:
    model = tiny_path.read_bytes()
    bound = type("Bound", (StandIn,), {"files": {"t-Q8_0.gguf": model, "t-F32.gguf": model}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bound
    server.shutdown()
    server.server_close()


def find(where: Path, address: str, name: str, **environment: str) -> tuple[int, str, str]:
    """Run find_gguf in a process of its own: huggingface_hub reads its settings as it is imported."""
    code = (
        "import sys; from metaaligner_lite.models import find_gguf; from metaaligner_lite.errors import MalError\n"
        f"try: print(find_gguf({name!r}, 'the policy', lambda line: print('note:', line, file=sys.stderr)))\n"
        "except MalError as error: print('error:', error, file=sys.stderr); sys.exit(1)"
    )
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(where / "hf"), "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=kept | settings | environment
    )
    return ended.returncode, ended.stdout.strip(), ended.stderr


def test_fetched_once_and_then_found_without_asking(hub, tmp_path, tiny_path):
    address, stand_in = hub
    code, path, told = find(tmp_path, address, "some/tiny-GGUF:Q8_0")
    assert code == 0, told
    assert Path(path).read_bytes() == tiny_path.read_bytes()
    assert Path(path).parts[-4:] == ("models--some--tiny-GGUF", "snapshots", COMMIT, "t-Q8_0.gguf")
    assert len([line for line in stand_in.asked if line.startswith("GET /some")]) == 1
    stand_in.asked.clear()
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert find(tmp_path, address, "some/tiny-GGUF:Q8_0", **environment)[:2] == (0, path)
    assert not stand_in.asked
    # The nearest to the default: asked for, as Q4_K_M may have come; not fetched again.
    code, again, told = find(tmp_path, address, "some/tiny-GGUF")
    assert (code, again) == (0, path)
    assert "note: some/tiny-GGUF has no Q4_K_M here; taking Q8_0" in told
    assert not [line for line in stand_in.asked if line.startswith("GET /some")]
    code, offline, told = find(tmp_path, address, "some/tiny-GGUF", HF_HUB_OFFLINE="1")
    assert (code, offline) == (0, path)
    assert "taken from the cache, HF_HUB_OFFLINE is set" in told
    code, unreachable, told = find(tmp_path, "http://127.0.0.1:9", "some/tiny-GGUF")
    assert (code, unreachable) == (0, path), told
    assert "taken from the cache, the Hub cannot be asked" in told


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("some/other-GGUF", {}, "error: the policy: the Hub has no repository some/other-GGUF; is it spelled so?"),
        ("some/tiny-GGUF:Q2_K", {}, "some/tiny-GGUF has no Q2_K; it has F32, Q8_0: name one as some/tiny-GGUF:NAME"),
        ("some/tiny-GGUF", {"HF_HUB_OFFLINE": "1"}, "is not in the local cache and HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(hub, tmp_path, name, environment, message):
    code, _, told = find(tmp_path, hub[0], name, **environment)
    assert code == 1
    assert message in told
    assert "Traceback" not in told


def test_a_repository_without_gguf_files(hub, tmp_path):
    hub[1].files = {"model.safetensors": b"x"}
    assert "holds no GGUF file; look for one that does, or convert it" in find(tmp_path, hub[0], "some/tiny-GGUF")[2]


def test_a_damaged_file_is_removed(hub, tmp_path):
    hub[1].damaged = True
    code, _, told = find(tmp_path, hub[0], "some/tiny-GGUF:F32")
    assert (code, "arrived damaged (its SHA-256 is another); it was removed: run again" in told) == (1, True), told
    hub[1].damaged = False
    assert find(tmp_path, hub[0], "some/tiny-GGUF:F32")[0] == 0


def test_parts_are_fetched_together(hub, tmp_path):
    hub[1].files = {f"t-Q8_0-0000{i}-of-00002.gguf": bytes([i] * 99) for i in (1, 2)}
    code, path, told = find(tmp_path, hub[0], "some/tiny-GGUF")
    assert code == 0, told
    assert sorted(file.name for file in Path(path).parent.iterdir()) == sorted(hub[1].files)
    assert Path(path).name == "t-Q8_0-00001-of-00002.gguf"


def test_a_path_stays_a_path(tmp_path, monkeypatch):
    from metaaligner_lite.models import find_gguf

    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    tiny.write_model(tmp_path / "some" / "model")
    assert find_gguf("some/model", "the policy") == Path("some/model")
    assert find_gguf("absent/model.gguf", "the policy") == Path("absent/model.gguf")
