"""What a user named -> an opened pair: who answers, who edits, on how many engines, and what to know beforehand.

Who edits, if nothing is named: the adapter that ships, over the policy itself where it is that base, else over the base
that a package brings; without either the policy edits its own answer (self-edit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import models
from .aligners import EndpointAligner, GgufAligner
from .errors import UsageError
from .generation import GREEDY, Sampling, editing
from .gguf_file import base_fingerprint, read_header, recommended_sampling
from .manifest import GGUF_KEY, Manifest
from .objectives import Objective
from .policies import Answer, EndpointPolicy, GgufPolicy, GivenAnswer, Policy
from .prompts import BRIEF, CONVERSATION
from .templates import PLAIN_DIALOGUE, ChatTemplate

if TYPE_CHECKING:
    from .endpoint import Endpoint, Server
    from .llama.engine import Engine

SELF = "self"  # as an aligner's name: the policy edits its own answer


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user named. `aligner` may also be "self"; an `adapter` lies over `aligner`, or over the policy.

    A model is a GGUF file, a repository of the Hugging Face Hub (owner/name or owner/name:QUANT), or the URL of an
    OpenAI-compatible server; of its models `policy_model` and `aligner_model` name one, and `policy_key_env` and
    `aligner_key_env` the environment variables that hold its key. `timeout` are the seconds for which it may be silent.

    `answer` stands in for the policy. `chosen` are the parts of `sampling` that were named: for the policy, what its
    file recommends takes the place of the others. Edits are greedy unless `edit_temperature` says otherwise, whatever
    the temperature of `sampling`. `engine` are further arguments of open_engine.
    """

    policy: Path | str | None = None
    aligner: Path | str | None = None
    adapter: Path | str | None = None
    answer: str | None = None
    layout: str = ""
    template: ChatTemplate | None = None
    sampling: Sampling = GREEDY
    edit_temperature: float = 0.0
    chosen: frozenset[str] = frozenset()
    max_tokens: int | None = None
    draft: bool = True
    low_memory: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    policy_model: str = ""
    aligner_model: str = ""
    policy_key_env: str = ""
    aligner_key_env: str = ""
    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which files or servers are opened as what. `shared`: policy and aligner take turns on one engine.

    `policy` is None where the answer is given, `why` a line on who edits where nobody was named.
    """

    policy: Path | Server | None
    editor: Path | Server
    adapter: Path | None
    shared: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """An opened policy and an opened aligner."""

    policy: Policy
    aligner: GgufAligner | EndpointAligner


def plan(choice: Choice, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Decide which files and servers a choice opens.

    Raises UsageError for one that cannot be, FileProblem for a damaged file or a repository that cannot be fetched.
    """
    if choice.aligner == SELF and choice.adapter:
        raise UsageError("`aligner` self edits without an adapter; leave `adapter` out, or name the adapter's base")
    adapter = models.find_gguf(choice.adapter, "the adapter", say, adapter=True) if choice.adapter else None
    named = _named(choice, "policy", say)
    policy = (
        None if choice.answer is not None else named or _base("model to answer with: name a GGUF file with `policy`")
    )
    if choice.aligner == SELF:
        editor = policy or named or _base("model to edit with: name one with `policy`")
        return Plan(policy, editor, None, policy is not None)
    if choice.aligner:
        aligner = _named(choice, "aligner", say)
        assert aligner
        if adapter and not isinstance(aligner, Path):
            raise UsageError("an adapter lies over a GGUF file: let the server hold it, and leave `adapter` out")
        return Plan(policy, aligner, adapter, bool(policy and adapter and _same(policy, aligner)))
    if adapter:
        return _over_a_base(adapter, policy or named, given=policy is None)
    return _unnamed(policy, named)


def _named(choice: Choice, stage: str, say: Callable[[str], None]) -> Path | Server | None:
    """The file or the server that a choice names for the policy or the aligner, None if it names none."""
    from .endpoint import Server, is_url

    name, model, key_env = (getattr(choice, stage + rest) for rest in ("", "_model", "_key_env"))
    if is_url(name):
        return Server(name, model, key_env, stage, choice.timeout)
    if model or key_env:
        raise UsageError(
            f"`{stage}_{'model' if model else 'key_env'}` belongs to a server: name its URL with `{stage}`"
        )
    return models.find_gguf(name, f"the {stage}", say) if name else None


