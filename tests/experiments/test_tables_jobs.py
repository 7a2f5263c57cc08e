"""What runs for a table: the graph of its jobs, their folders, what tables share, and the scales that come with us."""

import itertools
from dataclasses import fields, replace

import pytest

from experiments.tables.cells import TABLES, cells
from experiments.tables.figures import ATTACK_NAMES
from experiments.tables.jobs import chain, graph
from experiments.tables.published import published
from experiments.tables.scale import Images, Scale, load_scale, scales
from robust_nas.options import AttackOptions, CertifyOptions, SearchOptions, TrainOptions
from robust_nas.registry import ATTACKS, STOPPING_RULES, STRATEGIES
from robust_nas.zoo import names
from tests.experiments.tables_helpers import TINY, tiny
from verify.checks.errors import InputError

DIGITS = Images("digits", "digits")


def jobs_of(table, protocol="paper", scale=None, seeds=(0, 1)):
    scale = scale or tiny()
    return graph(cell.job for cell in cells(scale, table, scale.tables[table], protocol, seeds, False))


def names_of(*args, **kwargs):
    return {job.name for job in jobs_of(*args, **kwargs)}


def row(label, scale=None):
    return next(row for table in (scale or tiny()).tables.values() for row in table.rows if row.label == label)


def chain_of(label, protocol="paper", seed=0, scale=None):
    scale = scale or tiny()
    return chain(scale, scale.protocols[protocol], row(label, scale), DIGITS, seed, False)


def test_a_search_is_trained_and_its_network_attacked_and_certified(tmp_path):
    jobs = chain_of("DSRNA-CB")
    assert [job.kind for job in jobs["linf"].line] == ["search", "train", "certify"]
    search, train = (tmp_path / jobs[kind].name for kind in ("search", "train"))
    assert jobs["attack"].arguments(tmp_path) == {
        "attacks": ["fgsm", "pgd-10"],
        "images": 4,
        "guards": False,
        "dataset": "digits",
        "seed": 0,
        "arch": str(search / "genotype.json"),
        "weights": str(train / "model.safetensors"),
        "out": str(tmp_path / jobs["attack"].name),
    }
    assert jobs["linf"].arguments(tmp_path)["norm"] == "linf"


def test_a_published_architecture_is_not_searched(tmp_path):
    jobs = chain_of("PC-DARTS")
    assert "search" not in jobs
    assert jobs["train"].arguments(tmp_path)["arch"] == jobs["linf"].arguments(tmp_path)["arch"] == "PC-DARTS"


def test_folders_say_what_is_done_in_them():
    kind, _, name = chain_of("DSRNA-CB")["linf"].name.partition("/")
    assert kind == "certify"
    assert name.startswith("darts-cb_standard-digits-quick-linf-3-images_seed0_")


def test_every_job_comes_once_and_after_what_it_needs():
    jobs = jobs_of(1)
    assert len({job.name for job in jobs}) == len(jobs) == 2 * 2 + 2 * 3
    places = {job.name: place for place, job in enumerate(jobs)}
    assert all(job.after is None or places[job.after.name] < places[job.name] for job in jobs)


def test_tables_and_protocols_share_what_they_have_in_common():
    assert names_of(1) & names_of(5) == {
        job.name for label in ("RobNet-large", "DSRNA-CB") for seed in (0, 1)
        for key, job in chain_of(label, seed=seed).items() if key in ("search", "train")
    }  # fmt: skip
    other = names_of(1, "equal") - names_of(1)
    assert len(other) == 4 and all("published-robnet-large" in name for name in other)


def test_an_architecture_that_is_transferred_is_searched_once():
    search = {name for name in names_of(3) if name.startswith("search")}
    assert search == {name for name in names_of(1) if name.startswith("search")}
    assert any("-from-digits_standard-imagefolder64" in name for name in names_of(3))


@pytest.mark.parametrize(
    ("part", "options", "changed"),
    [
        ("search", {"nodes": 2}, {"search", "train", "attack", "linf"}),
        ("train", {"epochs": 2}, {"train", "attack", "linf"}),
        ("attack", {"images": 5}, {"attack"}),
        ("certify", {"tolerance": 0.2}, {"linf"}),
    ],
)
def test_a_hash_is_of_all_options_that_decide_the_result(part, options, changed):
    before, scale = chain_of("DSRNA-CB"), tiny()
    after = chain_of("DSRNA-CB", scale=replace(scale, **{part: {**getattr(scale, part), **options}}))
    assert {key for key in before if key != "l2" and before[key].name != after[key].name} == changed


