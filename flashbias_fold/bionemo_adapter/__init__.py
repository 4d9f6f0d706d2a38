"""NVIDIA's BioNeMo Inference Runtime, an optional package: everything that knows its code."""

from flashbias_fold.bionemo_adapter.peer import MODEL, Peer

__all__ = ["MODEL", "Peer"]
