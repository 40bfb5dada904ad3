"""Images that are learnt from without their labels: that they are used, and scored nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.runs.specs import StoreFacts
from vesselflow.stores.schema import UNLABELLED
from vesselflow.sweeps.checks import place

_KEY = "data.unlabelled"


def check_unlabelled(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse a store of unlabelled images that nobody learns from, or of which some are scored.

    Args:
        space: The space.
        file: The YAML file that it came from.
        stores: Facts of every store in use, by name.

    Raises:
        UserError: The key in `where` is `data.unlabelled`, or the one that names the other store.
    """
    points = [point.experiment for point in space.expand().points]
    given = [each for each in points if each.data.unlabelled is not None]
    if given and not any(each.unlabelled for each in given):
        raise UserError(
            f"nothing is learnt from '{given[0].data.unlabelled}'",
            where=place(space, file, _KEY),
            allowed="null, or a store beside a train.domain_weight above 0 in some point",
        )
    for key in dict.fromkeys((each.data.train, each.data.ood, each.unlabelled) for each in points):
        train, ood, unlabelled = key
        _check_labelled(space, file, stores, train, ood)
        if unlabelled is not None:
            for other in (train, *ood):
                _check_apart(space, file, stores[unlabelled], stores[other])


def _check_apart(space: Space, file: Path, unlabelled: StoreFacts, other: StoreFacts) -> None:
    """Refuse an image that is in both stores."""
    known = {source.image_digest: source.id for source in other.sources if source.image_digest}
    for source in unlabelled.sources:
        if source.image_digest in known:
            raise UserError(
                f"'{source.id}' of the store '{unlabelled.name}' and "
                f"'{known[source.image_digest]}' of '{other.name}' are the same image",
                where=place(space, file, _KEY),
                allowed="images of which none is scored, nor has labels to learn from",
                hint="remove it from one of the two stores",
            )


def _check_labelled(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    train: str,
    ood: tuple[str, ...],
) -> None:
    """Refuse to learn from, or to score by, labels that were never there."""
    for key, names in (("data.train", (train,)), ("data.ood", ood)):
        for name in names:
            for source in stores[name].sources:
                if source.lineage.get(UNLABELLED):
                    raise UserError(
                        f"'{source.id}' of the store '{name}' has no labels",
                        where=place(space, file, key),
                        allowed="stores whose images all have labels",
                        hint=f"name it in {_KEY}",
                    )
