"use strict";

// The cells of a matrix: show the pictures behind the one that was chosen.
for (const button of document.querySelectorAll("[data-opens]")) {
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const section = button.closest("section");
    const wasOpen = button.getAttribute("aria-expanded") === "true";
    for (const other of section.querySelectorAll("[data-opens]")) other.setAttribute("aria-expanded", "false");
    const place = section.querySelector(".opened");
    place.replaceChildren();
    if (wasOpen) return;
    button.setAttribute("aria-expanded", "true");
    place.append(document.getElementById(button.dataset.opens).content.cloneNode(true));
  });
}

// Tables that sort: by the column whose head was chosen, again for the other way; what is not known comes last.
for (const button of document.querySelectorAll("table.sorts th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const way = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way);
    const valueOf = (row) => row.cells[column].dataset.value;
    const compare = (one, other) => {
      const [a, b] = [valueOf(one), valueOf(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = [Number(a), Number(b)];
      const order = numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
      return way === "ascending" ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
