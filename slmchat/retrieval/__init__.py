"""Use case: answers from documents."""
