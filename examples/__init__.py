# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkout has beside the package: uses of it, the assets they need, benchmarks and studies."""
