"""Limits of a chat template: it is a program of whoever made the model, and may have no end.

Neither a loop nor an allocation can be stopped in the process that runs it, so a template is tried
first in a child, whose time and memory the kernel counts.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from rankdistill.errors import UserError

SECONDS = 5
"""Of CPU time for everything that is tried, which takes milliseconds."""
BYTES = 1 << 30
"""Beside what this process has."""

_TURNS = [
    {"role": role, "content": f"What the {role} says."}
    for role in ("system", "user", "assistant", "user")
]
_TRIED = (_TURNS, _TURNS[1:], _TURNS[1:3], _TURNS[1:2])
_TOOL = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_PATIENCE = 60
"""Seconds after which a child that computes nothing is given up: a lock that another thread held
when it was forked stays held in it."""
_OUT_OF_MEMORY = 3
"""The child's exit code."""
_ended: set[str] = set()
"""Templates that a child has written conversations with."""


def check_ends(tokenizer: Any) -> None:
    """Refuses a chat template that loops or allocates without end.

    It is found in short conversations, with and without a system message, an answer and a tool; a
    template that waits for certain words is not. Only Linux has the limits.

    Raises:
        UserError: `SECONDS` or `BYTES` are not enough for the template.
    """
    template = str(tokenizer.chat_template)
    if sys.platform != "linux" or template in _ended:
        return
    child = os.fork()
    if not child:
        _try(tokenizer)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGXCPU, _OUT_OF_MEMORY):
        most = f"{BYTES >> 30} GiB of memory" if code > 0 else f"{SECONDS} s"
        raise UserError(
            f"The chat template of '{tokenizer.name_or_path}' cannot write a conversation: a short "
            f"one takes more than {most}, so it may have no end."
        )
    _ended.add(template)


def _try(tokenizer: Any) -> NoReturn:
    """In the child, which it ends."""
    code = 0
    try:
        _limit()
        for turns in _TRIED:
            for tools in (None, [_TOOL]):
                _write(tokenizer, turns, tools)
    except MemoryError:
        code = _OUT_OF_MEMORY
    finally:
        os._exit(code)


def _limit() -> None:
    import resource  # which Windows lacks

    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    for number in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_PATIENCE)
    for limit, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, has + BYTES)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(
            limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


def _write(tokenizer: Any, turns: list[dict[str, str]], tools: list[dict[str, Any]] | None) -> None:
    try:
        tokenizer.apply_chat_template(
            turns, tools=tools, tokenize=False, add_generation_prompt=turns[-1]["role"] == "user"
        )
    except MemoryError:
        raise
    except Exception:  # what a template refuses is told of the conversation that it is given
        return
