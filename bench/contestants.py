"""The contestants of bench/pair.py: each runs in a process of its own; a line of JSON in, a line of JSON out.

    python bench/contestants.py KIND OPTIONS-AS-JSON      (started by pair.py, not by hand)

All replay: the real sampler chooses from the real logits, then its choice is replaced by the recorded token. So every
contestant does all the work of generating, writes the same text, and accepts the drafts that a real edit would accept.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import peak_mb

clock = time.perf_counter  # or process_time, by the option "clock": see pair.py
Case = dict[str, Any]
Result = dict[str, Any]


class Ours:
    """This project: a pair of engines (merged) or one with an activated adapter (shared base)."""

    def __init__(self, options: dict[str, Any]) -> None:
        from metaaligner_lite import GgufAligner, GgufPolicy, open_engine
        from metaaligner_lite.llama import decode

        adapter = options.get("adapter")
        self.policy_engine = open_engine(options["policy"], adapter=adapter, threads=options["threads"])
        self.aligner_engine = (
            self.policy_engine if adapter else open_engine(options["aligner"], threads=options["threads"])
        )
        self.policy = GgufPolicy(self.policy_engine)
        self.aligner = GgufAligner(self.aligner_engine, layout="conversation")
        self.recorded: deque[list[int]] = deque()
        self.decodes = _time_decodes()
        self.chosen_after: Counter[int] = Counter()  # tokens written from the logits of the n-th decode
        real_sampler = decode._sampler

        @contextmanager
        def replaying(sampling: Any, context: Any) -> Iterator[Any]:
            tokens = iter(self.recorded.popleft())
            with real_sampler(sampling, context) as choose:

                def given(context: Any, place: int) -> int:
                    choose(context, place)
                    self.chosen_after[len(self.decodes)] += 1
                    return next(tokens)

                yield given

        decode._sampler = replaying

    def run(self, case: Case) -> Result:
        mode = case["mode"]
        self._forget()
        if mode == "floor":
            return self._floor(case)
        self.aligner.draft = mode != "plain"
        policy = _Timed(self.policy) if case["policy"] else _Given(self, case)
        return self._each(case, policy) if mode == "each" else self.correct(case, policy)

    def correct(self, case: Case, policy: Any) -> Result:
        """The policy's answer and its correction; `policy.ended` says when the answer was written."""
        from metaaligner_lite.align import align_each

        first: list[float] = []
        began = clock()
        self.recorded.extend([case["answer_tokens"]] * case["policy"])
        self.recorded.extend(case["edit_tokens"])
        edits = align_each(
            case["query"],
            case["objectives"],
            policy=policy,
            aligner=self.aligner,
            on_edit=lambda _: first.append(clock()) if not first else None,
        )
        ended = clock()
        counts = [edit.edit.counts for edit in edits]
        mine = [
            (size, self.chosen_after[i + 1], seconds)
            for i, (at, size, seconds) in enumerate(self.decodes)
            if at >= policy.ended
        ]
        before = [seconds for at, _, seconds in self.decodes if began <= at < policy.ended]
        return {
            "policy": policy.ended - began,
            "policy_decode": sum(before),
            "first": first[0] - policy.ended,
            "correction": ended - policy.ended,
            "decode": sum(seconds for _, _, seconds in mine),
            "batches": [(size, chosen, round(seconds, 6)) for size, chosen, seconds in mine],
            "read": counts[0].read,
            "written": sum(c.written for c in counts),
            "drafted": sum(c.drafted for c in counts),
            "accepted": sum(c.accepted for c in counts),
            "same": [list(edit.edit.tokens) for edit in edits] == [tokens[:-1] for tokens in case["edit_tokens"]],
        }

    def _each(self, case: Case, policy: Any) -> Result:
        """The objective sets one after the other, as four runs of `mal` in one process would."""
        draft = policy.answer(case["query"])
        began = clock()
        from metaaligner_lite.objectives import resolve

        for objectives, tokens in zip(case["objectives"], case["edit_tokens"], strict=True):
            self.recorded.append(tokens)
            self.aligner.edit(case["query"], [(draft, resolve(objectives))])
        return {"correction": clock() - began, "same": True}

    def _floor(self, case: Case) -> Result:
        """Bare llama_decode of the same batches: policy prefill, its tokens one by one, the verified edit."""
        context = self.aligner_engine._context
        context.read(case["policy_prompt"])
        for token in case["answer_tokens"][:-1]:
            context.extend([(0, [token])])
        policy = self._spent()
        context.read(case["aligner_prompts"][0], case["request_at"])
        request = self._spent()
        edit = case["edit_tokens"][0]
        for size, written in case["verify"]:  # which tokens is all the same: only their number costs
            context.extend([(0, (edit * 2)[:size])])
            context.roll_back(len(context.sequences[0].tokens) - (size - written))
        return {"policy": policy, "request": request, "edit": self._spent(), "same": True}

    def _spent(self) -> float:
        """Seconds in llama_decode since the last call."""
        seconds = sum(taken for _, _, taken in self.decodes)
        self.decodes.clear()
        return seconds

    def _forget(self) -> None:
        """Every run is the first of its conversation."""
        for engine in {id(e): e for e in (self.policy_engine, self.aligner_engine)}.values():
            if engine._context is not None:
                for sequence in range(len(engine._context.sequences)):
                    engine._context.roll_back(0, sequence)
        self.decodes.clear()
        self.chosen_after.clear()
        self.recorded.clear()


