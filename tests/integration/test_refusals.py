# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What generate and enable refuse before they start; the model is then as it was."""

import pytest
import torch
import transformers
from tiny_generate import greedy, with_vecinfer
from tiny_models import tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache

from vecinfer_hf import (
    BackendError,
    CodebookError,
    UnsupportedModelError,
    VecInferCache,
    VecInferConfig,
    VecInferError,
    enable,
)
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument


def state(model):
    return (
        model.config._attn_implementation,
        model.config.to_json_string(),
        model.generation_config.to_json_string(),
        sorted(vars(model)),
    )


def refused_models():
    sizes = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, **sizes
            )
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=0, forced_eos_token_id=None, **sizes,
            )
        ),
        "deepseek_v3": lambda: transformers.DeepseekV3ForCausalLM(
            transformers.DeepseekV3Config(
                **small, **sizes, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=4, n_group=1,
                topk_group=1, num_experts_per_tok=2, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8,
                qk_nope_head_dim=8, v_head_dim=16, num_key_value_heads=2, first_k_dense_replace=1,
            )
        ),
        "falcon": lambda: transformers.FalconForCausalLM(transformers.FalconConfig(**small, **sizes)),
        "minimax": lambda: transformers.MiniMaxForCausalLM(
            transformers.MiniMaxConfig(
                **small, **sizes, intermediate_size=32, num_key_value_heads=1, num_local_experts=2, head_dim=16,
                layer_types=["full_attention"],
            )
        ),
        "bloom": lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(hidden_size=32, n_layer=1, n_head=2, **sizes)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("how", ["generate", "enable"])
@pytest.mark.parametrize("name", refused_models())
def test_models_that_cannot_have_it_are_refused_unchanged(name, how, codebooks):
    model = refused_models()[name]().eval()
    codebook = codebooks(tiny_model("llama"))
    # One stock run first: transformers itself leaves some marks behind.
    stock = model.generate(tiny_inputs(1, 10), max_new_tokens=5, do_sample=False)
    before = state(model)
    asks = {
        "generate": lambda: greedy(model, 5, input_ids=tiny_inputs(1, 10), **with_vecinfer(codebook, {})),
        "enable": lambda: enable(model, VecInferConfig(codebook=codebook)),
    }
    with pytest.raises(UnsupportedModelError, match=r"(?s)No VecInfer cache for this model.*[Uu]se the default cache"):
        asks[how]()
    assert state(model) == before
    assert torch.equal(stock, model.generate(tiny_inputs(1, 10), max_new_tokens=5, do_sample=False))


def test_both_a_cache_and_a_cache_implementation_is_an_error(codebooks):
    model = tiny_model("llama")
    for cache in (DynamicCache(config=model.config), VecInferCache(model.config, codebooks(model))):
        with pytest.raises(ValueError, match=CACHE_ARGUMENT):
            greedy(
                model, 5, input_ids=tiny_inputs(1, 10), **cache_argument(cache),
                **with_vecinfer(codebooks(model), {}),
            )  # fmt: skip


BAD_OPTIONS = {
    "unknown key": ({"window": 3}, r"window.*residual_length.*sink_length"),
    "negative window": ({"residual_length": -1}, r"residual_length.*-1"),
    "window that is no number": ({"residual_length": "128"}, r"residual_length.*'128'"),
    "backend": ({"ops_backend": "fast"}, r"ops_backend.*fast.*reference"),
    "object as codebook": ({"codebook": 3}, r"codebook.*int.*name or directory"),
    "no codebook": ({"codebook": None}, r"vecinfer calibrate"),
    "missing directory": ({"codebook": "/no/such/directory"}, r"/no/such/directory"),
}


@pytest.mark.parametrize("form", ["explicit", "backend"])
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused_and_change_nothing(case, form, codebooks):
    model = tiny_model("llama")
    options, message = BAD_OPTIONS[case]
    cache_config = {"codebook": codebooks(model), **options}
    kwargs = {"cache_implementation": "vecinfer"} if form == "explicit" else {}
    cache_config.update({} if form == "explicit" else {"backend": "vecinfer"})
    stock = greedy(model, 5, input_ids=tiny_inputs(1, 10))
    before = state(model)
    with pytest.raises(VecInferError, match=f"(?s){message}"):
        greedy(model, 5, input_ids=tiny_inputs(1, 10), cache_config=cache_config, **kwargs)
    assert state(model) == before
    assert torch.equal(stock, greedy(model, 5, input_ids=tiny_inputs(1, 10)))


def test_a_codebook_of_another_model_is_refused_and_changes_nothing(codebooks):
    other, model = codebooks(tiny_model("llama_mha")), tiny_model("llama")
    before = state(model)
    with pytest.raises(CodebookError, match=r"num_key_value_heads 4.*model has 2.*calibrate"):
        greedy(model, 5, input_ids=tiny_inputs(1, 10), **with_vecinfer(other, {}))
    with pytest.raises(CodebookError, match=r"num_key_value_heads 4.*model has 2.*calibrate"):
        enable(model, VecInferConfig(codebook=other))
    assert state(model) == before


def test_cuda_kernels_on_a_cpu_are_an_error(codebooks):
    model = tiny_model("llama")
    with pytest.raises(BackendError, match=r"CUDA device.*auto"):
        greedy(model, 5, input_ids=tiny_inputs(1, 10), **with_vecinfer(codebooks(model), {"ops_backend": "cuda"}))
