// The annotation page: one cell, or several that were chosen, and the keys that sort them.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const POLL_MS = 4000;
const MOST_IN_GRID = 300;
const REASONS = {
  uncertain: "the classifier is uncertain", diverse: "it is unlike the labelled cells", rare: "it may be of a rare class",
  random: "it was drawn at random", map: "it was chosen on the map", disagreement: "annotators disagree", selected: "it was selected",
};
const STRATEGY_NAMES = { mixed: "uncertain and random cells", uncertain: "uncertain cells", diverse: "different cells", rare: "cells of rare classes", random: "random cells" };

let state = { classes: [], labels: {}, undoable: [], disagreements: [], proposals: [], predicted: [], probability: [], estimate: null, labelled: 0 };
let upcoming = []; // {cell, reason}, the current one first
let selection = null; // cells in the grid, or null for one cell at a time
let pressed = new Set(); // of the selection, those that get the label
const skipped = new Set();
let painted = "";

const numberOf = new Map(data.ids.map((id, number) => [id, number]));
const picture = (cell) => `picture/${cell}.png`;
const percent = (share) => `${Math.round(100 * share)} %`;
const counted = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

// ----- labels, with those that the server has not confirmed

const queue = new LabelQueue(data.key, receive, showBanner);

/** Whether a waiting record renames or removes a class, and is not undone. */
function changesClass({ id, action }) {
  return ["rename", "remove"].includes(action) && !queue.waiting.some(({ undoes }) => undoes === id);
}

/** Cell → name of its class; empty where annotators disagree, undefined for no label. */
function labelsNow() {
  const labels = new Map(Object.entries(state.labels).map(([cell, place]) => [Number(cell), state.classes[place].name]));
  for (const { cell } of state.disagreements) labels.set(cell, "");
  for (const record of queue.waiting) {
    if (changesClass(record)) {
      for (const [cell, name] of labels) {
        if (name !== record.class_name) continue;
        if (record.action === "rename") labels.set(cell, record.renamed_to);
        else labels.delete(cell);
      }
    }
    if (record.action === "label") labels.set(numberOf.get(record.cell_id), record.class_name);
    if (record.action === "undo") {
      const undone = [...state.undoable, ...queue.waiting.map((one) => ({ id: one.id, cell: numberOf.get(one.cell_id) }))].find(({ id }) => id === record.undoes);
      if (undone) labels.delete(undone.cell);
    }
  }
  return labels;
}

function classesNow() {
  let names = state.classes.map(({ name }) => name);
  for (const record of queue.waiting) {
    const { action, class_name: name, renamed_to: to } = record;
    if (["label", "class"].includes(action) && !names.includes(name)) names.push(name);
    if (!changesClass(record)) continue;
    if (action === "rename") names = [...new Set(names.map((other) => (other === name ? to : other)))];
    else names = names.filter((other) => other !== name);
  }
  return names;
}

/** The latest label or change of a class of this annotator that is not undone. */
function lastLabel() {
  const undone = new Set(queue.waiting.filter(({ action }) => action === "undo").map(({ undoes }) => undoes));
  const own = [...state.undoable, ...queue.waiting.filter(({ action }) => ["label", "rename", "remove"].includes(action)).map(({ id, cell_id: cell }) => ({ id, cell: numberOf.get(cell) }))];
  return own.filter(({ id }) => !undone.has(id)).pop();
}

function giveLabel(name) {
  const cells = selection ? [...pressed] : upcoming.slice(0, 1).map(({ cell }) => cell);
  if (!name || !cells.length) return;
  const reason = selection ? "selected" : upcoming[0].reason;
  const records = cells.map((cell) => {
    const suggested = suggestionOf(cell);
    return { id: newId(), action: "label", cell_id: data.ids[cell], class_name: name, chosen_by: reason, suggested: suggested ? suggested.name : "" };
  });
  if (selection) {
    selection = selection.filter((cell) => !pressed.has(cell));
    pressed = new Set(selection);
    if (!selection.length) selection = null;
  } else upcoming.shift();
  queue.add(records);
  refill();
  show();
}

function undo() {
  const last = lastLabel();
  if (!last) return;
  queue.add([{ id: newId(), action: "undo", undoes: last.id }]);
  if (last.cell >= 0) lookAt(last.cell, "selected");
}

function skip() {
  if (selection || !upcoming.length) return;
  skipped.add(upcoming.shift().cell);
  refill();
  show();
}

function addClass(name) {
  if (name && !classesNow().includes(name)) queue.add([{ id: newId(), action: "class", class_name: name }]);
  show();
}

