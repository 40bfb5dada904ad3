"""A bucket of an object store: whole objects, conditional creation, and errors like a disk's.

Five verbs carry everything (`get`, `put`, `create`, `below`, `delete`), by obstore for S3 (and what
speaks its language) and Google Cloud Storage alike. What goes wrong is raised as the OSError that a
disk would raise, so that whoever waits for a disk waits for a bucket just so.

An address is ``s3://bucket/prefix`` or ``gs://bucket/prefix``. For another service than the
cloud's own: ``?endpoint_override=http://host:port&region=...`` behind it, or ``AWS_ENDPOINT_URL``.
Credentials are found as the cloud's own tools find them: variables, the machine's role, and (with
boto3) ``~/.aws``.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from vesselflow.errors import UserError

#: Schemes that are buckets.
SCHEMES = ("s3", "gs")
#: Options of an address.
OPTIONS = ("endpoint_override", "region")
#: Tries of one request after the first, seconds for all of them, and for one. Blips are got over
#: here; what lasts longer is trouble, for which whoever writes waits (see `sweeps.gate`).
RETRIES, RETRY_S, REQUEST_S, CONNECT_S = 4, 15, 60, 5
#: Parts of this size of what is too large for one request.
PART_BYTES = 16 << 20
#: Keys that one listing answer brings to Python at once.
_CHUNK = 1000


class BucketTrouble(OSError):
    """A bucket that does not take, or give, what it should.

    Attributes:
        what: What is wrong, for people.
        hint: The next step to take.
    """

    def __init__(self, number: int, what: str, hint: str, address: str) -> None:
        super().__init__(number, what, address)
        self.what, self.hint = what, hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields."""
        return (type(self), (self.errno, self.what, self.hint, self.filename))


class Entry(NamedTuple):
    """An object as a listing or a look at it shows it.

    Attributes:
        key: Its whole key.
        size: Bytes.
        mark: Another one with every other content (the entity tag, and the version where the
            bucket keeps them).
        changed_s: When it was written, by the bucket's clock, in seconds of the epoch.
    """

    key: str
    size: int
    mark: str
    changed_s: float


