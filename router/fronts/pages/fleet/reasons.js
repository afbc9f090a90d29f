// Reasons of decisions, each with the colour that it has in lists and plots. The word always stands beside the colour.

const KINDS = {
  "kv-home": "kind-0",
  "session-pin": "kind-0",
  hash: "kind-0",
  "kv-prefix": "kind-1",
  "prefix-match": "kind-1",
  "lora-loaded": "kind-1",
  "kv-cold": "kind-2",
  "least-load": "kind-2",
  "power-of-two": "kind-2",
  "round-robin": "kind-2",
  random: "kind-2",
  "lora-room": "kind-2",
  "kv-moved": "kind-3",
  "session-moved-overload": "kind-3",
  "session-moved-gone": "kind-3",
  "hash-spill": "kind-3",
  "lora-swap": "kind-3",
  admission: "kind-4",
  "no-candidates": "kind-5",
  "unknown-model": "kind-5",
  "no-model": "kind-5",
  "fail-open": "kind-5",
};

/** Class of a reason: it stayed, found a prefix, went anywhere, moved, was refused, or went wrong. */
export function kindOf(reason) {
  return KINDS[reason] || "kind-6";
}
