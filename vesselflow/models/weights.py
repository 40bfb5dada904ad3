"""Whether pretrained weights are on this machine, and fetching them before anything starts.

Both libraries load them from Hugging Face's hub by its client, whose cache can be looked at without
torch. The repositories of segmentation-models-pytorch are read out of its source text; those of
timm are asked of timm itself, which imports torch.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from vesselflow.errors import UserError

#: Seconds until the hub must have answered.
ANSWER_S = 5.0


@dataclass(frozen=True)
class Source:
    """Where weights come from: a repository of the hub, a commit of it, and the files needed."""

    repository: str
    revision: str | None
    files: tuple[str, ...]

    def cached(self) -> bool:
        """Whether all files are on this machine."""
        from huggingface_hub import try_to_load_from_cache

        found = (
            try_to_load_from_cache(self.repository, file, revision=self.revision)
            for file in self.files
        )
        # A name that is known not to be there is an object, not a path.
        return all(isinstance(path, str) for path in found)

    def fetch(self) -> None:
        """Download what is missing.

        Raises:
            Exception: Of the hub's client; what there is of them differs between its versions.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError

        # Asked once and briefly: the download itself would try again for half a minute.
        address = hf_hub_url(self.repository, self.files[-1], revision=self.revision)
        try:
            get_hf_file_metadata(address, timeout=ANSWER_S)
        except EntryNotFoundError:  # kept under an older name, which timm knows
            return
        for file in self.files:
            hf_hub_download(self.repository, file, revision=self.revision)


def source_of(encoder: str, weights: str) -> Source | None:
    """Where the weights of an encoder are loaded from; None when they are not on the hub.

    Raises:
        UserError: An encoder of timm that has none.
    """
    if encoder.startswith("tu-"):
        return _of_timm(encoder)
    repository = f"smp-hub/{encoder}.{weights.replace('+', '-')}"
    revision = _revisions().get(repository)
    return Source(repository, revision, ("config.json", "model.safetensors")) if revision else None


def check_weights(encoder: str, weights: str, *, fetch: bool) -> str:
    """Find the weights on this machine, or fetch them.

    Args:
        encoder: Of a model whose weights were checked by name (`encoders.check_encoder`).
        weights: Their name.
        fetch: Fetch what is not here; otherwise only say so.

    Returns:
        A line about what is or will be fetched; "" when all is here.

    Raises:
        UserError: They are neither here nor can they be fetched; without `fetch`, only when the
            hub's client is told to stay offline.
    """
    from huggingface_hub import is_offline_mode

    source = source_of(encoder, weights)
    if source is None or source.cached():
        return ""
    if not is_offline_mode():
        if not fetch:
            return f"weights '{weights}' of {encoder} are not on this machine: fetched at the start"
        try:
            source.fetch()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            told = re.sub(r"^\[Errno -?\d+\] ", "", reason)[:120].rstrip(" .")
        else:
            return f"weights '{weights}' of {encoder} were fetched"
    else:
        told = "HF_HUB_OFFLINE is set"
    raise UserError(
        f"weights '{weights}' of encoder '{encoder}' are not on this machine, and cannot be "
        f"fetched from huggingface.co/{source.repository} ({told})",
        where="model.weights",
        allowed="null, or weights in the cache of the hub's client (HF_HOME)",
        hint="connect to the network once, or train from scratch with model.weights: null",
    )


@functools.cache
def _revisions() -> dict[str, str]:
    """Repository -> commit, of all pretrained weights of segmentation-models-pytorch."""
    found = importlib.util.find_spec("segmentation_models_pytorch")
    pairs: dict[str, str] = {}
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in Path(folder, "encoders").glob("*.py"):
            text = file.read_text(encoding="utf-8")
            pairs.update(re.findall(r'"repo_id": "([^"]+)",\s*"revision": "([0-9a-f]+)"', text))
    return pairs


def _of_timm(encoder: str) -> Source | None:
    import timm

    name = encoder.removeprefix("tu-")
    try:
        entry = timm.get_pretrained_cfg(name)
    except RuntimeError:
        entry = None
    if entry is None or not entry.has_weights:
        raise UserError(
            f"encoder '{encoder}' has no pretrained weights",
            where="model.weights",
            allowed="null",
            hint="variants with weights are listed by timm.list_pretrained()",
        )
    if not entry.hf_hub_id:
        return None
    repository, _, revision = str(entry.hf_hub_id).partition("@")
    return Source(repository, revision or None, (entry.hf_hub_filename or "model.safetensors",))
