"""Models named by Hugging Face id: fetched once from a stand-in of the Hub on this machine, then from the cache."""

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

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """The few answers of the Hub that a download needs."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        self.asked.append(self.path)
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file()]
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "somebody", "tiny"]:
            entries = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _etag(f)} for f in files]
            siblings = [{"rfilename": f.name} for f in files]
            info = {"_id": "1", "id": "somebody/tiny", "sha": COMMIT, "siblings": siblings, "private": False}
            self.reply(json.dumps(entries if "tree" in parts else info).encode(), body)
        elif parts[:3] == ["somebody", "tiny", "resolve"] and (self.folder / parts[-1]).is_file():
            path = self.folder / parts[-1]
            self.reply(path.read_bytes(), body, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT})
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


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    folder = tmp_path / "repository"
    folder.mkdir()
    models.llama(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, never fetched")
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (StandIn,), {"folder": folder, "asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, asked
    server.shutdown()
    server.server_close()


def run(where: Path, port: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metaaligner_lite", "convert", *arguments]
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(where / "hf"), "HF_HUB_DISABLE_XET": "1"}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), "")
    env = {**os.environ, **proxies, "NO_PROXY": "127.0.0.1", **settings, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=env, cwd=where)


def test_a_model_from_the_hub_is_fetched_once_and_then_found_offline(
    hub: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path
) -> None:
    server, asked = hub
    port = server.server_port
    first = run(tmp_path, port, "somebody/tiny", "--q8_0", "--json")
    assert first.returncode == 0, first.stderr
    path = Path(json.loads(first.stdout)["outputs"][0]["path"])
    assert path.parent == tmp_path  # never into the cache
    assert not [address for address in asked if "pytorch_model.bin" in address and "resolve" in address]
    server.shutdown()
    offline = run(tmp_path, port, "somebody/tiny", "--q8_0", "--force", "--json", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr


def test_what_is_neither_here_nor_there(hub: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path) -> None:
    server, asked = hub
    missing = run(tmp_path, server.server_port, "somebody/else", "--q8_0")
    assert (missing.returncode, "cannot be fetched from the Hub" in missing.stderr) == (1, True), missing.stderr
    asked.clear()
    offline = run(tmp_path, server.server_port, "somebody/tiny", "--q8_0", HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE is set" in offline.stderr) == (1, True), offline.stderr
    assert not asked
