# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `calibrate` takes as text: every natural form is read rightly, every other is refused before the model runs."""

from pathlib import Path

import pytest
import torch
from calibration_texts import IDS, CharacterTokenizer, random_text, same_layers, small_config
from tiny_models import tiny_model
from transformers import BatchEncoding

from vecinfer_hf import CalibrationConfig, VecInferConfig, calibrate
from vecinfer_hf.calibration.source import read_source
from vecinfer_hf.errors import ConfigError, UnsupportedModelError, VecInferError


LIST, TEXT = IDS.tolist(), random_text(400)
TOKENIZER = CharacterTokenizer()
TEXT_IDS = torch.tensor(TOKENIZER(TEXT)["input_ids"])


class Array:
    """An array of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("not needed")

    def tolist(self):
        return self.values


ONE = {
    "tensor [T]": (IDS,),
    "tensor [1, T]": (IDS[None],),
    "int32": (IDS.int(),),
    "list": (LIST,),
    "tuple": (tuple(LIST),),
    "array": (Array(LIST),),
    "BatchEncoding": (BatchEncoding({"input_ids": IDS[None], "attention_mask": torch.ones(1, 1200)}),),
    "dict of a list": ({"input_ids": LIST},),
    "dict of a list of a list": ({"input_ids": [LIST], "attention_mask": [[1] * 1200]},),
    "tokenizer, ids": (TOKENIZER, IDS),
}


@pytest.mark.parametrize("arguments", ONE.values(), ids=ONE)
def test_forms_of_one_text_of_ids(arguments):
    _, (text,) = read_source(*arguments)
    assert torch.equal(text.ids, IDS)
    assert (text.name, text.ids.dtype, text.prefix) == ("token ids", torch.int64, [])
    assert text.sha256 == read_source(IDS)[1][0].sha256


SEVERAL = {
    "tensor [B, T]": (torch.stack([IDS, IDS + 0]),),
    "list of tensors": ([IDS, IDS],),
    "list of lists": ([LIST, LIST],),
    "array [B, T]": (Array([LIST, LIST]),),
    "list of BatchEncodings": ([BatchEncoding({"input_ids": LIST}), {"input_ids": IDS[None]}],),
    "BatchEncoding": (BatchEncoding({"input_ids": torch.stack([IDS, IDS])}),),
}


@pytest.mark.parametrize("arguments", SEVERAL.values(), ids=SEVERAL)
def test_rows_are_separate_texts(arguments):
    _, texts = read_source(*arguments)
    assert [text.name for text in texts] == ["token ids 0", "token ids 1"]
    assert all(torch.equal(text.ids, IDS) for text in texts)


def test_rows_may_differ_in_length_and_padding_is_left_out():
    _, texts = read_source({"input_ids": [[0, 0, 5, 6], [7, 8, 9, 3]], "attention_mask": [[0, 0, 1, 1], [1] * 4]})
    assert [text.ids.tolist() for text in texts] == [[5, 6], [7, 8, 9, 3]]
    _, texts = read_source([[5, 6], [7, 8, 9]])
    assert [text.ids.tolist() for text in texts] == [[5, 6], [7, 8, 9]]


def test_names_are_kept():
    _, texts = read_source({"a": IDS, "b": LIST, 3: [LIST, LIST]})
    assert [text.name for text in texts] == ["a", "b", "3 0", "3 1"]
    _, texts = read_source(TOKENIZER, {"a": TEXT, "b": IDS})
    assert [(text.name, len(text.ids)) for text in texts] == [("a", 400), ("b", 1200)]


TEXTS = {
    "text": (TOKENIZER, TEXT),
    "texts by name": (None, TEXT, TOKENIZER),
    "text first, tokenizer by name": (TEXT, None, TOKENIZER),
}


@pytest.mark.parametrize("arguments", TEXTS.values(), ids=TEXTS)
def test_forms_of_one_text(arguments):
    tokenizer, (text,) = read_source(*arguments)
    assert tokenizer is TOKENIZER
    assert text.name == "text"
    assert torch.equal(text.ids, TEXT_IDS)


@pytest.mark.parametrize("texts", [[TEXT, TEXT], (TEXT, TEXT), Array([TEXT, TEXT]), iter([TEXT, TEXT])], ids=type)
def test_forms_of_several_texts(texts):
    _, found = read_source(TOKENIZER, texts)
    assert [text.name for text in found] == ["text 0", "text 1"]
    assert all(torch.equal(text.ids, TEXT_IDS) for text in found)


def test_texts_begin_as_the_tokenizer_begins_them_and_ids_do_not():
    _, texts = read_source(CharacterTokenizer(bos=True), {"a": TEXT, "b": IDS})
    assert [text.prefix for text in texts] == [[1], []]
    assert torch.equal(texts[0].ids, TEXT_IDS)


def test_the_forms_give_the_same_codebook():
    model, config = tiny_model(), small_config(recipe="paper", num_tokens=240, num_iterations=1)
    first = calibrate(model, IDS, config=config, progress=False)
    encoding = BatchEncoding({"input_ids": IDS[None]})
    assert same_layers(first, calibrate(model, encoding, config=config, progress=False))
    by_name = calibrate(model, texts=TEXT, tokenizer=TOKENIZER, config=config, progress=False)
    assert same_layers(by_name, calibrate(model, TOKENIZER, TEXT, config, progress=False))


REFUSED = {
    "nothing": ((), "texts is None; give text"),
    "a tokenizer alone": ((TOKENIZER,), "texts is None; give text"),
    "a text without a tokenizer": ((TEXT,), "text: a text needs the model's tokenizer"),
    "texts without a tokenizer": (({"a": TEXT},), "a: a text needs the model's tokenizer"),
    "the name of a tokenizer": (("gpt2", TEXT), "tokenizer_or_ids is of type str although texts are given"),
    "ids and texts": ((IDS, TEXT), r"tokenizer_or_ids is a tensor \(1200,\) of torch.int64 although texts are given"),
    "two tokenizers": ((TOKENIZER, TEXT, TOKENIZER), "both a tokenizer"),
    "a model as tokenizer": ((torch.nn.Linear(1, 1), TEXT), "The tokenizer is of type Linear"),
    "a class as tokenizer": ((CharacterTokenizer, TEXT), "The tokenizer is of type type"),
    "a function that returns a list": ((list, TEXT), "returns no input_ids"),
    "fractions": ((IDS.float(),), r"token ids is a tensor \(1200,\) of torch.float32; calibration reads a text"),
    "a mask": ((IDS > 3,), "torch.bool"),
    "a scalar": ((torch.tensor(3),), r"tensor \(\)"),
    "three dimensions": ((IDS.view(2, 2, 300),), r"\(2, 2, 300\)"),
    "bytes": ((TOKENIZER, TEXT.encode()), "of type bytes"),
    "a path": ((TOKENIZER, Path("a.txt")), "Path"),
    "a set": ((TOKENIZER, {TEXT, "b"}), "of type set"),
    "a number": ((TOKENIZER, 5), "of type int"),
    "a number by name": ((TOKENIZER, {"a": 5}), "a is of type int"),
    "None among texts": ((TOKENIZER, [TEXT, None]), "entry 1 is of type NoneType"),
    "numbers with a fraction": (([1.5, 2.5],), "entry 0 is of type float"),
    "truth values": (([True, False],), "entry 0 is of type bool"),
    "ids and words": (([1, "a"],), "entry 0 is of type int"),
    "rows of a data set": ((TOKENIZER, [{"text": TEXT}]), "entry 0 is of type dict"),
    "labels alone": (({"labels": IDS},), "A dictionary with labels is a model's input without input_ids"),
    "embeddings": (({"attention_mask": LIST, "inputs_embeds": LIST},), "with attention_mask, inputs_embeds is"),
    "another mask": (({"input_ids": LIST, "attention_mask": [1]},), "attention_mask and input_ids differ in shape"),
    "a foreign token": ((IDS + 50,), r"token id \d+, but the model has the ids 0 to 96"),
    "a label": ((torch.cat([IDS, torch.tensor([-100])]),), "token id -100, but the model has the ids 0 to 96"),
    "a text of another tokenizer": ((lambda text, **_: {"input_ids": [500] * len(text)}, TEXT), "token id 500"),
    "no text": ((TOKENIZER, []), "0 tokens"),
    "no ids": (([],), "0 tokens"),
    "an empty text": ((TOKENIZER, ""), "0 tokens .* needs 120"),
    "short texts": ((TOKENIZER, ["x" * 40, "y" * 100]), r"140 tokens \(longest text 100\), but one window needs 120"),
    "a config in third place": ((IDS, small_config()), "texts is a CalibrationConfig; give it by name"),
    "a cache's config in third place": ((IDS, VecInferConfig()), "texts is a VecInferConfig; give it by name"),
}


@pytest.fixture(scope="module")
def watched():
    """A model, and how often it ran."""
    model, calls = tiny_model(), []
    for module in (model, model.model):
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    return model, calls


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_all_else_is_refused_before_the_model_runs(watched, arguments, message):
    model, calls = watched
    arguments, tokenizer = arguments[:2], arguments[2] if len(arguments) > 2 else None
    with pytest.raises(ConfigError, match=message):
        calibrate(model, *arguments, config=small_config(), tokenizer=tokenizer, progress=False)
    assert not calls
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VecInferConfig(), "config is a VecInferConfig, which says how a cache runs"),
        ({"key_bits": 2}, "config is a dict; calibrate needs a CalibrationConfig"),
        (CalibrationConfig(sequence_length=4), "Windows of 4 tokens leave none to calibrate on after 4 sinks"),
        (
            small_config(recipe="paper", refine_steps=2, residual_length=128),
            "refine_steps: text is read 120 tokens",
        ),
        (
            small_config(recipe="query", allocate=2, residual_length=115),
            "allocate: .* 4 sinks .* 115 need 121 or",
        ),
        (small_config(allocate=2, refine_steps=1, residual_length=200), "refine_steps and allocate: text"),
        (small_config(layer_bits=[[2, 2]]), "layer_bits has 1 entries but the model has 2 layers"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_model_runs(watched, config, message):
    model, calls = watched
    with pytest.raises(VecInferError, match=message):
        calibrate(model, IDS, config=config, progress=False)
    assert not calls


def test_swapped_arguments_are_named():
    with pytest.raises(UnsupportedModelError, match="model is a CharacterTokenizer; calibrate needs a transformers"):
        calibrate(TOKENIZER, tiny_model(), TEXT, progress=False)


def test_the_shortest_windows_that_can_be_measured():
    config = small_config(recipe="query", allocate=2, residual_length=114, num_iterations=1, num_tokens=120)
    codebook = calibrate(tiny_model(), IDS, config=config, progress=False)
    assert all(row["kl"] >= 0 for row in codebook.provenance["sensitivity"])