function renameClass(name) {
  const typed = prompt(`New name of the class “${name}”. The name of another class unites the two.`, name);
  const to = (typed || "").trim();
  if (to && to !== name) queue.add([{ id: newId(), action: "rename", class_name: name, renamed_to: to }]);
  show();
}

function removeClass(name, labels) {
  if (!confirm(`Remove the class “${name}” and its ${counted(labels, "label")}? Undo brings them back.`)) return;
  queue.add([{ id: newId(), action: "remove", class_name: name }]);
  refill();
  show();
}

function suggestionOf(cell) {
  const place = state.predicted[cell];
  if (place === undefined || place < 0) return null;
  const { name } = state.classes[place];
  if (queue.waiting.some((record) => changesClass(record) && record.class_name === name)) return null;
  return { name, probability: state.probability[cell] };
}

// ----- what is shown

/** Put the server's proposals behind the current cell. */
function refill(fresh = false) {
  const labels = labelsNow();
  const isOpen = ({ cell, reason }) => !skipped.has(cell) && (!labels.has(cell) || !(reason in STRATEGY_NAMES));
  const [current] = upcoming;
  if (fresh) upcoming = current ? [current] : [];
  upcoming = upcoming.filter(isOpen);
  for (const proposal of state.proposals) {
    if (isOpen(proposal) && !upcoming.some(({ cell }) => cell === proposal.cell)) upcoming.push(proposal);
  }
}

function lookAt(cell, reason) {
  selection = null;
  skipped.delete(cell);
  upcoming = [{ cell, reason }, ...upcoming.filter((other) => other.cell !== cell)];
  show();
}

function select(cells) {
  if (!cells.length) return;
  selection = cells.slice(0, MOST_IN_GRID);
  pressed = new Set(selection);
  if (cells.length > MOST_IN_GRID) showBanner(`The first ${MOST_IN_GRID} of ${cells.length} cells are shown.`);
  show();
  byId.sorting.scrollIntoView({ block: "nearest" });
}

function show() {
  const labels = labelsNow();
  const current = selection ? -1 : (upcoming[0] || { cell: -1 }).cell;
  showCells(current, labels);
  showSuggestion(current, labels);
  showClasses(current);
  showProgress(labels);
  byId.accept.disabled = selection ? true : !suggestionOf(current);
  byId.skip.disabled = Boolean(selection) || current < 0;
  byId.undo.disabled = !lastLabel();
  byId.clear.hidden = !selection;
  paintMap(labels);
  map.show({ chosen: current, name: current < 0 ? "" : "this cell", members: selection ? [...pressed] : null });
}

const filled = new WeakMap();

/** Fill an element where what it shows has changed: otherwise a click or the focus on what is in it would be lost. */
function fill(target, facts, make) {
  const text = JSON.stringify(facts);
  if (filled.get(target) === text) return;
  filled.set(target, text);
  target.replaceChildren(...make());
}

function showCells(current, labels) {
  byId.picture.hidden = Boolean(selection) || current < 0;
  byId.grid.hidden = !selection;
  if (selection) {
    byId.about.textContent = `${counted(pressed.size, "cell")} of ${selection.length} chosen. A label is given to all that are chosen.`;
    fill(byId.grid, selection.map((cell) => [cell, pressed.has(cell), labels.get(cell)]), () => selection.map((cell) => {
      const button = element("button", { type: "button", title: `${data.ids[cell]}${labels.get(cell) ? `: ${labels.get(cell)}` : ""}` }, element("img", { src: picture(cell), loading: "lazy", alt: data.ids[cell] }));
      button.setAttribute("aria-pressed", String(pressed.has(cell)));
      button.addEventListener("click", () => { if (!pressed.delete(cell)) pressed.add(cell); show(); });
      return button;
    }));
  } else if (current >= 0) {
    const address = picture(current);
    if (byId.picture.getAttribute("src") !== address) byId.picture.src = address;
    byId.picture.alt = `Cell ${data.ids[current]}`;
    byId.about.textContent = data.ids[current];
  } else {
    byId.about.textContent = queue.waiting.length ? "No more cells until the connection is back." : "No cell is left to label.";
  }
  const next = selection ? [] : upcoming.slice(1, 7).map(({ cell }) => cell);
  fill(byId.upcoming, next, () => next.map((cell) => element("img", { src: picture(cell), alt: "" })));
}

