"""`mal tune`: what is measured is kept per machine, build and shape, and every engine uses it."""

import json
from types import SimpleNamespace

import pytest
import tiny
from gguf import GGMLQuantizationType

from metaaligner_lite.align import align
from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.gguf_file import read_header
from metaaligner_lite.llama import tune
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.draft import BatchCosts
from metaaligner_lite.llama.engine import open_engine
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.paths import cache_dir
from metaaligner_lite.policies import GivenAnswer

COSTS = tuple((size, 0.001 * size) for size in tune.SIZES)
TUNING = tune.Tuning(flash=True, threads=1, batch_threads=2, repack=False, costs=COSTS)


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path))
    monkeypatch.setattr(tune, "_EACH", 0.0)


class Machine:
    """Four cores on which every decode takes what `cost` says, by a clock of its own; the model is a tiny one."""

    def __init__(self, monkeypatch, cost, opening=0.0):
        self.now, self.repack, self.made = 0.0, None, []
        machine = self

        class Slow(Context):
            def __init__(self, model, n_ctx, *, flash):
                super().__init__(model, n_ctx, threads=1)
                self.flash, self.in_use = flash, (1, 4)
                machine.made.append((machine.repack, flash))

            def use_threads(self, threads, batch_threads):
                self.in_use = (threads, batch_threads)

            def _decode(self, parts, *, every):
                size = sum(len(tokens) for _, tokens in parts)
                machine.now += cost(size, self.flash, self.in_use[size > 1], machine.repack)
                return super()._decode(parts, every=every)

        def opened(path, *, gpu_layers, repack, weights):
            assert not weights
            machine.now, machine.repack = machine.now + opening, repack
            return open_model(path, gpu_layers=gpu_layers, repack=False)

        monkeypatch.setattr(tune, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(tune, "Context", Slow)
        monkeypatch.setattr(tune, "open_model", opened)
        monkeypatch.setattr(tune, "repack_is_safe", lambda: True)
        monkeypatch.setattr(tune, "default_threads", lambda: 4)
        monkeypatch.setattr(tune, "hardware_threads", lambda: 8)
        monkeypatch.setattr(tune, "usual_threads", lambda size: (1, 4))
        monkeypatch.setattr(tune, "_EACH", 0.4)


BATCHES = BatchCosts()


def small(size, flash, threads, repack):
    """One thread writes single tokens best, four read batches best; flash attention and no repacking cost more."""
    return 0.01 * BATCHES(size) * (1.5 if flash else 1) * (1 if repack else 1.2) * (1 + 0.1 * abs(threads - 1))


def test_every_setting_is_tried_the_untuned_one_first(tiny_path, monkeypatch):
    machine, seen = Machine(monkeypatch, small), []
    found = tune.measure(tiny_path, on_trial=seen.append)
    settings = [trial.setting for trial in found.trials]
    assert seen == found.trials
    assert settings[:3] == [
        tune.Setting(False, 1, 4, True),
        tune.Setting(True, 1, 4, True),
        tune.Setting(False, 1, 4, False),
    ]
    assert {setting.repack for setting in settings} == {True, False}
    assert {(setting.threads, setting.batch_threads) for setting in settings} == {
        (1, 4),
        (4, 4),
        (8, 8),
        (3, 3),
        (2, 2),
    }
    assert len(set(settings)) == len(settings)
    assert (found.not_tried, found.not_measured) == ([], ())
    assert machine.made == [(True, False), (True, True), (False, False), (True, False)]


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        (lambda n, flash, threads, repack: 0.01 * BATCHES(n) * (1 if flash else 1.5), (True, 1, 4, True)),
        (lambda n, flash, threads, repack: 0.01 * BATCHES(n) * (1.5 if repack else 1), (False, 1, 4, False)),
        (lambda n, flash, threads, repack: 0.01 * BATCHES(n) * (1 + abs(threads - 3)), (False, 3, 3, True)),
        (lambda n, flash, threads, repack: 0.01 * BATCHES(n) * (1 if (flash, repack) == (True, False) else 1.5),
         (False, 1, 4, True)),  # each alone gains nothing
        (lambda n, flash, threads, repack: 0.01 * BATCHES(n) * (0.98 if flash else 1), (False, 1, 4, True)),
    ],
)  # fmt: skip
def test_the_best_is_kept_and_the_untuned_where_nothing_beats_it_clearly(tiny_path, monkeypatch, cost, kept):
    Machine(monkeypatch, cost)
    found = tune.measure(tiny_path)
    assert found.best.setting == tune.Setting(*kept)
    assert found.best.seconds <= found.trials[0].seconds
    assert found.tuning.costs == found.best.costs
    expected = [(size, cost(size, found.best.setting.flash, kept[1 + (size > 1)], kept[3])) for size in tune.SIZES]
    assert dict(found.tuning.costs) == pytest.approx(dict(expected))


