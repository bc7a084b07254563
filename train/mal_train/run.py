"""The way through: rows, reformulation, three stages on one adapter, merge, manifest. Read `train` first."""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metaaligner_lite import __version__, manifest
from metaaligner_lite.errors import DataError, ModelError
from metaaligner_lite.gguf_file import GgufHeader, base_fingerprint, read_header
from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import invocation
from metaaligner_lite.records import Account

from . import distributed, estimate, gguf_base, identity, lora, report, workdir
from .collate import Plan, plan
from .encode import Encoder, encode_edits, load_tokens
from .merge import check_base, copy_base_files, merge
from .packed import obstacle, pack_plan
from .progress import Progress, Silent
from .recipe import STAGES, Recipe, Stage, load, save, settled
from .reformulate import Edit, reformulate_rows
from .reformulate import identity as copies
from .rows import Row, fingerprint, read_rows, split
from .stage import StageResult, Work, train_stage


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left behind; `merged` is None for an activated adapter, which lives beside its base."""

    out: Path
    adapter: Path
    merged: Path | None
    metrics: Mapping[str, float]
    accounts: tuple[Account, ...]
    next_command: str  # the one that makes a GGUF of it


def train(
    base: Path,
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    catalogue: Mapping[str, Objective] | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    force: bool = False,
    resume: bool = False,
    start: Path | None = None,
) -> Trained:
    """Train an aligner on the rows of `data`, from the model `base` (a folder or a GGUF file); leave it in `out`.

    `out` will hold adapter/, merged/ (unless kind = "activated"), recipe.toml and report.md. It is written beside
    and renamed at the end; an existing one is kept unless `force`. `resume` goes on with an interrupted run of the
    same recipe, data, base and objectives. The adapter begins with the weights of the adapter folder `start`, if one
    is named. Raises the children of MalError.
    """
    progress = progress if progress and distributed.is_main() else Silent()
    recipe = settled(recipe, gguf_base.is_gguf(base))
    lora.check_machine(recipe)
    lora.keep_few_primitives()
    if (gpus := distributed.gpus()) > 1 and distributed.world() == 1:
        progress.say(
            f"training on one of {gpus} GPUs; for all of them put this before the command: "
            "torchrun --nproc-per-node gpu --no-python"
        )
    if start:
        lora.check_start(start, base_fingerprint(read_header(base)) if gguf_base.is_gguf(base) else "", recipe.layout)
    sha = fingerprint(data)
    beside = workdir.begin(out, identity.identity(base, sha, recipe, catalogue, start), resume=resume, force=force)
    given, mark = base, ""
    with lora.quiet(), _explained(recipe, beside, progress):
        if gguf_base.is_gguf(base):
            header = read_header(base)
            mark = base_fingerprint(header)
            progress.say("turning the weights of the GGUF file into numbers")
            if distributed.is_main():
                gguf_base.unpack(base, beside / workdir.BASE)
            distributed.wait()
            base = beside / workdir.BASE
        # 1) Rows become edits (Algorithm 1), edits token ids, token ids batches: all before a weight is loaded.
        recipe = _effective(recipe, beside)
        rows, account = read_rows(data, catalogue, strict=strict)
        training, held_out = split(rows, recipe.data.validation, recipe.seed, recipe.data.split_by)
        tokens = load_tokens(base)
        trained = {o.name: o.description for o in _objectives(rows)}
        if recipe.kind == "merged":
            check_base(base)
        progress.say("encoding the edits")
        begins = invocation(recipe.layout, tokens.template, tokens) if recipe.kind == "activated" else None
        encoder = Encoder(tokens, recipe.layout, recipe.data, begins, strict, trained)
        packed = begins is not None
        if packed and (why := obstacle(base, recipe)):
            packed = False
            progress.say(f"{why}: the whole prompt is read with gradients, which takes longer")
        edits, checks = Account(noun="edits"), Account(noun="held-out edits")
        prepared = [_prepare(name, training, held_out, encoder, recipe, edits, checks, packed) for name in STAGES]
        works = [work for work in prepared if isinstance(work, Work)]
        skipped = [reason for reason in prepared if isinstance(reason, str)]
        if mark:
            skipped.append(f"base: the numbers of {given.name}, whose tensors are {_kinds(header)}")
        if start:
            skipped.append(f"start: the adapter {start}, files {identity.folder_hash(start)[:16]}")
        accounts = (account, edits, checks) if held_out else (account, edits)
        lines = [line for one in accounts for line in one.lines()] + skipped
        for line in lines:
            progress.say(line)
        if not works:
            raise DataError(f"{data}: nothing to train on. {'; '.join(lines)}")

        # 2) The paper's three steps, one after another on the same adapter.
        estimate.check(base, recipe, progress)
        model = lora.attach(lora.open_base(base, recipe), recipe, begins, start)
        weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        progress.say(f"training {weights:,} weights in {recipe.training.precision}")
        results = [
            train_stage(model, work, recipe, tokens.pad, minutes, beside / "stages" / work.name, progress, later)
            for work, minutes, later in zip(works, _minutes(works, recipe.training.minutes), _later(works), strict=True)
        ]

        # 3) Adapter, merged model, manifest, report.
        made = manifest.Manifest(
            kind=recipe.kind,
            layout=recipe.layout,
            objectives=trained,
            base=given.resolve().name,
            fingerprint=mark,
            data=sha,
            recipe=recipe.to_dict(),
            metrics=_metrics(results),
            made_by=f"metaaligner-lite {__version__}",
        )
        if distributed.is_main():
            shutil.rmtree(beside / "adapter", ignore_errors=True)  # of a run that was killed while it wrote them
            shutil.rmtree(beside / "merged", ignore_errors=True)
            model.peft_config["default"].base_model_name_or_path = str(given)
            model.save_pretrained(beside / "adapter")
            del model
            _finish(base, beside, made, results, [*accounts, *skipped], progress)
            workdir.finish(beside, out)
        # The others do not wait: merging a large base can take longer than a process group's patience.
    merged = out / "merged" if recipe.kind == "merged" else None
    command = ["mal", "convert", str(merged or out / "adapter")]
    command += ["--q4_k_m"] if merged else ["--base", str(given), "--adapter-only"]
    return Trained(out, out / "adapter", merged, made.metrics, accounts, shlex.join(command))


def _kinds(header: GgufHeader) -> str:
    """How a file's tensors are stored, the commonest type first, such as "Q4_1 (210), F32 (61)"."""
    return ", ".join(f"{kind} ({n})" for kind, n in Counter(t.type_name for t in header.tensors).most_common())


