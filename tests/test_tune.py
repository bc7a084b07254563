"""`mal tune`: what is measured is kept per machine, build and shape, and every engine uses it."""

import json

import pytest
import tiny

from metaaligner_lite.align import Aligner, align
from metaaligner_lite.gguf_file import read_header
from metaaligner_lite.llama import tune
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.engine import open_engine
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.paths import cache_dir
from metaaligner_lite.policies import GivenAnswer

COSTS = tuple((size, 0.001 * size) for size in tune.SIZES)
TUNING = tune.Tuning(flash=True, threads=1, repack=False, costs=COSTS)


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path))
    monkeypatch.setattr(tune, "_EACH", 0.0)


def test_every_setting_is_tried_and_the_best_is_kept(tiny_path):
    seen = []
    tuning, trials = tune.measure(tiny_path, on_trial=seen.append)
    best = min(trials, key=lambda trial: trial.seconds)
    assert seen == trials
    assert (best.flash, best.threads, best.repack) == (tuning.flash, tuning.threads, tuning.repack)
    assert {trial.flash for trial in trials} == {True, False}
    assert tuple(size for size, _ in tuning.costs) == tune.SIZES
    assert all(seconds > 0 for _, seconds in tuning.costs)


def test_time_is_limited(tiny_path, monkeypatch):
    monkeypatch.setattr(tune, "_SECONDS", 0.0)
    tuning, trials = tune.measure(tiny_path)
    assert len(trials) == 1
    assert tuning.costs


def test_a_measurement_serves_models_of_the_same_shape(tiny_path, tmp_path):
    header = read_header(tiny_path)
    assert tune.remembered(header) is None
    tune.remember(header, TUNING)
    assert tune.remembered(header) == TUNING
    assert tune.remembered(read_header(tiny.write_model(tmp_path / "same.gguf", seed=7))) == TUNING
    assert tune.remembered(read_header(tiny.write_model(tmp_path / "wider.gguf", width=128))) is None
    assert tune.remembered(header, gpu_layers=3) is None


@pytest.mark.parametrize("what", ["library_build", "this_machine"])
def test_another_machine_or_build_is_measured_anew(tiny_path, monkeypatch, what):
    tune.remember(read_header(tiny_path), TUNING)
    monkeypatch.setattr(tune, what, lambda: "another")
    assert tune.remembered(read_header(tiny_path)) is None


@pytest.mark.parametrize(
    "entry", [None, 3, {}, {"flash": True}, {"threads": -1}, {"threads": "x"}, {"costs": [[1, 0.1]]}, {"costs": 3}]
)
def test_a_damaged_memory_is_no_measurement(tiny_path, entry):
    header = read_header(tiny_path)
    path = tune.remember(header, TUNING)
    entries = json.loads(path.read_text())
    for key, sound in entries.items():
        entries[key] = sound | entry if isinstance(entry, dict) and entry else entry
    path.write_text(json.dumps(entries))
    assert (tune.remembered(header) is None) is (entry != {"flash": True})
    path.write_text("{")
    assert tune.remembered(header) is None
    tune.remember(header, TUNING)
    assert tune.remembered(header) == TUNING


def test_engines_use_it_and_flags_go_first(tiny_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "metaaligner_lite.llama.engine.Context",
        lambda *args, **options: made.append(options) or Context(*args, **options),
    )
    tune.remember(read_header(tiny_path), TUNING)
    for threads in (0, 2):
        with open_engine(tiny_path, threads=threads) as engine:
            aligner = Aligner(engine, layout="conversation", max_tokens=4)
            assert align("Hi", "empathy", policy=GivenAnswer("x"), aligner=aligner).aligned
    assert [(options["threads"], options["flash"]) for options in made] == [(1, True), (2, True)]
    assert made[0]["costs"] is not None


def test_repacking_follows_it(tiny_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "metaaligner_lite.llama.engine.open_model",
        lambda path, **options: asked.append(options["repack"]) or open_model(path, **(options | {"repack": False})),
    )
    open_engine(tiny_path).close()
    tune.remember(read_header(tiny_path), TUNING)
    open_engine(tiny_path).close()
    assert asked == [None, False]


def test_the_command_tells_keeps_and_info_knows(tiny_path, capsys, monkeypatch):
    import sys

    from metaaligner_lite.cli import main

    def mal(*args):
        monkeypatch.setattr(sys, "argv", ["mal", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "no; mal tune" in mal("info", tiny_path)
    found = json.loads(mal("tune", tiny_path, "--json"))
    assert found["file"] == str(cache_dir() / "tune.json")
    assert "tuned" in mal("info", tiny_path)
    assert json.loads(mal("info", tiny_path, "--json"))["tuned"] == found["best"]
    out = mal("tune", tiny_path)
    assert out.count("<- kept") == 1
    assert "milliseconds" in out
    assert json.loads(mal("doctor", "--json"))["tuned"].startswith("1 model shapes")
