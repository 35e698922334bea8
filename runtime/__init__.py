"""The client's side of a session: transport, handles, weights, and what crosses the wire."""