def test_a_row_has_the_last_word_and_a_protocol_the_one_before():
    equal = replace(tiny().protocols["equal"], search={"epochs": 7, "nodes": 2})
    scale = tiny(protocols={"equal": equal})
    given = replace(row("DSRNA-CB"), search={**row("DSRNA-CB").search, "nodes": 4})
    options = chain(scale, equal, given, DIGITS, 0, False)["search"].options
    assert (options["epochs"], options["nodes"], options["batch_size"]) == (7, 4, 324)


def test_another_width_shares_the_search_alone(tmp_path):
    scale = tiny()
    usual, narrow = (
        chain(scale, scale.protocols["paper"], row("DSRNA-CB"), DIGITS, 0, False, channels) for channels in (None, 2)
    )
    assert {kind for kind in usual if usual[kind].name == narrow[kind].name} == {"search"}
    assert narrow["train"].arguments(tmp_path)["channels"] == 2
    assert "standard-digits-quick-2-channels-linf" in narrow["linf"].name


def test_targeted_certificates_are_other_jobs():
    scale = tiny()
    plain, targeted = (chain(scale, scale.protocols["paper"], row("PC-DARTS"), DIGITS, 0, each) for each in (False, True))
    assert plain["train"].name == targeted["train"].name
    assert plain["linf"].name != targeted["linf"].name and targeted["linf"].options["targeted"] is True


def without(*path):
    content = {**TINY}
    inner = content
    for key in path[:-1]:
        inner[key] = {**inner[key]}
        inner = inner[key]
    del inner[path[-1]]
    return content


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (without("rows"), "rows"),
        (without("certify"), "certify"),
        (without("protocols", "equal", "recipe"), "recipe"),
        ({**TINY, "colour": 1}, "colour"),
        ({**TINY, "rows": {**TINY["rows"], "X": {"metric": "cb"}}}, "'X' needs a method"),
        ({**TINY, "tables": {"1": {"images": [], "rows": ["Y"]}}}, "unknown row 'Y'"),
        ({**TINY, "protocols": {"paper": {"recipe": "standard", "exceptions": {"Y": "certified"}}}}, "unknown row 'Y'"),
    ],
)
def test_a_bad_scale_is_one_line_that_names_what_is_wrong(content, word, tmp_path, monkeypatch):
    path = tmp_path / "bad.toml"
    path.write_text("")
    monkeypatch.setattr("experiments.tables.scale.tomllib.loads", lambda text: content)
    with pytest.raises(InputError, match=word) as error:
        load_scale(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_scale_that_is_not_there_lists_those_that_are():
    with pytest.raises(InputError, match="known: paper, small, smoke, or a file"):
        load_scale("huge")


def test_a_scale_may_be_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seeds = [")
    with pytest.raises(InputError, match=r"mine\.toml: not TOML"):
        load_scale(path)


@pytest.fixture(params=["smoke", "small", "paper"])
def scale(request) -> Scale:
    assert request.param in scales()
    return load_scale(request.param)


def test_options_of_a_scale_are_arguments_of_the_runs(scale, tmp_path):
    runs = {"search": SearchOptions, "train": TrainOptions, "attack": AttackOptions, "certify": CertifyOptions}
    for number, protocol in itertools.product(scale.tables, scale.protocols):
        for job in jobs_of(number, protocol, scale, scale.seeds[:1]):
            assert set(job.arguments(tmp_path)) <= {field.name for field in fields(runs[job.kind])}, job.name


def test_a_scale_has_all_tables_and_every_figure_of_them(scale):
    assert set(scale.tables) == set(TABLES) == {1, 2, 3, 4, 5, 6}
    assert set(scale.attack["attacks"]) == {name for name, _ in ATTACK_NAMES} <= set(ATTACKS)
    assert all(row.zoo is None or row.zoo in names() for table in scale.tables.values() for row in table.rows)


def test_a_table_has_all_rows_of_the_papers_and_random_search(scale):
    for number, table in scale.tables.items():
        ours = {row.label for row in table.rows}
        assert {figure.row for figure in published(number)} | {"Random search"} <= ours, number


def test_every_row_is_a_method_that_there_is(scale):
    searches = [row.search for table in scale.tables.values() for row in table.rows if row.search]
    assert {search["method"] for search in searches} <= set(STRATEGIES)
    assert all(search.get("stop", "plateau") in STOPPING_RULES for search in searches)


def test_scales_differ_in_size_not_in_rows(scale):
    smoke = load_scale("smoke")
    assert {number: table.rows for number, table in scale.tables.items()} == {
        number: table.rows for number, table in smoke.tables.items()
    }


def test_protocols_differ_in_the_recipe_of_robnet_alone(scale):
    for table in scale.tables.values():
        for each in table.rows:
            recipes = {name: protocol.recipe_of(each) for name, protocol in scale.protocols.items()}
            adversarial = each.label.startswith("RobNet")
            assert recipes == {"paper": "adversarial" if adversarial else "jacobian", "equal": "jacobian"}
