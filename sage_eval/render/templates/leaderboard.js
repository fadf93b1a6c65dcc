"use strict";
const table = document.querySelector("#leaderboard table"), body = table.tBodies[0], rows = [...body.rows];
const key = cell => {
  if (cell.cellIndex && !cell.classList.contains("n")) return cell.textContent;
  const number = cell.textContent.replaceAll("−", "-").match(/^[^\d]*?([-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)/);
  return cell.textContent.trim() === "–" ? NaN : number ? parseFloat(number[1].replaceAll(",", "")) : cell.textContent;
};
const compare = (a, b) => {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b));
  return a - b;
};
[...table.tHead.rows[0].cells].forEach((head, place) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const known = rows.filter(row => key(row.cells[place]) === key(row.cells[place]));
    known.sort((a, b) => (up ? 1 : -1) * compare(key(a.cells[place]), key(b.cells[place])));
    body.append(...known, ...rows.filter(row => !known.includes(row)));
  });
});
const filter = document.createElement("input");
filter.type = "search";
filter.placeholder = "filter: H200 fp8 equivalent …";
filter.setAttribute("aria-label", "show the rows that hold all of these words");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
table.closest(".scroll").before(filter);
