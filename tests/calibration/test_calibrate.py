# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""calibrate: families, widths and options, what is recorded in the codebook, and what is announced."""

import hashlib

import pytest
import torch
import transformers
from calibration_texts import IDS, CharacterTokenizer, random_text, same_layers, small_config
from tiny_models import FAMILIES, tiny_model

from vecinfer_hf import Codebook, calibrate
from vecinfer_hf.calibration import requirements
from vecinfer_hf.errors import ConfigError, UnsupportedModelError
from vecinfer_hf.model_info import full_attention_layers, model_identity
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.transforms import apply_transform


@pytest.fixture
def said(monkeypatch):
    """The warnings of `calibrate`, each time it warns."""
    lines = []
    monkeypatch.setattr(requirements.logger, "warning_once", lines.append)
    return lines


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_a_codebook(family):
    model = tiny_model(family)
    codebook = calibrate(model, IDS, config=small_config(key_bits=2, value_bits=4), progress=False)
    assert list(codebook.layers) == full_attention_layers(model.config)
    assert codebook.bits_per_element == 3
    codebook.check_model(model.config)
    # Random keys and values at 2 and 4 bits: a quarter and a sixteenth of the energy are the Gaussian limits' doubles.
    assert all(error["key"] < 0.25 for error in codebook.provenance["errors"])
    assert all(error["value"] < 0.0625 for error in codebook.provenance["errors"])


@pytest.mark.parametrize("bits", [1.5, 1.25, 1, "d2b8"])
def test_every_width(bits):
    codebook = calibrate(tiny_model(), IDS, config=small_config(key_bits=bits, value_bits=bits), progress=False)
    assert codebook.formats(0) == (parse_format(bits), parse_format(bits))


def test_another_seed_gives_another_codebook():
    first, other = (
        calibrate(tiny_model(), IDS, config=small_config(seed=seed, num_samples=300), progress=False)
        for seed in (3, 4)
    )
    assert not torch.equal(first.layers[0].key_centroids, other.layers[0].key_centroids)


def test_layer_bits_are_followed():
    layer_bits = [[4, 1], [1, 2]]
    codebook = calibrate(tiny_model(), IDS, config=small_config(layer_bits=layer_bits), progress=False)
    assert [codebook.formats(i) for i in (0, 1)] == [tuple(map(parse_format, pair)) for pair in layer_bits]


def test_allocation_keeps_its_budget_and_the_config():
    codebook = calibrate(tiny_model(), IDS, config=small_config(allocate=2.5, refine_steps=1), progress=False)
    assert 2 < codebook.bits_per_element <= 2.5
    assert (codebook.config.allocate, codebook.config.layer_bits, codebook.config.refine_steps) == (2.5, None, 1)
    assert len(codebook.provenance["sensitivity"]) == 2 * 2 * 3
    assert codebook.provenance["sensitivity_by"] == "gradients"


def test_provenance_says_what_was_done():
    texts = {"a": "x" * 400, "b": "y" * 200}
    codebook = calibrate(tiny_model(), CharacterTokenizer(), texts, small_config(), progress=False)
    provenance = codebook.provenance
    assert [text["name"] for text in provenance["texts"]] == ["a", "b"]
    assert provenance["texts"][0]["sha256"] == hashlib.sha256(texts["a"].encode()).hexdigest()
    assert [text["windows"] for text in provenance["texts"]] == [3, 1]
    assert provenance["tokens"] == 480
    assert [set(error) for error in provenance["errors"]] == [{"layer", "key", "value"}] * 2
    assert codebook.identity == model_identity(tiny_model().config)


RECIPES = [
    {"recipe": "default", "allocate": 2},
    {"recipe": "query", "allocate": 2},
    {"recipe": "paper", "separator_fraction": 0.5},
    {"recipe": "default", "sequence_length": 24},
    {"recipe": "paper", "refine_steps": 2, "retrieval_fraction": 0.4, "sequence_length": 512},
]


@pytest.mark.parametrize("options", RECIPES, ids=lambda options: " ".join(map(str, options.values())))
def test_a_codebook_can_be_made_again_from_its_own_config_and_the_texts(options, tmp_path):
    texts = {"a": random_text(2000), "b": random_text(800, seed=1)}
    config = small_config(**{"num_tokens": 360, **options})
    made = calibrate(tiny_model(), CharacterTokenizer(bos=True), texts, config, progress=False)
    made.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    again = calibrate(tiny_model(), CharacterTokenizer(bos=True), texts, loaded.config, progress=False)
    assert same_layers(made, loaded)
    assert same_layers(loaded, again)
    assert again.config == loaded.config == made.config
    assert again.provenance["texts"] == loaded.provenance["texts"]


def test_windows_too_short_for_gradients_take_another_recipe_with_a_warning(said):
    short = calibrate(tiny_model(), IDS, config=small_config(sequence_length=24), progress=False)
    assert short.config.recipe == "query"
    assert short.layers[0].key_transform.dim() == 2
    (line,) = said
    assert "windows of 24 tokens" in line
    assert "sequence_length" in line
    assert calibrate(tiny_model(), IDS, config=small_config(), progress=False).config.recipe == "default"
    assert len(said) == 1


LONG = {"sequence_length": 512, "key_bits": 1, "value_bits": 1, "num_samples": 64, "num_iterations": 1}


