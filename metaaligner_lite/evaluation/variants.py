"""Every way from an answer to a text that a report compares; what a model must write, and which were left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import models
from ..aligners import EndpointAligner, GgufAligner
from ..errors import MalError, UsageError
from ..gguf_file import base_fingerprint, read_header
from ..pair import Choice, open_pair, plan
from ..prompts import CONVERSATION
from ..templates import PLAIN_DIALOGUE
from .baselines import with_edits, with_gate, with_tidied
from .protocol import Item, Progress
from .report import ALIGNED, EQUAL, GATED, PROMPT_ONLY, TIDIED, UNALIGNED, UNGATED, LeftOut, Variant
from .sources import Found, Table, read_texts
from .verdicts import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator

Say = Callable[[str], None]
_NAMES = (ALIGNED, UNALIGNED, TIDIED, PROMPT_ONLY, EQUAL, GATED, UNGATED)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared beside the edits that the rows hold.

    `aligner` is who wrote them, as `mal batch` would open it. `more` are further edits of the same answers, by name: a
    results file, or a GGUF aligner or adapter, which then edits. `prompt_only` is the model that edits by a prompt
    alone ("": the aligner's base). `written` lets models write baselines.
    """

    aligner: Choice
    more: Mapping[str, str] = field(default_factory=dict)
    prompt_only: str = ""
    written: bool = True


@dataclass(slots=True)
class Made:
    """The items with all their texts, and what is told of them."""

    items: list[Item]
    variants: list[Variant] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, what: str, by: str = "") -> None:
        """Take note of a variant."""
        self.variants.append(Variant(name, what, by, sum(name in item.texts for item in self.items)))


def make_variants(
    found: Found, wish: Wish, table: Table, kept: Kept, say: Say, progress: Progress = lambda *_: None
) -> Made:
    """Give the items all the texts that can be had. Raises what opening a model that was named raises."""
    made = Made(with_tidied(found.items))
    sources = ", ".join(Path(source.path).name for source in found.sources)
    made.add(ALIGNED, "the edit, through the gate" if found.gated else "the edit", sources)
    made.add(UNALIGNED, "the policy's answer", sources)
    made.add(TIDIED, "the answer without loops, invented turns and a last sentence that is not ended")
    _written(made, found.gated, wish, kept, say, progress)
    for name, file in wish.more.items():
        if name in _NAMES:
            raise UsageError(f"`with` {name}={file}: another variant is called that; give it another name")
        _more(made, name, file, wish, table, kept, say, progress)
    if not wish.more:
        how = "--with f16=ALIGNER-F16.gguf (or the results file of its `mal batch`)"
        made.left_out.append(LeftOut("quantized against F16", "no second aligner was given", how))
    return made


def _written(made: Made, gated: bool, wish: Wish, kept: Kept, say: Say, progress: Progress) -> None:
    other = UNGATED if gated else GATED
    if not wish.written:
        for name in (PROMPT_ONLY, EQUAL, other):
            made.left_out.append(LeftOut(name, "models were not to write", "leave --no-baselines out"))
        return
    named = bool(wish.aligner.aligner or wish.aligner.adapter)
    how = "name who wrote the edits: --aligner FILE, --adapter FILE"
    try:
        with _opened(wish.aligner, say) as aligner:
            if not isinstance(aligner, GgufAligner):
                for name in (EQUAL, other):
                    made.left_out.append(LeftOut(name, "a server holds the aligner", "--aligner FILE, a GGUF model"))
            else:
                _by_aligner(made, aligner, gated, kept, progress)
    except UsageError as error:
        if named:
            raise
        for name in (EQUAL, other):
            made.left_out.append(LeftOut(name, str(error), how))
    _by_prompt(made, wish, kept, say, progress)


def _by_aligner(made: Made, aligner: GgufAligner, gated: bool, kept: Kept, progress: Progress) -> None:
    by = (aligner.engine.adapter or aligner.engine.model).header.path.name
    if gated:
        made.items, made.failed[UNGATED] = with_edits(made.items, UNGATED, aligner, kept, progress)
        made.add(UNGATED, "the edit, whatever its likelihood", by)
    else:
        made.items = with_gate(made.items, GATED, aligner, kept, progress=progress)
        made.add(GATED, "the edit where the aligner holds it likelier than the answer, else the answer", by)
    equal = GgufAligner(
        aligner.engine,
        layout=aligner.layout,
        template=aligner.template,
        max_tokens=aligner.max_tokens,
        draft=aligner.draft,
        equal=True,
    )
    made.items, made.failed[EQUAL] = with_edits(made.items, EQUAL, equal, kept, progress)
    made.add(EQUAL, "the aligner asked for an equally good answer, not a better one", by)


