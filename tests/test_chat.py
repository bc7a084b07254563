"""`mal chat`: lines in, texts out, with and without a terminal."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from trained import ALIGNER, POLICY

from metaaligner_lite.cli.align import _from_stdin
from metaaligner_lite.cli.lines import EditedLines, PlainLines, goes_on, message
from metaaligner_lite.cli.session import Session, interruptible
from metaaligner_lite.conversation import Conversation, Kept, last_kept, load
from metaaligner_lite.errors import EndpointError, PromptTooLong, UsageError
from metaaligner_lite.objectives import builtin_catalogue, resolve
from metaaligner_lite.testing import FakeAligner, FakePolicy


def session(tmp_path, answers=lambda query, history: f"answer to {query}", **options):
    aligner = FakeAligner(lambda text, objectives: f"{text}, {objectives[0].name}")
    conversation = Conversation(FakePolicy(answers), aligner, resolve("empathy"))
    return Session(conversation, Kept(tmp_path / "chats"), catalogue=builtin_catalogue(), **options)


class Script:
    """Lines that are there already."""

    terminal = drafts = True

    def __init__(self, *lines):
        self.lines, self.drafted = list(lines), []

    def read(self, draft=""):
        self.drafted.append(draft)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, type):
            raise line
        return line


def test_messages_and_commands(tmp_path, capsys):
    chat = session(tmp_path)
    chat.talk(
        Script(
            "one",
            KeyboardInterrupt,
            "//usr is a folder",
            "/objectives clarity, brevity",
            "/again",
            "/system Be kind.",
            "/why",
            "/why all",
            "/undo",
            "/edit",
            "/edit uno",
            "/sh final",
            "/help",
            "/quit",
            "never read",
        )
    )
    out, err = capsys.readouterr()
    assert out.split("\n\n") == [
        "answer to one, empathy",
        "answer to /usr is a folder, empathy",
        "answer to /usr is a folder, clarity",
        "answer to uno, clarity\n",
    ]
    assert [exchange.query for exchange in chat.conversation.exchanges] == ["uno"]
    assert chat.conversation.system == "Be kind." and chat.failed == 0
    assert chat._lines.drafted[10] == "/edit one" and len(chat._lines.lines) == 1
    for told in (
        "Ctrl-D or /quit",
        "edited toward the objectives of now",
        "taken back: /usr",
        "1: policy: 1 tokens read",
    ):
        assert told in err
    assert "aligned (empathy)" in err and "context: " in err and "/forget N" in err
    assert len(load(last_kept(tmp_path / "chats")).exchanges) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/nope", "no command /nope"),
        ("/", "no command /;"),
        ("/s x", "no command /s;"),
        ("/objectives nonsens", "unknown objective"),
        ("/undo x", "a number of turns"),
        ("/undo 3", "0 turns to take back, not 3"),
        ("/forget", "the models read 0 turns"),
        ("/again", "nothing was asked yet"),
        ("/again warmer", "/again takes nothing"),
        ("/edit", "nothing was asked yet"),
        ("/show all", "/show final | both | diff"),
        ("/save", "name a file"),
        ("/save {}/a", "cannot write the conversation"),
        ("/load", "name a file"),
        ("/load {}/none.json", "cannot read the conversation"),
        ("/system @{}/none", "cannot read the system text"),
        ("fail", "the server is gone"),
        ("long", "/forget N leaves out the oldest turns"),
    ],
)
def test_what_goes_wrong_is_a_line_and_the_conversation_goes_on(tmp_path, capsys, line, told):
    def answers(query, history):
        if query in ("fail", "long"):
            raise {"fail": EndpointError("the server is gone"), "long": PromptTooLong("9 tokens")}[query]
        return "fine"

    chat = session(tmp_path, answers)
    chat.talk(Script(line.format(tmp_path / "no"), "go on"))
    out, err = capsys.readouterr()
    assert told in err and chat.failed == 1
    assert out == "fine, empathy\n"


def test_save_load_and_new(tmp_path, capsys):
    chat, path = session(tmp_path), tmp_path / "a b.json"
    chat.talk(Script("one", f"/save {path}", "two", f"/save {path}", "/new", f"/load {path}", "/undo"))
    assert chat.failed == 0 and len(load(path).exchanges) == 2
    assert [one.query for one in chat.conversation.exchanges] == ["one"]
    assert sorted(len(load(kept).exchanges) for kept in (tmp_path / "chats").glob("*.json")) == [1, 2]
    other = session(tmp_path)
    other.talk(Script("one", f"/save {path}", f"/save --force {path}"))
    assert other.failed == 1 and len(load(path).exchanges) == 1
    assert "2 turns so far; the last question: two" in capsys.readouterr().err


def test_ctrl_c_ends_the_turn_and_not_the_program(tmp_path, capsys):
    def answers(query, history):
        if query == "slow":
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C while it is written
        return "a b c"

    chat = session(tmp_path, answers)
    before = signal.getsignal(signal.SIGINT)
    chat.talk(Script("one", "slow", "/why", "two"))
    out, err = capsys.readouterr()
    assert out == "a b c, empathy\n\na b c, empathy\n" and signal.getsignal(signal.SIGINT) is before
    assert "stopped, the turn does not count; /again asks it again" in err
    assert [exchange.query for exchange in chat.conversation.exchanges] == ["one", "two"]
    assert len(load(last_kept(tmp_path / "chats")).exchanges) == 2


def test_pressed_twice_it_waits_for_nothing(tmp_path, capsys):
    def answers(query, history):
        if query == "stuck":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)
        return "fine"

    chat = session(tmp_path, answers)
    chat.talk(Script("stuck", "one"))
    assert capsys.readouterr().out == "fine, empathy\n"
    assert [exchange.query for exchange in chat.conversation.exchanges] == ["one"]
    with interruptible() as stop:
        assert not stop()


def test_align_without_a_query_on_a_terminal_tells_of_chat(monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(UsageError, match="for a conversation there is mal chat"):
        _from_stdin(None, None)


def test_json_is_a_line_for_each_turn(tmp_path, capsys):
    session(tmp_path, as_json=True).talk(Script("one", "two"))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["query"], second["text"]) == ("one", "answer to two, empathy")
    assert second["context"] == {"used": 9, "limit": 0}


@pytest.mark.parametrize(
    ("typed", "waits", "means"),
    [
        ("one", False, "one"),
        ("one\\", True, None),
        ("one\\\ntwo", False, "one\ntwo"),
        ('"""', True, None),
        ('"""one', True, None),
        ('"""\none\n\ntwo\\\n"""', False, "one\n\ntwo\\"),
        ('"""one"""', False, "one"),
        ('""', False, '""'),
        ('say """', False, 'say """'),
    ],
)
def test_messages_of_several_lines(typed, waits, means):
    assert goes_on(typed) is waits
    if means is not None:
        assert message(typed) == means


