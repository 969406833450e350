"""All scenarios there are, in the order of `mip6 lab list`."""

from __future__ import annotations

from labs.airport import AIRPORT
from labs.ambulance import AMBULANCE
from labs.balance import BALANCE
from labs.car import CAR_SCENARIO
from labs.house import HOUSE
from labs.nat import BLOCKED, IPV4_APPS, NAT, REBIND
from labs.oneinterface import ONE_INTERFACE
from labs.plain import PLAIN
from labs.recovery import RECOVERY
from labs.returning import RETURNING_HOME
from labs.scenario import Scenario
from labs.station import STATION
from labs.surgery import SURGERY

_ALL = (
    CAR_SCENARIO,
    AIRPORT,
    BALANCE,
    STATION,
    SURGERY,
    AMBULANCE,
    HOUSE,
    RECOVERY,
    ONE_INTERFACE,
    RETURNING_HOME,
    NAT,
    REBIND,
    BLOCKED,
    IPV4_APPS,
    PLAIN,
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
