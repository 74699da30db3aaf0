# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""calibrate() given what people give it: it works, or one error before the model runs says what to give."""

import numpy as np
import pytest
import torch
from edge_cases import REFUSED, refused, right_or_refused
from tiny_models import tiny_inputs, tiny_model
from transformers import BatchEncoding

from vecinfer_hf import CalibrationConfig, Codebook, calibrate


pytestmark = pytest.mark.sampled(3)


IDS = tiny_inputs(1, 600)[0]


class Words:
    """A tokenizer: one id per character."""

    bos_token_id = None
    all_special_ids = ()

    def __call__(self, text, **kwargs):
        return {"input_ids": [2 + ord(character) % 90 for character in text]}

    def convert_ids_to_tokens(self, ids):
        return [str(number) for number in ids]


@pytest.fixture
def model():
    """A tiny model that counts its forward passes."""
    model = tiny_model("llama")
    model.runs = 0

    def count(*_):
        model.runs += 1

    model.model.register_forward_pre_hook(count)
    return model


def options(**given):
    small = {"sequence_length": 128, "num_tokens": 512, "num_iterations": 2, "recipe": "query"}
    return CalibrationConfig(**{**small, **given})


def same(first, second):
    return all(
        torch.equal(mine, theirs)
        for index, layer in first.layers.items()
        for mine, theirs in zip(layer, second.layers[index], strict=True)
        if mine is not None
    )


GIVEN = {
    "a tensor": IDS,
    "a row": IDS[None],
    "int32": IDS.int(),
    "numpy": IDS.numpy(),
    "a list": IDS.tolist(),
    "a list of a row": [IDS.tolist()],
    "a tokenizer's output": BatchEncoding({"input_ids": IDS[None]}),
    "its tensors": {"input_ids": IDS[None], "attention_mask": torch.ones(1, 600)},
    "its lists": {"input_ids": [IDS.tolist()]},
    "a tuple": tuple(IDS.tolist()),
}


@pytest.mark.parametrize("name", GIVEN)
def test_ids_in_every_form(model, name):
    """The same ids give the same codebook, or are refused before the model runs."""
    want = calibrate(model, IDS, config=options(), progress=False)
    model.runs = 0
    got = right_or_refused(lambda: calibrate(model, GIVEN[name], config=options(), progress=False), own=True)
    if got is REFUSED:
        assert model.runs == 0
    else:
        assert same(got, want)


