"""What this machine's owner and their programs need of it: one module per subject, all read through `MachineReader`."""

from peerllm.serving.readers.machine import MachineReader

__all__ = ["MachineReader"]
