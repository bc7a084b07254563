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
    said = "Mix flour, water and yeast well, and let the dough rest for an hour. Then slowly bake bread number"
    answers = {WEAK[5:]: f"{said} %d, until its crust is brown.", STRONG[5:]: f"{THANKS} {said} %d. Enjoy it."}
    rows = [
        {"query": f"How is bread number {i} baked?", "answers": {who: text % i for who, text in answers.items()}}
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
    assert found and (found.value, found.low, found.high) == pytest.approx((-0.2, -0.2, -0.2))
    # Every second query has 0.1 more, every other 0.1 less of slope: the error is that of 20 queries.
    noisy = [(query, x, y + (0.1 if int(query) % 2 else -0.1) * (x - 0.5)) for query, x, y in points]
    found = claims.slope(noisy)
    half = 2.093 * 0.1 / 19**0.5  # Student's t of 19 degrees of freedom
    assert found and found.value == pytest.approx(-0.2) and (found.n, found.queries) == (60, 20)
    assert (found.low, found.high) == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-3)
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


PLAIN = (
    "Mix the flour and the water well. Then let the dough rest for an hour. Heat the oven and bake the bread until it "
    "is brown. Let it cool. It is number"
)
THANKS = "Thank you for asking."


class Written:
    """Steps whose files lie there: four answers of each of two policies, and edits that a test has written."""

    def __init__(self, folder):
        self._folder = folder
        self.answers = {WEAK: [f"{PLAIN} {i}." for i in range(4)], STRONG: [f"{THANKS} {PLAIN} {i}." for i in range(4)]}
        rows = [
            {"policy": policy, "query": f"How is bread number {i} baked?", "answer": text}
            for policy, texts in self.answers.items()
            for i, text in enumerate(texts)
        ]
        self.folder("answers").mkdir(parents=True)
        write_rows(self.folder("answers") / "answers.jsonl", rows)
        self._rows = rows

    def write(self, step, requests, edit):
        """An edit of every answer toward each request; `edit` gives text and preference."""
        rows = []
        for row in self._rows:
            for request in requests:
                text, preference = edit(row["policy"], int(row["answer"].split()[-1][:-1]), row["answer"])
                told = {"objectives": request, "edit": text, "model": "m", "name": "aligned", "preference": preference}
                rows.append(row | told | {"seconds": 0.5, "failure": ""})
        self.folder(step).mkdir(parents=True)
        write_rows(self.folder(step) / "edits.jsonl", rows)

    def folder(self, name):
        return self._folder / name

    def __getitem__(self, name):
        return {"objectives": [*settings.TRAINED, "caution"]}


def thanked(policy, number, answer):
    """The weak policy's answers are thanked for, all but one; one of the strong policy's loses its thanks."""
    if policy == WEAK:
        return (f"{THANKS} {answer}", 0.5) if number else (answer, None)
    return (answer.removeprefix(THANKS).strip(), -0.5) if number == 1 else (answer, None)


def left(policy, number, answer):
    return answer, None


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Settings and edits with known gains: politeness +3/4 of the weak policy, -1/4 of the strong one, nothing else."""

    class Same:
        def __init__(self, folder, kept):
            pass

        def embed(self, texts):
            pass

        def __call__(self, before, after):
            return 1.0

    monkeypatch.setattr(edits, "Meaning", Same)
    both = (WEAK, STRONG)
    chosen = settings.Settings(tmp_path, tmp_path, tmp_path, tmp_path, seeds=(0,), policies=both, probe=both)
    return chosen, Written(tmp_path / "steps")


def told(answer):
    """The claims' values and verdicts by what they say."""
    return {claim["says"]: (claim["interval"]["value"], claim["verdict"]) for claim in answer["claims"]}


def test_gains_of_known_edits(asked, tmp_path):
    chosen, written = asked
    written.write("edits/table-2", [settings.full()], thanked)
    answer = questions.table_2(chosen, tmp_path, written)
    (table,) = answer["tables"]
    by_policy = {row[0]: dict(zip(table["head"], row, strict=True)) for row in table["rows"]}
    assert by_policy[WEAK]["politeness"].startswith("+75 [") and by_policy[STRONG]["politeness"].startswith("-25 [")
    assert by_policy[WEAK]["all"].startswith("+19 [") and by_policy[WEAK]["clarity"].startswith("+0 [")
    assert by_policy[WEAK]["copied, %"].startswith("25 [") and by_policy[WEAK]["tidied only"].startswith("+0 [")
    assert told(answer)["Every objective gains: politeness"] == (0.25, UNTOLD)
    assert told(answer)["Over all policies and objectives the edits gain"][0] == pytest.approx(0.0625)
    answer = questions.strength(chosen, tmp_path, written)
    found = told(answer)
    assert found["The stronger the policy, the smaller the gain (weakest to strongest)"][0] == pytest.approx(
        (-0.0625 - 0.1875) / (6 / 7)
    )
    assert found["The gate spoils fewer objectives that held before"][0] == pytest.approx(-1 / 32)
    assert found["The gate keeps the gain"][0] == pytest.approx(1 / 32)
    strong = answer["tables"][0]["rows"][1]
    assert strong[4].startswith("+0 [") and strong[5].startswith("6 [") and strong[6].startswith("0 [")


def test_the_ablation_of_known_edits(asked, tmp_path):
    chosen, written = asked
    written.write("edits/table-2", [settings.full()], lambda policy, number, answer: (f"{THANKS} {answer}", 0.1))
    for variant in ("no-warmup", "no-equal", "contrastive-only"):
        written.write(f"edits/{variant}-0", [settings.full()], thanked if variant == "no-warmup" else left)
    found = told(questions.table_3(chosen, tmp_path, written))
    assert found["All three steps satisfy more than no warmup"][0] == pytest.approx((1 / 16 + 1 / 16) / 2)
    assert found["All three steps satisfy more than no equal"][0] == pytest.approx(1 / 8)


def test_objectives_added_and_alone_of_known_edits(asked, tmp_path):
    chosen, written = asked
    written.write("edits/figure-3", settings.added(), thanked)
    answer = questions.figure_3(chosen, tmp_path, written)
    rows = answer["tables"][0]["rows"]
    assert rows[1][0] == "+ politeness" and rows[1][4].startswith("+25 [")
    assert rows[4][0] == "+ specificity (unseen)" and rows[7][0] == "+ caution"
    assert "In the rows, and so not unseen: caution." in answer["notes"]
    assert told(answer)["Trained objectives hold when unseen ones are added"][0] == 0

    written.write("edits/figure-4", [*settings.SINGLES, settings.full()], thanked)
    answer = questions.figure_4(chosen, tmp_path, written)
    (heat,) = answer["plots"]
    place = heat["columns"].index("politeness")
    assert [row[place] for row in heat["cells"]] == [25.0] * 11
    assert answer["tables"][0]["rows"][0][1 + place] == "+25" and answer["tables"][0]["rows"][1][1 + place] == "**+25**"
    # Politeness is not asked for in nine of ten requests, of which each measures thirteen or fourteen others.
    assert 0 < told(answer)["Asking for one objective lifts the others, too"][0] < 0.25 * 0.9 / 13
    assert told(answer)["Asking for all four lifts those that one request alone leaves"][0] == 0


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
    assert svg._marks(-37.0, 84.0) == [-20, 0, 20, 40, 60, 80] and svg._marks(0.0, 1.0) == [0, 1]
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
