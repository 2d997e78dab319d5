/* Links the drawings and the table of a sweep's trials by [data-trial]: what the pointer or the focus is on is lit
   everywhere, and the axes of the parallel coordinates choose trials: drag along an axis, or use its arrow keys. */
(() => {
  "use strict";
  const svg = document.querySelector("svg.parallel"), controls = document.getElementById("trial-controls");
  const marks = [...document.querySelectorAll("[data-trial]")], byTrial = new Map();
  for (const mark of marks) byTrial.set(mark.dataset.trial, [...(byTrial.get(mark.dataset.trial) ?? []), mark]);
  const output = document.createElement("output");

  function light(trial) {
    marks.forEach(mark => mark.classList.toggle("lit", mark.dataset.trial === trial));
    const title = (byTrial.get(trial) ?? []).map(mark => mark.querySelector("title")).find(Boolean);
    output.textContent = title ? title.textContent : summary();
  }
  const trialOf = event => event.target.closest?.("[data-trial]")?.dataset.trial;
  document.addEventListener("pointerover", event => light(trialOf(event)));
  document.addEventListener("focusin", event => light(trialOf(event)));

  const axes = [];
  let chosen = new Set(byTrial.keys());

  function summary() {
    const used = axes.filter(axis => axis.range);
    return used.length ? `${chosen.size} of ${lines.length} trials: ${used.map(axis => axis.words()).join("; ")}` : "";
  }

  const lines = svg ? [...svg.querySelectorAll("polyline[data-trial]")] : [];
  const depths = new Map(lines.map(line => [line.dataset.trial, [...line.points].map(point => point.y)]));

  function choose() {
    const used = axes.filter(axis => axis.range);
    const inside = depth => used.every(axis => depth[axis.number] >= axis.range[0] - 0.2 && depth[axis.number] <= axis.range[1] + 0.2);
    chosen = new Set([...depths].filter(([, depth]) => inside(depth)).map(([trial]) => trial));
    marks.forEach(mark => mark.classList.toggle("out", used.length > 0 && !chosen.has(mark.dataset.trial)));
    output.textContent = summary();
  }

  const part = (name, properties) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    return made;
  };

  class Axis {
    constructor(group, number) {
      this.number = number;
      this.group = group;
      this.scale = JSON.parse(group.dataset.axis);
      [this.x, this.top, this.floor] = [group.dataset.x, group.dataset.top, group.dataset.floor].map(Number);
      this.range = null;  // From above, in the drawing's units.
      this.brush = part("rect", { class: "brush", x: this.x - 9, width: 18, y: 0, height: 0, visibility: "hidden" });
      const grip = part("rect", { class: "grip", x: this.x - 16, width: 32, y: this.top - 6, height: this.floor - this.top + 12 });
      group.append(this.brush, grip);
      group.setAttribute("tabindex", "0");
      group.setAttribute("role", "application");
      group.setAttribute("aria-roledescription", "axis");
      group.setAttribute("aria-label", `${this.scale.name}. Up and down move a range, with shift they widen and narrow it, Escape removes it.`);
      grip.addEventListener("pointerdown", event => this.drag(event, grip));
      group.addEventListener("keydown", event => this.press(event));
    }

    depth(event) {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).y;
      return Math.min(Math.max(at, this.top), this.floor);
    }

    drag(event, grip) {
      const start = this.depth(event), move = next => {
        const here = this.depth(next);
        this.set(Math.abs(here - start) < 3 ? null : [Math.min(start, here), Math.max(start, here)]);
      };
      grip.setPointerCapture(event.pointerId);
      move(event);  // A click without a drag removes the range.
      grip.addEventListener("pointermove", move);
      const end = () => grip.removeEventListener("pointermove", move);
      grip.addEventListener("pointerup", end, { once: true });
      grip.addEventListener("pointercancel", end, { once: true });
    }

    press(event) {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key], length = this.floor - this.top;
      if (event.key !== "Escape" && !by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (!by) return this.set(null);
      const [high, low] = this.range ?? (by > 0 ? [this.top, this.top + length / 4] : [this.floor - length / 4, this.floor]);
      if (!this.range) return this.set([high, low]);
      const step = by * length / 20;
      if (event.shiftKey) return this.set([Math.max(high + Math.min(step, length), this.top), low].sort((a, b) => a - b));
      const shift = Math.min(Math.max(step, this.top - high), this.floor - low);
      this.set([high + shift, low + shift]);
    }

    set(range) {
      this.range = range;
      this.brush.setAttribute("visibility", range ? "visible" : "hidden");
      if (range) {
        this.brush.setAttribute("y", range[0]);
        this.brush.setAttribute("height", range[1] - range[0]);
      }
      choose();
    }

    words() {
      const { name, values, low, high, log, base } = this.scale;
      const [from, to] = [this.range[1], this.range[0]].map(depth => (this.floor - depth) / (this.floor - this.top));
      const share = place => Math.min(Math.max((place - base) / (1 - base), 0), 1);
      const unused = base && from <= 0.002 ? ["not used"] : [];
      if (values.length) {
        const place = index => base + (1 - base) * (values.length > 1 ? index / (values.length - 1) : 0.5);
        const inside = values.filter((_, index) => place(index) >= from - 0.002 && place(index) <= to + 0.002);
        return `${name} ${[...unused, ...inside].join(", ") || "none"}`;
      }
      const value = place => {
        const scaled = low + share(place) * (high - low);
        return String(Number((log ? 10 ** scaled : scaled).toPrecision(3)));
      };
      return `${name} ${to < base ? unused.join("") || "none" : [...unused, `${value(from)} to ${value(to)}`].join(", ")}`;
    }
  }

  if (svg) {
    svg.setAttribute("role", "group");
    [...svg.querySelectorAll("g.axis")].forEach((group, number) => axes.push(new Axis(group, number)));
    const all = document.createElement("button"), hint = document.createElement("span");
    all.type = "button";
    all.textContent = "Show all trials";
    all.addEventListener("click", () => { axes.forEach(axis => axis.set(null)); });
    hint.className = "note";
    hint.textContent = "Drag along an axis, or use its arrow keys, to choose trials here, in the other drawings and in the table.";
    controls.append(all, hint, output);
  }
})();
