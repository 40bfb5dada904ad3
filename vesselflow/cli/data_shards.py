"""`vesselflow data shard | join | index`: stores in several files under one index."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import Any

from vesselflow.cli.progress import Progress
from vesselflow.errors import UserError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_arguments(actions: Any) -> None:
    """Declare the three actions.

    Args:
        actions: The subparsers of `vesselflow data`.
    """
    text = "cut a store into several files under one index; runs keep their names"
    action = actions.add_parser("shard", help=text, description=text)
    action.add_argument("store", metavar="STORE", help="an HDF5 store, or an index")
    _index(action, "index to make; the files lie beside it")
    size = action.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--sources-per-file", type=int, metavar="N", help="how many sources go into one file"
    )
    size.add_argument("--size", metavar="BYTES", help="how large a file may become, such as 500MB")

    text = "write an index over store files that lie beside it; they stay as they are"
    action = actions.add_parser("index", help=text, description=text)
    _index(action, "index to make")
    action.add_argument("stores", metavar="STORE", nargs="+", help="files, in their order")

    text = "write the sources of a store in several files into one"
    action = actions.add_parser("join", help=text, description=text)
    action.add_argument("store", metavar="INDEX", help="index of a store")
    action.add_argument("out", metavar="OUT.h5", help="store to make")
    action.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def _index(action: argparse.ArgumentParser, text: str) -> None:
    action.add_argument("index", metavar="INDEX.shards.json", help=text)
    action.add_argument("--overwrite", action="store_true", help="replace an index that exists")


def _shard(args: argparse.Namespace) -> int:
    from vesselflow.stores.sharding import shard_store

    progress = Progress()
    try:
        made = shard_store(
            args.store,
            args.index,
            sources_per_file=_at_least_one(args.sources_per_file),
            file_bytes=None if args.size is None else _bytes(args.size),
            overwrite=args.overwrite,
            progress=progress,
        )
    finally:
        progress.end()
    _say(args.index, made)
    return 0


def _index_of(args: argparse.Namespace) -> int:
    from vesselflow.stores.sharding import index_stores

    _say(args.index, index_stores(args.index, args.stores, overwrite=args.overwrite))
    return 0


def _join(args: argparse.Namespace) -> int:
    from vesselflow.stores.sharding import join_store

    progress = Progress()
    try:
        digest = join_store(args.store, args.out, overwrite=args.overwrite, progress=progress)
    finally:
        progress.end()
    print(f"{args.out}: digest {digest}")
    return 0


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "shard": _shard,
    "index": _index_of,
    "join": _join,
}


def _say(index: str, made: Any) -> None:
    from vesselflow.cli.data_inspect import counted

    files = "1 file" if made.files == 1 else f"{made.files} files"
    print(f"{index}: {counted(made.sources)} in {files}, digest {made.digest}")


def _at_least_one(sources: int | None) -> int | None:
    if sources is not None and sources < 1:
        raise UserError(
            f"{sources} is not allowed", where="--sources-per-file", allowed="1 or more"
        )
    return sources


def _bytes(text: str) -> int:
    """Bytes of a size such as 500MB, 2GB or 1.5G; in powers of 1,000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise UserError(
            f"{text!r} is not allowed", where="--size", allowed="a size above 0, such as 500MB"
        )
    return size
