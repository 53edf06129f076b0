"""`slm chat`: the conversation in the terminal."""
