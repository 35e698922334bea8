"""The worker: its executor, its sessions, and the state they share."""