SEVERAL = {
    "a list of tensors": [IDS, IDS.flip(0)],
    "a list of lists": [IDS.tolist(), IDS.flip(0).tolist()],
    "of different lengths": [IDS, IDS[:300]],
    "of numpy": [IDS.numpy(), IDS.numpy()],
    "a batch": torch.stack([IDS, IDS.flip(0)]),
    "a padded batch": BatchEncoding(
        {"input_ids": torch.stack([IDS, IDS.flip(0)]), "attention_mask": torch.ones(2, 600)}
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_ids_of_several_texts(model, name):
    got = right_or_refused(lambda: calibrate(model, SEVERAL[name], config=options(), progress=False), own=True)
    assert isinstance(got, Codebook) or model.runs == 0


BAD = {
    "None": None,
    "a number": 5,
    "floats": torch.randn(600),
    "booleans": torch.ones(600, dtype=torch.bool),
    "nothing": [],
    "an empty tensor": torch.zeros(0, dtype=torch.long),
    "words": ["a", "b"],
    "a word": "text",
    "bytes": b"text",
    "negative ids": torch.full((600,), -100),
    "ids beyond the vocabulary": torch.full((600,), 1000),
    "a dictionary of something else": {"labels": IDS},
    "an object": object(),
    "three dimensions": IDS.view(2, 3, 100),
    "numpy floats": np.ones(600),
    "ragged": [[1, 2], 3],
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_ids_is_refused_before_the_model_runs(model, name):
    refused(lambda: calibrate(model, BAD[name], config=options(), progress=False))
    assert model.runs == 0


def test_the_config_in_third_place(model):
    """calibrate(model, ids, config): texts stand there, and the error says so, or it is understood."""
    want = calibrate(model, IDS, config=options(), progress=False)
    model.runs = 0
    got = right_or_refused(lambda: calibrate(model, IDS, options(), progress=False), own=True)
    assert model.runs == 0 if got is REFUSED else same(got, want)


@pytest.mark.parametrize("config", [5, "2bit", {"key_bits": 2}, object()], ids=["number", "name", "dict", "object"])
def test_a_config_of_another_type_is_refused(model, config):
    refused(lambda: calibrate(model, IDS, config=config, progress=False))
    assert model.runs == 0


@pytest.mark.parametrize(
    "texts",
    [5, [5], {"a": 5}, [], {}, [""], "", b"text", [None], {"a": None}, object()],
    ids=lambda texts: "object" if type(texts) is object else str(texts),
)
def test_texts_of_another_type_are_refused(model, texts):
    refused(lambda: calibrate(model, Words(), texts, config=options(), progress=False))
    assert model.runs == 0


def test_texts_of_every_right_type(model):
    text = "A sentence of some words. " * 60
    for texts in (text, [text], (text,), {"name": text}):
        assert isinstance(calibrate(model, Words(), texts, config=options(), progress=False), Codebook)


def test_ids_together_with_texts_are_refused(model):
    refused(lambda: calibrate(model, IDS, ["text" * 200], config=options(), progress=False))
    assert model.runs == 0


@pytest.mark.parametrize(
    "model_of", [None, 5, "name", torch.nn.Linear(2, 2)], ids=["None", "number", "name", "module"]
)
def test_what_is_no_model_is_refused(model_of):
    refused(lambda: calibrate(model_of, IDS, config=options(), progress=False))


def test_a_text_that_is_too_short_is_refused_before_the_model_runs(model):
    error = refused(lambda: calibrate(model, IDS[:100], config=options(), progress=False), "100", "128")
    assert isinstance(error, ValueError)
    assert model.runs == 0


@pytest.mark.parametrize("bits", ["d8b12", 1])
def test_a_head_size_that_bits_do_not_divide_is_refused_before_the_model_runs(bits):
    model = tiny_model("llama", head_dim=12)
    refused(lambda: calibrate(model, IDS, config=options(key_bits=bits), progress=False), "12")


def test_values_that_are_wider_than_keys():
    """Refused by name before anything runs, or calibrated: never an error of torch in the middle."""
    from transformers import AttentionInterface
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    attention.v_proj = torch.nn.Linear(64, 2 * 32, bias=False)
    attention.o_proj = torch.nn.Linear(4 * 32, 64, bias=False)

    def wide(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        batch, tokens, _ = hidden_states.shape
        query, key = (
            projection(hidden_states).view(batch, tokens, -1, 16).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj)
        )
        value = self.v_proj(hidden_states).view(batch, tokens, 2, -1).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        cache = kwargs.pop("past_key_values", None) or kwargs.pop("cache", None)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = AttentionInterface().get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(batch, tokens, -1).contiguous()), weights

    attention.forward = wide.__get__(attention)
    with torch.no_grad():
        assert model(IDS[None, :50]).logits.isfinite().all()
    right_or_refused(lambda: calibrate(model, IDS, config=options(), progress=False), own=True)


def test_a_model_in_training_is_left_as_it_was(model):
    model.train()
    calibrate(model, IDS, config=options(), progress=False)
    assert model.training


def test_an_interrupted_calibration_leaves_the_model_as_it_was():
    model = tiny_model("llama", attn_implementation="eager")
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, IDS, config=options(num_tokens=600, recipe="default", sequence_length=150), progress=False)
    hook.remove()
    assert model.config._attn_implementation == "eager"
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
