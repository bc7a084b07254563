import pytest

from metaaligner_lite.errors import FileProblem
from metaaligner_lite.files import decode_text, read_text, recall, remember, write_whole, written_whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_in_any_encoding_that_says_so(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("né\r\n二\rb\n".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "né\n二\nb\n"


@pytest.mark.parametrize("data", [b"\xe9", "a".encode("utf-16-le"), b"\xff\xfea"])
def test_what_is_no_text_is_named(data):
    with pytest.raises(FileProblem, match=r"^standard input .*iconv"):
        decode_text(data, "standard input")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileProblem, match=r"cannot read the recipe .*absent: No such file"):
        read_text(tmp_path / "absent", "the recipe")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), written_whole(path) as file:
        file.write(b"ne")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    with written_whole(path, private=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert path.stat().st_mode & 0o77 == 0


def test_what_is_remembered_is_added_and_damage_forgotten(tmp_path):
    path = tmp_path / "folder" / "memory.json"
    assert recall(path) == {}
    remember(path, {"a": 1})
    remember(path, {"b": 2})
    assert recall(path) == {"a": 1, "b": 2}
    for damage in ("{", "[]"):
        path.write_text(damage, encoding="utf-8")
        assert recall(path) == {}
