"""Damaged files for every reader of `mal convert`, by the thousand; a test runs a few hundred of them.

    python tests/fuzz_convert.py --cases 10000 [--seed 0] [--whole 200] [--keep DIR]

Each case takes a sound file, damages it at random and hands it to its reader. Right is success, or a MalError of one
sentence. Wrong is any other exception, a process that ends, more than 10 seconds, more than 1 GB, a file half written.
Cases run in worker processes, so that one that dies is found and named; `--keep` keeps the damaged files of faults.
The last of them, `--whole`, are whole conversions, whose folder may hold nothing but finished files afterwards.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, BYTES, BATCH = 10.0, 1 << 30, 250
NUMBERS: list[Any] = [0, 1, -1, 3.5, 1e400, 2**31, 2**63, 2**80]
STRANGE: list[Any] = [None, True, *NUMBERS, "", "x", "\ud800", "0" * 50, "NaN", [], [1], [[]], {}, {"a": []}]
Reader = Callable[[Path], object]


def damage_bytes(raw: bytes, chance: random.Random, within: int) -> bytes:
    """Cut, grow, flip or overwrite: at the front, where the header is."""
    data = bytearray(raw)
    kind = chance.randrange(5)
    at = chance.randrange(min(within, len(data)))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        del data[at : at + chance.randrange(1, 16)]
    elif kind == 2:
        data[at:at] = chance.randbytes(chance.randrange(1, 16))
    elif kind == 3:
        data[at : at + 8] = chance.choice([0, 1, 2**31, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little")
    else:
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(min(within, len(data)))] = chance.randrange(256)
    return bytes(data)


def damage_json(value: Any, chance: random.Random) -> Any:
    """Put something strange at a random place."""
    at, path = value, []
    while isinstance(at, dict | list) and at and chance.random() < 0.8:
        key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
        path.append(key)
        at = at[key]
    if not path:
        return copy.deepcopy(chance.choice(STRANGE))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if chance.random() < 0.2:
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(chance.choice(STRANGE))  # else it may come to hold itself
    return value


def damaged_json(raw: bytes, chance: random.Random) -> bytes:
    """JSON with strange values, or with bytes that are none."""
    kind = chance.randrange(10)
    if kind < 6:
        value = json.loads(raw)
        for _ in range(chance.randrange(1, 4)):
            value = damage_json(value, chance) if isinstance(value, dict | list) else value
        return json.dumps(value).encode()
    if kind == 6:
        return b'{"a":' * chance.randrange(1, 100_000)
    if kind == 7:
        return raw.decode().encode(chance.choice(["utf-16", "utf-16le", "utf-32", "utf-8-sig"]))
    return damage_bytes(raw, chance, len(raw))


def damaged_template(raw: bytes, chance: random.Random) -> bytes:
    """A template with pieces of others in it, or with bytes exchanged."""
    pieces = (
        *("{%", "%}", "{{", "}}", "{% for i in range(10**9) %}", "{% endfor %}", "{{ 'a' * 10**9 }}", "{{ x.y.z }}"),
        *("{% set x = x ~ x %}", "{{ ''.__class__ }}", "{{ 2 ** 10**6 }}", "{% macro m() %}{{ m() }}{% endmacro %}"),
        *("{{ m() }}", "{{ raise_exception('no') }}", "{# ", "{% if ", "{% include 'x' %}", "\0", "(" * 500, "\ud800"),
        *("{{ messages | tojson(indent=4) }}", "{{ '%99999999d' % 1 }}", "{% generation %}", "{{ [[]] * 10**8 }}"),
    )
    text = raw.decode()
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(pieces) + text[at + chance.choice([0, 0, 3, 30]) :]
    encoded = text.encode("utf-8", "surrogatepass")
    return encoded if chance.random() < 0.9 else damage_bytes(encoded, chance, len(encoded))


# What each kind reads: a folder of sound files, the file that is damaged, how, and by whom it is read.


def readers() -> dict[str, tuple[str, str, str, Reader]]:
    """Kind -> the sound folder, the file in it, how it is damaged, its reader."""
    from mal_convert import imatrix, requantize
    from mal_convert.adapter import read_adapter
    from mal_convert.checkpoint import read_tensors
    from mal_convert.model import open_model
    from mal_convert.plan import plan_tensors
    from mal_convert.vocab import read_vocabulary
    from metaaligner_lite.gguf_config import hf_config
    from metaaligner_lite.gguf_file import base_fingerprint, read_header, recommended_sampling

    def plan(folder: Path) -> None:
        model = open_model(folder)
        vocabulary = read_vocabulary(model.tokenizer, model.config.raw)
        plan_tensors(model, len(vocabulary.tokens))

    def header(folder: Path) -> None:
        found = read_header(folder / "model.gguf")
        found.check_tensors()
        recommended_sampling(found)
        base_fingerprint(found)
        requantize.plan(folder / "model.gguf", folder / "out", ["q8_0"])

    def base(folder: Path) -> None:
        hf_config(read_header(folder / "model.gguf"))

    def template(folder: Path) -> None:
        from metaaligner_lite.sandbox import BoundExceeded, compiled, render

        try:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            render(compiled((folder / "chat_template.jinja").read_text("utf-8")), {"messages": turns})
        except (BoundExceeded, RecursionError, MemoryError):
            pass
        except Exception as error:  # whatever a template raises, templates.py says in one line
            if isinstance(error, SystemError | AssertionError):
                raise

    def whole_template(folder: Path) -> None:
        read_vocabulary(folder, {})

    return {
        "gguf": ("gguf", "model.gguf", "head", header),
        "gguf as base": ("gguf", "model.gguf", "head", base),
        "safetensors": ("model", "model.safetensors", "head", lambda folder: read_tensors(folder)),
        "index": ("shards", "model.safetensors.index.json", "json", lambda folder: read_tensors(folder)),
        "config": ("model", "config.json", "json", plan),
        "config of experts": ("experts", "config.json", "json", plan),
        "tokenizer": ("model", "tokenizer.json", "json", plan),
        "tokenizer config": ("model", "tokenizer_config.json", "json", plan),
        "generation config": ("model", "generation_config.json", "json", plan),
        "pieces": ("pieces", "tokenizer.model", "bytes", plan),
        "pieces' tokenizer": ("pieces", "tokenizer_config.json", "json", plan),
        "adapter config": ("adapter", "adapter_config.json", "json", read_adapter),
        "adapter": ("adapter", "adapter_model.safetensors", "head", read_adapter),
        "mlx config": ("mlx", "adapter_config.json", "json", read_adapter),
        "mlx": ("mlx", "adapters.safetensors", "head", read_adapter),
        "template": ("template", "chat_template.jinja", "template", template),
        "template's file": ("model", "chat_template.jinja", "template", whole_template),
        "matrix": ("gguf", "matrix.gguf", "head", lambda folder: imatrix.read(folder / "matrix.gguf")),
        "older matrix": ("gguf", "matrix.dat", "bytes", lambda folder: imatrix.read(folder / "matrix.dat")),
    }


def sound(root: Path) -> None:
    """Make the folders of sound files."""
    import convert_models as models
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from mal_convert import convert, imatrix

    def folder(name: str) -> Path:
        path = root / name
        path.mkdir(parents=True)
        return path

    models.llama(folder("model"))
    models.FAMILIES["llama-2"](folder("pieces"))
    (root / "pieces" / "tokenizer.json").unlink()
    models.FAMILIES["qwen3-moe"](folder("experts"))
    models.adapter(root / "model", folder("adapter"))
    shutil.copytree(root / "model", root / "shards")
    weights = load_file(root / "shards" / "model.safetensors")
    (root / "shards" / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-00002.safetensors" for i in range(2)]
    for i, name in enumerate(names):
        save_file({k: v for at, (k, v) in enumerate(weights.items()) if at % 2 == i}, root / "shards" / name)
    index = {"metadata": {}, "weight_map": {key: names[at % 2] for at, key in enumerate(weights)}}
    (root / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    mlx = folder("mlx")
    parts = {"lora_a": np.ones((256, 4), np.float32), "lora_b": np.ones((4, 256), np.float32)}
    save_file({f"model.layers.0.self_attn.q_proj.{k}": v for k, v in parts.items()}, mlx / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}, "model": "x/y"}
    (mlx / "adapter_config.json").write_text(json.dumps(config))
    source = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    for name in ("template", "model"):
        (root / name).mkdir(exist_ok=True)
        (root / name / "chat_template.jinja").write_text(source)
    convert(root / "model", folder("gguf") / "model.gguf", ["f16"], verify=False)
    numbers = {"blk.0.attn_q.weight": np.ones((1, 256), np.float32), "blk.0.ffn_up_exps.weight": np.ones((4, 256))}
    counts = {name: np.ones(len(found), np.float32) for name, found in numbers.items()}
    imatrix.Matrix(numbers, counts, 3, "a.txt").save(root / "gguf" / "matrix.gguf")
    entries = [struct.pack("<i", len(k)) + k.encode() + struct.pack("<ii", 2, v.size) for k, v in numbers.items()]
    bodies = [entry + v.astype("<f4").tobytes() for entry, v in zip(entries, numbers.values(), strict=True)]
    (root / "gguf" / "matrix.dat").write_bytes(struct.pack("<i", len(bodies)) + b"".join(bodies))


def damage(raw: bytes, how: str, chance: random.Random) -> bytes:
    """The bytes of a sound file, damaged."""
    if how == "json":
        return damaged_json(raw, chance)
    if how == "template":
        return damaged_template(raw, chance)
    if how == "head" and raw[8:9] == b"{" and chance.random() < 0.4:  # safetensors: its JSON
        length = int.from_bytes(raw[:8], "little")
        header = json.dumps(damage_json(json.loads(raw[8 : 8 + length]), chance)).encode()
        return len(header).to_bytes(8, "little") + header + raw[8 + length :]
    return damage_bytes(raw, chance, min(len(raw), 4000) if how == "head" else len(raw))


WHOLE = ("config", "config of experts", "tokenizer", "tokenizer config", "gguf", "template's file", "index")


def one(case: int, seed: int, root: Path, known: dict[str, tuple[str, str, str, Reader]], whole: bool) -> str:
    """Run a case. Returns what it was and how it ended; anything but a MalError is raised."""
    from mal_convert import convert
    from metaaligner_lite.errors import MalError

    chance = random.Random(f"{seed}-{case}")
    kind = chance.choice(WHOLE if whole else list(known))
    folder, name, how, read = known[kind]
    path = root / folder / name
    raw = path.read_bytes()
    path.write_bytes(damage(raw, how, chance))
    out = root / "out"
    try:
        if whole:
            source = path if path.suffix == ".gguf" else path.parent
            convert(source, out / "x.gguf", ["q8_0"], force=True)
        else:
            read(root / folder)
    except MalError as error:
        if len(str(error)) <= 10 or "\n" in str(error).strip():
            raise AssertionError(f"says only {str(error)!r}") from error
        return f"{kind}: refused"
    finally:
        (root / "damaged").write_bytes(path.read_bytes())
        path.write_bytes(raw)
        if left := [file.name for file in root.rglob("*.part")]:
            raise AssertionError(f"half written: {left}")
    return f"{kind}: read"


def work(root: Path, first: int, last: int, seed: int, whole: bool) -> None:
    """A worker: runs cases, tells after each on stdout what it was, and how long it took."""
    known = readers()
    for case in range(first, last):
        print(json.dumps({"began": case}), flush=True)
        started = time.monotonic()
        try:
            what = one(case, seed, root, known, whole)
        except Exception as error:
            what = f"fault: {type(error).__name__}: {str(error)[:200]}"
        print(json.dumps({"case": case, "what": what, "seconds": time.monotonic() - started}), flush=True)
    print(json.dumps({"peak": peak()}), flush=True)


def peak() -> int:
    """The most memory this process had to itself and mapped, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(cases: int, seed: int = 0, whole: int = 0, keep: Path | None = None) -> dict[str, Any]:
    """Run cases in workers. Returns counts by what they were, the faults, the slowest case and the most memory."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    slowest = memory = 0.0
    with tempfile.TemporaryDirectory(prefix="mal-fuzz-") as scratch:
        root = Path(scratch)
        sound(root / "sound")
        at = 0
        while at < cases + whole:
            is_whole = at >= cases
            last = min(at + BATCH, cases + whole if is_whole else cases)
            shutil.rmtree(root / "work", ignore_errors=True)
            shutil.copytree(root / "sound", root / "work")
            command = [sys.executable, __file__, "--work", str(root / "work"), "--first", str(at), "--last", str(last)]
            command += ["--seed", str(seed), *(["--is-whole"] if is_whole else [])]
            limit = SECONDS * 3 + (last - at) * (5 if is_whole else 1)
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
                output, code, said = done.stdout, done.returncode, done.stderr
            except subprocess.TimeoutExpired as late:
                output, code, said = (late.stdout or b"").decode(), -1, "it hangs"
            began = at
            for line in output.splitlines():
                told = json.loads(line) if line.startswith("{") else {}
                began = told.get("began", began)
                memory = max(memory, told.get("peak", 0))
                if "case" not in told:
                    continue
                slowest = max(slowest, told["seconds"])
                counts[told["what"].partition(": ")[2] if "fault" not in told["what"] else "fault"] += 1
                counts[told["what"].partition(": ")[0]] += 1
                if told["what"].startswith("fault") or told["seconds"] > SECONDS:
                    faults.append(f"case {told['case']}: {told['what']} ({told['seconds']:.1f} s)")
            if code:
                faults.append(f"case {began}: the process ended with {code}: {said[-300:]}")
                if keep is not None and (root / "work" / "damaged").is_file():
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(root / "work" / "damaged", keep / f"{seed}-{began}")
            at = began + 1 if code else last
    return {"counts": dict(counts), "faults": faults, "slowest": slowest, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--whole", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--is-whole", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.first, args.last, args.seed, args.is_whole)
        return
    found = run(args.cases, args.seed, args.whole, args.keep)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["faults"]) or found["memory"] > BYTES)


if __name__ == "__main__":
    main()
