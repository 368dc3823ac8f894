// Labels on their way to the server: kept in the browser until it has confirmed that they are on its disk.

const RETRY_MS = 2000;

class LabelQueue {
  /**
   * @param key Of the file of labels; what an earlier page of the same file could not send is sent by this one.
   * @param receive Called with the state that the server answers.
   * @param report Called with a sentence for the banner, empty where all is well.
   */
  constructor(key, receive, report) {
    this.name = `subcell-labels:${key}:${newId()}`;
    Object.assign(this, { receive, report, sending: false, waiting: [] });
    for (const name of Object.keys(localStorage).filter((other) => other.startsWith(`subcell-labels:${key}:`))) {
      this.waiting.push(...JSON.parse(localStorage.getItem(name)));
      localStorage.removeItem(name);
    }
    this.keep();
    window.addEventListener("online", () => this.send());
  }

  keep() {
    if (this.waiting.length) localStorage.setItem(this.name, JSON.stringify(this.waiting));
    else localStorage.removeItem(this.name);
  }

  add(records) {
    this.waiting.push(...records);
    this.keep();
    this.send();
  }

  /** Send what waits, in order; ids make a record that is sent twice count once. */
  async send() {
    if (this.sending || !this.waiting.length) return;
    this.sending = true;
    let batch = this.waiting.slice(0, 200);
    try {
      let answer = await post("labels", { records: batch });
      if (answer.status === 400 && batch.length > 1) {
        batch = batch.slice(0, 1);
        answer = await post("labels", { records: batch });
      }
      if (answer.status === 200 || answer.status === 400) this.waiting.splice(0, batch.length);
      this.keep();
      if (answer.status === 200) this.report("");
      else this.report(answer.status === 400 ? `A label was refused: ${answer.body.error}` : `${answer.body.error} ${this.kept()}`);
      if (answer.status === 200) this.receive(answer.body);
      this.sending = false;
      if (answer.status === 200 || answer.status === 400) this.send();
      else setTimeout(() => this.send(), RETRY_MS);
    } catch {
      this.sending = false;
      this.report(`Not connected to subcell annotate. ${this.kept()}`);
      setTimeout(() => this.send(), RETRY_MS);
    }
  }

  kept() {
    const count = this.waiting.length;
    return count ? `${count} ${count === 1 ? "label is" : "labels are"} kept in this browser and will be sent.` : "";
  }
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function post(path, content) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
  return { status: answer.status, body: await answer.json() };
}
