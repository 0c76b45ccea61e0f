"""What is read from HAProxy's replies, and which settings are refused."""

import pytest

from rollouts import balancers
from rollouts.adapters import NOWHERE, SettingsError
from rollouts.balancers.haproxy import HAProxy
from rollouts.balancers.haproxy_api import MAX_PATH, Address
from rollouts.balancers.haproxy_replies import (
    Counts,
    ReplyError,
    Row,
    Whole,
    read_stat,
    read_state,
    split,
    told,
)
from rollouts.facts import ServerState
from rollouts.ports import BalancerError

# As HAProxy 2.8 answers, with the columns that follow left out of `show stat`.
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 app 1 web-01 127.0.0.1 2 0 100 100 2 8 2 0 6 0 0 0 - 19001 - 0 0 - - 0
3 app 2 web-02 127.0.0.1 2 8 50 100 2 1 0 2 0 0 0 0 - 19002 - 0 0 - - 0
3 app 3 web-03 127.0.0.1 0 5 40 40 2 1 0 0 8 0 0 0 - 19003 - 0 0 - - 0

"""
STAT = """# pxname,svname,qcur,scur,stot,econ,eresp,wretr,wredis,status,hrsp_1xx,hrsp_2xx,hrsp_3xx,\
hrsp_4xx,hrsp_5xx,hrsp_other,req_tot,srv_abrt,rtime,last_chk,
app,web-01,1,2,30,0,0,0,0,UP,9,20,1,3,4,0,37,0,12,"Layer7 wrong status, ""503"" is"
app,web-02,0,0,12,0,0,0,0,DRAIN,,,,,,,,0,0,
app,web-03,0,0,0,0,0,0,0,MAINT,0,0,0,0,0,0,0,0,0,
app,BACKEND,0,2,41,0,0,0,0,UP,9,20,1,3,5,0,44,0,12,

"""


def nowhere() -> HAProxy:
    raw = {"kind": "haproxy", "addresses": ["unix:/nowhere.sock"], "backend": "app"}
    return HAProxy.from_settings(raw, NOWHERE)


def row(name: str = "web-01", port: int = 19001, **values: object) -> Row:
    fields = {
        "state": ServerState.READY,
        "up": True,
        "weight": 100,
        "configured": 100,
        "host": "127.0.0.1",
    }
    return Row(name=name, backend_id="3", port=port, **(fields | values))  # type: ignore[arg-type]


def test_servers_are_read_with_state_weight_and_check() -> None:
    """What was told (admin state) and what the check found (op state) are two things."""
    rows = read_state(STATE)
    assert rows["web-01"] == row()
    assert rows["web-02"] == row("web-02", 19002, state=ServerState.DRAIN, weight=50)
    assert rows["web-03"] == row(
        "web-03", 19003, state=ServerState.MAINT, up=False, weight=40, configured=40
    )


def test_one_server_can_be_read_alone() -> None:
    """Of a name that is a part of another's, and of one that is not there."""
    assert read_state(STATE, only="web-02")["web-02"] == read_state(STATE)["web-02"]
    assert "web-0" not in read_state(STATE, only="web-0")
    assert read_state(STATE, only="web-99") == {}


@pytest.mark.parametrize(
    ("admin", "state"),
    [
        (0, ServerState.READY),
        (1, ServerState.MAINT),
        (2, ServerState.MAINT),
        (4, ServerState.READY),
        (5, ServerState.MAINT),
        (8, ServerState.DRAIN),
        (9, ServerState.MAINT),
        (16, ServerState.DRAIN),
        (32, ServerState.MAINT),
        (64, ServerState.READY),
    ],
)
def test_the_bits_of_the_admin_state(admin: int, state: ServerState) -> None:
    """Maintenance and drain may be told, inherited or from DNS; 4 only remembers `disabled`."""
    assert read_state(STATE.replace(" 2 8 50 ", f" 2 {admin} 50 "))["web-02"].state is state


