"""Generators of synthetic stores, by kind.

A synthetic store is a pure function of its arguments, so a plan can name one without making it:
`describe` and `synth_digest_key` import neither numpy nor h5py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from vesselflow.config.registry import Arguments, Registry
from vesselflow.stores.fundus import spacing_um

if TYPE_CHECKING:
    import os

    from vesselflow.stores.schema import SourceInfo

SYNTH_KINDS = Registry("synthetic kind")

#: Side of the square image in px that each camera (domain) takes by default.
FUNDUS_SIZES_PX = {"a": 256, "b": 288, "c": 224}
#: Radius of each camera's fov in halves of the image's side; above 1 it is cut above and below.
FUNDUS_RADII = {"a": 0.95, "b": 1.06, "c": 0.92}
#: What every camera sees, in degrees across its fov: the optic disc is drawn accordingly.
FUNDUS_FIELD_DEG = 45.0


# Beside its registration, because the generator's file cannot wait with importing numpy.
class FundusArguments(Arguments):
    """Photographs of the back of the eye, by one of three cameras."""

    domain: Literal["a", "b", "c"] = Field("a", description="camera: colour, contrast, blur")
    sources: int = Field(12, ge=1, le=100_000, description="number of images")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all images")
    size_px: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        None, description="side of the images in px; null for the camera's own: 256, 288, 224"
    )


# Raise the version whenever a pixel changes (tests/stores holds golden digests).
SYNTH_KINDS.add(
    "fundus",
    target="vesselflow.stores.synth.fundus:fundus",
    arguments=FundusArguments,
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
    values = SYNTH_KINDS.validate({"name": kind, **args})
    del values["name"]
    if values["size_px"] is None:
        values["size_px"] = FUNDUS_SIZES_PX[values["domain"]]
    return {"kind": kind, "version": SYNTH_KINDS.part(kind).version, **values}


def synth_digest_key(args: Mapping[str, Any]) -> str:
    """Name of a synthetic store's content (16 hex digits), known before it is made.

    Args:
        args: ``{kind, sources, seed, domain, size_px}``, what may be left out as in `describe`.

    Raises:
        UserError: as `describe`.
    """
    rest = {key: value for key, value in args.items() if key != "kind"}
    text = json.dumps(describe(args.get("kind", "fundus"), rest), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_name(args: Mapping[str, Any]) -> str:
    """Name of the file of a synthetic store: kind, camera and content.

    Args:
        args: As for `synth_digest_key`.
    """
    rest = {key: value for key, value in args.items() if key != "kind"}
    told = describe(args.get("kind", "fundus"), rest)
    return f"{told['kind']}-{told['domain']}-{synth_digest_key(args)}.h5"


def source_id(domain: str, index: int) -> str:
    """Name of a synthetic source, which is its group as well."""
    return f"{domain}{index:04d}"


def lineage(seed: int, domain: str, index: int, size_px: int) -> dict[str, Any]:
    """What determines one synthetic source: equal lineage, equal pixels."""
    return {
        "synth": "fundus",
        "version": SYNTH_KINDS.part("fundus").version,
        "seed": seed,
        "domain": domain,
        "source": index,
        "size_px": size_px,
    }


def fundus_spacing_um(domain: str, size_px: int) -> tuple[float, float]:
    """Height and width of a pixel of a camera's image in micrometres."""
    return spacing_um(FUNDUS_FIELD_DEG, FUNDUS_RADII[domain] * size_px)


def planned_sources(args: Mapping[str, Any]) -> tuple[SourceInfo, ...]:
    """The sources of a synthetic store that is not made yet, as its index will list them.

    The field of view's box is not known: that of the whole image stands for it. Digests are empty.

    Args:
        args: As for `synth_digest_key`.
    """
    from vesselflow.stores.schema import SourceInfo

    rest = {key: value for key, value in args.items() if key != "kind"}
    told = describe(args.get("kind", "fundus"), rest)
    side = told["size_px"]
    return tuple(
        SourceInfo(
            index=index,
            id=source_id(told["domain"], index),
            group=source_id(told["domain"], index),
            split="",
            height=side,
            width=side,
            channels=3,
            digest="",
            image_digest="",
            fov_box=(0, 0, side, side),
            lineage=lineage(told["seed"], told["domain"], index, side),
            spacing_um=fundus_spacing_um(told["domain"], side),
        )
        for index in range(told["sources"])
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
) -> str:
    """Make a synthetic store and return its logical digest.

    Args:
        path: Store to make, atomically.
        kind: Name of a kind.
        sources: How many images.
        seed: Another seed, other eyes.
        domain: Which camera: "a", "b" or "c".
        size_px: Side of the square images; None: the camera's own.
        name: Domain name written into the store; default "synth-" and the camera.
        overwrite: Replace a store that is there.
        progress: Called after each source with (done, total, id).

    Raises:
        UserError: a value that is not allowed, or `path` cannot be written.
    """
    from vesselflow.stores.writer import write_store

    description = describe(
        kind, {"sources": sources, "seed": seed, "domain": domain, "size_px": size_px}
    )
    arguments = {k: v for k, v in description.items() if k not in ("kind", "version")}
    made = SYNTH_KINDS.build({"name": kind, **arguments})

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
        overwrite=overwrite,
    )
