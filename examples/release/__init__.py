# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a release needs beside the package: the API page, and the checks of `make release`."""
