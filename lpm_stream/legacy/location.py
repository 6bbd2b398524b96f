"""Where the legacy files are: a folder, or any URL that fsspec reads, `sftp://` among them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import fsspec
import fsspec.asyn

from lpm_stream.errors import LegacyError, LpmStreamError
from lpm_stream.secret import FORMS, resolve
from lpm_stream.settings import Settings

_CONNECT_SECONDS = 30


@dataclass(frozen=True)
class Entry:
    """A file that is there.

    Attributes:
        path: below the location.
        size: in bytes.
        modified: when it was last written to, by the clock of the server.
    """

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Location:
    """The folder that the legacy files are below.

    Attributes:
        files: the file system.
        root: the folder's path in it, without a slash at the end.
        failures: the errors by which it says that it cannot be reached.
    """

    files: fsspec.AbstractFileSystem
    root: str
    failures: tuple[type[Exception], ...] = (OSError,)

    def entries(self, depth: int) -> list[Entry]:
        """All files whose paths below the location have at most `depth` parts; none if there is no such folder.

        Raises:
            LegacyError: if they cannot be listed.
        """
        with self._explained("listed"):
            self.files.invalidate_cache()
            try:
                found = self.files.find(self.root, maxdepth=depth, detail=True)
            except FileNotFoundError:
                return []
        return [
            Entry(path.removeprefix(self.root).lstrip("/"), int(info["size"]), _modified(info))
            for path, info in sorted(found.items())
            if info["type"] == "file"
        ]

    @contextmanager
    def reading(self, path: str) -> Iterator[IO[bytes]]:
        """A file to read from its beginning.

        Raises:
            LegacyError: if it cannot be read, or not to its end.
        """
        with self._explained("read", path), self.files.open(self._inside(path), "rb") as file:
            yield file

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write; what was of that name is replaced.

        Raises:
            LegacyError: if it cannot be written.
        """
        inside = self._inside(path)
        with self._explained("written", path):
            self.files.makedirs(inside.rpartition("/")[0], exist_ok=True)
            with self.files.open(inside, "wb") as file:
                yield file

    def _inside(self, path: str) -> str:
        if path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
            raise LegacyError(f"legacy file {path!r} is outside of the location")
        return f"{self.root}/{path}"

    @contextmanager
    def _explained(self, done: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except self.failures as error:
            what = f"legacy file {path!r}" if path else f"legacy files in {self.root}"
            raise LegacyError(f"{what} cannot be {done}: {_reason(error)}") from error


@contextmanager
def open_location(settings: Settings) -> Iterator[Location]:
    """Opens the location that the settings name.

    Over `sftp://` the server must have a host key that the file of known hosts has for it, and only the key or
    password of the settings is offered.

    Raises:
        LegacyError: if it cannot be reached.
        LpmStreamError: if the settings are wrong.
    """
    parts = urlsplit(settings.legacy_url)
    if parts.scheme in {"sftp", "ssh"}:
        location = _open_sftp(settings)
        try:
            yield location
        finally:
            _disconnect(location)
        return
    try:
        files, root = fsspec.core.url_to_fs(settings.legacy_url)
    except (ValueError, ImportError) as error:
        raise LpmStreamError(f"LPM_STREAM_LEGACY_URL: {_reason(error)}; give a folder or a URL") from error
    yield Location(files, str(root).rstrip("/"))


def _open_sftp(settings: Settings) -> Location:
    try:
        import asyncssh  # noqa: PLC0415 - an extra
        from sshfs import SSHFileSystem  # noqa: PLC0415
    except ImportError as error:
        raise LpmStreamError("LPM_STREAM_LEGACY_URL sftp:// needs pip install 'lpm-stream[sftp]'") from error
    parts = urlsplit(settings.legacy_url)
    if parts.password is not None:
        raise LpmStreamError(
            f"LPM_STREAM_LEGACY_URL holds a password; give LPM_STREAM_LEGACY_PASSWORD={FORMS} instead"
        )
    if not parts.hostname or not parts.username:
        raise LpmStreamError("LPM_STREAM_LEGACY_URL: give sftp://USER@HOST/PATH")
    known_hosts = settings.legacy_known_hosts.expanduser()
    if not known_hosts.is_file():
        raise LpmStreamError(
            f"LPM_STREAM_LEGACY_KNOWN_HOSTS: there is no file {known_hosts}; put the server's host key into it "
            f"(ssh-keyscan {parts.hostname}, checked with the server's owner)"
        )
    where = f"{parts.hostname}:{parts.port or 22}"
    try:
        files = SSHFileSystem(
            parts.hostname,
            port=parts.port or 22,
            username=unquote(parts.username),
            known_hosts=str(known_hosts),
            config=None,  # nothing of the user's own: what is set here is all there is
            agent_path=None,
            connect_timeout=_CONNECT_SECONDS,
            keepalive_interval=_CONNECT_SECONDS,
            skip_instance_cache=True,  # fsspec would keep the secrets
            **_credentials(settings),
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise LegacyError(
            f"legacy files on {where}: its host key is not the one in {known_hosts}; nothing was sent to it"
        ) from error
    except (OSError, asyncssh.Error) as error:
        raise LegacyError(f"legacy files on {where} cannot be reached: {_reason(error)}") from error
    return Location(files, unquote(parts.path).rstrip("/"), (OSError, asyncssh.Error))


def _disconnect(location: Location) -> None:
    """Ends the connection now; left to itself it lasts until it is collected."""
    files = location.files

    async def end() -> None:
        await files._pool.close()  # noqa: SLF001 - sshfs offers no other way
        await files._stack.aclose()  # noqa: SLF001

    with suppress(*location.failures):  # the server may have ended it
        fsspec.asyn.sync(files.loop, end, timeout=_CONNECT_SECONDS)


def _credentials(settings: Settings) -> Mapping[str, Any]:
    """The key or else the password, as asyncssh takes it."""
    import asyncssh  # noqa: PLC0415 - an extra

    if settings.legacy_key:
        text = resolve(settings.legacy_key, "LPM_STREAM_LEGACY_KEY") + "\n"
        try:
            return {"client_keys": [asyncssh.import_private_key(text)], "password": None}
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise LpmStreamError("LPM_STREAM_LEGACY_KEY: is not a private key without passphrase") from error
    if settings.legacy_password:
        password = resolve(settings.legacy_password, "LPM_STREAM_LEGACY_PASSWORD")
        return {"client_keys": None, "password": password}
    raise LpmStreamError("LPM_STREAM_LEGACY_URL sftp:// needs LPM_STREAM_LEGACY_KEY or LPM_STREAM_LEGACY_PASSWORD")


def _modified(info: Mapping[str, Any]) -> datetime:
    value = info.get("mtime") or info.get("LastModified") or info.get("last_modified")
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if value is None:
        raise OSError("the file system does not say when files were written")
    return datetime.fromtimestamp(float(value), UTC)


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text or type(error).__name__
