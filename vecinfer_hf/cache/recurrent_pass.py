# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""RecurrentPass: notices that an earlier forward pass ended midway, for caches whose recurrent states cannot go back.

Keys and values can be cropped; a recurrent or convolution state has no length and no past. A pass that ended early
leaves some states behind it and some before it, and the next pass would go on from there without a word. Models change
states in place after they have read them, so reading counts as changing.
"""

from __future__ import annotations

from ..errors import CacheStateError


class RecurrentPass:
    """The progress of passes through the layers that store anything.

    Args:
        recurrent: indices of the layers with a recurrent or convolution state.
        others: indices of the layers that store keys and values.
    """

    def __init__(self, recurrent: tuple[int, ...], others: tuple[int, ...]):
        self.recurrent = recurrent
        steps = sorted({*recurrent, *others})
        self._place = {index: place for place, index in enumerate(steps)}
        self._last = len(steps) - 1
        self.reset()

    def reset(self) -> None:
        """Forget everything: no pass is under way."""
        self._reached = self._last
        self._done: set[tuple[int, str]] = set()
        """What the present pass, or the last one if it has ended, has reached: layers and kinds."""

    @property
    def ended(self) -> bool:
        """Whether the last pass reached the last layer."""
        return self._reached == self._last

    def reaches(self, index: int, kind: str, *, once: bool = False) -> None:
        """Note that a layer is about to read or change its state of a kind, or to store keys and values.

        Args:
            index: the layer.
            kind: what of it.
            once: whether a pass does this once, so that a second time belongs to another pass.

        Raises:
            CacheStateError: if a pass begins and the last one ended midway; nothing has changed.
        """
        if not self.recurrent:
            return
        place = self._place[index]
        if place == 0 and (self._reached > 0 or (once and (index, kind) in self._done)):
            if not self.ended:
                raise CacheStateError(
                    "An earlier forward pass ended midway, and the recurrent states of layers "
                    f"{list(self.recurrent)} cannot go back. `cache.reset()` removes everything."
                )
            self._done.clear()
        self._done.add((index, kind))
        self._reached = place

    def abandon(self, *, reads_change: bool = True) -> None:
        """End a pass that was refused; without effect after a recurrent state has changed, or may have.

        Args:
            reads_change: whether a state that was read may have been changed in place.
        """
        changed = [kind for index, kind in self._done if index in self.recurrent]
        if not any(reads_change or not kind.startswith("read") for kind in changed):
            self.reset()
