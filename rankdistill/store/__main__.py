"""`python -m rankdistill.store`: lists, shows, verifies, removes, pushes and pulls outputs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rankdistill import shell
from rankdistill.errors import UserError, suggest
from rankdistill.shell import Parser
from rankdistill.store import inventory
from rankdistill.store import manifest as manifests
from rankdistill.store.attempt import read_record
from rankdistill.store.faults import explained
from rankdistill.store.files import json_bytes
from rankdistill.store.inventory import Entry
from rankdistill.store.outputs import Store
from rankdistill.store.words import age_text, counted, parse_age, size_text


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code: 0, 1 for damage found or "no" answered, 2 for a mistake."""
    try:
        options = _parser().parse_args(arguments)
        store = Store()
        with explained(store.root):
            return options.run(store, options)
    except BrokenPipeError:
        # `... | head` has seen enough; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m rankdistill.store",
        description="Outputs of stages in $RANKDISTILL_HOME (~/.cache/rankdistill). "
        "Without a command: list them.",
    )
    parser.set_defaults(run=list_outputs)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    keys = "key, or the beginning of only one key"

    command = commands.add_parser("list", help="list outputs, sizes and ages")
    command.set_defaults(run=list_outputs)

    command = commands.add_parser("show", help="print an output's manifest")
    command.add_argument("key", metavar="KEY", help=keys)
    command.set_defaults(run=show)

    command = commands.add_parser("verify", help="read every byte and compare the checksums")
    command.add_argument("keys", metavar="KEY", nargs="*", help=f"{keys}; none: all outputs")
    command.set_defaults(run=verify)

    command = commands.add_parser("push", help="upload complete outputs to $RANKDISTILL_REMOTE")
    command.add_argument("keys", metavar="KEY", nargs="*", help=f"{keys}; none: all outputs")
    command.set_defaults(run=push)

    command = commands.add_parser("pull", help="download outputs from $RANKDISTILL_REMOTE")
    command.add_argument("keys", metavar="KEY", nargs="*", help="whole key; none: all there are")
    command.set_defaults(run=pull)

    command = commands.add_parser(
        "remove",
        help="remove outputs",
        description="Removes the named outputs, or all that meet every given condition.",
    )
    command.add_argument("keys", metavar="KEY", nargs="*", help=keys)
    command.add_argument("--stage", metavar="S", help="outputs of this stage")
    command.add_argument("--older-than", metavar="30d", help="finished that long ago (s m h d w)")
    command.add_argument("--partial", action="store_true", help="unfinished outputs")
    command.add_argument("--all", action="store_true", help="everything")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=remove)
    return parser


def list_outputs(store: Store, options: argparse.Namespace) -> int:
    """Prints the table of all outputs and the totals."""
    with shell.uncollected():  # there may be tens of thousands
        if found := inventory.entries(store):
            _print_totals(store, found)
        else:
            print(f"No outputs in {store.root}.")
    if others := inventory.foreign(store):
        print(_not_ours(others))
    return 0


def _print_totals(store: Store, found: list[Entry]) -> None:
    _print_table(found)
    complete = [entry for entry in found if entry.complete]
    total = f"{counted(len(complete), 'output')}, {_size_of(complete)}"
    if len(complete) < len(found):
        unfinished = [entry for entry in found if not entry.complete]
        total += f"; {len(unfinished):,} unfinished, {_size_of(unfinished)}"
    print(f"{total}; in {store.root}")


def _not_ours(others: list[str]) -> str:
    named = ", ".join(map(_printable, others[:3]))
    more = ", ..." if len(others) > 3 else ""
    return f"{counted(len(others), 'folder')} not ours, never removed: {named}{more}"


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def show(store: Store, options: argparse.Namespace) -> int:
    """Prints the manifest of an output, or the record of one in the making."""
    key = _resolve(store, options.key)
    manifest = manifests.read(store.output_path(key)) or read_record(store.partial_path(key))
    if manifest is None:
        raise UserError(f"{key} is unfinished and has no record yet in {store.root}.")
    print(json_bytes(manifest).decode("utf-8", "replace"))
    return 0


def verify(store: Store, options: argparse.Namespace) -> int:
    """Compares every file with its checksum; exit code 1 if one differs."""
    chosen = [_resolve(store, name) for name in options.keys] or sorted(inventory.keys(store))
    damaged_outputs = checked = 0
    for key in chosen:
        folder = store.output_path(key)
        if not folder.exists():
            if options.keys:
                print(f"{key}: unfinished, nothing to compare with")
            continue
        damaged = manifests.damaged_files(folder, manifests.read(folder), every_byte=True)
        checked += 1
        damaged_outputs += bool(damaged)
        print(f"{key}: " + (f"damaged: {', '.join(damaged)}" if damaged else "intact"), flush=True)
    print(f"{counted(checked, 'output')} verified, {damaged_outputs:,} damaged")
    if damaged_outputs:
        print("Damaged ones are made again by their command after `... remove KEY`.")
    damaged_models = 0 if options.keys else _verify_models(store)
    return 1 if damaged_outputs or damaged_models else 0


def _verify_models(store: Store) -> int:
    """The same for converted models, see `rankdistill.models.convert`; how many are damaged."""
    sealed = {f: m for f in sorted(store.root.glob("models/*")) if (m := manifests.read(f))}
    damaged = {
        folder: names
        for folder, manifest in sealed.items()
        if (names := manifests.damaged_files(folder, manifest, every_byte=True))
    }
    for folder, names in damaged.items():
        print(f"{folder}: damaged: {', '.join(names)}; remove the folder to convert it again")
    if sealed:
        print(f"{counted(len(sealed), 'converted model')} verified, {len(damaged):,} damaged")
    return len(damaged)


