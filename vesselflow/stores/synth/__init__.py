"""Generators of synthetic stores, by kind.

A synthetic store is a pure function of its arguments, so a plan can name one without making it:
`describe` and `synth_digest_key` import neither numpy nor h5py. What a kind takes, and what may be
known of its sources beforehand (sizes, spacing, layout), stands in its argument model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vesselflow.config.registry import Registry
from vesselflow.stores.synth.arguments import (
    FUNDUS_SIZES_PX,
    FundusArguments,
    SynthArguments,
    TomogramArguments,
    VasculatureArguments,
)

if TYPE_CHECKING:
    import os

    from vesselflow.stores.layout import Layout
    from vesselflow.stores.schema import SourceInfo

__all__ = [
    "FUNDUS_SIZES_PX",
    "SYNTH_KINDS",
    "describe",
    "file_name",
    "lineage",
    "make_synth",
    "planned_layout",
    "planned_sources",
    "source_id",
    "synth_digest_key",
]

_HERE = "vesselflow.stores.synth"

SYNTH_KINDS = Registry("synthetic kind")
# Raise the version whenever a voxel changes (tests/stores holds golden digests).
SYNTH_KINDS.add("fundus", target=f"{_HERE}.fundus:fundus", arguments=FundusArguments, version=1)
SYNTH_KINDS.add(
    "tomogram", target=f"{_HERE}.tomogram:tomogram", arguments=TomogramArguments, version=1
)
SYNTH_KINDS.add(
    "vasculature",
    target=f"{_HERE}.vasculature:vasculature",
    arguments=VasculatureArguments,
    version=1,
)


def describe(kind: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a synthetic store: kind, version and all arguments with defaults filled in.

    Args:
        kind: Name of a kind.
        args: Its arguments; those left out are its defaults.

    Raises:
        UserError: unknown kind or argument, or a value that is not allowed.
    """
    model = _model(kind, args)
    version = SYNTH_KINDS.part(kind).version
    return {"kind": kind, "version": version, **model.model_dump(mode="json")}


def _model(kind: str, args: Mapping[str, Any]) -> SynthArguments:
    given = SYNTH_KINDS.arguments(kind, args)
    assert isinstance(given, SynthArguments)
    return given.filled()


def _split(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind, and the arguments without it."""
    rest = {key: value for key, value in args.items() if key != "kind"}
    return args.get("kind", "fundus"), rest


def synth_digest_key(args: Mapping[str, Any]) -> str:
    """Name of a synthetic store's content (16 hex digits), known before it is made.

    Args:
        args: ``{kind, sources, seed, domain, ...}``, what may be left out as in `describe`.

    Raises:
        UserError: as `describe`.
    """
    text = json.dumps(describe(*_split(args)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_name(args: Mapping[str, Any]) -> str:
    """Name of the file of a synthetic store: kind, domain and content.

    Args:
        args: As for `synth_digest_key`.
    """
    told = describe(*_split(args))
    return f"{told['kind']}-{told['domain']}-{synth_digest_key(args)}.h5"


def source_id(domain: str, index: int) -> str:
    """Name of a synthetic source, which is its group as well."""
    return f"{domain}{index:04d}"


def lineage(kind: str, index: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What determines one synthetic source: equal lineage, equal voxels.

    Args:
        kind: Name of a kind.
        index: Number of the source.
        arguments: All arguments but how many sources there are.
    """
    version = SYNTH_KINDS.part(kind).version
    return {"synth": kind, "version": version, "source": index, **arguments}


def planned_layout(args: Mapping[str, Any]) -> Layout:
    """The layout of a synthetic store that is not made yet.

    Args:
        args: As for `synth_digest_key`.
    """
    from vesselflow.stores.layout import Layout

    return Layout(**_model(*_split(args)).layout)


def planned_sources(args: Mapping[str, Any]) -> tuple[SourceInfo, ...]:
    """The sources of a synthetic store that is not made yet, as its index will list them.

    The field of view's box is not known: that of the whole image stands for it. Digests are empty,
    and so are the numbers of keypoints.

    Args:
        args: As for `synth_digest_key`.
    """
    from vesselflow.stores.schema import SourceInfo

    kind, rest = _split(args)
    model = _model(kind, rest)
    shape = model.shape()
    *depth, height, width = shape
    values = model.model_dump(mode="json", exclude={"sources"})
    return tuple(
        SourceInfo(
            index=index,
            id=source_id(model.domain, index),
            group=source_id(model.domain, index),
            split="",
            height=height,
            width=width,
            channels=model.layout.get("channels", 1),
            digest="",
            image_digest="",
            fov_box=(*[0] * len(shape), *shape),
            lineage=lineage(kind, index, values),
            spacing_um=model.spacing(),
            depth=depth[0] if depth else None,
        )
        for index in range(model.sources)
    )


def make_synth(
    path: str | os.PathLike[str],
    kind: str,
    sources: int,
    seed: int,
    domain: str,
    size_px: int | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    **arguments: Any,
) -> str:
    """Make a synthetic store and return its logical digest.

    Args:
        path: Store to make, atomically.
        kind: Name of a kind.
        sources: How many images or volumes.
        seed: Another seed, other eyes.
        domain: Which camera, microscope or scanner: "a", "b" or "c".
        size_px: Side of the images, of volumes along y and x; None: the domain's own.
        name: Domain name written into the store; default "synth-" and the domain.
        overwrite: Replace a store that is there.
        progress: Called after each source with (done, total, id).
        arguments: What else the kind takes.

    Raises:
        UserError: a value that is not allowed, or `path` cannot be written.
    """
    from vesselflow.stores.writer import write_store

    given = {"sources": sources, "seed": seed, "domain": domain, "size_px": size_px, **arguments}
    description = describe(kind, given)
    filled = {k: v for k, v in description.items() if k not in ("kind", "version")}
    made = SYNTH_KINDS.build({"name": kind, **filled})

    def watched() -> Any:
        for number, source in enumerate(made, start=1):
            yield source
            if progress is not None:
                progress(number, sources, source.id)

    return write_store(
        path,
        watched(),
        domain=name or f"synth-{domain}",
        importer={"name": f"synth:{kind}", **description},
        layout=planned_layout({"kind": kind, **given}),
        overwrite=overwrite,
    )
