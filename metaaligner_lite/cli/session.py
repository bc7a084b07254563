"""A conversation in front of a person: lines in, texts and notes out, commands done."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .screen import Screen, Show

if TYPE_CHECKING:
    from ..align import Correction
    from ..conversation import Conversation, Exchange, Kept, Saved
    from ..generation import Stop
    from ..objectives import Objective
    from .lines import Lines

_FULL = 0.8  # of the context: from here on every turn says how full it is

HELP = """\
/objectives [NAMES]   what answers are edited toward; /again then edits the last one anew
/system [TEXT|@FILE]  the system text of the policy; "-" takes it away
/again                another answer to the last question
/edit [TEXT]          change the last question and ask it anew
/undo [N]             take back the last turn, or N of them
/forget N             the models no longer read the N oldest turns; the file keeps them
/why [all]            what the last turn cost, or each turn
/show final|both|diff what is printed of a turn
/save FILE, /load FILE
                      the conversation as JSON, which other programs read; every turn is kept anyway
/new                  begin anew; the conversation so far stays on the disk
/quit                 leave (as Ctrl-D); mal chat --continue takes it up again
Ctrl-C ends the turn, not the program. A line that ends in \\ goes on; so does what stands between \"\"\" and \"\"\".
A message that begins with / is written with //."""


