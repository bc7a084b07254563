// --- diff: what an edit took out and put in, word by word ------------------------------------------------------------

const MOST_EDITS = 3000; // words; texts further apart than that are shown as two

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
const wordsOf = (text) => Array.from(segmenter.segment(text), (part) => part.segment);
const isBlank = (text) => !text.trim();

/**
 * The parts of both texts in order, as {kind, text}: "same", "gone" (before only) or "new" (after only). While `after`
 * is still being written (`open`), what it has not come to yet is "ahead".
 */
function compare(before, after, open = false) {
  const a = wordsOf(before), b = wordsOf(after);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  if (!open) while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = shortestScript(a.slice(start, a.length - end), b.slice(start, b.length - end), open);
  const same = (words) => words.map((text) => ({ kind: "same", text }));
  return joined([...same(a.slice(0, start)), ...middle, ...same(a.slice(a.length - end))]);
}

/** Myers' greedy algorithm (1986), one word an entry. `open`: it ends where `b` does, the rest of `a` is "ahead". */
function shortestScript(a, b, open) {
  const most = Math.min(a.length + b.length, MOST_EDITS);
  const reach = new Int32Array(2 * most + 3), zero = most + 1; // how far along `a` each diagonal has come
  const rounds = [];
  for (let d = 0; d <= most; d++) {
    rounds.push(reach.slice(zero - d - 1, zero + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && reach[zero + k - 1] < reach[zero + k + 1]);
      let x = down ? reach[zero + k + 1] : reach[zero + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach[zero + k] = x;
      if (x - k >= b.length && x <= a.length && (open || x >= a.length)) {
        return [...walkBack(a, b, rounds, x), ...a.slice(x).map((text) => ({ kind: "ahead", text }))];
      }
    }
  }
  const all = (words, kind) => words.map((text) => ({ kind, text }));
  return [...all(a, open ? "ahead" : "gone"), ...all(b, "new")];
}

function walkBack(a, b, rounds, x) {
  const parts = [];
  let y = b.length;
  for (let d = rounds.length - 1; d >= 0; d--) {
    const at = (k) => rounds[d][k + d + 1];
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const fromX = d === 0 ? 0 : at(down ? k + 1 : k - 1);
    const fromY = d === 0 ? 0 : fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > fromY) { parts.push({ kind: "same", text: a[--x] }); y--; }
    if (d > 0) parts.push(down ? { kind: "new", text: b[--y] } : { kind: "gone", text: a[--x] });
  }
  return parts.reverse();
}

/** Neighbours of one kind as one part. A blank between two changes belongs to both: fewer, larger changes read better. */
function joined(parts) {
  const changed = (part) => part && (part.kind === "gone" || part.kind === "new");
  const result = [];
  let gone = "", fresh = "";
  const flush = () => {
    if (gone) result.push({ kind: "gone", text: gone });
    if (fresh) result.push({ kind: "new", text: fresh });
    gone = fresh = "";
  };
  parts.forEach((part, place) => {
    if (part.kind === "gone") gone += part.text;
    else if (part.kind === "new") fresh += part.text;
    else if (part.kind === "same" && isBlank(part.text) && !part.text.includes("\n") && gone && fresh
      && changed(parts[place + 1])) {
      gone += part.text;
      fresh += part.text;
    } else {
      flush();
      if (result.at(-1)?.kind === part.kind) result.at(-1).text += part.text;
      else result.push({ ...part });
    }
  });
  flush();
  return result;
}

/** How many words a diff took out and put in. */
function changes(parts) {
  const count = (kind) => parts.filter((part) => part.kind === kind)
    .reduce((sum, part) => sum + Array.from(segmenter.segment(part.text)).filter((one) => one.isWordLike).length, 0);
  return { gone: count("gone"), fresh: count("new") };
}

function diffElement(parts) {
  const tags = { gone: "del", new: "ins", ahead: "span" };
  return el("p", { class: "diff", dir: "auto" },
    ...parts.map((part) => (tags[part.kind] ? el(tags[part.kind], {}, part.text) : part.text)));
}
