"""bench/paper: the whole way with a tiny model, what is kept when it is killed, verdicts from known numbers."""

import gzip
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from tiny_train import make_base, one_thread, some_rows, write_rows  # noqa: F401 (the fixture)

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from paper import __main__ as command
from paper import claims, edits, page, plan, published, questions, settings, svg, train
from paper.claims import FALLS, HOLDS, OPPOSITE, REPLICATES, RISES, SAME, UNTOLD, Claim
from paper.steps import Needed, Step, Steps

import mal_convert
from mal_train.corpus.compose import WITHHELD
from metaaligner_lite.errors import UsageError
from metaaligner_lite.evaluation.measures import MEASURES
from metaaligner_lite.evaluation.report import Interval

WEAK, STRONG = "just/vicuna-7b-v1.5", "just/gpt-4-0314"
RECIPE = """
layout = "conversation/brief"
[data]
max_length = 512
[lora]
rank = 4
alpha = 8
[training]
batch_tokens = 512
precision = "float32"
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tiny base, rows, a recipe, a random model of meanings and the answers of two policies, as the command wants."""
    folder = tmp_path_factory.mktemp("paper")
    base = make_base(folder / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    (made,) = mal_convert.convert(base, folder, ["Q4_1"], verify=False).outputs
    write_rows(folder / "rows.jsonl", some_rows(6))
    (folder / "recipe.toml").write_text(RECIPE)
    _meanings(folder / "minilm")
    said = "Mix the flour, the water and the yeast well, then let the dough rest for an hour and bake bread number"
    rows = [
        {
            "query": f"How is bread number {i} baked?",
            "answers": {WEAK[5:]: f"{said} {i} in it.", STRONG[5:]: f"Thank you for asking. {said} {i}. Enjoy it."},
        }
        for i in range(5)
    ]
    file = folder / "data" / "eval-only" / "just-eval" / "just-eval.jsonl.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return {
        "--data": folder / "data",
        "--rows": folder / "rows.jsonl",
        "--base": made.path,
        "--recipe": folder / "recipe.toml",
        "--minilm": folder / "minilm",
        "--work": folder / "work",
        "--minutes": 0.0002,
        "--n": 3,
        "--seeds": 7,
        "--threads": 1,
        "--probe": WEAK,
    }


