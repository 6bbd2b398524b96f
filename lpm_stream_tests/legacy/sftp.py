"""A real SFTP server on loopback, which takes one user's key and can hang up in the middle of a file."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

USER, PASSWORD = "legacy", "correct horse"


@dataclass
class Server:
    """A running server.

    Attributes:
        port: where it listens.
        key: a file with the private key that it takes.
        known_hosts: a file with its host key.
        cut_after: hangs up when a file is read from this byte on.
        tried: how clients tried to prove who they are.
    """

    port: int
    key: Path
    known_hosts: Path
    cut_after: int | None = None
    tried: int = 0


@contextmanager
def serving(root: Path, directory: Path) -> Iterator[Server]:  # noqa: C901 - the server's two classes are in it
    """Serves a folder.

    Args:
        root: what clients see as /.
        directory: where the keys are put.
    """
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    server = Server(0, directory / "key", directory / "known_hosts")
    server.key.write_bytes(user_key.export_private_key())
    loop = asyncio.new_event_loop()
    connections: list[asyncssh.SSHServerConnection] = []

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            connections.append(conn)

        def begin_auth(self, username: str) -> bool:
            server.tried += 1
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USER, PASSWORD)

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return username == USER and key.public_data == user_key.public_data

    class Files(asyncssh.SFTPServer):
        def __init__(self, chan: Any) -> None:
            super().__init__(chan, chroot=str(root).encode())
            self._connection = chan.get_connection()

        def read(self, file_obj: Any, offset: int, size: int) -> Any:
            if server.cut_after is not None and offset + size > server.cut_after:
                self._connection.abort()
            return super().read(file_obj, offset, size)

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[host_key], server_factory=Login, sftp_factory=Files
        )

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    server.port = acceptor.get_port()
    public = host_key.export_public_key().decode().strip()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public}\n")

    async def stop() -> None:
        acceptor.close()
        await acceptor.wait_closed()
        for connection in connections:
            connection.abort()
            await connection.wait_closed()

    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
