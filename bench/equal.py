"""Do drafts change greedy output? And what does the loop cost around a small model? On the trained pair, no replay.

    python bench/equal.py [ROWS.jsonl] [--most 200]        (the trained pair and the prompts of tests/models)
    python bench/equal.py --forced MODEL.gguf              (a model of a real size, such as shapes.py makes)

Each query is answered by the policy and the answer edited twice, with drafts and without. Drafts are verified in
batches, and a batched matrix product may round differently from that of one token; where two tokens are nearly
equally likely the texts then part. Reported: how many edits part, and the gap between the two tokens' logits where
they do, read anew without drafts (a fault in the verification would part them at any gap). Then tokens per decode, the
time with drafts against without, and the share of time outside llama_decode. --record writes the edits as JSONL
(query, weak, strong), for draft.py --pairs.

--forced reads recorded edits (edits.py) one token at a time and in batches of the sizes drafts have, and compares the
choices after every token: how often a batch would have chosen otherwise, were the text its own. On random weights this
is a bad case, since no token is much likelier than the next.

Prints a table and, as its last line, one JSON document.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from contestants import Tokenizer, _time_decodes
from edits import ALIGNER, POLICY, TRAINED, case, copied_share

from metaaligner_lite import GgufAligner, GgufPolicy, open_engine
from metaaligner_lite.generation import Generation
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pieces import encode
from metaaligner_lite.policies import Answer
from metaaligner_lite.prompts import edit_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, nargs="?", default=TRAINED / "prompts.jsonl", help="query and objectives")
    parser.add_argument("--forced", type=Path, help="compare choices on this model instead")
    parser.add_argument("--most", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--aligner", type=Path, default=ALIGNER)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    if options.forced:
        forced(options.forced, options.threads)
        return
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()][: options.most]
    decodes = _time_decodes()
    edits, recorded = [], []
    with (
        open_engine(options.policy, threads=options.threads) as policy_engine,
        open_engine(options.aligner, threads=options.threads) as engine,
    ):
        policy, aligner = GgufPolicy(policy_engine), GgufAligner(engine)
        for turn, row in enumerate(rows):
            draft = policy.answer(row["query"])
            if not draft.text:
                continue
            runs = {}
            for drafted in (True, False) if turn % 2 else (False, True):
                runs[drafted] = _edit(aligner, row, draft, drafted, decodes)
            edits.append(_compared(runs[True], runs[False], draft, row, engine, aligner))
            recorded.append({"query": row["query"], "weak": draft.text, "strong": runs[False]["generation"].text})
    if options.record:
        options.record.write_text("".join(json.dumps(row) + "\n" for row in recorded), encoding="utf-8")
    parted = [edit["gap"] for edit in edits if edit["gap"] is not None]
    summary = {
        "edits": len(edits),
        "parted": len(parted),
        "logit_gap_median": round(statistics.median(parted), 4) if parted else None,
        "logit_gap_largest": round(max(parted), 4) if parted else None,
        "copied": round(statistics.mean(edit["copied"] for edit in edits), 3),
        "tokens_per_decode": round(statistics.median(edit["tokens_per_decode"] for edit in edits), 2),
        "accepted": round(sum(edit["accepted"] for edit in edits) / sum(edit["drafted"] for edit in edits), 3),
        "time_with_to_without_drafts": round(
            statistics.median(edit["ratio"] for edit in edits if edit["gap"] is None), 3
        ),
        "outside_llama_decode_with_drafts": round(statistics.median(edit["loop"] for edit in edits), 3),
        "outside_llama_decode_without": round(statistics.median(edit["plain_loop"] for edit in edits), 3),
        "outside_us_per_token_without": round(1e6 * statistics.median(edit["outside"] for edit in edits), 1),
    }
    for key, value in summary.items():
        print(f"{key:<36}{value!s:>10}")
    print(json.dumps({"bench": "equal"} | summary))


def forced(model: Path, threads: int) -> None:
    """Compare the choice after every token of recorded edits, read singly and in batches of drafts' sizes."""
    tokenizer = Tokenizer({"policy": str(model)})
    places, differ, gaps, errors = 0, 0, [], []
    with open_engine(model, threads=threads) as engine:
        context = engine._context_for(2048, 1)
        for kind in ("90s", "70s", "40w"):
            for turn in range(2):
                replayed = asdict(case(kind, turn))
                tokens = tokenizer.run(replayed)
                prompt, edit = tokens["aligner_prompts"][0], tokens["edit_tokens"][0]
                single = _logits(context, prompt, [edit[i : i + 1] for i in range(len(edit))])
                batched = _logits(context, prompt, _batches(edit))
                best = single.argmax(1)
                other = batched.argmax(1) != best
                ordered = np.sort(single[other], axis=1)
                gaps += (ordered[:, -1] - ordered[:, -2]).tolist()
                errors.append(np.abs(single - batched).max(1))
                places, differ = places + len(edit), differ + int(other.sum())
    error = np.concatenate(errors)
    summary = {
        "places": places,
        "choose_otherwise": differ,
        "gap_median": round(statistics.median(gaps), 4) if gaps else None,
        "gap_largest": round(max(gaps), 4) if gaps else None,
        "logit_difference_median": round(float(np.median(error)), 5),
        "logit_difference_largest": round(float(error.max()), 5),
    }
    for key, value in summary.items():
        print(f"{key:<36}{value!s:>10}")
    print(json.dumps({"bench": "equal", "forced": model.name} | summary))


