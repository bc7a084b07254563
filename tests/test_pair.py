"""Who answers and who edits, from what a user named."""

import json

import pytest
import tiny

from metaaligner_lite import UsageError, models, open_engine
from metaaligner_lite.errors import ModelError
from metaaligner_lite.gguf_file import base_fingerprint, read_header
from metaaligner_lite.manifest import GGUF_KEY, Manifest
from metaaligner_lite.pair import Choice, open_pair, plan
from metaaligner_lite.prompts import invocation
from metaaligner_lite.templates import ChatTemplate


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base in two quantizations, an adapter of it, and another model of the same shape."""
    folder = tmp_path_factory.mktemp("pair")
    made = {
        "base": tiny.write_model(folder / "base.gguf"),
        "other": tiny.write_model(folder / "other.gguf", seed=5, norm=1.5),
    }
    with open_engine(made["base"]) as engine:
        words = invocation("conversation", ChatTemplate(tiny.CHATML), engine.model)
    manifest = Manifest(
        kind="activated",
        layout="conversation",
        base="base",
        objectives={"empathy": "x"},
        fingerprint=base_fingerprint(read_header(made["base"])),
    )
    made["adapter"] = tiny.write_adapter(folder / "adapter.gguf", words, metaaligner__manifest=manifest.to_json())
    return made


@pytest.fixture
def installed(files, monkeypatch, tmp_path):
    """Pretend that the package with the base is installed, and that the adapter ships."""

    def install(*, base=True, adapter=True):
        package = tmp_path / "a_base_package"
        package.mkdir()
        (package / "__init__.py").touch()
        if base:
            (package / "base.gguf").write_bytes(files["base"].read_bytes())
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(models, "BASE", models.Base("Base", "a_base_package", "base", 93))
        shipped = tmp_path / "shipped"
        shipped.mkdir()
        if adapter:
            (shipped / "ours.gguf").write_bytes(files["adapter"].read_bytes())
        monkeypatch.setattr(models, "SHIPPED", shipped)
        return package / "base.gguf"

    return install


def test_nothing_named_and_nothing_installed_says_what_to_name_or_install(installed):
    installed(base=False, adapter=False)
    with pytest.raises(
        UsageError,
        match=r'no model to answer with: name a GGUF file with `policy`, or install Base with pip install "meta',
    ):
        plan(Choice())
    with pytest.raises(UsageError, match=r"there is no aligner: name one with `aligner`, or install"):
        plan(Choice(answer="Yes."))


def test_without_an_installed_aligner_the_policy_edits_itself_and_says_so(installed, files):
    installed(base=False, adapter=False)
    found = plan(Choice(policy=files["base"]))
    assert (found.policy, found.editor, found.adapter, found.shared) == (files["base"], files["base"], None, True)
    assert found.why == "base.gguf edits its own answer: no aligner is installed; name a file with `aligner`"


def test_an_aligner_that_only_lacks_its_base_says_what_brings_it(installed, files):
    installed(base=False)
    found = plan(Choice(policy=files["other"]))
    assert (found.editor, found.adapter, found.shared) == (files["other"], None, True)
    assert 'one comes with pip install "metaaligner-lite[base]" (93 MB), or name a file with `aligner`' in found.why


def test_the_shipped_adapter_shares_the_policy_where_it_is_its_base(installed, files):
    own = installed()
    shared = plan(Choice(policy=files["base"]))
    assert (shared.shared, shared.editor, shared.adapter.stem) == (True, files["base"], "ours")
    beside = plan(Choice(policy=files["other"]))
    assert (beside.shared, beside.policy, beside.editor, beside.adapter.stem) == (False, files["other"], own, "ours")
    given = plan(Choice(answer="Yes."))
    assert (given.policy, given.shared, given.editor) == (None, False, own)
    default = plan(Choice())
    assert (default.policy, default.shared) == (own, True)


def test_a_merged_aligner_is_not_its_base(installed, files, tmp_path):
    own = installed()
    merged = tiny.write_model(tmp_path / "m.gguf", metadata={GGUF_KEY: Manifest(layout="conversation").to_json()})
    assert base_fingerprint(read_header(merged)) == base_fingerprint(read_header(files["base"]))
    found = plan(Choice(policy=merged))
    assert (found.shared, found.policy, found.editor, found.adapter.stem) == (False, merged, own, "ours")


def test_a_named_adapter_finds_its_base(installed, files):
    own = installed(adapter=False)
    over_policy = plan(Choice(policy=files["base"], adapter=files["adapter"]))
    assert (over_policy.shared, over_policy.editor) == (True, files["base"])
    beside = plan(Choice(policy=files["other"], adapter=files["adapter"]))
    assert (beside.shared, beside.editor) == (False, own)
    named = plan(Choice(policy=files["other"], aligner=files["base"], adapter=files["adapter"]))
    assert (named.shared, named.editor, named.adapter) == (False, files["base"], files["adapter"])


def test_an_adapter_over_another_base_is_refused_unless_forced(files):
    with pytest.raises(ModelError, match=r"adapter.gguf was trained on base, and other.gguf is another model.*`force`"):
        open_engine(files["other"], adapter=files["adapter"])
    open_engine(files["other"], adapter=files["adapter"], force=True).close()
    open_engine(files["base"], adapter=files["adapter"]).close()


def test_quantizations_of_one_base_are_one_base(files, tmp_path):
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    quantized = tiny.write_model(tmp_path / "q8.gguf", quantization=kind)
    prints = {base_fingerprint(read_header(path)) for path in (files["base"], quantized)}
    assert len(prints) == 1
    assert base_fingerprint(read_header(files["other"])) not in prints


def test_an_opened_pair_says_who_edits(installed, files):
    installed(base=False, adapter=False)
    told = []
    with open_pair(Choice(policy=files["base"], max_tokens=8), say=told.append) as pair:
        assert pair.policy.engine is pair.aligner.engine
        assert pair.aligner.layout == "conversation"
    assert "edits its own answer" in told[0]


@pytest.mark.parametrize("aligner", [None, "self"])
def test_a_converted_base_edits_itself_too(installed, tmp_path, aligner):
    """Its manifest tells of the conversion, and of no layout."""
    installed(base=False, adapter=False)
    path = tiny.write_model(tmp_path / "base.gguf", metadata={GGUF_KEY: Manifest(base="base").to_json()})
    with open_pair(Choice(policy=path, aligner=aligner, max_tokens=8)) as pair:
        assert pair.aligner.layout == "conversation"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_policys_file_recommends_its_sampling(tmp_path, temperature):
    from metaaligner_lite.generation import Sampling

    path = tiny.write_model(tmp_path / "s.gguf", numbers={"general.sampling.top_k": 7, "general.sampling.top_p": 0.5})
    choice = Choice(policy=path, aligner="self", sampling=Sampling(temperature, top_p=0.9), chosen=frozenset({"top_p"}))
    with open_pair(choice) as pair:
        sampling = pair.policy.sampling
    assert (sampling.top_k, sampling.top_p) == ((7, 0.9) if temperature else (40, 0.9))


@pytest.mark.parametrize("asked", [0.0, 0.4])
def test_a_temperature_is_the_policys(tmp_path, asked):
    from metaaligner_lite.generation import Sampling

    path = tiny.write_model(tmp_path / "s.gguf")
    warm = Sampling(0.7, seed=3, dry=0.5)
    with open_pair(Choice(policy=path, aligner="self", sampling=warm, edit_temperature=asked)) as pair:
        assert (pair.policy.sampling, pair.aligner.sampling) == (warm, Sampling(asked, seed=3, dry=0.5))


def test_info_shows_what_the_file_recommends(tmp_path, capsys):
    from metaaligner_lite.describe import describe

    path = tiny.write_model(tmp_path / "s.gguf", numbers={"general.sampling.temp": 0.6, "general.sampling.top_k": -3})
    assert describe(path, 64)["sampling"] == {"temperature": 0.6}
    json.dumps(describe(path, 64))