def _finish(
    base: Path,
    beside: Path,
    made: manifest.Manifest,
    results: Sequence[StageResult],
    told: Sequence[Account | str],
    progress: Progress,
) -> None:
    """Write all that a finished run leaves, but for the adapter's weights."""
    folders = [beside / "adapter"]
    copy_base_files(base, beside / "adapter")
    if made.kind == "merged":
        progress.say("merging the adapter into the base")
        try:
            folders.append(merge(beside / "adapter", base, beside / "merged", made.recipe["merge"]["dtype"]))
        except Exception as error:
            if lora.is_out_of_memory(error):
                raise ModelError(
                    "memory ran out while merging (training is done): the base is held in 32 bits for it; "
                    "free memory and run the same command with --resume"
                ) from error
            raise
    for folder in folders:
        manifest.write(made, folder)
        report.write_card(made, folder)
    report.write_report(made, results, told, beside)


def _effective(recipe: Recipe, beside: Path) -> Recipe:
    """The recipe with what "auto" stands for; saved, since a resumed run must compute as it began."""
    saved = beside / "recipe.toml"
    if distributed.is_main() and not saved.exists():
        training = dataclasses.replace(recipe.training, precision=lora.choose_precision(recipe.training.precision))
        save(dataclasses.replace(recipe, training=training), saved)
    distributed.wait()
    return load(saved)  # in every process: "auto" is measured, and two might measure differently


