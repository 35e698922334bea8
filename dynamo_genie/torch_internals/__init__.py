"""Every use of a private module of torch: a hook a name, with its probe and the torch versions it was seen to work on.

A leaf room: it imports torch and nothing of ours. A new release of torch can break what stands here and, the public
interface being what it is, little else; `probes.probe_all()` names what it broke.
"""
