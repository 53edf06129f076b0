"""Use case: what is wrong here."""
