// Dash gives its sliders no name, and the number that they hold is of doublings: those who cannot see them hear the label
// and the value of the field.
new MutationObserver(() => {
  for (const slider of document.querySelectorAll("[id$='-slider'] [role=slider]")) {
    const field = document.getElementById(slider.closest("[id$='-slider']").id.replace("-slider", ""));
    slider.setAttribute("aria-label", field.labels[0].textContent);
    slider.setAttribute("aria-valuetext", field.value);
  }
}).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["value", "aria-valuenow"] });
