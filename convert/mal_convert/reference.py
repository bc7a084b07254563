"""The model computed a second time, in numpy from the source's own files, to compare llama.cpp's logits with.

It shares no code with the conversion but the reading of rows: it uses the source's tensor names, its own order of
rows and its own config, so a wrong name, permutation, constant or metadata key shows. Tests compare it with
transformers for each architecture. One tensor at a time is in memory, whatever the size of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from metaaligner_lite.errors import ModelError

from .checkpoint import F32, as_float32, row_chunks
from .config import Config
from .model import EMBEDDING, HEAD, Model


class Reference:
    """A model's forward pass over its source tensors, by their names in the source's text model.

    `rounded_to` F16 or BF16 rounds weights and what they are multiplied with, as llama.cpp does in such files; an
    adapter is then merged first.
    """

    def __init__(self, model: Model, rounded_to: str = "F32") -> None:
        self.round = _ROUNDING[rounded_to]
        self.architecture, self.config, self.tensors = model.architecture, model.config, model.tensors
        self.low_rank = model.low_rank
        self.head = EMBEDDING if model.tied else HEAD
        self.eps = np.float32(model.config.real("rms_norm_eps"))

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each of `ids`, shape (len(ids), vocabulary)."""
        x = self._embed(ids)
        for layer in range(self.config.layers):
            x = self._layer(x, layer)
        logits = self._linear(self._norm(x, "model.norm.weight"), self.head) / self._multiplier("logits_scaling")
        return self._capped(logits, "final_logit_softcapping")

    def _embed(self, ids: Sequence[int]) -> F32:
        source, rows = self.tensors[EMBEDDING], np.asarray(ids)
        x = as_float32(source.stored()[rows], source.dtype)
        if (pair := self.low_rank.get(EMBEDDING)) is not None:
            x = x + pair.added(rows)
        x = x * self._multiplier("embedding_multiplier")
        return x * np.float32(math.sqrt(self.config.hidden)) if self.architecture.scaled_embedding else x

    def _multiplier(self, key: str) -> np.float32:
        """One of Granite's multipliers; 1 for all others."""
        return np.float32(self.config.real(key) if self.architecture.multipliers else 1.0)

    def _layer(self, x: F32, layer: int) -> F32:
        at = f"model.layers.{layer}."
        shapes = self.architecture.layer
        if "input_layernorm.weight" not in shapes:  # OLMo 2: norms behind, none before
            x = x + self._norm(self._attention(x, layer), at + "post_attention_layernorm.weight")
            return x + self._norm(self._feed_forward(x, at + "mlp."), at + "post_feedforward_layernorm.weight")
        sandwich = "pre_feedforward_layernorm.weight" in shapes
        attended = self._attention(self._norm(x, at + "input_layernorm.weight"), layer)
        if sandwich:
            x = x + self._norm(attended, at + "post_attention_layernorm.weight")
            fed = self._feed_forward(self._norm(x, at + "pre_feedforward_layernorm.weight"), at + "mlp.")
            return x + self._norm(fed, at + "post_feedforward_layernorm.weight")
        share = self._multiplier("residual_multiplier")
        x = x + attended * share
        return x + self._feed_forward(self._norm(x, at + "post_attention_layernorm.weight"), at + "mlp.") * share

    def _attention(self, x: F32, layer: int) -> F32:
        config, at = self.config, f"model.layers.{layer}.self_attn."
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
        if at + "qkv_proj.weight" in self.tensors:
            joined = self._linear(x, at + "qkv_proj.weight")
            q, k, v = np.split(joined, [heads * width, (heads + kv_heads) * width], axis=1)
        else:
            q, k, v = (self._linear(x, f"{at}{part}_proj.weight") for part in "qkv")
        normed = self.architecture.layer.get("self_attn.q_norm.weight")
        if normed == ("q",):  # over all heads at once
            q, k = self._norm(q, at + "q_norm.weight"), self._norm(k, at + "k_norm.weight")
        q, k, v = (part.reshape(len(x), -1, width).swapaxes(0, 1) for part in (q, k, v))  # heads, positions, width
        if normed == ("head",):
            q, k = self._norm(q, at + "q_norm.weight"), self._norm(k, at + "k_norm.weight")
        if not self.architecture.unrotated_every or (layer + 1) % self.architecture.unrotated_every:
            cos, sin = self._rotation(len(x), layer)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        asked = config.value("query_pre_attn_scalar")
        scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(width if asked is None else asked))
        if self.architecture.multipliers:
            scores = q @ k.swapaxes(1, 2) * self._multiplier("attention_multiplier")
        scores = self._capped(scores, "attn_logit_softcapping")
        scores = np.where(self._visible(len(x), layer), scores, np.float32(-np.inf))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        return self._linear(mixed.swapaxes(0, 1).reshape(len(x), -1), at + "o_proj.weight")

    def _feed_forward(self, x: F32, at: str) -> F32:
        if self.architecture.expert and at.endswith(".mlp."):
            return self._mixture(x, at)
        if at + "gate_up_proj.weight" in self.tensors:
            gate, up = np.split(self._linear(x, at + "gate_up_proj.weight"), 2, axis=1)
        else:
            gate, up = self._linear(x, at + "gate_proj.weight"), self._linear(x, at + "up_proj.weight")
        return self._linear((_gelu(gate) if self.architecture.gelu else _silu(gate)) * up, at + "down_proj.weight")

    def _mixture(self, x: F32, at: str) -> F32:
        """Each position through the experts its router scores highest, weighted by their share; and the shared one."""
        scores = self._linear(x, at + "gate.weight")
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        chosen = np.argsort(-shares, axis=-1, kind="stable")[:, : self.config.integer("num_experts_per_tok")]
        weights = np.take_along_axis(shares, chosen, -1)
        if self.architecture.weights_add_to_one:
            weights /= weights.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for expert in np.unique(chosen):
            rows, ranks = np.nonzero(chosen == expert)
            made = self._feed_forward(x[rows], f"{at}experts.{expert}.")
            out[rows] += made * weights[rows, ranks][:, None]
        if at + "shared_expert_gate.weight" in self.tensors:
            gate = 1 / (1 + np.exp(-self._linear(x, at + "shared_expert_gate.weight")))
            out += gate * self._feed_forward(x, at + "shared_expert.")
        return out

    def _linear(self, x: F32, name: str) -> F32:
        """x @ weight.T + bias, the weight read a few rows at a time; an adapter works beside it, not merged."""
        source, pair = self.tensors[name], self.low_rank.get(name)
        if self.round is not None:
            return self._biased(self._rounded_linear(x, name, self.round), name)
        stored = source.stored()
        out = np.empty((len(x), len(stored)), np.float32)
        inner = None if pair is None else np.float32(pair.scale) * (x @ pair.right().T)
        for rows in row_chunks(*stored.shape):
            weight = as_float32(stored[rows], source.dtype)
            out[:, rows] = x @ weight.T
            if pair is not None and inner is not None:
                out[:, rows] += inner @ pair.left(rows).T
                if pair.magnitude is not None:
                    out[:, rows] *= pair.stretch(weight + pair.added(rows), rows).T
        return self._biased(out, name)

    def _rounded_linear(self, x: F32, name: str, rounded: Callable[[F32], F32]) -> F32:
        source, pair = self.tensors[name], self.low_rank.get(name)
        stored, x = source.stored(), rounded(x)
        out = np.empty((len(x), len(stored)), np.float32)
        for rows in row_chunks(*stored.shape):
            weight = as_float32(stored[rows], source.dtype)
            out[:, rows] = x @ rounded(weight if pair is None else pair.merged(weight, rows)).T
        return out

    def _biased(self, x: F32, name: str) -> F32:
        bias = self.tensors.get(name.removesuffix("weight") + "bias")
        return x if bias is None else x + as_float32(bias.stored(), bias.dtype)

    def _norm(self, x: F32, name: str) -> F32:
        source = self.tensors[name]
        weight = as_float32(source.stored()[0], source.dtype) + np.float32(self.architecture.norm_plus_one)
        result: F32 = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * weight
        return result

    def _capped(self, x: F32, key: str) -> F32:
        if self.config.value(key) is None:
            return x
        cap = np.float32(self.config.real(key))
        capped: F32 = np.tanh(x / cap) * cap
        return capped

    def _sliding(self, layer: int) -> bool:
        return (layer + 1) % self.architecture.full_attention_every != 0

    def _visible(self, length: int, layer: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        distance = np.arange(length)[:, None] - np.arange(length)
        window = self.config.integer("sliding_window") if self._sliding(layer) else length
        visible: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (distance >= 0) & (distance < window)
        return visible

    def _rotation(self, length: int, layer: int) -> tuple[F32, F32]:
        """Cosines and sines, shape (positions, rotated numbers / 2)."""
        rope = self.config.rope_config()
        local = self._sliding(layer) and rope.value("sliding_theta") is not None
        theta = rope.real("sliding_theta" if local else "rope_theta")
        size = self.config.rotary_dim
        frequencies = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
        stretch, temperature = (1.0, 1.0) if local else self._stretching(rope, frequencies, length)
        angles = np.arange(length)[:, None] * (frequencies / stretch)
        return (np.cos(angles) * temperature).astype(np.float32), (np.sin(angles) * temperature).astype(np.float32)

    def _stretching(
        self, rope: Config, frequencies: np.ndarray[tuple[int], np.dtype[np.float64]], length: int
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]] | float, float]:
        """What frequencies are divided by, and what cosines are multiplied with (transformers modeling_rope_utils)."""
        kind = str(rope.value("rope_type")).lower()
        if kind == "default":
            return 1.0, 1.0
        if kind == "longrope":
            original = rope.integer("original_max_position_embeddings")
            scale = self.config.integer("max_position_embeddings") / original
            factors = rope.reals("long_factor" if length > original else "short_factor")
            return np.asarray(factors), math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        factor = rope.real("factor")
        if kind == "linear":
            return factor, 1.0
        original = rope.integer("original_max_position_embeddings")
        if kind == "llama3":
            low, high = rope.real("low_freq_factor"), rope.real("high_freq_factor")
            turns = original * frequencies / (2 * math.pi)  # full turns over the original context
            kept = np.clip((turns - low) / (high - low), 0, 1)
            return 1 / (kept + (1 - kept) / factor), 1.0
        if kind == "yarn":
            return self._yarn(rope, frequencies, original, factor)
        raise ModelError(f"no reference for the rope scaling {kind!r}")

    def _yarn(
        self, rope: Config, frequencies: np.ndarray[tuple[int], np.dtype[np.float64]], original: int, factor: float
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
        """YaRN (Peng et al. 2023, section 3.2): fast frequencies kept, slow ones stretched, a ramp between."""
        fast = rope.real("beta_fast") if rope.value("beta_fast") is not None else 32.0
        slow = rope.real("beta_slow") if rope.value("beta_slow") is not None else 1.0
        size, theta = self.config.rotary_dim, rope.real("rope_theta")

        def index(turns: float) -> float:
            return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = max(math.floor(index(fast)), 0), min(math.ceil(index(slow)), size - 1)
        ramp = np.clip((np.arange(size // 2) - first) / max(last - first, 0.001), 0, 1)
        given = rope.value("attention_factor")
        temperature = 0.1 * math.log(factor) + 1 if given is None else rope.real("attention_factor")
        return 1 / (ramp / factor + (1 - ramp)), temperature


def _to_bfloat16(x: F32) -> F32:
    """Rounded to bfloat16, halves to even; finite numbers only."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded: F32 = ((bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


_ROUNDING: Mapping[str, Callable[[F32], F32] | None] = {
    "F32": None,
    "F16": lambda x: x.astype(np.float16).astype(np.float32),
    "BF16": _to_bfloat16,
}


def _rotate(x: F32, cos: F32, sin: F32) -> F32:
    """Turn the first half of each head's rotated numbers against the second half."""
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _silu(x: F32) -> F32:
    result: F32 = x / (1 + np.exp(-x))
    return result


def _gelu(x: F32) -> F32:
    result: F32 = 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
    return result