def _batches(tokens: list[int]) -> list[list[int]]:
    sizes, at, parts = (2, 4, 8, 16, 32), 0, []
    while at < len(tokens):
        size = sizes[len(parts) % len(sizes)]
        parts.append(tokens[at : at + size])
        at += size
    return parts


def _logits(context: Context, prompt: list[int], parts: list[list[int]]) -> np.ndarray:
    """The logits after each token of the parts, each part a batch of its own."""
    context.roll_back(0)
    context.read(prompt)
    rows = []
    for part in parts:
        (begin,) = context.extend([(0, part)])
        for place in range(begin, begin + len(part)):
            logits = context._lib.llama_get_logits_ith(context.handle, place)
            rows.append(np.ctypeslib.as_array(logits, shape=(context.model.n_vocab,)).copy())
    return np.array(rows)


def _edit(aligner: GgufAligner, row: dict, draft: Answer, drafted: bool, decodes: list) -> dict:
    """One edit, from a cache that holds nothing of it."""
    if context := aligner.engine._context:
        context.roll_back(0)
    aligner.draft = drafted
    decodes.clear()
    began = time.perf_counter()
    (generation,) = aligner.edit(row["query"], [(draft, resolve(",".join(row["objectives"])))])
    seconds = time.perf_counter() - began
    return {"generation": generation, "seconds": seconds, "decode": sum(s for _, _, s in decodes), "n": len(decodes)}


def _compared(mine: dict, plain: dict, draft: Answer, row: dict, engine: Engine, aligner: GgufAligner) -> dict:
    generation: Generation = mine["generation"]
    counts = generation.counts
    return {
        "gap": _gap(generation, plain["generation"], draft, row, engine, aligner),
        "copied": copied_share(draft.text.split(), plain["generation"].text.split()),
        "tokens_per_decode": counts.written / max(1, mine["n"] - 1),
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "ratio": mine["seconds"] / plain["seconds"],
        "loop": 1 - mine["decode"] / mine["seconds"],
        "plain_loop": 1 - plain["decode"] / plain["seconds"],
        "outside": (plain["seconds"] - plain["decode"]) / max(1, plain["generation"].counts.written),
    }


def _gap(
    mine: Generation, plain: Generation, draft: Answer, row: dict, engine: Engine, aligner: GgufAligner
) -> float | None:
    """How much less likely (in logits) the other choice was where two texts part; None if they do not."""
    if mine.tokens == plain.tokens:
        return None
    same = next((i for i, (a, b) in enumerate(zip(mine.tokens, plain.tokens, strict=False)) if a != b), None)
    if same is None:  # one ended where the other went on
        same = min(len(mine.tokens), len(plain.tokens))
    objectives = resolve(",".join(row["objectives"]))
    prompt = encode(edit_prompt(aligner.layout, row["query"], draft.text, objectives, aligner.template), engine.model)
    context = engine._context
    assert context
    context.roll_back(0)
    context.read([*prompt, *plain.tokens[:same]])
    lib = context._lib
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context.handle, -1), shape=(engine.model.n_vocab,))
    end = lib.llama_vocab_eos(engine.model._vocab)
    a, b = (tokens[same] if same < len(tokens) else end for tokens in (mine.tokens, plain.tokens))
    return abs(float(logits[a]) - float(logits[b]))


if __name__ == "__main__":
    main()