def _base(wanted: str) -> Path:
    """The base that a package brings. Raises UsageError that tells how to get it, or what else to name."""
    if path := models.BASE.path:
        return path
    raise UsageError(f"there is no {wanted}, or install {models.BASE.name} with {models.BASE.command}")


def _over_a_base(adapter: Path, policy: Path | Server | None, *, given: bool) -> Plan:
    """An adapter lies over the policy, if that is its base; else over the base that a package brings, if that is."""
    if policy is None:
        return Plan(None, _base("base for the adapter: name it with `aligner`"), adapter, shared=False)
    if not isinstance(policy, Path):  # what a server holds, no adapter of ours can lie over
        base = _base("base for the adapter here: name it with `aligner`")
        return Plan(None if given else policy, base, adapter, shared=False)
    wanted = models.adapter_fingerprint(adapter)
    own = models.BASE.path
    if wanted and own and _fingerprint(policy) != wanted == _fingerprint(own):
        return Plan(None if given else policy, own, adapter, shared=False)
    return Plan(None if given else policy, policy, adapter, shared=not given)


def _unnamed(policy: Path | Server | None, named: Path | Server | None) -> Plan:
    shipped, own = models.shipped_adapter(), models.BASE.path
    if shipped and isinstance(policy, Path) and _fingerprint(policy) == shipped.fingerprint:
        why = f"edited by the adapter that ships for this base ({shipped.path.stem})"
        return Plan(policy, policy, shipped.path, shared=True, why=why)
    if shipped and own and _fingerprint(own) == shipped.fingerprint:
        why = f"edited by the aligner that ships ({shipped.path.stem} over {models.BASE.name})"
        return Plan(policy, own, shipped.path, shared=False, why=why)
    editor = policy or named or _base("aligner: name one with `aligner`")
    comes = f"one comes with {models.BASE.command}, or " if shipped and not own else ""
    lacks = f"no aligner is installed; {comes}name a file with `aligner`"
    return Plan(policy, editor, None, shared=policy is not None, why=f"{editor.name} edits its own answer: {lacks}")


@contextmanager
def open_pair(
    choice: Choice,
    objectives: Sequence[Sequence[Objective]] = (),
    *,
    first: Callable[[Policy], Answer] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Pair]:
    """Open what a choice names; `say` gets a line about each thing a user should know before the run.

    `first` asks the policy beforehand: with `low_memory` it is closed then, before the aligner opens. Raises
    UsageError, FileProblem, ModelError.
    """
    found = plan(choice, say)
    if isinstance(found.editor, Path):
        read_header(found.editor)  # a wrong path is told before the policy's work, not after it
    with ExitStack() as opened:
        policy: Policy | None = GivenAnswer(choice.answer) if choice.answer is not None else None
        if policy is None and choice.low_memory and not found.shared and first and isinstance(found.policy, Path):
            with _open(found.policy, None, choice, say) as engine:
                answer = first(_asked(engine, choice))
            policy = GivenAnswer(answer.text, answer.generation)
        editor: Engine | Endpoint
        if isinstance(found.editor, Path):
            editor = opened.enter_context(_open(found.editor, found.adapter, choice, say))
        else:
            editor = opened.enter_context(_reach(found.editor, say))
        if policy is None:
            assert found.policy
            if found.shared:
                policy = _asked(editor, choice)
            elif isinstance(found.policy, Path):
                policy = _asked(opened.enter_context(_open(found.policy, None, choice, say)), choice)
            else:
                policy = _asked(opened.enter_context(_reach(found.policy, say)), choice)
        aligner = _editing(editor, found, choice)
        if found.why:
            say(found.why)
        for note in _notes(aligner, found, objectives):
            say(note)
        yield Pair(policy, aligner)


def _open(path: Path, adapter: Path | None, choice: Choice, say: Callable[[str], None]) -> Engine:
    from .llama.engine import open_engine

    engine = open_engine(path, adapter=adapter, say=say, **choice.engine)
    if choice.engine.get("ctx_size", 0) > (trained := engine.model.n_ctx_train):
        say(f"{path.name} was trained for {trained:,} tokens; text beyond them may come out as nonsense")
    return engine


