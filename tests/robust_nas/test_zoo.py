"""The zoo: every published architecture loads, says where it is from, and gives a network."""

import json

import pytest
import torch

from robust_nas.genotype import Architecture
from robust_nas.spaces.network import Network
from robust_nas.spaces.size import Size
from robust_nas.zoo import find, listing, names
from tests.robust_nas.helpers import GENOTYPE
from verify.checks.errors import InputError

PUBLISHED = {
    "NASNet-A", "AmoebaNet-A", "AmoebaNet-B", "PNAS", "ENAS-paper", "ENAS-released", "DARTS-V1", "DARTS-V2",
    "SNAS-mild", "SNAS-moderate", "SNAS-aggressive", "ASAP", "DARTS+", "P-DARTS", "PC-DARTS", "PC-DARTS-ImageNet",
    "SDARTS-RS", "SDARTS-ADV", "RobNet-large", "RobNet-free", "AdvRush", "RACL",
}  # fmt: skip


def test_holds_what_was_published():
    assert set(names()) == PUBLISHED
    assert names() == sorted(names(), key=str.casefold)


@pytest.mark.parametrize("name", names())
def test_every_architecture_has_a_source_and_gives_a_network(name):
    architecture = find(name)
    assert architecture.meta["name"] == name
    assert all(isinstance(architecture.meta[field], str) for field in ("paper", "source"))
    cells = architecture.depth or 3
    network = Network(architecture, 1, 4, channels=2, cells=cells, mean=[0.0], std=[1.0]).eval()
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_sizes_of_cells():
    """Figures that the papers give: nodes, edges and cells."""
    assert {find(name).nodes for name in ("NASNet-A", "AmoebaNet-A", "AmoebaNet-B", "PNAS", "ENAS-released")} == {5}
    assert {find(name).nodes for name in names() if find(name).space == "robnet"} == {4}
    assert (find("RobNet-free").depth, find("RobNet-large").depth, find("PC-DARTS").depth) == (20, None, None)
    assert len(find("RobNet-large").plan(0, reduction=False).edges) == 14


@pytest.mark.parametrize("name", ["PC-DARTS", "pc-darts", "PC_DARTS", "pc_darts"])
def test_neither_case_nor_dashes_matter(name):
    assert find(name).meta["name"] == "PC-DARTS"


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GENOTYPE.save("RACL")
    assert find("RACL") == GENOTYPE
    (tmp_path / "PNAS").mkdir()
    assert find("PNAS").nodes == 5


@pytest.mark.parametrize(
    ("name", "close"),
    [("PCDARTS", ["PC-DARTS", "P-DARTS"]), ("amoebanet", ["AmoebaNet-A", "AmoebaNet-B"]), ("snas", ["SNAS-mild"])],
)
def test_an_unknown_name_lists_close_ones_in_one_line(name, close):
    with pytest.raises(InputError, match=f"^{name}: no such genotype file, and no architecture of the zoo") as caught:
        find(name)
    assert "did you mean" in str(caught.value) and "`dsrna zoo`" in str(caught.value)
    assert all(other in str(caught.value) for other in close) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["runs/search/genotype.json", "x" * 300, "a\0b", "", "."])
def test_what_is_close_to_nothing_says_where_the_names_are(name):
    with pytest.raises(InputError, match="no such genotype file.*`dsrna zoo` lists them"):
        find(name)


def test_a_broken_file_says_what_is_wrong(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps({**GENOTYPE.to_dict(), "nodes": 2}))
    with pytest.raises(InputError, match="genotype.json: normal: 2 nodes need 4"):
        find(path)


def test_listing(monkeypatch):
    monkeypatch.setattr(listing, "names", lambda: ["ASAP", "RobNet-large"])
    monkeypatch.setattr(listing, "size_on_cifar10", lambda architecture: Size(2_543_210, 401_400_000))
    first, second = listing.listing()
    assert first == {
        "name": "ASAP",
        "space": "darts",
        "nodes": "4",
        "operations": "5 conv, 4 pool, 7 skip",
        "parameters": "2.54 M",
        "multiply-adds": "401 M",
        "source": "two third-party transcriptions that agree up to order",
    }
    assert (second["space"], second["operations"]) == ("robnet", "13 conv, 1 skip")


def test_the_base_class_reads_both_spaces(tmp_path):
    for name in ("RobNet-free", "RACL"):
        find(name).save(tmp_path / name)
        assert Architecture.load(tmp_path / name) == find(name)