@pytest.mark.parametrize("opening", [0.0, 8.0])
@pytest.mark.parametrize("single", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("grows", [BATCHES, float])
@pytest.mark.parametrize("flash_costs", [0.5, 3.0])
def test_it_ends_within_a_minute_whatever_a_decode_takes(tiny_path, monkeypatch, single, grows, flash_costs, opening):
    def cost(size, flash, threads, repack):
        return single * grows(size) * (flash_costs if flash else 1) * (1 if repack else 1.5) * (1 + 4 / threads) / 2

    machine = Machine(monkeypatch, cost, opening)
    found = tune.measure(tiny_path)
    assert machine.now <= 60
    tried = {trial.setting for trial in found.trials}
    assert not tried & set(found.not_tried)
    assert {setting.flash for setting in (*tried, *found.not_tried)} == {True, False}
    assert {setting.repack for setting in (*tried, *found.not_tried)} == {True, False}
    assert [size for size, _ in found.tuning.costs] == list(tune.SIZES)


def test_what_time_was_too_short_for_is_told_and_reckoned(tiny_path, monkeypatch):
    Machine(monkeypatch, lambda size, flash, threads, repack: BATCHES(size))
    found = tune.measure(tiny_path)
    assert {trial.setting.flash for trial in found.trials} == {True, False}  # what matters most is still tried
    assert tune.Setting(False, 8, 8, True) in found.not_tried
    assert 32 in found.not_measured
    assert 1 not in found.not_measured
    assert found.tuning.costs == tuple((size, pytest.approx(BATCHES(size))) for size in tune.SIZES)


def test_a_measurement_serves_models_of_the_same_shape(tiny_path, tmp_path):
    header = read_header(tiny_path)
    assert tune.remembered(header) is None
    tune.remember(header, TUNING)
    assert tune.remembered(header) == TUNING
    assert tune.remembered(read_header(tiny.write_model(tmp_path / "same.gguf", seed=7))) == TUNING
    assert tune.remembered(read_header(tiny.write_model(tmp_path / "wider.gguf", width=128))) is None
    assert tune.remembered(header, gpu_layers=3) is None


@pytest.mark.parametrize("faster", [True, False])
def test_a_copy_as_f16_is_tried_where_there_can_be_one(tmp_path, monkeypatch, faster):
    path = tiny.write_model(tmp_path / "q4_1.gguf", quantization=GGMLQuantizationType.Q4_1)
    real, now = open_model, [0.0]

    def opened(path, **how):
        now.append(0.5 if bool(how["weights"]) is faster else 1.0)
        return real(path, **how)

    monkeypatch.setattr(tune, "open_model", opened)
    monkeypatch.setattr(tune, "_read", lambda context, count: context.roll_back(0) or now[-1])
    monkeypatch.setattr(tune, "_cost", lambda context, size: now[-1] * BATCHES(size))
    found = tune.measure(path)
    assert found.trials[0].setting.unpack
    assert {trial.setting.unpack for trial in found.trials} == {True, False}
    assert found.tuning.unpack is faster
    tune.remember(read_header(path), found.tuning)
    with open_engine(path) as engine:
        assert engine.model.unpacked is faster


@pytest.mark.parametrize("what", ["library_build", "this_machine"])
def test_another_machine_or_build_is_measured_anew(tiny_path, monkeypatch, what):
    tune.remember(read_header(tiny_path), TUNING)
    monkeypatch.setattr(tune, what, lambda: "another")
    assert tune.remembered(read_header(tiny_path)) is None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        {},
        {"flash": True},
        {"threads": -1},
        {"threads": "x"},
        {"batch_threads": 0},
        {"costs": [[1, 0.1]]},
        {"costs": 3},
    ],
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


