"""What a company's script may look like: `steer_haproxy.py SOCKET status|drain|... [ARGUMENT]`."""

import json
import socket
import sys

TEMPORARY_FAILURE = 75


def ask(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as plug:
        plug.connect(path)
        plug.sendall(command.encode() + b"\n")
        reply = b"".join(iter(lambda: plug.recv(65536), b""))
    return reply.decode()


def rows(reply: str) -> list[dict[str, str]]:
    header, *lines = reply.lstrip("# ").splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines if line]


def status(path: str) -> dict[str, object]:
    servers: dict[str, object] = {}
    whole: dict[str, object] = {}
    states = [line.split() for line in ask(path, "show servers state app").splitlines()[2:]]
    weights = {line[3]: line[7] for line in states if line}
    for row in rows(ask(path, "show stat app 6 -1")):
        if row["svname"] == "BACKEND":
            whole = {"requests": int(row["req_tot"]), "failed": int(row["hrsp_5xx"])}
            continue
        state = row["status"]
        answers = sum(int(row[f"hrsp_{one}xx"]) for one in "2345")
        servers[row["svname"]] = {
            "state": {"DRAIN": "drain", "MAINT": "maint"}.get(state.split()[0], "ready"),
            "up": not state.startswith("DOWN"),
            "sessions": int(row["scur"]),
            "weight": int(weights[row["svname"]]),
            "answers": answers,
            "errors": int(row["hrsp_5xx"]),
        }
    return {"servers": servers, **whole}


def main() -> None:
    path, what, *arguments = sys.argv[1:]
    try:
        if what == "status":
            print(json.dumps(status(path)))
            return
        if what == "weights":
            wanted = json.loads(arguments[0])
            command = ";".join(f"set weight app/{name} {wanted[name]}" for name in wanted)
        elif what == "cut":
            command = f"shutdown sessions server app/{arguments[0]}"
        else:
            command = f"set server app/{arguments[0]} state {what}"
        if complaint := ask(path, command).strip():
            sys.exit(complaint)
    except OSError as error:
        print(f"HAProxy can't be reached: {error}", file=sys.stderr)
        sys.exit(TEMPORARY_FAILURE)


if __name__ == "__main__":
    main()
