"""Prefix state on disk: what one process has read, the next need not read again (`--cache DIR`).

An entry is the KV cache of one sequence, beside its tokens. It serves one model file, adapter, cache type and build of
llama.cpp; a prompt uses it as far as the tokens agree. llama.cpp trusts the states it is given, so an entry is loaded
only if this user wrote it: each is sealed with a key that stays in the user's own cache folder. Whatever is damaged,
foreign or forged is told, ignored, and written anew.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileProblem
from ..files import written_whole
from ..gguf_file import GgufHeader, sampled_digest
from ..paths import cache_dir
from .context import Cached
from .library import library_build

SUFFIX = ".malkv"
DEFAULT_LIMIT = 1_000_000_000  # bytes
_MAGIC = b"MALKV001"
_LENGTHS = struct.Struct("<QQQ")  # tokens, the position the adapter acts from, bytes of state
_SEAL = 32
_HEAD = len(_MAGIC) + 32 + _LENGTHS.size  # magic, fingerprint, lengths; then tokens, state, seal
_LEFT_BEHIND = 3600  # seconds after which an unfinished file is nobody's


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a store, as its head describes it; not to be believed before `Store.load` has checked the seal."""

    path: Path
    cached: Cached
    state_bytes: int


class Store:
    """The entries in `folder` that fit one engine; at most `limit` bytes of them are kept, the latest used.

    `fingerprint` tells engines apart (see `fingerprint`); `say` gets a line about what was ignored. The folder holds
    what was read and written: keep it as private as those texts. Raises FileProblem if it cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: bytes,
        *,
        limit: int = DEFAULT_LIMIT,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder, self._fingerprint, self._limit, self._say = folder, fingerprint, limit, say
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = _own_key()
        except OSError as error:
            raise FileProblem(f"cannot keep a cache in {folder}: {error}; name another folder with `cache`") from error

    def best(self, tokens: Sequence[int], adapted_from: int) -> tuple[Entry, int] | None:
        """The entry that agrees with most of a prompt, and with how many tokens of it; None if none does."""
        found = [(entry, entry.cached.usable(tokens, adapted_from)) for entry in self._entries()]
        best = max(found, key=lambda pair: (pair[1], -len(pair[0].cached.tokens)), default=None)
        return best if best and best[1] else None

    def load(self, entry: Entry) -> bytes | None:
        """The state of an entry; None, with a word, if it is not exactly what this user stored."""
        try:
            with entry.path.open("rb") as file:
                head = file.read(_HEAD + 4 * len(entry.cached.tokens))
                state = file.read(entry.state_bytes)
                seal = file.read(_SEAL + 1)
            if not hmac.compare_digest(seal, self._sealed(head, state)) or head != self._head(entry.cached, len(state)):
                raise ValueError("it is damaged, or not of your making")
            os.utime(entry.path)  # used: the last to be removed
        except (OSError, ValueError) as error:
            self.drop(entry, str(error))
            return None
        return state

    def save(self, cached: Cached, state: bytes) -> None:
        """Keep a sequence, unless an entry holds all of it; entries that it continues make way."""
        others = list(self._entries())
        for entry in others:
            if entry.cached.usable(cached.tokens, cached.adapted_from) == len(cached.tokens):
                return
        head = self._head(cached, len(state))
        if len(head) + len(state) + _SEAL > self._limit:
            self._say(f"not kept in {self._folder}: {len(state):,} bytes are more than `cache_bytes` allows")
            return
        name = hashlib.sha256(head).hexdigest()[:32] + SUFFIX
        try:
            with written_whole(self._folder / name) as file:
                file.writelines((head, state, self._sealed(head, state)))
        except OSError as error:
            self._say(f"not kept in {self._folder}: {error}")
            return
        for entry in others:
            if entry.cached.usable(cached.tokens, cached.adapted_from) == len(entry.cached.tokens):
                with suppress(OSError):
                    entry.path.unlink(missing_ok=True)
        self._prune()

    def drop(self, entry: Entry, reason: str) -> None:
        """Remove an entry that cannot be used, with a word."""
        self._say(f"ignoring {entry.path}: {reason}")
        with suppress(OSError):
            entry.path.unlink(missing_ok=True)

    def _entries(self) -> list[Entry]:
        """The entries of this fingerprint, by their heads."""
        found = []
        for path in sorted(self._folder.glob("*" + SUFFIX)):
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                size = path.stat().st_size
                with path.open("rb") as file:
                    head = file.read(_HEAD)
                    if len(head) < _HEAD or not head.startswith(_MAGIC):
                        raise ValueError("it is no cache file")
                    if head[len(_MAGIC) : -_LENGTHS.size] != self._fingerprint:
                        continue
                    count, adapted_from, state_bytes = _LENGTHS.unpack(head[-_LENGTHS.size :])
                    if size != _HEAD + 4 * count + state_bytes + _SEAL:
                        raise ValueError("it is cut short or damaged")
                    tokens = _as_tokens(file.read(4 * count))
            except OSError:
                continue  # another process may just have removed it
            except ValueError as error:
                self._say(f"ignoring {path}: {error}")
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                continue
            found.append(Entry(path, Cached(tokens, adapted_from), state_bytes))
        return found

    def _head(self, cached: Cached, state_bytes: int) -> bytes:
        lengths = _LENGTHS.pack(len(cached.tokens), cached.adapted_from, state_bytes)
        return b"".join((_MAGIC, self._fingerprint, lengths, _as_bytes(cached.tokens)))

    def _sealed(self, head: bytes, state: bytes) -> bytes:
        digest = hashlib.blake2b(head, key=self._key, digest_size=_SEAL)
        digest.update(state)
        return digest.digest()

    def _prune(self) -> None:
        """Remove the least recently used files, of any model, until the rest is within the limit."""
        for unfinished in self._folder.glob(f".*{SUFFIX}.*"):
            try:
                if time.time() - unfinished.stat().st_mtime > _LEFT_BEHIND:
                    unfinished.unlink()
            except OSError:
                continue
        files = []
        for path in self._folder.glob("*" + SUFFIX):
            try:
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except OSError:
                continue
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                break
            try:
                path.unlink(missing_ok=True)
                total -= size
            except OSError:  # another process reads it (Windows)
                continue


def fingerprint(headers: Sequence[GgufHeader], *settings: str) -> bytes:
    """What a state depends on: the files (head, size, date, samples of the weights), the settings, the library."""
    digest = hashlib.sha256(json.dumps([library_build(), *settings]).encode())
    for header in headers:
        digest.update(f"|{header.path.stat().st_mtime_ns}|".encode() + sampled_digest(header))
    return digest.digest()


def _as_bytes(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def _as_tokens(raw: bytes) -> list[int]:
    if len(raw) % 4:
        raise ValueError("it is cut short")
    return list(struct.unpack(f"<{len(raw) // 4}i", raw))


def _own_key() -> bytes:
    """The user's secret, made on first use."""
    path = cache_dir() / "store.key"
    try:
        key = path.read_bytes()
        if len(key) == 32:
            return key
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, private=True) as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()
