"""Three simulated hospitals: courses of patients as the FHIR events that a hospital would publish."""

from connectors.simulator.profiles import Fault
from connectors.simulator.stream import EPOCH, simulate

__all__ = ["EPOCH", "Fault", "simulate"]
