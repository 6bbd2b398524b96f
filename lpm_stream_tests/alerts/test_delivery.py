"""From a parked company to a mail server and a webhook, through everything between."""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from lpm_stream.alerts import channels, outbox
from lpm_stream.alerts.incidents import read_incidents
from lpm_stream.alerts.run import run
from lpm_stream.control import parking, tables
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests.alerts.servers import PASSWORD, USER, Received, free_port, mail_server, webhook
from lpm_stream_tests.test_cli import run as cli

TOKEN = "T0ken-9876"


@pytest.fixture
def ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Where mail and webhook are to be; two channels know of them, one by a variable, one by a file."""
    mail, web = free_port(), free_port()
    login = f"{USER}:{quote(PASSWORD, safe='')}"
    monkeypatch.setenv("MAIL", f"mailto://{login}@127.0.0.1:{mail}?from=a@b.example&to=c@d.example&mode=insecure")
    (tmp_path / "hook").write_text(f"json://{login}@127.0.0.1:{web}/{TOKEN}\n", encoding="utf-8")
    monkeypatch.setenv("LPM_STREAM_ALERT_URLS", f"env:MAIL file:{tmp_path / 'hook'}")
    monkeypatch.setenv("LPM_STREAM_ALERT_CALM_SECONDS", "0")
    return mail, web


@pytest.fixture
def settings(ports, settings: Settings) -> Settings:
    return Settings.load(settings.home)  # with what `ports` has set


@pytest.fixture
def mail(ports) -> Iterator[Received]:
    with mail_server(ports[0]) as received:
        yield received


def park(stream: Stream, company: str, reason: str = "cannot be reached") -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    state = parking.park(company, 0, 1, since, reason)
    with stream.store.write() as connection:
        parking.write_parked(connection, "orders", company, replace(state, since=since))


def release(stream: Stream, company: str) -> None:
    with stream.store.write() as connection:
        parking.write_parked(connection, "orders", company, None)


def try_at_once(stream: Stream) -> None:
    with stream.store.write() as connection:
        connection.execute(tables.channels.update().values(next_try_at=datetime.now(UTC)))


def test_both_channels_are_told_once(stream, ports, mail):
    with webhook(ports[1]) as web:
        park(stream, "A")
        for _ in range(3):
            run(stream)
        release(stream, "A")
        for _ in range(3):
            run(stream)
    title = "[lpm_stream orders] company 'A' is parked: cannot be reached"
    assert mail.titles == web.titles == [title, title.replace("company", "resolved: company", 1)]
    for _, body in (mail.messages[0], web.messages[0]):
        lines = [line.strip() for line in body.splitlines()]
        assert "Affected: company 'A': nothing is delivered to it; all others go on" in lines
        assert "Next: lpm-stream status --feed orders" in lines
        assert "See: http://localhost:3000/assets/companies/orders?view=partitions&partition=A" in lines


def test_a_channel_that_is_down_loses_nothing_and_holds_up_nobody(stream, ports, mail):
    park(stream, "A")
    done = run(stream)
    assert (done.update.told, done.sent) == (1, 1)
    assert len(mail.messages) == 1
    [problem] = done.problems
    assert problem.startswith("file:")
    release(stream, "A")
    run(stream)
    park(stream, "B")
    run(stream)  # the channel's pause is not over
    states = outbox.read_channels(stream.store, "orders", channels.references(stream.settings.alert_urls))
    assert [(one.waiting, one.failures, one.problem) for one in states] == [(0, 0, None), (3, 1, problem)]
    with webhook(ports[1]) as web:
        try_at_once(stream)
        run(stream)
        run(stream)
        assert [title.split("] ")[1][:9] for title in web.titles] == ["company '", "resolved:", "company '"]
        assert web.messages == [(title, body) for title, body in web.messages if body]
        assert len(mail.messages) == 3


def test_a_channel_that_refuses_is_tried_again(stream, ports, mail):
    mail.refuses = True
    with webhook(ports[1]) as web:
        web.refuses = True
        park(stream, "A")
        done = run(stream)
        assert len(done.problems) == 2
        assert "503" in done.problems[1]
        mail.refuses = web.refuses = False
        try_at_once(stream)
        run(stream)
        run(stream)
        assert len(web.messages) == len(mail.messages) == 1


def test_many_at_once_become_one_message(stream, ports, mail):
    for company in "ABCDEFG":
        register(stream.store, company)
        park(stream, company)
    with webhook(ports[1]) as web:
        assert run(stream).sent == 14
        [(title, body)] = web.messages
    assert "7 alerts" in title
    assert all(f"company '{company}' is parked" in body for company in "ABCDEFG")
    assert len(mail.messages) == 1


def test_workers_at_once_send_once(stream, ports, mail):
    with webhook(ports[1]) as web:
        park(stream, "A")
        park(stream, "B")
        workers = [threading.Thread(target=run, args=(stream,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        run(stream)
        assert len(web.titles) == len(set(web.titles)) == 2
    assert len(mail.titles) == len(set(mail.titles)) == 2
    assert len(read_incidents(stream.store, "orders")) == 2


def test_a_claim_of_a_worker_that_died_is_over_after_a_while(stream, ports, mail):
    park(stream, "A")
    with webhook(ports[1]):
        reference = channels.references(stream.settings.alert_urls)[0]
        run(stream)
        release(stream, "A")
        mail.refuses = True
        run(stream)
        try_at_once(stream)
        later = datetime.now(UTC) + timedelta(seconds=1)
        died = outbox.claim(stream.store, "orders", reference, later)
        assert died is not None
        assert outbox.claim(stream.store, "orders", reference, later) is None
        again = outbox.claim(stream.store, "orders", reference, later + timedelta(minutes=6))
        assert again is not None
        assert again.ids == died.ids
        outbox.settle(stream.store, "orders", died, 0, "late", now=later)  # has no say any more
        assert outbox.claim(stream.store, "orders", reference, later + timedelta(minutes=7)) is None


def test_the_secret_appears_nowhere(stream, ports, mail, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    park(stream, "A")
    mail.refuses = True
    run(stream)  # one refuses, the other is down
    mail.refuses = False
    with webhook(ports[1]) as web:
        web.refuses = True
        try_at_once(stream)
        run(stream)
        web.refuses = False
        try_at_once(stream)
        run(stream)
        assert len(web.messages) == len(mail.messages) == 1
        outputs = [cli_output(stream, "--debug", "alerts", verb) for verb in ("list", "run", "test")]
    outputs += [cli_output(stream, "--debug", "alerts", "test"), *capfd.readouterr()]
    outputs += [record.getMessage() for record in caplog.records if record.name != "mail.log"]  # the server's own
    with closing(sqlite3.connect(stream.settings.home / "control.db")) as connection:
        outputs.append("\n".join(connection.iterdump()))
    assert "file:" in "".join(outputs)
    for output in outputs:
        for secret in (PASSWORD, PASSWORD.split("/")[0], quote(PASSWORD, safe=""), TOKEN, "geheim"):
            assert secret not in output


def cli_output(stream: Stream, *arguments: str) -> str:
    done = cli(stream.settings.home, *arguments)
    return done.stdout + done.stderr


def test_what_a_channel_says_is_shown_without_its_secrets():
    url = f"mailto://{USER}:{quote(PASSWORD, safe='')}@host/{TOKEN}"
    words = f"535 {PASSWORD} of {USER.upper()} with {quote(PASSWORD, safe='')} and {TOKEN} refused"
    shown = channels._harmless([logging.makeLogRecord({"msg": words})], url)
    assert shown == "535 …/… of … with …%… and …-… refused"


def test_a_url_in_place_of_a_reference_is_refused_and_not_repeated():
    with pytest.raises(LpmStreamError, match="number 2 is no reference") as caught:
        channels.references(f"env:X mailto://{USER}:{PASSWORD}@host")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", ["", f"nonsense://{PASSWORD}@x", f"json://a/{PASSWORD} json://b", PASSWORD])
def test_a_secret_that_is_no_url_is_a_problem_of_its_channel(monkeypatch, url):
    monkeypatch.setenv("URL", url)
    with pytest.raises(LpmStreamError, match="URL") as caught:
        channels.send("env:URL", outbox.Notification("test", "t", "b"))
    assert PASSWORD not in str(caught.value)


def test_the_command_line(stream, ports, mail):
    home = stream.settings.home

    def alerts(*arguments: str) -> str:
        done = cli(home, "alerts", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "nothing is wrong" in alerts("list")
    with webhook(ports[1]) as web:
        alerts("test")
        assert web.titles == mail.titles == ["[lpm_stream tdr] a sample alert"]
        with stream.store.write() as connection:
            long_ago = datetime.now(UTC) - timedelta(hours=1)
            connection.execute(tables.companies.update().values(registered_at=long_ago))
        alerts("silence", "--cause", "nobody_publishes", "--until", "2999-01-01")
        assert json.loads(alerts("run", "--json", "-"))["update"]["opened"] == 2
        assert web.titles[1:] == ["[lpm_stream tdr] no worker delivers feed tdr"]
        shown = json.loads(alerts("list", "--json", "-"))
        states = {one["cause"]: one["state"] for one in shown["incidents"]}
        assert states == {"nobody_publishes": "open", "nobody_delivers": "open"}
        assert shown["silences"][0]["until"].startswith("2999")
        [mine] = [one["id"] for one in shown["incidents"] if one["cause"] == "nobody_delivers"]
        alerts("ack", mine[:8])
        assert "acknowledged" in alerts("list")
        alerts("silence", "--cause", "nobody_publishes", "--end")
        alerts("run")
        assert web.titles[2:] == ["[lpm_stream tdr] no worker publishes feed tdr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("silence", "--until", "2999-01-01"), "--company, --cause, or --all"),
        (("silence", "--all"), "--until, or --end"),
        (("silence", "--all", "--until", "soon"), "give an instant"),
        (("silence", "--all", "--until", "2020-01-01"), "over already"),
        (("ack", "f00"), "no open incident"),
    ],
)
def test_wrong_arguments_are_one_line(stream, arguments, message):
    done = cli(stream.settings.home, "alerts", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
