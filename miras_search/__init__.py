"""Search the MIRAS design space: sequence models as memories that learn while they read."""
