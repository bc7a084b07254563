from pathlib import Path

import pytest

from metaaligner_lite.errors import FileProblem, UsageError
from metaaligner_lite.objectives import Objective, builtin_catalogue, load_catalogue, resolve

PAPER = (
    """harmlessness helpfulness humor honesty truthfulness correctness informativeness professionalism specificity
factuality readability fairness repetition length""".split()
    + ["instruction following"]
)
EVERYDAY = ["empathy", "clarity", "brevity", "politeness"]


def test_catalogue_holds_the_papers_15_and_everyday_ones():
    assert len(PAPER) == 15
    assert set(PAPER + EVERYDAY) <= set(builtin_catalogue())


def test_every_description_is_one_sentence():
    for objective in builtin_catalogue().values():
        assert objective.description.endswith("."), objective.name
        assert objective.description[0].isupper(), objective.name


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("empathy,clarity", ["empathy", "clarity"]),
        ("  Empathy , CLARITY ,", ["empathy", "clarity"]),
        ("humour", ["humor"]),
        ("instruction_following", ["instruction following"]),
        ("Instruction-Following; brevity", ["instruction following", "brevity"]),
        ("clarity, calm: Be calm, not loud.; brevity", ["clarity", "calm", "brevity"]),
        (["empathy", Objective("calm", "Be calm.")], ["empathy", "calm"]),
        ("calm: Be calm; no exclamation marks", ["calm"]),
        ("calm: Be calm; no shouting, no exclamation marks; brevity", ["calm", "brevity"]),
        ("calm: Be calm; short: Be short; no rambling", ["calm", "short"]),
        ("calm: Be calm; clear, brevity", ["calm", "clarity", "brevity"]),
        ("calm: Be calm;", ["calm"]),
        ("同理心：回答应体现同理心", ["同理心"]),  # full-width marks
        ("empathy，clarity、brevity；calm：Be calm，not loud", ["empathy", "clarity", "brevity", "calm"]),
    ],
)
def test_resolve(typed, names):
    assert [objective.name for objective in resolve(typed)] == names


def test_inline_description_keeps_its_commas():
    assert resolve("clarity, calm: Be calm, not loud.")[1].worded("conversation") == "Calm: Be calm, not loud."


@pytest.mark.parametrize(
    ("typed", "description"),
    [
        ("calm: Be calm; no exclamation marks", "Be calm; no exclamation marks"),
        ("calm: Be calm; no shouting; brevity", "Be calm; no shouting"),
        ("calm：要冷静；不要感叹号，也不要大写；brevity", "要冷静；不要感叹号，也不要大写"),
        ("calm: At 10:30: be calm", "At 10:30: be calm"),
    ],
)
def test_inline_description_keeps_its_own_semicolons(typed, description):
    assert resolve(typed)[0].description == description


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("empthy", "unknown objective 'empthy'; did you mean 'empathy'?"),
        ("humuor", "did you mean 'humor'?"),
        ("xyzzy", "unknown objective 'xyzzy'; `mal objectives list` shows"),
        ("", "no objective given"),
        (" , ;", "no objective given"),
        ("calm:", 'expected "name: The response should'),
        ("clarity,clear", "'clarity' is named twice"),
        ("calm: Be calm; brevty", "did you mean 'brevity'?"),
    ],
)
def test_resolve_errors(typed, message):
    with pytest.raises(UsageError) as error:
        resolve(typed)
    assert message in str(error.value)


def test_paper_wording_is_the_checkpoints_own():
    helpfulness, honesty = resolve("helpfulness,honesty")
    assert helpfulness.worded("paper/hh-rlhf").startswith("Helpfulness: The response should provide useful")
    assert helpfulness.worded("paper/ultrafeedback").startswith("Helpfulness: the response should provide useful")
    assert honesty.worded("paper/ultrafeedback") == "Honesty: the response should not tell lies"
    assert resolve("humour")[0].worded("paper/hh-rlhf") == "Humour: The response should be cheerful and amusing"


def _catalogue(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_user_catalogue_adds_and_replaces(tmp_path, monkeypatch):
    path = _catalogue(tmp_path, '[calm]\ndescription = "Be calm."\n[empathy]\ndescription = "Mine."\n')
    catalogue = load_catalogue(path)
    assert catalogue["calm"].description == "Be calm."
    assert catalogue["empathy"].description == "Mine."
    assert "clarity" in catalogue
    monkeypatch.setenv("MAL_OBJECTIVES", str(path))
    assert "calm" in load_catalogue()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_user_catalogue_with_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "mine.toml"
    path.write_bytes('[calm]\r\ndescription = "Be calm."\r\n'.encode(encoding))
    assert load_catalogue(path)["calm"].description == "Be calm."


def test_user_catalogue_in_the_settings_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path))
    assert "calm" not in load_catalogue()
    (tmp_path / "objectives.toml").write_text('[calm]\ndescription = "Be calm."\n', encoding="utf-8")
    assert "calm" in load_catalogue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[calm\n", "is not valid TOML"),
        ("calm = 3\n", "expected a table"),
        ("[calm]\n", 'needs a line description = "'),
        ('[calm]\ndescription = "x"\nalias = ["y"]\n', "unknown key 'alias'"),
        ('[calm]\ndescription = "x"\naliases = "y"\n', "aliases must be a list"),
        ('[calm]\ndescription = "x"\naliases = ["humour"]\n', "'humour' names both 'humor' and 'calm'"),
        ('[calm]\ndescription = "x"\nwording = {a = 3}\n', "wording must be a table"),
    ],
)
def test_user_catalogue_errors(tmp_path, text, message):
    with pytest.raises(UsageError) as error:
        load_catalogue(_catalogue(tmp_path, text))
    assert message in str(error.value)


def test_missing_catalogue_is_named(tmp_path):
    with pytest.raises(FileProblem, match="absent.toml"):
        load_catalogue(tmp_path / "absent.toml")
