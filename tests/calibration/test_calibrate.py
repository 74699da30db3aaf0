# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: what is recorded, what the recipes make of it, and that the model comes out as it went in."""

import hashlib
import itertools
import sys

import pytest
import torch
import transformers
from tiny_models import FAMILIES, tiny_inputs, tiny_model
from transformers import DynamicCache

from vecinfer_hf import Codebook, VecInferConfig, calibrate
from vecinfer_hf.calibration import allocate_bits, fit_online, refine, simulated_loss
from vecinfer_hf.calibration.attention import attention_function
from vecinfer_hf.calibration.fit import RECIPES, fit_layers, key_statistics, layer_errors, restore
from vecinfer_hf.calibration.gradients import GradientStates
from vecinfer_hf.calibration.recorder import LayerStates, record_states
from vecinfer_hf.calibration.simulate import LayerSimulator
from vecinfer_hf.calibration.windows import calibration_windows
from vecinfer_hf.evaluation import evaluate_perplexity
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.model_info import full_attention_layers
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.transforms import apply_transform


IDS = tiny_inputs(1, 1200)[0]


def small_config(**options):
    defaults = {"sequence_length": 120, "num_tokens": 600, "num_iterations": 3, "residual_length": 16}
    return VecInferConfig(**{**defaults, **options})


class CharacterTokenizer:
    """One token per character, and a beginning-of-text token if asked for."""

    def __init__(self, bos: bool = False):
        self.bos, self.bos_token_id = bos, 1

    def __call__(self, text, add_special_tokens=True, verbose=True):
        start = [1] if self.bos and add_special_tokens else []
        return {"input_ids": start + [2 + ord(character) % 90 for character in text]}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_a_codebook_and_its_model_back(family, tmp_path):
    model = tiny_model(family)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config._attn_implementation
    codebook = calibrate(model, IDS, None, small_config(key_bits=2, value_bits=4), progress=False)
    assert list(codebook.layers) == full_attention_layers(model.config)
    assert codebook.bits_per_element == 3
    codebook.check_model(model.config)
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    for index, layer in codebook.layers.items():
        assert torch.equal(loaded.layers[index].key_centroids, layer.key_centroids)
    assert model.config._attn_implementation == attention
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    # Random keys and values at 2 and 4 bits: a quarter and a sixteenth of the energy are the Gaussian limits' doubles.
    assert all(error["key"] < 0.25 for error in codebook.provenance["errors"])
    assert all(error["value"] < 0.0625 for error in codebook.provenance["errors"])


@pytest.mark.parametrize("bits", [4, 2, 1.5, 1.25, 1, "d2b8"])
def test_every_width(bits):
    codebook = calibrate(tiny_model(), IDS, None, small_config(key_bits=bits, value_bits=bits), progress=False)
    assert codebook.formats(0) == (parse_format(bits), parse_format(bits))


def test_the_same_seed_gives_the_same_bits():
    model = tiny_model()
    first, second, other = (
        calibrate(model, IDS, None, small_config(seed=seed, num_samples=300), progress=False) for seed in (3, 3, 4)
    )
    for index in first.layers:
        same = zip(first.layers[index], second.layers[index], strict=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in same)
        assert not torch.equal(first.layers[index].key_centroids, other.layers[index].key_centroids)


def test_layer_bits_are_followed():
    layer_bits = [[4, 1], [1, 2]]
    codebook = calibrate(tiny_model(), IDS, None, small_config(layer_bits=layer_bits), progress=False)
    assert [codebook.formats(i) for i in (0, 1)] == [tuple(map(parse_format, pair)) for pair in layer_bits]