class _Timed:
    """A policy that remembers when it had finished."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.ended = 0.0

    def answer(self, query: str, on_text: Any = None) -> Any:
        draft = self._policy.answer(query, on_text)
        self.ended = clock()
        return draft


class _Given:
    """An answer as if the policy had just written it: the cache of the shared base holds the conversation."""

    def __init__(self, ours: Ours, case: Case) -> None:
        self._ours, self._case = ours, case
        self.ended = 0.0

    def answer(self, query: str, on_text: Any = None) -> Any:
        from metaaligner_lite.generation import Counts, Generation
        from metaaligner_lite.policies import Answer

        case, engine = self._case, self._ours.policy_engine
        draft = Answer(case["answer"])
        if engine is self._ours.aligner_engine:
            tokens = case["answer_tokens"][:-1]
            # The size that the policy would have asked for, then what it would have left in the cache.
            context = engine._context_for(len(case["policy_prompt"]) + 512, 1)
            context.read([*case["policy_prompt"], *tokens])
            counts = Counts(0, 0, len(tokens), 0, 0, 0.0, 0.0)
            draft = Answer(case["answer"], Generation(case["answer"], tuple(tokens), "end", counts), engine)
        self.ended = clock()
        return draft


def _time_decodes() -> list[tuple[float, int, float]]:
    """When each llama_decode began, how many tokens it had, and what it took."""
    from metaaligner_lite.llama.library import library

    lib, log = library(), []
    real = lib.llama_decode

    def timed(context: Any, batch: Any) -> int:
        began = clock()
        status = real(context, batch)
        log.append((began, batch.n_tokens, clock() - began))
        return status

    lib.llama_decode = timed
    return log


class TwoLlamas:
    """Two llama_cpp.Llama objects back to back, as the obvious script has them; `lookup` drafts by prompt lookup."""

    def __init__(self, options: dict[str, Any]) -> None:
        from llama_cpp import Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        settings: dict[str, Any] = {"n_ctx": 2048, "verbose": False}
        if options["threads"]:
            settings["n_threads"] = settings["n_threads_batch"] = options["threads"]
        self.policy = Llama(options["policy"], **settings)
        if options.get("lookup"):  # drafting needs all logits kept, else long prompts raise (DESIGN, ECOSYSTEM)
            settings["draft_model"] = LlamaPromptLookupDecoding(num_pred_tokens=options["lookup"])
            settings["logits_all"] = True
        self.aligner = Llama(options["aligner"], **settings)

    def run(self, case: Case) -> Result:
        for model in (self.policy, self.aligner):
            model.reset()
        began = clock()
        same = True
        if case["policy"]:
            _, _, same = _complete(self.policy, case["policy_prompt"], case["answer_tokens"])
        policy_ended = clock()
        first = 0.0
        for prompt, tokens in zip(case["aligner_prompts"], case["edit_tokens"], strict=True):
            first_token, _, as_recorded = _complete(self.aligner, prompt, tokens)
            first, same = first or first_token, same and as_recorded
        ended = clock()
        return {
            "policy": policy_ended - began,
            "first": first - policy_ended,
            "correction": ended - policy_ended,
            "same": same,
        }


def _complete(model: Any, prompt: Sequence[int], recorded: Sequence[int]) -> tuple[float, str, bool]:
    """Stream a completion while the sampler's choices are replaced; when the first text came, the text, and success."""
    tokens, first, text = iter(recorded), 0.0, []
    kind = type(model)

    def given(*args: Any, **kwargs: Any) -> int:
        kind.sample(model, *args, **kwargs)
        return next(tokens)

    model.sample = given
    for chunk in model.create_completion(list(prompt), max_tokens=len(recorded) + 8, temperature=0.0, stream=True):
        first = first or clock()
        text.append(chunk["choices"][0]["text"])
    return first, "".join(text), next(tokens, None) is None


