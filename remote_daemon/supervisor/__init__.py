"""The supervisor: admission, tenants, leases and worker processes; imports no torch."""
