"""The process's connections to its daemons, and fleets of them."""
