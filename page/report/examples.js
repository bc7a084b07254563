// --- examples: an answer and a text side by side, searched and filtered ------------------------------------------------

const STEP = 10; // examples at a time: a diff is worked out for each
const CHIPS = 8;
const LONG = 600; // letters of a question that are shown at once
const { judges: heard, objectives: named } = examples; // verdicts name them by their places here
const REFERENCES = [ANSWER, GOLDEN];
const OUTCOMES = ["win", "tie", "lose", "unparsed", "failed"];

const FILTERS = {
  "by-text": () => variants.filter((name) => name !== UNALIGNED || variants.length === 1).map((name) => [name, name]),
  "by-policy": () => [["", "any"], ...report.policies.map((name) => [name, name])],
  "by-objective": () => [["", "any"], ...named.map((name) => [name, name])],
  "by-outcome": () => [["", "any"], ...OUTCOMES.map((name) => [name, name])],
  "by-reference": () => [["", "either"], [ANSWER, "the policy’s answer"], [GOLDEN, "the golden answer"]],
  "by-judge": () => [["", "any"], ...heard.map((name) => [name, name])],
};

/** A verdict of the file, its numbers put into words. */
const spelled = ([judge, objective, variant, reference, outcome, identical, orders]) => ({
  judge: heard[judge], objective: named[objective], variant: variants[variant], reference: REFERENCES[reference],
  outcome: OUTCOMES[outcome], identical: Boolean(identical), orders,
});

