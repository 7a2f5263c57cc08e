"""What each command takes, as one object; the command line makes it from what a person types (`cli.command`).

No module here needs torch.
"""

from robust_nas.options.attacks import AttackOptions
from robust_nas.options.certification import AuditOptions, CertifyOptions
from robust_nas.options.search import SearchOptions
from robust_nas.options.training import TrainOptions
from robust_nas.options.verification import ExportOptions, VerifyOptions
