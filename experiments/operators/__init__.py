"""What operators are bounded, how tightly, and whole networks of them."""
