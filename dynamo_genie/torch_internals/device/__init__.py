"""A device of our own, from Python: PyTorch's dispatch key for devices that it does not know (`PrivateUse1`).

`presence` and `guard` are loaded with torch itself, so they import little; `kernels`, `replaced` and `generators` when
the device is used. Their probes stand together in `probes`.
"""
