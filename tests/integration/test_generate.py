# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""generate, in every way a user may call it, against the stock cache; and every refusal before it starts."""

import copy
import json
import logging
import subprocess
import sys
import threading

import pytest
import torch
import transformers
from tiny_codebooks import random_codebook
from tiny_models import FAMILIES, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.cache_utils import DynamicCache

from vecinfer_hf import CodebookError, VecInferCache, VecInferConfig, disable, enable
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument, returned_cache


LONG = {"residual_length": 512, "ops_backend": "reference"}
"""Codes switched off: a window longer than any text here."""
SHORT = {"residual_length": 16, "ops_backend": "reference"}


@pytest.fixture
def codebooks(tmp_path):
    """Save a random codebook for a model and return its directory."""

    def save(model):
        directory = tmp_path / f"codebook-{model.config.model_type}-{model.config.num_key_value_heads}"
        if not directory.exists():
            random_codebook(model.config).save_pretrained(directory)
        return str(directory)

    return save


def padded_batch(length=30, paddings=(0, 7, 21)):
    ids, mask = tiny_inputs(len(paddings), length), torch.ones(len(paddings), length, dtype=torch.long)
    for row, padding in enumerate(paddings):
        ids[row, :padding], mask[row, :padding] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def greedy(model, tokens=30, **kwargs):
    return model.generate(max_new_tokens=tokens, do_sample=False, **kwargs)


def with_vecinfer(codebook, options, **kwargs):
    return {"cache_implementation": "vecinfer", "cache_config": {"codebook": codebook, **options}, **kwargs}


