import json

import pytest

from metaaligner_lite.chats import Chat, load_chat, load_history, read_chat, with_system
from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.prompts import Message


def said(chat):
    return [(message.role[0], message.content) for message in chat.turns]


PLAIN = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
TURNS = [("s", "S"), ("u", "U"), ("a", "A")]
SHAREGPT = [{"from": "system", "value": "S"}, {"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}]
PART = [{"type": "text", "text": "S"}]
PARTS = [{"type": "text", "text": "U"}, "V", {"type": "input_text", "text": "W"}, {"text": "X"}]


@pytest.mark.parametrize(
    ("raw", "turns", "note"),
    [
        (PLAIN, TURNS, ""),
        (SHAREGPT, TURNS, ""),
        ({"messages": PLAIN}, TURNS, ""),
        ({"conversations": SHAREGPT}, TURNS, ""),
        ({"conversations": SHAREGPT[1:], "system": "S"}, TURNS, ""),
        ({"system": PART, "messages": PLAIN[1:], "model": "m"}, TURNS, "not read in x: model"),
        ({"history": [["U", "A"]]}, TURNS[1:], ""),
        ([["U", "A"], ["U2", None]], [*TURNS[1:], ("u", "U2")], ""),
        ([{"messages": PLAIN}], TURNS, ""),
        ({"contents": [{"role": "user", "parts": [{"text": "U"}]}, {"role": "model", "parts": [{"text": "A"}]}]},
         TURNS[1:], ""),
        ([{"role": "Developer", "content": "S"}, *PLAIN[1:]], TURNS, ""),
        ([], [], ""),
        ([{"role": "user", "content": PARTS}], [("u", "U\nV\nW\nX")], ""),
        ([{"role": "user", "content": "a\r\nb\ufeff"}], [("u", "a\nb\ufeff")], ""),
        ([{"role": "user", "content": "\ufeffa"}], [("u", "a")], ""),
        ([PLAIN[1], {"role": "user", "content": "U2"}], [("u", "U\n\nU2")], "turns of one role were joined"),
        ([PLAIN[1], {"role": "assistant", "content": " "}], [("u", "U")], "turns without text were left out"),
        (
            [
                PLAIN[1],
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
                {"role": "tool", "name": "f", "tool_call_id": "1", "content": "7"},
                PLAIN[2],
            ],
            [("u", "U\n\nResult of the tool f:\n7"), ("a", "A")],
            "tool calls were left out",
        ),
        ([SHAREGPT[1], {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "7"}],
         [("u", "U\n\nResult of the tool:\n7")], "tool calls were left out"),
        ([PLAIN[1], {"role": "assistant", "content": "<think>\nh\n</think>\n\nA"}], TURNS[1:], "thoughts"),
        ([PLAIN[1], {"role": "assistant", "content": "A", "reasoning_content": "h"}], TURNS[1:], "thoughts"),
        ([PLAIN[1], {"role": "assistant", "content": [{"type": "thinking"}, "A"]}], TURNS[1:], "thoughts"),
        ([{"role": "user", "content": "<think> is a tag"}], [("u", "<think> is a tag")], ""),
    ],
)  # fmt: skip
def test_every_form_of_conversation(raw, turns, note):
    chat = read_chat(raw, "x")
    assert said(chat) == turns
    assert note in "; ".join(chat.notes)
    assert bool(note) == bool(chat.notes)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("hello", "x holds no conversation; expected a list of"),
        ({"prompt": "hello"}, "or an object with such a list as messages"),
        (["hello"], "turn 1 in x is not one"),
        ([{"role": "user"}], "turn 1 in x is not one"),
        ([{"role": "user", "content": None}], "turn 1 in x is not one"),
        (
            [PLAIN[1], {"role": "critic", "content": "x"}],
            "turn 2 in x has the role 'critic'; expected one of system, dev",
        ),
        ([{"role": "user", "content": 3}], "turn 1 in x holds int where its text should be"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "a part of the type 'image_url'; only te",
        ),
        ([{"role": "user", "content": "see", "images": ["aa"]}], "turn 1 in x holds 'images'; only text"),
        ([{"messages": PLAIN}, {"messages": PLAIN}], "x holds 2 conversations; expected one"),
    ],
)
def test_what_is_refused_is_named(raw, message):
    with pytest.raises(DataError) as error:
        read_chat(raw, "x")
    assert message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_in_any_encoding_that_says_so(tmp_path, encoding):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(PLAIN, ensure_ascii=False, indent=1).replace("\n", "\r\n"), encoding=encoding)
    assert said(load_chat(path)) == TURNS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "cannot read the conversation"),
        (b"\xe9", "is not UTF-8 text (byte 0 is 0xe9)"),
        (b"[\0]\0", "zero bytes"),
    ],
)
def test_files_that_are_no_conversation(tmp_path, data, message):
    (tmp_path / "chat.json").write_bytes(data)
    with pytest.raises(FileProblem) as error:
        load_chat(tmp_path / "chat.json")
    assert message in str(error.value)
    assert "chat.json" in str(error.value)


def test_a_history_ends_before_the_query(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(PLAIN[:2]), encoding="utf-8")
    with pytest.raises(DataError, match="that one is the query"):
        load_history(path)
    path.write_text(json.dumps(PLAIN), encoding="utf-8")
    assert load_history(path) == Chat(tuple(Message(turn["role"], turn["content"]) for turn in PLAIN))


def test_a_system_text_of_ones_own(tmp_path):
    (tmp_path / "system.txt").write_bytes(b"\xef\xbb\xbfBe kind.\r\n")
    turns = (Message("user", "U"), Message("assistant", "A"))
    assert with_system(turns, f"@{tmp_path / 'system.txt'}") == (Message("system", "Be kind."), *turns)
    with pytest.raises(UsageError, match="a system turn of its own"):
        with_system((Message("system", "S"),), "T")
    with pytest.raises(UsageError, match="is empty"):
        with_system(turns, " ")
    with pytest.raises(FileProblem, match=r"the system text .*absent"):
        with_system(turns, f"@{tmp_path / 'absent'}")
