"""Ctrl-C at its worst moments."""

import signal
import threading

import pytest

from miras_search.interrupts import Interrupts


@pytest.fixture
def ctrl_c():
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    interrupts.begin()
    yield interrupts
    interrupts.end()
    assert signal.getsignal(signal.SIGINT) == before


def press():
    signal.raise_signal(signal.SIGINT)


def test_it_is_heard_at_once(ctrl_c):
    with pytest.raises(KeyboardInterrupt):
        press()


def test_it_waits_for_what_is_being_written(ctrl_c):
    written = []

    @ctrl_c.held()
    def inner():
        press()
        written.append("inner")

    @ctrl_c.held()
    def outer():
        inner()
        written.append("outer")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert written == ["inner", "outer"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_python_drops_is_raised_again(ctrl_c):
    class Dies:
        def __del__(self):
            press()

    Dies()  # a KeyboardInterrupt in a destructor is dropped: nothing is raised here
    with pytest.raises(KeyboardInterrupt), ctrl_c.held():
        pass


def test_an_earlier_one_is_forgotten_by_the_next_study(ctrl_c):
    with pytest.raises(KeyboardInterrupt):
        press()
    ctrl_c.end()
    ctrl_c.begin()
    with ctrl_c.held():
        pass


def test_a_thread_leaves_the_handler_alone():
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    thread = threading.Thread(target=interrupts.begin)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
