"""Numbers as people read them; a dash where nothing is known."""

from __future__ import annotations

UNKNOWN = "-"


def nbytes_text(nbytes: float | None) -> str:
    """Return `1.5 MiB` and the like."""
    if nbytes is None:
        return UNKNOWN
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def seconds_text(seconds: float | None) -> str:
    """Return `12.3 ms` and the like."""
    if seconds is None:
        return UNKNOWN
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-9:.3g} ns"


def flops_text(flops: float | None) -> str:
    """Return `1.2 GFLOP` and the like."""
    if flops is None:
        return UNKNOWN
    for scale, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if flops >= scale:
            return f"{flops / scale:.3g} {unit}"
    return f"{flops:.0f} FLOP"


def error_text(predicted: float, measured: float) -> str:
    """Return by how much a prediction missed: `+1.2 %`."""
    if not measured:
        return "none moved" if predicted else "0.0 %"
    percent = f"{(predicted - measured) / measured * 100:+.1f} %"
    return percent[1:] if percent in ("+0.0 %", "-0.0 %") else percent
