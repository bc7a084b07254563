// --- main: the parts that there is something for, the choice of judge and policy, light and dark ------------------------

const THEMES = ["system", "light", "dark"];
let theme = "system";

/** Storage may be refused to a file of the disk; then a choice holds as long as the page. */
function stored(value) {
  try {
    if (value === undefined) return localStorage.getItem("mal.report.theme") ?? "system";
    localStorage.setItem("mal.report.theme", value);
  } catch { /* it is a convenience */ }
  return "system";
}

function showTheme() {
  document.documentElement.dataset.theme = theme;
  $("theme").querySelector("use").setAttribute("href", `#i-${theme}`);
  const text = theme === "system" ? "Theme: as the system" : `Theme: ${theme}`;
  $("theme").setAttribute("aria-label", text);
  $("theme").title = text;
}

function drawChosen() {
  font();
  drawObjectives();
  drawRadars();
}

const judged = report.judges.filter((judge) => report.cells.some((cell) => cell.judge === judge.name));

function fill(id, options, chosen) {
  $(id).replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  $(id).value = chosen;
}

function start() {
  theme = THEMES.includes(stored()) ? stored() : "system";
  showTheme();
  const files = report.sources.map((source) => source.path.split(/[\\/]/).at(-1)).join(", ");
  $("what").textContent = report.rows
    ? `${plural(report.rows, "row")} of ${report.policies.join(", ")}, from ${files}. Asked for: ${report.requests.slice(0, 6).map(requestName).join("; ")}${report.requests.length > 6 ? ` and ${report.requests.length - 6} more` : ""}.`
    : "Judges against people’s votes.";
  document.title = report.rows ? `Does it align? ${files}` : "How far to trust the judges";
  if (!report.rows) document.querySelector("h1").textContent = document.title;
  $("notes").replaceChildren(...report.notes.map((note) => el("li", { class: "warn" }, note)));

  const parts = {
    first: report.notes.length, objectives: judged.length, radars: judged.length, tax: report.tax.length,
    quality: report.quality.length, examples: examples.of, judges: report.judges.length, made: true,
  };
  for (const [id, there] of Object.entries(parts)) {
    $(id).hidden = !there;
    if (there) $("parts").append(el("li", {}, el("a", { href: `#${id}` }, $(`${id}-title`).textContent)));
  }
  if (judged.length) {
    state.judge = judged[0].name;
    $("choice").hidden = false;
    fill("judge", judged.map((judge) => [judge.name, judge.name]), state.judge);
    fill("policy", (WHOLE === ALL ? [ALL, ...report.policies] : report.policies).map((one) => [one, policyName(one)]), WHOLE);
    $("judge").addEventListener("change", () => { state.judge = $("judge").value; drawChosen(); drawTax(); });
    $("policy").addEventListener("change", () => { state.policy = $("policy").value; drawChosen(); drawQuality(); });
    $("others").addEventListener("change", () => { state.others = $("others").checked; drawChosen(); });
    drawChosen();
    drawTax();
  }
  if (parts.examples) startExamples();
  if (parts.quality) drawQuality();
  drawJudges();
  drawMade();
}

const recolour = () => { if (judged.length) { font(); drawBars(); drawRadars(); } };
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  stored(theme);
  showTheme();
  recolour();
  say($("theme").title);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

start();
