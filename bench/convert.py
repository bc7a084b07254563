"""`mal convert` against llama.cpp's own way: convert_hf_to_gguf.py, then quantize. Time and peak memory of each.

    python bench/convert.py --llama-cpp DIR --cache DIR [--layers 22] [--type q4_k_m] [--adapter]

DIR of --llama-cpp is llama.cpp's source folder, for example vendor/llama.cpp in llama-cpp-python's source
distribution. The model is random with TinyLlama's shape (1.1B parameters, bfloat16, 2.2 GB), made once in --cache.
Each run is a process of its own. "private" is memory that only the process holds; "resident" also counts the pages
of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

QUANTIZE = """
import ctypes, sys
import llama_cpp.llama_cpp as lib
params = lib.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--adapter", action="store_true", help="also merge a random adapter of rank 16 on the way")
    args = parser.parse_args()
    model = args.cache / f"random-{args.layers}"
    if not model.is_dir():
        make_model(model, args.layers)
    out = args.cache / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    rows = compare(model, out, args.llama_cpp, args.type)
    if args.adapter:
        make_adapter(model, args.cache / "adapter", args.layers)
        command = ours(args.cache / "adapter", out / "merged.gguf", args.type)
        rows["mal convert, merging an adapter"] = [measure([*command, "--base", str(model)])]
    for name, runs in rows.items():
        seconds = sum(run["seconds"] for run in runs)
        private, resident = (max(run[key] for run in runs) / 1e9 for key in ("private", "resident"))
        print(f"{name:40} {seconds:7.1f} s   {private:5.2f} GB private   {resident:5.2f} GB resident")


def compare(model: Path, out: Path, llama_cpp: Path, kind: str) -> dict[str, list[dict[str, float]]]:
    """Measure both ways, and ours without its checks; the quantized files must be of one size."""
    from mal_convert.quantize import file_types, parse_type

    middle, theirs = out / "theirs-bf16.gguf", out / "theirs.gguf"
    script = [sys.executable, str(llama_cpp / "convert_hf_to_gguf.py"), str(model)]
    rows = {
        "mal convert": [measure(ours(model, out / "ours.gguf", kind))],
        "mal convert --no-verify": [measure([*ours(model, out / "unchecked.gguf", kind), "--no-verify"])],
        "convert_hf_to_gguf.py + quantize": [
            measure([*script, "--outfile", str(middle), "--outtype", "bf16"]),
            measure([sys.executable, "-c", QUANTIZE, str(middle), str(theirs), str(file_types()[parse_type(kind)])]),
        ],
    }
    sizes = [path.stat().st_size for path in (out / "ours.gguf", theirs)]
    assert abs(sizes[0] - sizes[1]) < 1e5, sizes
    middle.unlink()
    return rows


def ours(source: Path, target: Path, kind: str) -> list[str]:
    return [sys.executable, "-m", "metaaligner_lite", "convert", str(source), "--out", str(target), "--type", kind]


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; wall-clock seconds, and peaks of private and resident memory in bytes."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = {"private": 0.0, "resident": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            numbers = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
            for key, name in (("private", "RssAnon"), ("resident", "VmHWM")):
                peak[key] = max(peak[key], 1024.0 * int(numbers.get(name, 0)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, stderr = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{stderr.decode(errors='replace')[-2000:]}")
    return {"seconds": time.monotonic() - started, **peak}


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
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sizes = {"self_attn.q_proj": (2048, 2048), "self_attn.o_proj": (2048, 2048), "mlp.down_proj": (2048, 5632)}
    sizes |= {f"self_attn.{part}_proj": (256, 2048) for part in "kv"}
    sizes |= {f"mlp.{part}_proj": (5632, 2048) for part in ("gate", "up")}
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        for part, (rows, columns) in sizes.items():
            at = f"base_model.model.model.layers.{i}.{part}"
            shapes |= {f"{at}.lora_A.weight": (16, columns), f"{at}.lora_B.weight": (rows, 16)}
    write_safetensors(folder / "adapter_model.safetensors", shapes, "F32")
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """Random tensors of about unit variance per output, one in memory at a time."""
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
        for shape in shapes.values():
            numbers = chance.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
            if len(shape) == 1:
                numbers = np.ones(shape, np.float32)
            raw = numbers if dtype == "F32" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
            file.write(raw.tobytes())


if __name__ == "__main__":
    main()
