"""A real Apache Kafka broker on loopback: one node, KRaft, from Maven Central, started by the tests that need one.

`make test-all` fetches it (`lpm_stream_tests/kafka/pom.xml`) into a folder outside the repository.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lpm_stream_tests.certificate import self_signed

USER = "$ConnectionString"  # as Event Hubs wants it, with a connection string for the password
PASSWORD = "Endpoint=sb://localhost/;SharedAccessKeyName=stream;SharedAccessKey=c2Vj+cmV0/Q=="
JARS = Path(os.environ.get("LPM_TEST_KAFKA", Path.home() / ".cache" / "lpm_stream" / "kafka-4.1.0"))
_START_SECONDS = 90
_JAVA_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:{controller}
listeners=PLAINTEXT://localhost:{port},SASL_SSL://localhost:{sasl_port},CONTROLLER://localhost:{controller}
advertised.listeners=PLAINTEXT://localhost:{port},SASL_SSL://localhost:{sasl_port}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={directory}/server.pem
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
"""


def why_not() -> str:
    """Why no broker can be started here, empty if one can."""
    if shutil.which("java") is None:
        return "Kafka needs Java (Debian: default-jre-headless)"
    if not list(JARS.glob("kafka_*.jar")):
        return f"Kafka is not in {JARS}; make test-all fetches it"
    return ""


class KafkaBroker:
    """A broker with a directory of its own; it can be killed and started again on the same ports.

    Attributes:
        port: where everybody is let in.
        sasl_port: where `USER` is with `PASSWORD`, over TLS.
        certificate: file with the certificate shown there; it is for `localhost` only.
    """

    def __init__(self, directory: Path) -> None:
        self.port = _free_port()
        self.sasl_port = _free_port()
        self.certificate = directory / "certificate.pem"
        self._settings = directory / "server.properties"
        self._log = directory / "broker.log"
        certificate, key = self_signed("localhost")
        self.certificate.write_bytes(certificate)
        (directory / "server.pem").write_bytes(key + certificate)
        text = _SETTINGS.format(
            port=self.port,
            sasl_port=self.sasl_port,
            controller=_free_port(),
            directory=directory,
            user=USER,
            password=PASSWORD,
        )
        self._settings.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        tool = self._command("kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c")
        subprocess.run(tool, check=True, capture_output=True)

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command("kafka.Kafka"), stdout=log, stderr=log)
        give_up = time.monotonic() + _START_SECONDS
        while not (_listens(self.port) and _listens(self.sasl_port)):
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the broker did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kills it, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _command(self, *words: str) -> list[str]:
        return ["java", *_JAVA_OPTIONS, "-cp", f"{JARS}/*", *words, str(self._settings)]


@contextmanager
def running_broker(directory: Path) -> Iterator[KafkaBroker]:
    """A broker that runs until the block ends."""
    broker = KafkaBroker(directory)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("localhost", port)) == 0
