# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of several commands share."""


def error_line(result):
    """Return the one line a failed command printed; the output must be empty."""
    code, out, err = result
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("vecinfer: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]
