"""The demo, and the studies behind the figures we report."""
