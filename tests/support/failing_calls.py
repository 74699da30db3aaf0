# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of failed and interrupted calls share: models, and how a cache goes on after such a call."""

from __future__ import annotations

from edge_cases import run, sliding_model, tiny_model
from method_follower import Divergence
from refusal import assert_says_how_to_repair


KINDS = ["growing", "static"]
MODELS = {
    "full": lambda: tiny_model("llama"),
    "sliding inside": sliding_model,
    "sliding first": lambda: tiny_model("gemma3", sliding_window=12),
}
"""Full attention alone, a sliding layer between two of full attention, and a sliding layer in front."""


def make_model(name: str):
    """Return the model of this name with "vecinfer" attention."""
    model = MODELS[name]()
    model.set_attn_implementation("vecinfer")
    return model


def go_on(model, cache, follower, ids, held, repair, is_copy=False):
    """Use a cache that held `held` columns before a call failed; it must go on exactly or say how to repair it."""
    if repair == "retry":
        try:
            run(model, ids[:, held : held + 3], cache)
        except Divergence:
            raise
        except Exception as error:
            assert_says_how_to_repair(error)
            repair = "crop"
        else:
            follower.audit(cache)
            return
    if repair == "crop":
        try:
            cache.crop(min(held - int(cache.get_seq_length()), 0))
        except Exception as error:
            # A static sliding layer overwrites in place what it needs to go back, and a copy need not have that.
            if not any(cache.is_sliding) or not (cache.is_compileable or is_copy):
                raise
            assert_says_how_to_repair(error, "reset")
            repair = "reset"
    if repair == "reset":
        cache.reset()
        held = 0
    follower.audit(cache)
    run(model, ids[:, held : held + 3], cache)
    run(model, ids[:, held + 3 : held + 4], cache)
    follower.audit(cache)
