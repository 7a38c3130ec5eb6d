"""What the rows of a ranked set cost: memory and seconds from `rank.path` to what training reads.

Each number of groups gets a store of its own. One process reads the set, ranks it and loads it for
training; then several load it at once, as the processes of a training do. Another writes as many
rows of a scripted sampler, which has them ready, as the sample stage does. Memory is the kernel's:
USS is what a process has alone, PSS also its share of pages that others have. The pages of a mapped
file are a process's own while no other has them, and the kernel takes them back where it needs to.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

RESPONSES, TOKENS = 4, 300
SAMPLED = 50
"""Tokens of a row that a scripted sampler writes."""
PHASES = ("start", "read", "rank", "load")
"""Python with its libraries; the set in tokens, in the store; ranked; ready to be trained on."""
WRITE = "write"
_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def measure(sizes: Sequence[int], processes: int) -> Iterator[dict[str, Any]]:
    """A row for each number of groups and each phase, one for `processes` that load at once, and
    one for a sampler's rows.

    Yields:
        groups, phase, processes; seconds of the phase, and cpu_seconds, those of the workers that
        it started among them; uss_mib and pss_mib behind it, of the largest process; peak_mib, the
        most that was resident until then.
    """
    for groups in sizes:
        with tempfile.TemporaryDirectory(prefix="rankdistill-rows-") as folder:
            _prepare(Path(folder), groups)
            for row in _together(folder, 1, PHASES[1:]):
                yield {"groups": groups, **row}
            if processes > 1:
                *_, row = _together(folder, processes, PHASES[-1:])
                yield {"groups": groups, **row}
            *_, row = _together(folder, 1, [WRITE])
            yield {"groups": groups, **row}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """For a person."""
    names = ("groups", "processes", "phase", "seconds", "cpu_seconds", "uss_mib", "pss_mib",
             "peak_mib")  # fmt: skip
    return table_of(rows, names)


def table_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """Some fields of rows, for a person."""
    shown = Table(box=box.SIMPLE)
    for name in names:
        text = isinstance(rows[0][name], str)
        shown.add_column(name.replace("_", " "), justify="left" if text else "right")
    for row in rows:
        shown.add_row(*(f"{row[n]:,.1f}" if isinstance(row[n], float) else f"{row[n]:,}"
                        if isinstance(row[n], int) else row[n] for n in names))  # fmt: skip
    return shown


def random_model(folder: Path, hidden: int, layers: int) -> None:
    """A model of random weights, whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = ["<pad>", "|", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="|", chat_template=_TEMPLATE
    ).save_pretrained(folder)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=hidden, intermediate_size=hidden,
            num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=4096,
            eos_token_id=1, pad_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip


def _prepare(folder: Path, groups: int) -> None:
    """A ranked set, and a model of a few weights to train on it."""
    random_model(folder / "model", hidden=8, layers=1)
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
             for _ in range(2000)]  # fmt: skip

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length // 3))[:length]

    with open(folder / "set.jsonl", "w", encoding="utf-8") as file:
        for _ in range(groups):
            responses = [
                {"text": text(TOKENS - 1), "score": draw.random()} for _ in range(RESPONSES)
            ]
            file.write(json.dumps({"prompt": text(80), "responses": responses}) + "\n")


def _together(folder: str, count: int, phases: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The phases in `count` processes; of each phase the row of the largest one."""
    command = [sys.executable, "-m", "rankdistill.bench.rows", folder, *phases]
    home = {**os.environ, "RANKDISTILL_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=home)
            )
            for _ in range(count)
        ]
        for phase in ("start", *phases):
            for process in started:  # one after the other, so that none is short of a core
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                _said(process)
            rows = []
            for process in started:  # when all have reached the same point
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                rows.append(json.loads(_said(process)))
            yield {"processes": count, **max(rows, key=lambda row: row["uss_mib"]), "phase": phase}


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"A process of the benchmark ended with {process.wait()}.")
    return line


def _cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    return sum(os.times()[:4])


def _memory() -> dict[str, float]:
    """MiB of this process, by /proc of Linux."""
    fields = dict[str, float]()
    for file in ("/proc/self/smaps_rollup", "/proc/self/status"):
        for line in Path(file).read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith("kB"):
                fields[name] = int(value.split()[0]) / 1024
    own = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"uss_mib": own, "pss_mib": fields["Pss"], "peak_mib": fields["VmHWM"]}


def _write(run: Any, folder: Path) -> None:
    """The rows of a scripted sampler to the prompts of the set, one by one into the store."""
    from rankdistill.models import Rows
    from rankdistill.sample import Sampler
    from rankdistill.stages.run import Run
    from rankdistill.stages.sample import sample

    response = {
        "text": "y" * SAMPLED, "token_ids": list(range(2, 2 + SAMPLED)), "finish_reason": "length"
    }  # fmt: skip

    class Scripted(Sampler):
        name = "scripted"

        def sample(self, model: Any, requests: Any, options: Any, source: str, *, done: Any = ()):
            for prompt_id, _ in requests:
                yield prompt_id, [{**response, "source": source}]

    run = Run(replace(run.settings, sampler=Scripted()), run.store, folder)
    with open(folder / "set.jsonl", encoding="utf-8") as file:
        prompts = [
            {
                "prompt_id": str(number), "split": "train",
                "messages": [{"role": "user", "content": json.loads(line)["prompt"]}],
            }
            for number, line in enumerate(file)
        ]  # fmt: skip
    sample(run, run.start, Rows(prompts, "set"), "student", 1)


def _work(folder: Path, phases: Sequence[str]) -> None:
    """One process: a line when a phase is done, and its row when it is asked."""
    from rankdistill.models import Rows
    from rankdistill.plan.compose import composed
    from rankdistill.stages.rank import existing, rank
    from rankdistill.stages.run import Run
    from rankdistill.store import Store
    from rankdistill.train.groups import load_groups, own_groups

    out, sys.stdout = sys.stdout, sys.stderr  # what the stages say is for nobody
    settings, *_ = composed(
        [
            "recipe=ranked_set", f"rank.path={folder}/set.jsonl", f"teacher.path={folder}/model",
            "sample.sampler=transformers", "rank.max_response_tokens=null",
            "prompts.limit={train: null, validation: null, heldout: null}",
            "prompts.splits={train: 0.8, validation: 0.1, heldout: 0.1}",
        ]
    )  # fmt: skip
    run = Run(settings, Store(), folder)
    trained: Any = None
    imported: Any = None
    for phase in ("start", *phases):
        sys.stdin.readline()
        began, cpu = time.monotonic(), _cpu_seconds()
        if phase == "read":
            imported = existing(run)
        elif phase == "rank":
            rank(run, imported)
        elif phase == WRITE:
            _write(run, folder)
        elif phase == "load":
            ranked = rank(run, existing(run))
            rows = Rows.of(ranked, run.start).of_splits("train").rows
            tokenizer = run.start.tokenizer()
            trained = load_groups(own_groups(rows, tokenizer), tokenizer, None)
            assert len(trained) > 0
        spent = {
            "seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - cpu
        }  # fmt: skip
        print("done", file=out, flush=True)
        sys.stdin.readline()
        print(json.dumps({**spent, **_memory()}), file=out, flush=True)
    sys.stdin.read()  # what others map is shared only as long as this process has it too


if __name__ == "__main__":
    _work(Path(sys.argv[1]), sys.argv[2:])