def _prepare(
    name: str,
    rows: list[Row],
    held_out: list[Row],
    encoder: Encoder,
    recipe: Recipe,
    account: Account,
    checks: Account,
    packed: bool,
) -> Work | str:
    """The edits and batches of one stage, or a sentence that says why it is skipped."""
    stage: Stage = getattr(recipe.stages, name)
    if stage.share == 0 or stage.epochs == 0:
        return f"{name}: its share or epochs are 0 in the recipe, skipped"
    multiple = recipe.training.accumulate * distributed.world()
    # A batch is full, or one long edit: so many tokens are more than a stage of limited steps can read.
    enough = stage.steps * multiple * max(recipe.training.batch_tokens, recipe.data.max_length) or math.inf
    pools = range(-int(-stage.epochs // 1) if recipe.data.redraw else 1)
    encoded = [encode_edits(_edits(name, rows, recipe, pool), encoder, account, enough) for pool in pools]
    if not any(encoded):
        maker = "a better and a worse answer" if name == "contrastive" else "two answers that are equal on an objective"
        return f"{name}: no edits for it ({maker} make one), skipped"
    if packed:
        order = pack_plan(encoded, stage.epochs, recipe.training.batch_tokens, recipe.seed, multiple)
    else:
        lengths = [[len(edit) for edit in pool] for pool in encoded]
        order = plan(lengths, stage.epochs, recipe.training.batch_tokens, recipe.seed, multiple)
    if stage.steps:
        order = Plan(order.batches[: stage.steps * multiple], order.tokens[: stage.steps * multiple])
    tests = _edits(name, held_out, recipe)[: recipe.data.validation_edits] if held_out else []
    checked = encode_edits(tests, encoder, checks)
    return Work(name, stage, [edit for pool in encoded for edit in pool], order, checked, packed)


def _edits(name: str, rows: list[Row], recipe: Recipe, epoch: int = 0) -> list[Edit]:
    """The share of an edit set that a stage trains on (paper, section 3.2)."""
    drawn = reformulate_rows(
        rows,
        recipe.seed,
        epoch=epoch,
        pairs_per_row=recipe.data.pairs_per_row,
        most_objectives=recipe.data.most_objectives,
    )
    edits = drawn.contrastive if name == "contrastive" else drawn.equal
    stage: Stage = getattr(recipe.stages, name)
    part = list(edits[: max(1, round(stage.share * len(edits)))])
    return copies(part) if name == "warmup" else part


def _minutes(works: list[Work], total: float) -> list[float]:
    """The time limit shared out by the tokens each stage reads."""
    tokens = [sum(work.order.tokens) for work in works]
    return [total * n / sum(tokens) for n in tokens]


def _later(works: list[Work]) -> list[int]:
    """The tokens that are still to be read after each stage."""
    return [sum(sum(work.order.tokens) for work in works[i + 1 :]) for i in range(len(works))]


def _metrics(results: list[StageResult]) -> dict[str, float]:
    """What the manifest says of the run; what was not measured is left out, since NaN is no JSON."""
    metrics: dict[str, float] = {}
    for result in results:
        metrics |= {
            f"{result.name}/steps": float(result.steps),
            f"{result.name}/edits": float(result.edits) if result.edits else math.nan,
            f"{result.name}/tokens/s": round(result.speed, 1),
            f"{result.name}/edits/s": round(result.edits_per_second, 3) if result.edits else math.nan,
            f"{result.name}/first_loss": round(result.loss.first_tenth, 4),
            f"{result.name}/loss": round(result.loss.last_tenth, 4),
            f"{result.name}/accuracy": round(result.accuracy.last_tenth, 4),
        }
        if result.best is not None:
            metrics[f"{result.name}/held_out_loss"] = round(result.held_out_loss.values[result.best], 4)
            metrics[f"{result.name}/held_out_accuracy"] = round(result.held_out_accuracy.values[result.best], 4)
    seconds, tokens = sum(r.seconds for r in results), sum(r.tokens for r in results)
    speed = tokens / sum(r.tokens / r.speed for r in results)
    metrics |= {"seconds": round(seconds, 1), "tokens": float(tokens), "tokens/s": round(speed, 1)}
    metrics["peak_memory_gib"] = round(max(r.memory for r in results) / 2**30, 2)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _objectives(rows: list[Row]) -> list[Objective]:
    """What the aligner was trained on; what is worded for a single row taught it to read and is not its own."""
    seen = Counter(o for row in rows for o in {o for answer in row.answers for o in (*answer.ratings, *answer.good)})
    often = max(1, len(rows) // 1000)
    return sorted([o for o, count in seen.items() if count > often] or seen, key=lambda o: o.name)


@contextmanager
def _explained(recipe: Recipe, beside: Path, progress: Progress) -> Iterator[None]:
    """Turn "out of memory" into what to change, and say of any failure whether the run can be resumed."""
    try:
        yield
    except BaseException as error:
        if workdir.abandon(beside):
            progress.say("interrupted; the same command with --resume goes on from the last checkpoint")
        if isinstance(error, Exception) and (explained := lora.explain_out_of_memory(error, recipe)):
            raise explained from error
        raise
