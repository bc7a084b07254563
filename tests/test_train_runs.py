"""Runs that are interrupted, evaluated, activated or shared between processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from tiny_train import SMOKE, base_fixture, make_base, one_thread, some_rows, write_rows  # noqa: F401 (the fixtures)

from mal_train import distributed, identity, lora, run, stage
from mal_train import estimate as estimate_module
from mal_train import recipe as recipes
from mal_train.attention import _attend
from mal_train.encode import Encoder, encode_edit, encode_edits, load_tokens
from mal_train.estimate import estimate
from mal_train.merge import merge
from mal_train.progress import Console, Silent, Step
from mal_train.recipe import Data
from mal_train.reformulate import Edit
from mal_train.rows import read_rows, split
from mal_train.run import _edits, _metrics, train
from mal_train.watch import Watch
from metaaligner_lite import manifest
from metaaligner_lite.errors import DataError, FileProblem, MissingExtra, ModelError, UsageError
from metaaligner_lite.objectives import builtin_catalogue
from metaaligner_lite.prompts import invocation
from metaaligner_lite.records import Account

EMPATHY = builtin_catalogue()["empathy"]
torch = pytest.importorskip("torch")
#: "multi_gpu" starts its processes by torchrun, which needs no GPU; its `--cpu` would want MPI.
ACCELERATE = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", some_rows())


def load_file(path):
    from safetensors.torch import load_file

    return load_file(path)


def save_file(tensors, path, metadata):
    from safetensors.torch import save_file

    save_file(tensors, path, metadata)


def weights(trained):
    return load_file(trained / "adapter" / "adapter_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


# --- resuming ---


class Killed(Exception):
    pass


class KillAt:
    """A progress that ends the run at one step of one stage."""

    def __init__(self, name, step):
        self.at = (name, step)

    def say(self, text):
        pass

    def step(self, step):
        if (step.stage, step.step) == self.at:
            raise Killed


# Dropout draws random numbers at every step, so that equal weights prove the random state, too.
RESUME = SMOKE | {"training.precision": "float32", "training.checkpoint_minutes": 1e-6, "lora.dropout": 0.3}


@pytest.mark.parametrize(
    ("at", "more"),
    [
        (("equal", 3), {}),
        (("contrastive", 1), {}),
        (("contrastive", 2), {"kind": "activated", "lora.dropout": 0.0, "data.max_length": 512}),
        # A place in the data is a number of batches, not of steps; the second epoch begins within an accumulation.
        (
            ("contrastive", 2),
            {"training.accumulate": 3, "stages.contrastive.epochs": 2.0, "training.batch_tokens": 2048},
        ),
    ],
)
def test_a_resumed_run_ends_as_if_it_had_never_stopped(base, data, tmp_path, at, more):
    recipe = recipes.load(None, RESUME | more)
    train(base, data, tmp_path / "whole", recipe)
    with pytest.raises(Killed):
        train(base, data, tmp_path / "out", recipe, progress=KillAt(*at))
    with pytest.raises(FileProblem, match=r"out\.part holds an unfinished run; .*--resume"):
        train(base, data, tmp_path / "out", recipe)
    with pytest.raises(UsageError, match=r"had recipe.lora.rank = 4, this one has 5"):
        train(base, data, tmp_path / "out", recipes.load(None, RESUME | more | {"lora.rank": 5}), resume=True)
    resumed = train(base, data, tmp_path / "out", recipe, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "out"))
    assert resumed.metrics["contrastive/steps"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "rows.jsonl", "whole"]


def test_a_run_starts_from_an_earlier_adapter(base, data, tmp_path):
    once = {"stages.warmup.share": 0.0, "stages.equal.share": 0.0, "stages.contrastive.steps": 1}
    recipe = recipes.load(None, SMOKE | once | {"stages.contrastive.lr": 0.1, "training.precision": "float32"})
    train(base, data, tmp_path / "first", recipe)
    start = tmp_path / "first" / "adapter"
    still = recipes.load(None, SMOKE | once | {"stages.contrastive.lr": 0.0, "training.precision": "float32"})
    train(base, data, tmp_path / "new", still)
    assert not same(weights(tmp_path / "new"), weights(tmp_path / "first"))  # it had learned something
    train(base, data, tmp_path / "second", still, start=start)
    assert same(weights(tmp_path / "second"), weights(tmp_path / "first"))
    assert f"start: the adapter {start}" in (tmp_path / "second" / "report.md").read_text()


def test_a_merged_aligner_starts_from_what_an_activated_one_knows(base, data, tmp_path):
    once = {"stages.warmup.share": 0.0, "stages.equal.share": 0.0, "stages.contrastive.steps": 1}
    plain = SMOKE | once | {"training.precision": "float32", "data.max_length": 512, "lora.dropout": 0.0}
    activated = recipes.load(None, plain | {"kind": "activated", "stages.contrastive.lr": 0.1})
    train(base, data, tmp_path / "first", activated)
    start = tmp_path / "first" / "adapter"
    merged = plain | {"kind": "merged", "stages.contrastive.lr": 0.0}
    with pytest.raises(UsageError, match="in the layout conversation/brief, and this run is to use conversation;"):
        train(base, data, tmp_path / "second", recipes.load(None, merged), start=start)
    still = recipes.load(None, merged | {"layout": "conversation/brief"})
    done = train(base, data, tmp_path / "second", still, start=start)
    assert same(weights(tmp_path / "second"), weights(tmp_path / "first"))
    assert (done.out / "merged").is_dir()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora.rank": 5, "lora.alpha": 10.0}, "has lora.rank = 4, the recipe 5"),
        ({"lora.alpha": 3.0}, r"has lora.alpha = 8.0, the recipe 3.0; an adapter goes on with the settings"),
        ({"lora.targets": "q_proj,v_proj"}, "changes other weights than lora.targets"),
        ({"kind": "activated", "data.max_length": 512}, "goes on with the layout it began with"),
        ({"kind": "activated", "layout": "conversation", "data.max_length": 512}, "is of another kind or layout"),
    ],
)
def test_a_start_of_another_shape_is_refused(base, data, tmp_path, settings, message):
    plain = SMOKE | {"lora.alpha": 8.0, "training.precision": "float32"}
    train(base, data, tmp_path / "first", recipes.load(None, plain))
    with pytest.raises(UsageError, match=message):
        train(
            base,
            data,
            tmp_path / "second",
            recipes.load(None, plain | settings),
            start=tmp_path / "first" / "adapter",
        )


def test_what_is_no_start_is_told_before_anything_is_read(base, data, tmp_path):
    with pytest.raises(FileProblem, match="holds no adapter to start from; expected a folder with adapter_config"):
        train(base, data, tmp_path / "out", recipes.load(None, SMOKE), start=tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(FileProblem, match="cannot read the adapter"):
        train(base, data, tmp_path / "out", recipes.load(None, SMOKE), start=tmp_path)


def test_another_base_or_other_wordings_are_another_run(base, data, tmp_path):
    recipe = recipes.load(None, RESUME)
    with pytest.raises(Killed):
        train(base, data, tmp_path / "out", recipe, progress=KillAt("equal", 1))
    namesake = make_base(tmp_path / "other" / base.name, spread=0.03)
    with pytest.raises(UsageError, match=r"had the base's files \(hash\) = '.*repeat the command as it was"):
        train(namesake, data, tmp_path / "out", recipe, resume=True)
    catalogue = builtin_catalogue() | {"empathy": replace(EMPATHY, description="The response should be kind.")}
    with pytest.raises(UsageError, match=r"had the objectives' wordings \(hash\) = "):
        train(base, data, tmp_path / "out", recipe, resume=True, catalogue=catalogue)
    copy = shutil.copytree(base, tmp_path / "copy" / base.name)
    assert train(copy, data, tmp_path / "out", recipe, resume=True).out.is_dir()


def test_large_weights_are_hashed_in_places(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_WHOLE", 1000)
    monkeypatch.setattr(identity, "_PIECE", 10)
    file = tmp_path / "model.safetensors"
    hashes = set()
    for place in (None, 0, 2000, 3999):
        file.write_bytes(bytes(i == place for i in range(4000)))
        hashes.add(identity.folder_hash(tmp_path))
    (tmp_path / "notes.md").write_text("no part of the model")
    assert len(hashes) == 3 and identity.folder_hash(tmp_path) in hashes  # 2000 is between two places


def test_a_base_named_by_a_dot_has_its_folders_name(base, data, tmp_path, monkeypatch):
    monkeypatch.chdir(base)
    trained = train(Path("."), data, tmp_path / "out", recipes.load(None, SMOKE | {"kind": "activated"}))
    found = manifest.read(trained.adapter)
    assert found and found.base == base.name


ONE = os.environ | {"OMP_NUM_THREADS": "1"}
HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks of one process")
def test_runs_killed_at_many_moments_are_resumed_bit_for_bit(base, data, tmp_path):
    """SIGKILL in a step, in every part of writing a checkpoint, between stages, while merging, at the very end."""
    toml = tmp_path / "recipe.toml"
    settings = RESUME | {"stages.contrastive.steps": 5, "stages.contrastive.epochs": 2.0, "data.validation": 0.2}
    recipes.save(recipes.load(None, settings), toml)
    command = [sys.executable, HERE / "killed_run.py", base, data, toml, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same, bit for bit") == 14


def test_nothing_to_resume_and_nothing_left_after_a_failure(base, data, tmp_path):
    recipe = recipes.load(None, SMOKE)
    with pytest.raises(FileProblem, match="no interrupted run to resume"):
        train(base, data, tmp_path / "out", recipe, resume=True)
    with pytest.raises(DataError):
        train(base, write_rows(tmp_path / "bad.jsonl", ["{"]), tmp_path / "out", recipe)
    assert not (tmp_path / "out.part").exists()


# --- evaluation ---


def loss_per_token(model, edits):
    """The mean over the edits' tokens of the loss that the model itself computes."""
    import torch

    total, count = 0.0, 0
    for edit in edits:
        ids = torch.tensor(edit.ids.tolist())[None]
        labels = ids.clone()
        labels[0, : edit.start] = -100
        n = len(edit) - edit.start
        with torch.no_grad():
            total, count = total + model(ids, labels=labels).loss.item() * n, count + n
    return total / count


