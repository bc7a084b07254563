// --- data: what the file holds, and how its numbers are told ---------------------------------------------------------

const { report, examples } = JSON.parse($("data").textContent);
const ALL = "*", ALIGNED = "aligned", UNALIGNED = "unaligned", GOLDEN = "golden", ANSWER = "answer";
const CLEAR = 0.05; // a p-value after Holm up to which something counts as shown
const WHOLE = report.policies.length > 1 ? ALL : report.policies[0]; // the policy of cells over all rows
const askedFor = new Set(report.requests.flatMap((request) => request.split(",")));
const variants = report.variants.map((one) => one.name);

const policyName = (policy) => (policy === ALL ? `all ${report.policies.length} policies` : policy);
const requestName = (request) => request.split(",").join(", ");
/** Rounded as the terminal rounds: 62.5 is 62 there, and no reader of both should wonder. */
const rounding = [0, 1, 2, 3].map((digits) => new Intl.NumberFormat("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false, roundingMode: "halfEven",
}));
const fixed = (value, digits = 0) => rounding[digits].format(value);
const signed = (value, digits) => {
  const told = fixed(Math.abs(100 * value), digits);
  return `${Number(told) === 0 ? "" : value < 0 ? "−" : "+"}${told}`;
};
const percent = (share) => (share === null || share === undefined ? "" : `${fixed(100 * share)} %`);

/** A difference of shares in points: "+12.5 [+3, +22]". */
function points(found) {
  if (!found) return "";
  return found.low === null ? signed(found.value, 1) : `${signed(found.value, 1)} ${spread(found)}`;
}
const spread = (found) => `[${signed(found.low, 0)}, ${signed(found.high, 0)}]`;

/** A share in hundredths: "62 [55, 69]". */
function rate(found) {
  if (!found) return "";
  const told = (value) => fixed(100 * value);
  return told(found.value) + (found.low === null ? "" : ` [${told(found.low)}, ${told(found.high)}]`);
}

function chance(found) {
  if (!found || found.p_holm === null) return "";
  return found.p_holm < 0.001 ? "<0.001" : fixed(found.p_holm, 3);
}

/** Whether an interval excludes 0: 1 above it, -1 below, else 0. */
const side = (found) => (found.low === null ? 0 : found.low > 0 ? 1 : found.high < 0 ? -1 : 0);

function counted(counts) {
  const lost = ["unparsed", "failed"].filter((name) => counts[name]).map((name) => `, ${counts[name]} ${name}`);
  return `${counts.win}/${counts.tie}/${counts.lose}${lost.join("")}`;
}

/** Objectives that a judge judged: those that some row asked for, then (if wanted, or if there are none) the others. */
function objectivesOf(judge, policy, others) {
  const mine = report.cells.filter((cell) => cell.judge === judge && cell.policy === policy);
  const all = [...new Set(mine.map((cell) => cell.objective))];
  const asked = all.filter((name) => askedFor.has(name)), rest = all.filter((name) => !askedFor.has(name));
  return asked.length === 0 || others ? [...asked, ...rest] : asked;
}

const cellOf = (judge, policy, objective, variant, reference) => report.cells.find((cell) => cell.judge === judge
  && cell.policy === policy && cell.objective === objective && cell.variant === variant && cell.reference === reference);
const gainOf = (judge, policy, objective, variant) => report.gains.find((gain) => gain.judge === judge
  && gain.policy === policy && gain.objective === objective && gain.variant === variant);

// --- tables: a heading for every column and row; a wide one scrolls by itself ---

/** `columns`: names, those of numbers with a leading "#", of prose "~". A row: {cells: [heading, ...]}; texts or nodes. */
function table(caption, columns, rows, hidden = false) {
  const kind = columns.map((name) => ({ "#": "number", "~": "prose" })[name[0]]);
  const head = columns.map((name, i) => el("th", { scope: "col", class: kind[i] }, name.replace(/^[#~]/, "")));
  const body = rows.map((row) => el("tr", { class: row.again && "again" },
    ...row.cells.map((cell, i) => (i === 0 ? el("th", { scope: "row" }, cell)
      : el("td", { class: kind[i] }, ...[cell].flat())))));
  return el("div", { class: "frame", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: hidden && "hidden" }, el("span", {}, caption)),
      el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)));
}

const row = (...cells) => ({ cells });
const facts = (pairs) => el("dl", { class: "facts" },
  ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...[value].flat())]));

/** A number of things, and a button for the rest of them: `draw(from, to)` adds some. */
function inParts(place, whole, step, draw, what) {
  let shown = 0;
  const button = el("button", { type: "button", onclick: () => next() });
  const next = () => {
    draw(shown, Math.min(whole, shown + step));
    shown = Math.min(whole, shown + step);
    button.remove();
    if (shown >= whole) return;
    button.textContent = `Show ${Math.min(step, whole - shown)} more of ${plural(whole, what[0], what[1])}`;
    place.append(button);
  };
  next();
}
