# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels on this machine: sources.py finds the sources, compilers.py a compiler, jobs.py runs it, variant.py
writes one build, store.py keeps builds in the user's cache, and build.py does all of that.

ops/kernel_loader.py decides which build is used.
"""
