"""What can be tried next: a candidate, and the domain of all of them."""
