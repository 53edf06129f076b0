"""An engine in another process of this user: `slm serve` keeps it warm, and a command uses it over a Unix socket."""