class Session:
    """A conversation in front of a person: lines in, texts and notes out. `failed` counts what went wrong."""

    def __init__(
        self,
        conversation: Conversation,
        kept: Kept | None,
        *,
        catalogue: Mapping[str, Objective],
        show: Show | None = None,
        as_json: bool = False,
        said: set[str] | None = None,
    ) -> None:
        from .console import talk

        self.conversation = conversation
        self.failed = 0
        self._kept, self._catalogue = kept, catalogue
        self._show, self._json = show, as_json
        self._said = said if said is not None else set()
        self._console = talk()
        self._printed = False
        self._saved: Path | None = None
        self._lines: Lines | None = None

    def talk(self, lines: Lines) -> None:
        """Read and do until the end."""
        self._lines = lines
        if lines.terminal:
            self._tell("/help lists the commands, Ctrl-C ends a turn, Ctrl-D leaves")
        draft: str | None = ""
        while draft is not None:
            try:
                text = lines.read(draft)
                draft = self.do(text) if text.strip() else ""
            except KeyboardInterrupt:
                if not lines.terminal:
                    raise
                self._tell("Ctrl-D or /quit leaves")
                draft = ""
            except EOFError:
                return

    def do(self, text: str) -> str | None:
        """Do what a line says; None to leave, else a draft of the next line."""
        from ..errors import MalError

        try:
            if not text.startswith("/") or text.startswith("//"):
                self._ask(text[1:] if text.startswith("//") else text)
                return ""
            name, rest = [*text[1:].split(None, 1), "", ""][:2]
            if (command := COMMANDS.get(name)) is None:
                close = [known for known in COMMANDS if name and known.startswith(name)]
                if len(close) != 1:
                    self._wrong(f"there is no command /{name}; /help lists them, and // begins a message with /")
                    return ""
                command = COMMANDS[close[0]]
            return command(self, rest.strip())
        except MalError as error:
            self._wrong(str(error))
            return ""

    def status(self) -> str:
        """One line: how full the context is, and what answers are edited toward."""
        from ..errors import MalError

        try:
            gauge = str(self.conversation.gauge())
        except MalError:  # a prompt that cannot be made: the next turn tells why
            gauge = "context: not known"
        return f"{gauge} | {', '.join(objective.name for objective in self.conversation.objectives)}"

    def take_up(self, saved: Saved, *, keep_policy_turns: bool | None = None) -> None:
        """Go on with a saved conversation, and say so."""
        conversation = self.conversation
        conversation.take_up(saved)
        if keep_policy_turns is not None:
            conversation.keep_policy_turns = keep_policy_turns
        for note in saved.notes:
            self._tell(note)
        if conversation.exchanges:
            last = conversation.exchanges[-1]
            self._tell(f"{len(conversation.exchanges)} turns so far; the last question: {_short(last.query)}")
        if conversation.pending:
            self._tell("the last question has no answer yet; /again asks it")

    def _ask(self, query: str) -> None:
        from ..aligners import EndpointAligner, GgufAligner
        from ..best import BestOf
        from ..prompts import Message

        conversation = self.conversation
        if isinstance(conversation.aligner, GgufAligner | EndpointAligner | BestOf):
            for note in conversation.aligner.told([*conversation.history, Message("user", query)]):
                self._screen().say(note)
        self._turn(lambda *streams: conversation.ask(query, *streams))

    def _turn(self, ask: Callable[..., Correction]) -> None:
        """One turn on the screen, with Ctrl-C ending it."""
        from ..errors import PromptTooLong

        conversation, screen = self.conversation, self._screen()
        try:
            with interruptible() as stop:
                correction = ask(screen.answer, screen.edit, stop)
        except KeyboardInterrupt:  # twice: it did not wait for the stop
            screen.break_off()
            self._stopped()
            return
        except PromptTooLong as error:
            screen.break_off()
            self._wrong(f"{error}; {_FULL_ADVICE}")
            return
        except BaseException:
            screen.break_off()
            raise
        if any(stage and stage.finish == "stopped" for stage in (correction.answer.generation, correction.edit)):
            screen.break_off()
            self._stopped()
            return
        if self._json:
            self._print_json(correction)
        else:
            if self._printed and not sys.stdout.isatty():
                sys.stdout.write("\n")
            screen.finish([correction])
        self._printed = True
        sys.stdout.flush()
        if correction.failure:
            self.failed += 1
            if isinstance(correction.error, PromptTooLong):
                self._tell(_FULL_ADVICE)
        elif (gauge := conversation.gauge()).share >= _FULL:
            self._tell(f"{gauge}; {_FULL_ADVICE}")
        self._keep()

    def _print_json(self, correction: Correction) -> None:
        from ..output import record

        gauge = self.conversation.gauge()
        told = record(correction) | {"context": {"used": gauge.used, "limit": gauge.limit}}
        sys.stdout.write(
            json.dumps(told, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")) + "\n"
        )

    def _stopped(self) -> None:
        if self.conversation.pending:
            self._tell("stopped, the turn does not count; /again asks it again, /edit changes it")
        else:
            self._tell("stopped; the last turn stays as it was")

    def _keep(self) -> None:
        from ..errors import FileProblem

        if self._kept:
            try:
                self._kept.save(self.conversation)
            except FileProblem as error:  # the conversation goes on without
                self._wrong(str(error))

    def _screen(self) -> Screen:
        from ..best import BestOf

        streams = self.conversation.rounds == 1 and not isinstance(self.conversation.aligner, BestOf)
        return Screen(self._show, self._json, several=False, streams=streams, counts=False, said=self._said)

    def _tell(self, note: str, style: str = "dim") -> None:
        from ..output import printable
        from .console import flagged

        self._console.print(printable(flagged(note)), style=style)

    def _wrong(self, message: str) -> None:
        self.failed += 1
        self._tell(" ".join(message.split()), style="bold red")

    # The commands: each takes the rest of its line, and gives a draft of the next one, or None to leave.

    def _help(self, rest: str) -> str:
        self._console.print(HELP)
        return ""

    def _objectives(self, rest: str) -> str:
        from ..objectives import resolve

        conversation = self.conversation
        if rest:
            conversation.objectives = tuple(resolve(rest, self._catalogue))
            self._keep()
        for objective in conversation.objectives:
            self._tell(f"{objective.name}: {objective.description}")
        if rest and conversation.exchanges:
            self._tell("they hold from the next answer on; /again edits the last one toward them")
        return ""

    def _system(self, rest: str) -> str:
        from ..chats import with_system

        conversation = self.conversation
        if rest:
            conversation.system = "" if rest == "-" else with_system((), rest)[0].content
            self._keep()
        self._tell(conversation.system or "there is no system text")
        return ""

    def _again(self, rest: str) -> str:
        conversation = self.conversation
        if rest:
            self._wrong("/again takes nothing; /edit TEXT asks another question in its place")
            return ""
        sampling = getattr(conversation.policy, "sampling", None)
        if not conversation.pending and conversation.exchanges:
            if conversation.edits_again:
                self._tell("the same answer, edited toward the objectives of now")
            elif sampling and sampling.temperature == 0:
                from ..generation import sampled

                temperature = sampled(sampling, 1).temperature
                self._tell(f"greedy writes the same again, so this answer is sampled at {temperature}")
        self._turn(lambda *streams: conversation.again("", *streams))
        return ""

    def _edit(self, rest: str) -> str:
        conversation = self.conversation
        last = conversation.pending or (conversation.exchanges[-1].query if conversation.exchanges else "")
        if not last:
            self._wrong("nothing was asked yet")
        elif rest:
            self._turn(lambda *streams: conversation.again(rest, *streams))
        elif self._lines and self._lines.drafts:
            return f"/edit {last}"
        else:
            self._wrong("give the new question: /edit TEXT")
        return ""

    def _undo(self, rest: str) -> str:
        taken = self.conversation.undo(_number(rest, "/undo"))
        for exchange in taken:
            self._tell(f"taken back: {_short(exchange.query)}")
        if not taken:
            self._tell("the question without an answer is taken back")
        self._keep()
        return ""

    def _forget(self, rest: str) -> str:
        self.conversation.forget(_number(rest, "/forget"))
        self._tell(f"the models no longer read the {self.conversation.forgotten} oldest turns; {self.status()}")
        self._keep()
        return ""

    def _why(self, rest: str) -> str:
        exchanges = self.conversation.exchanges
        if not exchanges:
            self._tell("there is no turn yet")
        for number, exchange in enumerate(exchanges, 1):
            if rest == "all" or number == len(exchanges):
                for line in _account(exchange):
                    self._tell(f"{number}: {line}" if rest == "all" else line)
        self._tell(self.status())
        return ""

    def _set_show(self, rest: str) -> str:
        if rest not in set(Show):
            self._wrong(f"/show {' | '.join(Show)}")
        else:
            self._show = Show(rest)
        return ""

    def _new(self, rest: str) -> str:
        from ..conversation import Kept

        self.conversation.clear()
        if self._kept:
            self._kept = Kept(self._kept.folder)
        self._tell("a new conversation, with the same objectives and system text")
        return ""

    def _save(self, rest: str) -> str:
        from ..conversation import save

        over, name = rest.startswith("--force "), rest.removeprefix("--force ").strip()
        if not name:
            self._wrong("name a file: /save FILE")
            return ""
        path = Path(name).expanduser()
        save(self.conversation, path, replace=over or path == self._saved)
        self._saved = path
        self._tell(f"saved as {path}")
        return ""

    def _load(self, rest: str) -> str:
        from ..conversation import Kept, load

        if not rest:
            self._wrong("name a file: /load FILE")
            return ""
        saved = load(Path(rest).expanduser())
        if self._kept:
            self._kept = Kept(self._kept.folder)
        self.take_up(saved)
        self._keep()
        return ""

    def _quit(self, rest: str) -> None:
        return None


_FULL_ADVICE = (
    "nothing is left out by itself: /forget N leaves out the oldest turns, /undo takes back the last, "
    "/new begins anew, `ctx_size` may allow more"
)

COMMANDS: Mapping[str, Callable[[Session, str], str | None]] = {
    "help": Session._help,
    "objectives": Session._objectives,
    "system": Session._system,
    "again": Session._again,
    "edit": Session._edit,
    "undo": Session._undo,
    "forget": Session._forget,
    "why": Session._why,
    "show": Session._set_show,
    "save": Session._save,
    "load": Session._load,
    "new": Session._new,
    "quit": Session._quit,
}


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Let Ctrl-C ask for a stop instead of raising; pressed once more, it raises."""
    pressed = 0

    def strike(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, strike)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)


def _account(exchange: Exchange) -> Sequence[str]:
    from ..output import account, notes, objective_names

    came = exchange.correction
    if came is None:
        return ["loaded from a file, which tells no counts"]
    told = [account([came])[0] or "nothing was counted"]
    outcome = "aligned" if came.aligned and came.text != came.answer.text else "unchanged"
    told.append(f"{outcome} ({objective_names(came)})")
    if came.preference is not None:
        told.append(f"the aligner's preference for its edit: {came.preference:+.3f} nats per token")
    return [*told, *notes(came)]


def _number(text: str, command: str) -> int:
    from ..errors import UsageError

    if text and not text.isdigit():
        raise UsageError(f"{command} takes a number of turns, not {text!r}")
    return int(text or 1)


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
