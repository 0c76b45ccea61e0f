// The lock of a service is asked for in a dialog that begins with its reason.
import { Dialog } from "./dialog.js";

const reason = document.getElementById("lock-reason");
new Dialog("lock");
document.addEventListener("click", (event) => {
  if (reason && event.target.closest("[data-opens=lock]")) reason.focus();
});
