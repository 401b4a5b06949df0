"""FedRED: federated learning under poisoning, with FedREDefense and what it is compared with."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedred.simulation import Federation, Record, State, initial_state, simulate

__all__ = ["Federation", "Record", "State", "initial_state", "simulate"]


def __getattr__(name: str) -> Any:
    """Import PyTorch only when a public name is used: tables and the command line start faster."""
    if name not in __all__:
        raise AttributeError(f"module 'fedred' has no attribute '{name}'")
    from fedred import simulation

    return getattr(simulation, name)
