"""Reward models: any Hugging Face sequence classifier rates answers, in batches, and is asked each thing once."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import FileProblem, ModelError, UsageError
from metaaligner_lite.transcripts import as_transcript

from .rows import Names, Row

_MAX_LENGTH = 1024  # tokens, as in the reference code; fewer where the model reads fewer


@dataclass(frozen=True, slots=True)
class Reward:
    """A classifier for an objective: the logit `index` of a model folder, on query and answer or the answer alone."""

    objective: str
    model: Path
    index: int = 0
    answer_only: bool = False


def parse_reward(text: str) -> Reward:
    """OBJECTIVE=FOLDER, with #INDEX for a logit other than the first and @answer to show the model no query."""
    objective, equals, rest = text.partition("=")
    rest, at, only = rest.partition("@")
    folder, hash_, index = rest.partition("#")
    if (
        not equals
        or not objective.strip()
        or not folder
        or (hash_ and not index.isdigit())
        or (at and only != "answer")
    ):
        raise UsageError(f"--reward {text!r}: expected OBJECTIVE=FOLDER, such as humor=humor-no-humor#1@answer")
    return Reward(objective.strip(), Path(folder), int(index or 0), bool(at))


class Rewards:
    """Rates rows with reward models; what was scored once is remembered in a small database, rounded when used.

    The scores are rounded to `decimals` (the reference code's 1), so that nearly equal answers are ties.
    """

    def __init__(
        self, rewards: Sequence[Reward], names: Names, cache: Path, batch_size: int = 16, decimals: int = 1
    ) -> None:
        self._rewards = [(reward, names[reward.objective]) for reward in rewards]
        self._cache, self._batch_size, self._decimals = cache, batch_size, decimals
        self._loaded: dict[Path, tuple[Any, Any]] = {}
        self.asked = 0  # answers that a model had to read

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the models' ratings put to those they have."""
        rated = [[dict(answer.ratings) for answer in row.answers] for row in rows]
        for reward, objective in self._rewards:
            places = [(i, j) for i, row in enumerate(rows) for j in range(len(row.answers))]
            asks = ["" if reward.answer_only else _asked(row) for row in rows]
            texts = [(asks[i], rows[i].answers[j].text) for i, j in places]
            for (i, j), score in zip(places, self.scores(reward, texts), strict=True):
                rated[i][j][objective] = round(score, self._decimals)
        return [
            replace(row, answers=tuple(replace(a, ratings=r) for a, r in zip(row.answers, ratings, strict=True)))
            for row, ratings in zip(rows, rated, strict=True)
        ]

    def scores(self, reward: Reward, texts: Sequence[tuple[str, str]]) -> list[float]:
        """The scores of (query, answer) pairs, not rounded; what was scored once is not asked again."""
        texts = [("" if reward.answer_only else query, answer) for query, answer in texts]
        stem = identity(reward)
        keys = [hashlib.sha256("\0".join((stem, *pair)).encode()).hexdigest() for pair in texts]
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._cache)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL)")
            known = {
                key: score
                for key in keys
                for (score,) in database.execute("SELECT score FROM scores WHERE key = ?", (key,))
            }
            missing = {key: pair for key, pair in zip(keys, texts, strict=True) if key not in known}
            fresh = dict(zip(missing, self._ask(reward, list(missing.values())), strict=True))
            database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", fresh.items())
        self.asked += len(fresh)
        known |= fresh
        return [known[key] for key in keys]

    def _ask(self, reward: Reward, texts: Sequence[tuple[str, str]]) -> list[float]:
        import torch

        if not texts:
            return []
        tokenizer, model = self._open(reward)
        if reward.index >= model.config.num_labels:
            raise UsageError(f"{reward.model} has {model.config.num_labels} logits; there is no #{reward.index}")
        scores: dict[int, float] = {}
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i][0]) + len(texts[i][1]))
        for start in range(0, len(texts), self._batch_size):
            places = by_length[start : start + self._batch_size]
            batch = [texts[i] for i in places]
            first = [answer if reward.answer_only else query for query, answer in batch]
            second = None if reward.answer_only else [answer for _, answer in batch]
            inputs = tokenizer(
                first, second, truncation=True, max_length=_longest(tokenizer, model), padding=True, return_tensors="pt"
            ).to(model.device)
            with torch.no_grad():
                found = model(**inputs).logits[:, reward.index].float().tolist()
            if not all(map(math.isfinite, found)):
                raise ModelError(
                    f"the reward model {reward.model} gives scores that are no numbers; its files may be damaged"
                )
            scores.update(zip(places, found, strict=True))
        return [scores[i] for i in range(len(texts))]

    def _open(self, reward: Reward) -> tuple[Any, Any]:
        if reward.model not in self._loaded:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(reward.model, local_files_only=True)
                model = AutoModelForSequenceClassification.from_pretrained(reward.model, local_files_only=True)
            except (OSError, ValueError, KeyError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise FileProblem(
                    f"cannot open the reward model {reward.model}: {reason}; expected the folder of a sequence "
                    "classifier, or the name of one in the Hugging Face cache (hf download NAME)"
                ) from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded[reward.model] = tokenizer, model.eval().to(device)
        return self._loaded[reward.model]


def _asked(row: Row) -> str:
    """What a reward model is shown before the answer: the query; with the turns before it, in HH-RLHF's marks."""
    return as_transcript(row.query, row.history) if row.history else row.query


def _longest(tokenizer: Any, model: Any) -> int:
    """The most tokens a classifier can read; some know from their tokenizer alone, some from their positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or _MAX_LENGTH
    return int(min(_MAX_LENGTH, tokenizer.model_max_length, positions))


def identity(reward: Reward) -> str:
    """What a score depends on besides the text: the logit, and the files by name, size and date."""
    files = sorted(reward.model.glob("*")) if reward.model.is_dir() else []
    found = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return "\n".join([str(reward.model.resolve()), str(reward.index), *found])
