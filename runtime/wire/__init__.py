"""What crosses the wire, declared once for both ends. No torch, no sockets."""
