"""Shares of the fleet: who may use what, who gets how much, who goes first, and what it came to."""
