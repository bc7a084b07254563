"""What a run of the miniature is told: files, budgets, policies; and the requests that its questions are put with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from real_policies import file_of, fingerprint, there

from mal_train.rows import fingerprint as rows_fingerprint

#: Asked for all at once, as the paper asks for the three or four objectives of a data set. All have a rule.
TRAINED = ("brevity", "politeness", "clarity", "readability")
#: Withheld from the corpus, added one at a time. (length is withheld, too, but its rule is brevity's.)
UNSEEN = ("specificity", "respect", "neutrality", "caution", "reassurance")
#: Asked for one at a time, the others measured.
SINGLES = (*TRAINED, "repetition", "structure", "simplicity", "formality", "positivity", "encouragement")
#: The ways to train: which of the paper's three steps are left out.
VARIANTS = {
    "full": (),
    "no-warmup": ("warmup",),
    "no-equal": ("equal",),
    "contrastive-only": ("warmup", "equal"),
}
QUANTIZED = ("F16", "Q8_0", "Q4_0")  # made of the base's numbers; Q4_0 rounds them once more
MERGED = ("F16", "Q4_1")

#: Weak to strong, by MT-Bench (LMSYS' tables of 2023, the models' papers: 6.2, 6.3, 6.8, 7.3, 7.9, 7.9, 9.0). Only the
#: order is used. All answered the same queries. Of own/greedy the base is the policy: 135 million weights, the weakest.
STRENGTH = (
    "own/greedy",
    "just/vicuna-7b-v1.5",
    "just/Llama-2-7b-chat-hf",
    "just/Mistral-7B-Instruct-v0.1",
    "just/zephyr-7b-beta",
    "just/tulu-2-dpo-70b",
    "just/gpt-3.5-turbo-0301",
    "just/gpt-4-0314",
)
#: Answers that the paper's Table 2 was measured on, of its published samples.
PAPERS = ("hh/llama2-chat-70B", "uf/Vicuna-13B", "uf/gpt-3.5-turbo", "hh/Claude-3")
PROBE = ("own/greedy", "uf/Vicuna-13B", "hh/Claude-3", "just/gpt-4-0314")


def added() -> list[str]:
    """The requests of Figure 3: one objective, two, ... all trained ones, then the unseen ones as well."""
    every = (*TRAINED, *UNSEEN)
    return [",".join(every[:count]) for count in range(1, len(every) + 1)]


def full() -> str:
    """The request that names the trained objectives all at once."""
    return ",".join(TRAINED)


@dataclass(frozen=True)
class Settings:
    """What a run is told. Every step's key holds those of them that decide it."""

    data: Path
    rows: Path
    base: Path
    work: Path
    minutes: float = 20.0  # of a training, about
    n: int = 40  # answers of each policy
    seeds: tuple[int, ...] = (0, 1)  # of trainings; the first one's aligner serves the other questions
    policies: tuple[str, ...] = (*STRENGTH, *PAPERS)
    probe: tuple[str, ...] = PROBE  # the policies of all questions but Table 2's and the strength's
    recipe: str = "smollm2-135m"
    sample: int = 0  # draws the answers
    threads: int = 0
    minilm: Path | None = None

    @property
    def every_policy(self) -> tuple[str, ...]:
        """The policies of all questions."""
        return tuple(dict.fromkeys((*self.policies, *self.probe)))

    @cached_property
    def base_hash(self) -> str:
        """Of the base's bytes. Raises FileProblem if it is not there."""
        return fingerprint(self.base)

    @cached_property
    def rows_hash(self) -> str:
        """Of the rows' bytes. Raises FileProblem if they are not there."""
        return rows_fingerprint(self.rows)

    @cached_property
    def data_hash(self) -> str:
        """Of the files that hold the policies' answers. Raises FileProblem that names the first that is missing."""
        names = dict.fromkeys(name for policy in self.every_policy if (name := file_of(policy)))
        return fingerprint(*(there(self.data, name) for name in names))
