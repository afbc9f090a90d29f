// The latest document of /v1/live, and the figures of those before it, as long as the page is open.

import { follow } from "./api.js";

/** Documents kept, one a second: five minutes. */
export const KEPT = 300;

/** Seconds that a plot is wide: it grows by whole minutes with what is known. */
export function spanOf(seconds) {
  return Math.min(KEPT, 60 * Math.max(1, Math.ceil(seconds / 60)));
}

/** Without a document for so long, what is shown is old. */
const STALE_MS = 3500;

/** A stream that is silent for longer is given up. */
const QUIET_MS = 8000;

export class Live {
  constructor() {
    this.latest = null;
    /** Figures by second, oldest first: what the plots draw. */
    this.past = [];
    /** By replica id: requests in flight, live KV and backlog by second, oldest first. */
    this.replicas = new Map();
    /** Changes of the policy, to mark on plots: {at, text}. */
    this.marks = [];
    this.heardAt = 0;
    this.retryAt = 0;
    this.whoLooks = [];
    this.stop = () => {};
  }

  /** Call `look` with each document. */
  each(look) {
    this.whoLooks.push(look);
    if (this.latest) look(this.latest);
  }

  start({ onRefused }) {
    this.stop();
    this.stop = follow("/v1/live?follow=true", {
      quietMs: QUIET_MS,
      take: (kind, document) => kind === "live" && this.take(document),
      onBroken: (waitMs) => {
        this.retryAt = Date.now() + waitMs;
      },
      onRefused,
    });
  }

  get stale() {
    return this.latest !== null && Date.now() - this.heardAt > STALE_MS;
  }

  take(document) {
    this.latest = document;
    this.heardAt = Date.now();
    this.retryAt = 0;
    keep(this.past, figuresOf(document));
    for (const replica of document.replicas) {
      let past = this.replicas.get(replica.id);
      if (!past) this.replicas.set(replica.id, (past = { in_flight: [], kv_live: [], backlog_ms: [], at: [] }));
      keep(past.in_flight, replica.in_flight);
      keep(past.kv_live, replica.kv_live ?? replica.kv_used ?? null);
      keep(past.backlog_ms, replica.backlog_ms);
      keep(past.at, Date.parse(document.at));
      past.seen = this.heardAt;
    }
    for (const [id, past] of this.replicas) if (past.seen !== this.heardAt) this.replicas.delete(id);
    for (const look of this.whoLooks) look(document);
  }
}

function keep(past, value) {
  past.push(value);
  if (past.length > KEPT) past.shift();
}

function figuresOf(document) {
  const backlogs = document.replicas.map((replica) => replica.backlog_ms).sort((one, other) => one - other);
  return {
    at: Date.parse(document.at),
    ttft: document.ttft_ms,
    reasons: document.by_reason,
    requests: document.requests_per_s,
    hit: document.hit?.share ?? null,
    possible: document.hit?.share_best ?? null,
    backlogMost: backlogs.length ? backlogs[backlogs.length - 1] : null,
    backlogMiddle: backlogs.length ? backlogs[Math.floor(backlogs.length / 2)] : null,
    held: document.held,
    conversations: document.conversations.live,
  };
}

/** The model with most requests behind its percentiles; null without any. */
export function busiestModel(ttft) {
  const models = Object.entries(ttft || {});
  if (!models.length) return null;
  return models.reduce((most, one) => (one[1].count > most[1].count ? one : most))[0];
}
