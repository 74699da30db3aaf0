# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""torch's modes around a cache: mixed precision, inference mode, gradients, compilation, copies in other processes."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from edge_cases import REFUSED, greedy, new_cache, refused, right_or_refused, run, sliding_model, tiny_model
from method_hooks import following
from tiny_models import tiny_inputs
from transformers import DynamicCache, StaticCache

from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.sampled(5)


ROOMS = pytest.mark.parametrize("room", [None, 230], ids=["growing", "static"])


def vecinfer(family="llama", **overrides):
    model = tiny_model(family, **overrides)
    model.set_attn_implementation("vecinfer")
    return model


@ROOMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_autocast(family, dtype, room):
    """Keys come in float32 after the rotary embedding, values in the lower precision."""
    model, ids = vecinfer(family), tiny_inputs(2, 60)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        want = model(ids).logits.float()
        cache = new_cache(model.config, exact=True, room=room)
        got = [model(ids[:, a:b], **cache_argument(cache)).logits for a, b in ((0, 40), (40, 41), (41, 60))]
        coded = greedy(model, ids, new_cache(model.config, room=room))
    assert coded.shape == (2, 66)
    # Two roundings to the lower precision in each of two layers, over logits of size 10.
    torch.testing.assert_close(torch.cat(got, 1).float(), want, rtol=0, atol=64 * torch.finfo(dtype).eps * 4)


def test_mixed_precision_of_accelerate():
    from accelerate import Accelerator

    model = tiny_model("llama")
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model = accelerator.unwrap_model(accelerator.prepare(model))
    assert greedy(model, tiny_inputs(1, 60), new_cache(model.config)).shape == (1, 66)


@ROOMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_of_a_model(dtype, room):
    model = tiny_model("llama", dtype=dtype)
    ids = tiny_inputs(1, 60)
    got = right_or_refused(lambda: greedy(model, ids, new_cache(model.config, exact=True, room=room), new=3))
    assert got is REFUSED or torch.equal(got, greedy(model, ids, new=3))


@ROOMS
def test_a_model_that_changes_its_dtype_between_calls(room):
    model, ids = vecinfer(), tiny_inputs(1, 60)
    cache = new_cache(model.config, room=room, exact=True)
    run(model, ids[:, :40], cache)
    model.to(torch.bfloat16)
    for a, b in ((40, 41), (41, 60)):
        got = right_or_refused(lambda a=a, b=b: run(model, ids[:, a:b], cache))
        assert got is REFUSED or got.isfinite().all()


@ROOMS
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "step",
    [
        lambda model, cache, ids: greedy(model, ids, cache, new=3),
        lambda model, cache, ids: run(model, ids[:, 150:151], cache),
        lambda model, cache, ids: run(model, ids[:, 150:190], cache),
        lambda model, cache, ids: cache.crop(-3),
        lambda model, cache, ids: cache.crop(-120),
        lambda model, cache, ids: cache.reorder_cache(torch.tensor([0])),
        lambda model, cache, ids: cache.reset(),
        lambda model, cache, ids: copy.deepcopy(cache),
    ],
    ids=["generate", "token", "turn", "crop", "crop far", "reorder", "reset", "copy"],
)
def test_a_prompt_cached_in_inference_mode_goes_on_outside(family, step, room):
    """As transformers' own cache of the kind does. What that cannot do either may be refused."""
    model, ids = vecinfer(family), tiny_inputs(1, 200)
    cache = new_cache(model.config, room=room)
    stock = DynamicCache(config=model.config) if room is None else StaticCache(config=model.config, max_cache_len=room)
    with torch.inference_mode():
        for each in (stock, cache):
            model(ids[:, :150], **cache_argument(each))
    try:
        step(model, stock, ids)
        run(model, ids[:, :2], stock)
    except RuntimeError:
        # torch's word about transformers' own static layers is no clear refusal, but nothing that they could do.
        with contextlib.suppress(RuntimeError, ValueError):
            step(model, cache, ids)
        return
    step(model, cache, ids)
    assert run(model, ids[:, :2], cache).isfinite().all()


@ROOMS
def test_inference_mode_between_other_calls(room):
    model, ids = vecinfer(), tiny_inputs(1, 200)
    with following(model) as follower, torch.no_grad():
        cache = new_cache(model.config, room=room)
        for start, inference in ((0, False), (40, True), (41, False), (42, True), (80, False)):
            with torch.inference_mode() if inference else contextlib.nullcontext():
                model(ids[:, start : {0: 40, 42: 80}.get(start, start + 1)], **cache_argument(cache))
            follower.audit(cache)


@pytest.mark.parametrize("tokens", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@ROOMS
def test_gradients_through_tokens_behind_a_filled_cache(tokens, family, room):
    """Nothing is coded, so the gradients are those of the default cache; or the call says that there are none."""
    model, ids = vecinfer(family), tiny_inputs(1, 60 + tokens)
    gradients = []
    for cache in (DynamicCache(config=model.config), new_cache(model.config, exact=True, room=room)):
        run(model, ids[:, :60], cache)
        model.zero_grad()

        def backward(cache=cache):
            model(ids[:, 60:], **cache_argument(cache)).logits.square().mean().backward()
            return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

        gradients.append(right_or_refused(backward))
    want, got = gradients
    if got is not REFUSED:
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max() + 1))


@ROOMS
def test_a_call_with_gradients_then_one_without(room):
    """What a cache keeps of a call with gradients does not hold its graph."""
    model, ids = vecinfer(), tiny_inputs(1, 60)
    cache, other = (new_cache(model.config, room=room) for _ in range(2))
    model(ids[:, :40], **cache_argument(cache))
    run(model, ids[:, :40], other)
    for start, end in ((40, 41), (41, 60)):
        torch.testing.assert_close(run(model, ids[:, start:end], cache), run(model, ids[:, start:end], other))
    assert not any(tensor.requires_grad for layer in cache.layers for tensor in layer.buffers)


