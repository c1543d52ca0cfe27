// The conversation: questions, streamed answers, and what is said of each.

import { ask, stream } from "/page/api.js";
import { byId, count, listed, make, say } from "/page/elements.js";
import { MarkdownView } from "/page/markdown.js";

const NEAR_PX = 80; // so near to its end, the conversation follows the answer

export class Chat {
  #turns = []; // {role, content}; an answer without content is left out of the next question
  #abort = null;
  #model;
  #nameOf;

  /** `model` is the chosen one, `nameOf` a peer's name by its id, null for this machine. */
  constructor(model, nameOf) {
    this.#model = model;
    this.#nameOf = nameOf;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.forget());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
  }

  stop() {
    this.#abort?.abort();
  }

  forget() {
    this.stop();
    this.#turns = [];
    byId("turns").replaceChildren();
    byId("empty").hidden = false;
    byId("question").focus();
  }

  #send() {
    const text = byId("question").value.trim();
    if (!text || this.#abort || !this.#model()) return;
    byId("question").value = "";
    byId("empty").hidden = true;
    this.#dropUnanswered();
    this.#turns.push({ role: "user", content: text });
    byId("turns").append(make("li", "question", make("span", "unseen", "You: "), text));
    this.#answer();
  }

  /** A question that got no answer is no part of what the model is shown: templates want turns to alternate. */
  #dropUnanswered() {
    if (this.#turns.at(-1)?.role === "user") this.#turns.pop();
  }

  async #answer() {
    const turns = this.#turns;
    const view = new AnswerView(this.#model());
    this.#busy(new AbortController());
    const abort = this.#abort;
    try {
      await this.#read(view, abort.signal);
    } catch (error) {
      if (abort.signal.aborted) view.end("Stopped.");
      else view.fail(error.message, () => this.#again(view));
    } finally {
      if (view.text) turns.push({ role: "assistant", content: view.text });
      this.#busy(null);
    }
  }

  #again(view) {
    if (this.#abort || this.#turns.at(-1)?.role !== "user") return;
    view.remove();
    this.#answer();
  }

  async #read(view, signal) {
    const body = {
      model: this.#model(),
      messages: this.#turns,
      stream: true,
      stream_options: { include_usage: true },
    };
    let reason = "";
    for await (const { event, data } of stream("/v1/chat/completions", { body, signal })) {
      if (event === "comment") {
        view.note(data);
      } else if (data === "[DONE]") {
        view.end(ENDS[reason] ?? "");
        return;
      } else {
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        reason = chunk.choices[0]?.finish_reason ?? reason;
        view.add(chunk.choices[0]?.delta ?? {});
        if (chunk.usage) view.account(chunk.usage, await this.#told(chunk));
      }
    }
    throw new Error("the answer broke off");
  }

  /** What the swarm did for an answer. Lost hops are not in its route, but have seen the prompt all the same. */
  async #told({ id, peerllm }) {
    const changes = peerllm.recoveries ? (await ask(`/peerllm/v1/requests/${encodeURIComponent(id)}`)).changes : [];
    const hops = peerllm.route.map((hop) => hopOf(hop, this.#nameOf));
    const lost = changes.map((change) => this.#nameOf(change.peer_id)).filter((name) => name !== null);
    const others = [...new Set([...hops.filter((hop) => hop.other).map((hop) => hop.name), ...lost])];
    return { ...peerllm, hops, others };
  }

  #busy(abort) {
    this.#abort = abort;
    byId("send").hidden = abort !== null;
    byId("stop").hidden = abort === null;
    if (!abort) byId("question").focus({ preventScroll: true });
  }
}

const WAITING = "waiting for the first token";
const SEEN_BY = /hidden states/; // in a note that stays true when the answer has ended
const ENDS = { length: "Cut at the length limit." };

/** One answer as it is shown. */
class AnswerView {
  text = "";
  #reasoning = "";
  #frame = 0;
  #shown = make("div", "text");
  #thoughts = make("details", "", make("summary", "", "Reasoning"), make("p", ""));
  #note = make("p", "note", WAITING);
  #account = make("p", "fine");
  #route = make("p", "route");
  #item;
  #markdown = new MarkdownView(this.#shown);

  constructor(model) {
    this.#thoughts.hidden = true;
    const about = make("div", "about", this.#note, this.#route, this.#account);
    this.#item = make("li", "answer", make("span", "unseen", `${model}: `), this.#thoughts, this.#shown, about);
    this.#item.setAttribute("aria-busy", "true"); // read out when it is complete, not piece by piece
    byId("turns").append(this.#item);
    toTheEnd();
  }

  remove() {
    this.#item.remove();
  }

  /** What the daemon says of an answer under way: who sees the prompt, or what it waits for. */
  note(text) {
    if (text !== "keep-alive") say(this.#note, text);
  }

  add({ content, reasoning_content: reasoning }) {
    if (!content && !reasoning) return;
    this.text += content ?? "";
    this.#reasoning += reasoning ?? "";
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  account(usage, told) {
    const follows = isNearTheEnd();
    this.#tell(usage, told);
    if (follows) toTheEnd();
  }

  #tell(usage, { hops, others, ttft_s, tokens_per_s, recoveries, rounds, accepted_tokens }) {
    const facts = [count(usage.completion_tokens, "token")];
    if (tokens_per_s) facts.push(`${tokens_per_s.toFixed(1)} tokens/s`);
    if (accepted_tokens) facts.push(`${(accepted_tokens / rounds).toFixed(1)} guessed right per round`);
    if (ttft_s) facts.push(`first token after ${ttft_s.toFixed(2)} s`);
    if (recoveries) facts.push(`${count(recoveries, "lost hop")} replaced`);
    say(this.#account, facts.join(" · "));
    this.#route.replaceChildren(...hops.map(({ span, name }) => make("span", "hop", make("b", "", span), ` ${name}`)));
    say(this.#note, `This prompt's hidden states were seen by ${others.length ? listed(others) : "no other machine"}.`);
  }

  end(remark) {
    this.#draw();
    this.#item.removeAttribute("aria-busy");
    if (remark) this.#account.prepend(remark, " ");
    if (!SEEN_BY.test(this.#note.textContent)) this.#note.remove();
  }

  fail(message, again) {
    this.end("");
    const button = make("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", again);
    const failure = make("div", "alert", make("p", "", message));
    if (!this.text) failure.append(button);
    failure.setAttribute("role", "alert");
    this.#item.append(failure);
    toTheEnd();
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const follows = isNearTheEnd();
    this.#markdown.show(this.text);
    this.#thoughts.hidden = !this.#reasoning;
    say(this.#thoughts.lastChild, this.#reasoning);
    if (follows) toTheEnd();
  }
}

/** A hop, "0:12@12D3Koo…", with its peer's name. */
function hopOf(hop, nameOf) {
  const [span, id = ""] = hop.split("@");
  const name = nameOf(id);
  return { span, name: name ?? "this machine", other: name !== null };
}

function isNearTheEnd() {
  const box = byId("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PX;
}

function toTheEnd() {
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
}
