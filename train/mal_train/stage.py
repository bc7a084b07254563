"""One training step of the paper as one run of transformers' Trainer: planned batches, evaluation, checkpoints."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import ModelError
from metaaligner_lite.files import write_whole

from . import distributed
from .collate import Plan, collate
from .encode import IGNORED, Encoded
from .lora import cuda, peak_memory
from .packed import pack, pack_plan
from .progress import Progress
from .recipe import Recipe, Stage
from .watch import Watch

_DONE = "done.json"
_WEIGHTS = "adapter.safetensors"
_BEST = "best.safetensors"
_COMPLETE = "complete"  # an empty file in a checkpoint that is whole


@dataclass(frozen=True, slots=True)
class Work:
    """One stage made ready: edits as token ids, the order to read them in, and those held out."""

    name: str
    stage: Stage
    edits: Sequence[Encoded]
    order: Plan
    held_out: Sequence[Encoded] = ()
    packed: bool = False  # read by llama_pass, what edits share once


@dataclass(frozen=True, slots=True)
class Curve:
    """A value and the optimizer steps at which it was taken."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def first_tenth(self) -> float:
        """The mean of the first tenth of the values; one alone says little."""
        return _mean(self.values[: max(1, len(self.values) // 10)])

    @property
    def last_tenth(self) -> float:
        """The mean of the last tenth of the values."""
        return _mean(self.values[-max(1, len(self.values) // 10) :])


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage did: its curves, and what it took over how many tokens."""

    name: str
    steps: int
    tokens: int
    edits: int  # read, each as often as it was
    memory: int  # bytes, the most so far: of the accelerator if there is one, else of the first process
    seconds: float
    evaluating: float  # seconds of them that went into evaluations
    loss: Curve
    accuracy: Curve  # share of the edits' tokens foretold right, in training as below
    held_out_loss: Curve
    held_out_accuracy: Curve

    @property
    def speed(self) -> float:
        """Tokens per second of training."""
        return self.tokens / max(1e-9, self.seconds - self.evaluating)

    @property
    def edits_per_second(self) -> float:
        """Edits per second of training."""
        return self.edits / max(1e-9, self.seconds - self.evaluating)

    @property
    def best(self) -> int | None:
        """The index of the evaluation with the lowest loss, if there was any."""
        values = self.held_out_loss.values
        return min(range(len(values)), key=values.__getitem__) if values else None


def train_stage(
    model: Any, work: Work, recipe: Recipe, pad: int, minutes: float, folder: Path, progress: Progress, later: int = 0
) -> StageResult:
    """Train the adapter of `model`, in place, on one stage; go on where `folder` says an earlier run stopped.

    With `minutes`, the rate follows the clock or the plan, whichever is further on, and either ends the stage.
    With edits held out, the adapter is left as it was at its best evaluation. `later`: tokens of the stages to come.
    """
    if finished := _read_result(folder):
        _load(model, folder / _WEIGHTS)
        progress.say(f"{work.name}: already done, {finished.steps} steps")
        return finished
    per_step = recipe.training.accumulate * distributed.world()
    watch = Watch(work.name, work.order, per_step, minutes, recipe.training, progress, later)
    with _reading(model, work, recipe):
        return _train(model, work, recipe, pad, folder, watch)


def _train(model: Any, work: Work, recipe: Recipe, pad: int, folder: Path, watch: Watch) -> StageResult:
    progress = watch.progress
    trainer = _trainer(model, work, recipe, pad, folder, watch)
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        watch.went_on(history["log_history"])
        progress.say(f"{work.name}: going on from step {history['global_step']}")
    watch.begin()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if work.held_out:
        trainer.evaluate()
    result = _result(work, trainer.state, watch)
    if result.best is not None and (folder / _BEST).exists() and result.best < len(result.held_out_loss.values) - 1:
        _load(model, folder / _BEST)
        progress.say(f"{work.name}: kept the adapter of step {result.held_out_loss.steps[result.best]}, the best one")
    if distributed.is_main():
        _save(model, folder / _WEIGHTS)
        write_whole(folder / _DONE, json.dumps(asdict(result)))
    distributed.wait()
    return result


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end, by every process."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _trainer(model: Any, work: Work, recipe: Recipe, pad: int, folder: Path, watch: Watch) -> Any:
    from transformers import TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    training = recipe.training
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=watch.steps,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=work.stage.lr,
        optim=training.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bfloat16",
        fp16=training.precision == "float16",
        use_cpu=not cuda(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=_log_every(watch.steps) if cuda() else 1,  # reading the loss makes a GPU wait
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback decides
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=cuda(),
        accelerator_config={"even_batches": False},  # the plan is even already
        ddp_find_unused_parameters=False,
    )
    # Else transformers splits every batch among the GPUs it sees, by nn.DataParallel, and which columns of logits
    # to keep with it. Several GPUs are several processes here.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = _trainer_class()(
        model=model,
        args=arguments,
        train_dataset=list(work.edits),
        eval_dataset=list(work.held_out) or None,
        data_collator=_packed if work.packed else partial(collate, pad=pad),
        callbacks=[_callback(work, recipe, folder, watch)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.watch, trainer.order, trainer.batch_tokens = watch, work.order, training.batch_tokens
    return trainer


def _packed(edits: Sequence[Encoded]) -> dict[str, Any]:
    """A packed batch as the Trainer takes it: it counts labels by itself."""
    batch = pack(edits)
    return {"packed": batch, "labels": batch.labels}


@contextmanager
def _reading(model: Any, work: Work, recipe: Recipe) -> Iterator[None]:
    """Let the model's forward be the pass over packed batches, for a while."""
    if not work.packed:
        yield
        return
    import torch

    from .llama_pass import Pass

    precision = getattr(torch, recipe.training.precision)
    # As forward, so that what wraps a model in several processes wraps this.
    model.forward = Pass(model, precision, recipe.training.gradient_checkpointing)
    try:
        yield
    finally:
        del model.forward


def _log_every(steps: int) -> int:
    """Steps between two readings of the loss: twenty readings of a short stage, one in ten steps of a long one."""
    return min(10, max(1, steps // 20))


def _callback(work: Work, recipe: Recipe, folder: Path, watch: Watch) -> Any:
    """What happens between optimizer steps."""
    from transformers import TrainerCallback

    training = recipe.training

    class Between(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 0 and not any(
                p.grad is not None and (p.grad != 0).any() for p in model.parameters() if p.requires_grad
            ):
                raise ModelError(
                    "no gradient reaches the adapter: it would learn nothing. Without gradient checkpointing this is "
                    "a fault of the model's code in transformers; with it, try training.gradient_checkpointing = false"
                )

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            loss = (logs or {}).get("loss")
            for name, value in (("loss", loss), ("held-out loss", (logs or {}).get("eval_loss"))):
                if value is not None and not math.isfinite(value):
                    raise ModelError(
                        f"the {name} is {value} at step {state.global_step} of {work.name}; lower "
                        f"stages.{work.name}.lr ({work.stage.lr:g}) or compute in another training.precision "
                        f"({training.precision})"
                    )
            if loss is not None and state.is_world_process_zero:
                watch.tell(state.global_step, loss)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            watch.tick(state.global_step)
            control.should_training_stop |= watch.over
            control.should_save = watch.checkpoint_due and not watch.over
            control.should_evaluate = bool(work.held_out) and watch.evaluation_due and not watch.over
            # What may be the last step is read in any case, and what a resumed run goes on from.
            last = watch.over or state.global_step >= watch.steps
            control.should_log |= last or control.should_save or control.should_evaluate
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            distributed.wait()
            if state.is_world_process_zero:
                (folder / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
            losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
            accuracy = state.log_history[-1]["eval_accuracy"]
            watch.progress.say(f"{work.name}: held-out loss {losses[-1]:.3f}, token accuracy {accuracy:.1%}")
            if losses[-1] <= min(losses) and state.is_world_process_zero:
                _save(model, folder / _BEST)
            since = len(losses) - 1 - losses.index(min(losses))
            if training.patience and since >= training.patience:
                control.should_training_stop = True
            return control

    return Between()


def _trainer_class() -> Any:
    """transformers' Trainer, reading planned batches, following our rate, and scoring edits alone."""
    import torch
    from transformers import Trainer

    class EditTrainer(Trainer):  # type: ignore[misc]
        watch: Watch
        order: Plan
        batch_tokens: int
        lr_scheduler: Any
        control: Any

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.model_accepts_loss_kwargs = True  # compute_loss takes num_items_in_batch: exact means per token
            forward = inspect.signature(self.model.get_base_model().forward)
            self.selects = "logits_to_keep" in forward.parameters
            self.counted: Any = 0  # edits' tokens foretold right, and all of them, since the last log

        def get_train_dataloader(self) -> Any:
            return self._loader(self.train_dataset, self.order)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.watch.rate)
            return self.lr_scheduler

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                right, known = distributed.add(self.counted).tolist()
                self.counted = 0
                logs = logs | {"accuracy": right / max(1.0, known)}
            super().log(logs | {"seconds": self.watch.now, "evaluating": self.watch.evaluating}, start_time)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            summed, counts = self._read(model, inputs)
            self.counted = self.counted + counts
            loss = summed / (counts[1] if num_items_in_batch is None else num_items_in_batch)
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes  # data parallelism takes the mean of their gradients
            return (loss, {}) if return_outputs else loss

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            """Loss and token accuracy over the held-out edits, each token counting once."""
            begin = time.monotonic()
            order: Any = _in_turn([len(edit) for edit in self.eval_dataset], self.batch_tokens)
            if self.data_collator is _packed:
                order = pack_plan([self.eval_dataset], 1, self.batch_tokens, 0, 1)
            model = self.accelerator.unwrap_model(self.model)
            model.eval()
            sums = torch.zeros(3, dtype=torch.float64, device="cpu")
            with torch.no_grad(), self.compute_loss_context_manager():
                for batch in self._loader(self.eval_dataset, order):
                    summed, counts = self._read(model, batch)
                    sums += torch.cat([summed[None].double(), counts.double()]).cpu()
            total = distributed.add(sums)
            loss, right_share = (total[:2] / total[2]).tolist()
            metrics = {"eval_loss": loss, "eval_accuracy": right_share}
            self.watch.evaluating += time.monotonic() - begin
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _loader(self, edits: Any, order: Any) -> Any:
            return self.accelerator.prepare(
                torch.utils.data.DataLoader(edits, batch_sampler=order, collate_fn=self.data_collator)
            )

        def _read(self, model: Any, inputs: Any) -> tuple[Any, Any]:
            """The summed loss of a batch, and its [tokens foretold right, tokens]."""
            if "packed" in inputs:
                found: tuple[Any, Any] = model(inputs["packed"])
                return found
            logits, labels = self._edit_logits(model, inputs)
            return _summed_loss(logits, labels), _counts(logits, labels)

        def _edit_logits(self, model: Any, inputs: Any) -> tuple[Any, Any]:
            """Logits and labels of the columns in which some edit has a token: the prompt's would be thrown away."""
            labels = inputs["labels"]
            first = int((labels != IGNORED).any(0).nonzero()[0])
            columns = torch.arange(first - 1, labels.shape[1] - 1, device=labels.device)
            kept = {"logits_to_keep": columns} if self.selects else {}
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **kept).logits
            return logits if self.selects else logits[:, columns], labels[:, first:]

    def _counts(logits: Any, labels: Any) -> Any:
        known = labels != IGNORED
        right = (logits.detach().argmax(-1) == labels) & known
        return torch.stack([right.sum(), known.sum()])

    def _summed_loss(logits: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    return EditTrainer


def _in_turn(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches for evaluation: sorted by length, every edit once."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[i] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _result(work: Work, state: Any, watch: Watch) -> StageResult:
    def curve(key: str) -> Curve:
        entries = [entry for entry in state.log_history if key in entry]
        return Curve(tuple(e["step"] for e in entries), tuple(e[key] for e in entries))

    return StageResult(
        work.name,
        state.global_step,
        watch.tokens[state.global_step],
        watch.edits[state.global_step],
        peak_memory(),
        watch.elapsed(),
        watch.evaluating,
        curve("loss"),
        curve("accuracy"),
        curve("eval_loss"),
        curve("eval_accuracy"),
    )


def _read_result(folder: Path) -> StageResult | None:
    try:
        raw = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    curves = {
        key: Curve(tuple(raw[key]["steps"]), tuple(raw[key]["values"]))
        for key in ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
    }
    return StageResult(**({"edits": 0, "memory": 0} | raw | curves))  # of a run begun before these were counted


def _save(model: Any, path: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(model).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def _load(model: Any, path: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(path))
