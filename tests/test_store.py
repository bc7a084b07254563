"""Prefix state on disk: what one process has read, the next does not read again; what is not ours is never loaded."""

import json
import os
import subprocess
import sys

import pytest
import tiny

from metaaligner_lite.align import align
from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.errors import FileProblem
from metaaligner_lite.llama import store as stores
from metaaligner_lite.llama.engine import open_engine
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.llama.store import SUFFIX, Store
from metaaligner_lite.policies import GgufPolicy, GivenAnswer
from metaaligner_lite.prompts import invocation
from metaaligner_lite.templates import ChatTemplate

QUERY = "Where is my parcel? " * 6


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def edit(path, folder, objectives="empathy", query=QUERY, **options):
    """One run as a process of its own would do it: the correction, and what the cache had to say."""
    said = []
    with open_engine(path, threads=1, cache=folder, say=said.append, **options) as engine:
        aligner = GgufAligner(engine, layout="conversation", max_tokens=8)
        correction = align(query, objectives, policy=GivenAnswer("In transit."), aligner=aligner)
    return correction, said


def files(folder):
    return sorted(folder.glob("*" + SUFFIX))


def test_the_next_process_reads_only_the_suffix(tiny_path, folder):
    first, _ = edit(tiny_path, folder)
    again, said = edit(tiny_path, folder)
    assert first.edit.counts.reused == 0
    assert (again.edit.counts.read, said) == (1, [])
    assert again.text == first.text
    other, _ = edit(tiny_path, folder, "clarity")
    shared = len("user\n" + QUERY + "assistant\nIn transit.user\nEdit your answer to improve it")
    assert other.edit.counts.reused >= shared
    with open_engine(tiny_path, threads=1) as engine:
        fresh = align(
            QUERY,
            "clarity",
            policy=GivenAnswer("In transit."),
            aligner=GgufAligner(engine, layout="conversation", max_tokens=8),
        )
    assert other.text == fresh.text


def test_two_real_processes(tiny_path, folder):
    command = [sys.executable, "-m", "metaaligner_lite", "align", QUERY, "--answer", "Yes.", "-o", "empathy", "--json"]
    command += ["--aligner", str(tiny_path), "--layout", "conversation", "--max-tokens", "8", "--cache", str(folder)]
    counts = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["aligner"] for _ in range(2)]
    assert counts[0]["reused"] == 0
    assert counts[1]["read"] == 1


def test_a_shared_base_keeps_what_it_read_either_way(tiny_path, folder, tmp_path):
    with open_model(tiny_path, repack=False) as base:
        words = invocation("conversation", ChatTemplate(tiny.CHATML), base)
    adapter = tiny.write_adapter(tmp_path / "a.gguf", words)

    def run():
        with open_engine(tiny_path, adapter=adapter, threads=1, cache=folder) as engine:
            aligner = GgufAligner(engine, layout="conversation", max_tokens=8)
            return align(QUERY, "empathy", policy=GgufPolicy(engine, max_tokens=8), aligner=aligner)

    first, again = run(), run()
    assert again.answer.generation.counts.read == 1
    assert (again.answer.text, again.text) == (first.answer.text, first.text)


def test_another_adapter_or_scale_shares_nothing(tiny_path, folder, tmp_path, monkeypatch):
    with open_model(tiny_path, repack=False) as base:
        words = invocation("conversation", ChatTemplate(tiny.CHATML), base)
    first, second = (tiny.write_adapter(tmp_path / f"{seed}.gguf", words, seed=seed) for seed in (1, 2))

    def reused(adapter):
        with open_engine(tiny_path, adapter=adapter, threads=1, cache=folder) as engine:
            aligner = GgufAligner(engine, layout="conversation", max_tokens=8)
            return align(QUERY, "empathy", policy=GivenAnswer("Yes."), aligner=aligner).edit.counts.reused

    assert reused(first) == 0
    assert reused(first) > 0
    assert reused(second) == 0
    monkeypatch.setattr("metaaligner_lite.llama.engine.ADAPTER_SCALE", 0.5)
    assert reused(first) == 0


