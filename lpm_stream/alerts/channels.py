"""Channels: where alerts go, through Apprise.

A channel is known by its reference, such as `env:NAME`. Its URL holds passwords and tokens: it is resolved
when something is sent, and appears nowhere else.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lpm_stream.alerts.outbox import Notification
from lpm_stream.errors import LpmStreamError
from lpm_stream.secret import FORMS, is_reference, resolve

if TYPE_CHECKING:
    from apprise import Apprise, NotifyType

_SETTING = "LPM_STREAM_ALERT_URLS"
_MISSING = "alerts need Apprise: pip install 'lpm-stream[alerts]'"
_TALKATIVE = ("apprise", "urllib3", "requests_oauthlib", "oauthlib")  # whose logs show parts of a URL
_WORD = re.compile(r"[A-Za-z0-9]+")
_SENDING = threading.Lock()  # loggers are the process's: one at a time listens to them


def references(setting: str) -> tuple[str, ...]:
    """The channels that the setting names.

    Raises:
        LpmStreamError: if one is no reference; it is not repeated, because it may be a URL by mistake.
    """
    found = tuple(dict.fromkeys(setting.split()))
    for number, one in enumerate(found, start=1):
        if not (is_reference(one) and one.partition(":")[2]):
            raise LpmStreamError(
                f"{_SETTING}: number {number} is no reference: give {FORMS} of what holds the URL"
            )
    return found


def check(reference: str) -> str:
    """Says that a channel is set up, without sending anything.

    Raises:
        LpmStreamError: if its reference leads to nothing, or to something that is no channel.
    """
    url = resolve(reference, _SETTING)
    with _SENDING, _overheard():
        _add(_apprise(), reference, url)
    return "is set up; lpm-stream alerts test sends a sample"


def send(reference: str, notification: Notification) -> None:
    """Sends a notification to a channel.

    Raises:
        LpmStreamError: if the channel does not take it. The message holds nothing of the channel's URL.
    """
    url = resolve(reference, _SETTING)
    with _SENDING, _overheard() as said:
        is_sent = _notify(reference, url, notification)
    if not is_sent:
        raise LpmStreamError(f"{reference}: not sent: {_harmless(said, url) or 'it does not say why'}")


def _notify(reference: str, url: str, notification: Notification) -> bool:
    channel = _apprise()
    from apprise import NotifyFormat  # noqa: PLC0415 - see there

    _add(channel, reference, url)
    try:
        done = channel.notify(
            body=notification.body,
            title=notification.title,
            notify_type=_type(notification.event),
            body_format=NotifyFormat.TEXT,
            interpret_escapes=False,
        )
    except Exception as error:  # noqa: BLE001 - a plugin of many; whatever it is, it is one channel's trouble
        raise LpmStreamError(f"{reference}: not sent: {type(error).__name__}") from None
    return bool(done)


def _apprise() -> "Apprise":
    try:
        from apprise import Apprise  # noqa: PLC0415 - only where it is needed is it installed
    except ImportError as error:
        raise LpmStreamError(_MISSING) from error
    return Apprise()


def _add(channel: "Apprise", reference: str, url: str) -> None:
    """Gives Apprise the URL, as a whole: a secret that holds several would be several channels."""
    try:
        added = channel.add(url) and len(channel) == 1
    except Exception:  # noqa: BLE001 - whatever Apprise makes of it, its text may be part of the URL
        added = False
    if not added:
        raise LpmStreamError(f"{reference}: does not hold one Apprise URL; see https://appriseit.com/services")


def _type(event: str) -> "NotifyType":
    from apprise import NotifyType  # noqa: PLC0415 - see above

    types = {"opened": NotifyType.FAILURE, "resolved": NotifyType.SUCCESS, "test": NotifyType.INFO}
    return types.get(event, NotifyType.WARNING)


@contextmanager
def _overheard() -> Iterator[list[logging.LogRecord]]:
    """Keeps what is logged while something is sent from everybody's logs, and collects Apprise's warnings."""
    said: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record)

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    collect = Collect(logging.WARNING)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(collect)
    try:
        yield said
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(collect)
            logger.setLevel(level)
            logger.propagate = propagate


def _harmless(said: list[logging.LogRecord], url: str) -> str:
    """What Apprise says of a failure, without anything that stands in the URL."""
    text = "; ".join(" ".join(record.getMessage().split()) for record in said)[:500]
    address = url.partition("://")[2]
    secret = {word.lower() for part in (address, unquote(address)) for word in _WORD.findall(part)}
    return _WORD.sub(lambda word: "…" if word.group().lower() in secret else word.group(), text)
