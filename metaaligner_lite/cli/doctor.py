"""`mal doctor`: what this machine and its llama.cpp can do, and what to mend."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

REBUILD = (
    "CMAKE_ARGS='\"-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse\"' "
    "pip install --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python"
)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine: versions, processor, GPU offload, the safe-start probe; say what to do."""
    from .console import print_json

    facts = examine()
    if as_json:
        print_json(facts)
    else:
        for label, value in facts.items():
            if label != "advice":
                print(f"{label.replace('_', ' '):16}  {value}")
        for line in facts["advice"]:
            print(f"\n{line}")
        if not facts["advice"]:
            print("\nNothing to mend.")
    if facts["probe"] == "unknown" or "cannot be loaded" in str(facts["llama_cpp"]):
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """The doctor's findings as plain values; `advice` is a list of what to do."""
    import platform
    import shutil
    import sys

    from .. import __version__, models
    from ..errors import ModelError
    from ..llama.library import library
    from ..llama.machine import default_threads, processor_name, spinning_said, threads_said
    from ..llama.probe import probe
    from ..llama.tune import count
    from ..paths import cache_dir, config_dir

    facts: dict[str, Any] = {
        "metaaligner_lite": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": f"{platform.system()} {platform.machine()}, {default_threads()} threads, {_memory()}",
        "processor": processor_name(),
        "threads": threads_said(),
    }
    advice: list[str] = []
    facts["advice"] = advice
    try:
        lib = library()
    except ModelError as error:
        return facts | {"llama_cpp": str(error), "probe": "unknown", "advice": [str(error)]}
    features = lib.llama_print_system_info().decode(errors="replace")
    offload = bool(lib.llama_supports_gpu_offload())
    result = probe(again=True)
    shipped = models.shipped_adapter()
    facts |= {
        "llama_cpp": f"llama-cpp-python {_version('llama-cpp-python')}",
        "features": ", ".join(
            part.split("=")[0].split(":")[-1].strip() for part in features.split("|") if part.strip().endswith("= 1")
        ),
        "spinning": spinning_said(),
        "gpu_offload": "yes" if offload else "no, this build runs on the CPU",
        "probe": result.outcome,
        "probe_detail": result.detail,
        "base": str(models.BASE.path or f"none; {models.BASE.command} brings {models.BASE.name}"),
        "aligner": str(shipped.path) if shipped else "none ships with this build; policies edit their own answers",
        "tuned": f"{count()} model shapes (mal tune MODEL.gguf measures one)",
        "settings": str(config_dir()),
        "cache": str(cache_dir()),
    }
    if result.outcome == "crash":
        advice.append(
            "llama.cpp crashes in its default load here (a compiler fault in the AMX code, ggml-org/llama.cpp#20824).\n"
            "mal avoids it, at some cost in speed. To be rid of it, rebuild:\n  " + REBUILD
        )
    if result.outcome == "unknown":
        advice.append(f"The probe could not run: {result.detail}")
    if not offload and shutil.which("nvidia-smi"):
        advice.append(
            "There is an NVIDIA GPU that this build does not use. To use it (needs the CUDA toolkit):\n"
            '  CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-deps '
            "--no-binary llama-cpp-python llama-cpp-python"
        )
    return facts


def _memory() -> str:
    from .console import human_bytes

    try:
        return f"{human_bytes(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} of memory"
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return "memory not known"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
