// --- judges, the texts themselves, and how all this was made -----------------------------------------------------------

function drawQuality() {
  const policy = report.policies.includes(state.policy) || state.policy === ALL ? state.policy : WHOLE;
  const mine = report.quality.filter((one) => one.policy === policy);
  const meaning = mine.some((one) => one.meaning !== null);
  const columns = [
    "text", "#rows", "#unchanged", "#copied", "#length", "#empty", "#loops", "#run-ons", "#failed", "#extra tokens", "#extra seconds",
    ...(meaning ? ["#meaning", "#meaning lost"] : []),
  ];
  const rows = mine.map((one) => row(one.variant, one.n.toLocaleString(), percent(one.unchanged), percent(one.copied),
    one.length_ratio === null ? "" : `×${fixed(one.length_ratio, 2)}`, percent(one.empty), percent(one.loops), percent(one.run_ons),
    String(one.failed), one.tokens === null ? "" : fixed(one.tokens, 0), one.seconds === null ? "" : fixed(one.seconds, 2),
    ...(meaning ? [one.meaning === null ? "" : fixed(one.meaning, 2), percent(one.meaning_lost)] : [])));
  const kinds = report.variants.map((one) => row(one.name, one.what, one.made_by || "a rule", one.rows.toLocaleString()));
  const left = report.left_out.map((one) => el("p", {}, el("b", {}, `Left out: ${one.name}`), ` (${one.why}); to have it: ${one.how}`));
  $("quality-tables").replaceChildren(
    table(`What the texts of ${policyName(policy)} are like`, columns, rows),
    table("Which texts there are", ["text", "~what it is", "made by", "#rows"], kinds),
    left.length > 0 && el("div", { class: "left-out" }, ...left) || "");
}

function drawJudges() {
  $("judge-list").replaceChildren(...report.judges.map((judge) => {
    const lost = (count) => `${count.toLocaleString()}${judge.wanted ? ` of ${judge.wanted.toLocaleString()}` : ""}`;
    const { position: place, rerun } = judge;
    const part = (count) => `${percent(count / place.pairs)} (${count.toLocaleString()})`;
    return el("article", { class: "judge" },
      el("h3", {}, judge.name),
      ...judge.warnings.map((text) => el("p", { class: "warn" }, text)),
      facts([
        ["Kind", judge.kind], ["Fingerprint", judge.fingerprint], ["A verdict is", judge.reads],
        ["It judges", judge.objectives === null ? "any objective" : judge.objectives.join(", ")],
        ["Judgements", `${judge.wanted.toLocaleString()} needed: ${judge.asked.toLocaleString()} asked in this run, ${judge.kept.toLocaleString()} kept from before; ${fixed(judge.seconds, 1)} s`],
        ["Unparsed", lost(judge.unparsed)], ["Failed", lost(judge.failed)],
        ["On its answers", judge.on_answers === null ? "" : `${percent(judge.on_answers)} of its probability`],
        ["Asked again", rerun ? `${rerun.agreed.toLocaleString()} of ${rerun.asked.toLocaleString()} the same` : ""],
        ["Prompt", judge.prompt],
      ]),
      place && place.pairs > 0 && table(`Position: ${judge.name} over ${place.pairs.toLocaleString()} pairs asked in both orders`,
        ["of", "#both orders agree", "#the first won twice", "#the second won twice", "#a tie in one order"],
        [row("pairs", part(place.agreed), part(place.first), part(place.second), part(place.mixed))]),
      judge.meta.length > 0 && metas(judge),
      judge.template !== "" && el("details", {}, el("summary", {}, "Its prompt, word by word"), el("pre", {}, judge.template)));
  }));
}

function metas(judge) {
  const rows = judge.meta.map((meta) => {
    const { position: place } = meta;
    const part = (count) => (place.pairs ? percent(count / place.pairs) : "");
    const verdict = meta.at_chance === null ? "" : meta.at_chance ? el("b", { class: "lost" }, "at chance") : "better than chance";
    return row(`${meta.set}${meta.part === ALL ? "" : `, ${meta.part}`}`, meta.n.toLocaleString(), rate(meta.accuracy),
      meta.kappa === null ? "" : fixed(meta.kappa, 2), part(place.agreed), part(place.first), part(place.second),
      String(meta.counts.unparsed), String(meta.counts.failed), verdict);
  });
  return table(`${judge.name} against people’s votes (50 is chance; a tie of the judge’s is half right)`,
    ["set", "#pairs", "#right in % [95 %]", "#kappa", "#both orders agree", "#first twice", "#second twice", "#unparsed", "#failed", "so it is"], rows);
}

function drawMade() {
  const { coverage } = report;
  const share = coverage.wanted ? coverage.judged / coverage.wanted : 1;
  const refused = (source) => Object.entries(source.refused).map(([why, count]) => `${count.toLocaleString()}: ${why}`).join("; ") || "none";
  $("made-list").replaceChildren(
    facts([
      ["Program", `metaaligner-lite ${report.version}, mal eval`], ["Made", `${report.made.replace("T", " ").replace("+00:00", "")} UTC`],
      ["Rows", report.rows.toLocaleString()],
      ["With a verdict", `${coverage.judged.toLocaleString()} of ${coverage.wanted.toLocaleString()} pairs (${fixed(100 * share, 1)} %)`],
      ...Object.entries(report.settings).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
      ["Beside it", Object.values(report.files).join(", ")],
    ]),
    report.sources.length > 0 ? table("What was read", ["file", "fingerprint", "#rows", "#used", "~refused"],
      report.sources.map((one) => row(one.path, one.digest, one.rows.toLocaleString(), one.used.toLocaleString(), refused(one)))) : "",
    Object.keys(report.objectives).length > 0 ? el("details", {}, el("summary", {}, "The objectives, as judges were told them"),
      facts(Object.entries(report.objectives))) : "");
}
