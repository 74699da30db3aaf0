# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of operations on caches, each attention output compared with the float64 model of METHOD.md.

By default about 30 seconds of the same sequences every time; `--slow` runs more than 2,000 of each kind, and shrinks
one that fails, which takes minutes.
"""

import pytest
from disturbed_sequences import DisturbedSequences
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sequences import FAMILIES, Sequences


def run(machine, family, sequences, shrink=False, steps=14):
    """Run so many random sequences of at most `steps` operations on caches of one family's tiny model."""
    run_state_machine_as_test(
        type(f"{machine.__name__}_{family}", (machine,), {"family": family}),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_in_order(family):
    run(Sequences, family, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_with_failures(family):
    run(DisturbedSequences, family, 8)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("machine", [Sequences, DisturbedSequences], ids=["in order", "with failures"])
def test_two_thousand_sequences(machine, family):
    """2,040 sequences of each kind, twenty operations long."""
    run(machine, family, 340, shrink=True, steps=20)