def test_a_measurement_without_threads_for_batches_is_of_another_version(tiny_path):
    header = read_header(tiny_path)
    path = tune.remember(header, TUNING)
    entries = json.loads(path.read_text())
    for entry in entries.values():
        del entry["batch_threads"]
    path.write_text(json.dumps(entries))
    assert tune.remembered(header) is None
    tune.remember(header, TUNING)
    assert tune.remembered(header) == TUNING


@pytest.mark.parametrize(
    ("options", "flash", "threads", "costs"),
    [
        ({}, True, (1, 2), "tuned"),
        ({"kv": "q8_0"}, True, (1, 2), "tuned"),
        ({"threads": 2}, True, (2, 2), "flash"),
        ({"threads": 1}, True, (1, 1), "flash"),
        ({}, False, (1, 2), "tuned"),
        ({"kv": "q8_0"}, False, (1, 2), "flash"),  # which was not measured
        ({"threads": 2}, False, (2, 2), "usual"),
    ],
)
def test_engines_use_it_flags_go_first_and_costs_are_of_what_runs(
    tmp_path, monkeypatch, options, flash, threads, costs
):
    path, made = tiny.write_model(tmp_path / "wide_heads.gguf", width=128), []

    def context(*args, **keywords):
        made.append((Context(*args, **keywords), keywords))
        return made[-1][0]

    monkeypatch.setattr("metaaligner_lite.llama.engine.Context", context)
    tune.remember(read_header(path), tune.Tuning(flash, 1, 2, False, costs=COSTS))
    with open_engine(path, **options) as engine:
        aligner = GgufAligner(engine, layout="conversation", max_tokens=4)
        assert align("Hi", "empathy", policy=GivenAnswer("x"), aligner=aligner).aligned
    ((context, keywords),) = made
    assert (keywords["flash"], (keywords["threads"], keywords["batch_threads"])) == (flash, threads)
    expected = {"tuned": BatchCosts(COSTS), "flash": BatchCosts(flash=True), "usual": BatchCosts()}[costs]
    assert [context.costs(size) for size in tune.SIZES] == [expected(size) for size in tune.SIZES]


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
    assert [size for size, _ in found["best"]["costs"]] == list(tune.SIZES)
    assert all(seconds > 0 for _, seconds in found["best"]["costs"])
    assert "for batches" in mal("info", tiny_path)
    assert json.loads(mal("info", tiny_path, "--json"))["tuned"] == found["best"]
    out = mal("tune", tiny_path)
    assert out.count("kept\n") == 1
    assert out.count("<- without tuning") == 1
    assert "milliseconds" in out
    assert json.loads(mal("doctor", "--json"))["tuned"].startswith("1 model shapes")


def test_the_command_names_what_it_had_no_time_for(tiny_path, capsys, monkeypatch):
    import sys

    from metaaligner_lite.cli import main

    Machine(monkeypatch, lambda size, flash, threads, repack: BATCHES(size))
    monkeypatch.setattr(sys, "argv", ["mal", "tune", str(tiny_path)])
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    untried = "flash attention off, repacking on, as F16 off, 8 threads for single tokens, 8 for batches"
    assert f"not tried, time was up: {untried}" in out
    assert "batches of 4, 32 tokens; their costs follow the built-in curve" in out


def test_the_memory_of_info_is_that_with_tuned_flash_attention(tiny_path, capsys, monkeypatch):
    from metaaligner_lite.describe import memory_needed

    header = read_header(tiny_path)
    tune.remember(header, TUNING)
    monkeypatch.setattr("sys.argv", ["mal", "info", str(tiny_path), "--json"])
    from metaaligner_lite.cli import main

    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["memory"] == memory_needed(header, 2048, flash=True)
    assert memory_needed(header, 2048, flash=True) != memory_needed(header, 2048)
