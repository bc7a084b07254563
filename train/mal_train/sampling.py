"""Many texts at once, written with torch: what a GPU does in minutes and the runtime, one answer at a time, in hours.

The weights of an activated adapter are added to a second copy of the base: the beginning is read by the base, its keys
and values are given to the copy, which reads the request and writes. That is what PEFT and the runtime compute
(tests/test_best_of.py compares greedy texts with PEFT's), without PEFT's way through every layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaaligner_lite.errors import FileProblem, ModelError

from .packed import obstacle
from .recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids: `begin` is read by the base, `request` with the adapter; at most `limit` tokens are written."""

    begin: tuple[int, ...]
    request: tuple[int, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Written:
    """Token ids without the end; `likelihood` is their mean log probability (at temperature 1, the end counted)."""

    ids: tuple[int, ...]
    likelihood: float
    ended: bool


class Sampler:
    """A base and, if `adapter` names a PEFT folder, the same with the adapter's weights added."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if (base / "config.json").is_file() and (reason := obstacle(base, Recipe())):
            raise ModelError(f"{base} cannot write many texts at once: {reason}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError) as error:
            raise FileProblem(f"cannot open the base model {base}: {str(error).splitlines()[0]}") from error
        added = model if adapter is None else _added(model, adapter)  # before the base is rounded
        self.base, self.writer = (one.to(self.device, dtype).eval() for one in (model, added))

    def write(
        self,
        prompts: Sequence[Prompt],
        ends: Sequence[int],
        *,
        copies: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        tokens: int = 600_000,
    ) -> list[list[Written]]:
        """`copies` texts for each prompt, each up to one of the tokens `ends`; greedy at temperature 0.

        Prompts of like length go together; `tokens` bounds what a batch holds in its cache, as memory does.
        """
        import torch

        tokens = min(tokens, self._room())
        chance = torch.Generator(self.device).manual_seed(seed)
        found: list[list[Written]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: _size(prompts[i]))
        while order:
            most = max(1, tokens // (copies * _size(prompts[order[-1]])))
            some, order = order[-most:], order[:-most]
            with torch.inference_mode():
                texts = self._batch([prompts[i] for i in some], ends, copies, temperature, chance)
            for place, i in enumerate(some):
                found[i] = texts[place * copies : (place + 1) * copies]
        return found

    def _room(self) -> int:
        """How many tokens' keys and values a quarter of a GPU's memory holds, or 4 GB of a computer's."""
        import torch

        memory = torch.cuda.get_device_properties(self.device).total_memory // 4 if self.device.type == "cuda" else 4e9
        layers = self.base.model.layers
        one = layers[0].self_attn.k_proj.weight
        return int(memory // (2 * len(layers) * one.shape[0] * one.element_size()))

    def _batch(
        self,
        prompts: Sequence[Prompt],
        ends: Sequence[int],
        copies: int,
        temperature: float,
        chance: torch.Generator,
    ) -> list[Written]:
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        begins, mask = self._padded([p.begin for p in prompts])
        if begins.shape[1]:
            self.base.model(
                input_ids=begins, attention_mask=mask, position_ids=_places(mask), past_key_values=cache, use_cache=True
            )
        requests, own = self._padded([p.request for p in prompts])
        mask = torch.cat([mask, own], dim=1)
        places = _places(mask)[:, -requests.shape[1] :]
        logits = self.writer(
            input_ids=requests,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        limits = torch.tensor([p.limit for p in prompts for _ in range(copies)], device=self.device)
        step = _Step(self.writer, cache, mask, places[:, -1], copies, int(limits.max()))
        del cache
        return _decode(step, logits.repeat_interleave(copies, 0), limits, ends, temperature, chance)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded on the left: (rows, longest)."""
        import torch

        longest = max(map(len, rows))
        ids = [[0] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        whole: Any = {"dtype": torch.long, "device": self.device}  # numbers, even where there are none
        return torch.tensor(ids, **whole), torch.tensor(mask, **whole)


class _Step:
    """The writer's next token for a batch, over keys and values whose place is made beforehand.

    By hand, since in a step of the library's a GPU mostly waits for the next call. Llama, Mistral, Qwen 2 and 3.
    """

    def __init__(self, model: Any, cache: Any, mask: Tensor, place: Tensor, copies: int, longest: int) -> None:
        import torch

        self.model, self.place = model.model, place.repeat_interleave(copies, 0)
        self.head, self.layers = model.lm_head.weight, [_Weights(layer) for layer in model.model.layers]
        self.at = mask.shape[1]
        self.blind = torch.zeros(len(self.place), 1, 1, self.at + longest, device=mask.device, dtype=self.head.dtype)
        self.blind[:, 0, 0, : self.at].masked_fill_(mask.repeat_interleave(copies, 0) == 0, float("-inf"))
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for layer in cache.layers:
            for held, whole in ((self.keys, layer.keys), (self.values, layer.values)):
                room = whole.new_empty(len(self.place), whole.shape[1], self.at + longest, whole.shape[3])
                room[:, :, : self.at] = whole.repeat_interleave(copies, 0)
                held.append(room)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the texts."""
        self.place, self.blind = self.place[rows], self.blind[rows]
        for held in (self.keys, self.values):
            for i, room in enumerate(held):
                held[i] = room[rows]

    def __call__(self, token: Tensor) -> Tensor:
        """The logits behind one more token of each text."""
        import torch
        from torch.nn import functional

        self.place = self.place + 1
        x = self.model.embed_tokens(token)
        cos, sin = self.model.rotary_emb(x[:, None], self.place[:, None])
        end = self.at + 1
        for w, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            rows, heads, width = len(x), keys.shape[1], keys.shape[3]
            joined = functional.linear(_normal(w.before, x), *w.qkv).view(rows, -1, width)
            q, k, v = torch.split(joined, [joined.shape[1] - 2 * heads, heads, heads], 1)
            q, k = (_turned(_normal(norm, part), cos, sin) for norm, part in ((w.q_norm, q), (w.k_norm, k)))
            keys[:, :, self.at], values[:, :, self.at] = k, v
            scores = (q.view(rows, heads, -1, width) * width**-0.5) @ keys[:, :, :end].transpose(2, 3)
            shares = (scores + self.blind[..., :end]).float().softmax(-1).to(x.dtype)
            x = x + w.out((shares @ values[:, :, :end]).reshape(rows, -1))
            gate, up = functional.linear(_normal(w.between, x), *w.gate_up).chunk(2, -1)
            x = x + w.down(functional.silu(gate) * up)
        self.at = end
        return functional.linear(_normal(self.model.norm, x), self.head)


class _Weights:
    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv, self.gate_up = _joined(parts), _joined((mlp.gate_proj, mlp.up_proj))
        self.out, self.down = attention.o_proj, mlp.down_proj
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)


def _joined(parts: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of modules with one input."""
    import torch

    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return torch.cat([part.weight for part in parts]), bias


def _normal(norm: Any, x: Tensor) -> Tensor:
    from torch.nn import functional

    return x if norm is None else functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    import torch

    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _decode(
    step: _Step, logits: Tensor, limits: Tensor, ends: Sequence[int], temperature: float, chance: torch.Generator
) -> list[Written]:
    import torch

    stops = torch.tensor(list(ends), device=limits.device)
    count, longest = len(limits), int(limits.max())
    texts = torch.full((count, longest), -1, dtype=torch.long, device=limits.device)
    gained = torch.zeros(count, device=limits.device)
    rows = torch.arange(count, device=limits.device)  # whose they are, and which of them go on
    going = torch.ones(count, dtype=torch.bool, device=limits.device)
    for number in range(longest):
        scores = logits.float().log_softmax(-1)
        if temperature:
            token = torch.multinomial((scores / temperature).softmax(-1), 1, generator=chance)[:, 0]
        else:
            token = scores.argmax(-1)
        texts[rows[going], number] = token[going]
        gained[rows] += scores.gather(1, token[:, None])[:, 0] * going
        going = going & ~torch.isin(token, stops) & (number + 1 < limits[rows])
        left = int(going.sum())
        if not left:
            break
        if left < 0.8 * len(rows):  # keys and values are copied for it: now and then
            kept = going.nonzero()[:, 0]
            step.keep(kept)
            token, rows, going = token[kept], rows[kept], going[kept]
        logits = step(token)
    return _written(texts.tolist(), gained.tolist(), set(ends))


def _written(texts: Sequence[Sequence[int]], gained: Sequence[float], ends: set[int]) -> list[Written]:
    found = []
    for text, total in zip(texts, gained, strict=True):
        end = next((i for i, token in enumerate(text) if token in ends or token < 0), len(text))
        ended = end < len(text) and text[end] in ends
        found.append(Written(tuple(text[:end]), total / max(1, end + ended), ended))
    return found


def _size(prompt: Prompt) -> int:
    return len(prompt.begin) + len(prompt.request) + prompt.limit


def _places(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _added(model: Any, adapter: Path) -> Any:
    """A copy of the model with the adapter's weights in it."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    config.alora_invocation_tokens = None  # with any PEFT does not merge; all that this copy reads is behind them
    merged = PeftModel.from_pretrained(copy.deepcopy(model), adapter, config=config).merge_and_unload()
    if any(not math.isfinite(float(p.float().sum())) for p in merged.parameters()):
        raise FileProblem(f"{adapter} holds numbers that are none")
    return merged
