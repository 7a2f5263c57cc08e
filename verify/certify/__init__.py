"""Radii and what tries to break them: certificates, attacks, audits."""
