# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer doctor MODEL`: which layers of a model would hold codes, from its config alone."""

import json

import transformers
from model_families import family_config


def test_doctor_examines_a_model(vecinfer, tmp_path):
    family_config("qwen3_next").save_pretrained(tmp_path)
    code, out, _ = vecinfer("doctor", tmp_path)
    assert code == 0
    assert "layers 0, 2: recurrent or convolution state of fixed size" in out
    code, out, _ = vecinfer("doctor", tmp_path, "--json")
    assert code == 0
    assert [layer["keeps"] for layer in json.loads(out)["layers"]] == ["default", "codes", "default"]


def test_doctor_fails_for_a_model_without_codes(vecinfer, tmp_path):
    transformers.DeepseekV3Config(num_hidden_layers=2).save_pretrained(tmp_path)
    code, out, _ = vecinfer("doctor", tmp_path)
    assert code == 1
    assert "no VecInfer cache: deepseek_v3 caches latent vectors" in out