MODES = {
    "greedy": ({"input_ids": tiny_inputs(1, 30)}, {}),
    "left-padded batch": (padded_batch(), {}),
    "beams": ({"input_ids": tiny_inputs(1, 30)}, {"num_beams": 3}),
    "beams of a padded batch": (padded_batch(), {"num_beams": 3, "num_return_sequences": 2}),
    "beam sampling": (padded_batch(), {"num_beams": 2, "do_sample": True}),
    "sampling": (padded_batch(), {"do_sample": True, "num_return_sequences": 3}),
    "prompt lookup": ({"input_ids": tiny_inputs(1, 6).repeat(1, 5)}, {"prompt_lookup_num_tokens": 4}),
    "chunked prefill": ({"input_ids": tiny_inputs(2, 30)}, {"prefill_chunk_size": 7}),
    "chunked prefill of a padded batch": (padded_batch(), {"prefill_chunk_size": 7}),
    "scores": (
        {"input_ids": tiny_inputs(1, 30)},
        {"return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.3},
    ),
    "one token prompt": ({"input_ids": tiny_inputs(2, 1)}, {}),
}


@pytest.mark.parametrize("mode", MODES)
def test_with_codes_off_every_mode_gives_the_stock_tokens(mode, codebooks):
    model = tiny_model("llama")
    inputs, kwargs = MODES[mode]
    kwargs = {"max_new_tokens": 30, "do_sample": False, **kwargs}
    torch.manual_seed(3)
    stock = model.generate(**inputs, **kwargs)
    torch.manual_seed(3)
    ours = model.generate(**inputs, **kwargs, **with_vecinfer(codebooks(model), LONG))
    if mode == "scores":
        assert isinstance(returned_cache(ours), VecInferCache)
        stock, ours = stock.sequences, ours.sequences
    assert torch.equal(stock, ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_codes_off_every_family_gives_the_stock_tokens(family, codebooks):
    model = tiny_model(family)
    for inputs in (MODES["greedy"][0], padded_batch()):
        stock = greedy(model, **inputs)
        assert torch.equal(stock, greedy(model, **inputs, **with_vecinfer(codebooks(model), LONG)))


@pytest.mark.parametrize("family", FAMILIES)
def test_at_two_bits_a_padded_row_generates_what_the_row_alone_does(family, codebooks):
    model = tiny_model(family)
    batch = padded_batch(60, (0, 7, 41))
    together = greedy(model, 100, **batch, **with_vecinfer(codebooks(model), SHORT))
    for row in range(3):
        real = batch["attention_mask"][row].bool()
        alone = greedy(
            model, 100, input_ids=batch["input_ids"][row : row + 1, real], **with_vecinfer(codebooks(model), SHORT)
        )
        assert torch.equal(alone[0, real.sum() :], together[row, 60:]), f"row {row}"


def test_codes_are_really_used(codebooks):
    """What the other tests switch off makes a difference when it is on."""
    model = tiny_model("llama")
    ids = tiny_inputs(1, 60)
    output = greedy(model, 60, input_ids=ids, return_dict_in_generate=True, **with_vecinfer(codebooks(model), SHORT))
    assert not torch.equal(greedy(model, 60, input_ids=ids), output.sequences)
    # 60 + 60 - 1 tokens, of which 4 sinks and 16 recent ones are exact.
    assert returned_cache(output).layers[0].read_lengths().quantized == [119 - 20]
    assert model.config._attn_implementation == "vecinfer"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_on_codes_and_is_repeatable(mode, codebooks):
    model = tiny_model("llama")
    inputs, kwargs = MODES[mode]
    kwargs = {"max_new_tokens": 40, "do_sample": False, **kwargs, **with_vecinfer(codebooks(model), SHORT)}
    kwargs.pop("return_dict_in_generate", None), kwargs.pop("output_scores", None)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(model.generate(**inputs, **kwargs))
    assert torch.equal(*results)


def test_a_beam_of_one_idea_is_greedy_on_codes(codebooks):
    """Rows repeated by beam search start with codes that are those of the row alone."""
    model = tiny_model("llama")
    ids = tiny_inputs(1, 60)
    cache = VecInferCache(model.config, codebooks(model), **SHORT)
    output = greedy(model, 20, input_ids=ids, num_beams=3, **cache_argument(cache))
    assert output.shape == (1, 80)
    layer = cache.layers[0]
    alone = VecInferCache(model.config, codebooks(model), **SHORT)
    with torch.no_grad():
        model(ids, **cache_argument(alone))
    # The 40 tokens coded in the prefill are the first 32-token tile of all three rows, untouched by reordering.
    assert all(torch.equal(alone.layers[0].buffers.codes[0, :, 0], row[:, 0]) for row in layer.buffers.codes)


def test_second_turn_on_the_same_cache(codebooks):
    model = tiny_model("llama")
    results = []
    for options in (None, LONG, SHORT):
        cache = DynamicCache(config=model.config)
        if options:
            cache = VecInferCache(model.config, codebooks(model), **options)
        first = greedy(model, 30, input_ids=tiny_inputs(1, 40), **cache_argument(cache))
        assert cache.get_seq_length() == 69
        # Without a mask generate would take a generated token 0 for padding.
        ids = torch.cat([first, tiny_inputs(1, 25, seed=9)], 1)
        second = greedy(model, 30, input_ids=ids, attention_mask=torch.ones_like(ids), **cache_argument(cache))
        assert cache.get_seq_length() == 70 + 25 + 29
        results.append(second)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_second_turn_of_a_padded_batch(codebooks):
    """The second turn brings the grown mask; each row equals the row alone, at two bits."""
    model = tiny_model("llama")
    batch = padded_batch(40, (0, 13))

    def two_turns(ids, mask, more):
        cache = VecInferCache(model.config, codebooks(model), **SHORT)
        first = greedy(model, 20, input_ids=ids, attention_mask=mask, **cache_argument(cache))
        ids = torch.cat([first, more], 1)
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
        return greedy(model, 20, input_ids=ids, attention_mask=mask, **cache_argument(cache))

    more = tiny_inputs(2, 21, seed=4)
    together = two_turns(batch["input_ids"], batch["attention_mask"], more)
    for row, padding in enumerate((0, 13)):
        alone = two_turns(
            batch["input_ids"][row : row + 1, padding:], torch.ones(1, 40 - padding, dtype=torch.long),
            more[row : row + 1],
        )  # fmt: skip
        assert torch.equal(alone[0], together[row, padding:])


@pytest.mark.parametrize("options", [LONG, SHORT], ids=["long", "short"])
def test_a_prefix_is_cached_by_deepcopy(options, codebooks):
    model = tiny_model("llama")
    prefix = tiny_inputs(1, 50)
    cache = VecInferCache(model.config, codebooks(model), **options)
    model.set_attn_implementation("vecinfer")
    with torch.no_grad():
        model(prefix, **cache_argument(cache))
    before = [tensor.clone() for tensor in cache.layers[1].buffers]
    for seed in (1, 2):
        ids = torch.cat([prefix, tiny_inputs(1, 30, seed=seed)], 1)
        continued = greedy(model, input_ids=ids, **cache_argument(copy.deepcopy(cache)))
        if options is LONG:
            assert torch.equal(continued, greedy(model, input_ids=ids))
        else:
            fresh = VecInferCache(model.config, codebooks(model), **options)
            with torch.no_grad():
                model(prefix, **cache_argument(fresh))
            assert torch.equal(continued, greedy(model, input_ids=ids, **cache_argument(fresh)))
    assert all(torch.equal(old, new) for old, new in zip(before, cache.layers[1].buffers, strict=True))


@pytest.fixture
def _own_deprecations(monkeypatch):
    """Assisted generation of transformers calls generate in a way that it deprecates itself."""
    monkeypatch.setattr(logging.getLogger("transformers.generation.utils"), "disabled", True)


@pytest.mark.usefixtures("_own_deprecations")
@pytest.mark.parametrize("form", ["explicit", "backend"])
def test_assisted_generation(form, codebooks):
    model, assistant = tiny_model("llama"), tiny_model("llama", seed=1)
    stock = greedy(model, input_ids=tiny_inputs(1, 30), assistant_model=assistant)
    kwargs = with_vecinfer(codebooks(model), LONG)
    if form == "backend":
        kwargs = {"cache_config": {"backend": "vecinfer", **kwargs["cache_config"]}}
    assert torch.equal(stock, greedy(model, input_ids=tiny_inputs(1, 30), assistant_model=assistant, **kwargs))


@pytest.mark.usefixtures("_own_deprecations")
def test_assisted_generation_of_an_agreeing_assistant_on_codes(codebooks):
    """Accepted candidates: a copy of the model as its assistant, over short windows, gives some text and no error."""
    model = tiny_model("llama")
    output = greedy(
        model, 40, input_ids=tiny_inputs(1, 60), assistant_model=copy.deepcopy(model),
        **with_vecinfer(codebooks(model), SHORT),
    )  # fmt: skip
    assert output.shape == (1, 100)


def test_pipeline(codebooks):
    model = tiny_model("llama")
    vocab = {f"t{index}": index for index in range(97)}
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(vocab, unk_token="t1"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="t0", padding_side="left")
    text = " ".join(f"t{index}" for index in tiny_inputs(1, 20)[0].tolist())
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    generation = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0)
    stock = pipe(text, generation_config=generation)
    kwargs = with_vecinfer(codebooks(model), LONG)
    generation = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0, **kwargs)
    assert pipe(text, generation_config=generation) == stock


