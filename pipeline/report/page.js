"use strict";

// Cells of a matrix: a click shows the cell's images, a second click hides them.
for (const button of document.querySelectorAll("[data-opens]")) {
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const section = button.closest("section");
    const wasOpen = button.getAttribute("aria-expanded") === "true";
    for (const other of section.querySelectorAll("[data-opens]")) other.setAttribute("aria-expanded", "false");
    const container = section.querySelector(".opened");
    container.replaceChildren();
    if (wasOpen) return;
    button.setAttribute("aria-expanded", "true");
    container.append(document.getElementById(button.dataset.opens).content.cloneNode(true));
  });
}

// Sortable tables: a click on a header sorts by its column, a second click reverses; missing values come last.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const column = header.cellIndex;
    const body = header.closest("table").tBodies[0];
    const order = header.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const valueOf = (row) => row.cells[column].dataset.value;
    const compare = (first, second) => {
      const [a, b] = [valueOf(first), valueOf(second)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = [Number(a), Number(b)];
      const difference = numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
      return order === "ascending" ? difference : -difference;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
