"""What an attacker, a network or a killed process may do to a daemon and its clients, and what they must not."""