def test_counters_are_read_by_the_names_of_their_columns() -> None:
    """Answers have every status but 1xx; quotes and commas in a check's words are no column."""
    servers, whole = read_stat(STAT)
    assert servers["web-01"] == Counts(sessions=3, answers=28, errors=4, response_ms=12.0)
    assert servers["web-03"] == Counts(sessions=0, answers=0, errors=0, response_ms=None)
    assert whole == Whole(requests=44, failed=5)


def test_what_is_not_counted_is_not_known() -> None:
    """In `mode tcp` the fields are empty; an older HAProxy lacks the column, or another one."""
    servers, _ = read_stat(STAT)
    assert servers["web-02"] == Counts(sessions=0)
    servers, whole = read_stat(STAT.replace(",wredis,", ",other,"))
    assert servers["web-01"] == Counts(sessions=3)
    assert whole == Whole(requests=44, failed=5)
    servers, _ = read_stat(STAT.replace(",rtime,", ",other,"))
    assert servers["web-01"] == Counts(sessions=3, answers=28, errors=4, response_ms=None)


@pytest.mark.parametrize(
    ("columns", "answers", "errors"),
    [
        # As HAProxy 2.8.25 counted 4 requests: refused, tried again here or elsewhere.
        ({"stot": 4, "econ": 4}, 4, 4),
        ({"stot": 16, "econ": 4, "wretr": 12}, 16, 16),
        ({"stot": 4, "wredis": 4}, 4, 4),
        # Closed without an answer.
        ({"stot": 4, "eresp": 8}, 4, 4),
        ({"stot": 12, "eresp": 16, "wretr": 16}, 12, 12),
        ({"stot": 4, "eresp": 4, "wretr": 4, "wredis": 4}, 4, 4),
        # Too late, or nonsense.
        ({"stot": 4, "eresp": 4}, 4, 4),
        ({"stot": 12, "eresp": 4, "wretr": 16}, 12, 12),
        # A 500, tried again twice: the last one is the answer.
        ({"stot": 12, "hrsp_5xx": 4, "wretr": 16}, 12, 12),
        # Cut off in the body.
        ({"stot": 4, "hrsp_2xx": 4, "eresp": 4, "srv_abrt": 4}, 4, 4),
        ({"stot": 4, "hrsp_5xx": 4, "eresp": 4, "srv_abrt": 4}, 4, 4),
        # The client went away, a websocket was opened, a body took too long: nobody's fault.
        ({"stot": 9, "hrsp_2xx": 5, "hrsp_1xx": 2, "srv_abrt": 1}, 5, 0),
        # Refused on a Unix socket, which stot leaves out: half at least.
        ({"econ": 4, "wretr": 12}, 10, 10),
        # Open now: neither lost nor answered.
        ({"stot": 9, "scur": 3, "hrsp_2xx": 4, "eresp": 4}, 6, 2),
    ],
)
def test_each_try_counts_once(columns: dict[str, int], answers: int, errors: int) -> None:
    """Whatever HAProxy counts twice or three times, or under another name."""
    names = STAT.partition("\n")[0].removeprefix("# ").split(",")
    texts = {"svname": "web-01", "last_chk": ""} | {key: str(columns[key]) for key in columns}
    fields = ",".join(texts.get(name, "0") for name in names)
    servers, _ = read_stat(f"# {','.join(names)}\n{fields}\n\n")
    assert (servers["web-01"].answers, servers["web-01"].errors) == (answers, errors)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("\n", [""]),
        ("\n\n\n", ["", "", ""]),
        ("No such server.\n\n", ["No such server."]),
        ("\nNo.\n\n\nTwo\nlines.\n\n\n", ["", "No.", "", "Two lines.", ""]),
        ("\n\nNo", ["", ""]),
    ],
)
def test_each_command_of_a_line_has_its_answer(reply: str, said: list[str]) -> None:
    """An empty line is success, and ends what is said otherwise."""
    assert told(reply) == said


def test_two_commands_give_two_replies() -> None:
    """One connection answers both; each part is read on its own."""
    assert split(STATE + STAT) == (STATE, STAT)


