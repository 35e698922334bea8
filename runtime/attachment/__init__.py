"""What carries a session at present: an attachment to a worker, its transports, whether they lead there."""
