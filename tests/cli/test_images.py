# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models for images and text in the commands: calibrate, plan, generate with an image, evaluate."""

import json

import pytest
import torch
from image_families import IMAGE_FAMILIES
from model_families import family_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from vecinfer_hf import VecInferCache


Image = pytest.importorskip("PIL.Image", reason="pictures need pillow")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A directory with a tiny random LLaVA and its processor, whose words are w2 to w90."""
    from transformers import CLIPImageProcessor

    directory = tmp_path_factory.mktemp("llava")
    family_model("llava").save_pretrained(directory)
    image_token = IMAGE_FAMILIES["llava"][2]["image_token_index"]
    words = {"<pad>": 0, "<s>": 1, **{f"w{i}": i for i in range(2, 91)}, "<unk>": 91, "<image>": image_token}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", extra_special_tokens={"image_token": "<image>"}
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(directory)
    Image.new("RGB", (40, 30), (200, 30, 90)).save(directory / "picture.png")
    generator = torch.Generator().manual_seed(0)
    text = " ".join(f"w{i}" for i in torch.randint(2, 91, (600,), generator=generator).tolist())
    (directory / "text.txt").write_text(text)
    return directory


def test_calibrate_evaluate_and_generate_with_an_image(vecinfer, llava, tmp_path, monkeypatch):
    made = tmp_path / "codebook"
    options = ["--text", llava / "text.txt", "--sequence-length", 64, "--residual-length", 8, "--fast"]
    code, _, err = vecinfer("calibrate", llava, "--output", made, *options)
    assert code == 0, err
    code, out, err = vecinfer(
        "evaluate", llava, "--codebook", made, "--text", llava / "text.txt", "--window-length", 80, "--json"
    )
    assert code == 0, err
    # 2 bits, and what a tile of heads of 16 elements is padded with.
    assert 2 <= json.loads(out)["bits_per_element"] <= 3
    lengths = []
    update = VecInferCache.update

    def watch(self, key_states, *args, **kwargs):
        lengths.append(key_states.shape[2])
        return update(self, key_states, *args, **kwargs)

    monkeypatch.setattr(VecInferCache, "update", watch)
    call = ["generate", llava, "--codebook", made, "--prompt", "w5 w6 w7", "--max-new-tokens", 3]
    code, _, err = vecinfer(*call, "--image", llava / "picture.png")
    assert code == 0, err
    # Four patches and three words, against three words.
    assert max(lengths) == 7
    lengths.clear()
    code, _, err = vecinfer(*call)
    assert code == 0, err
    assert max(lengths) == 3


def test_plan_of_a_model_with_images(vecinfer, llava):
    code, out, err = vecinfer("plan", llava, "--json")
    assert code == 0, err
    model = family_model("llava")
    assert json.loads(out)["weight_bytes"] == 4 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image", "missing.png"], "is no file"),
        (["--image", "{model}/text.txt"], "cannot be read as an image"),
    ],
    ids=["missing", "no image"],
)
def test_what_is_no_image_is_refused_before_the_model_is_loaded(vecinfer, llava, options, words):
    options = [option.format(model=llava) for option in options]
    code, out, err = vecinfer("generate", llava, "--codebook", "online", "--prompt", "w5", *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


def test_a_text_model_takes_no_image(vecinfer, tiny_model_directory, llava):
    code, out, err = vecinfer(
        "generate", tiny_model_directory, "--codebook", "online", "--prompt", "a", "--image", llava / "picture.png"
    )
    assert (code, out) == (2, "")
    assert "takes no images" in " ".join(err.split())
