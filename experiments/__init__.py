"""The demo, and the studies behind the figures we report."""

import verify  # whatever is imported of this package, torchvision can be imported after it
from robust_nas.threads import sleep_while_waiting

sleep_while_waiting()
