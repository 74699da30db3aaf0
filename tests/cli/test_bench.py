# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench` runs the kernels' benchmarks, or says what is missing."""

import pytest
import torch

from vecinfer_hf.cli.app import main
from vecinfer_hf.cli.bench import OPERATORS, benchmarks_folder


def test_every_operator_has_its_script():
    assert all((benchmarks_folder() / f"benchmark_{operator}.py").is_file() for operator in OPERATORS)


def test_unknown_operator(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "sort"])
    assert stopped.value.code == 2
    assert "no benchmark of 'sort'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench"])
    assert stopped.value.code == 2
    assert "need a CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu(capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "append"])
    assert stopped.value.code == 0
    assert "| d4b8 |" in capfd.readouterr().out
