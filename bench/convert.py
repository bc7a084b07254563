"""`mal convert` against llama.cpp's own way: convert_hf_to_gguf.py, then quantize. Time, peak memory, output.

    python bench/convert.py --llama-cpp DIR --cache DIR [--layers 22] [--type q4_k_m] [--rounds 3] [--adapter]

DIR of --llama-cpp is llama.cpp's source folder, for example vendor/llama.cpp in llama-cpp-python's source
distribution. The model is random with TinyLlama's shape (1.1B parameters, bfloat16, 2.2 GB), made once in --cache.
All contestants run in each round, one after the other, each in processes of its own; results.jsonl in --cache keeps
every run; the table, and the JSON document in the last line, show medians over all of them. Peak memory is the sum over
a process and its children, sampled 50 times a second: "private" is what only they hold (RssAnon); "resident" also
counts the pages of mapped files, which the system takes back when it needs them. Linux only, for its /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from machine import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

QUANTIZE = """
import ctypes, sys
import llama_cpp.llama_cpp as lib
params = lib.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""
Command = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapter", action="store_true", help="also merge a random adapter of rank 16 on the way")
    args = parser.parse_args()
    model, adapter = args.cache / f"random-{args.layers}", args.cache / f"adapter-{args.layers}"
    if not (model / "model.safetensors").is_file():
        make_model(model, args.layers)
    if args.adapter and not adapter.is_dir():
        make_adapter(model, adapter, args.layers)
    log = args.cache / "results.jsonl"
    out = args.cache / "out"
    for _ in range(args.rounds):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name, commands in contestants(model, adapter if args.adapter else None, out, args).items():
            with log.open("a") as file:
                file.write(
                    json.dumps({"what": f"{args.layers} layers, {args.type}", "name": name, **run(commands)}) + "\n"
                )
        assert tensor_hashes(out / "ours.gguf") == tensor_hashes(out / "theirs.gguf"), "the two ways made other tensors"
    print(json.dumps({"bench": "convert", "machine": machine(0), "results": show(log)}))


def contestants(model: Path, adapter: Path | None, out: Path, args: argparse.Namespace) -> dict[str, list[Command]]:
    """What is compared, by name: commands that run one after the other."""
    from mal_convert.quantize import file_types, parse_type

    def ours(source: Path, target: str, *more: str) -> Command:
        options = ["--out", str(out / target), "--type", args.type, "--force", *more]
        return [sys.executable, "-m", "metaaligner_lite", "convert", str(source), *options]

    middle, theirs = str(out / "theirs-bf16.gguf"), str(out / "theirs.gguf")
    script = [sys.executable, str(args.llama_cpp / "convert_hf_to_gguf.py"), str(model)]
    quantize = [sys.executable, "-c", QUANTIZE, middle, theirs, str(file_types()[parse_type(args.type)])]
    found = {
        "mal convert": [ours(model, "ours.gguf")],
        "mal convert --no-verify": [ours(model, "unchecked.gguf", "--no-verify")],
        "convert_hf_to_gguf.py + quantize": [[*script, "--outfile", middle, "--outtype", "bf16"], quantize],
    }
    if adapter is not None:
        found["mal convert, merging an adapter"] = [ours(adapter, "merged.gguf", "--base", str(model))]
    return found


def show(log: Path) -> list[dict[str, object]]:
    """Print and return the medians of every run there is, with the extremes of time."""
    rows: list[dict[str, object]] = []
    runs = [json.loads(line) for line in log.read_text().splitlines()]
    for what, name in dict.fromkeys((run["what"], run["name"]) for run in runs):
        mine = [run for run in runs if (run["what"], run["name"]) == (what, name)]
        seconds = [run["seconds"] for run in mine]
        medians = {key: statistics.median(run[key] for run in mine) for key in ("seconds", "private", "resident")}
        rows.append({"what": what, "name": name, "runs": len(mine), "range": [min(seconds), max(seconds)], **medians})
        spread = f"({min(seconds):.1f} to {max(seconds):.1f}, {len(mine)} runs)"
        memory = f"{medians['private'] / 1e9:5.2f} GB private   {medians['resident'] / 1e9:5.2f} GB resident"
        print(f"{what:20}  {name:34} {medians['seconds']:6.1f} s {spread:26} {memory}")
    return rows