class Bucket:
    """One bucket; made by `Bucket.at`, one for each address in a process.

    Args:
        scheme: One of `SCHEMES`.
        name: The bucket's name.
        options: Of `OPTIONS`.

    Raises:
        UserError: What is given cannot mean a bucket: half of the credentials, say.
    """

    def __init__(self, scheme: str, name: str, options: dict[str, str]) -> None:
        import obstore

        self.scheme, self.name, self.options = scheme, name, options
        try:
            self._store = _connect(scheme, name, options)
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise UserError(
                f"this bucket cannot be opened ({_reason(str(error))})",
                where=self.address(""),
                hint=_CREDENTIALS,
            ) from None

    @staticmethod
    def at(address: str) -> tuple[Bucket, str]:
        """The bucket and the key that an address means.

        Raises:
            UserError: It is no address of a bucket, or an option is not known.
        """
        parts = urlsplit(address)
        options = dict(parse_qsl(parts.query))
        unknown = [name for name in options if name not in OPTIONS]
        if parts.scheme not in SCHEMES or not parts.netloc or unknown:
            what = f"unknown option '{unknown[0]}'" if unknown else "this names no bucket"
            raise UserError(
                what,
                where=address,
                allowed=f"s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, with {' and '.join(OPTIONS)} "
                "behind a question mark",
            )
        key = "/".join(part for part in parts.path.split("/") if part)
        return _bucket(parts.scheme, parts.netloc, tuple(sorted(options.items()))), key

    def address(self, key: str) -> str:
        """The address that `at` turns into this bucket and the key."""
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.scheme}://{self.name}/{key}{query}"

    def get(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: There is none.
            BucketTrouble: The bucket does not answer, or refuses.
        """
        import obstore

        with self._told(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_into(self, key: str, file: BinaryIO) -> None:
        """Write the content of an object into a file, piece by piece.

        Raises:
            FileNotFoundError: There is none.
            BucketTrouble: As of `get`.
        """
        import obstore

        with self._told(key):
            for piece in obstore.get(self._store, key).stream(min_chunk_size=PART_BYTES):
                file.write(piece)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object: fewer at its end, none behind it.

        Raises:
            FileNotFoundError: There is none.
            BucketTrouble: As of `get`.
        """
        import obstore

        if length <= 0:
            return b""
        with self._told(key):
            return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def put(self, key: str, content: bytes | Path | BinaryIO) -> None:
        """Write an object whole: a reader sees the old content or the new one.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        with self._told(key, writes=True):
            obstore.put(self._store, key, content, chunk_size=PART_BYTES)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one: of any number that race exactly one succeeds.

        Returns:
            Whether this call made it; also True for an equal content: the answer to a request can
            get lost, and its repetition then meets what it made itself.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        with self._told(key, writes=True):
            try:
                obstore.put(self._store, key, content, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                with contextlib.suppress(FileNotFoundError):
                    return self.get(key) == content
                return False
        return True

    def look(self, key: str) -> Entry | None:
        """What an object looks like; None without one.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        try:
            with self._told(key):
                return _entry(obstore.head(self._store, key))
        except FileNotFoundError:
            return None

    def below(self, prefix: str = "", *, limit: int | None = None) -> Iterator[Entry]:
        """All objects below a key, in no order; not an object of that key itself.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        seen = 0
        with self._told(prefix):
            for chunk in obstore.list(self._store, prefix or None, chunk_size=limit or _CHUNK):
                for found in chunk:
                    yield _entry(found)
                    seen += 1
                    if seen == limit:
                        return

    def children(self, prefix: str) -> tuple[list[str], list[Entry]]:
        """Right below a key: the names of further prefixes, and the objects.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        with self._told(prefix):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        folders = [folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"]]
        return folders, [_entry(meta) for meta in found["objects"]]

    def delete(self, keys: str | Sequence[str]) -> None:
        """Remove objects; what is not there is no error.

        Raises:
            BucketTrouble: As of `get`.
        """
        import obstore

        if not keys:
            return
        where = keys if isinstance(keys, str) else keys[0]
        with contextlib.suppress(FileNotFoundError), self._told(where, writes=True):
            obstore.delete(self._store, keys if isinstance(keys, str) else list(keys))

    def move(self, key: str, to: str) -> None:
        """Give an object another key (a copy, then a removal).

        Raises:
            FileNotFoundError: There is none.
            BucketTrouble: As of `get`.
        """
        import obstore

        with self._told(key, writes=True):
            obstore.copy(self._store, key, to)
            obstore.delete(self._store, key)

    def check(self) -> None:
        """Refuse a bucket that is not there, or does not let one in.

        Raises:
            BucketTrouble: It says why.
        """
        # A look at an object would not tell a missing bucket from a missing object.
        with contextlib.suppress(FileNotFoundError):
            self.get(".vesselflow")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by address: another process makes its own connection."""
        return (_bucket, (self.scheme, self.name, tuple(sorted(self.options.items()))))

    @contextlib.contextmanager
    def _told(self, key: str, *, writes: bool = False) -> Iterator[None]:
        """Turn the library's errors into those of a disk."""
        import obstore

        try:
            yield
        except FileNotFoundError as error:
            if writes or "NoSuchBucket" in str(error):
                raise self._missing(key) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", self.address(key)) from None
        except (
            obstore.exceptions.PermissionDeniedError,
            obstore.exceptions.UnauthenticatedError,
        ) as error:
            raise self._refused(key, str(error)) from None
        except obstore.exceptions.BaseError as error:
            text = str(error)
            if "NoSuchBucket" in text:
                raise self._missing(key) from None
            if any(place in text for place in _METADATA):
                raise self._nobody(key) from None
            if any(word in text for word in _REFUSALS):
                raise self._refused(key, text) from None
            raise BucketTrouble(
                errno.EHOSTUNREACH,
                f"the bucket does not answer ({_reason(text)})",
                "look after the network, or the service",
                self.address(key),
            ) from None

    def _missing(self, key: str) -> BucketTrouble:
        what = f"there is no bucket called '{self.name}'"
        return BucketTrouble(errno.ENODEV, what, "make it, or name another", self.address(key))

    def _nobody(self, key: str) -> BucketTrouble:
        return BucketTrouble(
            errno.EACCES,
            "no credentials were found for this bucket",
            _CREDENTIALS,
            self.address(key),
        )

    def _refused(self, key: str, text: str) -> BucketTrouble:
        return BucketTrouble(
            errno.EACCES,
            f"the bucket refuses access ({_reason(text)})",
            "look after the credentials and the role's permissions",
            self.address(key),
        )


#: What services call credentials that they do not take, where the library sees a plain failure.
_REFUSALS = (
    *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
    *("InvalidToken", "missing credentials", "no credential", "instance credentials"),
    *("403 Forbidden", "401 Unauthorized"),
)


_CREDENTIALS = (
    "give credentials by variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "GOOGLE_APPLICATION_CREDENTIALS), or by ~/.aws (with vesselflow[aws] installed)"
)
#: Where a machine of a cloud would have its role's credentials: asked last.
_METADATA = ("/latest/api/token", "/latest/meta-data/iam", "metadata.google", "169.254.169.254")


def _reason(text: str) -> str:
    """What matters of a message of the library, short."""
    for name in ("Code", "Message"):
        _, _, rest = text.partition(f"<{name}>")
        if rest:
            return rest.partition(f"</{name}>")[0]
    line = text.partition("\n")[0]
    for mark in (" - HTTP error: ", " - Server returned non-2xx status code: ", " - "):
        _, found, rest = line.partition(mark)
        if found:
            return rest.strip(" :")[:120]
    return line[:120]


def _entry(meta: Any) -> Entry:
    changed: datetime.datetime = meta["last_modified"]
    mark = f"{meta['e_tag'] or ''} {meta['version'] or ''}"
    return Entry(meta["path"], meta["size"], mark, changed.timestamp())


@functools.cache
def _bucket(scheme: str, name: str, options: tuple[tuple[str, str], ...]) -> Bucket:
    return Bucket(scheme, name, dict(options))


def _connect(scheme: str, name: str, options: dict[str, str]) -> Any:
    from obstore.store import GCSStore, S3Store

    second = datetime.timedelta(seconds=1)
    common: dict[str, Any] = {
        "client_options": {
            "allow_http": True,
            "timeout": REQUEST_S * second,
            "connect_timeout": CONNECT_S * second,
        },
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": RETRY_S * second,
            "backoff": {"init_backoff": 0.1 * second, "max_backoff": 3 * second, "base": 2},
        },
    }
    endpoint = options.get("endpoint_override", "")
    if scheme == "gs":
        google: Any = {"google_base_url": endpoint} if endpoint else {}
        return GCSStore(name, config=google, **common)
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3", "")
    config: Any = {"endpoint": endpoint} if endpoint else {}
    region = options.get("region") or os.environ.get("AWS_REGION", "")
    config["region"] = region or os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    return S3Store(name, config=config, credential_provider=_profile(), **common)


def _profile() -> Any:
    """Who knows the credentials of ``~/.aws``; None where variables, or the machine, have them."""
    if "AWS_ACCESS_KEY_ID" in os.environ or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return None
    home = Path("~/.aws").expanduser()
    files = [
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"),
        os.environ.get("AWS_CONFIG_FILE", home / "config"),
    ]
    if not any(Path(file).is_file() for file in files) or not importlib.util.find_spec("boto3"):
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()
