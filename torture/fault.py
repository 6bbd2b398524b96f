"""What a fault is, and what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lpm_stream.control.latency import Latencies
from torture.world import World


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        kills: of each of the four kinds of process.
        calm_seconds: how long latency is measured without a fault.
        fault_seconds: how long a fault lasts that can last.
        crowd: number of companies in the run with many.
        crowd_seconds: how long latency is measured there, without and with faults alike.
        crash_points: of the simulation in one process.
    """

    kills: int
    calm_seconds: float
    fault_seconds: float
    crowd: int
    crowd_seconds: float
    crash_points: int


SHORT = Sizes(kills=3, calm_seconds=3, fault_seconds=4, crowd=1_000, crowd_seconds=12, crash_points=150)
LONG = Sizes(kills=50, calm_seconds=20, fault_seconds=30, crowd=1_000, crowd_seconds=90, crash_points=10_000)


@dataclass(frozen=True)
class Struck:
    """A fault that was inflicted and is over.

    Attributes:
        times: how often.
        in_status: whether `status --json` showed it meanwhile.
        in_log: what the log says of it.
        victims: companies that it hit; the others are the healthy ones.
        measured: the latencies known before anybody looked at it, which takes a core of its own for a moment;
            None: those known at its end.
    """

    times: int
    in_status: bool
    in_log: str
    victims: frozenset[str] = field(default_factory=frozenset)
    measured: Mapping[str, Latencies] | None = None


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: for the table.
        strike: inflicts it on a running stream, and does what an operator would do then.
    """

    name: str
    strike: Callable[[World, Sizes], Struck]


@dataclass(frozen=True)
class Finding:
    """What a fault did.

    Attributes:
        fault: its name.
        times: how often it was inflicted.
        lost: rows that are missing, or older than in the table.
        doubled: rows that are there twice, or should not be there.
        calm_p99: seconds from commit to applied before it, None without traffic.
        p99: likewise during the fault, of the companies that it did not hit.
        in_status: whether `status --json` showed it.
        in_log: whether the log said so.
        problem: what kept it from being tried or mended; empty if nothing did.
    """

    fault: str
    times: int
    lost: int
    doubled: int
    calm_p99: float | None = None
    p99: float | None = None
    in_status: bool = True
    in_log: bool = True
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing was lost or doubled, and everybody could see what happened."""
        return not (self.lost or self.doubled or self.problem) and self.in_status and self.in_log
