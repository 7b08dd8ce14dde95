# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The page itself, as a client without a browser sees it."""

import re

import pytest

from dreambooth_jax.app.queue import Queue
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions, SampleOptions

pytest.importorskip("gradio")
from dreambooth_jax.app.tabs.fields import told_by


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from starlette.testclient import TestClient

    from dreambooth_jax.app.server import app_of

    folder = tmp_path_factory.mktemp("page")
    app = app_of(AppOptions(folder=str(folder)), Queue(folder / "jobs", most=2))
    with TestClient(app, base_url="http://localhost:7860") as client:
        yield client


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7860", "", "[", "a@b"]
)
def test_a_name_that_somebody_gave_this_machine_is_refused(name, client):
    """A page of elsewhere whose name comes to mean 127.0.0.1 would else be of the same origin (DNS rebinding)."""
    for path in ("/", "/gradio_api/info", "/gradio_api/upload"):
        assert client.get(path, headers={"host": name}).status_code == 400


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860"])
def test_names_of_this_machine_are_fine(name, client):
    assert client.get("/gradio_api/info", headers={"host": name}).status_code == 200


def test_a_browser_gets_a_cookie_once(client):
    client.cookies.clear()
    given = client.get("/").headers["set-cookie"]
    assert re.match(r"dreambooth_jax=[0-9a-f]{32};.*HttpOnly; SameSite=strict", given)
    assert "set-cookie" not in client.get("/").headers


def test_programs_find_what_the_page_does(client):
    named = client.get("/gradio_api/info").json()["named_endpoints"]
    assert {
        "/train",
        "/stop",
        "/go_on",
        "/look",
        "/look_at_photos",
        "/tokens",
        "/steps",
        "/plan",
        "/stop_planning",
        "/sample",
        "/look_at_pictures",
    } <= named.keys()
    assert {"/runs", "/open_run", "/share_run", "/delete_run", "/evaluate", "/doctor", "/report"} <= named.keys()
    assert {"/export", "/download", "/wait"} <= named.keys()
    for name in ("/evaluate", "/doctor", "/export"):
        assert all(parameter["parameter_has_default"] for parameter in named[name]["parameters"])


def test_no_font_and_no_script_of_elsewhere_is_asked_for(client):
    page = client.get("/").text
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"'](https?:)?//([^\"'/]+)", page)
    assert [place for _, place in loaded if not place.startswith("localhost")] == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd"])
def test_no_file_of_the_server_is_served(path, client):
    for route in ("file=", "file/", "static/", "assets/"):
        assert client.get(f"/gradio_api/{route}{path}").status_code in (400, 403, 404, 405)


def test_jobs_of_others_are_not_served(client, tmp_path_factory):
    app = next(folder for folder in tmp_path_factory.getbasetemp().glob("page*"))
    (app / "people").mkdir(exist_ok=True)
    (app / "people" / "photo.png").write_text("x")
    assert client.get(f"/gradio_api/file={app}/people/photo.png").status_code == 403


def test_a_program_asks_for_pictures_with_as_few_words_as_it_likes(client):
    told = client.get("/gradio_api/info").json()["named_endpoints"]["/sample"]["parameters"]
    assert [one["parameter_name"] for one in told if not one["parameter_has_default"]] == []
    assert {"source", "prompt", "steps", "count", "picture", "across", "sampler", "guide", "guide_picture"} <= {
        one["parameter_name"] for one in told
    }


def test_no_field_of_numbers_is_empty(client):
    """Of an empty one the browser makes 0, and sends that: what may be left empty is a field of text."""
    numbers = [one for one in client.get("/config").json()["components"] if one["type"] == "number"]
    assert numbers
    assert [one["props"]["label"] for one in numbers if one["props"].get("value") is None] == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        *(("width", empty, None) for empty in (None, "")),
        *(("width", "72", 72), ("width", 72, 72), ("strength", "0.5", 0.5), ("eta", "0", 0), ("mask_blur", 0, 0)),
        *(("tiled", False, None), ("tiled", True, True), ("emphasis", "", None), ("negative_prompt", "7", "7")),
    ],
)
def test_fields_tell_what_stands_in_them(name, value, told):
    found = told_by(SampleOptions, name, value)
    assert (found, type(found)) == (told, type(told))


def test_a_text_that_should_be_a_number_is_refused():
    with pytest.raises(InputError, match="^width = 'wide': must be a number"):
        told_by(SampleOptions, "width", "wide")


def test_every_field_has_a_label(client):
    kinds = {"textbox", "dropdown", "slider", "number", "checkbox", "file", "imageeditor", "gallery", "image", "radio"}
    components = client.get("/config").json()["components"]
    fields = [one for one in components if one["type"] in kinds]
    assert len(fields) > 40
    assert [one for one in fields if not one["props"].get("label")] == []
