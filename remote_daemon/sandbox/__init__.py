"""The sandbox of a worker: what it may do to the machine it runs on. Planned as data, applied before torch is there."""
