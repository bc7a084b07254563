"""The engine: one model with its KV cache. Prompts in, texts out; the cache stays for the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..errors import ModelError, PromptTooLong
from ..prompts import Prompt, encode_request
from .context import NEVER, Context
from .decode import GREEDY, Generation, OnText, Sampling, Task, generate
from .draft import Drafter
from .model import ALL_LAYERS, Adapter, Model, open_adapter, open_model

_STEP = 1024  # a context grows by this many tokens, so that a longer prompt seldom costs a new one


class Engine:
    """A model and its KV cache, made as large as prompts need, up to `ctx_size` (0: the model's own limit).

    With an activated `adapter`, policy and aligner take turns on the one model and the one cache.
    """

    def __init__(self, model: Model, *, ctx_size: int = 0, threads: int = 0, adapter: Adapter | None = None) -> None:
        self.model = model
        self.adapter = adapter
        self.limit = ctx_size or model.n_ctx_train
        self._threads = threads
        self._context: Context | None = None

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = None,
        expected: int = 64,
        usual: int = 512,
        sampling: Sampling = GREEDY,
        on_text: OnText | None = None,
        copies: Sequence[str] = (),
        adapted: bool = False,
    ) -> list[Generation]:
        """Write a continuation of each prompt, side by side; `on_text` gets the text of the first as it grows.

        At most `max_tokens` each; if None, `usual` tokens or what the context has left, but there must be room for
        `expected` ones. `copies` are texts that will probably be repeated in parts: drafts are taken from them.
        `adapted` lets the adapter act from the edit request on. Raises PromptTooLong, with the numbers, before
        anything is read.
        """
        sources = [self.model.encode_text(text) for text in copies]
        tasks = []
        for i, prompt in enumerate(prompts):
            tokens, request = encode_request(prompt, self.model)
            room = self._room_after(len(tokens), expected if max_tokens is None else max_tokens)
            tasks.append(
                Task(
                    tokens,
                    min(usual, room) if max_tokens is None else max_tokens,
                    sampling,
                    on_text if i == 0 else None,
                    Drafter(*sources) if sources else None,
                    request if adapted else NEVER,
                )
            )
        size = sum(len(task.prompt) + task.max_tokens for task in tasks)
        return generate(self._context_for(size, len(tasks)), tasks)

    def _room_after(self, prompt: int, needed: int) -> int:
        """Tokens left after a prompt of so many. Raises PromptTooLong if fewer than needed."""
        if prompt == 0:
            raise ModelError("the prompt is empty")
        if self.limit - prompt < needed:
            advice = (
                f"raise --ctx-size (the model was trained for {self.model.n_ctx_train:,})"
                if self.limit < self.model.n_ctx_train
                else "shorten the text, or use a model with a longer context"
            )
            raise PromptTooLong(
                f"the prompt is {prompt:,} tokens and the text to write needs {needed:,} more, "
                f"but the context of {self.model.path.name} holds {self.limit:,}; {advice}"
            )
        return self.limit - prompt

    def _context_for(self, size: int, sequences: int) -> Context:
        """The context, with room for so much; a larger one takes over what a smaller one holds."""
        old = self._context
        if old is None or old.n_ctx < size or len(old.sequences) < sequences:
            size = max(-(-size // _STEP) * _STEP, old.n_ctx if old else 0)
            sequences = max(sequences, len(old.sequences) if old else 0)
            new = Context(self.model, size, threads=self._threads, adapter=self.adapter, sequences=sequences)
            if old is not None:
                new.take_over(old)
                old.close()
            self._context = new
            return new
        return old

    def close(self) -> None:
        """Free the cache and the model."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self.model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    ctx_size: int = 0,
    threads: int = 0,
    gpu_layers: int = ALL_LAYERS,
) -> Engine:
    """Open a GGUF model for generation, with an activated adapter if one is named.

    Raises FileProblem or ModelError (see open_model, open_adapter).
    """
    model = open_model(path, gpu_layers=gpu_layers)
    try:
        opened = open_adapter(model, adapter) if adapter else None
    except BaseException:
        model.close()
        raise
    return Engine(model, ctx_size=ctx_size, threads=threads, adapter=opened)
