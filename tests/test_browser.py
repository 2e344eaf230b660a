"""The pages in a browser, opened from files without a network."""

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", [(1366, 768), (360, 740)], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report.html", "data.html"])
def test_the_pages_open_from_a_file(page, size, scheme, name):
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url.split(":")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    page.goto((ROOT / "metrics" / name).as_uri())
    page.wait_for_load_state("networkidle")
    assert set(requests) <= {"file", "data"}
    assert complaints == []
    wide, seen = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen == size[0]
    # A picture that is not in sight yet loads on its way there.
    page.evaluate("[...document.images].forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    sizes = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) > 20
    assert all(sizes)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128
    assert dark == (scheme == "dark"), ground
