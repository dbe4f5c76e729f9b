"""Model predictive control by subsystems that share limits and influence each other, coordinated by prices."""

from .central import Central
from .controller import Controller
from .examples import factories, springs, tanks
from .loop import ClosedLoop, closed_loop
from .plan import Plan
from .plant import Plant, Subsystem

__all__ = ["Central", "ClosedLoop", "Controller", "Plan", "Plant", "Subsystem", "closed_loop", "factories", "springs", "tanks"]