def right_tokens(model, edits):
    """The share of the edits' tokens that the model holds likeliest, one edit at a time."""
    right = count = 0
    for edit in edits:
        ids = torch.tensor(edit.ids.tolist())
        with torch.no_grad():
            likeliest = model(ids[None]).logits[0, :-1].argmax(-1)
        right += int((likeliest == ids[1:])[edit.start - 1 :].sum())
        count += len(edit) - edit.start
    return right / count


def test_held_out_edits_are_evaluated_and_the_best_adapter_is_kept(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base", spread=0.3)  # whose losses tell one adapter from another
    texts = some_rows(40)
    recipe = recipes.load(None, SMOKE | {"data.validation": 0.3})
    _, held_out = split(read_rows(write_rows(tmp_path / "all.jsonl", texts))[0], recipe.data.validation, recipe.seed)
    for row in texts:  # what is trained says one thing, what is held out another: soon the one costs the other
        if row["query"] not in {other.query for other in held_out}:
            for number, answer in enumerate(row["answers"]):
                answer["text"] = "same " * 8 + str(number)
    data = write_rows(tmp_path / "rows.jsonl", texts)
    settings = SMOKE | {"data.validation": 0.3, "training.patience": 2, "training.schedule": "constant"}
    settings |= {"stages.warmup.share": 0.0, "stages.equal.share": 0.0, "stages.contrastive.lr": 0.01}
    settings |= {"stages.contrastive.steps": 60, "stages.contrastive.epochs": 30.0}
    recipe, heard = recipes.load(None, settings | {"training.precision": "float32"}), Hears()
    trained = train(base, data, tmp_path / "out", recipe, progress=heard)
    assert trained.metrics["contrastive/steps"] < 60
    assert any(line.startswith("contrastive: kept the adapter of step") for line in heard.said)
    encoder = Encoder(load_tokens(base), recipes.settled(recipe, gguf=False).layout, recipe.data)
    edits = encode_edits(_edits("contrastive", held_out, recipe), encoder, Account())
    kept = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained.adapter)
    assert trained.metrics["contrastive/held_out_loss"] == pytest.approx(loss_per_token(kept, edits), abs=5e-4)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "held-out queries" in report and "accuracy.svg" in report
    for name in ("loss.svg", "accuracy.svg"):
        picture = (tmp_path / "out" / name).read_text()
        assert picture.startswith("<svg") and 'stroke-width="2"' in picture and "<circle" in picture
    assert "# Aligner on base" in (trained.merged / "README.md").read_text()


