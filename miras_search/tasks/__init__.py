"""Tasks: what a memory is judged on. One registered class per file."""