@ROOMS
@pytest.mark.parametrize("rows", [[-1, 0, 1], [-1, -2, -3], [2, -3, 0]])
@pytest.mark.parametrize("make", [lambda: vecinfer(), lambda: vecinfer("gemma2")])
@pytest.mark.parametrize("operation", ["reorder_cache", "batch_select_indices"])
def test_negative_rows_count_from_the_end(make, operation, rows, room):
    model, ids = make(), tiny_inputs(3, 60)
    mask = torch.ones(3, 60, dtype=torch.long)
    mask[0, :9], mask[1, :2] = 0, 0
    counted = [row % 3 for row in rows]
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache, attention_mask=mask[:, :40])
        state = follower.state(cache)
        if right_or_refused(lambda: getattr(cache, operation)(torch.tensor(rows))) is REFUSED:
            follower.unchanged(cache, state)
            counted = [0, 1, 2]
        ids, mask = ids[counted], mask[counted]
        run(model, ids[:, 40:43], cache, attention_mask=mask[:, :43])
        follower.audit(cache)


@ROOMS
@pytest.mark.parametrize("rows", [[0, 1, 3], [-4, 0, 1], [99, 0, 0]])
@pytest.mark.parametrize("operation", ["reorder_cache", "batch_select_indices"])
def test_rows_that_do_not_exist_are_refused(operation, rows, room):
    model, ids = vecinfer(), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache)
        state = follower.state(cache)
        refused(lambda: getattr(cache, operation)(torch.tensor(rows)))
        follower.unchanged(cache, state)
        run(model, ids[:, 40:43], cache)
        follower.audit(cache)


OTHER_PROCESS = """
import sys, pickle
sys.path[:0] = {path!r}
import torch
from tiny_models import tiny_model, tiny_inputs
from edge_cases import run
import vecinfer_hf
ids, results = tiny_inputs(2, 60), []
for family, cache in pickle.load(open({file!r}, "rb")):
    model = tiny_model(family)
    model.set_attn_implementation("vecinfer")
    results += [run(model, ids[:, a:b], cache) for a, b in ((40, 41), (41, 60))]
torch.save(results, {out!r})
"""


def test_caches_go_on_in_another_process(tmp_path):
    ids, given, want = tiny_inputs(2, 60), [], []
    for family in ("llama", "gemma2"):
        for room in (None, 100):
            model = vecinfer(family)
            cache = new_cache(model.config, room=room)
            run(model, ids[:, :40], cache)
            given.append((family, pickle.loads(pickle.dumps(cache))))
            want += [run(model, ids[:, start:end], cache) for start, end in ((40, 41), (41, 60))]
    (tmp_path / "caches").write_bytes(pickle.dumps(given))
    script = OTHER_PROCESS.format(path=sys.path, file=str(tmp_path / "caches"), out=str(tmp_path / "logits"))
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=300)
    for ours, theirs in zip(torch.load(tmp_path / "logits"), want, strict=True):
        torch.testing.assert_close(ours, theirs)


@ROOMS
def test_torch_save_and_load(room):
    model, ids = vecinfer(), tiny_inputs(2, 60)
    cache = new_cache(model.config, room=room)
    run(model, ids[:, :40], cache)
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for start, end in ((40, 41), (41, 60)):
        torch.testing.assert_close(run(model, ids[:, start:end], loaded), run(model, ids[:, start:end], cache))


def test_fullgraph_compilation_gives_a_reason_or_works():
    """What transformers advises for static caches, and what works with its own."""
    model, ids = tiny_model("llama"), tiny_inputs(1, 60)
    model.forward = torch.compile(model.forward, fullgraph=True, backend="eager")
    stock = greedy(model, ids, StaticCache(config=model.config, max_cache_len=128), new=3)
    cache = new_cache(model.config, exact=True, room=128)
    reason = None
    try:
        got = greedy(model, ids, cache, new=3)
    except Exception as error:
        reason = str(error)
    if reason is None:
        assert torch.equal(got, stock)
    else:
        # Dynamo's own text tells where it stopped; the package's tells why and what to do instead.
        assert "VecInfer cache" in reason


@ROOMS
@pytest.mark.parametrize("make", [lambda: tiny_model("llama"), sliding_model])
def test_deterministic_algorithms(make, room):
    model, ids = make(), tiny_inputs(2, 60)
    want = greedy(model, ids, new_cache(model.config, room=room))
    torch.use_deterministic_algorithms(True)
    try:
        got = greedy(model, ids, new_cache(model.config, room=room))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(got, want)


@ROOMS
def test_another_default_dtype(room):
    """Nothing that the package makes takes the process's default."""
    model, ids = vecinfer(), tiny_inputs(2, 60)
    cache = new_cache(model.config, room=room)
    torch.set_default_dtype(torch.float64)
    try:
        with following(model) as follower:
            for start, end in ((0, 40), (40, 41), (41, 60)):
                run(model, ids[:, start:end], cache)
            follower.audit(cache)
    finally:
        torch.set_default_dtype(torch.float32)


def test_caches_in_threads_do_not_meet():
    """One model, six threads, a cache each: the texts are those of one thread."""
    model = vecinfer()
    ids = [tiny_inputs(1, 30 + 3 * number, seed=number) for number in range(6)]
    want = [greedy(model, each, new_cache(model.config), new=10) for each in ids]
    got = [None] * 6

    def work(number):
        got[number] = greedy(model, ids[number], new_cache(model.config), new=10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine, theirs)