@pytest.mark.parametrize(
    ("options", "with_tokenizer", "reason"),
    [
        ({"recipe": "paper"}, True, "the recipe paper without allocation and refinement"),
        ({}, False, "token ids were given without a tokenizer"),
        ({"sequence_length": 500}, True, "windows of 500 tokens are too short"),
    ],
)
def test_a_retrieval_fraction_without_effect_is_announced(said, options, with_tokenizer, reason):
    source = (CharacterTokenizer(), random_text(2048)) if with_tokenizer else (IDS,)
    config = small_config(**{**LONG, **options}, retrieval_fraction=0.4)
    codebook = calibrate(tiny_model(), *source, config=config, progress=False)
    assert codebook.config.retrieval_fraction == 0
    assert [line for line in said if "retrieval_fraction=0.4 has no effect" in line and reason in line]


@pytest.mark.parametrize("source", ["ids", "no special tokens"])
def test_a_separator_fraction_without_effect_is_announced(said, source):
    class Plain(CharacterTokenizer):
        eos_token_id = pad_token_id = unk_token_id = None

        def __init__(self):
            super().__init__()
            self.bos_token_id = None

    given = (IDS,) if source == "ids" else (Plain(), random_text(600))
    codebook = calibrate(tiny_model(), *given, config=small_config(separator_fraction=0.5), progress=False)
    assert codebook.config.separator_fraction == 0
    assert [line for line in said if "separator_fraction=0.5 has no effect" in line]


@pytest.mark.parametrize(
    ("options", "fractions"),
    [
        ({}, (0.5, 0.25)),
        ({"retrieval_fraction": 0, "separator_fraction": 0}, (0, 0)),
        ({"recipe": "paper"}, (0, 0)),
        ({"recipe": "paper", "separator_fraction": 1}, (0, 1)),
        ({"recipe": "query", "refine_steps": 1, "retrieval_fraction": 0.25}, (0.25, 0)),
    ],
)
def test_the_fractions_that_were_used_are_in_the_config(options, fractions):
    config = small_config(**{**LONG, **options})
    codebook = calibrate(tiny_model(), CharacterTokenizer(), random_text(2048), config, progress=False)
    assert (codebook.config.retrieval_fraction, codebook.config.separator_fraction) == fractions


def test_models_that_cannot_be_calibrated_are_refused():
    encoder_decoder = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=97)
    )
    latent = tiny_model()
    latent.config.kv_lora_rank = 8
    old = transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=16, n_layer=1, n_head=1, vocab_size=97))
    for model, reason in (
        (encoder_decoder, "encoder-decoder"),
        (latent, "kv_lora_rank=8"),
        (old, "attention interface"),
        (tiny_model("gemma3", layer_types=["sliding_attention"] * 2), "none of the layers"),
        (torch.nn.Linear(1, 1), "model is a Linear; calibrate needs a transformers model"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            calibrate(model, IDS, config=small_config(), progress=False)
    with pytest.raises(ConfigError, match="head_dim 12 is not divisible"):
        calibrate(tiny_model(head_dim=12), IDS, config=small_config(key_bits=1), progress=False)
    with pytest.raises(ConfigError, match="head_dim 12 is not divisible"):
        calibrate(tiny_model(head_dim=12), IDS, config=small_config(allocate=2), progress=False)


def test_progress_is_shown_on_standard_error(capsys):
    calibrate(tiny_model(), IDS, config=small_config())
    captured = capsys.readouterr()
    assert "Reading text" in captured.err
    assert "Fitting" in captured.err
    assert captured.out == ""


def test_head_sizes_that_are_no_power_of_two():
    model = tiny_model(head_dim=24, hidden_size=96)
    codebook = calibrate(model, IDS, config=small_config(), progress=False)
    layer = codebook.layers[0]
    states = torch.randn(1, 2, 9, 24)
    queries = torch.randn(1, 2, 9, 24)
    scores = apply_transform(queries, layer.query_transform, None) @ apply_transform(
        states, layer.key_transform, layer.key_mean
    ).transpose(-1, -2)
    centred = states - layer.key_mean.unsqueeze(1)
    torch.testing.assert_close(scores, queries @ centred.transpose(-1, -2), rtol=1e-4, atol=1e-4)


def model_with_value_heads_of(value_dim):
    config = transformers.MiMoV2FlashConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, v_head_dim=value_dim, n_routed_experts=4,
        num_experts_per_tok=2, layer_types=["sliding_attention", "full_attention"], sliding_window=24,
        swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=16, swa_v_head_dim=value_dim,
    )  # fmt: skip
    return transformers.MiMoV2FlashForCausalLM(config).eval()


@pytest.mark.parametrize("value_dim", [8, 24])
@pytest.mark.parametrize("recipe", ["default", "query"])
def test_values_that_are_wider_or_narrower_than_keys(recipe, value_dim):
    config = small_config(recipe=recipe, allocate=2, refine_steps=1, num_tokens=360, num_iterations=2)
    codebook = calibrate(model_with_value_heads_of(value_dim), IDS, config=config, progress=False)
    assert list(codebook.layers) == [1]
    if recipe == "default":
        assert codebook.layers[1].key_transform.shape == (2, 16, 16)
        assert codebook.layers[1].value_transform.shape == (2, value_dim, value_dim)
    # At 1 bit or more: half of the energy is the Gaussian limits' double.
    assert all(error[side] < 0.5 for error in codebook.provenance["errors"] for side in ("key", "value"))


def test_a_format_has_to_divide_the_values_too():
    model = model_with_value_heads_of(12)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ConfigError, match="head_dim 12 is not divisible"):
        calibrate(model, IDS, config=small_config(value_bits=1), progress=False)
    assert not calls
