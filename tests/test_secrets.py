"""What is secret in an address is neither shown nor recorded, nor in a list of processes."""

import base64
import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from scmrepo.git import Git
from urllib3.util import parse_url

from convnets.base import console
from convnets.tracking import store, sweep
from tests.commands import serving

USER, SECRET = "somebody", "s3cr3t"
ADDRESSES = {  # what is shown of each
    f"http://{USER}:p@{SECRET}@host": "http://host",
    f"http://{USER}:p@{SECRET}@host/x.zip?a={SECRET}#{SECRET}": "http://host/x.zip",
    f"HTTPS://{USER}:{SECRET}@Host:8443/x": "HTTPS://Host:8443/x",
    f"http://{USER}:{SECRET}@[::1]:80/x": "http://[::1]:80/x",
    f"http://{SECRET}@host": "http://host",
    f"http://host?{SECRET}": "http://host",
    f"http://host#{SECRET}": "http://host",
    f"http://{USER}:p%40{SECRET}%2F@host/a%20b": "http://host/a%20b",
    f"http://DOMAIN\\{USER}:{SECRET}@host/x": "http://host/x",
    f"http://{USER}:{SECRET}\\@host/x": "http://host/x",
    f"http:\\\\{USER}:{SECRET}@host\\x": "http:\\\\host\\x",
    f"http:/{USER}:{SECRET}@host/x": "http:/host/x",
    f"//{USER}:{SECRET}@host/x": "//host/x",
    f" http://{USER}:p {SECRET}@host/x": "http://host/x",
    f"http://{USER}:p/{SECRET}@host/x": "http://host/x",
    f"http://{USER}:p?{SECRET}@host/x": "http://host/x",
    f"http://{USER}:p#{SECRET}@host/x": "http://host/x",
    f"http://{USER}:p:{SECRET}@host/x": "http://host/x",
    f"http://a@b:c@{SECRET}@host/x": "http://host/x",
    f"http://{USER}:{SECRET}": "http://…",
    f"{USER}:{SECRET}@host/x": "host/x",
    f"{USER}@host:group/repository.git": "host:group/repository.git",
    f"ssh://{USER}@host:22/x.git": "ssh://host:22/x.git",
    f"s3://{USER}:a/{SECRET}+@bucket/x": "s3://bucket/x",
    f"postgresql+psycopg2://{USER}:{SECRET}@/db?host=/tmp": "postgresql+psycopg2:///db",
    f"postgresql://{USER}:{SECRET}@a:1,b:2/db": "postgresql://a:1,b:2/db",
    f"sqlite:////home/me@work/m.db?key={SECRET}": "sqlite:////home/me@work/m.db",
    "https://host/@scope/a@2x.png": "https://host/@scope/a@2x.png",
}


@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_an_address_is_shown_without_what_may_be_secret(address, shown):
    assert console.public(address) == shown
    assert console.public(shown) == shown


@pytest.mark.parametrize("address", [a for a in ADDRESSES if a.strip().lower().startswith("http:")])
def test_clients_go_to_the_host_that_is_shown(address):
    """If urllib3 takes it at all."""
    try:
        host = parse_url(address.strip()).host
    except ValueError:
        return
    if host and "\\" not in address:
        assert host in (urlsplit(console.public(address)).hostname, "[::1]", USER)


@pytest.mark.parametrize("address", [a for a in ADDRESSES if "://" in a and SECRET in a])
@pytest.mark.parametrize("text", ["{}", "fatal: '{}': no", "cannot reach {}, try again", "({})"])
def test_a_text_with_an_address(address, text, capsys):
    def fail() -> None:
        raise console.InputError(text.format(address))

    assert SECRET not in store.reason(RuntimeError(text.format(address)))
    with pytest.raises(SystemExit):
        console.run(fail)
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "/home/me@work/a?b.jpg: not a picture; why? say so",
        "C:\\Users\\me@work\\a: no such file",
        "see http://host/x, or a:b",
        "models:/convnets@champion: is not available",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert console.without_secrets(text) == text


def test_the_path_of_an_address_in_a_library_s_message():
    text = f"Max retries exceeded with url: /x.zip?token={SECRET} (Caused by Something)"
    assert store.reason(RuntimeError(text)) == text.replace(f"?token={SECRET}", "")


class Backend(BaseHTTPRequestHandler):
    """A git server that wants a password, by git's own program."""

    folder = Path()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        login = base64.b64encode(f"{USER}:p@{SECRET}".encode()).decode()
        if self.headers["Authorization"] != f"Basic {login}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=git")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": USER,
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        command = ["git", "http-backend"]
        done = subprocess.run(command, input=body, env=os.environ | variables, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - the server's name


def test_a_node_s_processes_do_not_show_the_git_address_s_password(tmp_path, monkeypatch):
    monkeypatch.setattr(Backend, "folder", tmp_path)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", origin], check=True)
    subprocess.run(["git", "-C", origin, "config", "http.receivepack", "true"], check=True)
    with serving(Backend) as address:
        given = address.replace("//", f"//{USER}:p%40{SECRET}@") + "/origin.git"
        url, variables = sweep.without_login(given, tmp_path / "askpass")
        assert url == f"{address}/origin.git"
        assert SECRET not in (tmp_path / "askpass").read_text()
        trace = tmp_path / "trace"  # each program that git starts, with its arguments
        environment = os.environ | variables | {"GIT_TRACE": str(trace), "GIT_TERMINAL_PROMPT": "0"}
        subprocess.run(["git", "clone", "--quiet", url, clone], env=environment, check=True)
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        commit = ["git", *identity, "commit", "--quiet", "--allow-empty", "-m", "empty"]
        subprocess.run(commit, cwd=clone, check=True)
        listed = ["git", "ls-remote", "origin"]
        assert not subprocess.run(
            listed, cwd=clone, env=environment, check=True, capture_output=True
        ).stdout
        for name, value in variables.items():  # as DVC pushes an experiment
            monkeypatch.setenv(name, value)
        repository = Git(str(clone))
        repository.push_refspecs("origin", "HEAD:refs/exps/test")
        repository.close()
        assert subprocess.run(
            listed, cwd=clone, env=environment, check=True, capture_output=True
        ).stdout
        # Another host does not get it.
        asked = [variables["GIT_ASKPASS"], "Password for 'http://user@elsewhere': "]
        assert subprocess.run(asked, env=environment, capture_output=True).stdout == b""
    assert "git-remote-http" in trace.read_text() or "remote-http" in trace.read_text()
    assert SECRET not in trace.read_text()
    assert SECRET not in (clone / ".git/config").read_text()


@pytest.mark.parametrize("url", ["git@host:a/b.git", "ssh://git@host/b.git", "/srv/a@b.git"])
def test_other_git_addresses_stay(url, tmp_path):
    assert sweep.without_login(url, tmp_path / "askpass") == (url, {})
    assert list(tmp_path.iterdir()) == []
