// The grid of containers is one stop for the Tab key; arrow keys move in it.

export function startGrid() {
  const grid = document.querySelector("[data-grid]");
  if (!grid) return;
  settle(grid);
  document.addEventListener("cts:changed", () => {
    const now = document.querySelector("[data-grid]");
    if (now) settle(now);
  });
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.("[data-grid] .cell");
    if (cell && !event.ctrlKey && !event.metaKey && !event.altKey) move(event, cell);
  });
  for (const kind of ["focusin", "mouseover"]) {
    document.addEventListener(kind, (event) => {
      const cell = event.target.closest?.("[data-grid] .cell");
      if (cell) document.getElementById("grid-tip").textContent = `Container ${cell.getAttribute("aria-label")}`;
    });
  }
}

function settle(grid) {
  const cells = [...grid.querySelectorAll(".cell")];
  const current = cells.includes(document.activeElement) ? document.activeElement : cells[0];
  for (const cell of cells) {
    const wanted = cell === current ? "0" : "-1";
    if (cell.getAttribute("tabindex") !== wanted) cell.setAttribute("tabindex", wanted);
  }
}

function move(event, cell) {
  const cells = [...cell.closest("[data-grid]").querySelectorAll(".cell")];
  const at = cells.indexOf(cell);
  const top = cells[0].offsetTop;
  const below = cells.findIndex((c) => c.offsetTop > top);
  const row = below < 0 ? cells.length : below;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -at, End: cells.length - 1 - at };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = cells[Math.max(0, Math.min(cells.length - 1, at + steps[event.key]))];
  cell.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}
