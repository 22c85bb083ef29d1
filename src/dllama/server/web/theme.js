// Runs before anything is drawn, so that a chosen theme does not flash: sets the theme that the person chose.
{
  try {
    const theme = localStorage.getItem("dllama.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // the browser blocks storage: the system's theme
  }
}
