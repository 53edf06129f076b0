"""What was said: messages, their rendering through a chat template, and what fits into the context window."""
