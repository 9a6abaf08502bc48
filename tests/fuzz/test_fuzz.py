"""A few inputs of every family. More by hand: python -m tests.fuzz --help"""

from pathlib import Path

import pytest

from .families import FAMILIES, Prepared, import_family

COUNT = 12
"""Inputs of each family in the test suite."""
KNOWN: dict[str, tuple[int, ...]] = {}
"""Seeds below COUNT of each family that break the contract today."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(request.param, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
def test_hostile_inputs_end_in_a_result_or_a_refusal(family: Prepared):
    for seed in set(range(COUNT)) - set(KNOWN.get(family.name, ())):
        result = family.run(seed, seconds=300)
        print(result)
        assert not result.outcome.is_breach, f"{result}\n{result.outcome.text}"


@pytest.mark.slow
def test_commands_succeed_on_the_valid_files(family: Prepared):
    """Otherwise the fuzzer would test refusals only."""
    for command in import_family(family.name).COMMANDS:
        expected = "refused" if command in family.module.FAILING else "ok"
        outcome = family.run_valid(command)
        stderr = Path(family.folder / "case" / "tmp" / "stderr").read_text()
        assert outcome.verdict == expected, f"{command}: {outcome.text}\n{stderr}"
