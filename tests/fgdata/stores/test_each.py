"""`each` is `map` with several items at a time, and begins few items before their turn."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from new_threads import NewThreads

from fgdata.stores.store import AHEAD, each

WAITING: Any = SimpleNamespace(parallel=3)
WINDOW = AHEAD * WAITING.parallel


class Counted:
    """Numbers from 0 on, and how many were taken."""

    def __init__(self, count: int):
        self.left, self.taken = iter(range(count)), 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self.left)
        self.taken += 1
        return number


@pytest.mark.parametrize("count", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 100])
def test_no_more_than_the_window_is_begun_before_its_turn(count: int):
    items = Counted(count)
    for consumed, result in enumerate(each(WAITING, lambda number: 7 * number, items)):
        assert result == 7 * consumed
        assert items.taken <= min(count, consumed + WINDOW)
    assert items.taken == count


def test_the_results_are_in_order_although_the_first_is_ready_last():
    second_is_ready = threading.Event()

    def work(number: int) -> int:
        assert number or second_is_ready.wait(60)
        if number == 1:
            second_is_ready.set()
        return number

    assert [*each(WAITING, work, range(20))] == [*range(20)]


def test_an_error_comes_in_its_turn():
    def work(number: int) -> int:
        if number in (5, 6):
            raise OSError(f"number {number}")
        return number

    results = each(WAITING, work, range(100))
    assert [next(results) for _ in range(5)] == [*range(5)]
    with pytest.raises(OSError, match="number 5"):
        next(results)
    assert next(results, None) is None


def test_a_consumer_that_stops_begins_no_more():
    threads, items = NewThreads(), Counted(1000)
    results = each(WAITING, str, items)
    assert next(results) == "0"
    results.close()  # type: ignore[attr-defined]
    assert items.taken == WINDOW
    assert threads() == 0


def test_storage_that_does_not_wait_is_read_one_by_one():
    items = Counted(5)
    for consumed, _ in enumerate(each(SimpleNamespace(parallel=1), str, items), 1):  # type: ignore[arg-type]
        assert items.taken == consumed
