"""Algorithm 1 as a table of cases (paper, section 3.1)."""

from __future__ import annotations

import random

import pytest

from mal_train.reformulate import Edit, identity, reformulate, reformulate_rows, signs
from mal_train.rows import Answer, Row
from metaaligner_lite.objectives import builtin_catalogue
from metaaligner_lite.prompts import Message

KNOWN = builtin_catalogue()
HELP, HARM, HUMOR = KNOWN["helpfulness"], KNOWN["harmlessness"], KNOWN["humor"]


def answer(text, *ratings):
    return Answer(text, dict(zip((HELP, HARM, HUMOR), ratings, strict=False)))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # The paper's worked example (appendix C.3): P = [<, <, >], two improving edits, no equal one.
        ((0.12, 2.15, 0.43), (0.37, 2.17, 0.29), [("y2", "y1", {HUMOR}, False), ("y1", "y2", {HELP, HARM}, False)]),
        ((1, 1, 1), (0, 0, 0), [("y2", "y1", {HELP, HARM, HUMOR}, False)]),
        ((0, 0, 0), (1, 1, 1), [("y1", "y2", {HELP, HARM, HUMOR}, False)]),
        # Ties go to the equal set, in one direction only; all ties make no improving edit.
        ((1, 1, 1), (1, 1, 1), [("y2", "y1", {HELP, HARM, HUMOR}, True)]),
        ((2, 1, 0), (1, 1, 1), [("y2", "y1", {HELP}, False), ("y1", "y2", {HUMOR}, False), ("y2", "y1", {HARM}, True)]),
        # An objective rated in one answer only says nothing; nothing shared, no edit.
        ((2,), (1, 5, 5), [("y2", "y1", {HELP}, False)]),
        ((), (1, 5, 5), []),
    ],
)
def test_algorithm_1(first, second, expected):
    y1, y2 = answer("y1", *first), answer("y2", *second)
    edits = list(reformulate("q", "y1", "y2", signs(y1, y2), random.Random(0)))
    assert [(e.answer, e.target, set(e.objectives), e.equal) for e in edits] == expected
    assert all(e.objectives for e in edits)


def rows(count=20):
    return [
        Row(str(i), f"q{i}", (answer("a", 0, 1, 1), answer("b", 1, 0, 1), answer("c", 1, 1, 1))) for i in range(count)
    ]


def test_all_pairs_of_all_rows_in_both_directions():
    sets = reformulate_rows(rows(1))
    assert {(e.answer, e.target) for e in sets.contrastive} == {("a", "b"), ("b", "a"), ("a", "c"), ("b", "c")}
    assert {(e.answer, e.target, e.objectives) for e in sets.equal if len(e.objectives) == 1} == {("b", "a", (HUMOR,))}
    assert all(e.equal for e in sets.equal) and not any(e.equal for e in sets.contrastive)


def test_shuffles_are_seeded_and_epochs_draw_anew():
    assert reformulate_rows(rows(), 1) == reformulate_rows(rows(), 1)
    assert reformulate_rows(rows(), 1) != reformulate_rows(rows(), 2)
    again = reformulate_rows(rows(), 1, epoch=1)
    assert again != reformulate_rows(rows(), 1)
    plain = [
        [(e.query, e.answer, e.target, set(e.objectives)) for e in sets.contrastive]
        for sets in (again, reformulate_rows(rows(), 1))
    ]
    assert plain[0] == plain[1]  # the same edits in the same places: a share of them is the same share
    assert len(again.contrastive) == len(reformulate_rows(rows(), 1).contrastive)


def test_objectives_are_not_always_in_the_same_order():
    orders = {
        e.objectives
        for e in reformulate_rows(
            [Row(str(i), "q", (answer("a", 1, 1), answer("b", 0, 0))) for i in range(9)]
        ).contrastive
    }
    assert orders == {(HELP, HARM), (HARM, HELP)}


def test_parts_of_the_objectives():
    sets = reformulate_rows(
        [Row(str(i), "q", (answer("a", 1, 1, 1), answer("b", 0, 0, 0))) for i in range(40)], most_objectives=2
    )
    assert {len(e.objectives) for e in sets.contrastive} == {1, 2}


def test_pairs_per_row_limits_the_pairs():
    assert len(reformulate_rows(rows(10), pairs_per_row=1).equal) == 10


def test_an_answer_that_is_good_already_stays_beside_the_edits():
    empathy, brevity, clarity = (builtin_catalogue()[name] for name in ("empathy", "brevity", "clarity"))
    history = (Message("user", "Hello."), Message("assistant", "Hi."))
    good = Answer("good", {empathy: 2.0}, good=(empathy, brevity, clarity))
    sets = reformulate_rows([Row("1", "q", (good, Answer("bad", {empathy: 1.0})), history)])
    (stays,) = [edit for edit in sets.contrastive if edit.stay]
    assert (stays.answer, stays.target, set(stays.objectives)) == ("good", "good", {empathy, brevity, clarity})
    others = [edit for edit in sets.contrastive if not edit.stay]
    assert [(edit.answer, edit.target) for edit in others] in ([("bad", "good")], [("bad", "good"), ("good", "bad")])
    assert all(edit.history == history for edit in sets.contrastive)
    drawn = [reformulate_rows([Row("1", "q", (good,))], epoch=e, most_objectives=2).contrastive for e in range(40)]
    assert {len(edit.objectives) for (edit,) in drawn} == {1, 2}
    assert {objective for (edit,) in drawn for objective in edit.objectives} == {empathy, brevity, clarity}


def test_warm_up_copies_the_answer():
    edit = Edit("q", "weak", "better", (HELP,), equal=True)
    assert identity([edit]) == [Edit("q", "weak", "weak", (HELP,), equal=True)]
