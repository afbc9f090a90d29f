// The page of one edge: who looks, what is shown, which keys do what.

import { access, ask, Refused } from "./api.js";
import { showDecision } from "./decision.js";
import { Decisions } from "./decisions.js";
import { byId, setText } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Events } from "./events.js";
import { showExplain } from "./explain.js";
import { Fleet } from "./fleet.js";
import { bindKeys, bindToken } from "./keys.js";
import { Live } from "./live.js";
import { Plots } from "./plots.js";
import { showPolicy } from "./policy.js";
import { showReplica } from "./replica.js";
import { drawStrip } from "./strip.js";

const RETRY_MS = 2000;

const drawer = new Drawer();
const live = new Live();
let roles = [];
const mayOperate = () => roles.includes("operate");

const openReplica = (id, wants = "") => showReplica(drawer, live, id, { mayOperate, wants });
const openDecision = (id) => showDecision(drawer, id);
const openPolicy = () => showPolicy(drawer, live, { mayOperate });
const openExplain = () => showExplain(drawer, live);

drawStrip(live);
new Fleet(live, { open: openReplica, act: (wants, id) => openReplica(id, wants), mayOperate });
const decisions = new Decisions(live, { open: openDecision });
const events = new Events(live, { open: openReplica });
new Plots(live);

const askForToken = bindToken({ started: start, forgotten: end });
access.onWanted = () => {
  end();
  askForToken();
};

const step = (by) => {
  const id = decisions.step(by);
  if (id && drawer.kind === "decision") openDecision(id);
};
bindKeys({
  drawer,
  decisions,
  on: {
    "/": () => byId("filter").focus(),
    j: () => step(1),
    k: () => step(-1),
    Enter: () => decisions.selected && openDecision(decisions.selected),
    " ": () => decisions.pause(!decisions.paused),
    e: openExplain,
    p: openPolicy,
    "?": () => byId("help").showModal(),
  },
});
byId("open-policy").addEventListener("click", openPolicy);
byId("open-explain").addEventListener("click", openExplain);

/** Show what the caller may see. */
function start(caller) {
  roles = caller.roles;
  const button = byId("open-token");
  button.hidden = !access.token;
  setText(button, mayOperate() ? caller.name : `${caller.name}, may only look`);
  live.start({ onRefused: refused });
  decisions.start();
  events.start();
}

function end() {
  roles = [];
  live.stop();
  decisions.stop();
  events.stop();
}

/** What keeps the page from being shown: a token without the role, or a page of another machine. */
function refused(error) {
  if (error.status === 401) return;
  const notice = byId("notice");
  notice.hidden = false;
  setText(notice, error.message);
  setText(byId("as-of"), "not shown");
}

async function begin() {
  try {
    start((await ask("/v1/whoami")).data);
  } catch (error) {
    if (error instanceof Refused) {
      refused(error);
      byId("open-token").hidden = error.status !== 403;
    } else {
      setText(byId("as-of"), "this edge does not answer");
      setTimeout(begin, RETRY_MS);
    }
  }
}

begin();