def _meanings(folder):
    """A random BERT of one layer, that spells words letter by letter."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)


def run(given, *more, **changed):
    told = given | {f"--{name}": value for name, value in changed.items()}
    command.main([*(str(part) for pair in told.items() for part in pair), "--policies", WEAK, STRONG, *more])


def stamps(work):
    """When each step was done."""
    return {str(path.parent.relative_to(work)): path.stat().st_mtime_ns for path in sorted(work.rglob("done.json"))}


def test_the_whole_way_killed_and_gone_on_with(given, monkeypatch, capsys):
    work = given["--work"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(questions, "figure_3", killed)
        with pytest.raises(SystemExit) as stopped:
            run(given)
    assert stopped.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    before = stamps(work)
    assert {"answers", "pace/activated", "train/full-7", "edits/table-2", "questions/strength"} <= before.keys()
    half = (work / "page.md").read_text()
    assert "Gains over several policies (Table 2)" in half and "Not asked yet: Without warm-up" in half
    rows = (work / "edits/figure-3/edits.jsonl").read_text()

    run(given)
    after = stamps(work)
    assert {name: after[name] for name in before} == before  # nothing was done again
    assert (work / "edits/figure-3/edits.jsonl").read_text() == rows
    whole = (work / "page.md").read_text()
    assert "Not asked yet" not in whole and all(f"## {title}" in whole for title in plan.QUESTIONS.values())
    assert whole.count("| **") >= 15  # a verdict for each claim
    for picture in ("table-2", "table-3", "figure-3", "figure-4", "strength", "kinds"):
        assert f"({picture}.svg)" in whole
        ElementTree.parse(work / f"{picture}.svg")
    cost = next(line for line in whole.splitlines() if line.startswith("| train/full-7 "))
    assert "1 warmup, 1 equal, 1 contrastive" in cost
    assert "| 1,228,356 |  | 433,728 of an A100 | 0.35 |" in whole
    done = json.loads((work / "train/no-equal-7/done.json").read_text())["result"]
    assert done["steps"] == {"warmup": 1, "equal": 0, "contrastive": 1} and done["examples"] > 0
    assert json.loads((work / "train/merged/done.json").read_text())["result"]["files"].keys() == {"F16", "Q4_1"}

    capsys.readouterr()
    run(given, "--list", n=2)
    listed = {line.split()[0]: " ".join(line.split()[1:3]) for line in capsys.readouterr().out.splitlines()}
    assert listed["train/full-7"].startswith("done") and listed["edits/table-2"] == "other settings"
    run(given, "--only", "questions/table-2", n=2)
    assert {name for name, when in stamps(work).items() if after.get(name) != when} == {
        "answers", "edits/table-2", "questions/table-2"
    }  # fmt: skip
    assert "| just/vicuna-7b-v1.5 | 2 |" in (work / "page.md").read_text()
    kept = [json.loads(line) for line in (work / "edits/table-2/edits.jsonl").read_text().splitlines()]
    assert len(kept) == 6 and {"preference"} <= kept[0].keys()  # the third answers' edits serve a larger n again


def test_what_is_missing_is_told_first(given, tmp_path, capsys):
    for changed, told in (
        ({"data": tmp_path}, r"just-eval.jsonl.gz is not there; --data names a folder with"),
        ({"rows": tmp_path / "rows.jsonl"}, "cannot read the training rows"),
        ({"base": tmp_path / "base.gguf"}, "expected a model file"),
        ({"minilm": tmp_path}, "no MiniLM in"),
    ):
        with pytest.raises(SystemExit) as failed:
            run(given, **({"work": tmp_path / "work"} | changed))
        assert str(failed.value).startswith("error: ") and told in str(failed.value)
    with pytest.raises(SystemExit, match="no step is called tabel"):
        run(given, "--only", "tabel", work=tmp_path / "work")
    with pytest.raises(SystemExit, match="must be above 0"):
        run(given, n=0)
    assert not list((tmp_path / "work").rglob("done.json"))


def test_answers_are_drawn_of_what_fits_and_of_nothing_trained_on(given, tmp_path):
    rows = write_rows(
        tmp_path / "rows.jsonl", [*some_rows(2), some_rows(1)[0] | {"query": "How is bread number 1 baked?"}]
    )
    chosen = settings.Settings(given["--data"], rows, given["--base"], tmp_path, n=2, policies=(WEAK,), probe=(STRONG,))
    with pytest.raises(UsageError, match="1 queries of the proof"):
        edits.answers(chosen, tmp_path, Needed(Steps([], tmp_path), ()))


def interval(value, low, high):
    return Interval(value, low, high, 40, 20)


@pytest.mark.parametrize(
    ("way", "found", "verdict"),
    [
        (RISES, interval(0.10, 0.02, 0.18), REPLICATES),
        (RISES, interval(0.10, -0.02, 0.22), UNTOLD),
        (RISES, interval(-0.10, -0.18, -0.02), OPPOSITE),
        (RISES, interval(0.0, 0.0, 0.0), UNTOLD),
        (RISES, interval(0.10, None, None), UNTOLD),
        (RISES, None, UNTOLD),
        (FALLS, interval(-0.10, -0.18, -0.02), REPLICATES),
        (FALLS, interval(0.10, 0.02, 0.18), OPPOSITE),
        (FALLS, interval(-0.10, -0.22, 0.02), UNTOLD),
        (HOLDS, interval(-0.01, -0.04, 0.02), REPLICATES),
        (HOLDS, interval(0.20, 0.10, 0.30), REPLICATES),
        (HOLDS, interval(-0.04, -0.09, 0.01), UNTOLD),
        (HOLDS, interval(-0.10, -0.14, -0.06), OPPOSITE),
        (SAME, interval(0.01, -0.03, 0.04), REPLICATES),
        (SAME, interval(0.10, 0.06, 0.14), OPPOSITE),
        (SAME, interval(0.04, 0.01, 0.07), UNTOLD),
    ],
)
def test_verdicts(way, found, verdict):
    assert Claim("", way, found, "", "Table 2").verdict == verdict
    own = {REPLICATES: claims.YES, OPPOSITE: claims.NO}  # what the paper does not ask cannot replicate
    assert Claim("", way, found).verdict == own.get(verdict, verdict)


def test_a_claim_about_training_needs_every_seed():
    sure = interval(0.10, 0.02, 0.18)
    assert Claim("", RISES, sure, "", "Table 3", (0.15, 0.05)).verdict == REPLICATES
    assert Claim("", RISES, sure, "", "Table 3", (0.25, -0.05)).verdict == UNTOLD
    assert Claim("", FALLS, interval(-0.1, -0.2, -0.01), "", "Table 3", (-0.2, -0.01)).verdict == REPLICATES


def test_slope_of_known_points():
    points = [(str(i), x, 0.3 - 0.2 * x) for i in range(20) for x in (0.0, 0.5, 1.0)]
    found = claims.slope(points)
    assert found and found.value == pytest.approx(-0.2) and found.low == pytest.approx(-0.2) == found.high
    noisy = [(query, x, y + (0.1 if int(query) % 2 else -0.1) * x) for query, x, y in points]
    found = claims.slope(noisy, draws=500)
    assert found and found.value == pytest.approx(-0.2) and -0.26 < found.low < -0.22 and -0.18 < found.high < -0.14
    assert claims.slope([("a", 1.0, 0.1), ("b", 1.0, 0.2)]) is None
    assert claims.slope([]) is None
    alone = claims.slope([("a", 0.0, 0.1), ("a", 1.0, 0.2)])
    assert alone and alone.value == pytest.approx(0.1) and alone.low is None


def test_published_figures_are_those_of_the_paper():
    assert [round(value, 1) for value in published.per_objective()] == [6.5, 9.2, 18.0, 9.0, 11.5, 10.6, 8.0]
    assert published.without("no-equal") == pytest.approx([3.53, 3.51])
    assert published.shared_gain("hh/Claude-3") == pytest.approx((-3.83 + 1.58 + 13.17) / 3)
    assert published.shared_gain(WEAK) is None
    assert published.seconds_per_example() == pytest.approx(0.353, abs=0.001)


def test_requests_name_what_the_corpus_teaches_and_withholds():
    assert set(settings.UNSEEN) <= set(WITHHELD) & set(MEASURES)
    assert set(settings.SINGLES) <= set(MEASURES) - set(WITHHELD)
    assert settings.added()[3] == settings.full() and settings.added()[-1].count(",") == 8


def test_steps_share_a_training_and_a_variant_gains_none(given):
    chosen = settings.Settings(given["--data"], given["--rows"], given["--base"], Path(), minutes=10)
    whole = train.planned(chosen, 2.7, "full")
    assert whole == {"warmup": 10, "equal": 30, "contrastive": 160}
    assert train.planned(chosen, 2.7, "no-equal") == {"warmup": 10, "contrastive": 160}
    assert train.planned(chosen, 1e9, "full") == dict.fromkeys(whole, 1)


def test_an_edit_that_is_longer_counts_against_brevity():
    import real_policies as proof

    words = "Bread needs flour and water. "
    case = proof.Case(WEAK, "How?", words * 8, asked="How?")
    found = [
        questions.gain(proof.judged(proof.Edit(case, "brevity", text.strip()), 0.9))
        for text in (words * 8, words * 5, words * 11, words * 9)
    ]
    assert found == [0.0, 1.0, -1.0, 0.0]


# --- the machinery ---


def counting(log, name, needs=(), **more):
    def do(folder, needed):
        log.append(name)
        return {"made of": [needed[need]["made of"] for need in needs] or name}

    return Step(name, do, needs, **more)


def test_a_step_is_done_once_and_anew_with_what_it_depends_on(tmp_path):
    def steps(log, a=1, b=1):
        made = [counting(log, "a", settings=a), counting(log, "b", settings=b), counting(log, "c", ("a",))]
        return Steps([*made, counting(log, "x/d", ("b", "c"))], tmp_path)

    for changed, done in (
        ({}, ["a", "b", "c", "x/d"]),
        ({}, []),
        ({"b": 2}, ["b", "x/d"]),
        ({"a": 2, "b": 2}, "a c x/d"),
    ):
        log = []
        steps(log, **changed).run()
        assert log == (done.split() if isinstance(done, str) else done)
    log = []
    steps(log, a=3).run(["c"])
    assert log == ["a", "c"]  # with what it needs, and no more
    assert steps([], a=3).result("c") == {"made of": ["a"]}
    with pytest.raises(UsageError, match="no step is called e; --list shows them: a, b, c, x/d"):
        steps([]).run(["e"])


def test_a_killed_step_finds_its_folder_again_unless_it_is_another(tmp_path):
    seen = []

    def do(folder, needed):
        seen.append(sorted(path.name for path in folder.iterdir() if path.name != "begun.json"))
        (folder / f"part-{len(seen)}").touch()
        if len(seen) in (1, 4):
            raise KeyboardInterrupt
        return len(seen)

    def steps(value, keeps=False):
        return Steps([Step("a", do, settings=value, keeps=keeps)], tmp_path)

    with pytest.raises(KeyboardInterrupt):
        steps(1).run()
    assert steps(1).done("a") is None and "begun" in next(steps(1).listing())
    steps(1).run()
    assert seen[-1] == ["part-1"] and steps(1).done("a").parts == 2
    steps(2).run()
    assert seen[-1] == []  # another setting begins with an empty folder
    with pytest.raises(KeyboardInterrupt):
        steps(3, keeps=True).run()
    assert seen[-1] == ["done.json", "part-3"]
    assert steps(3, keeps=True).done("a") is None and "begun" in next(steps(3, keeps=True).listing())


def test_a_step_sees_what_it_needs_and_nothing_else(tmp_path):
    steps = Steps([counting([], "a"), counting([], "b")], tmp_path)
    steps.run()
    with pytest.raises(KeyError, match="a is not among the needs"):
        Needed(steps, ("b",))["a"]
    with pytest.raises(ValueError, match="c needs z, which does not come before it"):
        Steps([counting([], "c", ("z",))], tmp_path)


def test_plots_are_well_formed_whatever_is_missing():
    drawn = svg.dots("a < b", ["x & y", "z"], {"one": [(0, 5.0, 1.0, 9.0), (1, None, None, None)], "two": []}, True)
    root = ElementTree.fromstring(drawn)
    assert len(root.findall(".//{*}circle")) == 1
    assert ElementTree.fromstring(svg.dots("empty", [], {})) is not None
    heat = ElementTree.fromstring(svg.heat("h", ["r"], ["c", "d"], [[12.0, None]]))
    assert len(heat.findall(".//{*}rect")) == 2  # the ground and one cell


def test_the_claims_table_counts_comparisons():
    told = [
        Claim("one", RISES, Interval(0.1, 0.02, 0.18, 40, 20, 0.01), "+3", "Table 2").told(),
        Claim("two", RISES, Interval(0.1, -0.02, 0.22, 40, 20, 0.04), parts=(0.2, -0.1)).told(),
        Claim("three", FALLS, None).told(),
    ]
    lines = list(page._claims(told))
    assert lines[2] == "| one | +3 (Table 2) | +10.0 [+2.0, +18.0], n 40, 20 queries | 0.020 | **replicates** |"
    assert "by seed +20.0, -10.0 | 0.040 | **cannot be told at this n** |" in lines[3]
    assert lines[4] == "| three | not asked | nothing to compare |  | **cannot be told at this n** |"
