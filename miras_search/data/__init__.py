"""What tasks make of their settings: tensors. Imported where used, since it imports torch."""
