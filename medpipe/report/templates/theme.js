"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  let theme = 0;
  button.addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    if (theme) root.dataset.theme = themes[theme];
    else delete root.dataset.theme;
    button.textContent = `Theme: ${themes[theme]}`;
  });
})();