def push(store: Store, options: argparse.Namespace) -> int:
    """Uploads the named outputs, or all complete ones."""
    chosen = [_resolve(store, name) for name in options.keys]
    if not chosen:
        chosen = [entry.key for entry in inventory.entries(store) if entry.state == "complete"]
    sent = 0
    for key in chosen:
        size = store.push(key)
        sent += size
        print(f"{key}: {size_text(size) if size else 'was there'}", flush=True)
    print(f"{counted(len(chosen), 'output')} in the remote store, {size_text(sent)} sent")
    return 0


def pull(store: Store, options: argparse.Namespace) -> int:
    """Downloads the named outputs, or all that the remote store has."""
    known = store.remote_keys()
    for name in options.keys:
        if name not in known:
            raise UserError(f"No output '{name}' in the remote store: {suggest(name, known)}")
    failed = 0
    for key in options.keys or known:
        whole = store.find(key) is not None
        failed += not whole
        print(f"{key}: {'here' if whole else 'not taken'}", flush=True)
    return 1 if failed else 0


def remove(store: Store, options: argparse.Namespace) -> int:
    """Removes the chosen outputs after asking; 1 if the answer is no, 2 if one is being made."""
    chosen = _chosen(store, options)
    if not chosen:
        print(f"Nothing to remove in {store.root}.")
        return 0
    if not options.yes and not _confirmed(chosen):
        print("Nothing was removed.")
        return 1
    removed: list[Entry] = []
    busy: list[Entry] = []
    for entry in chosen:
        (removed if store.remove(entry.key) else busy).append(entry)
    if removed:
        print(f"Removed {counted(len(removed), 'output')}, {_size_of(removed)}.")
    if busy:
        names = ", ".join(f"{entry.key} {entry.note}".strip() for entry in busy)
        raise UserError(f"Not removed, because it is being made ({names}): stop that first.")
    return 0


def _chosen(store: Store, options: argparse.Namespace) -> list[Entry]:
    if options.keys:
        if options.stage or options.older_than or options.partial or options.all:
            raise UserError("Give either keys or conditions to remove, not both.")
        named = dict.fromkeys(_resolve(store, name) for name in options.keys)
        return [inventory.entry_of(store, key) for key in named]
    if not (options.stage or options.older_than or options.partial or options.all):
        raise UserError(
            "Say what to remove: KEY..., --stage S, --older-than 30d, --partial or --all."
        )
    age = None
    if options.older_than and (age := parse_age(options.older_than)) is None:
        raise UserError(
            f"--older-than {options.older_than} is not an age: write 45s, 90m, 12h, 30d or 2w."
        )
    entries = inventory.entries(store)
    stages = {entry.stage for entry in entries}
    if options.stage and entries and options.stage not in stages:
        raise UserError(
            f"No outputs of the stage '{options.stage}': {suggest(options.stage, stages)}"
        )
    return [
        entry
        for entry in entries
        if (not options.stage or entry.stage == options.stage)
        and (age is None or entry.age_seconds >= age)
        and (not options.partial or not entry.complete)
    ]


def _resolve(store: Store, name: str) -> str:
    """The key that is, or begins with, `name`."""
    known = inventory.keys(store)
    if name in known:
        return name
    place = next((p for p in inventory.foreign(store) if name in (p, p.partition("/")[2])), None)
    if place is not None:
        raise UserError(
            f"{_printable(place)} in {store.root} is not ours: an output is a folder, not a link, "
            "and called <stage>-<16 hex digits>; the store never removes anything else."
        )
    matching = sorted(key for key in known if key.startswith(name)) if name else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"{len(matching)} outputs begin with '{name}': {', '.join(matching[:5])}.")
    if not known:
        raise UserError(f"No output '{name}': there is none in {store.root}.")
    raise UserError(f"No output '{name}' in {store.root}: {suggest(name, known)}")


def _confirmed(chosen: list[Entry]) -> bool:
    what = f"{counted(len(chosen), 'output')} ({_size_of(chosen)})"
    if not sys.stdin.isatty():
        raise UserError(
            f"Removing {what} needs a yes, and there is no terminal to ask at: add --yes."
        )
    _print_table(chosen)
    return input(f"Remove {what}? [y/N] ").strip().lower() in ("y", "yes")


def _size_of(found: list[Entry]) -> str:
    return size_text(sum(entry.size for entry in found))


def _print_table(found: list[Entry]) -> None:
    """Plain text, of which tens of thousands of lines take no time; the state is the last column.

    A terminal that is narrower wraps its lines.
    """
    lines = [("output", "size", "files", "rows", "age", "state")]
    for entry in found:
        rows = "" if entry.rows is None else f"{entry.rows:,}"
        age = age_text(entry.age_seconds)
        lines.append((entry.key, size_text(entry.size), f"{entry.files:,}", rows, age, entry.state))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(["{:<%d}", "{:>%d}", "{:>%d}", "{:>%d}", "{:>%d}"]) % tuple(widths[:-1])
    print("\n".join(f"{form.format(*line[:-1])}  {line[-1]}" for line in lines))
    for entry in found:
        if entry.note:
            print(f"{entry.key} {entry.state}: {entry.note}")


if __name__ == "__main__":
    sys.exit(shell.run(main))