def _reach(server: Server, say: Callable[[str], None]) -> Endpoint:
    """A server that answers: a wrong key or address is told before any work is done."""
    from .endpoint import Endpoint

    endpoint = Endpoint(server, say)
    try:
        endpoint.check()
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _asked(engine: Engine | Endpoint, choice: Choice) -> GgufPolicy | EndpointPolicy:
    from .endpoint import Endpoint

    sampling = choice.sampling
    if isinstance(engine, Endpoint):
        return EndpointPolicy(engine, sampling=sampling, chosen=choice.chosen, max_tokens=choice.max_tokens)
    sampling = as_recommended(engine, sampling, choice.chosen)
    return GgufPolicy(engine, template=choice.template, sampling=sampling, max_tokens=choice.max_tokens)


def as_recommended(engine: Engine, sampling: Sampling, chosen: frozenset[str]) -> Sampling:
    """What a model's file recommends in place of what was not `chosen`; nothing for greedy writing."""
    if sampling.temperature <= 0:
        return sampling
    recommended = recommended_sampling(engine.model.header)
    told = {name: value for name, value in recommended.items() if name not in {*chosen, "temperature"}}
    return replace(sampling, **cast(dict[str, Any], told))


def _editing(engine: Engine | Endpoint, found: Plan, choice: Choice) -> GgufAligner | EndpointAligner:
    """The aligner; a model that knows nothing of edits is asked in the conversation layout, as the policy is."""
    from .endpoint import Endpoint

    if isinstance(engine, Endpoint):
        layout = choice.layout or (BRIEF if _holds_the_shipped(engine) else "")
        known = models.shipped_objectives() if layout == BRIEF else {}
        return EndpointAligner(
            engine,
            layout=layout,
            known=known,
            sampling=editing(choice.sampling, choice.edit_temperature),
            chosen=choice.chosen,
            max_tokens=choice.max_tokens,
        )
    manifest = engine.model.manifest  # a base that `mal convert` made has one, too, and it names no layout
    untrained = not found.adapter and not (manifest and manifest.layout)
    by_itself = untrained and (choice.aligner is None or choice.aligner == SELF)
    template = choice.template or engine.model.template or (PLAIN_DIALOGUE if by_itself else None)
    return GgufAligner(
        engine,
        layout=choice.layout or (CONVERSATION if by_itself else ""),
        template=template,
        sampling=editing(choice.sampling, choice.edit_temperature),
        max_tokens=choice.max_tokens,
        draft=choice.draft,
    )


def _holds_the_shipped(server: Endpoint) -> bool:
    """Whether a server says that it applies the adapter that ships, which wants its own layout."""
    shipped = models.shipped_adapter()
    return shipped is not None and shipped.path.name in server.adapters()


def _notes(
    aligner: GgufAligner | EndpointAligner, found: Plan, objectives: Sequence[Sequence[Objective]]
) -> Iterator[str]:
    """What a user should know before the run: what the aligner was trained for."""
    if isinstance(aligner, EndpointAligner):
        return
    manifest = aligner.manifest
    if manifest is None or not manifest.layout:
        if found.why or found.shared:
            return
        lacks = "no manifest" if manifest is None else "a manifest without a layout"
        yield f"{aligner.engine.model.path.name} has {lacks}; prompting it in the layout {aligner.layout}"
    elif manifest.layout != aligner.layout:
        yield f"this aligner was trained in the layout {manifest.layout}, not in {aligner.layout}"
    if manifest and manifest.objectives:
        asked = dict.fromkeys(objective.name for wanted in objectives for objective in wanted)
        if new := [name for name in asked if name not in manifest.objectives]:
            yield f"not among the objectives this aligner was trained on: {', '.join(new)}"


def _same(one: Path | Server, other: Path | Server) -> bool:
    try:
        return isinstance(one, Path) and isinstance(other, Path) and one.samefile(other)
    except OSError:
        return False


def _fingerprint(path: Path) -> str:
    """Of the base that a file is; none of a merged aligner, which keeps its base's norms and so would have its own."""
    header = read_header(path)
    if (text := header.text(GGUF_KEY)) and Manifest.from_json(text, str(path)).layout:
        return ""
    return base_fingerprint(header)
