# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""formats.py: names, arithmetic, and the refusal of everything that cannot be stored."""

import itertools

import pytest

from vecinfer_hf.quantization.formats import (
    BITS_PER_CODE,
    FORMATS_BY_BITS,
    MAX_CODES,
    SUBVECTOR_DIMS,
    CodeFormat,
    implied_format,
    parse_format,
)


ALL_FORMATS = [
    CodeFormat(*parts) for parts in itertools.product(SUBVECTOR_DIMS, BITS_PER_CODE, range(1, MAX_CODES + 1))
]


@pytest.mark.parametrize("fmt", ALL_FORMATS, ids=lambda fmt: fmt.name)
def test_name_and_centroid_shape_lead_back_to_the_format(fmt):
    assert parse_format(fmt.name) == fmt
    assert implied_format((3, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim)) == fmt


def test_names_are_distinct():
    assert len({fmt.name for fmt in ALL_FORMATS}) == len(ALL_FORMATS)


@pytest.mark.parametrize(("bits", "name"), [(4, "d4b8x2"), (2, "d4b8"), (1.5, "d8b12"), (1.25, "d8b10"), (1, "d8b8")])
def test_bits_stand_for_a_format_of_that_many_bits(bits, name):
    fmt = parse_format(bits)
    assert fmt.name == name
    assert fmt.bits_per_element == bits
    assert parse_format(float(bits)) == parse_format(str(bits)) == fmt


def test_every_shorthand_is_exact():
    assert all(fmt.bits_per_element == bits for bits, fmt in FORMATS_BY_BITS.items())


@pytest.mark.parametrize("bits", [3, 0, -2, 2.5, 8, 16, True, None, "x", "", "2bit", [2], float("nan"), float("inf")])
def test_unknown_bits_are_refused_with_what_is_possible(bits):
    with pytest.raises(ValueError, match=r"(?s)4\.0, 2\.0, 1\.5, 1\.25, 1\.0.*d2b8") as raised:
        parse_format(bits)
    assert repr(bits) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "field"),
    [("d3b8", "subvector_dim"), ("d16b8", "subvector_dim"), ("d4b9", "bits_per_code"), ("d4b16", "bits_per_code"),
     ("d4b8x0", "num_codes"), ("d4b8x3", "num_codes")],
)  # fmt: skip
def test_a_well_formed_name_outside_the_sets_names_the_field(name, field):
    with pytest.raises(ValueError, match=field):
        parse_format(name)


@pytest.mark.parametrize("name", ["D4b8", "d4b8x", "d4", "b8", "d4b8 ", " d4b8", "d4b8x2x2", "d4b8\n"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(ValueError, match="not a number of bits"):
        parse_format(name)


def test_head_size_must_divide():
    assert CodeFormat(8, 8).num_subvectors(80) == 10
    with pytest.raises(ValueError, match=r"head_dim 100.*subvector_dim 8.*d8b8"):
        CodeFormat(8, 8).num_subvectors(100)


def test_formats_are_values():
    assert CodeFormat(4, 8) == CodeFormat(4, 8, 1)
    assert len({CodeFormat(4, 8), parse_format(2), parse_format("d4b8")}) == 1
    with pytest.raises(AttributeError):
        CodeFormat(4, 8).subvector_dim = 8
