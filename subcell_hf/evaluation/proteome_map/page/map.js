"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { genes, clusters } = data;
  const byId = (id) => document.getElementById(id);
  const make = (tag, properties = {}, children = []) => {
    // Text only ever goes through textContent, so that no name is taken for markup.
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const canvas = byId("canvas"), context = canvas.getContext("2d"), tip = byId("tip");
  let chosenGene = -1, chosenCluster = 0, hovered = -1;
  const open = new Set([0]);

  // ----- colours
  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b2a300", "#6a3d9a", "#8c564b",
    "#17becf", "#7f7f7f", "#a6761d", "#1b9e77", "#e7298a", "#66a61e", "#386cb0"];
  const NONE = "#c9c9c9";
  const colourings = {};
  const paint = (name, category, colourOf) => {
    const counts = new Map();
    category.forEach((value) => { if (value !== "") counts.set(value, (counts.get(value) || 0) + 1); });
    const ranked = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const colours = new Map(ranked.map(([value], place) => [value, colourOf(value, place)]));
    colourings[name] = { ranked, colours, point: category.map((value) => colours.get(value) || NONE) };
  };
  if (genes.locations.some((text) => text)) {
    paint("location", genes.locations.map((text) => text.split(";")[0]),
      (value, place) => data.colours[value] || PALETTE[place % PALETTE.length]);
  }
  data.levels.forEach((level) => {
    const title = (number) => `cluster ${number + 1}`;
    paint(level.name, level.membership.map(title), (_, place) => PALETTE[place % PALETTE.length]);
  });
  if (!Object.keys(colourings).length) {
    const top = new Array(genes.name.length).fill("");
    clusters.forEach((c) => { if (c.depth === 1) c.members.forEach((row) => { top[row] = c.name; }); });
    paint("cluster", top, (_, place) => PALETTE[place % PALETTE.length]);
  }
  let colouring = Object.keys(colourings)[0];
  Object.keys(colourings).forEach((name) => byId("colour").append(make("option", { value: name, textContent: name })));
  byId("colour").addEventListener("change", (event) => { colouring = event.target.value; legend(); draw(); });
  const legend = () => {
    const { ranked, colours } = colourings[colouring];
    const shown = ranked.slice(0, 14);
    byId("legend").replaceChildren(...shown.map(([value, count]) => make("li", {}, [
      make("span", { className: "dot", style: `background:${colours.get(value)}` }), `${value} (${count})`])));
    if (ranked.length > shown.length) {
      byId("legend").append(make("li", { className: "muted", textContent: `and ${ranked.length - shown.length} more` }));
    }
  };

  // ----- the plane
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = range(genes.x), [bottom, top] = range(genes.y);
  const view = { scale: 1, x: 0, y: 0 };
  let width = 0, height = 0, unit = 1;
  const resize = () => {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    width = box.width; height = box.height;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    unit = Math.min((width - 48) / (right - left || 1), (height - 48) / (top - bottom || 1));
    draw();
  };
  const place = (row) => [
    width / 2 + (genes.x[row] - (left + right) / 2) * unit * view.scale + view.x,
    height / 2 - (genes.y[row] - (bottom + top) / 2) * unit * view.scale + view.y,
  ];
  const radius = () => Math.max(1.6, Math.min(7, (2.2 + 40 / Math.sqrt(genes.name.length)) * Math.sqrt(view.scale) * 0.8));
  const ring = (row, colour, size) => {
    const [x, y] = place(row);
    context.beginPath(); context.arc(x, y, size, 0, 2 * Math.PI);
    context.lineWidth = 2; context.strokeStyle = colour; context.stroke();
  };
  const draw = () => {
    context.clearRect(0, 0, width, height);
    const size = radius(), { point } = colourings[colouring];
    const inside = chosenCluster > 0 ? new Set(clusters[chosenCluster].members) : null;
    for (const front of [false, true]) {
      for (let row = 0; row < genes.name.length; row += 1) {
        if ((inside === null || inside.has(row)) !== front) continue;
        const [x, y] = place(row);
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        context.globalAlpha = front ? 0.88 : 0.12;
        context.fillStyle = point[row];
        context.beginPath(); context.arc(x, y, size, 0, 2 * Math.PI); context.fill();
        if (size > 2.4) { context.strokeStyle = "#0006"; context.lineWidth = 0.7; context.stroke(); }
      }
    }
    context.globalAlpha = 1;
    if (chosenGene >= 0) {
      ring(chosenGene, "#000", size + 4);
      const [x, y] = place(chosenGene);
      context.font = "600 13px system-ui, sans-serif";
      context.lineWidth = 4; context.strokeStyle = "#fff"; context.fillStyle = "#000";
      context.strokeText(genes.name[chosenGene], x + size + 7, y + 4);
      context.fillText(genes.name[chosenGene], x + size + 7, y + 4);
    }
    if (hovered >= 0) ring(hovered, "#000", size + 2);
  };
  const nearest = (x, y) => {
    let best = -1, least = 14 ** 2;
    for (let row = 0; row < genes.name.length; row += 1) {
      const [px, py] = place(row), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) { least = distance; best = row; }
    }
    return best;
  };
  const zoom = (factor, x = width / 2, y = height / 2) => {
    const scale = Math.min(80, Math.max(1, view.scale * factor)), change = scale / view.scale;
    view.x = (x - width / 2) * (1 - change) + view.x * change;
    view.y = (y - height / 2) * (1 - change) + view.y * change;
    view.scale = scale;
    if (scale === 1) { view.x = 0; view.y = 0; }
    draw();
  };
  byId("in").onclick = () => zoom(1.6);
  byId("out").onclick = () => zoom(1 / 1.6);
  byId("reset").onclick = () => { view.scale = 1; view.x = 0; view.y = 0; chosenCluster = 0; chosenGene = -1; show(); };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (event.key === "+") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (step) { view.x += step[0]; view.y += step[1]; draw(); } else return;
    event.preventDefault();
  });
  const pointers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), now = [event.offsetX, event.offsetY];
    if (!before) { hover(...now); return; }
    const others = [...pointers].filter(([id]) => id !== event.pointerId);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (others.length) {
      const [x, y] = others[0][1];
      zoom(Math.hypot(now[0] - x, now[1] - y) / Math.max(1, Math.hypot(before[0] - x, before[1] - y)),
        (now[0] + x) / 2, (now[1] + y) / 2);
    } else { view.x += now[0] - before[0]; view.y += now[1] - before[1]; draw(); }
    pointers.set(event.pointerId, now);
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    if (moved >= 5 || event.type !== "pointerup") return;
    const row = nearest(event.offsetX, event.offsetY);
    if (row >= 0) chooseGene(row);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { hovered = -1; tip.hidden = true; draw(); });

  // ----- hover, details, search
  const cells = (row) => make("div", { className: "cells" }, (data.pictures[row] || []).map((picture) =>
    make("img", { src: `data:image/jpeg;base64,${picture}`, alt: `A cell stained for ${genes.name[row]}` })));
  const hover = (x, y) => {
    const row = nearest(x, y);
    if (row === hovered && row < 0) return;
    hovered = row;
    tip.hidden = row < 0;
    if (row >= 0) {
      tip.replaceChildren(make("strong", { textContent: genes.name[row] }),
        make("div", { textContent: genes.locations[row].split(";").join(", ") || "no location known" }));
      if (data.pictures[row]) tip.append(cells(row));
      const [px, py] = place(row);
      tip.style.left = `${Math.max(4, Math.min(px + 14, width - tip.offsetWidth - 6))}px`;
      tip.style.top = `${py + 16 + tip.offsetHeight > height ? Math.max(4, py - tip.offsetHeight - 14) : py + 16}px`;
    }
    draw();
  };
  const entries = (pairs) => make("dl", {}, pairs.filter(([, value]) => value !== "" && value !== null)
    .flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", {}, [value])]));
  const link = (text, action) => make("button", { type: "button", className: "link", textContent: text, onclick: action });
  const title = (cluster) => cluster.label || (cluster.depth ? `cluster ${cluster.name}` : "all genes");
  const details = () => {
    const box = byId("details");
    if (chosenGene >= 0) {
      const row = chosenGene, cluster = genes.cluster[row];
      box.replaceChildren(make("h2", { textContent: genes.name[row] }), entries([
        ["locations", genes.locations[row].split(";").join(", ")],
        ["antibody", genes.antibody[row]], ["reliability", genes.reliability[row]],
        ["cells", `${genes.cells[row]}`],
        ["cluster", link(`${clusters[cluster].name} ${clusters[cluster].label}`, () => chooseCluster(cluster))],
      ]));
      if (data.pictures[row]) box.append(cells(row));
      return;
    }
    const cluster = clusters[chosenCluster];
    box.replaceChildren(make("h2", { textContent: cluster.depth ? `Cluster ${cluster.name}` : "All genes" }));
    if (!cluster.depth) {
      box.append(make("p", { className: "muted", textContent:
        "Every point is a gene; near genes look alike under the microscope. Choose a gene or a cluster to see more." }));
      return;
    }
    const names = cluster.members.map((row) => [genes.name[row], row]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    box.append(entries([["genes", `${names.length}`], ["resolution", cluster.resolution ? `${cluster.resolution}` : ""],
      ["seen at", `${cluster.persistence} resolution${cluster.persistence === 1 ? "" : "s"}`]]));
    if (cluster.terms.length) {
      const head = make("tr", {}, [make("th", { textContent: "over-represented" }),
        make("th", { className: "number", textContent: "genes" }), make("th", { className: "number", textContent: "q" })]);
      box.append(make("table", {}, [head, ...cluster.terms.map(([collection, term, overlap, size, q]) => make("tr", {}, [
        make("td", { textContent: term, title: collection }),
        make("td", { className: "number", textContent: `${overlap} of ${size}` }),
        make("td", { className: "number", textContent: q }),
      ]))]));
    } else if (data.tested) {
      box.append(make("p", { className: "muted", textContent: "No gene set is over-represented (q < 0.05)." }));
    }
    const list = make("p", { className: "genes" });
    names.slice(0, 120).forEach(([name, row], index) => {
      list.append(index ? ", " : "", link(name, () => chooseGene(row)));
    });
    if (names.length > 120) list.append(` and ${names.length - 120} more`);
    box.append(list);
  };
  const openPath = (index) => {
    for (let at = index; clusters[at].parents.length; at = clusters[at].parents[0]) open.add(clusters[at].parents[0]);
  };
  const chooseGene = (row) => { chosenGene = row; chosenCluster = 0; openPath(genes.cluster[row]); show(); };
  const chooseCluster = (index) => { chosenCluster = index; chosenGene = -1; open.add(index); openPath(index); show(); };
  const query = byId("query"), found = byId("found");
  let matches = [], marked = 0;
  const search = () => {
    const text = query.value.trim().toLowerCase();
    const score = (row) => {
      const name = genes.name[row].toLowerCase();
      if (name === text) return 0;
      if (name.startsWith(text)) return 1;
      return name.includes(text) || genes.antibody[row].toLowerCase().includes(text) ? 2 : 9;
    };
    matches = text ? genes.name.map((_, row) => row).filter((row) => score(row) < 9)
      .sort((a, b) => score(a) - score(b) || (genes.name[a] < genes.name[b] ? -1 : 1)).slice(0, 12) : [];
    marked = 0;
    found.hidden = !text;
    query.setAttribute("aria-expanded", String(!found.hidden));
    found.replaceChildren(...matches.map((row, index) => {
      const item = make("li", { textContent: genes.name[row], onpointerdown: () => take(row) });
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(index === marked));
      return item;
    }));
    if (text && !matches.length) found.append(make("li", { className: "none", textContent: "no such gene on this map" }));
  };
  const take = (row) => { query.value = genes.name[row]; found.hidden = true; chooseGene(row); };
  query.addEventListener("input", search);
  query.addEventListener("blur", () => { found.hidden = true; });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches.length) take(matches[marked]);
    if (event.key === "Escape") found.hidden = true;
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    marked = (marked + (event.key === "ArrowDown" ? 1 : matches.length - 1)) % Math.max(1, matches.length);
    [...found.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === marked)));
  });

  // ----- hierarchy
  const children = clusters.map(() => []);
  clusters.forEach((cluster, index) => cluster.parents.forEach((parent) => children[parent].push(index)));
  children.forEach((list) => list.sort((a, b) => clusters[b].members.length - clusters[a].members.length || a - b));
  const branch = (index, depth) => {
    const cluster = clusters[index], isOpen = open.has(index), kids = children[index];
    const toggle = make("button", { type: "button", className: "open", textContent: kids.length ? (isOpen ? "▾" : "▸") : "",
      disabled: !kids.length, onclick: () => { if (isOpen) open.delete(index); else open.add(index); tree(); } });
    toggle.setAttribute("aria-label", isOpen ? "Close" : "Open");
    const choose = make("button", { type: "button", className: "choose", title: title(cluster),
      onclick: () => chooseCluster(index) }, [
      make("span", { className: "name", textContent: cluster.depth ? cluster.name : "" }),
      make("span", { className: "label", textContent: title(cluster) === `cluster ${cluster.name}` ? "" : title(cluster) }),
      make("span", { className: "size", textContent: `${cluster.members.length}` })]);
    const row = make("div", { className: `row${index === (chosenGene < 0 ? chosenCluster : genes.cluster[chosenGene]) ? " chosen" : ""}`,
      style: `padding-left:${depth * 0.9}rem` }, [toggle, choose]);
    return isOpen ? [row, ...kids.flatMap((child) => branch(child, depth + 1))] : [row];
  };
  const tree = () => byId("tree").replaceChildren(...branch(0, 0));
  const show = () => { details(); tree(); draw(); };

  byId("title").textContent = data.title;
  byId("summary").textContent = data.summary;
  document.title = data.title;
  legend();
  new ResizeObserver(resize).observe(canvas);
  resize();
  show();
})();
