"""A model's config.json with its defaults filled in, every value checked for its kind before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from metaaligner_lite.errors import FileProblem

_LARGEST = 1 << 31
_MOST_LAYERS = 1024


@dataclass(frozen=True)
class Config:
    """The values of config.json; `defaults` are the architecture's own for what the file leaves out.

    Every getter raises FileProblem, naming the key, if a value is absent without a default or of the wrong kind.
    """

    raw: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def value(self, key: str) -> Any:
        """The value as it stands; None if neither file nor defaults have one."""
        found = self.raw.get(key)
        return self.defaults.get(key) if found is None else found

    def integer(self, key: str) -> int:
        """A count or size from 1 on."""
        found = self.value(key)
        if type(found) is not int or not 1 <= found < _LARGEST:
            raise self._wrong(key, found, "a whole number from 1 on")
        return found

    def real(self, key: str) -> float:
        """A finite number."""
        found = self.value(key)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self._wrong(key, found, "a number")
        return float(found)

    def flag(self, key: str) -> bool:
        """True or false; false if absent."""
        found = self.value(key)
        if found is not None and not isinstance(found, bool):
            raise self._wrong(key, found, "true or false")
        return bool(found)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.integer("hidden_size")

    @property
    def layers(self) -> int:
        """How many transformer blocks."""
        if (found := self.integer("num_hidden_layers")) > _MOST_LAYERS:
            raise self._wrong("num_hidden_layers", found, f"at most {_MOST_LAYERS}")
        return found

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.integer("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """Key and value heads; as many as query heads if the file does not say."""
        return self.heads if self.value("num_key_value_heads") is None else self.integer("num_key_value_heads")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        if self.value("head_dim") is not None:
            return self.integer("head_dim")
        if self.hidden % self.heads:
            raise self._wrong("hidden_size", self.hidden, f"a multiple of num_attention_heads = {self.heads}")
        return self.hidden // self.heads

    @property
    def rotary_dim(self) -> int:
        """How many numbers of a head are rotated."""
        share = self.rope_config().real("partial_rotary_factor")
        return int(share * self.head_dim * self.heads) // self.heads

    @cached_property
    def rope(self) -> dict[str, Any]:
        """Rotary settings of full-attention layers in one form, whichever generation of transformers wrote them.

        Keys as in transformers 5 (rope_parameters): rope_theta, rope_type, factor, ... and, for models with two
        kinds of layers, `sliding_theta`.
        """
        found = self.value("rope_parameters") or self.value("rope_scaling") or {}
        if not isinstance(found, Mapping):
            raise self._wrong("rope_parameters", found, "an object")
        full = found.get("full_attention", found)
        sliding = found.get("sliding_attention") or {}
        if not isinstance(full, Mapping) or not isinstance(sliding, Mapping):
            raise self._wrong("rope_parameters", found, "an object of objects")
        rope = {"rope_type": full.get("type", "default"), "rope_theta": self.value("rope_theta"), **full}
        if str(rope["rope_type"]).lower() == "su":
            rope["rope_type"] = "longrope"
        for key in ("partial_rotary_factor", "original_max_position_embeddings"):
            if rope.get(key) is None and self.value(key) is not None:
                rope[key] = self.value(key)
        rope["sliding_theta"] = sliding.get("rope_theta", self.value("rope_local_base_freq"))
        return {key: value for key, value in rope.items() if value is not None}

    def reals(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty if absent."""
        found = self.value(key)
        if found is None:
            return ()
        if not isinstance(found, list) or not all(type(n) in (int, float) and math.isfinite(n) for n in found):
            raise self._wrong(key, found, "a list of numbers")
        return tuple(float(n) for n in found)

    def rope_config(self) -> Config:
        """The rotary settings behind the same checking getters."""
        return Config(self.rope, {"rope_theta": 10000.0, "partial_rotary_factor": 1.0})

    def _wrong(self, key: str, found: object, expected: str) -> FileProblem:
        what = "nothing" if found is None else repr(found)[:60]
        return FileProblem(f"config.json: {key} is {what}, expected {expected}; take it from the original model")
