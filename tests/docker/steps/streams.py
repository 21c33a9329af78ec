"""Guesses the streams of others, and holds a thousand of its own."""

import os
import sys

from agent import CLOSE, FULL, OK, OPEN, UNKNOWN, Agent, ask, plain, tell

HOST, OWN, OTHER = sys.argv[1:4]
request = plain("GET", f"/registry/{HOST}/acme/private/simple/acme-hello/")

# A stream that there is, by its true name, at another build's socket; and names that never were.
mine, theirs, known = Agent(OWN), Agent(OTHER), bytes([7] * 16)
status, _, first = mine.exchange(known, OPEN, request)
assert (status, first[:12]) == (OK, b"HTTP/1.1 200"), (status, first)
answers = {theirs.exchange(known, 0, b"", len(request), 0, 0)}
for _ in range(500):
    answers.add(theirs.exchange(os.urandom(16), 0, b"", len(request), 0, 0))
print(f"<guessed> {answers}", flush=True)
assert answers == {(UNKNOWN, True, b"")} or answers == {(UNKNOWN, False, b"")}, answers
assert mine.exchange(known, 0, b"", len(request), 0)[2][:12] == b"HTTP/1.1 200", "the stream is still its own"

names = [bytes([1]) + number.to_bytes(15, "big") for number in range(1000)]
statuses = [mine.exchange(name, OPEN, b"GET /registry/", 0, 0, 0, 0)[0] for name in names]
print(f"<held> {statuses.count(OK)} {statuses.count(FULL)}", flush=True)
tell("other build", ask(OTHER, request))
tell("own build", ask(OWN, request))
for name in names:
    mine.exchange(name, CLOSE, b"", 14, 0, 0, 0)
tell("afterwards", ask(OWN, request))
