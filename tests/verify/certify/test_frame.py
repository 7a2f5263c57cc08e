"""Results as tables, and in one line."""

import torch

import verify
from verify.certify.audit import Audit
from verify.certify.radius import Certificates

CERTIFICATES = Certificates(
    radius=torch.tensor([0.1, 0.0]),
    status=["certified", "misclassified"],
    evaluations=torch.tensor([4, 0]),
    seconds=torch.tensor([0.5, 0.0]),
    norm="l2",
    domain="free",
    method="crown",
)
AUDIT = Audit(torch.tensor([-1.0, torch.inf]), torch.tensor([0.5, torch.inf]), torch.tensor([True, False]))


def test_certificates_as_a_table():
    table = CERTIFICATES.to_frame()
    assert list(table) == ["radius", "status", "evaluations", "seconds", "norm", "domain", "method"]
    assert table["evaluations"].tolist() == [4, 0] and table["norm"].tolist() == ["l2", "l2"]


def test_an_audit_as_a_table():
    assert AUDIT.to_frame()["failed"].tolist() == [True, False]


def test_results_say_what_they_are():
    assert repr(CERTIFICATES) == (
        "Certificates(l2, free, crown: 1 certified, 1 misclassified; radius 0 to 0.1, mean 0.05)"
    )
    assert repr(AUDIT) == "Audit(1 of 1 certificates broken; 1 images without one)"
    network = verify.BoundedNetwork(torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), torch.rand(1, 3))
    assert repr(network) == "BoundedNetwork(Sequential: images (3,) -> 2 outputs, torch.float32 on cpu)"
