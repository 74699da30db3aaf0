# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Commands: what cannot be done ends early with a code and a sentence, and nothing given is left out silently.

cli/test_bad_commands.py has the lines with one wrong word.
"""

import io
import json
import re
import shutil

import huggingface_hub.constants
import pytest
import torch
import typer
from bad_commands import make_places
from format_1 import edit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from vecinfer_hf.cli.app import app, main


pytestmark = pytest.mark.sampled(3)


pytest_plugins = ["hub_fixtures"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("places"))


@pytest.fixture
def vecinfer(capsys, monkeypatch, tmp_path):
    """Run a command line offline in an empty directory; returns (exit code, output, errors)."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def assert_refused(result, *words):
    code, _, errors = result
    assert code not in (0, None)
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


def options_of(command):
    """Return the options of a command, as they are written."""
    entry = typer.main.get_command(app).commands.get(command)
    return {option for parameter in entry.params for option in parameter.opts} if entry else set()


def evaluate_words(places):
    small = ("--window-length", 64, "--max-windows", 1)
    return ("evaluate", places.model, "--codebook", places.codebook, "--text", places.text, *small)


def calibrate_words(places, output="out"):
    small = ("--num-tokens", 256, "--sequence-length", 128, "--num-iterations", 1, "--recipe", "query")
    return ("calibrate", places.model, "--output", output, "--text", places.text, *small)


def generate_words(places):
    return ("generate", places.model, "--codebook", places.codebook, "--max-new-tokens", 3)


@pytest.fixture
def loads(monkeypatch):
    """What models were loaded."""
    loaded = []
    original = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: (loaded.append(a), original(*a, **k))[1]
    )
    return loaded


WRONG = {
    "codebook": ("--codebook", "no/such/codebook/at/all"),
    "empty codebook": ("--codebook", ""),
    "dtype": ("--dtype", "float33"),
    "device": ("--device", "tpu9"),
    "backend": ("--ops-backend", "fast"),
    "window": ("--residual-length", "-1"),
    "output": ("--output", "missing/directory/report.json"),
    "empty output": ("--output", ""),
    "output directory": ("--output", "."),
    "text": ("--text", "missing.txt"),
    "binary text": ("--text", "binary"),
    "bits": ("--key-bits", "3"),
    "recipe": ("--recipe", "best"),
    "choice": ("--sink-choice", "last"),
    "output below a file": ("--output", "file/below"),
    "prompt": ("--prompt", "  "),
    "revision of a directory": ("--revision", "main"),
}


def wrong_lines():
    """Yield (words of a command, what is wrong) for each option that the command has."""
    for words in (evaluate_words, calibrate_words, generate_words):
        name = words.__name__.removesuffix("_words")
        for wrong, (option, _) in WRONG.items():
            # The output of calibrate is a directory, and made.
            if option in options_of(name) and not (name == "calibrate" and wrong in ("output", "output directory")):
                yield pytest.param(words, wrong, id=f"{name}-{wrong}")


@pytest.mark.parametrize(("words", "wrong"), wrong_lines())
def test_what_can_be_checked_is_checked_before_a_model_is_loaded(vecinfer, places, loads, tmp_path, words, wrong):
    """Loading takes minutes, measuring hours: neither is spent on a line that cannot end well."""
    option, value = WRONG[wrong]
    command = words(places)
    shutil.copy(places.binary, tmp_path / "here" / "binary")
    (tmp_path / "here" / "file").write_text("x")
    result = vecinfer(*command, f"{option}={value}", stdin="w5")
    assert_refused(result)
    assert not loads, "the model was loaded first"


@pytest.mark.parametrize("command", ["inspect", "generate", "evaluate"])
def test_a_revision_of_a_directory_is_not_left_out(vecinfer, places, command):
    """Only repositories have revisions."""
    words = {
        "inspect": ("inspect", places.codebook),
        "generate": (*generate_words(places), "--prompt", "w5"),
        "evaluate": evaluate_words(places),
    }[command]
    assert_refused(vecinfer(*words, "--revision", "v1.0"), "revision")


