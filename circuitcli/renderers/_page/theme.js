/* Light or dark: as the system says, until the button was pressed. Colours have their home in page.css. */

const DARK = matchMedia("(prefers-color-scheme: dark)");
const NAMES = ["page", "paper", "ink", "facts", "line", "raises", "lowers", "raises-tint", "lowers-tint", "shade", "on-shade", "focus", "group", "gained", "lost", "changed", "unchanged"];
let COLORS = {};

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

/* Take on a theme, before anything is drawn on canvas. */
function wear(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
  const style = getComputedStyle(document.documentElement);
  COLORS = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

wear(DARK.matches);