def test_attention_in_float32_under_autocast_sees_the_same(base):
    """In a padded batch, and it is told apart from attention in bfloat16: that rounds."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(3, 27).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0

    def states(attention, autocast):
        ALL_ATTENTION_FUNCTIONS.register("sdpa", attention)
        try:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return model.model(ids, attention_mask=mask).last_hidden_state[mask.bool()].float()
        finally:
            ALL_ATTENTION_FUNCTIONS.register("sdpa", sdpa_attention_forward)

    exact = states(sdpa_attention_forward, False)
    assert torch.equal(states(_attend, False), exact)  # without autocast nothing changes
    plain, ours = (states(attention, True) for attention in (sdpa_attention_forward, _attend))
    assert not torch.equal(plain, ours)
    assert (ours - exact).abs().max() < 0.05 * exact.abs().max()


def test_evaluation_counts_every_token_once(base, tmp_path):
    """The loss over batches of any size is the mean over tokens that the model's own loss gives."""
    tokens = load_tokens(base)
    edits = [encode_edit(Edit("q", "a", "word " * n, (EMPATHY,)), tokens, "conversation") for n in (1, 5, 9)]
    recipe = recipes.load(None, {"lora.rank": 4, "training.precision": "float32"})
    model = lora.attach(lora.open_base(base, recipe), recipe)
    work = stage.Work("equal", recipe.stages.equal, edits, stage.Plan(((0,),), (1,)), edits)
    watch = Watch("equal", work.order, 1, 0, recipe.training, Silent())
    trainer = stage._trainer(model, work, recipe, tokens.pad, tmp_path, watch)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(loss_per_token(model, edits), rel=1e-4)
    assert found["eval_accuracy"] == pytest.approx(right_tokens(model, edits), abs=1e-6)


