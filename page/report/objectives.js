// --- objectives: who won against whom, by one judge, for one policy or all --------------------------------------------

const MOST_BARS = 40; // more than that and only the edits are ticked at first
const state = { judge: "", policy: WHOLE, others: false, texts: new Set() };

const judgeOf = (name) => report.judges.find((judge) => judge.name === name);

/** The choice of texts: a legend that can be ticked. */
function drawTexts() {
  const found = variants.filter((name) => name !== UNALIGNED
    && report.cells.some((cell) => cell.judge === state.judge && cell.variant === name));
  const many = found.length * objectivesOf(state.judge, state.policy, state.others).length > MOST_BARS;
  state.texts = new Set(many ? found.slice(0, 1) : found);
  $("texts").replaceChildren(el("legend", {}, "Texts"), ...found.map((name) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.setProperty("--swatch", `var(${colourName(name)})`);
    const box = el("input", { type: "checkbox", value: name, onchange: () => {
      state.texts[box.checked ? "add" : "delete"](name);
      drawBars();
    } });
    box.checked = state.texts.has(name);
    return el("label", { class: "check" }, box, swatch, name);
  }));
}

function drawBars() {
  clear("bars");
  const objectives = objectivesOf(state.judge, state.policy, state.others);
  const names = variants.filter((name) => state.texts.has(name));
  const series = (find) => names.map((name) => ({ name, intervals: objectives.map((one) => find(one, name) ?? null) }))
    .filter((one) => one.intervals.some(Boolean));
  const net = series((objective, name) => cellOf(state.judge, state.policy, objective, name, ANSWER)?.net);
  const gain = series((objective, name) => gainOf(state.judge, state.policy, objective, name)?.wins);
  const made = [];
  if (net.length) made.push(bars("Against the policy’s answer", "net: wins minus losses, in points", objectives, net));
  if (gain.length) {
    made.push(bars("Against the golden answers", "gain: wins of the text minus wins of the unaligned answer, in points", objectives, gain));
  }
  $("bars").replaceChildren(...made.map((one) => one.figure));
  made.forEach((one) => one.draw());
}

/** What the numbers come to, in a sentence. */
function sentence() {
  const told = objectivesOf(state.judge, state.policy, false)
    .map((objective) => [objective, cellOf(state.judge, state.policy, objective, ALIGNED, ANSWER)?.net]).filter(([, net]) => net);
  const asked = told.some(([objective]) => askedFor.has(objective));
  if (!told.length) return `${state.judge} judged no edit of ${policyName(state.policy)} against the answers.`;
  const shown = (sign) => told.filter(([, net]) => net.p_holm !== null && net.p_holm <= CLEAR && Math.sign(net.value) === sign)
    .map(([name]) => name);
  const [better, worse] = [shown(1), shown(-1)];
  const list = (names) => (names.length ? `${names.length} (${names.slice(0, 6).join(", ")}${names.length > 6 ? ", …" : ""})` : "none");
  const rest = told.length - better.length - worse.length;
  return `By ${state.judge}, for ${policyName(state.policy)}: of ${plural(told.length, "objective")}${asked ? " asked for" : ""} `
    + `the edits do better than the answers on ${list(better)} and worse on ${list(worse)}`
    + `${rest ? `; for ${rest} no difference is shown` : ""} (p after Holm at most ${CLEAR}).`;
}

function drawNumbers() {
  const objectives = objectivesOf(state.judge, state.policy, state.others);
  const rows = [];
  for (const objective of objectives) {
    let again = false;
    for (const name of variants) {
      const [golden, answer] = [GOLDEN, ANSWER].map((one) => cellOf(state.judge, state.policy, objective, name, one));
      const gain = gainOf(state.judge, state.policy, objective, name);
      if (!golden && !answer) continue;
      const heading = again ? el("span", { class: "hidden" }, objective) : objective;
      rows.push({ again, cells: [
        heading, name, answer ? counted(answer.counts) : "", toned(answer?.net), chance(answer?.net), rate(answer?.length_controlled),
        golden ? counted(golden.counts) : "", toned(gain?.wins), gain ? signed(gain.wins_and_ties.value, 1) : "", chance(gain?.wins),
      ] });
      again = true;
    }
  }
  const columns = [
    "objective", "text", "#against the answer: win/tie/lose", "#net [95 %]", "#p", "#equal length",
    "#against golden: win/tie/lose", "#gain [95 %]", "#gain with ties", "#p",
  ];
  $("numbers").replaceChildren(
    table(`By ${state.judge}, ${policyName(state.policy)}: who won against whom`, columns, rows),
    el("p", { class: "fine" }, "Net and gain are in points. Gain: wins against the golden answers minus the unaligned answer’s "
      + "wins against them; with ties: the same, ties counted as wins, as the paper’s code does. Equal length: the rate, a tie "
      + "as half a win, if both texts were as long. p: of no difference, after Holm over what one judge says of one kind of "
      + "text. Intervals are clustered by query. All rows count, whatever they asked for; the matrix below tells requests apart."));
}

/** A difference, green or red where its interval excludes 0. */
function toned(found) {
  if (!found) return "";
  return el("span", { class: { 1: "plus", 0: null, "-1": "minus" }[side(found)] }, points(found));
}

function drawRadars() {
  clear("radars");
  const objectives = objectivesOf(state.judge, WHOLE, state.others);
  const golden = report.cells.some((cell) => cell.judge === state.judge && cell.reference === GOLDEN && cell.variant === UNALIGNED);
  const hint = golden ? "share of wins against the golden answers in %, a tie as half" : "share of wins against the policy’s answers in %, a tie as half";
  $("radar-grid").replaceChildren();
  if (objectives.length < 3) {
    const others = objectivesOf(state.judge, WHOLE, true).length;
    $("radars-told").textContent = `A radar needs three objectives; ${state.judge} judged ${objectives.length}`
      + `${others >= 3 && !state.others ? " that was asked for (tick “what was not asked for, too” above)" : ""}. The bars above show the same.`;
    return;
  }
  $("radars-told").textContent = `${hint[0].toUpperCase()}${hint.slice(1)}. Outward is better${golden ? "" : "; 50 is as good as the answer"}.`;
  const one = (policy, name, reference, more) => {
    const found = objectives.map((objective) => cellOf(state.judge, policy, objective, name, reference)?.halves ?? null);
    return { name, values: found.map((rates) => (rates ? 100 * rates.value : null)), told: found.map(rate), ...more };
  };
  const half = { name: "the answer itself", values: objectives.map(() => 50), told: objectives.map(() => "50"), colour: "--c1", fill: 0, dashed: true };
  inParts($("radar-grid"), report.policies.length, 12, (from, to) => {
    const made = report.policies.slice(from, to).map((policy) => radar(policy, objectives, [
      one(policy, ALIGNED, golden ? GOLDEN : ANSWER, { colour: "--c0", fill: 0.16 }),
      golden ? one(policy, UNALIGNED, GOLDEN, { colour: "--c1", fill: 0, dashed: true }) : half,
    ], hint));
    $("radar-grid").append(...made.map((drawnOne) => drawnOne.figure));
    made.forEach((drawnOne) => drawnOne.draw());
  }, ["policy", "policies"]);
}

function drawObjectives() {
  $("verdict").textContent = sentence();
  $("cautions").replaceChildren(...judgeOf(state.judge).warnings.map((text) => el("p", { class: "warn" }, text)));
  drawTexts();
  drawBars();
  drawNumbers();
}
