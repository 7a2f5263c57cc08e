"""The demo, and the studies behind the figures we report."""

import verify  # whatever is imported of this package, torchvision can be imported after it
