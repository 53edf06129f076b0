"""Use case: how good is this model here. Tasks from files, their answers graded, scores with intervals, comparison."""
