// --- tax: what each request did to each objective ----------------------------------------------------------------------

const STEPS = [2.5, 10, 25, 50]; // points at which the tone grows

function tone(value) {
  const level = STEPS.filter((step) => Math.abs(100 * value) >= step).length;
  return level ? `${value > 0 ? "p" : "n"}${level}` : null;
}

function drawTax() {
  const mine = report.tax.filter((tax) => tax.judge === state.judge);
  const requests = [...new Set(mine.map((tax) => tax.request))];
  const asked = new Set(mine.filter((tax) => tax.asked).map((tax) => tax.objective));
  const objectives = [...new Set(mine.map((tax) => tax.objective))].sort((a, b) => asked.has(b) - asked.has(a));
  if (!mine.length) {
    $("matrix").replaceChildren(el("p", {}, `${state.judge} judged no edit against the answers.`));
    return;
  }
  const found = new Map(mine.map((tax) => [`${tax.request}\n${tax.objective}`, tax]));
  const cell = (request, objective) => {
    const tax = found.get(`${request}\n${objective}`);
    if (!tax) return el("td", { class: "soft" }, "–", el("span", { class: "hidden" }, " not judged"));
    const { net } = tax, star = side(net) !== 0;
    return el("td", { "data-tone": tone(net.value), "data-asked": tax.asked },
      el("b", {}, signed(net.value, 1), star && el("span", { "aria-hidden": "true" }, " *")),
      star && el("span", { class: "hidden" }, ", excludes 0"), tax.asked && el("span", { class: "hidden" }, ", asked for"),
      net.low !== null && el("small", {}, spread(net)));
  };
  const body = el("tbody");
  const caption = `By ${state.judge}, all rows: requested (rows) against measured (columns), net points`;
  const frame = el("div", { class: "frame", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, el("span", {}, caption)),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "requested"),
        ...objectives.map((objective) => el("th", { scope: "col", class: "number" }, objective)))), body));
  const word = (level, sign) => `${sign}${STEPS[level - 1]}${level < 4 ? ` to ${sign}${STEPS[level]}` : " and more"}`;
  const tones = [["n", "−"], ["p", "+"]].flatMap(([name, sign]) => {
    const steps = [1, 2, 3, 4].map((level) => el("li", { "data-tone": `${name}${level}` }, word(level, sign)));
    return name === "n" ? steps.reverse() : steps;
  });
  tones.splice(4, 0, el("li", {}, "nearer to 0"));
  $("matrix").replaceChildren(frame, el("ul", { class: "tones", "aria-label": "Tones, in points" }, ...tones));
  inParts($("matrix"), requests.length, 30, (from, to) => body.append(...requests.slice(from, to).map((request) =>
    el("tr", {}, el("th", { scope: "row" }, requestName(request)), ...objectives.map((objective) => cell(request, objective))))),
  ["request", "requests"]);
}
