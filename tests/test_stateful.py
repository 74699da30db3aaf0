# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of operations on caches, each attention output compared with the float64 model of METHOD.md."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sequences import FAMILIES, Sequences


def run(machine, family, sequences, shrink=False, steps=14):
    """Run so many random sequences, the same ones every time. Shrinking one that fails takes minutes."""
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
    run(Sequences, family, 10)