function showSuggestion(current, labels) {
  const parts = [];
  if (selection) parts.push(element("b", { textContent: `Label ${counted(pressed.size, "cell")} as …` }));
  else if (current >= 0) {
    const found = suggestionOf(current);
    if (labels.get(current)) parts.push("Labelled ", element("b", { textContent: labels.get(current) }), ". ");
    const said = state.disagreements.find(({ cell }) => cell === current);
    if (said) parts.push(`${Object.entries(said.said).map(([by, name]) => `${by}: ${name}`).join(", ")}. `);
    if (found) parts.push("Suggested: ", element("b", { textContent: found.name }), `, ${percent(found.probability)}. `);
    else if (!classesNow().length) parts.push("Add classes, then sort cells into them with the keys 1 to 9. ");
    else parts.push("Which class is this cell? Suggestions begin with labels of two classes. ");
    parts.push(element("small", { textContent: `Shown because ${REASONS[upcoming[0].reason]}.` }));
  }
  byId.suggestion.replaceChildren(...parts);
}

function showClasses(current) {
  const suggested = !selection && current >= 0 ? suggestionOf(current) : null;
  const counts = new Map();
  for (const name of labelsNow().values()) counts.set(name, (counts.get(name) || 0) + 1);
  const names = classesNow();
  const facts = names.map((name) => [name, counts.get(name), suggested && suggested.name === name]);
  fill(byId.classes, facts, () => names.map((name, place) => {
    const key = element("kbd", { textContent: place < 9 ? String(place + 1) : "·" });
    const button = element("button", { type: "button", className: suggested && suggested.name === name ? "suggested" : "" }, key, element("span", { textContent: name }), element("small", { textContent: counted(counts.get(name) || 0, "label") }));
    button.addEventListener("click", () => giveLabel(name));
    return button;
  }));
}

function showProgress(labels) {
  byId.labelled.textContent = labels.size.toLocaleString("en");
  byId.elsewhere.textContent = state.elsewhere ? `, and ${counted(state.elsewhere, "cell")} of other tables` : "";
  byId.track.style.width = `${(100 * labels.size) / data.ids.length}%`;
  const { estimate } = state;
  if (estimate) {
    byId.score.textContent = `${percent(estimate.value)} (${percent(estimate.low)} – ${percent(estimate.high)})`;
    const missing = estimate.notEstimated.length ? ` Not estimated, as all their labels are in ${estimate.groupedBy} that are held out together: ${estimate.notEstimated.join(", ")}.` : "";
    const kind = estimate.random ? "randomly shown cells" : "labelled cells";
    const advice = estimate.random ? "" : " They do not represent all cells: for that, label 30 random ones.";
    byId["score-note"].textContent = `Balanced accuracy with 95 % interval, on ${estimate.cells} ${kind} in ${estimate.groups} ${estimate.groupedBy} that were held out.${advice}${missing}`;
  } else {
    byId.score.textContent = "–";
    byId["score-note"].textContent = "Estimate on held-out cells: label cells of two classes, each in several fields.";
  }
  const count = state.disagreements.length;
  byId.disagreements.hidden = !count && !state.compared;
  byId.disagreeing.textContent = count;
  byId["disagreement-note"].textContent = `disagreements in ${counted(state.compared || 0, "cell")} that several annotators labelled; left out of training`;
  byId.review.hidden = !count;
  showDetails(labels);
}

function showDetails(labels) {
  const facts = [[...labels], state.classes, state.predicted, state.probability, state.estimate && state.estimate.recall];
  fill(byId.details, facts, () => [
    element("tr", {}, ...["Class", "Labels", "Predicted", "Found when held out", ""].map((textContent) => element("th", { textContent }))),
    ...detailRows(labels),
  ]);
}

function detailRows(labels) {
  return state.classes.map(({ name }, place) => {
    const own = [...labels].filter(([, other]) => other === name).map(([cell]) => cell);
    const likely = state.predicted.flatMap((other, cell) => (other === place && !labels.has(cell) ? [cell] : []));
    likely.sort((a, b) => state.probability[b] - state.probability[a]);
    const recall = state.estimate && name in state.estimate.recall ? `${percent(state.estimate.recall[name])} of ${state.estimate.support[name]}` : "–";
    return element("tr", {}, element("td", { textContent: name }), ...[own, likely].map((cells) => {
      const button = element("button", { type: "button", textContent: cells.length.toLocaleString("en"), disabled: !cells.length, title: "Show these cells" });
      button.addEventListener("click", () => select(cells));
      return element("td", {}, button);
    }), element("td", { textContent: recall }), element("td", {}, ...changeButtons(name, own.length)));
  });
}

function changeButtons(name, labels) {
  return [["Rename", () => renameClass(name)], ["Remove", () => removeClass(name, labels)]].map(([textContent, act]) => {
    const button = element("button", { type: "button", textContent, title: `${textContent} the class ${name}` });
    button.addEventListener("click", act);
    return button;
  });
}

function showBanner(text) {
  byId.banner.textContent = text;
  byId.banner.hidden = !text;
}

// ----- the map

