"""Coverage-guided fuzzing of the readers that are Python's own, by atheris (`pip install atheris`, Linux).

    python tests/fuzz_guided.py gguf [-max_total_time=600] [further options of libFuzzer] [CORPUS]

Readers: gguf, safetensors, records (JSONL, JSON, CSV, a TSV), rows, chat, template, adapter. Right is success or a
MalError of one sentence; anything else ends the run and leaves the input in crash-*. It is begun with a sound file of
each kind, since no one guesses a magic number. `fuzz_convert.py` and test_packed.py damage whole files instead.
"""

import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["metaaligner_lite", "mal_convert", "mal_train"]):
    from mal_convert.adapter import read_adapter
    from mal_convert.checkpoint import read_safetensors
    from metaaligner_lite.chats import load_history, read_chat
    from metaaligner_lite.errors import MalError
    from metaaligner_lite.gguf_file import base_fingerprint, read_header, recommended_sampling
    from metaaligner_lite.manifest import GGUF_KEY, Manifest
    from metaaligner_lite.objectives import resolve
    from metaaligner_lite.records import read_records
    from metaaligner_lite.rows import Reading, read_rows
    from metaaligner_lite.templates import ChatTemplate, turn
    from metaaligner_lite.transcripts import read_transcript

import tiny

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
READING = Reading(objectives=tuple(resolve("helpfulness")))
KINDS = ("jsonl", "json", "csv", "tsv")
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def written(data: bytes, name: str) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def gguf(data: bytes) -> None:
    header = read_header(written(data, "model.gguf"))
    header.check_tensors()
    base_fingerprint(header)
    recommended_sampling(header)
    if text := header.text(GGUF_KEY):
        Manifest.from_json(text, "it")


def safetensors(data: bytes) -> None:
    read_safetensors(written(data, "model.safetensors"))


def records(data: bytes) -> None:
    for _ in read_records(written(data[1:], f"rows.{KINDS[data[0] % 4 if data else 0]}")):
        pass


def rows(data: bytes) -> None:
    for _ in read_rows(written(data[1:], f"rows.{KINDS[data[0] % 4 if data else 0]}"), READING):
        pass


def chat(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    read_transcript(text)
    load_history(written(data, "chat.json"))
    read_chat(text, "it")


def template(data: bytes) -> None:
    source = ChatTemplate(data.decode("utf-8", errors="replace"))
    source.fit([turn("system", "s"), turn("user", "q"), turn("assistant", "a"), turn("user", "b")])


def adapter(data: bytes) -> None:
    config, _, weights = data.partition(b"\0\0")
    written(config, "adapter_config.json")
    written(weights, "adapter_model.safetensors")
    read_adapter(FOLDER)


def sound(reader: str) -> list[bytes]:
    """What a run begins with."""
    head = json.dumps({"w.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    tensors = struct.pack("<Q", len(head)) + head + bytes(8)
    row = {"query": "q", "answer": "a", "history": TURNS, "objectives": "empathy"}
    request = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": TURNS}}
    lines = [json.dumps(one).encode() for one in (row, request)]
    tables = [
        b"\0" + b"\n".join(lines),
        b"\1[" + b",".join(lines) + b"]",
        b"\2query,answer\nq,a\n",
        b"\3query\tanswer\nq\ta\n",
    ]
    settings = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "b",
    }
    return {
        "gguf": [
            tiny.write_model(FOLDER / "sound.gguf", layers=1, width=32, heads=1, kv_heads=1).read_bytes()[:20_000]
        ],
        "safetensors": [tensors],
        "records": tables,
        "rows": tables,
        "chat": [json.dumps(TURNS).encode(), json.dumps({"messages": TURNS}).encode(), b"Human: q\n\nAssistant: a"],
        "template": [tiny.CHATML.encode()],
        "adapter": [json.dumps(settings).encode() + b"\0\0" + tensors],
    }[reader]


READERS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (gguf, safetensors, records, rows, chat, template, adapter)
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        raise SystemExit(f"which reader? {', '.join(READERS)}")
    read = READERS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        try:
            read(data)
        except MalError as error:
            assert str(error).strip(), "a refusal without a word"

    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, data in enumerate(sound(read.__name__)):
        (corpus / str(i)).write_bytes(data)
    atheris.Setup([*sys.argv, "-timeout=10", "-rss_limit_mb=1024", "-max_len=32768", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("MAL_HOME", str(FOLDER / "home"))
    main()