def _by_prompt(made: Made, wish: Wish, kept: Kept, say: Say, progress: Progress) -> None:
    path = prompted(wish, say)
    how = f"--prompt-only MODEL.gguf, or {models.BASE.command}"
    if path is None:
        made.left_out.append(LeftOut(PROMPT_ONLY, "the base under the aligner is not known", how))
        return
    from ..llama.engine import open_engine

    with open_engine(path, say=say, **wish.aligner.engine) as engine:
        template = engine.model.template or PLAIN_DIALOGUE
        alone = GgufAligner(engine, layout=CONVERSATION, template=template, max_tokens=wish.aligner.max_tokens)
        made.items, made.failed[PROMPT_ONLY] = with_edits(made.items, PROMPT_ONLY, alone, kept, progress)
        made.add(PROMPT_ONLY, "an untrained model asked to edit the answer, by prompt alone", path.name)


def prompted(wish: Wish, say: Say = lambda _: None) -> Path | None:
    """The model that edits by a prompt alone: the one named, the base under the adapter, or the one installed."""
    if wish.prompt_only:
        return models.find_gguf(wish.prompt_only, "the model of `prompt_only`", say)
    try:
        found = plan(wish.aligner)
    except MalError:
        return models.BASE.path
    return found.editor if found.adapter and isinstance(found.editor, Path) else models.BASE.path


def _more(
    made: Made,
    name: str,
    file: str,
    wish: Wish,
    table: Table,
    kept: Kept,
    say: Say,
    progress: Progress,
) -> None:
    path = models.find_gguf(file, f"the variant {name}", say)
    if path.suffix != ".gguf":
        texts = read_texts(path, table)
        there = {}
        for item in made.items:
            key = (item.asked, item.answer)
            if (text := texts.get((*key, item.request), texts.get(key))) is not None:
                there[item.key] = text
        if not there:
            raise UsageError(
                f"{path} has no edit of these answers: it is of another run; expected edits of the same queries and "
                "answers"
            )
        if len(there) < len(made.items):
            say(f"{path.name} has edits of {len(there):,} of the {len(made.items):,} rows; {name} is judged on those")
        made.items = [
            replace(item, texts={**item.texts, name: there[item.key]}) if item.key in there else item
            for item in made.items
        ]
        made.add(name, "edits of another results file", path.name)
        return
    is_adapter = read_header(path).text("general.type") == "adapter"
    choice = replace(wish.aligner, aligner=None, adapter=str(path)) if is_adapter else None
    choice = choice or replace(wish.aligner, aligner=str(path), adapter=None)
    with _opened(choice, say) as aligner:
        assert isinstance(aligner, GgufAligner)
        made.items, made.failed[name] = with_edits(made.items, name, aligner, kept, progress)
        made.add(name, "another aligner's edit", path.name)


@contextmanager
def _opened(choice: Choice, say: Say) -> Iterator[GgufAligner | EndpointAligner]:
    with open_pair(replace(choice, answer=""), say=say) as pair:  # no policy is needed: all rows have answers
        yield pair.aligner


def suspicions(judge: Path | str, wish: Wish, policies: Sequence[str]) -> list[str]:
    """Why a judge, a GGUF file or a server's model, is no stranger to what it judges, in words; none if it is."""
    if isinstance(judge, str):
        same = [policy for policy in policies if policy.casefold() == judge.casefold()]
        return [f"the judge {judge} is the policy {policy} itself; it may favour its own words" for policy in same]
    found = []
    mine = base_fingerprint(read_header(judge))
    try:
        editor: object = plan(replace(wish.aligner, answer="")).editor
    except MalError:
        editor = None
    under = {"the aligner under test, or its base": editor}
    if wish.written:
        under["the model of the prompt-only baseline"] = prompted(wish)
    for what, path in under.items():
        if isinstance(path, Path) and path.is_file() and base_fingerprint(read_header(path)) == mine:
            found.append(f"the judge {judge.name} is {what} ({path.name}); it may favour its own words")
    return found
