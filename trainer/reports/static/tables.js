/* A click on a column's head sorts the rows of a table of class "sortable"; cells may hold their value in data-value.
   Otherwise it is their text without notes: a number, also with thousands separated or a percent sign. */
(() => {
  "use strict";
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const words = [...cell.childNodes].filter(node => !node.classList?.contains("note")).map(node => node.textContent);
    const text = cell.dataset.value ?? words.join("").trim(), plain = text.replace(/,(?=\d{3})/g, "").replace(/%$/, "");
    return text === "" || text === "undefined" || text === "-" ? null : isNaN(plain) ? text : Number(plain);
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);

  function sort(table, heads, column) {
    const head = heads[column];
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map(row => [valueOf(row, column), row]);
    // Rows without a value come last, in both directions.
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, heads, column));
      head.append(button);
    });
  }
})();
