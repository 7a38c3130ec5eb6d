"""Search: passages that a cheap first stage finds, re-ranked by what learned an LLM's ranking."""
