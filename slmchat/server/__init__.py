"""The door for programs: one warm, sealed engine that answers over HTTP and a Unix socket of this user."""
