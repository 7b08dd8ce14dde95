# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody sends who means harm, to a page that is really served: refused, nothing lost, memory bounded."""

import http.client
import io
import json
import resource
import socket
import struct
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_jax.app.login import Login
from dreambooth_jax.app.people import COOKIE, new_token, owner_of
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.options import AppOptions

pytest.importorskip("gradio")
pytestmark = pytest.mark.filterwarnings("default")  # in a thread they would end what Gradio is at

ADA, EVE = new_token(), new_token()
SUBJECT = Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "subject" / "subject_1.png"
API = "/gradio_api"


class Page:
    """A page that is served by a thread, whose jobs wait for ever.

    Args:
        folder: of all that it writes.
        login: of whom it lets in.
    """

    def __init__(self, folder, login=None):
        import uvicorn

        from dreambooth_jax.app.server import app_of

        self._info = {}
        self.folder, self.queue = folder, Queue(folder / "jobs", most=4)
        app = app_of(AppOptions(folder=str(folder)), self.queue, login)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],), daemon=True)
        self._thread.start()

    def close(self):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(30)
        self._listening.close()

    def ask(self, method, path, body=None, *, who=EVE, **headers):
        """(status, text) of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if who:
            headers["Cookie"] = f"{COOKIE}={who}"
        if isinstance(body, dict | list):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def call(self, name, *data, who=EVE):
        """(status, what the function gives, or why not)"""
        status, begun = self.ask("POST", f"{API}/call/{name}", {"data": data}, who=who)
        if status != 200:
            return status, begun
        _, stream = self.ask("GET", f"{API}/call/{name}/{json.loads(begun)['event_id']}", who=who)
        return 200, stream

    def events(self):
        """Name -> parameters, of all that programs may ask."""
        if not self._info:
            self._info = json.loads(self.ask("GET", f"{API}/info")[1])["named_endpoints"]
        return {name[1:]: told["parameters"] for name, told in self._info.items()}

    def told_of(self, name, *first, who=EVE, **told):
        """What an event says whose arguments are the page's own but for the first ones and some others."""
        asked = self.events()[name][len(first) :]
        own = [told.get(one["parameter_name"], one.get("parameter_default") or "") for one in asked]
        return self.call(name, *first, *own, who=who)[1]

    def upload(self, content, name="a.png", *, who=EVE):
        """(status, place or why not)"""
        body = multipart([(name, content)])
        status, told = self.ask("POST", f"{API}/upload", body, who=who, Content_Type=MULTIPART)
        return status, json.loads(told)[0] if status == 200 else told

    def jobs(self):
        return [*self.queue.of(owner_of({COOKIE: ADA}, None)), *self.queue.of(owner_of({COOKIE: EVE}, None))]


MULTIPART = "multipart/form-data; boundary=xXx"


def multipart(files):
    parts = [
        f'--xXx\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + b"--xXx--\r\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("hostile"))
    yield page
    page.close()


@pytest.fixture(autouse=True)
def nothing_is_lost(page):
    """After whatever came, nobody has got a job by it, and the page does what it did."""
    before = [job.number for job in page.jobs()]
    yield
    assert [job.number for job in page.jobs()] == before
    assert page.ask("GET", "/config")[0] == 200
    assert "event: complete" in page.call("look_at_pictures", who=ADA)[1]


PLACES = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "/proc/self/environ",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("route", ["file=", "file/", "proxy=", "stream/a/b/"])
def test_no_file_of_the_server_is_served(page, route, place):
    status, text = page.ask("GET", f"{API}/{route}{place}")
    assert status in (400, 403, 404, 405)
    assert "root:" not in text
    assert "\n" not in text.strip()


def as_file(place):
    return {"path": place, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("place", [*PLACES[:3], "http://127.0.0.1:1/a.png", "\0", "/dev/zero", "."])
def test_no_file_of_the_server_is_a_photo(page, place):
    status, text = page.ask("POST", f"{API}/call/train", {"data": [[as_file(place)], "short", "dog", "sks", 1]})
    assert status in (403, 422)
    assert "root:" not in text


def test_what_another_sent_is_neither_seen_nor_used(page):
    status, place = page.upload(SUBJECT.read_bytes(), who=ADA)
    assert status == 200
    assert page.ask("GET", f"{API}/file={place}", who=ADA)[0] == 200
    assert page.ask("GET", f"{API}/file={place}")[0] == 403
    assert page.ask("GET", f"{API}/file={place}", who=None)[0] == 403
    assert page.ask("POST", f"{API}/call/train", {"data": [[as_file(place)], "x", "dog", "sks", 1]})[0] == 403
    deep = {"data": [[{"a": [{"b": as_file(place)}]}]]}
    assert page.ask("POST", f"{API}/queue/join", deep | {"session_hash": "e", "fn_index": 0})[0] == 403


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/evil.png", "/etc/evil.png", "a\nb.png", "a%00b.png", "..", "x" * 5000, "<b>.png", "CON:.png"],
)
def test_names_of_uploads_lead_nowhere(page, name):
    status, place = page.upload(b"evil", name)
    if status == 200:
        assert Path(place).resolve().is_relative_to((page.folder / "cache").resolve())
    else:
        assert status in (400, 413)
    assert not Path("/tmp/evil.png").exists()
    assert not Path("/etc/evil.png").exists()


def zip_bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}.png", bytes(5_000_000))
    return buffer.getvalue()