function startExamples() {
  for (const [id, options] of Object.entries(FILTERS)) {
    $(id).replaceChildren(...options().map(([value, text]) => el("option", { value }, text)));
    $(id).addEventListener("change", find);
  }
  let timer = 0;
  $("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 150); });
  $("filters").addEventListener("submit", (event) => { event.preventDefault(); find(); });
  $("filters").addEventListener("reset", () => setTimeout(find));
  $("examples-told").textContent = told();
  for (const one of examples.rows) one.verdicts = one.verdicts.map(spelled);
  find();
}

function told() {
  const shown = examples.rows.length === examples.of ? `All ${plural(examples.of, "row")} are here.`
    : `Here are ${examples.rows.length.toLocaleString()} of ${plural(examples.of, "row")}, drawn at random, to keep this file small; `
      + `all of them are in ${report.files.rows ?? "the file of rows"}, their verdicts in ${report.files.verdicts ?? "the file of verdicts"}, `
      + "and all count in the numbers above.";
  const cut = examples.cut ? ` ${plural(examples.cut, "text is", "texts are")} longer than ${examples.longest.toLocaleString()} letters and cut there; each says so.` : "";
  return `${shown}${cut} Struck out: only in the answer. Underlined: only in the text.`;
}

/** What matches now: rows, with those of their verdicts that the filters ask for. */
function matching() {
  const [text, policy, objective, outcome, reference, judge] = Object.keys(FILTERS).map((id) => $(id).value);
  const words = $("search").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const wants = (verdict) => verdict.variant === text && (!objective || verdict.objective === objective)
    && (!outcome || verdict.outcome === outcome) && (!reference || verdict.reference === reference)
    && (!judge || verdict.judge === judge);
  const asks = objective || outcome || reference || judge;
  const found = [];
  for (const one of examples.rows) {
    if (one.texts[text] === undefined || (policy && one.policy !== policy)) continue;
    const verdicts = one.verdicts.filter(wants);
    if (asks && !verdicts.length) continue;
    if (words.length) {
      one.searched ??= [one.query, one.golden ?? "", ...Object.values(one.texts)].join("\n").toLocaleLowerCase();
      if (!words.every((word) => one.searched.includes(word))) continue;
    }
    found.push([one, verdicts]);
  }
  return { text, objective, found };
}

let seen = 0, matched = { found: [] };

function find() {
  matched = matching();
  seen = 0;
  $("found-list").replaceChildren();
  const { length } = matched.found;
  $("found").textContent = `${length.toLocaleString()} of ${plural(examples.rows.length, "example")} ${length === 1 ? "matches" : "match"}.`;
  more();
}

function more() {
  const next = matched.found.slice(seen, seen + STEP);
  seen += next.length;
  $("found-list").append(...next.map(([one, verdicts]) => card(one, verdicts)));
  const rest = matched.found.length - seen;
  $("more").hidden = rest <= 0;
  $("more").textContent = `Show ${Math.min(STEP, rest)} more of ${matched.found.length.toLocaleString()}`;
  return $("found-list").children[seen - next.length];
}

$("more").addEventListener("click", () => {
  const first = more();
  first?.querySelector("h3")?.focus();
  say(`${plural(seen, "example")} shown`);
});

const BECAME = { win: "won against", tie: "tied with", lose: "lost to", unparsed: "unparsed against", failed: "failed against" };
const chip = (verdict) => el("li", { class: `chip ${verdict.outcome}` },
  `${verdict.objective}: ${BECAME[verdict.outcome]} ${verdict.reference === GOLDEN ? "golden" : "the answer"}`
  + `${heard.length > 1 ? ` (${verdict.judge})` : ""}`);

function card(one, verdicts) {
  const { text, objective } = matched;
  const asked = one.request.split(",");
  const wanted = objective ? [] : verdicts.filter((verdict) => asked.includes(verdict.objective));
  const first = (wanted.length ? wanted : verdicts).slice(0, CHIPS), rest = verdicts.length - first.length;
  const parts = compare(one.texts[UNALIGNED] ?? "", one.texts[text]);
  const question = one.query.length > LONG ? `${one.query.slice(0, LONG)}…` : one.query;
  const head = [one.policy, `asked for: ${requestName(one.request)}`, `${one.source}, ${one.place}`, one.outcome && `mal batch: ${one.outcome}`];
  return el("article", { class: "example" },
    el("header", {}, ...head.filter(Boolean).map((part) => el("span", {}, part))),
    el("h3", { dir: "auto", tabindex: "-1" }, question),
    question !== one.query && el("details", {}, el("summary", {}, "The whole question"), words(one.query)),
    first.length > 0 && el("ul", { class: "chips", "aria-label": "Verdicts" }, ...first.map(chip),
      rest > 0 && el("li", { class: "chip" }, `and ${rest} more below`)),
    el("div", { class: "pair" },
      el("div", {}, el("h4", {}, `The answer of ${one.policy}`), side2(parts, "gone")),
      text !== UNALIGNED && el("div", { class: "edit" }, el("h4", {}, text), side2(parts, "new"))),
    one.golden !== null && el("details", {}, el("summary", {}, "The golden answer"), words(one.golden)),
    one.verdicts.length > 0 && allVerdicts(one, text));
}

const words = (text) => (text.trim() ? el("p", { class: "words", dir: "auto" }, text) : el("p", { class: "empty" }, "(empty)"));

/** One of both texts, with what only it has marked. */
function side2(parts, kind) {
  const mine = parts.filter((part) => part.kind === "same" || part.kind === kind);
  return mine.some((part) => part.text.trim()) ? diffElement(mine) : words("");
}

/** The table of a row's verdicts, made when it is opened. */
function allVerdicts(one, text) {
  const mine = one.verdicts.filter((verdict) => verdict.variant === text);
  const details = el("details", {}, el("summary", {}, `All ${plural(mine.length, "verdict")} on this text`));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const place = (order) => ({ 0: "scored", 1: "text first", 2: "text second" })[order];
    const saying = (verdict) => (verdict.identical ? "the texts are the same; nobody was asked"
      : verdict.orders.map(([order, said, raw]) => `${place(order)}: ${said}${raw ? ` (${raw})` : ""}`).join("; "));
    details.append(table(`Verdicts on ${one.place}`, ["objective", "against", "outcome", "judge", "~what it said, by order"],
      mine.map((verdict) => row(verdict.objective, verdict.reference, verdict.outcome, verdict.judge, saying(verdict))), true));
  });
  return mine.length > 0 && details;
}