@pytest.mark.parametrize("flag", ["--retrieval-fraction", "--separator-fraction"])
def test_fractions_that_a_recipe_without_gradients_would_leave_out(vecinfer, places, flag):
    """They either do something or are refused: the codebook's own record says which."""
    code, _, errors = vecinfer(*calibrate_words(places), flag, "0.5")
    if code:
        assert "Traceback" not in errors
        return
    config = json.dumps(json.loads(open("out/config.json").read()))
    assert re.search(r"0\.5", config), "accepted and not recorded"


def test_an_empty_output_is_no_directory(vecinfer, places, tmp_path):
    assert_refused(vecinfer(*calibrate_words(places, "")), "output")
    assert not list((tmp_path / "here").iterdir())


def test_a_newline_at_the_end_of_standard_input_is_no_part_of_the_prompt(vecinfer, places, monkeypatch):
    """`echo question | vecinfer generate --chat` asks what `--prompt question` asks."""
    seen = []

    def template(self, conversation, **kwargs):
        seen.append(conversation[-1]["content"])
        ids = torch.tensor([[5, 6, 7]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", template)
    assert vecinfer(*generate_words(places), "--chat", "--prompt", "w5 w6")[0] == 0
    for text in ("w5 w6\n", "w5 w6\r\n", "w5 w6"):
        assert vecinfer(*generate_words(places), "--chat", stdin=text)[0] == 0
    assert seen == ["w5 w6"] * 4


def test_a_prompt_of_nothing_the_tokenizer_knows(vecinfer, places):
    code, _, errors = vecinfer(*generate_words(places), "--prompt", "\u200b")
    assert code == 0 or "prompt" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provenance", ["x"]),
        ("provenance", {"errors": [5]}),
        ("provenance", {"errors": [{}]}),
        ("metrics", "x"),
        ("metrics", {"quality": ["x"]}),
        ("model.name", None),
        ("model.name", 5),
        ("provenance", {"texts": [{"name": 1}]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [("inspect",), ("inspect", "--json"), ("push", "me/x")], ids=" ".join)
def test_somebody_elses_codebook_is_shown_or_refused(vecinfer, places, tmp_path, command, field, value):
    directory = tmp_path / "codebook"
    shutil.copytree(places.codebook, directory)

    def change(config):
        *path, last = field.split(".")
        entry = config
        for name in path:
            entry = entry[name]
        entry[last] = value
        if value is None:
            del entry[last]

    edit(directory, change)
    code, out, errors = vecinfer(command[0], directory, *command[1:])
    assert "Traceback" not in errors
    if code:
        assert errors.strip()
    elif "--json" in command:
        json.loads(out)


@pytest.mark.hub
def test_a_push_that_is_sent_once_does_not_claim_retries(hub, warm, token, repo):
    """A commit may have been made before the answer failed, so it is not sent again, and the message says so."""
    warm.call("push", repo, token=token)
    down = hub.fault(f"POST /api/models/{repo}/commit", times=99, status=503)
    error = warm.call("push", repo, seed=4, token=token)["error"]
    claimed = re.search(r"after (\d+) tries", error)
    assert (int(claimed[1]) if claimed else 1) == down.hits


def test_every_command_fails_with_a_code_when_its_work_fails(vecinfer, places, monkeypatch):
    """An error of torch in the middle of the work is told, not shown as a traceback."""

    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory, as asked for")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    for words in (evaluate_words(places), calibrate_words(places), (*generate_words(places), "--prompt", "w5")):
        assert_refused(vecinfer(*words), "out of memory")


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("y"), AttributeError("z"), RecursionError("deep")])
def test_whatever_goes_wrong_in_a_model_is_told(vecinfer, places, monkeypatch, error):
    """A broken checkpoint raises anything."""

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    assert_refused(vecinfer(*generate_words(places), "--prompt", "w5"))


def test_ctrl_c_ends_a_command_without_a_traceback(vecinfer, places, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", interrupted)
    code, _, errors = vecinfer(*generate_words(places), "--prompt", "w5")
    assert code not in (0, None)
    assert "Traceback" not in errors
