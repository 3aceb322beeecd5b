"""What scores show and what they do not: pure functions over arrays, without torch and files."""
