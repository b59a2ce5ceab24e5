"""vLLM's flags for data-parallel ranks: which ranks a process runs, and on which ports."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.problems import InvalidInput

EVENTS = ["--kv-events-config", '{"enable_kv_cache_events": true, "replay_endpoint": "tcp://*:5600"}']


def config(*argv: str) -> ServerConfig:
    return load(["--model", "m", *argv], {}).config


@pytest.mark.parametrize(
    ("argv", "ranks", "ports"),
    [
        ([], [0], [8000]),
        (["--data-parallel-size", "3"], [0, 1, 2], [8000]),
        (["-dp", "2"], [0, 1], [8000]),
        (["-dp=2", "--port", "9000"], [0, 1], [9000]),
        # One port for all ranks, those of other nodes included.
        (["-dp", "4", "-dpl", "2"], [0, 1, 2, 3], [8000]),
        # External load balancing: this server is one rank of several.
        (["-dp", "4", "--data-parallel-rank", "2"], [2], [8000]),
        (["-dp", "4", "-dpn", "3", "-dpe", "-dpl", "1"], [3], [8000]),
        # Hybrid load balancing: some ranks behind one port.
        (["-dp", "4", "-dpl", "2", "--data-parallel-start-rank", "2"], [2, 3], [8000]),
        (["-dp", "4", "-dpl", "2", "--data-parallel-hybrid-lb"], [0, 1], [8000]),
        (["-dp", "4", "-dpl", "4", "-dph"], [0, 1, 2, 3], [8000]),
        # A port for each rank.
        (["-dpm"], [0], [8000]),
        (["-dp", "2", "--data-parallel-multi-port-external-lb"], [0, 1], [8000, 8001]),
        (["-dp", "4", "-dpm", "-dpl", "2", "-dpr", "2", "--port", "9000"], [2, 3], [9000, 9001]),
    ],
)
def test_the_flags_say_which_ranks_run_here(argv: list[str], ranks: list[int], ports: list[int]) -> None:
    found = config(*argv)
    assert list(found.ranks) == ranks
    assert list(found.ports) == ports
    assert [port for server in found.servers for port in server.ports] == ports
    assert [rank for server in found.servers for rank in server.ranks] == ranks


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-dp", "0"], "--data-parallel-size: Input should be greater than or equal to 1, not '0'"),
        (["-dp", "9"], "--data-parallel-size: Input should be less than or equal to 8, not '9'"),
        (["-dp", "two"], "--data-parallel-size: Input should be a valid integer, not 'two'"),
        (["-dp"], "-dp: needs a value"),
        (["--data-parallel-rank", "0"], "--data-parallel-rank: needs dataParallelSize above 1, not '0'"),
        (["-dp", "2", "-dpn", "2"], "--data-parallel-rank: there is no rank 2: dataParallelSize is 2"),
        (["-dp", "2", "-dpe"], "--data-parallel-external-lb: needs rank: which one runs here, not 'true'"),
        (["-dp", "4", "-dph"], "--data-parallel-hybrid-lb: needs size: how many ranks run here, not 'true'"),
        (["-dp", "4", "-dpr", "1"], "--data-parallel-start-rank: needs size: how many ranks run here, not '1'"),
        (["-dp", "2", "-dpl", "3"], "--data-parallel-size-local: 3 is above dataParallelSize=2"),
        (
            ["-dp", "4", "-dpl", "2", "-dpr", "3"],
            "--data-parallel-start-rank: there is no rank 4: dataParallelSize is 4, not '3'",
        ),
        (
            ["-dp", "4", "-dpn", "1", "-dpl", "2"],
            "--data-parallel-size-local: 2 is not 1, which is what runs here with rank",
        ),
        (
            ["-dp", "4", "-dpn", "1", "-dpm"],
            "localRanks: rank (or externalLb), startRank (or hybridLb) and dataParallelPortPerRank do not go together",
        ),
        (
            ["-dp", "2", "-dpm", "--uds", "/tmp/s"],
            "--data-parallel-multi-port-external-lb: does not go with listen.uds, not 'true'",
        ),
        (["-dp", "2", "-dpm", "--admin-port", "8001"], "--admin-port: 8001 is already the port of a rank"),
        (["-dp", "4", "-dpm", "--port", "65533"], "--port: leaves no ports for 4 ranks, not '65533'"),
    ],
)
def test_what_does_not_go_together_is_refused(argv: list[str], message: str) -> None:
    """One line for each: the flag, what is wrong, and what it needs."""
    with pytest.raises(InvalidInput) as refused:
        config(*argv)
    assert str(refused.value) == message


def test_events_of_all_ranks_need_ports() -> None:
    """Rank i publishes on port 5557 + i, and sends again on the replay port + i."""
    assert list(config("-dp", "8", *EVENTS).ranks) == list(range(8))
    near = ["--kv-events-config", '{"enable_kv_cache_events": true, "replay_endpoint": "tcp://*:5558"}']
    assert config(*near).ranks == range(1)
    with pytest.raises(InvalidInput, match=r"replayEndpoint: 5558 is already kvEvents.endpoint of rank 1"):
        config("-dp", "2", *near)
    with pytest.raises(InvalidInput, match=r"endpoint: 5557 is already listen.port"):
        config("-dp", "8", "-dpm", "--port", "5550", *EVENTS)


def test_flags_of_other_nodes_mean_nothing_here() -> None:
    loaded = load(["m", "-dp", "2", "-dpa", "10.0.0.1", "--data-parallel-rpc-port", "13345", "-dpb", "mp"], {})
    assert len(loaded.warnings) == 3
    assert loaded.config.ranks == range(2)
