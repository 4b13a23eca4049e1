"""The benchmark of images judges, tells and draws what it has measured, and counts what goes over a wire."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from attrs import evolve, fields

from benchmarks.docker.__main__ import document
from benchmarks.docker.relay import CountingRelay
from benchmarks.docker.tables import HEADS, markdown, picture, rows
from benchmarks.docker.ways import WAYS, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.docker.ways import Way

RUN = Run(seconds=4.0, received=100, sent=10, engine=300, client=0, image=100, layer="sha256:a")
RESULTS: Sequence[tuple[Way, Sequence[Run]]] = [
    (WAYS[0], [RUN, evolve(RUN, seconds=6.0), evolve(RUN, seconds=5.0)]),
    (WAYS[-1], [RUN, evolve(RUN, layer="sha256:b")]),
]
MACHINE = {"processor": "Some Processor", "cores": 2, "engine": "Docker 20"}


def test_a_row_has_median_and_spread_and_bytes_in_multiples_of_the_model() -> None:
    first, second = rows(RESULTS, 100)
    assert first == (WAYS[0].says, "5.0 (4.0-6.0)", "1.00x", "0.10x", "3.00x", "0.00x", "1.00x", "yes")
    assert second[-1] == "no"
    assert len(first) == len(HEADS)


def test_one_run_alone_says_nothing_about_its_layer() -> None:
    (row,) = rows([(WAYS[0], [RUN])], 100)
    assert row[1] == "4.0"
    assert row[-1] == "-"


def test_the_document_has_the_described_shape() -> None:
    figures = document(RESULTS, dict(MACHINE), size=100, quick=True)
    assert set(figures) == {"format", "at", "quick", "machine", "size", "ways"}
    for way in figures["ways"]:
        assert set(way) == {"name", "says", "ours", "runs"}
        assert all(set(run) == {field.name for field in fields(Run)} for run in way["runs"])


def test_the_page_and_the_picture_are_made_of_the_same_rows() -> None:
    page = markdown(RESULTS, 100, machine=MACHINE, command="python -m benchmarks.docker")
    assert "| RUN restore in a stage | 5.0 (4.0-6.0) |" in page
    assert picture(RESULTS, 100, machine=MACHINE).startswith(b"<?xml")


def test_the_names_of_the_ways_are_all_different() -> None:
    assert len({way.name for way in WAYS}) == len({way.says for way in WAYS}) == len(WAYS)


def test_the_relay_counts_what_goes_each_way_from_where_it_was_told_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_answer, args=(server, 2))
        answering.start()
        with CountingRelay(("127.0.0.1", server.getsockname()[1])) as relay:
            _ask(relay.port, b"first")
            relay.begin()
            _ask(relay.port, b"12345678")
            carried = relay.carried
        answering.join()
    assert (carried.to, carried.back, carried.connections) == (8, 1000, 1)


def _answer(server: socket.socket, times: int) -> None:
    for _ in range(times):
        connection, _ = server.accept()
        with connection:
            while connection.recv(1024):
                pass
            connection.sendall(bytes(1000))


def _ask(port: int, what: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(what)
        connection.shutdown(socket.SHUT_WR)
        received = 0
        while piece := connection.recv(4096):
            received += len(piece)
    assert received == 1000
