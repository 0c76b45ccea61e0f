// Dialogs that ask before something is done. Each is a <dialog> with a link that opens it and one
// that closes it, which has the focus first; without scripts both are links to the page.

export class Dialog {
  constructor(id) {
    this.node = document.getElementById(id);
    if (!this.node) return;
    // What the server drew open becomes a modal one.
    const opened = this.node.open;
    this.node.close();
    document.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.target.closest(`[data-opens="${id}"]`)) this.#show(event);
      else if (this.open && event.target.closest("[data-closes]")) this.#hide(event);
    });
    if (opened) this.#show();
  }

  get open() {
    return Boolean(this.node?.open);
  }

  close() {
    this.node?.close();
  }

  #show(event) {
    event?.preventDefault();
    this.node.showModal();
    this.node.querySelector("[data-closes]").focus();
  }

  #hide(event) {
    event.preventDefault();
    this.close();
  }
}