def test_every_way_to_ask_for_it_gives_the_same_tokens(codebooks, tmp_path):
    model = tiny_model("llama")
    directory, ids = codebooks(model), tiny_inputs(1, 60)
    model.save_pretrained(tmp_path / "model")
    options = {"codebook": directory, **SHORT}
    results = {
        "explicit": greedy(tiny_model("llama"), 40, input_ids=ids, **with_vecinfer(directory, SHORT)),
        "backend": greedy(tiny_model("llama"), 40, input_ids=ids, cache_config={"backend": "vecinfer", **options}),
        "quantized": greedy(
            tiny_model("llama"), 40, input_ids=ids, cache_implementation="quantized",
            cache_config={"backend": "vecinfer", **options},
        ),
        "generation config": tiny_model("llama").generate(
            ids,
            generation_config=GenerationConfig(
                cache_config={"backend": "vecinfer", **options}, pad_token_id=0, max_new_tokens=40, do_sample=False
            ),
        ),
        "enable": greedy(enable(tiny_model("llama"), VecInferConfig(**options)), 40, input_ids=ids),
        "enable with an object": greedy(
            enable(tiny_model("llama"), random_codebook(model.config), **SHORT), 40, input_ids=ids
        ),
        "user cache": greedy(
            model, 40, input_ids=ids, **cache_argument(VecInferCache(model.config, directory, **SHORT))
        ),
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=VecInferConfig(**options), dtype=torch.float32
    )
    loaded.generation_config.eos_token_id = None
    results["quantization config"] = greedy(loaded, 40, input_ids=ids)
    enable(model, VecInferConfig(**options)).save_pretrained(tmp_path / "enabled")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "enabled", dtype=torch.float32)
    results["saved and loaded"] = greedy(again, 40, input_ids=ids)
    first = results.pop("explicit")
    assert first.shape == (1, 100)
    for name, tokens in results.items():
        assert torch.equal(first, tokens), name


def test_disable_gives_the_stock_cache_back(codebooks):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    before = model.generation_config.to_dict()
    stock = greedy(model, input_ids=tiny_inputs(1, 60))
    enable(model, VecInferConfig(codebook=codebooks(model), **SHORT))
    greedy(model, input_ids=tiny_inputs(1, 60))
    assert disable(model) is model
    assert model.config._attn_implementation == "eager"
    assert model.generation_config.to_dict() == before
    output = greedy(model, input_ids=tiny_inputs(1, 60), return_dict_in_generate=True)
    assert torch.equal(output.sequences, stock)
    assert isinstance(returned_cache(output), DynamicCache)
    disable(model)


