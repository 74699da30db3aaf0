# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Plain product quantization: as many bits as a codebook, no transform, and as good as k-means makes it."""

import torch
from tiny_models import tiny_model

from examples.research.plain import plain_layers
from vecinfer_hf import CalibrationConfig
from vecinfer_hf.calibration.recorder import record_states
from vecinfer_hf.calibration.windows import calibration_windows


class NumberTokenizer:
    """One token per number."""

    bos_token_id = None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": [int(number) for number in text.split()]}


def test_centroids_are_those_of_the_states_themselves():
    model = tiny_model("gemma3")
    tokenizer = NumberTokenizer()
    generator = torch.Generator().manual_seed(0)
    texts = {"text": " ".join(map(str, torch.randint(90, (2000,), generator=generator).tolist()))}
    config = CalibrationConfig(sequence_length=200, num_tokens=1600, num_iterations=5)
    done = []
    layers = plain_layers(model, tokenizer, texts, config, progress=done.append)
    # The sliding layer keeps its own cache.
    assert list(layers) == [1]
    assert done == [1]
    peer = layers[1]
    assert peer.bits == 2
    assert peer.key.kind is None
    assert peer.key.centroids.shape == (2, 1, 256, 4)
    windows, _ = calibration_windows(tokenizer, texts, 200, 1600)
    keys = record_states(model, windows, [1])[1].keys[None]
    restored = peer.key(keys)
    # What is read back is made of centroids.
    table = peer.key.centroids[0, 0]
    distance = torch.cdist(restored[0, 0].reshape(-1, 4), table, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.amin(1).max() < 1e-5
    # 256 centroids for 4 dimensions: far below the variance, which one centroid would leave.
    variance = (keys - keys.mean(2, keepdim=True)).square().mean()
    assert (restored - keys).square().mean() < 0.25 * variance
    assert not any(parameter.requires_grad for parameter in peer.parameters())
