"""The engine: one model with its KV cache. Prompt in, text out; the cache stays for the next prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..errors import ModelError, PromptTooLong
from ..prompts import Prompt, encode_request
from .context import Context
from .decode import GREEDY, Generation, OnText, Sampling, generate
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
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        expected: int = 64,
        usual: int = 512,
        sampling: Sampling = GREEDY,
        on_text: OnText | None = None,
        copies: Sequence[str] = (),
        adapted: bool = False,
    ) -> Generation:
        """Write a continuation of `prompt`.

        At most `max_tokens`; if None, `usual` tokens or what the context has left, but there must be room for
        `expected` ones. `copies` are texts that it will probably repeat in parts: drafts are taken from them.
        `adapted` lets the adapter act from the edit request on. Raises PromptTooLong, with the numbers, before
        anything is read.
        """
        tokens, request = encode_request(prompt, self.model)
        if not tokens:
            raise ModelError("the prompt is empty")
        room = self.limit - len(tokens)
        needed = expected if max_tokens is None else max_tokens
        if room < needed:
            advice = (
                f"raise --ctx-size (the model was trained for {self.model.n_ctx_train:,})"
                if self.limit < self.model.n_ctx_train
                else "shorten the text, or use a model with a longer context"
            )
            raise PromptTooLong(
                f"the prompt is {len(tokens):,} tokens and the text to write needs {needed:,} more, "
                f"but the context of {self.model.path.name} holds {self.limit:,}; {advice}"
            )
        most = min(usual, room) if max_tokens is None else max_tokens
        context = self._context_for(len(tokens) + most)
        drafter = Drafter(*map(self.model.encode_text, copies)) if copies else None
        return generate(context, tokens, most, sampling, on_text, drafter, adapted_from=request if adapted else None)

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

    def _context_for(self, size: int) -> Context:
        if self._context is None or self._context.n_ctx < size:
            if self._context is not None:
                self._context.close()
            grown = min(self.limit, -(-size // _STEP) * _STEP)
            self._context = Context(self.model, grown, threads=self._threads, adapter=self.adapter)
        return self._context


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
