/* A slider that tries other thresholds: it moves the confusion matrix, if there is one, and a mark on every curve with a
   "data-frame"; other scripts hear of it by the event "threshold". */
(() => {
  "use strict";
  const source = document.getElementById("threshold-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), isKnown = Boolean(data.found);  // Whether the true classes are known.
  const matrix = isKnown && document.querySelector("table.matrix").tBodies[0];
  const positive = data.names[data.positive], rest = data.names[1 - data.positive];
  const share = (count, of) => (of ? `${(100 * count / of).toFixed(1)}%` : "undefined");
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  };

  // Where each kind of curve shows a threshold; null where it is undefined.
  const points = {
    roc: at => [data.alarms[at] / data.negatives, data.found[at] / data.positives],
    pr: at => {
      const called = data.found[at] + data.alarms[at];
      return called ? [data.found[at] / data.positives, data.found[at] / called] : null;
    },
    det: at => [data.det[0][at], data.det[1][at]],
  };
  // Where each kind of figure has lines across; an answer's confidence is at least the threshold, or one minus it.
  const lines = {
    scores: at => [data.thresholds[at]],
    confidence: at => [data.thresholds[at], 1 - data.thresholds[at]],
  };
  const STYLE = "fill: none; stroke: var(--ink); stroke-width: 2.5";

  const marks = [...document.querySelectorAll("svg[data-frame]")].flatMap(drawing => {
    const [left, bottom, right, top, x0, y0, x1, y1] = drawing.dataset.frame.split(" ").map(Number);
    const { mark: kind } = drawing.dataset;
    const share = (value, low, high) => (Math.min(Math.max(value, low), high) - low) / (high - low);
    const across = value => left + share(value, x0, x1) * (right - left);
    const place = (name, attributes) => {
      const mark = svg(name, attributes);
      mark.classList.add("threshold");
      drawing.append(mark);
      return mark;
    };
    if (kind === "confidence") drawing.closest("figure").querySelector("figcaption").append(
      ` The lines are the least confidence of an answer ${positive} (solid) and ${rest} (dashed) at the threshold that is tried.`);
    if (kind in lines) return lines[kind](0).map((_, number) => {
      const mark = place("line", { y1: bottom, y2: top, style: STYLE + (number ? "; stroke-dasharray: 7 5" : "") });
      return at => ["x1", "x2"].forEach(end => mark.setAttribute(end, across(lines[kind](at)[number])));
    });
    const mark = place("circle", { r: 8, style: STYLE });
    return at => {
      const point = points[kind](at);
      mark.style.display = point ? "" : "none";
      if (!point) return;
      mark.setAttribute("cx", across(point[0]));
      mark.setAttribute("cy", bottom + share(point[1], y0, y1) * (top - bottom));
    };
  });

  function fill(row, counts) {
    const total = counts[0] + counts[1];
    counts.forEach((count, column) => {
      const cell = matrix.rows[row].cells[column + 1];
      cell.style.setProperty("--share", total ? (count / total).toFixed(3) : 0);
      cell.querySelector("b").textContent = count.toLocaleString("en");
      cell.lastChild.textContent = total ? share(count, total) : "no images";
    });
  }

  // Returns what a threshold comes to in words; where the true classes are known, the matrix shows it, too.
  function judged(at) {
    if (!isKnown) return `${data.called[at].toLocaleString("en")} of ${data.count.toLocaleString("en")} called ${positive}, ` +
      share(data.called[at], data.count);
    const hit = data.found[at], alarm = data.alarms[at], missed = data.positives - hit, quiet = data.negatives - alarm;
    const ordered = (yes, no) => (data.positive === 0 ? [yes, no] : [no, yes]);
    fill(data.positive, ordered(hit, missed));
    fill(1 - data.positive, ordered(alarm, quiet));
    return `${share(hit, data.positives)} of ${positive} found, ${share(alarm, data.negatives)} of ${rest} called ${positive}, ` +
      `accuracy ${share(hit + quiet, data.positives + data.negatives)}`;
  }

  const output = document.createElement("output"), slider = document.createElement("input");
  function show(at) {
    const threshold = data.thresholds[at];
    marks.forEach(move => move(at));
    slider.setAttribute("aria-valuetext", threshold.toPrecision(3));
    output.textContent = `threshold ${threshold.toPrecision(3)}${at === data.own ? " (the one of this report)" : ""}: ${judged(at)}`;
    document.dispatchEvent(new CustomEvent("threshold", { detail: { threshold, isOwn: at === data.own } }));
  }

  Object.assign(slider, { type: "range", min: 0, max: data.thresholds.length - 1, step: 1, value: data.own });
  slider.addEventListener("input", () => show(Number(slider.value)));
  const label = document.createElement("label"), back = document.createElement("button");
  label.append("Try another threshold", slider);
  Object.assign(back, { type: "button", textContent: "This report's threshold" });
  back.addEventListener("click", () => { slider.value = data.own; show(data.own); });
  document.getElementById("threshold-controls").append(label, back, output);
  show(data.own);
})();