@pytest.mark.parametrize("change", ["weights", "kv", "library"])
def test_another_model_or_setting_shares_nothing(tiny_path, folder, tmp_path, monkeypatch, change):
    path = tiny.write_model(tmp_path / "m.gguf")
    edit(path, folder)
    if change == "weights":
        status = path.stat()
        tiny.write_model(path, seed=5)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and date
    if change == "library":
        monkeypatch.setattr("metaaligner_lite.llama.store.library_build", lambda: "another")
    correction, said = edit(path, folder, **({"kv": "f32"} if change == "kv" else {}))
    assert (correction.edit.counts.reused, said) == (0, [])
    assert len(files(folder)) == 2


@pytest.mark.parametrize("place", [3, 20, 45, 70, 500, -1, "cut", "longer", "empty"])
def test_a_damaged_file_is_told_ignored_and_written_anew(tiny_path, folder, place):
    first, _ = edit(tiny_path, folder)
    (path,) = files(folder)
    raw = bytearray(path.read_bytes())
    if isinstance(place, int):
        raw[place] ^= 1
    path.write_bytes({"cut": raw[:-100], "longer": raw + b"x", "empty": b""}.get(place, raw))
    correction, said = edit(tiny_path, folder)
    assert correction.text == first.text
    assert correction.edit.counts.reused == 0
    if place not in (20, 70):  # a changed fingerprint, a changed token: a file for another model, for another text
        assert len(said) == 1
        assert said[0].startswith(f"ignoring {path}: ")
        assert len(files(folder)) == 1
    assert edit(tiny_path, folder)[0].edit.counts.read == 1


def test_a_file_of_another_users_making_is_not_loaded(tiny_path, folder, monkeypatch, tmp_path):
    """Whoever can write into the folder can compute any checksum, but does not have the key."""
    monkeypatch.setenv("MAL_HOME", str(tmp_path / "mallory"))
    edit(tiny_path, folder)
    monkeypatch.setenv("MAL_HOME", str(tmp_path / "home"))
    correction, said = edit(tiny_path, folder)
    assert correction.edit.counts.reused == 0
    assert "it is damaged, or not of your making" in said[0]


def test_the_least_recently_used_go_first(tiny_path, folder):
    edit(tiny_path, folder, query="a" * 200)
    size = files(folder)[0].stat().st_size
    edit(tiny_path, folder, query="b" * 200)
    for age, path in enumerate(files(folder)):
        os.utime(path, ns=(age * 10**9, age * 10**9))
    kept = files(folder)[1]
    edit(tiny_path, folder, query="c" * 200, cache_bytes=int(size * 2.5))
    assert len(files(folder)) == 2
    assert kept in files(folder)
    _, said = edit(tiny_path, folder, query="d" * 200, cache_bytes=1000)
    assert "more than `cache_bytes` allows" in said[0]


def test_a_longer_text_replaces_what_it_continues(tiny_path, folder):
    for turns in (1, 2, 3):
        with open_engine(tiny_path, threads=1, cache=folder) as engine:
            GgufPolicy(engine, max_tokens=4 * turns).answer(QUERY)
    assert len(files(folder)) == 1


def test_unfinished_files_of_dead_processes_go(tiny_path, folder):
    folder.mkdir()
    old, new = folder / f".x{SUFFIX}.1", folder / f".y{SUFFIX}.2"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    edit(tiny_path, folder)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be(tiny_path, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileProblem, match="cannot keep a cache in"):
        Store(tmp_path / "file", b"x" * 32)
    with pytest.raises(FileProblem, match="another folder with `cache`"):
        open_engine(tiny_path, cache=tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_the_key_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path))
    key = stores._own_key()
    assert (len(key), stores._own_key()) == (32, key)
    assert (tmp_path / "store.key").stat().st_mode & 0o077 == 0
