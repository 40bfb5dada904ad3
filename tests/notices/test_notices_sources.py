"""What metadata services say, and what they say when they are out of their mind: no false drain."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_server import FAULTS, TOKEN, MetadataServer, utc

from vesselflow.notices import sources as module
from vesselflow.notices.plain_http import Endpoint, Trouble, ask
from vesselflow.notices.sources import AwsMetadata, GcpMetadata, Notice, WallTime


@pytest.fixture
def server():
    with MetadataServer() as server:
        yield server


def _aws(server: MetadataServer, **options) -> AwsMetadata:
    return AwsMetadata(Endpoint.parse(server.url), **options)


def _gcp(server: MetadataServer) -> GcpMetadata:
    return GcpMetadata(Endpoint.parse(server.url))


# -- AWS -----------------------------------------------------------------------------------------


def test_nothing_is_said_of_an_instance_that_stays(server):
    source = _aws(server)
    assert source.look() == source.look() == []
    assert [status for _, _, status in server.asked] == [200, 404, 404, 404, 404]


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_a_spot_notice_has_its_time(server, action):
    server.give_spot_notice(120, action)
    (notice,) = _aws(server).look()
    assert notice.kind == "spot"
    assert notice.firm
    assert 100 < notice.left_s <= 120
    assert notice.text == f"spot notice: {action} at {server.spot['time']}"


def test_a_rebalance_recommendation_is_no_firm_notice(server):
    server.rebalance = {"noticeTime": "2026-11-22T03:34:28Z"}
    (notice,) = _aws(server).look()
    assert (notice.kind, notice.left_s, notice.firm) == ("rebalance", None, False)
    assert notice.text == "rebalance recommendation of 2026-11-22T03:34:28Z"
    server.give_spot_notice()
    assert [notice.kind for notice in _aws(server).look()] == ["spot", "rebalance"]


def test_no_question_goes_without_a_token_and_one_token_serves_many(server):
    endpoint = Endpoint.parse(server.url)
    assert ask(endpoint, "GET", "/latest/meta-data/spot/instance-action", {}, 5).status == 401
    source = _aws(server)
    for _ in range(5):
        source.look()
    assert sum(method == "PUT" for method, _, _ in server.asked) == 1


def test_a_token_that_expires_early_is_renewed_within_the_same_look(server):
    source = _aws(server)
    source.look()
    server._tokens.clear()
    server.give_spot_notice()
    assert [notice.kind for notice in source.look()] == ["spot"]
    assert [entry[2] for entry in server.asked if entry[0] == "PUT"] == [200, 200]


def test_a_token_is_renewed_at_half_its_life(server):
    now = 0.0
    server.ttl_s = 100
    source = _aws(server, clock=lambda: now)
    source.look()
    now = 49.0
    source.look()
    assert sum(method == "PUT" for method, _, _ in server.asked) == 1
    now = 51.0
    source.look()
    assert sum(method == "PUT" for method, _, _ in server.asked) == 2


def test_a_token_service_that_never_gives_a_valid_one_is_trouble(server):
    server.ttl_s = 0
    with pytest.raises(Trouble, match="status 401"):
        _aws(server).look()


@pytest.mark.parametrize("off_s", [-3600, -300, 3600, 86400])
def test_a_clock_that_is_off_takes_no_notice_away(server, off_s):
    server.give_spot_notice(120)
    (notice,) = _aws(server, now=lambda: time.time() + off_s).look()
    assert notice.left_s == 120
    assert "which this machine's clock does not fit" in notice.text


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        '"terminate"',
        "{",
        '{"action": "terminate"}',
        '{"time": "2026-11-22T03:34:28Z"}',
        '{"action": "terminate", "time": 5}',
        '{"action": "terminate", "time": "soon"}',
        '{"action": "terminate", "time": "2026-11-22"}',
        '{"action": "dance", "time": "2026-11-22T03:34:28Z"}',
        '{"action": ["terminate"], "time": "2026-11-22T03:34:28Z"}',
        "<html>200 OK</html>",
    ],
)
def test_a_notice_that_is_none_is_trouble(server, body):
    server.spot = body
    with pytest.raises(Trouble):
        _aws(server).look()


@given(
    st.one_of(
        st.text(max_size=200),
        st.dictionaries(
            st.sampled_from(["action", "time", "x"]),
            st.one_of(st.text(max_size=30), st.integers(), st.none()),
        ).map(json.dumps),
    )
)
def test_no_rubbish_is_ever_a_notice(body):
    source = AwsMetadata(now=lambda: 0.0)
    try:
        notice = source._interruption(body)
    except Trouble:
        return
    said = json.loads(body)
    assert said["action"] in ("terminate", "stop", "hibernate")
    assert isinstance(notice, Notice)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("make", [_aws, _gcp], ids=["aws", "gcp"])
def test_every_fault_is_trouble_within_its_time(server, monkeypatch, fault, make):
    monkeypatch.setattr(module, "LIMIT_S", 0.5)
    server.preempted, server.fault = "TRUE", fault
    server.give_spot_notice()
    source = make(server)
    began = time.monotonic()
    with pytest.raises(Trouble) as caught:
        source.look()
    assert time.monotonic() - began < 20, "one limit for all of an answer"
    assert "\n" not in str(caught.value)
    server.fault = None
    assert source.look()


@pytest.mark.parametrize("make", [_aws, _gcp], ids=["aws", "gcp"])
def test_a_service_that_is_not_there_is_trouble(server, make):
    source = make(server)
    server.refuse()
    with pytest.raises(Trouble, match="refused"):
        source.look()
    server.return_()
    assert source.look() == []


# -- Google Cloud --------------------------------------------------------------------------------


def test_nothing_is_said_of_a_google_machine_that_stays(server):
    assert _gcp(server).look() == []
    server.maintenance = "MIGRATE_ON_HOST_MAINTENANCE"
    assert _gcp(server).look() == [], "a machine that is moved goes on"
    assert {status for _, _, status in server.asked} == {200}


def test_a_preempted_google_machine_has_thirty_seconds(server):
    server.preempted = "TRUE"
    (notice,) = _gcp(server).look()
    assert (notice.kind, notice.left_s, notice.firm) == ("preemption", 30.0, True)


def test_maintenance_that_ends_a_google_machine_is_a_notice(server):
    server.maintenance = "TERMINATE_ON_HOST_MAINTENANCE"
    (notice,) = _gcp(server).look()
    assert (notice.kind, notice.left_s) == ("maintenance", 3600.0)


def test_somebody_who_says_what_google_says_is_not_believed(server):
    server.preempted, server.proves_itself = "TRUE", False
    with pytest.raises(Trouble, match="no metadata service of Google Cloud"):
        _gcp(server).look()


@pytest.mark.parametrize("word", ["true", "", "YES", "TRUE\nFALSE", "0"])
def test_an_unknown_word_of_google_is_trouble(server, word):
    server.preempted = word
    with pytest.raises(Trouble, match="an unknown answer"):
        _gcp(server).look()


# -- a queue -------------------------------------------------------------------------------------


def test_a_wall_time_limit_is_a_notice_once_it_is_near():
    clock = 0.0
    source = WallTime(2000.0, 120.0, now=lambda: 1000.0, clock=lambda: clock)
    clock = 879.0
    assert source.look() == []
    clock = 881.0
    (notice,) = source.look()
    assert (notice.kind, notice.left_s) == ("wall-time", 119.0)
    assert notice.text == f"wall-time limit at {utc(2000.0)}"
    clock = 5000.0
    assert source.look()[0].left_s == 0.0


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://169.254.169.254", Endpoint("169.254.169.254")),
        ("http://169.254.169.254/", Endpoint("169.254.169.254")),
        ("metadata.google.internal", Endpoint("metadata.google.internal")),
        ("127.0.0.1:8080", Endpoint("127.0.0.1", 8080)),
        ("http://[fd00:ec2::254]", Endpoint("fd00:ec2::254")),
        ("http://[fd00:ec2::254]:80/x/", Endpoint("fd00:ec2::254", 80, "/x")),
    ],
)
def test_addresses(text, expected):
    assert Endpoint.parse(text) == expected
    assert Endpoint.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "http://", "https://1.2.3.4", "http://:80", "h:0", "h:99999", "h:x", "a b", "u@h"]
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match=r"no host|no port|not spoken"):
        Endpoint.parse(text)


def test_a_chunked_answer_is_put_together(server):
    from vesselflow.notices.plain_http import _parse

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert _parse(head + b"4\r\nTRUE\r\n3;x=y\r\nabc\r\n0\r\n\r\n").body == "TRUEabc"
    for cut in (b"", b"4\r\nTR", b"4\r\nTRUE\r\n", b"-1\r\n\r\n"):
        with pytest.raises(Trouble):
            _parse(head + cut)


def test_the_token_of_the_service_never_becomes_a_header_of_its_own(server, monkeypatch):
    """A token is sent back as a header: one with a line break in it would be two."""
    monkeypatch.setattr(server, "new_token", lambda asked_s: "x\r\nX-Evil: 1")
    with pytest.raises(Trouble, match="token"):
        _aws(server).look()
    assert TOKEN.startswith("X-aws")