def small_trainer(base, folder):
    tokens = load_tokens(base)
    recipe = recipes.load(None, {"lora.rank": 4, "training.precision": "float32"})
    edit = encode_edit(Edit("q", "a", "t", (EMPATHY,)), tokens, "conversation")
    work = stage.Work("equal", recipe.stages.equal, [edit], stage.Plan(((0,),), (len(edit),)))
    watch = Watch("equal", work.order, 1, 0, recipe.training, Silent())
    model = lora.attach(lora.open_base(base, recipe), recipe)
    return stage._trainer(model, work, recipe, tokens.pad, folder, watch)


def test_several_gpus_are_not_one_process(base, data, tmp_path, monkeypatch):
    """transformers would put nn.DataParallel around the model, which splits what must not be split."""
    import torch
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: getattr(self, "_n_gpu", None) or 2))
    monkeypatch.setattr(TrainingArguments, "__setattr__", object.__setattr__)
    trainer = small_trainer(base, tmp_path)
    assert trainer.args.n_gpu == 1
    assert not isinstance(trainer._wrap_model(trainer.model), torch.nn.DataParallel)
    heard = Hears()
    monkeypatch.setattr(distributed, "gpus", lambda: 2)
    with pytest.raises(DataError):
        train(base, write_rows(tmp_path / "bad.jsonl", ["{"]), tmp_path / "out", recipes.load(None), progress=heard)
    assert "one of 2 GPUs" in heard.said[0] and "torchrun --nproc-per-node gpu" in heard.said[0]


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (9, 1), (39, 1), (60, 3), (200, 10), (10_000, 10)])
def test_short_stages_tell_their_loss_oftener(steps, every):
    assert stage._log_every(steps) == every