def run(commands: list[Command]) -> dict[str, float]:
    """Run commands one after the other: seconds in all, and the highest peaks."""
    parts = [measure(command) for command in commands]
    peaks = {key: max(part[key] for part in parts) for key in ("private", "resident")}
    return {"seconds": sum(part["seconds"] for part in parts), **peaks}


def measure(command: Command) -> dict[str, float]:
    """Run a command; wall-clock seconds, and peaks of private and resident memory in bytes, children included."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = {"private": 0.0, "resident": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for key, found in memory_of(process.pid).items():
                peak[key] = max(peak[key], found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, stderr = process.communicate()
    seconds = time.monotonic() - started
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{stderr.decode(errors='replace')[-2000:]}")
    return {"seconds": seconds, **peak}


def memory_of(pid: int) -> dict[str, float]:
    """Private and resident bytes of a process and all its children; zero once it has ended."""
    found = {"private": 0.0, "resident": 0.0}
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    numbers = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
    found = {key: 1024.0 * int(numbers.get(name, 0)) for key, name in (("private", "RssAnon"), ("resident", "VmRSS"))}
    for child in children:
        for key, more in memory_of(int(child)).items():
            found[key] += more
    return found


def tensor_hashes(path: Path) -> dict[str, str]:
    """Name -> hash of type, shape and bytes of each tensor in a GGUF file."""
    from metaaligner_lite.gguf_file import read_header

    header = read_header(path)
    raw = np.memmap(path, np.uint8, "r")
    hashes = {}
    for tensor in header.tensors:
        start = header.data_offset + tensor.offset
        about = f"{tensor.type} {tensor.shape} ".encode()
        hashes[tensor.name] = hashlib.sha256(about + raw[start : start + tensor.bytes].tobytes()).hexdigest()
    return hashes


def make_model(folder: Path, layers: int) -> None:
    """A Llama of TinyLlama's shape, random bfloat16, written tensor by tensor."""
    import convert_models as models

    folder.mkdir(parents=True)
    models.sentencepiece_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (32000, 2048), "lm_head.weight": (32000, 2048), "model.norm.weight": (2048,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{part}_proj.weight": (2048, 2048) for part in "qo"}
        shapes |= {f"{at}self_attn.{part}_proj.weight": (256, 2048) for part in "kv"}
        shapes |= {f"{at}mlp.{part}_proj.weight": (5632, 2048) for part in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (2048, 5632)}
        shapes |= {f"{at}{part}_layernorm.weight": (2048,) for part in ("input", "post_attention")}
    write_safetensors(folder / "model.safetensors", shapes, "BF16")


def make_adapter(base: Path, folder: Path, layers: int) -> None:
    """A random LoRA of rank 16 on every matrix of every layer."""
    folder.mkdir()
    sizes = {"self_attn.q_proj": (2048, 2048), "self_attn.o_proj": (2048, 2048), "mlp.down_proj": (2048, 5632)}
    sizes |= {f"self_attn.{part}_proj": (256, 2048) for part in "kv"}
    sizes |= {f"mlp.{part}_proj": (5632, 2048) for part in ("gate", "up")}
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        for part, (rows, columns) in sizes.items():
            at = f"base_model.model.model.layers.{i}.{part}"
            shapes |= {f"{at}.lora_A.weight": (16, columns), f"{at}.lora_B.weight": (rows, 16)}
    write_safetensors(folder / "adapter_model.safetensors", shapes, "F32", small="lora_B")
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, small: str = " ") -> None:
    """Random tensors of about unit variance per output, those with `small` in their name smaller."""
    width, header, at = {"BF16": 2, "F32": 4}[dtype], {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    chance = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            scale = (0.05 if small in name else 1.0) / shape[-1] ** 0.5
            numbers = chance.standard_normal(shape, np.float32) * np.float32(scale)
            if len(shape) == 1:
                numbers = np.ones(shape, np.float32)
            raw = numbers if dtype == "F32" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
            file.write(raw.tobytes())


if __name__ == "__main__":
    main()
