"""The seal: what is typed stays on this device, enforced by the kernel where it can be, and proved on request."""
