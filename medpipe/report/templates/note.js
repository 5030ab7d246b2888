// The page of notes. Everything is in the HTML already; here are filters, keys, cards, arcs and ways through the text.
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const tip = byId("tip");
  const said = byId("said");
  // Fields of an entity and of a relation in the data.
  const [LABEL, SCORE, FLAGS, TEXT, CODE, PARENT, SECTION] = [0, 1, 2, 3, 4, 5, 6];
  const [HEAD, TAIL, TYPE, SURE, NEGATED, FROM, TO] = [0, 1, 2, 3, 4, 5, 6];
  const UNAFFIRMED = data.assertions.reduce((mask, name, bit) => (name === "historical" ? mask : mask | (1 << bit)), 0);
  const percent = (score) => Math.min(score, 0.99).toFixed(2);
  const readable = (label) => label.replaceAll("_", " ").toLowerCase();

  const notes = [...document.querySelectorAll("article.note")].map((article, index) => {
    const text = article.querySelector(".text");
    const lines = [...text.querySelectorAll(".line")];
    return {
      article, text, lines, index,
      offsets: lines.map((line) => Number(line.dataset.o)),
      entities: data.notes[index].entities,
      relations: data.notes[index].relations,
      outline: document.querySelector(`.outline-card[data-of="${index}"]`),
      arcs: text.querySelector(".arcs"),
      marks: null, visible: null, current: -1,
    };
  });
  let note = notes[0];

  // Pieces of a mention; a note's marks are looked up when it is first shown.
  const open = (one) => {
    if (one.marks) return;
    one.marks = one.entities.map(() => []);
    for (const piece of one.text.querySelectorAll("mark")) one.marks[piece.dataset.e].push(piece);
    one.marks.forEach((pieces, index) => {
      if (!pieces.length) return;
      pieces[0].tabIndex = -1;
      pieces.at(-1).dataset.tag = readable(one.entities[index][LABEL]);
    });
  };

  // --- from an offset to a place in the page ---

  const place = (offset) => {
    let low = 0;
    let high = note.offsets.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (note.offsets[middle] <= offset) low = middle;
      else high = middle;
    }
    const walker = document.createTreeWalker(note.lines[low], NodeFilter.SHOW_TEXT);
    let left = offset - note.offsets[low];
    let node = null;
    while (walker.nextNode()) {
      node = walker.currentNode;
      if (node.parentNode.className === "ctl") {
        if (left-- === 0) return [node, 0];
        continue;
      }
      let units = 0;
      while (units < node.data.length && left > 0) {
        units += node.data.codePointAt(units) > 0xffff ? 2 : 1;
        left--;
      }
      if (left === 0 && units < node.data.length) return [node, units];
    }
    return node ? [node, node.data.length] : [note.lines[low], 0];
  };

  const rangeOf = (start, end) => {
    const range = document.createRange();
    range.setStart(...place(start));
    range.setEnd(...place(end - 1));
    const node = range.endContainer;
    if (node.nodeType === Node.TEXT_NODE && range.endOffset < node.data.length) {
      const units = node.parentNode.className === "ctl" ? node.data.length : node.data.codePointAt(range.endOffset) > 0xffff ? 2 : 1;
      range.setEnd(node, Math.min(node.data.length, range.endOffset + units));
    }
    return range;
  };

  const paint = (name, range) => {
    if (window.CSS && CSS.highlights) CSS.highlights.set(name, new Highlight(range));
    else {
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
    }
  };
  const unpaint = (...names) => names.forEach((name) => window.CSS && CSS.highlights && CSS.highlights.delete(name));

  const bring = (rect) => {
    if (rect.top > 70 && rect.bottom < innerHeight - 20) return;
    scrollBy({ top: rect.top - innerHeight / 3, behavior: "instant" });
  };

  // --- filters ---

  const boxes = [...document.querySelectorAll("input[name=label]")];
  const slider = byId("score");
  const affirmed = byId("affirmed");

  const filter = () => {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const least = slider.value / 100;
    const mask = affirmed.checked ? UNAFFIRMED : 0;
    byId("score-shown").textContent = least.toFixed(2);
    let count = 0;
    note.visible = note.entities.map((entity, index) => {
      const shown = wanted.has(entity[LABEL]) && entity[SCORE] >= least && !(entity[FLAGS] & mask);
      for (const piece of note.marks[index]) piece.classList.toggle("off", !shown);
      count += shown;
      return shown;
    });
    for (const link of note.article.querySelectorAll(".mention")) {
      link.parentNode.hidden = !link.dataset.all.split(" ").some((index) => note.visible[index]);
    }
    byId("shown").textContent = `${count.toLocaleString("en")} of ${note.entities.length.toLocaleString("en")} mentions`;
    if (note.current >= 0 && !note.visible[note.current]) letGo();
  };
  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(filter);
  };
  byId("filters").addEventListener("input", soon);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, checked] of [["all", true], ["none", false]]) {
    byId(id).addEventListener("click", () => {
      for (const box of boxes) box.checked = checked;
      soon();
    });
  }

  // --- one mention: its card, its relations as arcs ---

  const sentence = (index) => {
    const entity = note.entities[index];
    const flags = data.assertions.filter((_, bit) => entity[FLAGS] & (1 << bit));
    return [readable(entity[LABEL]), ...flags, `score ${percent(entity[SCORE])}`, entity[CODE], entity[SECTION] && `in ${entity[SECTION]}`].filter(Boolean).join(" · ");
  };

  const showTip = (index, rect, chosen = false) => {
    tip.replaceChildren();
    for (let one = index, depth = 0; one >= 0 && depth < 4; one = note.entities[one][PARENT], depth++) {
      const block = document.createElement("div");
      const name = document.createElement("bdi");
      name.className = "said";
      name.textContent = note.entities[one][TEXT];
      const facts = document.createElement("div");
      facts.textContent = sentence(one);
      facts.className = "facts-line";
      block.append(name, facts);
      tip.append(block);
    }
    const relations = tied(index);
    if (relations.length) {
      const block = document.createElement("div");
      for (const one of relations.slice(0, 6)) {
        const line = document.createElement("div");
        const [arrow, other] = one[HEAD] === index ? ["→", one[TAIL]] : ["←", one[HEAD]];
        line.textContent = `${one[TYPE]} ${arrow} ${note.entities[other][TEXT]} · ${percent(one[SURE])}${one[NEGATED] ? " · negated" : ""}`;
        block.append(line);
      }
      tip.append(block);
    }
    tip.hidden = false;
    const edge = note.text.getBoundingClientRect().right + 12;
    if (chosen && edge + 280 < root.clientWidth) { // beside the text, so that the arcs are seen
      tip.style.left = `${edge + scrollX}px`;
      tip.style.top = `${Math.max(60, Math.min(rect.top, innerHeight - tip.offsetHeight - 8)) + scrollY}px`;
      return;
    }
    const left = Math.max(8, Math.min(rect.left, root.clientWidth - tip.offsetWidth - 8));
    const below = rect.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(below ? rect.bottom + 8 : rect.top - tip.offsetHeight - 8) + scrollY}px`;
  };
  const hideTip = () => { tip.hidden = true; };

  const draw = (relations) => {
    note.arcs.replaceChildren();
    const frame = note.text.getBoundingClientRect();
    const add = (name, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text) made.textContent = text;
      note.arcs.append(made);
    };
    for (const relation of relations) {
      const ends = [relation[HEAD], relation[TAIL]].map((index) => note.marks[index][0]);
      if (!ends[0] || !ends[1]) continue;
      const [a, b] = ends.map((end) => {
        const rect = end.getClientRects()[0];
        return [rect.left + rect.width / 2 - frame.left, rect.top - frame.top];
      });
      const lift = Math.min(46, 14 + Math.abs(a[0] - b[0]) / 9);
      const top = Math.min(a[1], b[1]) - lift;
      const negated = relation[NEGATED] ? "negated" : "";
      add("path", { class: negated, d: `M${a[0]} ${a[1]}C${a[0]} ${top} ${b[0]} ${top} ${b[0]} ${b[1]}` });
      add("circle", { cx: b[0], cy: b[1], r: 3 });
      add("text", { x: b[0], y: b[1] - 8 }, `${percent(relation[SURE])}${relation[NEGATED] ? " negated" : ""}`);
    }
  };

  const clear = () => {
    for (const piece of note.text.querySelectorAll(".on,.tied")) piece.classList.remove("on", "tied");
    for (const curve of note.article.querySelectorAll(".curve.on")) curve.classList.remove("on");
    note.arcs.replaceChildren();
  };
  const letGo = () => {
    clear();
    note.current = -1;
    hideTip();
    unpaint("source", "evidence");
  };

  const tied = (index) => note.relations.filter((one) => one[HEAD] === index || one[TAIL] === index);

  const choose = (index, focus = true) => {
    clear();
    unpaint("source", "evidence");
    note.current = index;
    const pieces = note.marks[index];
    if (!pieces.length) return;
    for (const piece of pieces) piece.classList.add("on");
    const relations = tied(index).slice(0, 12);
    for (const one of relations) {
      const other = one[HEAD] === index ? one[TAIL] : one[HEAD];
      for (const piece of note.marks[other]) piece.classList.add("tied");
    }
    if (focus) pieces[0].focus({ preventScroll: true });
    bring(pieces[0].getBoundingClientRect());
    draw(relations);
    showTip(index, pieces[0].getClientRects()[0], true);
    const others = relations.map((one) => `${one[TYPE]}: ${note.entities[one[HEAD]][TEXT]}, ${note.entities[one[TAIL]][TEXT]}`);
    said.textContent = [`${note.entities[index][TEXT]}: ${sentence(index).replaceAll(" · ", ", ")}`, ...others].join("; ");
  };

  const chooseRelation = (index) => {
    const relation = note.relations[index];
    letGo();
    for (const end of [HEAD, TAIL]) for (const piece of note.marks[relation[end]]) piece.classList.add(end === HEAD ? "on" : "tied");
    const curve = note.article.querySelector(`.curve[data-r="${index}"]`);
    if (curve) curve.classList.add("on");
    const range = rangeOf(relation[FROM], relation[TO]);
    paint("evidence", range);
    bring(range.getBoundingClientRect());
    draw([relation]);
    said.textContent = `${note.entities[relation[HEAD]][TEXT]} ${relation[TYPE]} ${note.entities[relation[TAIL]][TEXT]}; evidence: ${range.toString().slice(0, 400)}`;
  };

  // --- mouse ---

  const markAt = (target) => {
    let mark = target.closest("mark");
    while (mark && mark.classList.contains("off")) mark = mark.parentElement.closest("mark");
    return mark;
  };
  for (const one of notes) {
    one.text.addEventListener("mouseover", (event) => {
      const mark = markAt(event.target);
      if (mark) showTip(Number(mark.dataset.e), mark.getClientRects()[0]);
    });
    one.text.addEventListener("mouseout", (event) => {
      if (!markAt(event.target)) return;
      if (note.current < 0) hideTip();
      else showTip(note.current, note.marks[note.current][0].getClientRects()[0], true);
    });
    one.text.addEventListener("click", (event) => {
      const mark = markAt(event.target);
      if (mark && getSelection().isCollapsed) choose(Number(mark.dataset.e));
      else if (!mark) letGo();
    });
  }

  document.addEventListener("mouseover", (event) => {
    const word = event.target.closest && event.target.closest(".copied [data-s]");
    if (word) paint("source", rangeOf(Number(word.dataset.s), Number(word.dataset.t)));
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest(".copied,.relation,.mention,.curve,.notes a,.outline a");
    if (!link || event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    if (link.classList.contains("copied")) {
      const word = event.detail ? event.target.closest("[data-s]") : link; // by keyboard: the whole link
      const range = rangeOf(Number(word.dataset.s), Number(word.dataset.t));
      paint("source", range);
      bring(range.getBoundingClientRect());
      said.textContent = `In the note: ${lineAround(range)}`;
    } else if (link.dataset.r) chooseRelation(Number(link.dataset.r));
    else if (link.dataset.all) {
      const all = link.dataset.all.split(" ").map(Number).filter((index) => note.visible[index]);
      if (all.length) choose(all[(all.indexOf(note.current) + 1) % all.length]); // again: the next one
    } else {
      history.replaceState(null, "", link.getAttribute("href"));
      follow();
    }
  });
  const lineAround = (range) => {
    const node = range.startContainer;
    const line = (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest(".line");
    return line ? line.textContent.slice(0, 300) : "";
  };

  // --- keys ---

  const step = (from, by) => {
    for (let index = from + by; index >= 0 && index < note.entities.length; index += by) if (note.visible[index] && note.marks[index].length) return index;
    return -1;
  };
  const keys = {
    ArrowRight: () => step(note.current, 1),
    ArrowLeft: () => step(note.current < 0 ? note.entities.length : note.current, -1),
    ArrowDown: () => (note.current < 0 ? -1 : note.entities.findIndex((one, index) => one[PARENT] === note.current && note.visible[index])),
    ArrowUp: () => (note.current < 0 ? -1 : note.entities[note.current][PARENT]),
    Enter: () => {
      const all = note.current < 0 ? [] : tied(note.current);
      return all.length ? (all[0][HEAD] === note.current ? all[0][TAIL] : all[0][HEAD]) : -1;
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const inside = note.text.contains(document.activeElement);
      letGo();
      if (inside) note.text.focus({ preventScroll: true });
      return;
    }
    if (!keys[event.key] || !note.text.contains(document.activeElement) || event.altKey || event.ctrlKey || event.metaKey) return;
    if (note.current < 0 && (event.key === "ArrowDown" || event.key === "ArrowUp")) return; // the page scrolls
    event.preventDefault();
    const index = keys[event.key]();
    if (index >= 0) choose(index);
  });

  // --- notes and places by address ---

  const show = (index) => {
    if (note !== notes[index]) letGo();
    note = notes[index];
    open(note);
    for (const one of notes) {
      one.article.classList.toggle("current", one === note);
      if (one.outline) one.outline.classList.toggle("current", one === note);
    }
    for (const link of document.querySelectorAll(".notes a")) {
      if (Number(link.dataset.note) === index) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const counts = new Map();
    for (const entity of note.entities) counts.set(entity[LABEL], (counts.get(entity[LABEL]) || 0) + 1);
    for (const box of boxes) {
      const count = counts.get(box.value) || 0;
      box.parentNode.classList.toggle("absent", !count);
      box.parentNode.querySelector("[data-count]").textContent = count.toLocaleString("en");
    }
    filter();
  };
  const follow = () => {
    const match = /^#n(\d+)(?:-([els])(\d+))?$/.exec(location.hash);
    if (!match || !notes[match[1]]) return;
    show(Number(match[1]));
    if (match[2] === "e" && note.marks[match[3]]) choose(Number(match[3]));
    else {
      const target = byId(location.hash.slice(1));
      if (!match[2]) scrollTo({ top: 0, behavior: "instant" });
      else if (target) bring(target.getBoundingClientRect());
    }
  };
  addEventListener("hashchange", follow);
  addEventListener("resize", () => {
    hideTip();
    if (note.current >= 0) draw(tied(note.current).slice(0, 12));
    else note.arcs.replaceChildren();
  });

  for (const id of ["tags", "mono"]) {
    byId(id).addEventListener("change", (event) => {
      root.classList.toggle(id, event.target.checked);
      hideTip();
      note.arcs.replaceChildren();
    });
  }
  show(0);
  follow();
})();
