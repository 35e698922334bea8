"""What `genie demo` and `genie bench` measure, and how. Nothing here runs unless it is asked for."""