def picture(form, size=(8, 8), mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def png_bomb(side=30_000):
    """Of 100 kB, whose pixels would be 900 MB."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(40_000_000), 1)),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


CONTENTS = {
    "a PNG bomb": png_bomb,
    "a zip bomb": zip_bomb,
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'touch /tmp/evil.png'\ntR.",
    "a script in SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "half a TIFF": lambda: picture("TIFF")[:60],
    "a TIFF that is its own next": lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "half a GIF": lambda: picture("GIF")[:14],
    "a PDF": lambda: b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_no_photo_is_refused(page, what):
    content, before = CONTENTS[what](), memory()
    status, place = page.upload(content)
    if status == 200:
        text = page.told_of("train", [as_file(place)], noun="dog")
        assert "photo 1" in text, text
        assert str(page.folder) not in text
    assert memory() - before < 200
    assert not Path("/tmp/evil.png").exists()


def memory():
    """Most that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("length", [500_000_000, None], ids=["500 MB", "of unknown length"])
def test_what_is_too_large_is_refused_before_it_comes(page, length):
    before = memory()
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as line:
        size = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
        line.sendall(
            f"POST {API}/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {MULTIPART}\r\n{size}\r\n\r\n".encode()
        )
        assert line.recv(20).startswith(b"HTTP/1.1 413" if length else b"HTTP/1.1 411")
    assert memory() - before < 50


def test_one_file_too_large_and_too_many_are_refused(page):
    assert page.upload(bytes(21_000_000))[0] == 413
    many = multipart([("a.png", b"x")] * 1500)
    assert page.ask("POST", f"{API}/upload", many, Content_Type=MULTIPART)[0] in (400, 413)


ODD = [
    *(
        *PLACES[:3],
        "<script>alert(1)</script>",
        "a\0b",
        "\ud800",
        "\x1b[2J\r\n",
        "x" * 100_000,
        "{a|b}<lora:/etc/passwd>",
    ),
    *(float("nan"), float("inf"), -1, 10**400, 1e308, True, None, [], [[]], {}, {"path": "/etc/passwd"}),
    *(
        {"__type__": "update", "value": "x"},
        ["--config=/etc/passwd"],
        "$(touch /tmp/evil.png)",
        "=cmd()",
        "%s%n{0.__class__}",
    ),
]
"""As any argument of any event."""


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_arguments_do_no_harm(page, odd):
    """Not one names a file, ends the server, or is answered with a place of it."""
    for name, asked in page.events().items():
        if name != "wait":
            status, text = page.call(name, *([odd] * len(asked)))
            assert status in (200, 400, 403, 413, 422), f"{name}: {status} {text[:300]}"
            assert not any(said in text for said in ("root:x", "Traceback", str(page.folder))), f"{name}: {text[:300]}"
    assert not Path("/tmp/evil.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("odd", [float("nan"), -1, 10**30, "1; ls", None, [], {"path": "/etc/passwd"}], ids=repr)
def test_odd_numbers_draw_nothing(page, odd):
    """One at a time, between others that are fine."""
    numbers = [one["parameter_name"] for one in page.events()["sample"] if one["type"].get("type") == "number"]
    for name in numbers:
        text = page.told_of("sample", prompt="", **{name: odd})  # without a prompt nothing would be drawn anyway
        assert not any(said in text for said in ("root:x", "Traceback", str(page.folder))), f"{name}: {text}"


BODIES = {
    "huge": b'{"data": ["' + b"x" * 9_000_000 + b'"]}',
    "deep": b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "half": b'{"data": [',
    "no JSON": b"\x80\x04cos\nsystem\n",
    "another shape": b'[{"data": 1}]',
    "NaN": b'{"data": [NaN, Infinity]}',
    "keys again": b'{"data": [], "data": 1, "fn_index": -1, "session_hash": "../x"}',
    "surrogates": b'{"data": ["\\ud800"], "session_hash": "\\ud800"}',
    "nulls": b'{"data": null, "fn_index": null, "session_hash": null, "trigger_id": -1}',
    "another function": b'{"data": [], "fn_index": 10000, "session_hash": "x"}',
}


@pytest.mark.parametrize("body", BODIES)
def test_odd_bodies_are_refused(page, body):
    for path in ("queue/join", "call/sample", "cancel", "component_server", "reset"):
        status, text = page.ask("POST", f"{API}/{path}", BODIES[body], Content_Type="application/json")
        assert not any(said in text for said in ("Traceback", "/site-packages/")), f"{path}: {status} {text[:300]}"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_do_nothing(page, method):
    for path in ("/", f"{API}/upload", f"{API}/call/train", f"{API}/file=/etc/passwd"):
        assert page.ask(method, path)[0] in (403, 404, 405)


def test_another_site_is_refused(page):
    assert page.ask("GET", "/config", Host="evil.example")[0] == 400
    status, _ = page.ask("POST", f"{API}/call/stop", {"data": []}, Origin="http://evil.example", who=None)
    assert status in (200, 403, 422)  # without the cookie, which browsers keep from other sites, it is nobody


@pytest.mark.parametrize(
    "cookie", ["", "x", "../../people", "f" * 31, "F" * 32, f"{'0' * 32}; dreambooth_jax=x", "%00" * 11]
)
def test_cookies_that_are_none_of_ours_open_nothing(page, cookie):
    _, place = page.upload(SUBJECT.read_bytes(), who=ADA)
    assert page.ask("GET", f"{API}/file={place}", who=cookie)[0] == 403
    assert "event: complete" in page.call("look", *_own(page, "look"), who=cookie)[1]


def _own(page, name):
    return [one.get("parameter_default") for one in page.events()[name]]


def test_events_of_another_are_neither_heard_nor_cancelled(page):
    status, begun = page.ask("POST", f"{API}/call/look_at_pictures", {"data": [], "session_hash": "adas"}, who=ADA)
    assert status == 200
    event = json.loads(begun)["event_id"]
    cancelled = {"session_hash": "adas", "event_id": event, "fn_index": 0}
    assert page.ask("GET", f"{API}/queue/data?session_hash=adas")[0] == 403
    assert page.ask("GET", f"{API}/call/look_at_pictures/{event}")[0] == 403
    assert page.ask("GET", f"{API}/heartbeat/adas")[0] == 403
    assert page.ask("POST", f"{API}/cancel", cancelled)[0] == 403
    assert page.ask("POST", f"{API}/queue/join", {"data": [], "fn_index": 0, "session_hash": "adas"})[0] == 403
    assert "event: complete" in page.ask("GET", f"{API}/call/look_at_pictures/{event}", who=ADA)[1]


@pytest.mark.parametrize(
    "path",
    [
        "monitoring",
        "monitoring/summary",
        "vibe-edit",
        "vibe-code",
        "docs",
        "openapi.json",
        "token",
    ],
)
def test_what_is_none_of_the_page_is_not_there(page, path):
    status, text = page.ask("GET", f"{API}/{path}")
    assert status in (307, 403, 404, 405) or json.loads(text)
    assert "import gradio" not in text


def test_wrong_passwords(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("login"), Login("ada", "correct horse"))
    try:
        form = "application/x-www-form-urlencoded"
        for wrong in ("", "correct", "correct horse ", "Correct horse", "%00", "x" * 10_000):
            status, _ = page.ask("POST", "/login", f"username=ada&password={wrong}", Content_Type=form)
            assert status in (400, 401, 422)
        for path in ("info", "call/look/x", "file=/etc/passwd", "queue/data?session_hash=x"):
            assert page.ask("GET", f"{API}/{path}")[0] in (401, 403)
        assert page.ask("POST", f"{API}/call/look", {"data": []})[0] == 401
        assert page.ask("POST", f"{API}/upload", multipart([("a", b"x")]), Content_Type=MULTIPART)[0] == 401
        assert page.ask("POST", "/login", "username=ada&password=correct+horse", Content_Type=form)[0] == 200
    finally:
        page.close()


@pytest.mark.slow
def test_ten_thousand_requests(page):
    """One in twenty an event, from eight lines at once, while somebody else goes on with her work."""
    before = memory()

    def some(number):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=120)
        seen = set()
        for turn in range(1250):
            body = json.dumps({"data": [], "session_hash": f"{number}-{turn}"})
            if turn % 20:
                connection.request("GET", f"{API}/file=/etc/passwd")
            else:
                connection.request("POST", f"{API}/call/look_at_pictures", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            seen.add(answer.status)
        connection.close()
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(some, range(8)))
    assert seen <= {200, 403, 429, 503}
    assert memory() - before < 300
