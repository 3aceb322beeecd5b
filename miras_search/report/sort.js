// A click on the head of a column orders the rows by it: numbers by data-v, missing ones last.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  for (const head of heads) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const numbers = head.classList.contains("n");
      const value = (row) => {
        const cell = row.cells[head.cellIndex];
        return numbers ? parseFloat(cell.dataset.v) : cell.textContent;
      };
      const order = (a, b) => {
        if (!numbers) return sign * ((a > b) - (a < b));
        return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
    });
  }
}
