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
        thorough: whether every fault is tried, and latency measured for long enough to judge by how much it rises.
    """

    kills: int
    calm_seconds: float
    fault_seconds: float
    crowd: int
    crowd_seconds: float
    crash_points: int
    thorough: bool


SHORT = Sizes(
    kills=2,
    calm_seconds=1,
    fault_seconds=2,
    crowd=300,
    crowd_seconds=6,
    crash_points=30,
    thorough=False,
)
LONG = Sizes(
    kills=50,
    calm_seconds=20,
    fault_seconds=30,
    crowd=1_000,
    crowd_seconds=90,
    crash_points=10_000,
    thorough=True,
)


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
        most_rise: by how much the p99 of the companies that it does not hit may rise, as a share; None: that is
            not asked.
        in_short: whether the short form tries it.
    """

    name: str
    strike: Callable[[World, Sizes], Struck]
    most_rise: float | None = None
    in_short: bool = True


@dataclass(frozen=True)
class Finding:
    """What a fault did.

    Attributes:
        fault: its name.
        times: how often it was inflicted.
        lost: rows that are missing, or older than in the table; None if nobody counted.
        doubled: rows that are there twice, or should not be there; likewise.
        calm_p99: seconds from commit to applied before it, None without traffic.
        p99: likewise during the fault, of the companies that it did not hit.
        most_rise: by how much that may rise, as a share; None: that is not judged.
        in_status: whether `status --json` showed it; None if nobody looked.
        in_log: whether the log said so; likewise.
        problem: what kept it from being tried or mended; empty if nothing did.
        seconds: how long all of it took.
    """

    fault: str
    times: int = 0
    lost: int | None = None
    doubled: int | None = None
    calm_p99: float | None = None
    p99: float | None = None
    most_rise: float | None = None
    in_status: bool | None = None
    in_log: bool | None = None
    problem: str = ""
    seconds: float = 0.0

    @property
    def rise(self) -> float | None:
        """By how much the p99 rose, as a share; None without traffic."""
        return self.p99 / self.calm_p99 - 1 if self.p99 and self.calm_p99 else None

    @property
    def good(self) -> bool:
        """Whether nothing was lost or doubled, everybody could see what happened, and nobody else suffered."""
        if self.problem or self.lost != 0 or self.doubled != 0:
            return False
        is_slow = self.most_rise is not None and (self.rise is None or self.rise > self.most_rise)
        return not is_slow and self.in_status is not False and self.in_log is not False
