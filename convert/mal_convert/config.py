"""A model's config.json with its defaults filled in, every value checked for its kind before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from metaaligner_lite.errors import FileProblem, ModelError

# What may stand beside the rotary settings' own object, and may not say anything else than it.
_BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
# Every key of a rotary setting that is either computed here or changes nothing.
_ROPE_KEYS = {
    *_BESIDE,
    *("rope_type", "type", "factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor"),
    *("high_freq_factor", "long_factor", "short_factor", "finetuned", "max_position_embeddings"),
}
_ALIASES = {"su": "longrope", "mrope": "default", None: "default"}
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
        kinds of layers, `sliding_theta`. Raises ModelError if two of the places that may hold one disagree.
        """
        self._check_rope()
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

    def _check_rope(self) -> None:
        """Raise ModelError if rope_parameters, rope_scaling and the keys beside them contradict each other."""
        said: dict[str, dict[str, Any]] = {}  # key -> place -> value
        for place in ("rope_parameters", "rope_scaling"):
            found = self.raw.get(place)
            if not isinstance(found, Mapping) or not found:
                continue
            full = found.get("full_attention", found)
            for key, value in (full if isinstance(full, Mapping) else {}).items():
                if key in ("type", "rope_type"):
                    said.setdefault("rope_type", {})[f"{place}.{key}"] = _ALIASES.get(_text(value), _text(value))
                elif value is not None:
                    said.setdefault(key, {})[f"{place}.{key}"] = value
            said.setdefault("rope_type", {}).setdefault(f"{place}.rope_type", _type_of(full))
            sliding = found.get("sliding_attention")
            if isinstance(sliding, Mapping) and sliding.get("rope_theta") is not None:
                said.setdefault("sliding", {})[f"{place}.sliding_attention.rope_theta"] = sliding["rope_theta"]
        for key, place in (*((key, key) for key in _BESIDE), ("sliding", "rope_local_base_freq")):
            if self.raw.get(place) is not None and key in said:
                said[key][place] = self.raw[place]
        for places in said.values():
            (one, value), *others = places.items()
            if differing := [(other, found) for other, found in others if found != value]:
                other, found = differing[0]
                raise ModelError(
                    f"config.json contradicts itself: {one} is {str(value)[:40]}, {other} is {str(found)[:40]}; "
                    "keep the one that the model was trained with"
                )
        if said.get("rope_type") and set(said["rope_type"].values()) != {"default"}:
            for key, places in said.items():
                harmless = key in _ROPE_KEYS or key == "sliding" or (key == "truncate" and all(places.values()))
                if not harmless and (used := [place for place, value in places.items() if value not in (False, "")]):
                    raise ModelError(f"config.json: the rope setting {used[0]} is not known here; update the program")

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


def _text(value: object) -> str | None:
    return None if value is None else str(value).lower()


def _type_of(rope: object) -> str | None:
    found = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else None
    return _ALIASES.get(_text(found), _text(found))