const ownColumns = [
  { name: " label", label: "Label", kind: "text", levels: [], codes: [], colours: [] },
  { name: " prediction", label: "Prediction", kind: "text", levels: [], codes: [], colours: [] },
];

function fillColumns(labels) {
  const names = classesNow();
  const colours = names.map((_, place) => OKABE_ITO[place % OKABE_ITO.length]);
  const given = data.ids.map((_, cell) => (labels.get(cell) ? names.indexOf(labels.get(cell)) : -1));
  const predicted = data.ids.map((_, cell) => { const found = suggestionOf(cell); return found ? names.indexOf(found.name) : -1; });
  [[given, "not labelled"], [predicted, "no prediction"]].forEach(([codes, unknown], number) => {
    Object.assign(ownColumns[number], { levels: names, colours, codes, unknown });
  });
}

fillColumns(new Map());
const map = new PointMap({
  x: data.x, y: data.y, columns: [...ownColumns, ...data.columns], everything: "cells", mostLevels: 12, touchShowsTip: true,
  tipOf: (cell, touched) => {
    const label = labelsNow().get(cell);
    return [element("img", { src: picture(cell), alt: "" }), element("b", { textContent: data.ids[cell] }), element("span", { textContent: label || "not labelled" }), ...(touched ? [element("span", { textContent: "Tap to look at it" })] : [])];
  },
  choose: (cell) => lookAt(cell, "map"),
});
const lasso = new Lasso(map, byId.lasso, (cells) => { lasso.turn(false); select(cells); });

/** Colour the points again where something changed. */
function paintMap(labels) {
  fillColumns(labels);
  const now = JSON.stringify([ownColumns[0].codes, ownColumns[1].codes, ownColumns[0].levels]);
  if (now === painted) return;
  painted = now;
  const { only } = map;
  map.recolour();
  if (only !== null && only < map.styles.length) map.showOnly(only);
}

// ----- server

function receive(answer) {
  const first = !state.received;
  state = { ...answer, received: true };
  if (state.error) showBanner(state.error);
  if (first || document.activeElement !== byId.strategy) byId.strategy.value = state.strategy;
  refill(true);
  show();
  document.documentElement.dataset.ready = "1";
  document.documentElement.dataset.training = String(state.training);
  if (state.training) setTimeout(poll, 300);
}

async function poll() {
  try {
    const answer = await fetch("state");
    const content = await answer.json();
    if (answer.ok) {
      if (!queue.waiting.length && !content.error) showBanner("");
      receive(content);
    } else showBanner(`${content.error} ${queue.kept()}`);
  } catch {
    showBanner(`Not connected to subcell annotate. ${queue.kept()}`);
  }
}

async function exportAll() {
  byId.export.disabled = true;
  byId.exported.textContent = "Writing …";
  try {
    const { status, body } = await post("export", {});
    byId.exported.textContent = status === 200 ? body.written.join(" ") : body.error;
  } catch {
    byId.exported.textContent = "Not connected to subcell annotate.";
  }
  byId.export.disabled = false;
}

byId.annotator.textContent = data.annotator;
byId.strategy.append(...data.strategies.map((value) => element("option", { value, textContent: STRATEGY_NAMES[value] || value })));
byId.strategy.addEventListener("change", async () => {
  const { status, body } = await post("strategy", { strategy: byId.strategy.value }).catch(() => ({ status: 0 }));
  if (status === 200) { upcoming = []; receive(body); }
});
byId.accept.addEventListener("click", () => giveLabel((suggestionOf(upcoming[0]?.cell) || {}).name));
byId.skip.addEventListener("click", skip);
byId.undo.addEventListener("click", undo);
byId.clear.addEventListener("click", () => { selection = null; show(); });
byId.export.addEventListener("click", exportAll);
byId.review.addEventListener("click", () => {
  selection = null;
  upcoming = [...state.disagreements.map(({ cell }) => ({ cell, reason: "disagreement" })), ...upcoming];
  show();
});
byId.add.addEventListener("submit", (event) => {
  event.preventDefault();
  addClass(byId["new-class"].value.trim());
  byId["new-class"].value = "";
  byId["new-class"].blur();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "z" && event.target.tagName !== "INPUT") { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (["INPUT", "SELECT"].includes(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  const isButton = event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key);
  const keys = {
    Enter: () => byId.accept.click(), s: skip, u: undo, n: () => byId["new-class"].focus(), l: () => lasso.turn(!lasso.on),
    Escape: () => { selection = null; lasso.turn(false); show(); },
  };
  const act = /^[1-9]$/.test(event.key) ? () => giveLabel(classesNow()[Number(event.key) - 1]) : keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || isButton) return;
  event.preventDefault();
  act();
});
setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
poll();
queue.send();
