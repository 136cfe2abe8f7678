"""Models: packaged, local or from the hub; their sites; loading with a task's head."""