class Transformers:
    """transformers generate, two models, as the reference implementation does; random weights of the same shape."""

    def __init__(self, options: dict[str, Any]) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = options["shape"]
        torch.set_num_threads(options["threads"] or os.cpu_count() or 1)
        config = LlamaConfig(
            vocab_size=shape["vocab"],
            hidden_size=shape["width"],
            intermediate_size=shape["ffn"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            max_position_embeddings=shape["n_ctx"],
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
        )
        torch.set_default_dtype(torch.bfloat16)
        self.policy, self.aligner = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()

    def run(self, case: Case) -> Result:
        began = clock()
        if case["policy"]:
            self._write(self.policy, case["policy_prompt"], case["answer_tokens"])
        policy_ended = clock()
        first = self._write(self.aligner, case["aligner_prompts"][0], case["edit_tokens"][0])
        return {
            "policy": policy_ended - began,
            "first": first - policy_ended,
            "correction": clock() - policy_ended,
            "same": True,
        }

    def _write(self, model: Any, prompt: Sequence[int], recorded: Sequence[int]) -> float:
        import torch

        tokens, stamps = iter(recorded), []

        def given(ids: Any, scores: Any) -> Any:
            stamps.append(clock())
            scores.fill_(-torch.inf)
            scores[:, next(tokens)] = 0
            return scores

        with torch.inference_mode():
            model.generate(
                torch.tensor([prompt]), max_new_tokens=len(recorded), do_sample=False, logits_processor=[given]
            )
        return stamps[0]


class TwoServers:
    """Two llama-servers on 127.0.0.1, prompt cache on, n-gram speculation on.

    The recorded tokens are forced by a grammar of token ids, which costs the server time of its own at every token
    that its sampler did not choose by chance; `free` measures that by writing without a grammar.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.processes, self.ports = [], []
        for name, speculation in (("policy", []), ("aligner", options["speculation"])):
            port = _free_port()
            command = [options["server"], "-m", options[name], "--host", "127.0.0.1", "--port", str(port)]
            command += ["-c", "2048", "-np", "1", "--threads", str(options["threads"] or -1), "--cache-ram", "0"]
            command += [*options["options"], *speculation]
            self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            self.ports.append(port)
        for port in self.ports:
            _wait_for(port)

    def run(self, case: Case) -> Result:
        policy, aligner = self.ports
        for port in self.ports:
            _request(port, case["policy_prompt"][-1:], [0, 0], True)  # nothing of this conversation is in its cache
        began = clock()
        if case["policy"]:
            _request(policy, case["policy_prompt"], case["answer_tokens"], False)
        policy_ended = clock()
        same, first, timings = True, 0.0, {}
        for prompt, tokens in zip(case["aligner_prompts"], case["edit_tokens"], strict=True):
            first_token, written, timings = _request(aligner, prompt, tokens, case["mode"] == "free")
            first, same = first or first_token, same and written == tokens[:-1]
        return {
            "policy": policy_ended - began,
            "first": first - policy_ended,
            "correction": clock() - policy_ended,
            "drafted": timings.get("draft_n", 0),
            "accepted": timings.get("draft_n_accepted", 0),
            "read": timings.get("prompt_n", 0),
            "written": timings.get("predicted_n", 0),
            "same": same,
        }

    def rss_mb(self) -> float:
        """The peak of both servers."""
        total = 0
        for process in self.processes:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
        return total / 1024

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    for _ in range(600):
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        time.sleep(0.2)
    raise SystemExit("llama-server does not answer")


def _request(port: int, prompt: Sequence[int], tokens: Sequence[int], free: bool) -> tuple[float, list[int], Result]:
    from urllib.request import Request, urlopen

    body: dict[str, Any] = {
        "prompt": list(prompt),
        "n_predict": len(tokens) - 1,
        "temperature": 0,
        "samplers": ["top_k"],
        "top_k": 1,
        "cache_prompt": True,
        "stream": True,
        "return_tokens": True,
    }
    if free:
        body["ignore_eos"] = True
    else:
        body["grammar"] = "root ::= " + " ".join(f"<[{token}]>" for token in tokens[:-1])
    request = Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    first, written, timings = 0.0, [], {}
    with urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            part = json.loads(line[6:])
            first = first or clock()
            written += part.get("tokens", [])
            timings = part.get("timings", timings)
    return first, written, timings


class Tokenizer:
    """Not a contestant: turns the texts of a case into the token lists that all of them get."""

    def __init__(self, options: dict[str, Any]) -> None:
        from metaaligner_lite.llama.model import open_model

        self.model = open_model(options["policy"], gpu_layers=0, repack=False)

    def run(self, case: Case) -> Result:
        from metaaligner_lite.objectives import resolve
        from metaaligner_lite.pieces import encode, encode_request
        from metaaligner_lite.prompts import Message, chat_prompt, edit_prompt

        model, template = self.model, self.model.template
        end = model._lib.llama_vocab_eos(model._vocab)
        answer = model.encode_text(case["answer"])
        prompts = [
            encode_request(
                edit_prompt(
                    "conversation", case["query"], case["answer"], resolve(o), template, answer_tokens=tuple(answer)
                ),
                model,
            )
            for o in case["objectives"]
        ]
        return {
            "policy_prompt": encode(chat_prompt([Message("user", case["query"])], template), model),
            "answer_tokens": [*answer, end],
            "aligner_prompts": [tokens for tokens, _ in prompts],
            "request_at": prompts[0][1],
            "edit_tokens": [[*model.encode_text(edit), end] for edit in case["edits"]],
            "same": True,
        }


KINDS = {kind.__name__: kind for kind in (Ours, TwoLlamas, Transformers, TwoServers, Tokenizer)}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    options = json.loads(sys.argv[2])
    if options.get("clock") == "cpu":
        global clock
        clock = time.process_time
    contestant = KINDS[sys.argv[1]](options)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        result = contestant.run(json.loads(line))
        peak = getattr(contestant, "rss_mb", peak_mb)
        print(json.dumps(result | {"rss_mb": round(peak(), 1)}), file=replies, flush=True)
    getattr(contestant, "close", lambda: None)()


if __name__ == "__main__":
    main()
