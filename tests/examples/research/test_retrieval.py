# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Retrieval with one exact context for all methods: equal to a pass over the whole text, and to the real cache."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import DynamicCache

from examples.research import retrieval
from examples.research.methods import own_method, peer_methods
from examples.research.needles import NeedleSample
from examples.research.retrieval import answered, needle_hits, retrieval_report
from vecinfer_hf import VecInferCache
from vecinfer_hf.calibration.attention import attention_function, plain_attention, run_body
from vecinfer_hf.calibration.fake_quantization import fake_quantized_attention
from vecinfer_hf.calibration.loss import model_logits
from vecinfer_hf.evaluation import attention as attention_switch
from vecinfer_hf.integration.compat import cache_argument


SINKS, WINDOW = 2, 16


@pytest.fixture(params=["llama", "gemma3", "gpt_oss", "gemma2"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def seen(monkeypatch):
    """The logits that decide about every sample, method after method."""
    logits = []

    def record(rows, answers):
        logits.append(rows)
        return answered(rows, answers)

    monkeypatch.setattr(retrieval, "answered", record)
    return logits


def test_one_context_for_all_methods_gives_what_a_whole_pass_gives(model, seen):
    # Also with the packages that are installed: tiny-turboquant's blocks of 128 tokens are longer than this text.
    codebook = random_codebook(model.config)
    methods = {"stock": {}, **{row.name: row.layers for row in peer_methods(model, SINKS)[0]}}
    methods["vecinfer"] = own_method(model, codebook).layers
    # Groups of 32 tokens end with the context, so that they are those of the whole text.
    context = SINKS + 64
    samples = [NeedleSample(ids, context, 4) for ids in tiny_inputs(3, context + 33)]
    needle_hits(model, samples, methods, sink_length=SINKS, residual_length=WINDOW, batch_tokens=2 * context)
    batches = [slice(0, 2), slice(2, 3)]
    assert len(seen) == len(batches) * len(methods)
    ids = torch.stack([sample.ids for sample in samples])
    assert ids.shape[1] - context > WINDOW
    got = iter(seen)
    with torch.no_grad():
        for rows in batches:
            for name, layers in methods.items():
                if name.startswith("fp8"):  # one scale for the context, another one for the whole text
                    next(got)
                    continue
                attention = fake_quantized_attention(layers, SINKS, WINDOW, 1, context) if layers else plain_attention
                with attention_function(model, attention):
                    hidden = run_body(model, ids[rows, :-1])[:, -4:]
                # float32 rounding of other matrix shapes; random models amplify it.
                torch.testing.assert_close(next(got), model_logits(model, hidden), rtol=1e-3, atol=1e-3, msg=name)


def test_it_is_what_the_real_cache_gives(model, seen):
    codebook = random_codebook(model.config)
    # Longer than what sinks are chosen from and the window together.
    sample = NeedleSample(tiny_inputs(1, 112)[0], 100, 3)
    layers = own_method(model, codebook).layers
    needle_hits(model, [sample], {"vecinfer": layers}, sink_length=SINKS, residual_length=WINDOW)
    cache = VecInferCache(model.config, codebook, sink_length=SINKS, residual_length=WINDOW)
    with torch.no_grad(), attention_switch.attention_set_to(model, "vecinfer"):
        model(sample.ids[None, :100], **cache_argument(cache))
        real = [model(token[None, None], **cache_argument(cache)).logits[0, -1] for token in sample.ids[100:-1]]
    torch.testing.assert_close(seen[0][0], torch.stack(real[-3:]), rtol=1e-3, atol=1e-3)


def test_methods_do_not_disturb_each_other_and_codes_matter(model, seen):
    codebook = random_codebook(model.config)
    layers = own_method(model, codebook).layers
    sample = NeedleSample(tiny_inputs(1, 60)[0], 48, 3)
    methods = {"first": {}, "coded": layers, "second": {}}
    needle_hits(model, [sample], methods, sink_length=SINKS, residual_length=WINDOW)
    assert torch.equal(seen[0], seen[2])
    assert (seen[0] - seen[1]).abs().max() > 0.01


def test_samples_of_other_lengths_keep_their_places():
    model = tiny_model()
    ids = tiny_inputs(1, 60)[0]
    texts = []
    for length in (40, 50, 40):
        prompt = ids[:length]
        generated = model.generate(
            prompt[None], attention_mask=torch.ones(1, length, dtype=torch.long), max_new_tokens=4, do_sample=False
        )[0]
        texts.append(NeedleSample(generated, length - 5, 4))
    wrong = NeedleSample(texts[1].ids.flip(0), 45, 4)
    samples = [texts[0], wrong, texts[1], texts[2]]
    hits = needle_hits(model, samples, {"stock": {}}, batch_tokens=1000)
    # Right where greedy generation says the same, wrong for a text turned round.
    assert hits == {"stock": [True, False, True, True]}
    # A window as long as the text leaves nothing to code.
    layers = own_method(model, random_codebook(model.config)).layers
    assert needle_hits(model, samples, {"all exact": layers}, residual_length=64) == {
        "all exact": [True, False, True, True]
    }


@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_several_questions_about_one_text_are_answered_as_each_alone(model, seen, batch_tokens):
    layers = own_method(model, random_codebook(model.config)).layers
    contexts, ends = tiny_inputs(3, 50), tiny_inputs(8, 12, seed=1)
    samples = []
    for number, end in enumerate(ends):
        # Two to three questions a text, of two lengths, in mixed order.
        samples.append(NeedleSample(torch.cat([contexts[number % 3], end[: 10 + number % 2]]), 50, 3))
    options = {"sink_length": SINKS, "residual_length": WINDOW}
    together = needle_hits(model, samples, {"own": layers}, batch_tokens=batch_tokens, **options)
    order = [
        index
        for contexts_of in retrieval._batches(samples, batch_tokens)
        for _, part in retrieval._questions(samples, contexts_of)
        for index in part
    ]
    assert sorted(order) == list(range(8))
    found = dict(zip(order, torch.cat(seen), strict=True))
    seen.clear()
    alone = [needle_hits(model, [sample], {"own": layers}, **options)["own"][0] for sample in samples]
    assert together["own"] == alone
    for index, logits in enumerate(seen):
        torch.testing.assert_close(found[index], logits[0], rtol=1e-3, atol=1e-3)


def test_a_sample_counts_only_if_every_token_is_right():
    answers = torch.tensor([[1, 2], [1, 2], [3, 2]])
    logits = torch.eye(4)[torch.tensor([[1, 2], [1, 3], [1, 2]])]
    assert answered(logits, answers).tolist() == [True, False, False]


def test_rows_count_what_differs_from_the_reference():
    hits = {"stock": [True, True, True, False], "own": [True, False, False, True]}
    rows = retrieval_report(hits, {"stock": 16.0, "own": 2.0}, "stock")
    assert rows[0]["difference"] == 0
    assert (rows[1]["hits"], rows[1]["share"], rows[1]["lost"], rows[1]["gained"]) == (2, 0.5, 2, 1)
    assert rows[1]["difference"] == -0.25
    assert rows[1]["low"] < -0.25 < rows[1]["high"]
    assert rows[1]["missed"] == [1, 2]


def test_a_continued_cache_leaves_the_first_as_it_was():
    model = tiny_model("gemma3")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tiny_inputs(1, 40), **cache_argument(cache))
        before = [layer.keys.clone() for layer in cache.layers]
        other = retrieval._continued(cache, torch.tensor([0]))
        model(tiny_inputs(1, 5, seed=1), **cache_argument(other))
    assert [layer.get_seq_length() for layer in cache.layers] == [40, 40]
    assert other.get_seq_length() == 45
    for layer, keys in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_gpu_finds_what_the_cpu_finds(family, seen):
    """float32 on both; the batches differ, one sample on the CPU and all of a length on the GPU."""
    model = tiny_model(family)
    codebook = random_codebook(model.config)
    samples = [NeedleSample(ids, 80, 4) for ids in tiny_inputs(3, 100)]
    for device in ("cpu", "cuda"):
        model.to(device)
        layers = own_method(model, codebook).layers
        needle_hits(model, samples, {"stock": {}, "own": layers}, sink_length=SINKS, residual_length=WINDOW)
    cpu, gpu = seen[:6], seen[6:]
    assert len(gpu) == 2
    for method, rows in enumerate(gpu):
        torch.testing.assert_close(rows.cpu(), torch.cat(cpu[method::2]), rtol=1e-3, atol=1e-3)