def test_the_last_step_is_told_however_rarely_the_loss_is_read(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "cuda", lambda: True)
    monkeypatch.setattr(stage, "_log_every", lambda _: 10)
    heard = Hears()
    settings = SMOKE | {"training.precision": "float32", "stages.warmup.share": 0.0, "stages.equal.share": 0.0}
    trained = train(base, data, tmp_path / "out", recipes.load(None, settings), progress=heard)
    assert any(line.startswith("contrastive 3/3  loss") for line in heard.said)
    assert trained.metrics["contrastive/loss"] > 0
    text = (trained.merged / "metaaligner.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_stage_done_before_edits_were_counted_still_counts(tmp_path):
    done = stage.StageResult("equal", 1, 10, 4, 100, 1.0, 0.0, *[stage.Curve((1,), (0.5,))] * 4)
    raw = {key: value for key, value in dataclasses.asdict(done).items() if key not in ("edits", "memory")}
    (tmp_path / "done.json").write_text(json.dumps(raw))
    read = stage._read_result(tmp_path)
    assert read is not None and read.loss == done.loss and "equal/edits/s" not in _metrics([read])
    assert _metrics([done])["equal/edits/s"] == 4


def test_metrics_that_were_not_measured_are_left_out():
    empty = stage.StageResult("equal", 1, 10, 1, 0, 1.0, 0.0, *[stage.Curve()] * 4)
    assert "equal/loss" not in _metrics([empty]) and _metrics([empty])["equal/steps"] == 1


# --- activated adapters ---


def test_the_invocation_is_the_beginning_of_the_edit_request(base):
    tokens = load_tokens(base)
    begins = invocation("conversation", tokens.template, tokens)
    assert tokens.tokenizer.decode(begins, skip_special_tokens=False).startswith("<|im_start|>user\nEdit your answer")
    with pytest.raises(UsageError, match="paper/imhi.*use one of conversation"):
        invocation("paper/imhi", tokens.template, tokens)


def test_the_invocation_is_in_every_prompt_and_a_row_without_it_is_refused(base):
    tokens = load_tokens(base)
    begins = invocation("conversation", tokens.template, tokens)
    words = tokens.tokenizer.decode(begins, skip_special_tokens=False)
    edits = [Edit("q", "a", f"t {words}", (EMPATHY,)), Edit(words, words, "t", (EMPATHY,), equal=True)]
    account = Account()
    encoder = Encoder(tokens, "conversation", Data(), begins)
    found = encode_edits(edits, encoder, account)
    assert len(found) == 2 and not account.refused  # the user's words cannot make the special token
    account = Account()
    assert encode_edits(edits, replace(encoder, invocation=[1, 2, 3]), account) == []
    assert "invocation" in next(iter(account.refused))


def test_an_activated_run(base, data, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained = train(base, data, tmp_path / "out", recipes.load(None, SMOKE | {"kind": "activated"}))
    assert trained.merged is None and not (tmp_path / "out" / "merged").exists()
    assert trained.next_command == f"mal convert {trained.adapter} --base {base} --adapter-only"
    found = manifest.read(trained.adapter)
    tokens = load_tokens(base)
    begins = invocation("conversation/brief", tokens.template, tokens)
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert found and found.kind == "activated" and config["alora_invocation_tokens"] == begins

    # Before the invocation the base's logits, bit for bit; from it on, others.
    edit = encode_edit(Edit("Where is it?", "No idea.", "I am sorry.", (EMPATHY,)), tokens, "conversation/brief")
    ids = torch.tensor(edit.ids.tolist())[None]
    start = next(i for i in range(len(edit)) if edit.ids[i : i + len(begins)].tolist() == begins)
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained.adapter)
    with torch.no_grad():
        a, p = adapted(ids).logits[0], plain(ids).logits[0]
    assert torch.equal(a[:start], p[:start]) and not torch.allclose(a[start:], p[start:], atol=1e-4)


def test_what_packed_batches_cannot_read_is_said(base, data, tmp_path):
    heard = Hears()
    settings = SMOKE | {"kind": "activated", "lora.dropout": 0.1, "data.max_length": 512}
    train(base, data, tmp_path / "out", recipes.load(None, settings), progress=heard)
    assert "lora.dropout is in use: the whole prompt is read with gradients, which takes longer" in heard.said


LEAK = """
import sys, torch
from mal_train.lora import keep_few_primitives, memory
torch.set_num_threads(1)
if sys.argv[1] == "few":
    keep_few_primitives()
weight, bias = torch.randn(512, 256).to_mkldnn(), torch.zeros(512).to_mkldnn()
for n in range(64, 1264, 2):
    torch._C._nn.mkldnn_linear(torch.randn(n, 256).to_mkldnn(), weight, bias)
    if n == 128:
        before = memory()
print(memory() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_memory_does_not_grow_with_every_shape_of_a_batch():
    """oneDNN keeps what it compiled for a shape, and torch keeps that again: here 600 shapes of one product."""

    def grown(mode):
        done = subprocess.run([sys.executable, "-c", LEAK, mode], capture_output=True, text=True, timeout=240, env=ONE)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert grown("few") < 32 << 20 < grown("many")


def test_an_adapter_that_no_gradient_reaches_is_an_error(base, tmp_path):
    """PEFT trains nothing, in silence, if the invocation is nowhere; our first step notices."""
    recipe = recipes.load(None, SMOKE | {"training.precision": "float32"})
    tokens = load_tokens(base)
    model = lora.attach(lora.open_base(base, recipe), recipe, invocation=[1, 2, 1, 2])
    edit = encode_edit(Edit("q", "a", "t", (EMPATHY,)), tokens, "conversation")
    work = stage.Work("equal", recipe.stages.equal, [edit], stage.Plan(((0,),), (len(edit),)))
    with pytest.raises(ModelError, match="no gradient reaches the adapter"):
        stage.train_stage(model, work, recipe, tokens.pad, 0, tmp_path / "s", Silent())


# --- the shapes an adapter can take ---


@pytest.mark.parametrize(
    "settings",
    [
        {"lora.rslora": True},
        {"lora.dora": True},
        {"training.gradient_checkpointing": True},
        {"training.gradient_checkpointing": True, "kind": "activated"},
        {"kind": "activated", "lora.dropout": 0.1},  # read as PEFT reads it
        {"kind": "activated", "training.accumulate": 2, "data.validation": 0.2, "data.max_length": 300},
        {"kind": "activated", "layout": "conversation", "training.precision": "bfloat16"},
        {"lora.targets": "q_proj,v_proj", "training.accumulate": 2},
        {"training.minutes": 0.02, "data.redraw": True, "data.most_objectives": 2, "stages.contrastive.epochs": 2.5},
        {"layout": "paper/hh-rlhf", "training.precision": "bfloat16", "data.max_length": 512},
    ],
)
def test_variants_train(base, data, tmp_path, settings):
    small = SMOKE | {f"stages.{name}.steps": 1 for name in recipes.STAGES} | {"stages.warmup.share": 0.0}
    trained = train(base, data, tmp_path / "out", recipes.load(None, small | settings))
    assert any(value.abs().sum() > 0 for name, value in weights(tmp_path / "out").items() if "lora_B" in name)
    assert trained.metrics["tokens"] > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lora.quantize": "nf4"}, (UsageError, MissingExtra), "CUDA|bitsandbytes"),
        ({"training.optimizer": "paged_adamw_8bit"}, MissingExtra, "pip install bitsandbytes"),
        ({"lora.targets": "q_proj,lm_head"}, UsageError, "shares between input and output"),
        ({"lora.targets": "q_proj,embed_tokens"}, UsageError, "shares between input and output"),
        ({"stages.contrastive.lr": 1.0, "training.max_grad_norm": 1e30}, ModelError, "the loss is .* lower stages"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(base, data, tmp_path, monkeypatch, settings, error, message):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "bitsandbytes" else find_spec(name, *a)
    )
    if "lora.quantize" in settings and lora.cuda():
        pytest.skip("there is a GPU")
    if "max_grad_norm" in str(settings):
        settings = settings | {"stages.contrastive.steps": 60, "stages.contrastive.epochs": 60.0, "lora.alpha": 1e20}
    with pytest.raises(error, match=message):
        train(base, data, tmp_path / "out", recipes.load(None, SMOKE | settings))


def test_out_of_memory_says_what_to_change():
    recipe = recipes.load(None, {"training.batch_tokens": 4096})
    found = lora.explain_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), recipe)
    assert "training.batch_tokens below 4096" in str(found) and "gradient_checkpointing = true" in str(found)
    assert lora.explain_out_of_memory(RuntimeError("shape mismatch"), recipe) is None
    long = recipes.load(None, {"training.batch_tokens": 512, "data.max_length": 1024})
    advice = str(lora.explain_out_of_memory(MemoryError(), long))
    assert "batch_tokens" not in advice and "data.max_length below 1024" in advice  # a long edit is a batch alone
    assert lora.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert lora.is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))


def test_out_of_memory_in_training_is_one_clear_error(base, data, tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(stage, "collate", no_room)
    with pytest.raises(ModelError, match="memory ran out while training; try, in this order: training.batch_tokens"):
        train(base, data, tmp_path / "out", recipes.load(None, SMOKE))


def test_a_merge_that_float16_cannot_hold_is_refused(base, data, tmp_path):
    trained = train(base, data, tmp_path / "out", recipes.load(None, SMOKE))
    large = tmp_path / "large"
    shutil.copytree(base, large)
    tensors = load_file(large / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    assert merge(trained.adapter, large, tmp_path / "whole", "bfloat16").is_dir()
    with pytest.raises(ModelError, match=r"up_proj.weight is not finite as float16 \(float16 ends at 65504\)"):
        merge(trained.adapter, large, tmp_path / "half", "float16")
    assert not (tmp_path / "half").exists()


def test_a_base_too_large_to_open_is_not_a_batch_too_large(base, monkeypatch):
    from transformers import AutoModelForCausalLM

    def no_room(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", no_room)
    with pytest.raises(ModelError, match="while opening the base model .*; take a smaller one"):
        lora.open_base(base, recipes.load(None, SMOKE))


def test_out_of_memory_while_merging_keeps_the_training(base, data, tmp_path, monkeypatch):
    def no_room(*_):
        raise MemoryError

    settings = recipes.load(None, SMOKE)
    with monkeypatch.context() as patched, pytest.raises(ModelError, match="while merging.*--resume"):
        patched.setattr(run, "merge", no_room)
        train(base, data, tmp_path / "out", settings)
    assert train(base, data, tmp_path / "out", settings, resume=True).merged.is_dir()


def test_the_estimate_counts_the_weights(base):
    found = estimate(base, recipes.load(None))
    parameters = sum(value.numel() for value in load_file(base / "model.safetensors").values())
    assert found.base == 4 * parameters and found.adapter > 0 and found.batch > 0
    assert found.total - found.needed == found.program
    assert (found.program > 0) is ("program" in str(found)) is not lora.cuda()


def test_the_estimate_knows_that_a_long_edit_is_a_batch_alone(base):
    short, long = {"training.batch_tokens": 512, "data.max_length": 256}, {"data.max_length": 1024}
    batches = [estimate(base, recipes.load(None, settings)).batch for settings in (short, short | long)]
    assert batches[1] == pytest.approx(2 * batches[0], rel=0.01)


def test_edits_longer_than_a_batch_fill_the_steps_asked_for(base, tmp_path):
    """Each is a batch of its own, so a stage of n steps needs n of them, not n batches' worth of tokens."""
    data = write_rows(tmp_path / "rows.jsonl", some_rows(30))
    settings = SMOKE | {"training.batch_tokens": 32, "stages.contrastive.steps": 9}
    settings |= {"stages.warmup.share": 0.0, "stages.equal.share": 0.0}
    assert train(base, data, tmp_path / "out", recipes.load(None, settings)).metrics["contrastive/steps"] == 9


def test_the_time_left_is_that_of_all_stages(monkeypatch):
    order = stage.Plan(((0,), (1,), (2,)), (100, 100, 100))
    # 3 seconds of 100 tokens, then 5 for the later stages; a limit of 1.5 leaves 0.5 here and 2.5 for those.
    for minutes, expected in ((0.0, 7.0), (1.0, 7.0), (1.5 / 60, 3.0)):
        told, progress = [], Silent()
        monkeypatch.setattr(progress, "step", told.append)
        watch = Watch("equal", order, 1, minutes, recipes.load(None).training, progress, later=500)
        monkeypatch.setattr(watch, "elapsed", lambda: 1.0)
        watch.tell(1, 0.5)
        assert [step.tokens_per_second for step in told] == [100]
        assert told[0].seconds_left == pytest.approx(expected), minutes


def test_embeddings_and_head_are_not_counted_as_four_bits(base):
    """Those of a base in 4 bits are held in 32, as its norms are."""
    sizes = {name: value.numel() for name, value in load_file(base / "model.safetensors").items()}
    whole = sum(size for name, size in sizes.items() if "proj" not in name)
    found = estimate(base, recipes.load(None, {"lora.quantize": "nf4"}))
    assert found.base == pytest.approx(4 * whole + 0.55 * (sum(sizes.values()) - whole), abs=1)


def test_weights_whose_size_is_not_told_are_not_none(base, tmp_path):
    shutil.copy(base / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    heard = Hears()
    estimate_module.check(tmp_path, recipes.load(None), heard)
    (line,) = heard.said
    assert line.startswith("memory: unknown, since") and line.endswith("GiB free")


class Hears:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def step(self, step):
        self.said.append(str(step))


def test_memory_is_estimated_before_the_model_is_opened(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "open_base", lambda *_: pytest.fail("the model was opened"))
    monkeypatch.setattr(estimate_module, "free_memory", lambda: 1000)
    monkeypatch.setattr(estimate_module, "_main_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"this run needs about .* GiB are free; take a smaller base"):
        train(base, data, tmp_path / "out", recipes.load(None, SMOKE))
    heard = Hears()
    monkeypatch.setattr(estimate_module, "free_memory", lambda: 10_000_000)
    estimate_module.check(base, recipes.load(None, {"kind": "merged"}), heard)
    assert "merging afterwards takes" in heard.said[1] and "lower training.batch_tokens (8192)" in heard.said[2]


def test_a_run_tells_where_it_stands(base, data, tmp_path):
    heard = Hears()
    recipe = recipes.load(None, SMOKE | {"data.validation": 0.2})
    metrics = train(base, data, tmp_path / "out", recipe, progress=heard).metrics
    assert metrics["contrastive/edits/s"] > 0.1 and metrics["peak_memory_gib"] > 0.1
    told = "\n".join(heard.said)
    assert re.search(r"contrastive 3/3  loss \d\.\d{3}  [\d,]+ tokens/s  0:00 left  \d\.\d GiB", told)
    assert "rows used" in told and "held-out edits used" in told and "merging the adapter" in told


def test_the_console_tells_a_step_now_and_then_and_each_sentence(capsys):
    console = Console(every=60.0)
    console.say("[3] edits")
    for number in (1, 2, 3):
        console.step(Step("equal", number, 3, 1.5, 1234.0, 65.0, 2**30))
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        "[3] edits",
        "equal 1/3  loss 1.500  1,234 tokens/s  1:05 left  1.0 GiB",
        "equal 3/3  loss 1.500  1,234 tokens/s  1:05 left  1.0 GiB",
    ]


def test_minutes_end_a_run_early_with_the_rate_down(base, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", some_rows(60))
    settings = {"training.batch_tokens": 512, "training.minutes": 0.05, "lora.rank": 4, "data.max_length": 256}
    settings |= {"stages.contrastive.epochs": 200.0, "stages.warmup.share": 0.0, "stages.equal.share": 0.0}
    trained = train(base, data, tmp_path / "out", recipes.load(None, settings))
    assert trained.metrics["seconds"] < 6


# --- several processes ---


@pytest.mark.slow
def test_two_processes_train_the_same_adapter(base, data, tmp_path):
    """The same command under torchrun: with half the accumulation the same batches, so the same weights."""
    with data.open("a") as file:
        file.write("{broken\n")
    told = {}
    for name, accumulate, launcher in (
        ("one", 2, []),
        ("two", 1, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
        ("accelerate", 1, ["-m", "accelerate.commands.launch", *ACCELERATE]),
    ):
        toml = tmp_path / f"{name}.toml"
        settings = SMOKE | {"training.accumulate": accumulate, "training.precision": "float32", "data.validation": 0.2}
        recipes.save(recipes.load(None, settings), toml)
        flags = ["--base", base, "--data", data, "--out", tmp_path / name, "--recipe", toml, "--json"]
        command = [sys.executable, *launcher, "-m", "metaaligner_lite", "train-lora", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ONE)
        assert done.returncode == 0, done.stderr
        told[name] = json.loads(done.stdout)  # one process alone speaks
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all((one[name] - two[name]).abs().max() < 1e-4 for name in one)
    assert told["one"]["accounts"] == told["two"]["accounts"] and told["two"]["accounts"][0]["refused"]
    one, two = told["one"]["metrics"], told["two"]["metrics"]
    for name in (name for name in one if not re.search("seconds|/s$|memory", name)):
        assert one[name] == pytest.approx(two[name], abs=2e-4), name
