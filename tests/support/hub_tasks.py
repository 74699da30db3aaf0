# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What other processes do in the Hub tests: functions that take and return JSON values."""

import hashlib
import resource
from dataclasses import asdict
from pathlib import Path

from hub_codebooks import tiny_codebook
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from tiny_models import tiny_config

from vecinfer_hf import CalibrationConfig, Codebook, VecInferCache, VecInferConfig, VecInferError, hub
from vecinfer_hf.hub import errors as hub_errors
from vecinfer_hf.hub.search import find_codebooks
from vecinfer_hf.integration.resolve import resolve


CONFIGS = {config.__name__: config for config in (VecInferConfig, CalibrationConfig)}


def _reported(call):
    """The result of `call`, or the error a user would see."""
    hub_errors.FIRST_WAIT = 0.02
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return call()
    except (VecInferError, TypeError) as error:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return {"error": str(error), "kind": type(error).__name__, "kilobytes_more": grown}


def fingerprint(codebook: Codebook) -> str:
    """A hash of all tensors of a codebook."""
    digest = hashlib.sha256()
    for index, layer in codebook.layers.items():
        for name, tensor in zip(layer._fields, layer, strict=True):
            if tensor is not None:
                digest.update(f"{index} {name} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def push(repo_id, seed=0, bits=2, name="org/tiny-llama", licence="apache-2.0", **options):
    """Push a tiny codebook of the model `name`."""

    def call():
        codebook = tiny_codebook(seed, bits, name)
        codebook.provenance["license"] = licence
        commit = codebook.push_to_hub(repo_id, **options)
        return {"commit": commit.oid, "pr": commit.pr_revision, "fingerprint": fingerprint(codebook)}

    return _reported(call)


def plain_info(repo_id):
    """What the bare client makes of a repository's listing, without any care of ours."""
    try:
        info = HfApi().model_info(repo_id, files_metadata=True)
    except HfHubHTTPError as error:
        return {"status": error.response.status_code}
    return {"files": {sibling.rfilename: sibling.size for sibling in info.siblings}}


def plain_download(repo_id, filename, cache_dir):
    """What the bare client makes of a file, without any care of ours."""
    try:
        path = hf_hub_download(repo_id, filename, cache_dir=cache_dir)
    except Exception as error:  # whatever the client's HTTP library raises
        return {"error": type(error).__name__}
    return {"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def pull(repo_id, cache_dir, file_limit=None, **options):
    """Download a codebook and load it, optionally with a limit on the size of the files written."""
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    def call():
        folder, commit = hub.download_codebook(repo_id, cache_dir=cache_dir, **options)
        codebook = Codebook.from_pretrained(folder)
        return {"commit": commit, "folder": str(folder), "fingerprint": fingerprint(codebook)}

    return _reported(call)


def push_config(kind, repo_id, options, **more):
    """Push a config of this class."""
    return _reported(lambda: {"commit": CONFIGS[kind](**options).push_to_hub(repo_id, **more).oid})


def pull_config(kind, repo_id, **more):
    """Download a config of this class."""
    return _reported(lambda: CONFIGS[kind].from_pretrained(repo_id, **more).to_diff_dict())


def load(repo_id, **options):
    """Load a codebook by its name."""

    def call():
        codebook = Codebook.from_pretrained(repo_id, **options)
        return {"fingerprint": fingerprint(codebook), "source": codebook.source}

    return _reported(call)


def use(repo_id, cache_dir, **changes):
    """Download a codebook and make a cache with it for the tiny llama, changed."""

    def call():
        folder, _ = hub.download_codebook(repo_id, cache_dir=cache_dir)
        VecInferCache(tiny_config("llama", **changes), Codebook.from_pretrained(folder))
        return {}

    return _reported(call)


def validate_card(text):
    """Check a card with the client's own tool, which asks the Hub."""
    try:
        ModelCard(text).validate()
    except ValueError as error:
        return {"error": str(error)}
    return {}


def find(model_id, **options):
    """Find codebooks for a model by its name."""
    return [asdict(item) for item in find_codebooks(model_id, **options)]


def automatic(name="org/tiny-llama", quantization=None, options=None, **changes):
    """Resolve codebook="auto" for the tiny llama under a name, its config carrying `quantization`."""
    config = tiny_config("llama", **changes)
    config._name_or_path = name
    if quantization is not None:
        config.quantization_config = quantization

    def call():
        codebook, _ = resolve(config, "auto", **(options or {}))
        return codebook.source

    return _reported(call)
