// Classic and early, so that the page is never painted in the wrong theme.
(() => {
  const themes = ["auto", "light", "dark"];
  const read = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden; the system's choice will do
    }
  };
  const root = document.documentElement;
  let theme = themes.includes(read()) ? read() : "auto";
  root.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const words = button.querySelector("[data-part=theme]");
    words.textContent = theme;
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      root.dataset.theme = theme;
      words.textContent = theme;
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // It lasts as long as the page then.
      }
    });
  });
})();