def test_lines_of_a_pipe(monkeypatch):
    read, write = os.pipe()
    os.write(write, 'one\r\n"""two\nthree"""\n\xe9\\\nend\\'.encode())
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        lines = PlainLines(False)
        assert [lines.read() for _ in range(3)] == ["one", "two\nthree", "\xe9\nend\\"]
        with pytest.raises(EOFError):
            lines.read()


def test_typed_lines(tmp_path):
    pytest.importorskip("prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        history = tmp_path / "state" / "lines"
        lines = EditedLines(lambda: "context: 0 tokens", ["again", "objectives"], ["empathy"], history)
        keys.send_text("one\r")
        assert lines.read() == "one"
        keys.send_text("one\x1b\rtwo\\\rthree\r")  # Alt-Enter, then a backslash
        assert lines.read() == "one\ntwo\nthree"
        keys.send_text("\x1b[200~a\nb\nc\x1b[201~\r")  # pasted
        assert lines.read() == "a\nb\nc"
        completer = lines._session.completer
        for text, names in (("/ag", ["again"]), ("/objectives clarity,em", ["empathy"]), ("ag", []), ("/save em", [])):
            found = completer.get_completions(Document(text), CompleteEvent())
            assert [completion.text for completion in found] == names
        keys.send_text("!\r")
        assert lines.read("/edit one") == "/edit one!"
        keys.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            lines.read()
        keys.send_text("\x04")
        with pytest.raises(EOFError):
            lines.read()
    assert "two" in history.read_text() and history.stat().st_mode & 0o077 == 0


def mal(*args, stdin, **environment):
    command = [sys.executable, "-m", "metaaligner_lite", *map(str, args)]
    env = {**os.environ, **environment}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, env=env, encoding="utf-8")


def test_the_command_line_in_a_pipe_and_continued(tmp_path):
    pair = ("--policy", POLICY, "--aligner", ALIGNER, "-t", "1", "--max-tokens", "12")
    home = {"MAL_HOME": str(tmp_path)}
    first = mal("chat", *pair, "-o", "empathy", "--system", "Be kind.", stdin="My parcel is late.\n", **home)
    assert first.returncode == 0 and first.stdout.strip(), first.stderr
    again = mal("chat", *pair, "--continue", stdin="And now?\n/why all\n", **home)
    assert again.returncode == 0 and "1 turns so far" in again.stderr, again.stderr
    assert "loaded from a file" in again.stderr and "2: policy: " in again.stderr and "(empathy)" in again.stderr
    saved = load(last_kept(tmp_path / "chats"))
    assert [one.query for one in saved.exchanges] == ["My parcel is late.", "And now?"] and saved.system == "Be kind."
    wrong = mal("chat", *pair, "-o", "empathy", "--no-keep", stdin="/nope\n", **home)
    assert wrong.returncode == 1 and len(list((tmp_path / "chats").iterdir())) == 1
    none = mal("chat", *pair, "--continue", stdin="", MAL_HOME=str(tmp_path / "other"))
    assert none.returncode == 2 and "no conversation to take up" in none.stderr
