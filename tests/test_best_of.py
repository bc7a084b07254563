"""An aligner's own best edits: what torch samples is what the runtime would write, and only good edits are taken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch  # noqa: TID253
from tiny_train import make_base, one_thread  # noqa: F401 (the fixture)

from mal_train import best_of, lora
from mal_train import recipe as recipes
from mal_train.corpus.asks import asks, row
from mal_train.corpus.edit import own_cases
from mal_train.corpus.judge import holds, said
from mal_train.encode import Encoder, load_tokens
from mal_train.recipe import Data
from mal_train.sampling import Prompt, Sampler, Written
from metaaligner_lite.errors import DataError
from metaaligner_lite.objectives import resolve
from metaaligner_lite.prompts import Message, invocation
from metaaligner_lite.records import Account
from metaaligner_lite.rows import Reading, read_case

WEAK = (
    "You can grow tomatoes in a pot on a balcony. Take a pot that holds 10 litres and has a hole. "
    "Water it each morning. The plants need 6 hours of sun a day."
)

MORE = "Look at the leaves as well, and feel the soil. If it is dry, the pot wants more. Too much makes them sick."


@pytest.fixture(name="pair", scope="module", params=["llama", "qwen2", "qwen3"])
def pair_fixture(request, tmp_path_factory):
    """A random base with an activated adapter that changes much."""
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(folder / "base", spread=0.3, family=request.param)
    recipe = recipes.load(None, {"lora.rank": 3, "kind": "activated", "training.precision": "float32"})
    tokens = load_tokens(base)
    model = lora.attach(lora.open_base(base, recipe), recipe, invocation("conversation/brief", tokens.template, tokens))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    model.save_pretrained(folder / "adapter")
    return base, folder / "adapter", tokens, model.eval()


def prompts(tokens, *texts):
    encoder = Encoder(tokens, "conversation/brief", Data())
    found = [
        best_of.prompt_of(best_of.Ask("", f"What of {text}?", text, tuple(resolve("brevity"))), encoder)
        for text in texts
    ]
    return [Prompt(p.begin, p.request, 12) for p in found]


def test_greedy_texts_are_those_of_peft_whatever_stands_beside_them(pair):
    base, adapter, tokens, model = pair
    some = prompts(tokens, "a", "a much longer answer, " * 9, "Yes. No.", "b " * 30)
    stop = tokens.specials["<|im_end|>"]
    together = Sampler(base, adapter).write(some, (stop,))
    for prompt, (written,) in zip(some, together, strict=True):
        ids = [*prompt.begin, *prompt.request]
        for place in range(prompt.limit):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            best = int(logits.argmax())
            if best == stop:
                break
            assert written.ids[place] == best, place
            ids.append(best)
        assert len(written.ids) == len(ids) - len(prompt.begin) - len(prompt.request)


def test_without_an_adapter_the_base_writes(pair):
    base, _, tokens, model = pair
    (prompt,) = prompts(tokens, "a word")
    ((written,),) = Sampler(base).write([prompt], (tokens.specials["<|im_end|>"],))
    with torch.no_grad(), model.disable_adapter():
        logits = model(input_ids=torch.tensor([[*prompt.begin, *prompt.request]])).logits[0, -1]
    assert written.ids[0] == int(logits.argmax())


def test_sampled_texts_differ_by_the_seed_and_their_likelihood_is_told(pair):
    base, adapter, tokens, _ = pair
    sampler, some = Sampler(base, adapter), prompts(tokens, "a", "b " * 9)
    first, again, other = (sampler.write(some, (3,), copies=4, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(len(texts) == 4 for texts in first) and len({one.ids for one in first[0]}) > 1
    assert all(one.likelihood < 0 for texts in first for one in texts)
    few, all_ = (sampler.write(some, (3,), copies=4, tokens=tokens) for tokens in (1, 10**6))  # one at a time, or both
    assert [[one.ids for one in texts] for texts in few] == [[one.ids for one in texts] for texts in all_]


def ask(objectives, answer=WEAK, query="How do I grow tomatoes?"):
    return best_of.Ask("1", query, answer, tuple(resolve(objectives)))


@pytest.mark.parametrize(
    ("objectives", "text", "reason"),
    [
        ("politeness", f"I am happy to help with this. {WEAK}", ""),
        ("politeness", WEAK, "the answer again"),
        ("politeness", "", "no end"),
        ("politeness", WEAK.replace("pot", "tub"), "politeness does not hold after it"),
        ("politeness", f"I am happy to help. {WEAK.replace('6', '9')}", "a name or number that was not there"),
        ("politeness", f"I am happy to help. {WEAK}\n\nHuman: x", "target: a loop, another turn or no end"),
        ("politeness", f"I am happy to help. {WEAK} {MORE}", "much longer"),
        ("brevity", WEAK.rpartition(" The plants")[0], ""),
        ("brevity", WEAK + " Really.", "brevity does not hold after it"),
        ("politeness", f"I am happy to help, you idiot. {WEAK}", "politeness does not hold after it"),
    ],
)  # fmt: skip
def test_verdicts(objectives, text, reason):
    assert best_of.verdict(ask(objectives), text).reason == reason


class Words:
    """Meaning by the words that are left, so that no test needs MiniLM."""

    def embed(self, texts):
        self.known = set(texts)

    def __call__(self, before, after):
        assert {before, after} <= self.known
        one, two = set(before.split()), set(after.split())
        return len(one & two) / len(one)


def test_the_best_of_several_is_taken_and_every_ask_accounted(pair):
    _, _, tokens, _ = pair

    def written(text, likelihood):
        return Written(tuple(tokens.encode_text(text)), likelihood, True)

    good, better = f"I am happy to help with this. {WEAK}", f"I am happy to help. {WEAK}"
    far = "I am happy to help with this. " + WEAK.partition(".")[0] + "."
    told: Counter[str] = Counter()
    samples = [[written(WEAK, -0.1), written(good, -0.5), written(better, -0.1)], [written(far, -0.1)]]
    found = list(best_of.best([ask("politeness"), ask("politeness")], samples, tokens, Words(), told))
    assert [text for _, text in found] == [better]
    assert told == {"politeness: taken": 1, "politeness: another meaning": 1}
    trained = found[0][0].row(better)
    assert trained["answers"][0] == {"text": WEAK, "ratings": {"politeness": 0}}
    assert trained["answers"][1] == {"text": better, "ratings": {"politeness": 1}} and "history" not in trained


def test_asks_are_rows_that_a_batch_reads_and_what_holds_already_stays():
    found = list(asks(own_cases(0), 0))
    assert len(found) > 300 and any(edit.stays for edit in found) and any(not edit.stays for edit in found)
    for edit in found:
        names = [name for name in edit.objectives if holds(name, said(edit.base), edit.weak)]
        assert (len(names) == len(edit.objectives)) is edit.stays
        record = json.loads(json.dumps(row(edit)))
        if not edit.stays:
            case, _ = read_case(record, Reading())
            assert (case.query, case.answer) == (edit.base.query, edit.weak)
            assert tuple(o.name for o in case.objectives) == edit.objectives
        else:
            assert record["answers"] == [{"text": edit.weak, "ratings": {}, "good": list(edit.objectives)}]


def test_bad_asks_are_counted_or_named(tmp_path):
    path = tmp_path / "asks.jsonl"
    whole = {"query": "q", "answer": "a", "objectives": ["brevity"]}
    turn = {"history": [{"role": "user", "content": "x"}]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (whole, whole | turn)))
    account = Account("asks")
    assert [one.names for one in best_of.read_asks(path, account)] == [("brevity",)]
    assert "ends with the user's turn" in account.lines()[1]
    path.write_text(json.dumps(whole | {"objectives": ["honesty", "brevity"]}) + "\n")
    assert not list(best_of.read_asks(path, account)) and "whether there is honesty" in account.lines()[2]
    path.write_text(json.dumps({"query": "q", "objectives": ["brevity"]}) + "\n")
    with pytest.raises(DataError, match=r"line 1: expected an answer and the objectives"):
        list(best_of.read_asks(path, account))


def test_turns_before_go_into_the_row():
    history = (Message("user", "Hi."), Message("assistant", "Hello."))
    one = best_of.Ask("1", "q", "a", tuple(resolve("brevity")), history)
    assert one.row("b")["history"] == [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "has no metaaligner.json"),
        ({"kind": "merged"}, "is of the kind 'merged'"),
        ({"kind": "activated"}, "does not say how it was trained"),
        ({"kind": "activated", "recipe": {"data": {"strange": 1}}}, "does not say how it was trained"),
    ],
)
def test_other_adapters_are_refused(tmp_path, manifest, words, capsys, monkeypatch):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    if manifest is not None:
        (adapter / "metaaligner.json").write_text(json.dumps(manifest))
    options = ["best_of", "--base", "b", "--adapter", str(adapter), "--asks", "a", "--out", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", options)
    with pytest.raises(SystemExit, match=words):
        best_of.main()
    assert not Path(tmp_path / "o").exists()