def test_a_users_cache_wins_over_a_default_one(codebooks):
    model = enable(tiny_model("llama"), VecInferConfig(codebook=codebooks(tiny_model("llama")), **SHORT))
    cache = DynamicCache(config=model.config)
    output = greedy(model, input_ids=tiny_inputs(1, 60), **cache_argument(cache))
    assert cache.get_seq_length() == 89
    assert torch.equal(output, greedy(disable(model), input_ids=tiny_inputs(1, 60)))


def test_use_cache_false_uses_no_cache(codebooks):
    model = tiny_model("llama")
    stock = greedy(model, 10, input_ids=tiny_inputs(1, 30))
    output = greedy(model, 10, input_ids=tiny_inputs(1, 30), use_cache=False, **with_vecinfer(codebooks(model), SHORT))
    assert torch.equal(stock, output)


def test_repeated_calls_leave_the_users_objects_alone(codebooks):
    model = tiny_model("llama")
    cache_config = {"backend": "vecinfer", "codebook": codebooks(model), **SHORT}
    generation = GenerationConfig(
        cache_config=copy.deepcopy(cache_config), pad_token_id=0, max_new_tokens=10, do_sample=False
    )
    written, dictionary = generation.to_json_string(), copy.deepcopy(cache_config)
    models_own = model.generation_config.to_json_string()
    results = [model.generate(tiny_inputs(1, 30), generation_config=generation) for _ in range(3)]
    results += [greedy(model, 10, input_ids=tiny_inputs(1, 30), cache_config=dictionary) for _ in range(3)]
    assert all(torch.equal(results[0], each) for each in results)
    assert generation.to_json_string() == written
    assert dictionary == cache_config
    assert model.generation_config.to_json_string() == models_own


def test_a_saved_model_lives_without_this_package(codebooks, tmp_path):
    model = tiny_model("llama")
    stock = greedy(model, 10, input_ids=tiny_inputs(1, 30))[0].tolist()
    plain, directory = tmp_path / "plain", codebooks(model)
    model.save_pretrained(plain)
    enable(model, VecInferConfig(codebook=directory, **SHORT)).save_pretrained(tmp_path / "enabled")
    loaded = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=VecInferConfig(codebook=directory, **SHORT), dtype=torch.float32
    )
    loaded.save_pretrained(tmp_path / "quantization")
    config = json.loads((tmp_path / "quantization" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "vecinfer"
    for name in ("enabled", "quantization"):
        saved = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert saved["cache_config"]["backend"] == "vecinfer"
        assert saved.get("cache_implementation") is None
    script = f"""
import sys
sys.modules["vecinfer_hf"] = None
import torch
from transformers import AutoModelForCausalLM
for name in ("enabled", "quantization"):
    model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r} + "/" + name, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([{tiny_inputs(1, 30)[0].tolist()}])
    print(model.generate(ids, max_new_tokens=10, do_sample=False)[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [stock, stock]


def test_threads_may_share_a_model(codebooks):
    model = tiny_model("llama")
    kwargs = with_vecinfer(codebooks(model), SHORT)
    wanted = [greedy(model, input_ids=tiny_inputs(1, 50, seed=seed), **kwargs) for seed in range(4)]
    results = [None] * 4

    def work(seed):
        results[seed] = greedy(model, input_ids=tiny_inputs(1, 50, seed=seed), **kwargs)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_low_precision_models_generate(family, dtype, codebooks):
    model = tiny_model(family, dtype=dtype)
    output = greedy(
        model, 40, **padded_batch(), return_dict_in_generate=True, **with_vecinfer(codebooks(model), SHORT)
    )
    layer = returned_cache(output).quantized_layers[0]
    assert layer.buffers.ring_keys.dtype == dtype
    assert output.sequences.shape == (3, 70)


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
    with pytest.raises(ValueError, match=r"(?s)No VecInfer cache for this model.*[Uu]se the default cache"):
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
    with pytest.raises((ValueError, OSError), match=f"(?s){message}"):
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
    with pytest.raises(RuntimeError, match=r"CUDA device.*auto"):
        greedy(model, 5, input_ids=tiny_inputs(1, 10), **with_vecinfer(codebooks(model), {"ops_backend": "cuda"}))
