"""Certificates of trained networks, from weights on disk to CSV files, and the attempt to break them."""

from robust_nas.certification.audit import AuditResult, run_audit
from robust_nas.certification.certify import CertifyResult, run_certify
