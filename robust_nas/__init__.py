"""Architecture search that maximises a certified robustness bound."""

import verify  # whatever is imported of this package, torchvision can be imported after it
