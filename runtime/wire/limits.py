"""Bounds on everything a peer may send, checked before anything is allocated, and times that both ends keep."""

CHUNK_NBYTES = 1 << 20
"""Bulk data travels in frames of this many bytes (the last one may be shorter)."""

MAX_CONTROL_NBYTES = 1 << 20
"""`MAXMSGSIZE` of control sockets: the largest single frame of a control message."""

MAX_BULK_FRAME_NBYTES = CHUNK_NBYTES + 1024
"""`MAXMSGSIZE` of bulk sockets: one chunk; its header travels in a frame of its own."""

MAX_INLINE_NBYTES = 64 << 10
"""A tensor up to this size rides inside a control message; a larger one goes by the bulk socket."""

MAX_FETCH_INLINE_NBYTES = 512 << 10
"""Fetched tensors up to this size together ride inside the reply; the others come by the bulk socket."""

UPLOAD_WINDOW = 16
"""Chunks that a sender may have on the way before it waits for a credit."""

CREDIT_EVERY = 4
"""Chunks that a receiver takes before it sends so many credits."""

WINDOW_BATCHES = 256
WINDOW_NBYTES = 4 << 20
"""So much may be on the way to a worker, or wait there to run; then the client waits until it is told that some ran."""

ACKNOWLEDGE_BATCHES = 32
ACKNOWLEDGE_NBYTES = 512 << 10
"""So often a worker tells a client that its batches ran, where no answer does."""

HANDSHAKE_MS = 2_000
KEEPALIVE_IDLE_S = 2
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_COUNT = 5
"""When the kernel asks whether the other end of a silent connection is there, and how often before it is cut.

Who waits for an answer sends nothing, and learns only so that the other end knows of no connection any more.
"""

MAX_IPC_PATH_NBYTES = 107
"""What the kernel allows for the path of a socket file."""

MAX_RANK = 64
MAX_STRING = 4096
MAX_ITEMS = 65_536
MAX_DEVICES = 64
MAX_NODES = 262_144
MAX_KIND = 64
MAX_SPANS = 4096
MAX_WAIT_S = 86_400.0
MAX_LATE = 8
"""Failures of commands without an answer that travel whole beside one answer; of others only the number does."""
