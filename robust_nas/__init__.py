"""Architecture search that maximises a certified robustness bound."""