def test_provenance_says_what_was_done():
    texts = {"a": "x" * 400, "b": "y" * 200}
    codebook = calibrate(tiny_model(), CharacterTokenizer(), texts, small_config(), progress=False)
    provenance = codebook.provenance
    assert [text["name"] for text in provenance["texts"]] == ["a", "b"]
    assert provenance["texts"][0]["sha256"] == hashlib.sha256(texts["a"].encode()).hexdigest()
    assert [text["windows"] for text in provenance["texts"]] == [3, 1]
    assert (provenance["tokens"], provenance["sequence_length"]) == (480, 120)
    assert [set(error) for error in provenance["errors"]] == [{"layer", "key", "value"}] * 2
    assert codebook.identity["shape_hash"]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_recorded_states_are_what_the_cache_holds_after_the_sinks(family):
    model = tiny_model(family)
    rows = IDS[:80].view(2, 40)
    layers = full_attention_layers(model.config)
    states = record_states(model, rows, layers, sink_length=3, num_samples=1000)
    for index in layers:
        keys, values = [], []
        for row in rows:
            cache = DynamicCache(config=model.config)
            model(row[None], **cache_argument(cache))
            keys.append(cache.layers[index].keys[0, :, 3:])
            values.append(cache.layers[index].values[0, :, 3:])
        # Same arithmetic, but SDPA and the model's own attention round differently in the layers below.
        torch.testing.assert_close(states[index].keys, torch.cat(keys, 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states[index].values, torch.cat(values, 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states[index].key_absmax, states[index].keys.abs().amax(1))


def test_query_moment_belongs_to_the_heads_own_group():
    model = tiny_model()
    seen = {}

    def watch(module, query, key, value, attention_mask, scaling, **kwargs):
        seen[module.layer_idx] = query[0, :, 3:]
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ).transpose(1, 2)

    with attention_function(model, watch), torch.no_grad():
        model(IDS[None, :50])
    states = record_states(model, IDS[None, :50], [0], sink_length=3)
    queries = seen[0][2:4].reshape(-1, 16)
    torch.testing.assert_close(states[0].query_moment[1], queries.T @ queries / len(queries))


def test_samples_are_bounded():
    states = record_states(tiny_model(), IDS[:600].view(5, 120), [0, 1], num_samples=50)
    assert states[0].keys.shape == (2, 50, 16)
    assert states[1].values.shape == (2, 50, 16)


def test_paper_recipe_is_the_papers():
    states = record_states(tiny_model(), IDS[None, :300], [0])
    formats = {0: (parse_format(2), parse_format(2))}
    layer = fit_layers(states, formats, recipe="paper", num_iterations=2)[0]
    torch.testing.assert_close(layer.query_transform, states[0].keys.abs().amax(1).sqrt())
    assert layer.key_mean is None
    assert layer.value_transform is None


def test_query_scale_balances_keys_and_queries():
    keys = torch.randn(2, 5000, 16) * torch.linspace(0.1, 10, 16)
    queries = torch.randn(2, 5000, 16) * torch.linspace(3, 0.2, 16)
    moment = queries.transpose(1, 2) @ queries / 5000
    mean, scale = key_statistics(keys, keys.abs().amax(1), moment, "query")
    assert mean is None
    torch.testing.assert_close(
        (keys / scale.unsqueeze(1)).square().mean(1), (queries * scale.unsqueeze(1)).square().mean(1)
    )


def test_keys_with_a_large_offset_are_centred():
    offset = torch.zeros(2, 1, 16)
    offset[:, :, 3] = 100.0
    keys = torch.randn(2, 3000, 16) + offset
    states = LayerStates(keys, torch.randn(2, 3000, 16), keys.abs().amax(1), torch.eye(16).expand(2, 16, 16))
    formats = {0: (parse_format(2), parse_format(2))}
    centred = fit_layers({0: states}, formats, recipe="query", num_iterations=5)[0]
    torch.testing.assert_close(centred.key_mean[:, 3], torch.full((2,), 100.0), rtol=0, atol=0.1)
    uncentred = fit_layers({0: states}, formats, recipe="paper", num_iterations=5)[0]
    errors = [(restore(keys[None], keys[None], layer)[0][0] - keys).square().mean() for layer in (centred, uncentred)]
    assert errors[0] < errors[1] / 2


def test_channels_that_are_always_zero():
    keys = torch.randn(1, 500, 16)
    keys[..., 5] = 0
    moment = torch.zeros(1, 16, 16)
    gradients = torch.zeros(1, 500, 16)
    states = GradientStates(
        keys, torch.zeros(1, 500, 16), keys.abs().amax(1), moment, gradients, gradients, moment, moment
    )
    for recipe in RECIPES:
        layer = fit_layers({0: states}, {0: (parse_format(2), parse_format(2))}, recipe=recipe, num_iterations=2)[0]
        assert all(torch.isfinite(tensor).all() for tensor in layer if tensor is not None)
        assert layer_errors(states, layer)["value"] == 0


@pytest.mark.parametrize("residual_length", [1, 16])
def test_simulation_equals_the_real_cache(residual_length):
    model = tiny_model()
    codebook = calibrate(model, IDS, None, small_config(), progress=False)
    windows = tiny_inputs(2, 36, seed=5)
    options = {"residual_length": residual_length, "sink_length": 2, "sink_choice": "first"}
    real = evaluate_perplexity(model, windows, codebook, chunk_length=1, **options)
    layers = {index: LayerSimulator(layer) for index, layer in codebook.layers.items()}
    simulated = simulated_loss(model, layers, windows, batch_size=2, **options)
    # Two float32 computations of the same sums; a differing near-tie of two centroids would show at 1e-3.
    assert simulated.kl == pytest.approx(real.kl_divergence, rel=1e-3)
    assert simulated.perplexity_ratio == pytest.approx(real.perplexity_ratio, rel=1e-4)


def test_refinement_lowers_the_loss_and_repeats_itself():
    model = tiny_model()
    codebook = calibrate(model, IDS, None, small_config(key_bits=1, value_bits=1, recipe="query"), progress=False)
    # Centroids half as large as they should be: there is something to repair.
    spoilt = {
        index: layer._replace(
            key_centroid_scale=layer.key_centroid_scale / 2, value_centroid_scale=layer.value_centroid_scale / 2
        )
        for index, layer in codebook.layers.items()
    }
    windows = IDS[:960].view(8, 120)
    options = {"sink_length": 2, "residual_length": 8}

    def draw(step):
        return windows[step % 8][None]

    def loss(layers):
        simulators = {index: LayerSimulator(layer) for index, layer in layers.items()}
        return simulated_loss(model, simulators, windows, batch_size=8, **options).kl

    refined = [refine(model, spoilt, draw, 24, learning_rate=0.4, max_position=500, **options) for _ in range(2)]
    assert loss(refined[0]) < 0.9 * loss(spoilt)
    for index in codebook.layers:
        pairs = zip(refined[0][index], refined[1][index], strict=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_refinement_stops_after_its_time():
    steps = []
    codebook = calibrate(tiny_model(), IDS, None, small_config(), progress=False)
    refine(tiny_model(), codebook.layers, lambda _: IDS[None, :60], 10**6, residual_length=8, max_seconds=0.5,
           progress=steps.append)  # fmt: skip
    assert 1 <= len(steps) < 10**4


def test_full_matrices_are_refined_with_their_centroids():
    model = tiny_model()
    layer = calibrate(model, IDS, None, small_config(), progress=False).layers[0]
    matrix = torch.linalg.qr(torch.randn(2, 16, 16))[0]
    general = layer._replace(
        key_mean=torch.randn(2, 16),
        key_transform=matrix,
        query_transform=matrix,
        value_mean=torch.randn(2, 16) * 0.1,
        value_transform=matrix,
        output_transform=matrix.transpose(1, 2).contiguous(),
    )
    states = torch.randn(1, 2, 40, 16)
    simulator = LayerSimulator(general)
    expected = restore(states, states, general)
    torch.testing.assert_close(simulator.key(states), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(simulator.value(states), expected[1], rtol=1e-4, atol=1e-4)
    refined = refine(model, {0: general}, lambda _: IDS[None, :60], 6, learning_rate=1.0, residual_length=8)[0]
    identity = refined.key_transform.transpose(1, 2) @ refined.query_transform
    torch.testing.assert_close(identity, torch.eye(16).expand(2, 16, 16), rtol=0, atol=1e-4)
    # Stored as float16 without loss. Six steps of at most 0.003 move elements of a rotation by 16 times that at most.
    assert torch.equal(refined.key_transform.half().float(), refined.key_transform)
    moved = (refined.key_transform - general.key_transform).abs().max()
    assert 1e-3 < moved < 6 * 0.003 * 16
    assert not torch.equal(refined.key_mean, general.key_mean)
    before = general.key_centroids * general.key_centroid_scale.view(-1, 1, 1, 1)
    after = refined.key_centroids * refined.key_centroid_scale.view(-1, 1, 1, 1)
    # More than a rounding step: centroids did move.
    assert (after - before).abs().max() > general.key_centroid_scale.max()


def test_gradient_passes_straight_through():
    codebook = calibrate(tiny_model(), IDS, None, small_config(), progress=False)
    states = torch.randn(1, 2, 5, 16, requires_grad=True)
    LayerSimulator(codebook.layers[0]).key(states).sum().backward()
    assert torch.equal(states.grad, torch.ones_like(states))


def test_allocation_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(2, 2, 3, generator=generator).sort(-1, descending=True).values
    rows = [
        {"layer": layer, "side": side, "bits": bits, "kl": costs[layer, s, b].item()}
        for layer, (s, side), (b, bits) in itertools.product(
            range(2), enumerate(("key", "value")), enumerate((1, 2, 4))
        )
    ]

    def cost(choice):
        return sum(costs[place // 2, place % 2, (1, 2, 4).index(bits)].item() for place, bits in enumerate(choice))

    for average in (1, 1.5, 2, 2.75, 4):
        allowed = [c for c in itertools.product((1, 2, 4), repeat=4) if sum(c) <= 4 * average]
        chosen = [bits for pair in allocate_bits(rows, average) for bits in pair]
        assert sum(chosen) <= 4 * average
        assert cost(chosen) == pytest.approx(min(map(cost, allowed)))
    with pytest.raises(ValueError, match=r"0\.5 bits is below the least, 1"):
        allocate_bits(rows, 0.5)


def test_calibrate_allocates():
    codebook = calibrate(tiny_model(), IDS, None, small_config(), allocate=2.0, refine_steps=1, progress=False)
    assert codebook.bits_per_element <= 2
    assert codebook.config.layer_bits == [[f.bits_per_element for f in codebook.formats(i)] for i in codebook.layers]
    assert len(codebook.provenance["sensitivity"]) == 2 * 2 * 3
    assert codebook.provenance["allocated_bits"] == 2.0


def test_online_codebook_fits_the_prompt():
    keys, values, queries = torch.randn(2, 2, 200, 16), torch.randn(2, 2, 200, 16), torch.randn(2, 4, 200, 16)
    formats = parse_format(2), parse_format(4)
    for given in (None, queries):
        layer = fit_online(keys, values, *formats, given)
        restored = restore(keys, values, layer)
        # Gaussian sub-vectors of 4 elements with 8 bits: 0.12 of the energy was measured; twice that is a failure.
        assert (restored[0] - keys).square().mean() < 0.24
        assert (restored[1] - values).square().mean() < 0.02
    assert torch.equal(
        fit_online(keys, values, *formats).key_centroids, fit_online(keys, values, *formats).key_centroids
    )
    with pytest.raises(ValueError, match="4 tokens, none after 4 sinks"):
        fit_online(keys[:, :, :4], values[:, :, :4], *formats)


def test_windows_are_spread_and_whole():
    windows, record = calibration_windows(CharacterTokenizer(), {"a": "ab" * 300, "b": "c" * 90}, 100, 10_000)
    assert windows.shape == (6, 100)
    assert [entry["windows"] for entry in record] == [6, 0]
    few, record = calibration_windows(CharacterTokenizer(), {"a": "ab" * 500, "b": "c" * 500}, 100, 399)
    assert few.shape == (3, 100)
    assert [entry["windows"] for entry in record] == [2, 1]
    with_bos, _ = calibration_windows(CharacterTokenizer(bos=True), "d" * 198, 100, 1000)
    assert with_bos.shape == (2, 100)
    assert with_bos[:, 0].tolist() == [1, 1]


def test_short_text_says_how_many_tokens_there_are_and_are_needed():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"40 tokens .* needs 120"):
        calibrate(model, CharacterTokenizer(), "x" * 40, small_config(), progress=False)
    with pytest.raises(ValueError, match="0 tokens"):
        calibrate(model, CharacterTokenizer(), [], small_config(), progress=False)
    with pytest.raises(TypeError, match="texts is None"):
        calibrate(model, CharacterTokenizer(), None, small_config(), progress=False)
    with pytest.raises(ValueError, match="4 tokens leave none"):
        calibrate(model, IDS, None, small_config(sequence_length=4), progress=False)
    assert model.config._attn_implementation == "sdpa"


def test_windows_too_short_for_gradients_fall_back_with_an_announcement(monkeypatch):
    from vecinfer_hf.calibration import calibrate as module

    said = []
    monkeypatch.setattr(sys.modules[module.__module__].logger, "warning_once", said.append)
    short = calibrate(tiny_model(), IDS, None, small_config(sequence_length=24), progress=False)
    assert short.config.recipe == "query"
    assert short.layers[0].key_transform.dim() == 2
    assert len(said) == 1
    assert "windows of 24 tokens" in said[0]
    assert "sequence_length" in said[0]
    assert calibrate(tiny_model(), IDS, None, small_config(), progress=False).config.recipe == "default"
    assert len(said) == 1


def test_a_failure_restores_the_model():
    model = tiny_model().train()

    def fail(*args, **kwargs):
        raise RuntimeError("planted")

    model.model.layers[1].mlp.forward = fail
    with pytest.raises(RuntimeError, match="planted"):
        calibrate(model, IDS, None, small_config(), progress=False)
    assert model.config._attn_implementation == "sdpa"
    assert model.training


def test_models_that_cannot_be_calibrated_are_refused():
    encoder_decoder = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=97)
    )
    with pytest.raises(ValueError, match="encoder-decoder"):
        calibrate(encoder_decoder, IDS, None, small_config(), progress=False)
    latent = tiny_model()
    latent.config.kv_lora_rank = 8
    with pytest.raises(ValueError, match="kv_lora_rank=8"):
        calibrate(latent, IDS, None, small_config(), progress=False)
    old = tiny_model()
    old._supports_attention_backend = False
    with pytest.raises(ValueError, match="attention interface"):
        calibrate(old, IDS, None, small_config(), progress=False)
    sliding = tiny_model("gemma3", layer_types=["sliding_attention"] * 2)
    with pytest.raises(ValueError, match="none of the layers"):
        calibrate(sliding, IDS, None, small_config(), progress=False)
    with pytest.raises(ValueError, match="recipe is 'best'"):
        calibrate(tiny_model(), IDS, None, small_config(recipe="best"), progress=False)
    odd = tiny_model(head_dim=12)
    with pytest.raises(ValueError, match="head_dim 12 is not divisible"):
        calibrate(odd, IDS, None, small_config(key_bits=1), progress=False)


def test_progress_is_shown_on_standard_error(capsys):
    calibrate(tiny_model(), IDS, None, small_config())
    captured = capsys.readouterr()
    assert "Reading text" in captured.err
    assert "Fitting" in captured.err
    assert captured.out == ""


def test_head_sizes_that_are_no_power_of_two():
    model = tiny_model(head_dim=24, hidden_size=96)
    codebook = calibrate(model, IDS, None, small_config(), progress=False)
    layer = codebook.layers[0]
    states = torch.randn(1, 2, 9, 24)
    queries = torch.randn(1, 2, 9, 24)
    scores = apply_transform(queries, layer.query_transform, None) @ apply_transform(
        states, layer.key_transform, layer.key_mean
    ).transpose(-1, -2)
    centred = states - layer.key_mean.unsqueeze(1)
    torch.testing.assert_close(scores, queries @ centred.transpose(-1, -2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_simulated_stock_loss_is_the_models_own(family):
    model = tiny_model(family)
    windows = tiny_inputs(2, 30)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].float()
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    loss = simulated_loss(model, {}, windows)
    assert loss.nll_stock == pytest.approx(own.item(), rel=1e-4)
    assert loss.kl == 0