@pytest.mark.parametrize("reply", ["Can't find backend.\n\n", "No such proxy.\n\n", "\n", ""])
def test_a_complaint_is_quoted(reply: str) -> None:
    """Whatever is not a table is what HAProxy had to say."""
    words = reply.strip() or "nothing"
    with pytest.raises(ReplyError, match=words):
        read_state(reply)
    with pytest.raises(ReplyError, match=words):
        read_stat(reply)


def test_a_row_that_lacks_columns_is_no_answer() -> None:
    """Half a row must not be read as a server without sessions."""
    with pytest.raises(ReplyError, match="cut short"):
        read_state(STATE.replace(" 40 40 2 1 0 0 8 0 0 0 - 19003 - 0 0 - - 0", ""))
    with pytest.raises(ReplyError, match="cut short"):
        read_stat(STAT.replace(",DRAIN,,,,,,,,0,0,", ""))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/haproxy.sock", Address("unix:/run/haproxy.sock", path="/run/haproxy.sock")),
        ("tcp:lb-1:9999", Address("tcp:lb-1:9999", host="lb-1", port=9999)),
        ("10.0.0.1:9999", Address("10.0.0.1:9999", host="10.0.0.1", port=9999)),
        ("tcp:[fd00::1]:1", Address("tcp:[fd00::1]:1", host="fd00::1", port=1)),
    ],
)
def test_addresses_are_paths_or_host_and_port(text: str, address: Address) -> None:
    """Each spelling that the documentation names."""
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:run/x",
        "unix:/a\nb",
        "unix:/" + "x" * MAX_PATH,
        "lb",
        "lb:",
        "lb:0",
        "lb:65536",
        "a b:1",
        "x:1\n",
        "http://lb:80",
        7,
        None,
        ["lb:1"],
    ],
)
def test_other_addresses_are_refused(text: object) -> None:
    """A socket's path that is too long fails only when it is used, so it is refused here."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "haproxy", "addresses": [text], "backend": "app"})
    assert list(refusal.value.errors) == ["addresses"]


def test_every_wrong_setting_is_named_at_once() -> None:
    """All bad, unknown and missing keys come in one refusal."""
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "haproxy", "addresses": "lb:1", "socket": "/x"})
    assert set(refusal.value.errors) == {"addresses", "backend", "socket"}
    with pytest.raises(SettingsError) as refusal:
        balancers.check({"kind": "haproxy", "addresses": ["lb:1", "lb:1"], "backend": "a"})
    assert "once" in refusal.value.errors["addresses"]
    with pytest.raises(SettingsError, match=r"must be one of: .*haproxy"):
        balancers.check({"addresses": ["lb:1"], "backend": "a"})


@pytest.mark.parametrize("name", ["app;quit", "app\n", "app web", "app/web-01", "", "a" * 129])
async def test_names_that_would_be_commands_are_refused(name: str) -> None:
    """A backend when it is saved, a server before anything is sent: nothing listens there."""
    with pytest.raises(SettingsError, match="backend: must be a name"):
        balancers.check({"kind": "haproxy", "addresses": ["lb:1"], "backend": name})
    balancer = nowhere()
    for call in (balancer.drain, balancer.ready, balancer.cut):
        with pytest.raises(BalancerError, match="can't be a server of HAProxy"):
            await call(name)
    with pytest.raises(BalancerError, match="can't be a server of HAProxy"):
        await balancer.set_weights({"web-01": 50, name: 50})


@pytest.mark.parametrize("weight", [-1, 257, 50.0, True, "50", None])
async def test_a_weight_is_a_whole_number_from_0_to_256(weight: object) -> None:
    """The message names the server; nothing is sent for the others either."""
    balancer = nowhere()
    with pytest.raises(BalancerError, match="of web-02 must be a whole number from 0 to 256, not"):
        await balancer.set_weights({"web-01": 50, "web-02": weight})  # type: ignore[dict-item]
