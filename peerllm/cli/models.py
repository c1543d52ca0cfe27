"""``peerllm pull | list | show | rm``: the models on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peerllm.config_sources import load_config
from peerllm.locations import Locations
from peerllm.sizes import format_bytes

if TYPE_CHECKING:
    from peerllm.model.spec import ModelSpec
    from peerllm.model.store import ListedModel, ModelStore

_MODEL_HELP = "catalog name, hf:owner/repo[:file.gguf][@revision], or path of a GGUF file or checkpoint folder"


class Subparsers(Protocol):
    """What ``ArgumentParser.add_subparsers`` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_commands(subparsers: Subparsers) -> None:
    """Add the four verbs; each parser's default ``run`` takes the parsed arguments and returns an exit code."""
    for verb, run, about in (
        ("pull", pull, "fetch a whole model and check it"),
        ("list", list_models, "models on this disk, or --catalog"),
        ("show", show, "what a model is: blocks, sizes, licence"),
        ("rm", remove, "delete what was fetched or cut for a model"),
    ):
        parser = subparsers.add_parser(verb, help=about, description=f"{about[0].upper()}{about[1:]}.")
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON")
        if run is list_models:
            parser.add_argument("--catalog", action="store_true", help="the models that have a short name")
        else:
            parser.add_argument("model", help=_MODEL_HELP)


def pull(args: argparse.Namespace) -> int:
    """Fetch the whole model."""
    from peerllm.model.pull import PullDisplay

    with PullDisplay(sys.stderr) as display:
        model = _store().pull(args.model, display)
    paths = [str(file.path) for file in model.files]
    if args.json:
        _print_json({**_facts(model.spec), "paths": paths, "downloaded_bytes": model.downloaded_bytes})
    else:
        print(f"{model.spec.name}: {format_bytes(model.downloaded_bytes)} downloaded, complete at {paths[0]}")
    return 0


def list_models(args: argparse.Namespace) -> int:
    """The models on this disk, or those of the catalog."""
    if args.catalog:
        return _list_catalog(as_json=args.json)
    listed = _store().list()
    if args.json:
        _print_json([_row(model) for model in listed])
    elif listed:
        _print_table(
            ("NAME", "BLOCKS", "TYPE", "ON DISK", "", "PATH"),
            [
                (
                    model.spec.name,
                    str(model.spec.blocks),
                    model.spec.quantisation,
                    format_bytes(model.disk_bytes),
                    "" if model.complete else "in part",
                    str(model.path),
                )
                for model in listed
            ],
        )
    else:
        print("no models on this disk; peerllm list --catalog shows what can be pulled by name")
    return 0


def show(args: argparse.Namespace) -> int:
    """What the model is."""
    from peerllm.model.pull import PullDisplay

    with PullDisplay(sys.stderr) as display:
        spec = _store().describe(args.model, display)
    if args.json:
        _print_json(_facts(spec))
        return 0
    smallest, largest = format_bytes(min(spec.block_bytes)), format_bytes(max(spec.block_bytes))
    kv_bytes = spec.kv_bytes_per_token()
    _print_table(
        (spec.name, ""),
        [
            ("architecture", f"{spec.architecture}, {spec.format} {spec.quantisation}"),
            ("blocks", str(spec.blocks)),
            ("D", f"{spec.hidden} ({spec.heads} heads, {spec.kv_heads} KV heads of {spec.head_dim})"),
            ("bytes per block", smallest if smallest == largest else f"{smallest} to {largest}"),
            ("embedding and head", format_bytes(spec.ends_bytes)),
            ("weights", format_bytes(sum(spec.block_bytes) + spec.ends_bytes)),
            ("KV bytes per token", f"{kv_bytes} per block, {format_bytes(kv_bytes * spec.blocks)} in all (float16)"),
            ("vocabulary", str(spec.vocab)),
            ("context", f"{spec.context_tokens} tokens"),
            ("licence", spec.licence or "not stated"),
            ("digest", spec.digest),
        ],
    )
    return 0


def remove(args: argparse.Namespace) -> int:
    """Delete what was fetched or cut for the model."""
    freed = _store().remove(args.model)
    if args.json:
        _print_json({"model": args.model, "freed_bytes": freed})
    else:
        print(f"{args.model}: {format_bytes(freed)} freed")
    return 0


def _store() -> ModelStore:
    # Imported late: numpy and huggingface_hub would make every other verb slow.
    from peerllm.model.store import ModelStore

    locations = Locations.of(os.environ)
    config = load_config(locations.config_file, env=os.environ).config
    folder = Path(config.models.dir).expanduser() if config.models.dir else locations.models_dir
    return ModelStore(folder, lan_only=config.swarm.lan_only)


def _list_catalog(*, as_json: bool) -> int:
    from peerllm.model.catalog import CATALOG

    if as_json:
        _print_json(
            [
                {
                    "name": entry.name,
                    "aliases": entry.aliases,
                    "parameters": entry.parameters,
                    "licence": entry.licence,
                    "source": entry.origin,
                }
                for entry in CATALOG
            ]
        )
        return 0
    rows = [(entry.name, entry.parameters, entry.licence, entry.origin) for entry in CATALOG]
    _print_table(("NAME", "PARAMETERS", "LICENCE", "SOURCE"), rows)
    return 0


def _facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "format": spec.format.value,
        "quantisation": spec.quantisation,
        "blocks": spec.blocks,
        "hidden": spec.hidden,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "context_tokens": spec.context_tokens,
        "block_bytes": spec.block_bytes,
        "ends_bytes": spec.ends_bytes,
        "kv_bytes_per_token": spec.kv_bytes_per_token() * spec.blocks,
        "kv_bytes_per_token_and_block": spec.kv_bytes_per_token(),
        "licence": spec.licence,
        "digest": spec.digest,
    }


def _row(model: ListedModel) -> dict[str, Any]:
    here = {"path": str(model.path), "disk_bytes": model.disk_bytes, "complete": model.complete}
    return {**_facts(model.spec), "source": model.source, **here}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
