"""Find what is to be converted: a folder on this machine, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from metaaligner_lite import models

# What a conversion reads; no pickles.
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "*.jinja", "README.md", "LICENSE*")


def locate(name: str | Path, what: str = "the model") -> Path:
    """The folder of a model named by path or by Hub id (owner/name), see models.locate."""
    return models.locate(name, what, files=_FILES)


def default_out(source: Path | str, out: Path | None) -> Path | None:
    """Where outputs go: beside a source on this machine (None), into the current folder for one of the Hub's."""
    return out if out is not None or Path(source).exists() else Path.cwd()
