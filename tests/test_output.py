import pytest

from metaaligner_lite.output import plain_diff, printable, word_diff


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Check it.", "Check it.", "Check it."),
        ("Check it.", "Please check it.", "[-Check-]{+Please check+} it."),
        ("That happens. Check it.", "I am sorry. Check it.", "[-That happens-]{+I am sorry+}. Check it."),
        ("", "New.", "{+New.+}"),
        ("Old.", "", "[-Old.-]"),
        ("a b c d", "a x y d", "a [-b c-]{+x y+} d"),
        ("{x} [-y-]", "{x} [-z-]", "{x} [-[-y-]{+z+}-]"),
    ],
)
def test_plain_diff(before, after, shown):
    assert plain_diff(before, after) == shown


@pytest.mark.parametrize(
    ("before", "after"),
    [("a b, c", "c b, a"), ("one two three", "one, two and three"), ("x\n\ny", "x y"), ("é ü", "é ö ü"), ("", "")],
)
def test_diff_spells_both_texts(before, after):
    changes = word_diff(before, after)
    assert "".join(text for kind, text in changes if kind != "added") == before
    assert "".join(text for kind, text in changes if kind != "removed") == after


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b]0;title\x07", "a[31mred]0;title"),
        ("tab\tnew\nline", "tab\tnew\nline"),
        ("\u202egpj.exe", "gpj.exe"),
        ("café 👩\u200d💻", "café 👩\u200d💻"),
    ],
)
def test_printable_text_cannot_drive_a_terminal(text, shown):
    assert printable(text) == shown
